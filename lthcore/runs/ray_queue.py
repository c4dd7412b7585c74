"""The queue on Ray, on one machine or many: experiments beside each other, their tables written where `lth` runs."""

import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lthcore.errors import LabError, TimeLimit, one_line
from lthcore.lottery.methods import planned
from lthcore.paths import folder_of, results_root
from lthcore.runs.archives import mirror
from lthcore.runs.experiments import Experiment
from lthcore.runs.ray_cluster import Cluster, RayExecutor
from lthcore.runs.runner import run
from lthcore.runs.status import status_of

EVERY = 1.0  # seconds between looks at the progress
PREFETCH = 1  # experiments begun beyond the room for trainings: one prunes and writes while another's trainings go on


def run_queue(
    experiments: list[Experiment],
    root: Path,
    cluster: Cluster,
    time_limit: float = float("inf"),
    show: Callable[[list[dict]], None] = lambda rows: None,
    mirror_to: str | None = None,
    notebook: Callable[[Experiment, Path], Path] | None = None,
    afterwards: Callable[[Path], None] = lambda folder: None,
) -> dict[str, LabError]:
    """Run what is not done of these experiments, one more at once than the cluster has room for trainings.

    `show` is called every second with a row for each experiment, `afterwards` with the folder of one that is complete,
    before its notebook is executed. Returns the errors of those that could not run. Raises
    TimeLimit after `time_limit` seconds or at SIGTERM, everything so far saved; at Ctrl-C too all is saved.
    """
    deadline, failures, late, stop = time.monotonic() + time_limit, {}, threading.Event(), threading.Event()
    root = root.resolve()  # tasks have working directories of their own
    todo = _by_name(experiments)
    states = dict.fromkeys(todo, "waiting")

    def one(experiment: Experiment) -> None:
        folder = folder_of(experiment.name, root)
        if stop.is_set() or time.monotonic() >= deadline:
            late.set()
            return
        states[experiment.name] = "running"
        try:
            left, executor = deadline - time.monotonic(), RayExecutor(cluster, experiment.name)
            run(experiment.settings, folder, left, quiet=True, executor=executor)
            afterwards(folder)
            if notebook is not None:
                cluster.notebook(notebook, experiment, folder)
            states[experiment.name] = "done"
        except TimeLimit:
            late.set()
            states[experiment.name] = "stopped"
        except (LabError, OSError) as error:
            failures[experiment.name] = error
            states[experiment.name] = "failed"
        except Exception as error:  # what nobody foresaw of one experiment must not end the others
            failures[experiment.name] = LabError(f"unexpected {type(error).__name__}: {one_line(error)}")
            states[experiment.name] = "failed"
        except BaseException:
            states[experiment.name] = "failed"
            raise
        finally:
            if mirror_to:
                try:
                    mirror(folder, root, mirror_to)
                except LabError as error:
                    failures.setdefault(experiment.name, error)

    def end_all(*_: object) -> None:
        """Ask those that run to save and end, and start no more."""
        stop.set()
        cluster.stop()

    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, end_all) if main else None  # Ray's own would end this process at once
    try:
        with ThreadPoolExecutor(max_workers=max(1, min(len(todo), cluster.slots + PREFETCH))) as pool:
            futures = [pool.submit(one, experiment) for experiment in todo.values()]
            try:
                watch = QueueStatus(list(todo.values()), cluster)
                while not all(future.done() for future in futures):
                    time.sleep(EVERY)
                    show(watch.rows(states))
                show(watch.rows(states))
            except BaseException:  # Ctrl-C, or a view that fails: the pool waits for those that run
                end_all()
                raise
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)
    for future in futures:
        future.result()  # what nobody foresaw
    if late.is_set():
        raise TimeLimit(f"{'asked to stop' if stop.is_set() else 'time limit reached'}; the same command goes on")
    return failures


class QueueStatus:
    """The progress of a whole queue: a row for each experiment."""

    def __init__(self, experiments: list[Experiment], cluster: Cluster) -> None:
        """Of these, from now on."""
        self.experiments, self.cluster = experiments, cluster
        self.began: dict[str, float] = {}
        self.total = {e.name: len(planned(e.settings)) for e in experiments}
        self.written = {e.name: _written(e) for e in experiments}
        self.done = {e.name: len(status_of(e).done) for e in experiments}

    def rows(self, states: dict[str, str]) -> list[dict]:
        """Experiment, trainings done and in progress, steps a second since it began, and seconds left at that."""
        at, steps = self.cluster.progress()
        rows = []
        for experiment in self.experiments:
            name, state = experiment.name, states[experiment.name]
            if (written := _written(experiment)) != self.written[name]:
                self.written[name], self.done[name] = written, len(status_of(experiment).done)
            now = {stem: i for (of, stem), i in at.items() if of == name} if state == "running" else {}
            began = self.began.setdefault(name, time.monotonic()) if state == "running" else time.monotonic()
            seconds = time.monotonic() - began
            rate = steps.get(name, 0) / seconds if seconds > EVERY / 2 else 0.0
            left = (self.total[name] - self.done[name]) * experiment.settings.iterations - sum(now.values())
            rows.append({
                "experiment": name, "state": state, "done": self.done[name], "of": self.total[name],
                "now": ", ".join(sorted(now)[:3]) + (" ..." if len(now) > 3 else ""),
                "its/s": round(rate), "eta": left / rate if rate else 0.0,
            })  # fmt: skip
        return rows


def _by_name(experiments: list[Experiment]) -> dict[str, Experiment]:
    """Each experiment once: where the queue has it several times, the last, which is the whole; if not done."""
    whole = {e.name: e for e in experiments}
    return {n: e for n, e in whole.items() if set(planned(e.settings)) - status_of(e).done}


def _written(experiment: Experiment) -> tuple[int, int] | None:
    """When an experiment's table was last written, and its size, for clocks that are coarse; None without a table."""
    table = results_root() / experiment.name / "rounds.csv"
    return (table.stat().st_mtime_ns, table.stat().st_size) if table.exists() else None
