"""A folder of saved training runs: the tickets of a run, or its checkpoints."""

import math
from collections.abc import Iterator
from pathlib import Path

import torch

from lthcore import masks
from lthcore.arms import arm_of
from lthcore.errors import LabError
from lthcore.models.weights import Weights
from lthcore.recipe import Recipe
from lthcore.runs.checkpoints import file_stem, load_state, save_state, state_path
from lthcore.training.state import Replicate, TrainState


class SavedStates:
    """States of training runs in a folder, a file for each (lthcore/runs/checkpoints.py)."""

    def __init__(self, folder: Path, settings: Recipe) -> None:
        self.folder, self.settings = folder, settings

    def __contains__(self, replicate: Replicate) -> bool:
        return self.path(replicate).exists()

    def path(self, replicate: Replicate) -> Path:
        """Return the path of a training run's file, whether it exists or not."""
        return state_path(self.folder, replicate)

    def files(self) -> Iterator[Path]:
        """Yield the files in the folder, of this run or of another."""
        yield from self.folder.glob("*.safetensors")

    def save(self, replicate: Replicate, state: TrainState) -> None:
        """Write the file of a training run, finished or not."""
        save_state(self.path(replicate), self.settings, replicate, state)

    def delete(self, replicate: Replicate) -> None:
        """Delete the file of a training run, if it exists."""
        self.path(replicate).unlink(missing_ok=True)

    def load(self, replicate: Replicate, like: TrainState | None = None) -> TrainState:
        """Return the state of a training run. Raises LabError if it is not of this run or did not start from `like`."""
        path = self.path(replicate)
        state, saved, key = load_state(path)
        if key != self.settings.key:
            raise LabError(f"results: {path} belongs to run {key}, not {self.settings.key}; move it away")
        wrong = None
        if saved != replicate or (like is not None and state.seed != like.seed):
            wrong = f"is of another training ({file_stem(saved)})"
        elif like is not None and state.curve[0].iteration != like.iteration:
            wrong = f"begins at iteration {state.curve[0].iteration:,}, and this training at {like.iteration:,}"
        elif like is not None and _layout(like.weights) != _layout(state.weights):
            wrong = "is of another network"
        elif like is not None and arm_of(replicate.arm).masks != "training" and not masks.equal(state.mask, like.mask):
            wrong = "has a mask that is not what pruning its predecessor gives"
        elif state.diverged and all(math.isfinite(point.test_loss) for point in state.curve):
            wrong = "holds weights that are not numbers"
        elif like and not like.placeholder and not all(torch.equal(w, state.start[n]) for n, w in like.start.items()):
            wrong = "does not start from the weights that this training starts from"
        if wrong:
            raise LabError(f"results: {path} {wrong}; delete it and run the command again")
        return state


def _layout(weights: Weights) -> dict[str, tuple]:
    return {name: (w.shape, w.dtype) for name, w in weights.items()}
