"""Masks of arms: which weights the next round keeps, by the scores of a criterion or by those of the dense network.

A source is where masks come from: an arm that is pruned by its own outcomes (`ticket`, `continued`), or a way to prune
the dense network once (`oneshot`, `by_<criterion>`).
"""

import torch

from lthcore import masks
from lthcore.arms import arm_of, criterion_of, prunes_dense
from lthcore.data.datasets import Data
from lthcore.lottery.lineage import Lineage
from lthcore.lottery.start import Trial
from lthcore.masks import Mask
from lthcore.models import build
from lthcore.pruning.allocation import layer_rates, prune
from lthcore.pruning.criteria import PruningContext, Scores, scores_of
from lthcore.pruning.saliency import synflow_mask
from lthcore.pruning.streams import units_of
from lthcore.pruning.units import prune_units
from lthcore.registry import CRITERIA
from lthcore.seeds import seed_for
from lthcore.settings import Settings


def needs_training(source: str) -> bool:
    """Whether masks of a source follow from trained weights; those of the others are found anew anywhere."""
    criterion = criterion_of(source)
    return not criterion or CRITERIA[criterion].trained


def mask_of(settings: Settings, data: Data, lineage: Lineage, trial: Trial, arm: str, k: int) -> Mask:
    """The mask of `arm` at round k: from the lineage where it is known, else found now and noted there.

    One-shot pruning prunes k times by the same scores, those of the dense network: as many weights as the ticket's, to
    the weight. Its masks are noted at once, while the dense network's weights are at hand. `by_<criterion>` is one-shot
    pruning by that criterion.
    """
    source, number = arm_of(arm).masks, trial.number
    if source == "by_synflow":
        rates = layer_rates(settings, build(settings, data.shape, data.classes))
        densities = densities_after(settings, trial.dense.mask, rates, k)
        return synflow_mask(seen_by(settings, data, trial, source, k), densities, settings.scope)
    once, scores = prunes_dense(source), None
    for j in range(lineage.known.get((number, source), 0) + 1, (settings.rounds if once else k) + 1):
        if scores is None or not once:
            scores = scores_for(settings, data, trial, source, j)
        before = lineage.mask(number, source, j - 1) if j > 1 else trial.dense.mask
        lineage.note(number, source, j, next_round(settings, data, scores, before) if scores else before)
    return lineage.mask(number, source, k)


def scores_for(settings: Settings, data: Data, trial: Trial, source: str, k: int) -> Scores:
    """What a source prunes by at round k: the lowest go. Empty where there is nothing to go by, and nothing is pruned.

    So it is for the criteria late_... where a training ended at its best.
    """
    criterion = criterion_of(source) or settings.criterion
    scores = scores_of(criterion, seen_by(settings, data, trial, source, k))
    if criterion.startswith("late_") and not any(score.any() for score in scores.values()):
        return {}
    return {name: -score for name, score in scores.items()} if source.endswith("-inverted") else scores


def seen_by(settings: Settings, data: Data, trial: Trial, source: str, k: int) -> PruningContext:
    """What the criterion of a source may look at for round k."""
    once = prunes_dense(source)
    grown = trial.dense if once else trial.latest[source]
    seed = seed_for(settings.seed, "criterion", trial.number, "oneshot" if once else source, 0 if once else k)
    best = grown.early_stop or grown.weights
    return PruningContext(settings, data, grown.mask, trial.theta_0, best, grown.weights, seed)


def next_round(settings: Settings, data: Data, scores: Scores, mask: Mask) -> Mask:
    """The mask after one more round of pruning by these scores."""
    if settings.granularity == "units":
        return prune_units(scores, mask, units_of(settings, data.shape, data.classes), settings)
    rates = layer_rates(settings, build(settings, data.shape, data.classes))
    return prune(scores, mask, rates, settings.scope, settings.keep_at_least)


def densities_after(settings: Settings, mask: Mask, rates: dict[str, float], k: int) -> dict[str, float]:
    """The share of its weights that each layer with a rate has after k rounds; under scope "global", all together."""
    ties = {name: torch.zeros(m.shape) for name, m in mask.items()}
    for _ in range(k):
        mask = prune(ties, mask, rates, settings.scope)
    pruned = {name: m for name, m in mask.items() if rates[name] > 0}
    if settings.scope == "global":
        total = sum(m.numel() for m in pruned.values())
        return dict.fromkeys(pruned, masks.weights_left(pruned) / total if pruned else 1.0)
    return {name: float(m.double().mean()) for name, m in pruned.items()}
