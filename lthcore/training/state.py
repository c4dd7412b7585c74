"""Training states: a training run as data, from its start through its checkpoints to its outcome."""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from lthcore.masks import Mask
from lthcore.models.weights import Weights


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of a training run. Losses are in nats, accuracies in [0, 1].

    Without a validation set, the validation loss and accuracy are nan. `percent_left` is the percentage of weights
    left at this iteration.
    """

    iteration: int
    val_loss: float
    val_accuracy: float
    test_loss: float
    test_accuracy: float
    percent_left: float


@dataclass
class TrainState:
    """State of a training run: everything needed to resume it bit for bit, and at the end its outcome.

    `start` holds the weights at the start of the run, `early_stop` the weights at the lowest validation loss so far
    (the first one in a tie), and `rewind` the weights at iteration `settings.rewind_to` if training has passed it.
    Without a validation set there is no early stopping: choosing by test loss would be dishonest. `generator_state` is
    the state (uint8) of the generator that draws dropout and augmentation, None before training. `remembered` holds the
    values of pruned weights if they may be regrown (lthcore/lottery/dynamic.py). If `fine_tuned`, all steps are taken
    at the last learning rate. A `placeholder` stands for a complete training run whose weights are on another machine:
    it has the weights that the run started from, or it starts from such a placeholder.
    """

    iteration: int
    weights: Weights
    mask: Mask
    seed: int
    start: Weights = field(default_factory=dict)
    optimizer: dict[str, Tensor] = field(default_factory=dict)
    generator_state: Tensor | None = None
    early_stop: Weights | None = None
    rewind: Weights | None = None
    remembered: Weights | None = None
    curve: list[Evaluation] = field(default_factory=list)
    fine_tuned: bool = False
    placeholder: bool = False
    seconds: float = 0.0
    early_stop_train_accuracy: float = float("nan")
    final_train_accuracy: float = float("nan")

    @property
    def diverged(self) -> bool:
        """Whether any weight is not finite. The weights of a diverged training run cannot be used for pruning."""
        return not all(weight.isfinite().all() for weight in self.weights.values())

    @property
    def early_stop_point(self) -> Evaluation | None:
        """Evaluation with the lowest validation loss (the first one in a tie), or None without a validation set.

        If the network becomes sparser during training, evaluations with more weights left than now are ignored.
        """
        held = (p for p in self.curve if not math.isnan(p.val_loss) and p.percent_left <= self.curve[-1].percent_left)
        return min(held, key=lambda p: p.val_loss, default=None)


class Replicate(NamedTuple):
    """Identifier of a training run: the key of its row in the tables."""

    arm: str
    trial: int
    draw: int
    round: int
