"""The queue as it is watched: a table that is kept up to date on a terminal, a line a training elsewhere."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from lthcore.runs.plan import duration


@contextmanager
def queue_view() -> Iterator[Callable[[list[dict]], None]]:
    """A table of the queue that is kept up to date on a terminal; elsewhere a line for each training that is done."""
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
    """The queue as a table of rich: what runs first, then what waits, then what has ended."""
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
