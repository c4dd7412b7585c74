"""Allocation: how many weights are pruned in each layer, and which ones."""

import math

import torch
from torch import Tensor, nn

from lthcore.errors import LabError, choose
from lthcore.masks import Mask
from lthcore.models.prunable import kinds_of
from lthcore.pruning.criteria import Scores
from lthcore.settings import Settings


def layer_rates(settings: Settings, model: nn.Module) -> dict[str, float]:
    """Return the share of its remaining weights that each layer of a network loses in a round (the paper's Figure 2).

    `models.kinds_of` determines which layers are prunable and of which kind they are. Shortcuts are not pruned by
    default, as in the paper's section 4. `prune_layers` overrides the rate of single layers. Raises LabError if it
    names a layer that is not prunable or does not exist.
    """
    rates = {
        "conv": settings.prune_conv, "fc": settings.prune_fc, "output": settings.prune_output, "shortcut": 0.0,
    }  # fmt: skip
    found = {name: rates[kind] for name, kind in kinds_of(model).items()}
    by_layer = {name.removesuffix(".weight"): name for name in found}
    for layer, rate in settings.prune_layers:
        found[by_layer[choose("prune_layers", layer, by_layer)]] = rate
    return found


def prune(
    scores: Scores, mask: Mask, rates: dict[str, float], scope: str = "layer", keep_at_least: float = 0.0
) -> Mask:
    """Prune the lowest-scored of the remaining weights, exactly floor(rate x remaining) of them, and return a new mask.

    scope "layer" or "erk": each layer loses its own share. scope "global": the weights of all layers with a rate above
    zero are ranked together, and floor(sum of rate x remaining) of them are pruned; layers of rate 0 are left alone.
    Of equal scores, the one with the lower index is pruned first. `keep_at_least` guards layers against collapse: each
    keeps its best weights, at least that share of all it has (of equal ones, those with the lower index), and scope
    "global" prunes other layers instead, while it can. The new mask is nested in `mask`.
    Raises LabError if a score is nan.
    """
    due = {name: rates[name] * int(m.sum()) for name, m in mask.items() if rates[name] > 0}
    return _without_lowest(scores, mask, due, scope, keep_at_least)


def prune_to(scores: Scores, mask: Mask, sparsity: float, names: list[str], scope: str = "global") -> Mask:
    """Prune the lowest-scored weights of the layers `names` until a share `sparsity` of their weights is pruned.

    The share is exact to one weight. scope "layer": it applies to each layer. scope "global": it applies to all layers
    together. scope "erk": each layer keeps the share given by `erk_densities`. Weights that are pruned already stay
    pruned and count towards the share. Otherwise like `prune`.
    """
    shares = dict.fromkeys(names, sparsity)
    if scope == "erk":
        shares = {name: 1 - d for name, d in erk_densities({n: mask[n].shape for n in names}, sparsity).items()}
    return prune_to_shares(scores, mask, shares, scope)


def prune_to_shares(scores: Scores, mask: Mask, shares: dict[str, float], scope: str) -> Mask:
    """Like `prune_to`, with a share to prune for each layer. Layers without a share are left alone.

    With scope "global" the layers are pruned together, to as many pruned weights as their shares add up to.
    """
    due = {name: share * mask[name].numel() - int((~mask[name]).sum()) for name, share in shares.items()}
    return _without_lowest(scores, mask, due, scope)


def erk_densities(shapes: dict[str, tuple[int, ...]], sparsity: float) -> dict[str, float]:
    """Return the share of its weights that each layer keeps, by Erdos-Renyi-kernel (arXiv 1911.11134, section 3).

    A layer keeps weights in proportion to the sum of its dimensions, so wide layers are the sparsest. A layer that
    would keep more weights than it has stays whole, and the other layers are pruned more, so that a share `sparsity` of
    all weights is pruned.
    """
    sizes, whole = {name: math.prod(shape) for name, shape in shapes.items()}, set()
    kept = (1 - sparsity) * sum(sizes.values())
    while True:
        thinned = [name for name in shapes if name not in whole]
        per_dimension = (kept - sum(sizes[name] for name in whole)) / max(1, sum(sum(shapes[n]) for n in thinned))
        full = {name for name in thinned if per_dimension * sum(shapes[name]) > sizes[name]}
        if not full:
            return {n: 1.0 if n in whole else per_dimension * sum(shapes[n]) / sizes[n] for n in shapes}
        whole |= full


def rounded_down(count: float) -> int:
    """Return floor(count), where products such as 0.29 x 100 = 28.999999999999996, and their sums, count as exact."""
    return math.floor(count + 1e-9 + 1e-15 * count)


def _without_lowest(scores: Scores, mask: Mask, due: dict[str, float], scope: str, keep_at_least: float = 0.0) -> Mask:
    """Return a copy of the mask in which the lowest-scored remaining weights are pruned, as many as are due.

    `due` (layer -> number of weights) is rounded down, in each layer or, with scope "global", for all of them together.
    The best weights of each layer, a share `keep_at_least` of all its weights, are no candidates.
    """
    choose("scope", scope, ("layer", "global", "erk"))
    _check_numbers(scores, mask)
    pruned = {name: m.clone(memory_format=torch.contiguous_format) for name, m in mask.items()}
    free = {name: mask[name] & ~_best(scores[name], mask[name], keep_at_least) for name in due}
    for names in [list(due)] if scope == "global" else [[name] for name in due]:
        places = [free[name].flatten().nonzero().squeeze(1) for name in names]
        quota = min(rounded_down(sum(due[name] for name in names)), sum(map(len, places)))
        if quota <= 0:
            continue
        candidates = [scores[name].flatten()[at] for name, at in zip(names, places, strict=True)]
        dropped = _lowest(torch.cat(candidates), quota).split(list(map(len, places)))
        for name, at, drop in zip(names, places, dropped, strict=True):
            pruned[name].view(-1)[at[drop]] = False
    return pruned


def _check_numbers(scores: Scores, mask: Mask) -> None:
    for name, m in mask.items():
        if scores[name].flatten()[m.flatten()].isnan().any():
            raise LabError(f"cannot prune: the scores of {name} are not numbers (did the training diverge?)")


def _best(scores: Tensor, mask: Tensor, share: float) -> Tensor:
    """Return the highest-scored of the remaining weights, a share of all weights of the layer rounded up, as a mask."""
    if not share or not mask.any():
        return torch.zeros_like(mask)
    count = min(max(1, -rounded_down(-share * mask.numel())), int(mask.sum()))
    return _lowest(-torch.where(mask, scores.double(), -math.inf).flatten(), count).view(mask.shape)


def _lowest(values: Tensor, count: int) -> Tensor:
    """Return which of the values (n,) are the `count` lowest, the first among equals. Faster than sorting, by 10x."""
    threshold = values.kthvalue(count).values
    below, equal = values < threshold, values == threshold
    return below | (equal & (equal.cumsum(0) <= count - below.sum()))
