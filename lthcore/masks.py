"""Masks: which weights of a network are left. A mask is a dict, weight name -> bool tensor, True where it is left.

Which weights are masked is asked of the network (`models.prunable`): no biases, no norms. All functions are pure.
"""

from collections.abc import Collection

import torch
from torch import Tensor, nn

from lthcore.errors import LabError
from lthcore.models import Weights, kinds_of

Mask = dict[str, Tensor]


def full_mask(network: nn.Module | Weights) -> Mask:
    """The mask of an unpruned network: every entry of every prunable weight.

    Of weights alone, without the network that they are of, every one of two or more dimensions is taken for prunable.
    """
    if isinstance(network, nn.Module):
        weights = dict(network.named_parameters())
        return {name: torch.ones(weights[name].shape, dtype=torch.bool) for name in kinds_of(network)}
    return {name: torch.ones_like(w, dtype=torch.bool) for name, w in network.items() if w.ndim >= 2}


def check(mask: Mask, weights: Weights, prunable: Collection[str] | None = None) -> None:
    """Raise LabError unless `mask` masks weights of `weights`, in bool and in their shapes.

    Where it is known which are `prunable`, unless it masks all of these and no others.
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
    """The weights with pruned entries at exactly zero (inf and nan too). Raises LabError on a misfit."""
    check(mask, weights)
    return {name: torch.where(mask[name], w, 0.0) if name in mask else w.clone() for name, w in weights.items()}


def apply_to_optimizer(mask: Mask, optimizer: dict[str, Tensor]) -> dict[str, Tensor]:
    """An optimizer's tensors (`<parameter>/<slot>`) with those of pruned weights at zero."""

    def masked(key: str, tensor: Tensor) -> Tensor:
        m = mask.get(key.rpartition("/")[0])
        return tensor if m is None or m.shape != tensor.shape else torch.where(m, tensor, 0.0)

    return {key: masked(key, tensor) for key, tensor in optimizer.items()}


def counts(mask: Mask) -> dict[str, int]:
    """How many weights are left in each layer."""
    return {name: int(m.sum()) for name, m in mask.items()}


def weights_left(mask: Mask) -> int:
    """How many weights are left in all."""
    return sum(counts(mask).values())


def nonzero(weights: Weights, mask: Mask) -> int:
    """How many of the weights that a mask is over are not zero, whatever it says."""
    return sum(int(weights[name].count_nonzero()) for name in mask)


def percent_left(mask: Mask) -> float:
    """Weights left, in percent of all that can be pruned: the paper's P_m."""
    return 100 * weights_left(mask) / sum(m.numel() for m in mask.values())


def is_nested(inner: Mask, outer: Mask) -> bool:
    """Whether every weight that `inner` keeps is kept by `outer` too."""
    return inner.keys() == outer.keys() and not any((inner[name] & ~outer[name]).any() for name in inner)


def equal(a: Mask, b: Mask) -> bool:
    """Whether two masks keep the same weights."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def is_masked(weights: Weights, mask: Mask) -> bool:
    """Whether every pruned entry of `weights` is exactly zero."""
    return not any(weights[name][~m].count_nonzero() for name, m in mask.items())


def shuffled(mask: Mask, seed: int) -> Mask:
    """A random mask with the same number of weights left in each layer: the control of the paper's Figure 1."""
    generator = torch.Generator().manual_seed(seed)
    return {name: m.flatten()[torch.randperm(m.numel(), generator=generator)].view_as(m) for name, m in mask.items()}
