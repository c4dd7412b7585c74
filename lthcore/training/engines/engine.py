"""The interface of engines. An engine holds K replicates of one network, and trains them in step.

All engines agree up to rounding:

* `dense.Dense` trains one replicate of any network, as built by `models.build`, on any device.
* `chain.Chain` trains one chain of dense layers on a CPU, with gradients computed by hand.
* `stack.Stack` trains any number of chains, as batched products over a leading replicate dimension.
* `sparse.SparseChain` trains one chain on a CPU, and computes only with the weights that are left.
* `conv.ConvolutionalNetwork` trains one convolutional network on a CPU, with gradients computed by hand.
"""

from typing import Protocol

from torch import Tensor

from lthcore.data.datasets import Data, Split
from lthcore.models.weights import Weights
from lthcore.training.state import TrainState

SplitResults = list[tuple[float, float]]  # (mean cross-entropy in nats, accuracy) of each split


class Engine(Protocol):
    """What the training loop asks of an engine."""

    def steps(self, data: Data, batches: Tensor, rates: list[float]) -> None:
        """Train on batches (K, steps, batch) of image indices at these learning rates."""

    def evaluate(self, *splits: Split) -> list[SplitResults]:
        """Return the loss and accuracy of each replicate on each split."""

    def set_weights(self, weights: list[Weights]) -> None:
        """Load other weights into each replicate, in order to evaluate them."""

    def sync_from(self, states: list[TrainState]) -> bool:
        """Load states that were changed outside the engine; return False if they need a new engine."""

    def sync_to(self, states: list[TrainState]) -> None:
        """Store the weights, optimizer tensors and noise of each replicate in its state, which may share memory."""
