"""Sparse training on a CPU: a pruned chain of dense layers at the cost of the weights it has left, compiled by numba.

The whole chain is one sparse graph. Its nodes are the inputs, then the units of each layer in turn; `source[k]` is the
node that weight k comes from, and unit r owns the weights `first[r]` to `first[r + 1]`. Activations are kept as nodes x
batch, so that a weight is one multiply-add of two contiguous rows. The arithmetic is that of torch (Adam, AdamW, SGD
with momentum, cross-entropy with label smoothing), to rounding: the tests hold the two against each other.
"""

import numpy as np
import torch
from torch import Tensor, nn

from lthcore.data import Data, Split
from lthcore.engines import Evaluation, is_plain_chain
from lthcore.masks import Mask, apply
from lthcore.models import Weights
from lthcore.settings import Settings
from lthcore.state import Training

try:
    from numba import njit
except ImportError:  # optional: without it training is masked-dense, and slower
    njit = None

# Above this share of weights left dense products win, evaluations counted in (benchmarks/sparse_step.py, LeNet).
CROSSOVER = 0.2
BLOCK = 256  # images evaluated together: their activations stay in the cache
ROUNDING = {"reassoc", "contract", "nsz"}  # sums may be reordered; nan and inf are kept, so that divergence shows


def applies(settings: Settings, model: nn.Module, device: torch.device, mask: Mask) -> bool:
    """Whether this training can run sparse, and should: a plain chain of dense layers with few enough weights left."""
    able = njit is not None and is_plain_chain(settings, model, device) and not settings.clip_norm
    density = sum(int(m.sum()) for m in mask.values()) / sum(m.numel() for m in mask.values())
    return able and settings.engine == "auto" and not settings.nesterov and density < CROSSOVER


class SparseChain:
    """A chain of dense layers under a mask, with its optimizer: same interface as `engines.Dense`."""

    def __init__(self, settings: Settings, model: nn.Module, states: list[Training]) -> None:
        """Take the one replicate it is to be."""
        (state,) = states
        weights, mask, optimizer = apply(state.mask, state.weights), state.mask, state.optimizer
        self.settings = settings
        self.layers = [name for name, module in model.named_children() if isinstance(module, nn.Linear)]
        self.weights = {name: tensor.detach().clone() for name, tensor in weights.items()}
        kept = [mask[f"{layer}.weight"] for layer in self.layers]
        self.inputs, self.classes = kept[0].shape[1], kept[-1].shape[0]
        self.support = [m.flatten().nonzero().squeeze(1) for m in kept]
        columns = [m.shape[1] for m in kept]
        before = np.cumsum([0, *columns[:-1]])  # nodes before those that a layer reads
        source = [s.numpy() % c + b for s, c, b in zip(self.support, columns, before, strict=True)]
        self.source = np.concatenate(source).astype(np.int32)
        self.first = np.cumsum(np.concatenate([[0], *(m.sum(1).numpy() for m in kept)]))
        self.used = np.unique(self.source[self.source < self.inputs])
        self.slots = {"adam": ("exp_avg", "exp_avg_sq"), "adamw": ("exp_avg", "exp_avg_sq")}.get(settings.optimizer)
        self.slots = self.slots or (("momentum_buffer",) if settings.momentum else ())
        self.values, self.bias = self._gather(self.weights)
        self.moments = [(np.zeros_like(self.values), np.zeros_like(self.bias)) for _ in range(2)]
        self.steps_done = 0
        if optimizer:
            for i, slot in enumerate(self.slots):
                self.moments[i] = self._gather({name: optimizer[f"{name}/{slot}"] for name in self._parameters()})
            if "exp_avg" in self.slots:
                self.steps_done = int(optimizer[f"{self.layers[0]}.weight/step"])

    def _parameters(self) -> list[str]:
        return [f"{layer}.{kind}" for layer in self.layers for kind in ("weight", "bias")]

    def _gather(self, tensors: Weights) -> tuple[np.ndarray, np.ndarray]:
        """Dense tensors by parameter -> (values of the weights left, all biases)."""
        values = [tensors[f"{n}.weight"].flatten()[s] for n, s in zip(self.layers, self.support, strict=True)]
        bias = [tensors[f"{layer}.bias"] for layer in self.layers]
        return torch.cat(values).numpy().copy(), torch.cat(bias).numpy().copy()

    def _scatter(self, values: np.ndarray, bias: np.ndarray, into: Weights) -> None:
        """The inverse of `_gather`: pruned entries of `into` are left at zero."""
        sizes = [len(support) for support in self.support]
        units = [len(into[f"{layer}.bias"]) for layer in self.layers]
        values, bias = torch.from_numpy(values).split(sizes), torch.from_numpy(bias).split(units)
        for layer, support, v, b in zip(self.layers, self.support, values, bias, strict=True):
            into[f"{layer}.weight"].view(-1)[support] = v
            into[f"{layer}.bias"].copy_(b)

    def steps(self, data: Data, batches: Tensor, rates: list[float]) -> None:
        """Train on batches (1, steps, batch) of image indices at these learning rates."""
        s = self.settings
        decoupled, momentum = s.optimizer == "adamw", s.momentum if s.optimizer == "sgd" else -1.0
        _steps(
            data.train.images.flatten(1).numpy(), data.train.labels.numpy(), batches[0].numpy(), np.array(rates),
            self.used, self.inputs, self.classes, self.source, self.first, self.values, self.bias,
            self.moments[0][0], self.moments[0][1], self.moments[1][0], self.moments[1][1],
            self.steps_done, momentum, s.weight_decay, decoupled, s.label_smoothing,
        )  # fmt: skip
        self.steps_done += batches.shape[1]

    def evaluate(self, *splits: Split) -> list[Evaluation]:
        """Mean cross-entropy (nats) and accuracy on each split."""
        chain = (self.used, self.inputs, self.classes, self.source, self.first, self.values, self.bias)
        totals = [_evaluate(images.flatten(1).numpy(), labels.numpy(), *chain) for images, labels in splits]
        return [[(loss / len(y), correct / len(y)) for (_, y), (loss, correct) in zip(splits, totals, strict=True)]]

    def load(self, weights: list[Weights]) -> None:
        """Put other weights into the network, to evaluate them."""
        self.values, self.bias = self._gather(weights[0])

    def export(self, states: list[Training]) -> None:
        """Put the replicate as it is into its state, in the dense layout."""
        (state,) = states
        self._scatter(self.values, self.bias, self.weights)
        optimizer = {}
        for (values, bias), slot in zip(self.moments, self.slots, strict=False):
            dense = {name: torch.zeros_like(self.weights[name]) for name in self._parameters()}
            self._scatter(values, bias, dense)
            optimizer |= {f"{name}/{slot}": tensor for name, tensor in dense.items()}
        if "exp_avg" in self.slots:
            optimizer |= {f"{name}/step": torch.tensor(float(self.steps_done)) for name in self._parameters()}
        state.weights, state.optimizer = self.weights, optimizer


def _compiled(function):
    return njit(cache=True, fastmath=ROUNDING, error_model="numpy")(function) if njit else function


@_compiled
def _forward(values, bias, source, first, inputs, classes, activations):
    """Units in order: each is the sum of its weights times the rows they come from, clipped at 0 but in the output."""
    units, batch = len(first) - 1, activations.shape[1]
    for r in range(units):
        out = activations[inputs + r]
        out[:] = bias[r]
        k, end = first[r], first[r + 1]
        while k + 4 <= end:  # four weights at a time: the unit's row is read and written once for all
            v0, v1, v2, v3 = values[k], values[k + 1], values[k + 2], values[k + 3]
            x0, x1 = activations[source[k]], activations[source[k + 1]]
            x2, x3 = activations[source[k + 2]], activations[source[k + 3]]
            for b in range(batch):
                out[b] += v0 * x0[b] + v1 * x1[b] + v2 * x2[b] + v3 * x3[b]
            k += 4
        for rest in range(k, end):
            value, row = values[rest], activations[source[rest]]
            for b in range(batch):
                out[b] += value * row[b]
        if r < units - classes:
            for b in range(batch):
                if out[b] < 0:  # nan stays nan
                    out[b] = 0


@_compiled
def _load(images, index, used, activations):
    """The images' pixels that any weight comes from, as rows of the activations."""
    for i in used:
        for b in range(len(index)):
            activations[i, b] = images[index[b], i]


@_compiled
def _steps(
    images, labels, batches, rates, used, inputs, classes, source, first, values, bias,
    m, m_bias, v, v_bias, done, momentum, weight_decay, decoupled, smoothing,
):  # fmt: skip
    units, batch = len(first) - 1, batches.shape[1]
    activations = np.zeros((inputs + units, batch), np.float32)
    gradients = np.zeros((inputs + units, batch), np.float32)
    d_values, d_bias = np.zeros_like(values), np.zeros_like(bias)
    for step in range(len(batches)):
        _load(images, batches[step], used, activations)
        _forward(values, bias, source, first, inputs, classes, activations)
        _loss_gradient(activations[inputs + units - classes :], labels, batches[step], smoothing, gradients[-classes:])
        _backward(values, source, first, inputs, classes, activations, gradients, d_values, d_bias)
        if momentum >= 0:
            _sgd(values, d_values, m, rates[step], momentum, weight_decay)
            _sgd(bias, d_bias, m_bias, rates[step], momentum, weight_decay)
        else:
            _adam(values, d_values, m, v, rates[step], done + step + 1, weight_decay, decoupled)
            _adam(bias, d_bias, m_bias, v_bias, rates[step], done + step + 1, weight_decay, decoupled)


@_compiled
def _loss_gradient(logits, labels, index, smoothing, gradients):
    """(softmax - target) / batch, the gradient of the mean cross-entropy with label smoothing."""
    classes, batch = logits.shape
    for b in range(batch):
        top = logits[0, b]
        for c in range(1, classes):
            top = max(top, logits[c, b])
        total = np.float32(0)
        for c in range(classes):
            gradients[c, b] = np.exp(logits[c, b] - top)
            total += gradients[c, b]
        for c in range(classes):
            target = smoothing / classes + (1 - smoothing) * (c == labels[index[b]])
            gradients[c, b] = (gradients[c, b] / total - target) / batch


@_compiled
def _backward(values, source, first, inputs, classes, activations, gradients, d_values, d_bias):
    """Units in reverse order: by then the gradient of a unit's activation is complete."""
    units, batch = len(first) - 1, activations.shape[1]
    gradients[inputs : inputs + units - classes] = 0
    for r in range(units - 1, -1, -1):
        out = gradients[inputs + r]
        total = np.float32(0)
        for b in range(batch):
            if r < units - classes and activations[inputs + r, b] <= 0:
                out[b] = 0
            total += out[b]
        d_bias[r] = total
        k, end = first[r], first[r + 1]
        while k + 4 <= end:
            x0, x1 = activations[source[k]], activations[source[k + 1]]
            x2, x3 = activations[source[k + 2]], activations[source[k + 3]]
            d0 = d1 = d2 = d3 = np.float32(0)
            for b in range(batch):
                d0 += out[b] * x0[b]
                d1 += out[b] * x1[b]
                d2 += out[b] * x2[b]
                d3 += out[b] * x3[b]
            d_values[k], d_values[k + 1], d_values[k + 2], d_values[k + 3] = d0, d1, d2, d3
            k += 4
        for rest in range(k, end):
            row, total = activations[source[rest]], np.float32(0)
            for b in range(batch):
                total += out[b] * row[b]
            d_values[rest] = total
        for k in range(first[r], end):
            if source[k] >= inputs:  # nothing needs the gradient of the inputs
                value, back = values[k], gradients[source[k]]
                for b in range(batch):
                    back[b] += value * out[b]


@_compiled
def _adam(w, gradient, m, v, rate, step, weight_decay, decoupled):
    """torch.optim.Adam and AdamW with their default betas (0.9, 0.999) and eps 1e-8."""
    beta1, beta2 = 0.9, 0.999
    size = np.float32(rate / (1 - beta1**step))
    root = np.float32(np.sqrt(1 - beta2**step))
    keep = np.float32(1 - rate * weight_decay) if decoupled else np.float32(1)
    decay = np.float32(0) if decoupled else np.float32(weight_decay)
    b1, c1, b2, c2, eps = (
        np.float32(beta1),
        np.float32(1 - beta1),
        np.float32(beta2),
        np.float32(1 - beta2),
        np.float32(1e-8),
    )
    for k in range(len(w)):
        g = gradient[k] + decay * w[k]
        m[k] = b1 * m[k] + c1 * g
        v[k] = b2 * v[k] + c2 * g * g
        w[k] = keep * w[k] - size * m[k] / (np.sqrt(v[k]) / root + eps)


@_compiled
def _sgd(w, gradient, velocity, rate, momentum, weight_decay):
    """torch.optim.SGD with momentum."""
    rate, momentum, weight_decay = np.float32(rate), np.float32(momentum), np.float32(weight_decay)
    for k in range(len(w)):
        velocity[k] = momentum * velocity[k] + gradient[k] + weight_decay * w[k]
        w[k] -= rate * velocity[k]


@_compiled
def _evaluate(images, labels, used, inputs, classes, source, first, values, bias):
    """Summed cross-entropy and number correct, in blocks of images."""
    units, n = len(first) - 1, len(labels)
    activations = np.zeros((inputs + units, BLOCK), np.float32)
    logits = activations[inputs + units - classes :]
    loss, correct = 0.0, 0
    for start in range(0, n, BLOCK):
        _load(images, np.minimum(np.arange(start, start + BLOCK), n - 1), used, activations)
        _forward(values, bias, source, first, inputs, classes, activations)
        for b in range(min(BLOCK, n - start)):
            best, label = 0, labels[start + b]
            for c in range(1, classes):
                if logits[c, b] > logits[best, b]:
                    best = c
            total = 0.0
            for c in range(classes):
                total += np.exp(logits[c, b] - logits[best, b])
            loss += np.log(total) + logits[best, b] - logits[label, b]
            correct += best == label
    return loss, correct
