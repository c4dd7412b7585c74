"""Masks of the arms of a search: which weights each round keeps, by the scores of a pruning criterion.

A source is where masks come from: an arm that is pruned by its own outcomes (`ticket`, `continued`), or a way to prune
the dense network once (`oneshot`, `by_<criterion>`).
"""

from lthcore import masks
from lthcore.arms import criterion_of, prunes_dense
from lthcore.data.datasets import Data
from lthcore.lottery.lineage import Lineage
from lthcore.lottery.start import Trial
from lthcore.masks import Mask
from lthcore.models.build import build
from lthcore.pruning.allocation import layer_rates, prune, rounded_down
from lthcore.pruning.criteria import PruningContext, Scores, scores_of
from lthcore.pruning.saliency import synflow_mask
from lthcore.pruning.streams import streams_of
from lthcore.pruning.units import prune_units
from lthcore.registry import CRITERIA
from lthcore.seeds import seed_for
from lthcore.settings import Settings


def needs_training(source: str) -> bool:
    """Return whether the masks of a source depend on trained weights. Other masks can be recomputed on any machine."""
    criterion = criterion_of(source)
    return not criterion or CRITERIA[criterion].trained


def mask_of(settings: Settings, data: Data, lineage: Lineage, trial: Trial, source: str, k: int) -> Mask:
    """Return the mask of a source at round k: from the lineage if it is known, else computed now and recorded there.

    One-shot pruning prunes k times by the same scores, those of the dense network. It removes as many weights as the
    ticket's pruning: in each layer, or in all together if they are ranked together at one rate. Its masks of all rounds
    are recorded at once, while the weights of the dense network are available. `by_<criterion>` is one-shot pruning by
    that criterion. Masks of `by_synflow` are computed each time and not recorded. Raises AssertionError if a source is
    pruned by its own outcomes and its previous mask is not known.
    """
    number = trial.number
    if source == "by_synflow":
        rates = layer_rates(settings, build(settings, data.shape, data.classes))
        densities = densities_after(settings, trial.dense.mask, rates, k)
        return synflow_mask(seen_by(settings, data, trial, source, k), densities, settings.scope)
    once, known = prunes_dense(source), lineage.known.get((number, source), 0)
    if k > known + 1 and not once:  # each round is scored by the outcome of the round before
        raise AssertionError(f"round {k} of {source} does not follow on what is known")
    if k > known:
        scores = scores_for(settings, data, trial, source, k)
        for j in range(known + 1, (settings.rounds if once else k) + 1):
            before = lineage.mask(number, source, j - 1) if j > 1 else trial.dense.mask
            lineage.note(number, source, j, next_round(settings, data, scores, before) if scores else before)
    return lineage.mask(number, source, k)


def scores_for(settings: Settings, data: Data, trial: Trial, source: str, k: int) -> Scores:
    """Return the scores by which a source prunes at round k, the lowest first; empty if nothing can be pruned by them.

    They are empty for criteria that compare with the early stop if the training run ended there: all scores are then 0.
    """
    criterion = criterion_of(source) or settings.criterion
    scores = scores_of(criterion, seen_by(settings, data, trial, source, k))
    if CRITERIA[criterion].uses_best and not any(score.any() for score in scores.values()):
        return {}
    return {name: -score for name, score in scores.items()} if source.endswith("-inverted") else scores


def seen_by(settings: Settings, data: Data, trial: Trial, source: str, k: int) -> PruningContext:
    """Return the weights and settings that the criterion of a source may use at round k."""
    once = prunes_dense(source)
    outcome = trial.dense if once else trial.latest[source]
    seed = seed_for(settings.seed, "criterion", trial.number, "oneshot" if once else source, 0 if once else k)
    best = outcome.early_stop or outcome.weights
    return PruningContext(settings, data, outcome.mask, trial.theta_0, best, outcome.weights, seed)


def next_round(settings: Settings, data: Data, scores: Scores, mask: Mask) -> Mask:
    """Return the mask after one more round of pruning by these scores."""
    model = build(settings, data.shape, data.classes)
    rates = layer_rates(settings, model)
    if settings.granularity == "units":
        return prune_units(scores, mask, streams_of(model), rates, settings.scope)
    return prune(scores, mask, rates, settings.scope, settings.keep_at_least)


def densities_after(settings: Settings, mask: Mask, rates: dict[str, float], k: int) -> dict[str, float]:
    """Return the share of weights that remain after k rounds in each layer with a pruning rate above zero.

    With scope "global" every one of these layers gets the share that remains in all of them together.
    """
    pruned = {name: m for name, m in mask.items() if rates[name] > 0}
    if settings.scope == "global":
        weights = sum(m.numel() for m in pruned.values())
        left = _left_after(masks.weights_left(pruned), max(rates.values()), k) / weights if pruned else 1.0
        return dict.fromkeys(pruned, left)  # check_settings makes sure that all rates above zero are the same
    return {name: _left_after(int(m.sum()), rates[name], k) / m.numel() for name, m in pruned.items()}


def _left_after(weights: int, rate: float, k: int) -> int:
    for _ in range(k):
        weights -= rounded_down(rate * weights)
    return weights
