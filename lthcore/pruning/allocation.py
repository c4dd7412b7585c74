"""Allocation: how many weights go in each layer, and which."""

import math

import torch
from torch import Tensor, nn

from lthcore.errors import LabError, choose
from lthcore.masks import Mask
from lthcore.models import kinds_of
from lthcore.pruning.criteria import Scores
from lthcore.settings import Settings


def layer_rates(settings: Settings, model: nn.Module) -> dict[str, float]:
    """The share of its remaining weights that each layer of a network loses in a round (the paper's Figure 2).

    Which layers are prunable, and what kind each is, is asked of the network (`models.kinds_of`). The paper's section 4
    leaves shortcuts whole. `prune_layers` has a rate of its own for a layer. Raises LabError for a layer that is none.
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
    """Drop the lowest-scored of the weights that remain, exactly floor(rate x remaining) of them.

    scope "layer" or "erk": each layer loses its own share. scope "global": the layers with a rate above zero are ranked
    together and lose the floor of what their rates add up to; a layer of rate 0 is left alone. Equal scores go by
    index, lower first. `keep_at_least` guards layers against collapse: each keeps that share of all its weights, and
    others are taken in their place while there are any. Returns a new mask, nested in `mask`. Raises LabError for
    scores that are not numbers.
    """
    remaining = {name: int(m.sum()) for name, m in mask.items()}
    _check_numbers(scores, mask)
    quotas = [
        (names, _floor(sum(rates[name] * remaining[name] for name in names)))
        for names in _groups([name for name in mask if rates[name] > 0], scope)
    ]
    if keep_at_least:
        scores, guarded = _guarded(scores, mask, keep_at_least)
        quotas = [(names, min(n, sum(remaining[m] - guarded[m] for m in names))) for names, n in quotas]
    return _without_lowest(scores, mask, quotas)


def prune_to(scores: Scores, mask: Mask, sparsity: float, names: list[str], scope: str = "global") -> Mask:
    """Drop the lowest-scored weights of the layers `names` until a share `sparsity` of them is pruned, to one weight.

    scope "layer": of each of them; "global": of all of them together; "erk": of each as much as `erk_densities` says.
    What is pruned already stays so, and counts. Otherwise as `prune`.
    """
    shares = dict.fromkeys(names, sparsity)
    if scope == "erk":
        shares = {name: 1 - d for name, d in erk_densities({n: mask[n].shape for n in names}, sparsity).items()}
    return prune_to_shares(scores, mask, shares, scope)


def prune_to_shares(scores: Scores, mask: Mask, shares: dict[str, float], scope: str) -> Mask:
    """As `prune_to`, with a share to be pruned for each layer; under scope "global", of all together what they add to.

    Layers without a share are left alone.
    """
    _check_numbers(scores, mask)
    quotas = []
    for group in _groups(list(shares), scope):
        gone = sum(int((~mask[name]).sum()) for name in group)
        quotas.append((group, max(0, _floor(sum(shares[name] * mask[name].numel() for name in group)) - gone)))
    return _without_lowest(scores, mask, quotas)


def erk_densities(shapes: dict[str, tuple[int, ...]], sparsity: float) -> dict[str, float]:
    """The share of its weights that each layer keeps, by Erdos-Renyi-kernel (arXiv 1911.11134, section 3).

    A layer keeps weights in proportion to the sum of its dimensions, so wide layers are the sparsest. One that would
    keep more than it has stays whole, and the others share what is left: a share `sparsity` of all weights is pruned.
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
    """The layers that compete: each alone, or all together."""
    choose("scope", scope, ("layer", "global", "erk"))
    return [names] if scope == "global" else [[name] for name in names]


def _floor(count: float) -> int:
    # undoes the rounding of products such as 0.29 x 100 = 28.999999999999996, and of sums of them in large networks
    return math.floor(count + 1e-9 + 1e-15 * count)


def _without_lowest(scores: Scores, mask: Mask, quotas: list[tuple[list[str], int]]) -> Mask:
    """A copy of the mask without, in each group of layers, so many of the lowest-scored weights that remain."""
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
    """Scores under which the best of each layer cannot go, and how many those are."""
    out, guarded = {}, {}
    for name, m in mask.items():
        guarded[name] = min(math.ceil(share * m.numel()), int(m.sum()))
        flat = torch.where(m, scores[name].double(), -math.inf).flatten()
        best = _lowest(-flat, guarded[name]) if guarded[name] else torch.zeros_like(flat, dtype=torch.bool)
        out[name] = flat.masked_fill(best, math.inf).view(m.shape)
    return out, guarded


def _lowest(values: Tensor, count: int) -> Tensor:
    """Which of the values (n,) are the `count` lowest; of equals the first. Selects instead of sorting: 10x faster."""
    threshold = values.kthvalue(count).values
    below, equal = values < threshold, values == threshold
    return below | (equal & (equal.cumsum(0) <= count - below.sum()))
