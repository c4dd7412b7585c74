"""State: a training as data, from its start over its checkpoints to its outcome."""

from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from lthcore.masks import Mask
from lthcore.models import Weights


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of a training. Losses in nats, accuracies in [0, 1]; validation is nan where there is none.

    `percent_left` is what was left of the weights then (nan in tickets of versions that did not note it).
    """

    iteration: int
    val_loss: float
    val_accuracy: float
    test_loss: float
    test_accuracy: float
    percent_left: float = float("nan")


@dataclass
class TrainState:
    """The state of a training: enough to go on from, bit for bit, and in the end its outcome.

    `start` keeps the weights it began with, `early_stop` those at the least validation loss so far (the first of
    equals), `rewind` those at iteration `settings.rewind_to` where training passed it. Without a validation set
    there is no early stop: choosing by test is not honest. `remembered` keeps the values of pruned weights where
    they may come back (lthcore/lottery/dynamic.py). `fine_tuned` trainings take all steps at the last learning rate.
    """

    iteration: int
    weights: Weights
    mask: Mask
    seed: int
    start: Weights = field(default_factory=dict)
    optimizer: dict[str, Tensor] = field(default_factory=dict)
    noise: Tensor | None = None
    early_stop: Weights | None = None
    rewind: Weights | None = None
    remembered: Weights | None = None
    curve: list[Evaluation] = field(default_factory=list)
    fine_tuned: bool = False
    seconds: float = 0.0
    early_stop_train_accuracy: float = float("nan")
    final_train_accuracy: float = float("nan")

    @property
    def diverged(self) -> bool:
        """Whether any weight is no longer a finite number: nothing can be pruned by such a training."""
        return not all(weight.isfinite().all() for weight in self.weights.values())

    @property
    def early_stop_point(self) -> Evaluation | None:
        """The evaluation with the least validation loss, the first of equals; None without a validation set.

        Where the network gets sparser as it trains, only evaluations at its present sparsity count.
        """
        held = (p for p in self.curve if p.val_loss == p.val_loss and not p.percent_left > self.curve[-1].percent_left)
        return min(held, key=lambda p: p.val_loss, default=None)


class Replicate(NamedTuple):
    """Which training: the key of its row in the tables."""

    arm: str
    trial: int
    draw: int
    round: int
