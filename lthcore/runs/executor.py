"""Executors, which load the data of a run and train its networks; and the Checkpointer, which saves their states."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from lthcore import masks
from lthcore.arms import arm_of
from lthcore.data.datasets import Data, load
from lthcore.lottery.search import Cohort
from lthcore.recipe import Recipe
from lthcore.runs.checkpoints import load_state, save_state, state_path
from lthcore.runs.energy import metered
from lthcore.runs.experiments import STOP
from lthcore.runs.progress import Report
from lthcore.runs.provenance import hardware
from lthcore.training.loop import Trainer
from lthcore.training.parallel import train_cohort
from lthcore.training.state import Replicate, TrainState


@dataclass
class Checkpointer:
    """Callback in the worker, called before training and after every evaluation.

    It saves the state at intervals, and stops the training run at the deadline or if there is a stop file.
    """

    folder: Path
    settings: Recipe
    deadline: float = float("inf")
    every: float = 20.0  # seconds between saves: a save takes about 0.01 s for LeNet, far less than 1% of the time
    saved: dict[Replicate, float] = field(default_factory=dict)
    report: Report | None = None

    def __call__(self, replicate: Replicate, state: TrainState) -> bool:
        """Save the state if it is time to; return whether to continue training."""
        if self.report is not None:
            self.report(replicate, state)
        now = time.monotonic()
        due = now - self.saved.setdefault(replicate, now) >= self.every
        late = now >= self.deadline or any((above / STOP).is_file() for above in list(self.folder.parents)[:2])
        if state.curve and state.iteration < self.settings.iterations and (late or due):
            save_state(state_path(self.folder, replicate), self.settings, replicate, state)
            self.saved[replicate] = now
        return not late

    def latest(self, replicate: Replicate, state: TrainState) -> TrainState:
        """Return the checkpoint of a training run whose worker died, or else `state`, which it started from."""
        path = state_path(self.folder, replicate)
        if not path.exists():
            return state
        saved, _, key = load_state(path)
        same = key == self.settings.key and saved.seed == state.seed
        same = same and (arm_of(replicate.arm).masks == "training" or masks.equal(saved.mask, state.mask))
        return saved if same and saved.iteration < self.settings.iterations else state


class Executor(Protocol):
    """Where a run loads its data and trains: on this machine (LocalExecutor) or on a cluster (runs/ray_cluster.py)."""

    def load(self, settings: Recipe) -> Data:
        """Return the data set of the settings, on the device set there."""

    def train(
        self, settings: Recipe, data: Data, cohort: Cohort, go_on: Checkpointer, trainer: Trainer
    ) -> Iterator[tuple[Replicate, TrainState]]:
        """Train a cohort; yield the replicate and state of each training run as it ends."""

    def hardware(self, data: Data) -> dict | None:
        """Return the hardware that trained on these data (cpu, cores, gpu, ...), or None if nothing was trained."""

    def metered(self, before: dict | None) -> AbstractContextManager[dict]:
        """Return a context manager that meters energy use and adds it to `before` (lthcore/runs/energy.py)."""


class LocalExecutor:
    """Executor that trains on this machine, with all cores of its CPU or with its GPU."""

    def load(self, settings: Recipe) -> Data:
        """Return the data set of the settings, on their device."""
        return load(settings)

    def train(
        self, settings: Recipe, data: Data, cohort: Cohort, go_on: Checkpointer, trainer: Trainer
    ) -> Iterator[tuple[Replicate, TrainState]]:
        """Train a cohort; yield the replicate and state of each training run as it ends."""
        yield from train_cohort(settings, data, cohort, go_on, trainer=trainer)

    def hardware(self, data: Data) -> dict | None:
        """Return the hardware of this machine: cpu, instruction sets, cores, and gpu if the data are on one."""
        return hardware(data.test.images.device)

    def metered(self, before: dict | None) -> AbstractContextManager[dict]:
        """Return a context manager that meters energy use and adds it to `before` (lthcore/runs/energy.py)."""
        return metered(before)
