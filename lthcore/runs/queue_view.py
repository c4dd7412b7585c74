"""Display of the queue's progress: a live table on a terminal, printed lines elsewhere."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from lthcore.runs.plan import duration


@contextmanager
def queue_view() -> Iterator[Callable[[list[dict]], None]]:
    """Yield a function that shows the rows of the queue, as a live table on a terminal with rich installed.

    Elsewhere it prints a line when the state of an experiment or its number of complete training runs has changed.
    """
    if sys.stdout.isatty() and find_spec("rich") and not os.environ.get("LTH_PLAIN"):
        from rich.live import Live

        with Live(refresh_per_second=2) as live:
            yield lambda rows: live.update(_queue_table(rows))
        return
    seen: dict[str, tuple] = {}

    def show(rows: list[dict]) -> None:
        for row in rows:
            state = row["state"], row["done"]
            if seen.get(row["experiment"]) != state and row["state"] != "waiting":
                eta = f", {row['its/s']} its/s, about {duration(row['eta'])} left" if row["eta"] else ""
                print(f"{row['experiment']}: {row['state']}, {row['done']} of {row['of']}{eta}", flush=True)
            seen[row["experiment"]] = state

    yield show


def _queue_table(rows: list[dict]):
    """Return the queue as a rich table: running experiments first, then waiting ones, then those that have ended."""
    from rich.table import Table

    table = Table("experiment", "", "trainings", "in progress", "its/s", "left", box=None, header_style="bold")
    order = sorted(rows, key=lambda row: ("running", "waiting", "stopped", "failed", "done").index(row["state"]))
    for row in order[:30]:
        table.add_row(
            row["experiment"], row["state"], f"{row['done']} of {row['of']}", row["now"], str(row["its/s"] or ""),
            duration(row["eta"]) if row["eta"] else "",
        )  # fmt: skip
    if len(order) > 30:
        table.add_row(f"and {len(order) - 30} more")
    return table
