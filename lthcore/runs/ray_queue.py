"""The queue on Ray, on one machine or many. Experiments run concurrently; `lth` writes their tables where it runs."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from lthcore.errors import LabError, TimeLimit, one_line, unexpected
from lthcore.paths import folder_of, results_root
from lthcore.runs.archives import mirror
from lthcore.runs.experiments import Experiment
from lthcore.runs.ray_cluster import Cluster, RayExecutor
from lthcore.runs.runner import run
from lthcore.runs.status import status_of

EVERY = 1.0  # seconds between updates of the progress
PREFETCH = 1  # experiments started beyond the slots of the cluster: one prunes and writes tables while others train


def run_queue(
    experiments: list[Experiment],
    cluster: Cluster,
    time_limit: float = float("inf"),
    show: Callable[[list[dict]], None] = lambda rows: None,
    mirror_to: str | None = None,
    notebook: Callable[[Experiment, Path], Path] | None = None,
    afterwards: Callable[[Path, float], None] = lambda folder, seconds: None,
    is_done: Callable[[Experiment], bool] = lambda experiment: not status_of(experiment).missing,
) -> dict[str, LabError]:
    """Run the experiments that are not done, at most PREFETCH more at once than the cluster has slots for tasks.

    `show` is called every second with a row for each experiment. `afterwards` is called with the folder of each
    complete experiment and the seconds left, before `notebook` executes its notebook. Tables are copied to the URL
    `mirror_to`. Returns the errors of experiments that failed, by name. Raises TimeLimit after `time_limit` seconds or
    on SIGTERM; everything so far is saved then, and also on Ctrl-C.
    """
    todo, damaged = _unfinished(experiments, is_done)
    queue = _Queue(list(todo), cluster, time_limit)
    queue.failures |= damaged
    beside = max(1, min(len(todo), cluster.slots + PREFETCH))
    with queue.ended_by_sigterm(), ThreadPoolExecutor(beside) as pool:
        futures = [pool.submit(queue.run, e, afterwards, notebook, mirror_to) for e in todo.values()]
        try:
            watch = QueueStatus(list(todo.values()), cluster)
            while not all(future.done() for future in futures):
                time.sleep(EVERY)
                show(watch.rows(queue.states))
            show(watch.rows(queue.states))
        except BaseException:  # Ctrl-C, or `show` failed: the pool waits until the running experiments have ended
            queue.end()
            raise
    for future in futures:
        future.result()  # raises unexpected errors
    queue.check_complete()
    return queue.failures


class _Queue:
    """What the threads of a queue do and share: the state of each experiment, the errors, and when to end."""

    def __init__(self, names: list[str], cluster: Cluster, time_limit: float) -> None:
        self.states = dict.fromkeys(names, "waiting")
        self.failures: dict[str, LabError] = {}
        self.root = results_root().resolve()  # tasks have working directories of their own
        self.cluster, self.deadline = cluster, time.monotonic() + time_limit
        self.stop, self.late = threading.Event(), threading.Event()

    def run(
        self,
        experiment: Experiment,
        afterwards: Callable[[Path, float], None],
        notebook: Callable[[Experiment, Path], Path] | None,
        mirror_to: str | None,
    ) -> None:
        """Run an experiment as `run_queue` says, unless the queue has ended, and record how the experiment ended."""
        if not self.is_open():
            return
        name, folder = experiment.name, folder_of(experiment.name, self.root)
        with self.recorded(name):
            executor = RayExecutor(self.cluster, name)
            run(experiment.settings, folder, self.deadline - time.monotonic(), quiet=True, executor=executor)
            afterwards(folder, self.deadline - time.monotonic())
            if notebook is not None:
                self.cluster.notebook(notebook, experiment, folder)
        if mirror_to:
            try:
                mirror(folder, self.root, mirror_to)
            except LabError as error:
                self.failures.setdefault(name, error)

    def is_open(self) -> bool:
        """Return whether another experiment may start. If not, set `late`, since the queue then ends incomplete."""
        if self.stop.is_set() or time.monotonic() >= self.deadline:
            self.late.set()
            return False
        return True

    @contextmanager
    def recorded(self, name: str) -> Iterator[None]:
        """Return a context that records the state of an experiment, and its error instead of raising it."""
        self.states[name], state = "running", "failed"
        try:
            yield
            state = "done"
        except TimeLimit:
            self.late.set()
            state = "stopped"
        except (LabError, OSError) as error:
            self.failures[name] = error
        except Exception as error:  # an unexpected error of one experiment must not end the others
            self.failures[name] = LabError(unexpected(error))
        finally:
            self.states[name] = state

    def check_complete(self) -> None:
        """Raise TimeLimit if experiments were stopped, or not started, because the time was over or on request."""
        if self.late.is_set():
            why = "asked to stop" if self.stop.is_set() else "time limit reached"
            failed = "".join(f"; {name} failed: {one_line(error)}" for name, error in self.failures.items())
            raise TimeLimit(f"{why}; run the same command again to resume{failed}")

    def end(self, *_: object) -> None:
        """Ask the running experiments to save and end, and let no others start."""
        self.stop.set()
        self.cluster.stop()

    @contextmanager
    def ended_by_sigterm(self) -> Iterator[None]:
        """End the queue cleanly on SIGTERM. Ray's own handler would end this process at once."""
        if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
            yield
            return
        before = signal.signal(signal.SIGTERM, self.end)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)


class QueueStatus:
    """Progress of a whole queue, with a row for each experiment."""

    def __init__(self, experiments: list[Experiment], cluster: Cluster) -> None:
        """Start tracking these experiments."""
        self.experiments, self.cluster = experiments, cluster
        self.began: dict[str, float] = {}
        self.written = {e.name: _written(e) for e in experiments}
        self.found = {e.name: status_of(e) for e in experiments}

    def rows(self, states: dict[str, str]) -> list[dict]:
        """Return a row for each experiment, given the state of each.

        A row has the training runs that are complete and in progress, the steps per second since the experiment
        started, and the seconds left at this rate (0 if it is unknown).
        """
        at, steps = self.cluster.progress()
        rows = []
        for experiment in self.experiments:
            name, state = experiment.name, states[experiment.name]
            if (written := _written(experiment)) != self.written[name]:
                self.written[name], self.found[name] = written, status_of(experiment)
            done, missing = len(self.found[name].done), len(self.found[name].missing)
            now = {stem: i for (of, stem), i in at.items() if of == name} if state == "running" else {}
            began = self.began.setdefault(name, time.monotonic()) if state == "running" else time.monotonic()
            seconds = time.monotonic() - began
            rate = steps.get(name, 0) / seconds if seconds > EVERY / 2 else 0.0
            left = missing * experiment.settings.iterations - sum(now.values())
            rows.append({
                "experiment": name, "state": state, "done": done, "of": done + missing,
                "now": ", ".join(sorted(now)[:3]) + (" ..." if len(now) > 3 else ""),
                "its/s": round(rate), "eta": left / rate if rate else 0.0,
            })  # fmt: skip
        return rows


def _unfinished(
    experiments: list[Experiment], is_done: Callable[[Experiment], bool]
) -> tuple[dict[str, Experiment], dict[str, LabError]]:
    """Return the unfinished experiments by name, and the errors of those whose record or tables are damaged.

    If the queue has an experiment several times, its last entry counts, which asks for the whole of it.
    """
    todo, damaged = {}, {}
    for experiment in {e.name: e for e in experiments}.values():
        try:
            if not is_done(experiment):
                todo[experiment.name] = experiment
        except LabError as error:
            damaged[experiment.name] = error
    return todo, damaged


def _written(experiment: Experiment) -> tuple[int, int] | None:
    """Return when an experiment's table was last written and its size, or None without a table.

    The size shows a change even if the clock of the file system is coarse.
    """
    table = results_root() / experiment.name / "rounds.csv"
    return (table.stat().st_mtime_ns, table.stat().st_size) if table.exists() else None
