"""Engine for sparse training on a CPU: computes only with the weights left in a pruned chain of dense layers.

The whole chain is one sparse graph. The arithmetic is in `sparse_kernels`, compiled by numba. It agrees with torch
(Adam, AdamW, SGD with momentum, cross-entropy with label smoothing) up to rounding: the tests compare the two.
"""

import numpy as np
import torch
from torch import Tensor, nn

from lthcore.data.datasets import Data, Split
from lthcore.masks import Mask, apply, percent_left
from lthcore.models.weights import Weights
from lthcore.recipe import Recipe
from lthcore.training.engines import sparse_kernels
from lthcore.training.engines.chain import is_plain_chain
from lthcore.training.engines.engine import SplitResults
from lthcore.training.state import TrainState

# Above this share of weights left, dense products are faster, evaluations included (benchmarks/sparse.py, LeNet).
CROSSOVER = 0.55


def applies(settings: Recipe, model: nn.Module, device: torch.device, mask: Mask) -> bool:
    """Whether to train sparsely: possible for a plain chain of dense layers, faster if few enough weights are left."""
    able = is_plain_chain(settings, model, device) and settings.masks_weights
    able = able and not settings.clip_norm and not settings.nesterov
    return able and settings.engine == "auto" and percent_left(mask) / 100 < CROSSOVER


class SparseChain:
    """Engine of a chain of dense layers with its mask and optimizer."""

    def __init__(self, settings: Recipe, model: nn.Module, states: list[TrainState]) -> None:
        """Take the names of the layers of `model`, and load the one replicate in `states`."""
        (state,) = states
        weights, mask, optimizer = apply(state.mask, state.weights), state.mask, state.optimizer
        self.settings = settings
        self.layers = [name for name, module in model.named_children() if isinstance(module, nn.Linear)]
        self.weights = {name: tensor.detach().clone() for name, tensor in weights.items()}
        self._connect(mask)
        if settings.optimizer in ("adam", "adamw"):
            self.slots = ("exp_avg", "exp_avg_sq")
        elif settings.momentum:
            self.slots = ("momentum_buffer",)
        else:
            self.slots = ()
        self.parameters = self._gather(self.weights)
        self.moments = [tuple(map(np.zeros_like, self.parameters)) for _ in range(2)]
        self.steps_done = 0
        if optimizer:
            for i, slot in enumerate(self.slots):
                self.moments[i] = self._gather({name: optimizer[f"{name}/{slot}"] for name in self._parameters()})
            if "exp_avg" in self.slots:
                self.steps_done = int(optimizer[f"{self.layers[0]}.weight/step"])

    def _connect(self, mask: Mask) -> None:
        """Lay out the graph of the weights in `mask`."""
        kept = [mask[f"{layer}.weight"] for layer in self.layers]
        inputs, classes = kept[0].shape[1], kept[-1].shape[0]
        self.support = [m.flatten().nonzero().squeeze(1) for m in kept]
        columns = [m.shape[1] for m in kept]
        before = np.cumsum([0, *columns[:-1]])  # number of nodes before each layer's inputs
        source = [s.numpy() % c + b for s, c, b in zip(self.support, columns, before, strict=True)]
        source = np.concatenate(source).astype(np.uint32)
        first = np.cumsum(np.concatenate([[0], *(m.sum(1).numpy() for m in kept)]))
        self.graph = sparse_kernels.Graph(np.unique(source[source < inputs]), inputs, classes, source, first)

    def _parameters(self) -> list[str]:
        return [f"{layer}.{kind}" for layer in self.layers for kind in ("weight", "bias")]

    def _gather(self, tensors: Weights) -> tuple[np.ndarray, np.ndarray]:
        """Return (values of the weights left, all biases) from dense tensors by parameter name."""
        values = [tensors[f"{n}.weight"].flatten()[s] for n, s in zip(self.layers, self.support, strict=True)]
        bias = [tensors[f"{layer}.bias"] for layer in self.layers]
        return torch.cat(values).numpy().copy(), torch.cat(bias).numpy().copy()

    def _scatter(self, values: np.ndarray, bias: np.ndarray, into: Weights) -> None:
        """Write values and biases into the dense tensors `into`: the inverse of `_gather`.

        Pruned entries keep their values.
        """
        sizes = [len(support) for support in self.support]
        units = [len(into[f"{layer}.bias"]) for layer in self.layers]
        values, bias = torch.from_numpy(values).split(sizes), torch.from_numpy(bias).split(units)
        for layer, support, v, b in zip(self.layers, self.support, values, bias, strict=True):
            into[f"{layer}.weight"].view(-1)[support] = v
            into[f"{layer}.bias"].copy_(b)

    def steps(self, data: Data, batches: Tensor, rates: list[float]) -> None:
        """Train on batches (1, steps, batch) of image indices at these learning rates."""
        s = self.settings
        momentum = s.momentum if s.optimizer == "sgd" else -1.0
        rule = sparse_kernels.Rule(momentum, s.weight_decay, s.optimizer == "adamw")
        sparse_kernels.train(
            _pixels(data.train), data.train.labels.numpy(), batches[0].numpy(), np.array(rates), self.graph,
            self.parameters, tuple(self.moments), self.steps_done, rule, s.label_smoothing,
        )  # fmt: skip
        self.steps_done += batches.shape[1]

    def evaluate(self, *splits: Split) -> list[SplitResults]:
        """Return the mean cross-entropy (nats) and accuracy on each split."""
        totals = [
            sparse_kernels.evaluate(_pixels(split), split.labels.numpy(), self.graph, self.parameters)
            for split in splits
        ]
        return [[(loss / len(y), correct / len(y)) for (_, y), (loss, correct) in zip(splits, totals, strict=True)]]

    def set_weights(self, weights: list[Weights]) -> None:
        """Load other weights into the network, in order to evaluate them.

        They may lie outside the mask that was trained: with regrowth, the early stop may have had another one.
        """
        self._connect({name: tensor != 0 for name, tensor in weights[0].items() if name.endswith(".weight")})
        self.parameters = self._gather(weights[0])

    def sync_from(self, states: list[TrainState]) -> bool:
        """Return False: another mask is another sparse graph, which needs a new engine."""
        return False

    def sync_to(self, states: list[TrainState]) -> None:
        """Store the weights and optimizer tensors of the replicate in its state, in the dense layout."""
        (state,) = states
        self._scatter(*self.parameters, self.weights)
        optimizer = {}
        for (values, bias), slot in zip(self.moments, self.slots, strict=False):
            dense = {name: torch.zeros_like(self.weights[name]) for name in self._parameters()}
            self._scatter(values, bias, dense)
            optimizer |= {f"{name}/{slot}": tensor for name, tensor in dense.items()}
        if "exp_avg" in self.slots:
            optimizer |= {f"{name}/step": torch.tensor(float(self.steps_done)) for name in self._parameters()}
        state.weights, state.optimizer = self.weights, optimizer


def _pixels(split: Split) -> np.ndarray:
    """Return images (N, C, H, W) as rows (N, pixels), contiguous in memory."""
    return split.images.flatten(1).contiguous().numpy()
