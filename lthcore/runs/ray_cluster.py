"""Training on a Ray cluster, or on a local Ray that is started for the queue. Ray tasks do the training.

A task is a single training run or, on GPUs, all training runs of a trial. If its worker or node dies, the task is
repeated on another one. It resumes from the last checkpoint if the nodes share the results folder, and starts from the
beginning if they do not; the outcome is the same. Needs Ray (`pip install -r requirements-cluster.txt`).
"""

import os
import re
import socket
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch

from lthcore.data.datasets import DATA_SETTINGS, Data, load, pick_device
from lthcore.errors import LabError, one_line
from lthcore.lottery.search import Cohort
from lthcore.plugins import extensions, register_received
from lthcore.recipe import Recipe
from lthcore.runs.checkpoints import file_stem
from lthcore.runs.executor import Checkpointer
from lthcore.runs.provenance import hardware, hardware_of_nodes
from lthcore.runs.ray_progress import ProgressActor, ProgressClient
from lthcore.training.loop import Trainer
from lthcore.training.parallel import train_cohort, worker_count
from lthcore.training.state import Replicate, TrainState

RETRIES = 5  # restarts of a task whose worker or node died
CONNECT = 10.0  # seconds to wait for a cluster to answer
PATIENCE = 5.0  # seconds that a task waits before training, for the answer whether to stop
DATA_SETS = 4  # data sets kept in memory for later experiments, at most a gigabyte each
SHIPPED = ("LTH_DATA", "LTH_RESULTS", "LTH_PLAIN")  # environment variables that are passed on to tasks
# Environment of a Ray that is started here. Without it, Ray uses an address of this machine that others can reach,
# whatever address it is given, and listens on all addresses. (By default, Ray admits only clients that have its token.)
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


@dataclass
class Reporting:
    """Callback of a training task: reports the iteration to the queue at every evaluation, then asks `checkpointer`."""

    checkpointer: Checkpointer
    actor: object
    experiment: str
    until: float = float("inf")  # wall-clock time: monotonic clocks differ between machines
    answer: object = None

    def __call__(self, key: Hashable, state: TrainState) -> bool:
        """Return whether to continue training: False after the deadline, or once the queue has been asked to stop."""
        told = self.actor.report(self.experiment, file_stem(key), state.iteration)
        first = self.answer is None  # wait for the first answer: the task may have started after the queue stopped
        if self.actor.is_to_stop(told if first else self.answer, PATIENCE if first else 0.0):
            self.checkpointer.deadline = float("-inf")
        self.answer = told
        return self.checkpointer(key, state)


class Cluster:
    """A Ray cluster, or a local Ray started for the queue, and the share of it that each training task gets."""

    def __init__(self, address: str | None = None, cpus: float = 1.0, gpus: float = 0.0) -> None:
        """Connect to Ray and check that some node has the CPUs and GPUs of a training task.

        Without an address, a local Ray with `worker_count()` CPUs is started. It listens on the loopback address only
        and has no dashboard. Raises LabError if Ray is not installed, if there is no cluster at the address, or if no
        node has enough CPUs and GPUs.
        """
        if not address:
            os.environ.update(LOOPBACK)  # Ray reads it when imported, so it must be set before the import
        try:
            import ray
        except ImportError:
            raise LabError(
                "queue: --engine ray needs Ray: pip install -r requirements-cluster.txt (or use --engine local)"
            ) from None
        self.ray, self.cpus, self.gpus = ray, cpus, gpus
        if not ray.is_initialized():
            self._connect(address)
        self.slots = self._count_slots()
        self.actor = ray.remote(num_cpus=0, scheduling_strategy=self._here())(ProgressActor).remote()
        self.task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=RETRIES)(_train_there)
        self.data: dict[tuple, Data] = {}
        self.stored: WeakKeyDictionary[Data, object] = WeakKeyDictionary()  # Ray's copies are freed with the data
        self.loading = threading.Lock()

    def _connect(self, address: str | None) -> None:
        """Connect to the Ray at `address`, or start one. Raises LabError if that fails."""
        environment = {name: os.environ[name] for name in SHIPPED if name in os.environ} | {"OMP_NUM_THREADS": "1"}
        _check_reachable(address)
        try:
            self.ray.init(
                address=address or "local",
                num_cpus=None if address else worker_count(),
                include_dashboard=None if address else False,
                runtime_env={"env_vars": environment} if address else None,  # a local Ray inherits it, faster
                logging_level="ERROR",
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            if not address:
                raise LabError(f"queue: Ray does not start here ({one_line(error)}); take --engine local") from None
            raise _no_cluster(address, error) from None

    def _count_slots(self) -> int:
        """Return how many training tasks run at once. Disconnects and raises LabError if no node is large enough."""
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        if not any(node.get("CPU", 0) >= self.cpus and node.get("GPU", 0) >= self.gpus for node in nodes):
            most = {kind: max((node.get(kind, 0) for node in nodes), default=0) for kind in ("CPU", "GPU")}
            self.close()
            raise LabError(
                f"queue: no node has {self.cpus:g} CPUs and {self.gpus:g} GPUs for a training (the most: "
                f"{most['CPU']:g} and {most['GPU']:g}); lower --cpus-per-run or --gpus-per-run"
            )
        return max(1, sum(_fits(node, self.cpus, self.gpus) for node in nodes))

    def load(self, settings: Recipe) -> Data:
        """Like `lthcore.data.datasets.load`, but keeps DATA_SETS data sets in memory for later experiments."""
        key = tuple(getattr(settings, name) for name in DATA_SETTINGS)
        with self.loading:
            if key not in self.data:
                while len(self.data) >= DATA_SETS:
                    del self.data[next(iter(self.data))]
                self.data[key] = load(settings)
            return self.data[key]

    def store(self, data: Data) -> object:
        """Put the data into Ray's object store and return a reference. The tasks of a node share one copy."""
        with self.loading:
            if data not in self.stored:
                self.stored[data] = self.ray.put(data.to("cpu").to_arrays())
            return self.stored[data]

    def stop(self) -> None:
        """Ask all training runs on all machines to save and stop, at their next evaluation or the one after it."""
        self.actor.stop.remote()

    def result(self, reference: object, what: str) -> object:
        """Return the result of a task. Raises LabError for errors a user can fix, and for a task lost too often."""
        errors = self.ray.exceptions
        try:
            return self.ray.get(reference)
        except errors.RayTaskError as error:
            if isinstance(error.cause, LabError):
                raise error.cause from None
            if isinstance(error.cause, (OSError, torch.OutOfMemoryError)):
                raise LabError(
                    f"queue: {what}: {one_line(error.cause)}; mend that, and run the command again"
                ) from None
            raise
        except errors.RayError as error:
            lost = f"queue: {what} was lost {RETRIES + 1} times ({one_line(error)}); run the command again"
            raise LabError(lost) from None

    def progress(self) -> tuple[dict[tuple[str, str], int], dict[str, int]]:
        """Return the progress of all experiments, as `ProgressActor.poll` does."""
        return self.ray.get(self.actor.poll.remote())

    def notebook(self, work: Callable, *arguments: object) -> object:
        """Run `work` (papermill) in a separate task on this machine, which has the tables, and return its result."""
        name = f"notebook {arguments[0].name}"
        task = self.ray.remote(num_cpus=0, scheduling_strategy=self._here())(work)  # a head node may offer no CPUs
        return self.result(task.options(name=name).remote(*arguments), f"the {name}")

    def _here(self) -> object:
        """Return the scheduling strategy that places a task on the node on which `lth` runs.

        Other nodes may be lost while the queue runs; if this one is lost, the queue ends anyway.
        """
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        return NodeAffinitySchedulingStrategy(self.ray.get_runtime_context().get_node_id(), soft=False)

    def close(self) -> None:
        """Disconnect from the cluster. A local Ray is shut down."""
        self.ray.shutdown()


class RayExecutor:
    """Executor that trains one experiment on a cluster. Data are loaded once for all experiments that share them."""

    def __init__(self, cluster: Cluster, experiment: str) -> None:
        """Train the experiment of this name on the cluster."""
        self.cluster, self.experiment = cluster, experiment

    def load(self, settings: Recipe) -> Data:
        """Return the data of the settings, on this machine's device."""
        return self.cluster.load(settings)

    def train(
        self, settings: Recipe, data: Data, cohort: Cohort, go_on: Checkpointer, trainer: Trainer
    ) -> Iterator[tuple[Replicate, TrainState]]:
        """Train a cohort, with a task for each of its `_parts`; yield each training run as its task ends.

        Raises LabError for a task that is lost too often.
        """
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
            for task in waiting:  # the experiment failed: cancel its remaining tasks
                ray.cancel(task)

    def hardware(self, data: Data) -> dict | None:
        """Return the hardware that has trained this experiment (CPUs, GPUs, nodes, task slots), None if none has."""
        seen = self.cluster.ray.get(self.cluster.actor.hardware.remote(self.experiment))
        return {**hardware_of_nodes(seen), "slots": self.cluster.slots} if seen else None

    def metered(self, before: dict | None) -> AbstractContextManager[dict]:
        """Return a context that adds nothing to the energy `before`: a meter here does not measure the nodes."""
        return nullcontext(dict(before or {}))


def _check_reachable(address: str | None) -> None:
    """Raise LabError if nothing listens at an address `host:port`: Ray itself would try for many minutes."""
    found = re.fullmatch(r"(?:ray://)?([^:/]+):(\d+)", address or "")
    if found:
        try:
            socket.create_connection((found[1], int(found[2])), timeout=CONNECT).close()
        except (OSError, ValueError, OverflowError) as error:  # the last two for what can be no host's name, or no port
            raise _no_cluster(address, error) from None


def _no_cluster(address: str, error: Exception) -> LabError:
    return LabError(
        f"queue: there is no Ray cluster at {address} ({one_line(error)}); start one, or leave --address out"
    )


def _train_there(
    carried: bytes, settings: Recipe, arrays: dict, part: Cohort, reporting: Reporting, trainer: Trainer
) -> Cohort:
    """Train a part of a cohort in a task. Training runs that were stopped early are returned without their tensors."""
    register_received(carried)
    data = Data.from_arrays(arrays).to(pick_device(settings.device))
    reporting.actor.trains(reporting.experiment, socket.gethostname(), hardware(data.test.images.device))
    reporting.checkpointer.deadline = time.monotonic() + reporting.until - time.time()
    part = {key: reporting.checkpointer.latest(key, state) for key, state in part.items()}  # resume after a worker died
    outcomes = {}
    for key, state in train_cohort(settings, data, part, reporting, workers=1, trainer=trainer):
        unfinished = state.iteration < settings.iterations
        outcomes[key] = TrainState(state.iteration, {}, {}, state.seed) if unfinished else state
    return outcomes


def _parts(cohort: Cohort, gpus: float) -> Iterator[Cohort]:
    """Split a cohort into tasks: one for each training run or, on GPUs, for each trial, to train its runs in step."""
    if not gpus:
        yield from ({key: state} for key, state in cohort.items())
        return
    for trial in dict.fromkeys(key.trial for key in cohort):
        yield {key: state for key, state in cohort.items() if key.trial == trial}


def _fits(node: dict, cpus: float, gpus: float) -> int:
    """Return how many training tasks a node can run at once."""
    room = [node.get(kind, 0) // share for kind, share in (("CPU", cpus), ("GPU", gpus)) if share]
    return int(min(room, default=1))
