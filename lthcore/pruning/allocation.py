"""Allocation: how many weights are pruned in each layer, and which ones."""

import math

import torch
from torch import Tensor, nn

from lthcore.errors import LabError, choose
from lthcore.masks import Mask
from lthcore.models import kinds_of
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
    keeps at least that share of all its weights, and scope "global" prunes other layers instead, while it can. The new
    mask is nested in `mask`. Raises LabError if a score is nan.
    """
    remaining = {name: int(m.sum()) for name, m in mask.items()}
    _check_numbers(scores, mask)
    quotas = [
        (names, rounded_down(sum(rates[name] * remaining[name] for name in names)))
        for names in _groups([name for name in mask if rates[name] > 0], scope)
    ]
    if keep_at_least:
        scores, guarded = _guarded(scores, mask, keep_at_least)
        quotas = [(names, min(n, sum(remaining[m] - guarded[m] for m in names))) for names, n in quotas]
    return _without_lowest(scores, mask, quotas)


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
    _check_numbers(scores, mask)
    quotas = []
    for group in _groups(list(shares), scope):
        gone = sum(int((~mask[name]).sum()) for name in group)
        quotas.append((group, max(0, rounded_down(sum(shares[name] * mask[name].numel() for name in group)) - gone)))
    return _without_lowest(scores, mask, quotas)


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


def _groups(names: list[str], scope: str) -> list[list[str]]:
    """Return the groups of layers whose weights are ranked together: single layers, or one group of all layers."""
    choose("scope", scope, ("layer", "global", "erk"))
    return [names] if scope == "global" else [[name] for name in names]


def rounded_down(count: float) -> int:
    """Return floor(count), where products such as 0.29 x 100 = 28.999999999999996, and their sums, count as exact."""
    return math.floor(count + 1e-9 + 1e-15 * count)


def _without_lowest(scores: Scores, mask: Mask, quotas: list[tuple[list[str], int]]) -> Mask:
    """Return a copy of the mask in which each group of layers has lost its quota of lowest-scored remaining weights."""
    remaining = {name: m.flatten().nonzero().squeeze(1) for name, m in mask.items()}
    candidates = {name: scores[name].flatten()[remaining[name]] for name in mask}
    pruned = {name: m.clone(memory_format=torch.contiguous_format) for name, m in mask.items()}
    for names, quota in quotas:
        if quota:
            dropped = _lowest(torch.cat([candidates[name] for name in names]), quota)
            for name, drop in zip(names, dropped.split([len(remaining[name]) for name in names]), strict=True):
                pruned[name].view(-1)[remaining[name][drop]] = False
    return pruned


def _check_numbers(scores: Scores, mask: Mask) -> None:
    for name, m in mask.items():
        if scores[name].flatten()[m.flatten()].isnan().any():
            raise LabError(f"cannot prune: the scores of {name} are not numbers (did the training diverge?)")


def _guarded(scores: Scores, mask: Mask, share: float) -> tuple[Scores, dict[str, int]]:
    """Return scores that protect a share of each layer's weights, and the number of protected weights by layer.

    The best of the remaining weights are protected, by scores of infinity.
    """
    out, guarded = {}, {}
    for name, m in mask.items():
        guarded[name] = min(math.ceil(share * m.numel()), int(m.sum()))
        flat = torch.where(m, scores[name].double(), -math.inf).flatten()
        best = _lowest(-flat, guarded[name]) if guarded[name] else torch.zeros_like(flat, dtype=torch.bool)
        out[name] = flat.masked_fill(best, math.inf).view(m.shape)
    return out, guarded


def _lowest(values: Tensor, count: int) -> Tensor:
    """Return which of the values (n,) are the `count` lowest, the first among equals. Faster than sorting, by 10x."""
    threshold = values.kthvalue(count).values
    below, equal = values < threshold, values == threshold
    return below | (equal & (equal.cumsum(0) <= count - below.sum()))
