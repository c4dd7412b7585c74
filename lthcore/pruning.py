"""Pruning: what each weight is worth (scores), and which weights go (prune). The two know nothing of each other."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lthcore.data import Data
from lthcore.errors import LabError, choose
from lthcore.masks import Mask
from lthcore.models import Weights
from lthcore.settings import Kind, Settings

Scores = dict[str, Tensor]


class Seen(NamedTuple):
    """What a criterion may look at: a training's weights at its start, at its early stop and at its end, its mask.

    Without a validation set there is no early stop: `best` is `final` then.
    """

    settings: Settings
    data: Data
    mask: Mask
    initial: Weights
    best: Weights
    final: Weights
    seed: int


def magnitude(seen: Seen) -> Scores:
    """|w_T|: the paper's criterion (section 2)."""
    return {name: seen.final[name].abs() for name in seen.mask}


def magnitude_at_init(seen: Seen) -> Scores:
    """|w_0|: pruning before training (the paper's Figure 18)."""
    return {name: seen.initial[name].abs() for name in seen.mask}


def magnitude_increase(seen: Seen) -> Scores:
    """|w_T| - |w_0| (arXiv 1905.01067)."""
    return {name: seen.final[name].abs() - seen.initial[name].abs() for name in seen.mask}


def movement(seen: Seen) -> Scores:
    """|w_T - w_0| (arXiv 1905.01067)."""
    return {name: (seen.final[name] - seen.initial[name]).abs() for name in seen.mask}


def late_movement(seen: Seen) -> Scores:
    """|w_T - w_best|: what goes on moving after the early stop is kept ("low-movement" pruning)."""
    return {name: (seen.final[name] - seen.best[name]).abs() for name in seen.mask}


def late_stillness(seen: Seen) -> Scores:
    """-|w_T - w_best|: what goes on moving after the early stop is pruned ("high-movement" pruning)."""
    return {name: -(seen.final[name] - seen.best[name]).abs() for name in seen.mask}


def random(seen: Seen) -> Scores:
    """A draw for each weight: the control that every criterion has to beat."""
    generator = torch.Generator().manual_seed(seen.seed)
    return {name: torch.rand(m.shape, generator=generator) for name, m in seen.mask.items()}


def small_magnitude(seen: Seen) -> Scores:
    """-|w_T|: small_final of arXiv 1905.01067."""
    return {name: -seen.final[name].abs() for name in seen.mask}


def small_magnitude_at_init(seen: Seen) -> Scores:
    """-|w_0|: small_init of arXiv 1905.01067."""
    return {name: -seen.initial[name].abs() for name in seen.mask}


def large_init_large_final(seen: Seen) -> Scores:
    """min(a |w_T|, |w_0|): large at both ends; a makes the two equal in mean (arXiv 1905.01067)."""
    ends = {name: (seen.final[name].abs(), seen.initial[name].abs()) for name in seen.mask}
    return {name: torch.minimum(t * (o.mean() / t.mean().clamp(min=1e-12)), o) for name, (t, o) in ends.items()}


def magnitude_same_sign(seen: Seen) -> Scores:
    """max(0, w_T sign(w_0)): large at the end with the sign of the start (arXiv 1905.01067)."""
    return {name: (seen.final[name] * seen.initial[name].sign()).clamp(min=0) for name in seen.mask}


CRITERIA = {
    "magnitude": magnitude,
    "magnitude_same_sign": magnitude_same_sign,
    "large_init_large_final": large_init_large_final,
    "small_magnitude": small_magnitude,
    "small_magnitude_at_init": small_magnitude_at_init,
    "magnitude_at_init": magnitude_at_init,
    "magnitude_increase": magnitude_increase,
    "movement": movement,
    "late_movement": late_movement,
    "late_stillness": late_stillness,
    "random": random,
}


def scores(criterion: str, seen: Seen, known: dict[str, Callable[[Seen], Scores]] = CRITERIA) -> Scores:
    """The score of every prunable weight (or unit) under `criterion`: the lowest are pruned first."""
    return known[choose("criterion", criterion, known)](seen)


def kind_of(name: str, m: Tensor) -> Kind:
    """What kind of layer a weight is of: a convolution, a shortcut's projection, a dense or the output layer."""
    if name == "output.weight":
        return "output"
    if name.endswith("shortcut.weight"):
        return "shortcut"
    return "conv" if m.ndim == 4 else "fc"


def layer_rates(settings: Settings, mask: Mask) -> dict[str, float]:
    """The share of its remaining weights that each layer loses in a round (the paper's Figure 2).

    The paper's section 4 leaves shortcuts whole.
    """
    rates = {
        "conv": settings.prune_conv, "fc": settings.prune_fc, "output": settings.prune_output, "shortcut": 0.0,
    }  # fmt: skip
    return {name: rates[kind_of(name, m)] for name, m in mask.items()}


def prune(
    scores: Scores, mask: Mask, rates: dict[str, float], scope: str = "layer", keep_at_least: float = 0.0
) -> Mask:
    """Drop the lowest-scored of the weights that remain, exactly floor(rate x remaining) of them.

    scope "layer": each layer loses its own share. scope "global": the layers with a rate above zero are ranked
    together and lose the floor of what their rates add up to; a layer of rate 0 is left alone. Equal scores go by
    index, lower first. `keep_at_least` guards layers against collapse: each keeps that share of all its weights, and
    others are taken in their place while there are any. Returns a new mask, nested in `mask`. Raises LabError for
    scores that are not numbers.
    """
    remaining = {name: int(m.sum()) for name, m in mask.items()}
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

    scope "layer": of each of them; "global": of all of them together. What is pruned already stays so, and counts.
    Otherwise as `prune`.
    """
    quotas = []
    for group in _groups(names, scope):
        gone = sum(int((~mask[name]).sum()) for name in group)
        quotas.append((group, max(0, _floor(sparsity * sum(mask[name].numel() for name in group)) - gone)))
    return _without_lowest(scores, mask, quotas)


def _groups(names: list[str], scope: str) -> list[list[str]]:
    """The layers that compete: each alone, or all together."""
    choose("scope", scope, ("layer", "global"))
    return [[name] for name in names] if scope == "layer" else [names]


def _floor(count: float) -> int:
    return math.floor(count + 1e-9)  # undoes the rounding of products such as 0.29 x 100 = 28.999999999999996


def _without_lowest(scores: Scores, mask: Mask, quotas: list[tuple[list[str], int]]) -> Mask:
    """A copy of the mask without, in each group of layers, so many of the lowest-scored weights that remain."""
    remaining = {name: m.flatten().nonzero().squeeze(1) for name, m in mask.items()}
    worth = {name: scores[name].flatten()[remaining[name]] for name in mask}
    for name in mask:
        if worth[name].isnan().any():
            raise LabError(f"cannot prune: the scores of {name} are not numbers (did the training diverge?)")
    pruned = {name: m.clone(memory_format=torch.contiguous_format) for name, m in mask.items()}
    for names, quota in quotas:
        if quota:
            dropped = _lowest(torch.cat([worth[name] for name in names]), quota)
            for name, drop in zip(names, dropped.split([len(remaining[name]) for name in names]), strict=True):
                pruned[name].view(-1)[remaining[name][drop]] = False
    return pruned


def _guarded(scores: Scores, mask: Mask, share: float) -> tuple[Scores, dict[str, int]]:
    """Scores under which the best of each layer cannot go, and how many those are."""
    out, guarded = {}, {}
    for name, m in mask.items():
        guarded[name] = min(math.ceil(share * m.numel()), int(m.sum()))
        flat = torch.where(m, scores[name].double(), -math.inf).flatten()
        best = flat.topk(guarded[name]).indices
        out[name] = flat.index_fill(0, best, math.inf).view(m.shape)
    return out, guarded


def _lowest(values: Tensor, count: int) -> Tensor:
    """Which of the values (n,) are the `count` lowest; of equals the first. Selects instead of sorting: 10x faster."""
    threshold = values.kthvalue(count).values
    below, equal = values < threshold, values == threshold
    return below | (equal & (equal.cumsum(0) <= count - below.sum()))
