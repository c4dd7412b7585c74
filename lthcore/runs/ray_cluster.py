"""Ray: a cluster, or a local one for the occasion, as the place of trainings. Every training is a task.

A task that dies with its worker or node is given to another one, which goes on from its last checkpoint where the nodes
share the results folder, and from its beginning where they do not: the outcome is the same. Needs Ray
(`pip install -r requirements-cluster.txt`).
"""

import os
import socket
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

import torch

from lthcore.data.datasets import DATA_SETTINGS, Data, Split, load, pick_device
from lthcore.errors import LabError, one_line
from lthcore.lottery.search import Cohort
from lthcore.plugins import extensions, take_up
from lthcore.runs.checkpoints import file_stem
from lthcore.runs.executor import Checkpointer
from lthcore.runs.provenance import hardware, hardware_of_nodes
from lthcore.runs.ray_progress import ProgressActor, ProgressClient
from lthcore.settings import Recipe
from lthcore.training.loop import Trainer
from lthcore.training.parallel import train_cohort, worker_count
from lthcore.training.state import Replicate, TrainState

RETRIES = 5  # of a task whose worker or node died
PATIENCE = 5.0  # seconds that a task waits, before it begins, to hear whether it still should
DATA_SETS = 4  # kept for experiments to come, a gigabyte at most each
SHIPPED = ("LTH_DATA", "LTH_RESULTS", "LTH_PLAIN")  # environment that tasks see too
# Environment of a Ray that is started here: without it, it takes an address of this machine that others can reach,
# whatever address it is told, and listens on all addresses. (That it lets in only who has its token is its default.)
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


@dataclass
class Reporting:
    """Called in a task after every evaluation: tells the queue's view where a training is, then goes on as before."""

    go_on: Checkpointer
    actor: object
    experiment: str
    until: float = float("inf")  # by the wall clock: each machine's monotonic one counts from its own start
    answer: object = None

    def __call__(self, key: Hashable, state: TrainState) -> bool:
        """Whether to go on training: not past the deadline, nor once the queue is asked to stop."""
        told = self.actor.report(self.experiment, file_stem(key), state.iteration)
        first = self.answer is None  # that one is waited for: a task may have had its turn after the queue was stopped
        if self.actor.is_to_stop(told if first else self.answer, PATIENCE if first else 0.0):
            self.go_on.deadline = float("-inf")
        self.answer = told
        return self.go_on(key, state)


class Cluster:
    """A Ray cluster, or a local one started for the occasion, and what a training gets of it."""

    def __init__(self, address: str | None = None, cpus: float = 1.0, gpus: float = 0.0) -> None:
        """Connect, and check that some node has what a training asks for. Raises LabError where none has.

        Without an address a local Ray is started, with as many CPUs as `worker_count` says. It listens on the loopback
        address alone, and has no dashboard.
        """
        if not address:
            os.environ.update(LOOPBACK)  # read when Ray is imported, which must not have been then
        try:
            import ray
        except ImportError:
            raise LabError(
                "queue: --engine ray needs Ray: pip install -r requirements-cluster.txt (or use --engine local)"
            ) from None
        self.ray, self.cpus, self.gpus = ray, cpus, gpus
        environment = {name: os.environ[name] for name in SHIPPED if name in os.environ} | {"OMP_NUM_THREADS": "1"}
        if not ray.is_initialized():
            try:
                ray.init(
                    address=address or "local",
                    num_cpus=None if address else worker_count(),
                    include_dashboard=None if address else False,
                    runtime_env={"env_vars": environment} if address else None,  # a local one inherits it, sooner
                    logging_level="ERROR",
                )
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise LabError(
                    f"queue: there is no Ray cluster at {address} ({one_line(error)}); "
                    "start one, or leave --address out"
                ) from None
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
            most = {kind: max((node.get(kind, 0) for node in nodes), default=0) for kind in ("CPU", "GPU")}
            self.close()
            raise LabError(
                f"queue: no node has {cpus:g} CPUs and {gpus:g} GPUs for a training (the most: {most['CPU']:g} and "
                f"{most['GPU']:g}); lower --cpus-per-run or --gpus-per-run"
            )
        self.slots = max(1, sum(_fits(node, cpus, gpus) for node in nodes))
        self.actor = ray.remote(num_cpus=0, scheduling_strategy=self._here())(ProgressActor).remote()
        self.task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=RETRIES)(_train_there)
        self.data: dict[tuple, Data] = {}
        self.stored: WeakKeyDictionary[Data, object] = WeakKeyDictionary()  # Ray's copies live as long as the data
        self.loading = threading.Lock()

    def load(self, settings: Recipe) -> Data:
        """As `data.load`, but once for all experiments that have the same data."""
        key = tuple(getattr(settings, name) for name in DATA_SETTINGS)
        with self.loading:
            if key not in self.data:
                while len(self.data) >= DATA_SETS:
                    del self.data[next(iter(self.data))]
                self.data[key] = load(settings)
            return self.data[key]

    def store(self, data: Data) -> object:
        """Where Ray's tasks find the data: every node gets one copy, that its tasks share."""
        with self.loading:
            if data not in self.stored:
                self.stored[data] = self.ray.put(_on_cpu(data).to_arrays())
            return self.stored[data]

    def stop(self) -> None:
        """Ask all trainings to save and stop, on whatever machine, at their next evaluation or the one after it."""
        self.actor.stop.remote()

    def result(self, reference: object, what: str) -> object:
        """What a task returned. Raises LabError for what a user can mend, and for a task that is lost too often."""
        errors = self.ray.exceptions
        try:
            return self.ray.get(reference)
        except errors.RayTaskError as error:
            if isinstance(error.cause, LabError):
                raise error.cause from None
            if isinstance(error.cause, (OSError, torch.OutOfMemoryError)):
                raise LabError(
                    f"queue: {what}: {one_line(error.cause)}; mend that, and give the command again"
                ) from None
            raise
        except errors.RayError as error:
            lost = f"queue: {what} was lost {RETRIES + 1} times ({one_line(error)}); give the command again"
            raise LabError(lost) from None

    def progress(self) -> tuple[dict[tuple[str, str], int], dict[str, int]]:
        """As `ProgressActor.poll`."""
        return self.ray.get(self.actor.poll.remote())

    def notebook(self, work: Callable, *arguments: object) -> object:
        """Run `work` (papermill) in a task of its own on this machine, which has the tables, and wait for it."""
        name = f"notebook {arguments[0].name}"
        task = self.ray.remote(num_cpus=0, scheduling_strategy=self._here())(work)  # a head may have no CPUs to give
        return self.result(task.options(name=name).remote(*arguments), f"the {name}")

    def _here(self) -> object:
        """On the node that `lth` runs on, which outlives the others: its end is the end of the queue."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        return NodeAffinitySchedulingStrategy(self.ray.get_runtime_context().get_node_id(), soft=False)

    def close(self) -> None:
        """Leave the cluster; a local one ends."""
        self.ray.shutdown()


class RayExecutor:
    """A cluster, for one experiment: data are loaded once for the whole queue, a training is a task."""

    def __init__(self, cluster: Cluster, experiment: str) -> None:
        """Of the experiment of this name."""
        self.cluster, self.experiment = cluster, experiment

    def load(self, settings: Recipe) -> Data:
        """The data of the settings, on this machine's device."""
        return self.cluster.load(settings)

    def train(
        self, settings: Recipe, data: Data, cohort: Cohort, go_on: Checkpointer, trainer: Trainer
    ) -> Iterator[tuple[Replicate, TrainState]]:
        """Train a cohort, a task for each of its parts. Raises LabError for a task that is lost again and again."""
        cluster, ray, waiting = self.cluster, self.cluster.ray, {}
        stored = cluster.store(data)
        for part in _parts(cohort, cluster.gpus):
            stems = [file_stem(key) for key in part]
            task = cluster.task.options(name=f"{self.experiment} {stems[0]}")
            until = time.time() + go_on.deadline - time.monotonic()
            reporting = Reporting(go_on, ProgressClient(cluster.actor), self.experiment, until)
            waiting[task.remote(extensions(), settings, stored, part, reporting, trainer)] = stems
        try:
            while waiting:
                (done,), _ = ray.wait(list(waiting), num_returns=1)
                stems = waiting.pop(done)
                cluster.actor.end.remote(self.experiment, stems)
                yield from cluster.result(done, f"training {stems[0]}").items()
        finally:
            for task in waiting:  # of an experiment that failed
                ray.cancel(task)

    def hardware(self, data: Data) -> dict | None:
        """What has trained of this experiment: processors and GPUs, on how many nodes, and trainings at once."""
        seen = self.cluster.ray.get(self.cluster.actor.hardware.remote(self.experiment))
        return {**hardware_of_nodes(seen), "slots": self.cluster.slots} if seen else None

    def metered(self, before: dict | None) -> AbstractContextManager[dict]:
        """Meters nothing more: what this machine uses is not what the nodes use."""
        return nullcontext(dict(before or {}))


def _train_there(
    carried: bytes, settings: Recipe, arrays: dict, part: Cohort, go_on: Reporting, trainer: Trainer
) -> Cohort:
    """Train a part of a cohort in a task. What it had to leave unfinished comes back without its tensors."""
    take_up(carried)
    data = _on(Data.from_arrays(arrays), settings)
    go_on.actor.trains(go_on.experiment, socket.gethostname(), hardware(data.test.images.device))
    go_on.go_on.deadline = time.monotonic() + go_on.until - time.time()
    part = {key: go_on.go_on.latest(key, state) for key, state in part.items()}  # of a worker that died before
    outcomes = {}
    for key, state in train_cohort(settings, data, part, go_on, workers=1, trainer=trainer):
        unfinished = state.iteration < settings.iterations
        outcomes[key] = TrainState(state.iteration, {}, {}, state.seed) if unfinished else state
    return outcomes


def _parts(cohort: Cohort, gpus: float) -> Iterator[Cohort]:
    """What makes a task: a training; where it has a share of a GPU, all of a trial, which train there in step."""
    if not gpus:
        yield from ({key: state} for key, state in cohort.items())
        return
    for trial in dict.fromkeys(key.trial for key in cohort):
        yield {key: state for key, state in cohort.items() if key.trial == trial}


def _fits(node: dict, cpus: float, gpus: float) -> int:
    """How many trainings a node has room for at once."""
    room = [node.get(kind, 0) // share for kind, share in (("CPU", cpus), ("GPU", gpus)) if share]
    return int(min(room, default=1))


def _on_cpu(data: Data) -> Data:
    return _moved(data, "cpu")


def _on(data: Data, settings: Recipe) -> Data:
    return _moved(data, pick_device(settings.device))


def _moved(data: Data, device: object) -> Data:
    parts = {n: Split(s.images.to(device), s.labels.to(device)) for n, s in data.splits.items()}
    return replace(data, **parts)
