"""Masks: which weights of a network remain. A mask is a dict, weight name -> bool tensor, True where weights remain.

`models.prunable` decides which weights of a network have a mask: no biases, no norms. All functions are pure.
"""

from collections.abc import Collection

import torch
from torch import Tensor, nn

from lthcore.errors import LabError
from lthcore.models.prunable import kinds_of
from lthcore.models.weights import Weights

Mask = dict[str, Tensor]


def full_mask(network: nn.Module | Weights) -> Mask:
    """Return the mask of an unpruned network: True for every entry of every prunable weight.

    If only weights are given, without their network, all weights of two or more dimensions are assumed to be prunable.
    """
    if isinstance(network, nn.Module):
        weights = dict(network.named_parameters())
        return {name: torch.ones(weights[name].shape, dtype=torch.bool) for name in kinds_of(network)}
    return {name: torch.ones_like(w, dtype=torch.bool) for name, w in network.items() if w.ndim >= 2}


def check(mask: Mask, weights: Weights, prunable: Collection[str] | None = None) -> None:
    """Raise LabError unless `mask` holds bool tensors with the names and shapes of weights in `weights`.

    If `prunable` is given, the mask must hold all of these weights and no others.
    """
    names = mask if prunable is None else prunable
    expected = {name: tuple(w.shape) for name, w in weights.items() if w.ndim >= 2 and name in names}
    found = {name: tuple(m.shape) for name, m in mask.items()}
    if found != expected:
        wrong = sorted(name for name in expected | found if expected.get(name) != found.get(name))
        detail = ", ".join(f"{n}: mask {found.get(n)}, network {expected.get(n)}" for n in wrong)
        raise LabError(f"mask does not fit the network ({detail})")
    if any(m.dtype != torch.bool for m in mask.values()):
        raise LabError("mask must hold bool tensors")


def apply(mask: Mask, weights: Weights) -> Weights:
    """Set pruned weights to exactly zero, even inf and nan, and return new weights. Raises LabError on a misfit."""
    check(mask, weights)
    return {name: torch.where(mask[name], w, 0.0) if name in mask else w.clone() for name, w in weights.items()}


def apply_to_optimizer(mask: Mask, optimizer: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of an optimizer's state (`<parameter>/<slot>`), with zeros for pruned weights."""

    def masked(key: str, tensor: Tensor) -> Tensor:
        m = mask.get(key.rpartition("/")[0])
        return tensor if m is None or m.shape != tensor.shape else torch.where(m, tensor, 0.0)

    return {key: masked(key, tensor) for key, tensor in optimizer.items()}


def counts(mask: Mask) -> dict[str, int]:
    """Return the number of remaining weights in each layer."""
    return {name: int(m.sum()) for name, m in mask.items()}


def weights_left(mask: Mask) -> int:
    """Return the number of remaining weights in all layers together."""
    return sum(counts(mask).values())


def nonzero(weights: Weights, mask: Mask) -> int:
    """Return the number of nonzero weights in the layers of a mask, whether or not they are pruned."""
    return sum(int(weights[name].count_nonzero()) for name in mask)


def percent_left(mask: Mask) -> float:
    """Return the remaining weights in percent of all prunable weights: the paper's P_m."""
    return 100 * weights_left(mask) / sum(m.numel() for m in mask.values())


def is_nested(inner: Mask, outer: Mask) -> bool:
    """Return whether `outer` keeps every weight that `inner` keeps."""
    return inner.keys() == outer.keys() and not any((inner[name] & ~outer[name]).any() for name in inner)


def equal(a: Mask, b: Mask) -> bool:
    """Return whether two masks keep the same weights."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def is_masked(weights: Weights, mask: Mask) -> bool:
    """Return whether every pruned entry of `weights` is exactly zero."""
    return not any(weights[name][~m].count_nonzero() for name, m in mask.items())


def shuffled(mask: Mask, seed: int) -> Mask:
    """Return a random mask with the same number of weights in each layer: the control of the paper's Figure 1."""
    generator = torch.Generator().manual_seed(seed)
    return {name: m.flatten()[torch.randperm(m.numel(), generator=generator)].view_as(m) for name, m in mask.items()}
