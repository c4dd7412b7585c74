"""Pruning criteria: functions that score each weight. allocation.py decides which weights are pruned by the scores.

Criteria that score weights before training are in saliency.py, criteria for whole units in units.py.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from lthcore.data.datasets import Data
from lthcore.errors import LabError, choose_registered, one_line
from lthcore.masks import Mask
from lthcore.models.weights import Weights
from lthcore.registry import CRITERIA, is_user_defined, register_criterion
from lthcore.settings import Settings

Scores = dict[str, Tensor]


class PruningContext(NamedTuple):
    """What a criterion may use: the initial weights of the trial, and the mask and weights of a training run.

    `best` are the weights at early stopping, `final` those at the end. Without a validation set there is no early
    stopping, and `best` is `final`.
    """

    settings: Settings
    data: Data
    mask: Mask
    initial: Weights
    best: Weights
    final: Weights
    seed: int


@register_criterion(label="large final", colour="#c07fae")
def magnitude(seen: PruningContext) -> Scores:
    """|w_T|: the paper's criterion (section 2)."""
    return {name: seen.final[name].abs() for name in seen.mask}


@register_criterion(label="large at init", colour="#b8860b", trained=False)
def magnitude_at_init(seen: PruningContext) -> Scores:
    """|w_0|: pruning before training (the paper's Figure 18)."""
    return {name: seen.initial[name].abs() for name in seen.mask}


@register_criterion(colour="#3d8c5c")
def magnitude_increase(seen: PruningContext) -> Scores:
    """|w_T| - |w_0| (arXiv 1905.01067)."""
    return {name: seen.final[name].abs() - seen.initial[name].abs() for name in seen.mask}


@register_criterion(colour="#8c6d31")
def movement(seen: PruningContext) -> Scores:
    """|w_T - w_0| (arXiv 1905.01067)."""
    return {name: (seen.final[name] - seen.initial[name]).abs() for name in seen.mask}


@register_criterion(uses_best=True)
def late_movement(seen: PruningContext) -> Scores:
    """|w_T - w_best|: weights that keep moving after the early stop are kept ("low-movement" pruning)."""
    return {name: (seen.final[name] - seen.best[name]).abs() for name in seen.mask}


@register_criterion(uses_best=True)
def late_stillness(seen: PruningContext) -> Scores:
    """-|w_T - w_best|: weights that keep moving after the early stop are pruned ("high-movement" pruning)."""
    return {name: -(seen.final[name] - seen.best[name]).abs() for name in seen.mask}


@register_criterion(colour="#808080", style=":", trained=False)
def random(seen: PruningContext) -> Scores:
    """A draw for each weight, uniform at random: the control that every criterion has to beat."""
    generator = torch.Generator().manual_seed(seen.seed)
    return {name: torch.rand(m.shape, generator=generator) for name, m in seen.mask.items()}


@register_criterion(label="small final", colour="#c07fae", style=":")
def small_magnitude(seen: PruningContext) -> Scores:
    """-|w_T|: small_final of arXiv 1905.01067."""
    return {name: -seen.final[name].abs() for name in seen.mask}


@register_criterion(label="small at init", colour="#b8860b", style=":", trained=False)
def small_magnitude_at_init(seen: PruningContext) -> Scores:
    """-|w_0|: small_init of arXiv 1905.01067."""
    return {name: -seen.initial[name].abs() for name in seen.mask}


@register_criterion(label="large at both ends", colour="#7a4fa3")
def large_init_large_final(seen: PruningContext) -> Scores:
    """min(a |w_T|, |w_0|): large at both ends; a makes the two equal in mean (arXiv 1905.01067)."""
    scores = {}
    for name, m in seen.mask.items():  # means over remaining weights: pruned ones are zero in w_T, not in w_0
        t, o = seen.final[name].abs(), seen.initial[name].abs()
        scores[name] = torch.minimum(t * (o[m].mean() / t[m].mean().clamp(min=1e-12)), o)
    return scores


@register_criterion(label="large final of the same sign", colour="#2a9d8f")
def magnitude_same_sign(seen: PruningContext) -> Scores:
    """max(0, w_T sign(w_0)): large at the end with the sign of the start (arXiv 1905.01067)."""
    return {name: (seen.final[name] * seen.initial[name].sign()).clamp(min=0) for name in seen.mask}


def scores_of(criterion: str, seen: PruningContext) -> Scores:
    """Return the score of every prunable weight (or unit) by the criterion of this name; the lowest are pruned first.

    Raises LabError if there is no such criterion, and if a user-defined criterion fails or does not return a tensor of
    the right shape for each layer. A user-defined criterion gets copies of the mask and weights, which it may change in
    place, and the data themselves, which it must not change. Its scores may be truth values, as `weight.abs() > 0.1`.
    """
    known = CRITERIA[choose_registered("criterion", criterion, CRITERIA)]
    if not is_user_defined(known.score):
        return known.score(seen)
    try:
        scores = known.score(_copied(seen))
    except Exception as error:
        raise LabError(f"criterion {criterion!r} failed ({type(error).__name__}: {one_line(error)})") from error
    for name, m in seen.mask.items():
        shape = m.shape if known.prunes == "weights" else m.shape[:1]
        given = scores.get(name) if isinstance(scores, dict) else None
        if not isinstance(given, Tensor) or given.shape != shape:
            what = f"a tensor of {tuple(given.shape)}" if isinstance(given, Tensor) else type(given).__name__
            raise LabError(
                f"criterion {criterion!r}: {name} needs a tensor of {tuple(shape)} as its scores, not {what}"
            )
    return {name: scores[name].float() if scores[name].dtype == torch.bool else scores[name] for name in seen.mask}


def _copied(seen: PruningContext) -> PruningContext:
    """Return the context with copies of its mask and weights: later rounds and other arms start from the originals."""
    tensors = {what: getattr(seen, what) for what in ("mask", "initial", "best", "final")}
    return seen._replace(**{what: {name: t.clone() for name, t in of.items()} for what, of in tensors.items()})
