"""Executors: where a run's data and trainings are; and the Checkpointer, which saves trainings as they go."""

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
from lthcore.runs.checkpoints import file_stem, load_state, save_state
from lthcore.runs.energy import metered
from lthcore.runs.experiments import STOP
from lthcore.runs.progress import Report
from lthcore.runs.provenance import hardware
from lthcore.settings import Recipe
from lthcore.training.loop import Trainer
from lthcore.training.parallel import train_cohort
from lthcore.training.state import Replicate, TrainState


@dataclass
class Checkpointer:
    """Called in the worker after every evaluation: saves the state now and then, and stops it at the deadline."""

    folder: Path
    settings: Recipe
    deadline: float = float("inf")
    every: float = 20.0  # seconds: a save takes about 0.01 s for LeNet, so it costs far below 1 %
    saved: dict[Replicate, float] = field(default_factory=dict)
    report: Report | None = None

    def __call__(self, replicate: Replicate, state: TrainState) -> bool:
        """Whether to go on training."""
        if self.report is not None:
            self.report(replicate, state)
        now = time.monotonic()
        due = now - self.saved.setdefault(replicate, now) >= self.every
        late = now >= self.deadline or any((above / STOP).is_file() for above in list(self.folder.parents)[:2])
        if state.curve and state.iteration < self.settings.iterations and (late or due):
            save_state(self.folder / f"{file_stem(replicate)}.safetensors", self.settings, replicate, state)
            self.saved[replicate] = now
        return not late

    def latest(self, replicate: Replicate, state: TrainState) -> TrainState:
        """Where a training got to that a worker died in: its checkpoint, or where it was to begin."""
        path = self.folder / f"{file_stem(replicate)}.safetensors"
        if not path.exists():
            return state
        saved, _, key = load_state(path)
        same = key == self.settings.key and saved.seed == state.seed
        same = same and (arm_of(replicate.arm).masks == "training" or masks.equal(saved.mask, state.mask))
        return saved if same and saved.iteration < self.settings.iterations else state


class Executor(Protocol):
    """Where a run has its data and its trainings: this machine (LocalExecutor) or a cluster (runs/ray_cluster.py)."""

    def load(self, settings: Recipe) -> Data:
        """The data of the settings, on the device that they name."""

    def train(
        self, settings: Recipe, data: Data, cohort: Cohort, go_on: Checkpointer, trainer: Trainer
    ) -> Iterator[tuple[Replicate, TrainState]]:
        """Train a cohort; yield each of its trainings as it ends."""

    def hardware(self, data: Data) -> dict | None:
        """What has trained on these data: cpu, cores, gpu. None where nothing has."""

    def metered(self, before: dict | None) -> AbstractContextManager[dict]:
        """Meters the energy of what happens within, added to `before` (lthcore/runs/energy.py)."""


class LocalExecutor:
    """This machine: all cores of its CPU, or its GPU."""

    def load(self, settings: Recipe) -> Data:
        """The data of the settings, on their device."""
        return load(settings)

    def train(
        self, settings: Recipe, data: Data, cohort: Cohort, go_on: Checkpointer, trainer: Trainer
    ) -> Iterator[tuple[Replicate, TrainState]]:
        """Train a cohort; yield each of its trainings as it ends."""
        yield from train_cohort(settings, data, cohort, go_on, trainer=trainer)

    def hardware(self, data: Data) -> dict | None:
        """What trains on these data: cpu, cores, gpu. None where nothing has."""
        return hardware(data.test.images.device)

    def metered(self, before: dict | None) -> AbstractContextManager[dict]:
        """Meters the energy of what happens within (lthcore/runs/energy.py)."""
        return metered(before)
