"""The lottery ticket experiment (arXiv 1803.03635, section 2): train, prune, rewind, repeat, and its controls.

Which arms there are, and where each takes its masks and its weights from, is in lthcore/arms.py.
"""

from collections.abc import Iterator
from functools import partial
from typing import Protocol

import torch

from lthcore import masks
from lthcore.arms import PRUNED_THEMSELVES, arm_of, criterion_of, prunes_dense
from lthcore.data.datasets import Data, check_size, classes_of, image_shape, pick_device
from lthcore.errors import LabError, choose
from lthcore.lottery.lineage import Lineage
from lthcore.lottery.start import Trial, begin, check_rewound, start
from lthcore.masks import Mask
from lthcore.models import Weights, build, check_outputs, check_takes, initial_weights, kinds_of, outline
from lthcore.pruning.allocation import layer_rates, prune
from lthcore.pruning.criteria import PruningContext, Scores, scores_of
from lthcore.pruning.saliency import synflow_mask
from lthcore.pruning.streams import streams_of, units_of
from lthcore.pruning.units import prune_units
from lthcore.registry import CRITERIA, MODELS
from lthcore.seeds import seed_for
from lthcore.settings import DynamicSettings, Recipe, Settings
from lthcore.sources.catalogue import dataset_of
from lthcore.training.parallel import train_cohort
from lthcore.training.state import Replicate, TrainState

Cohort = dict[Replicate, TrainState]
Found = dict[tuple[int, int], Mask]  # (trial, round) -> the mask found elsewhere


class TrainCohort(Protocol):
    """Trains the networks of a round, which stand where they start, and returns their outcomes in the same order."""

    def __call__(self, cohort: Cohort) -> Cohort:
        """The outcomes."""


def find_tickets(
    settings: Settings,
    data: Data,
    train: TrainCohort | None = None,
    found: Found | None = None,
    lineage: Lineage | None = None,
) -> Iterator[Cohort]:
    """Find winning tickets by iterative pruning (arXiv 1803.03635, section 2); yield the outcomes of each round.

    `train` takes the cohort of a round as it starts and returns it trained. The default trains in memory;
    `lthcore.run` passes one that remembers what is done. `found` are masks from elsewhere, of the arm transferred;
    `lineage` holds masks that are known already, and gets those that are found. A trial whose ticket diverges ends
    there.
    """
    train, lineage = train or partial(train_in_memory, settings, data), lineage or Lineage()
    model, untrained = build(settings, data.shape, data.classes), untrained_networks(settings, data)
    outcomes = train(untrained)
    yield outcomes
    trials = [
        Trial(r.trial, untrained[r].start, dense, dict.fromkeys(PRUNED_THEMSELVES, dense))
        for r, dense in outcomes.items()
    ]

    for k in range(1, settings.rounds + 1):
        trials, cohort = [trial for trial in trials if not trial.latest["ticket"].diverged], {}
        for trial in trials:
            for arm in settings.arms:
                if trial.latest[arm_of(arm).grows_from].diverged:
                    continue
                elsewhere = arm_of(arm).masks == "elsewhere"
                mask = found[trial.number, k] if elsewhere else mask_of(settings, data, lineage, trial, arm, k)
                for draw in range(settings.draws(arm)):
                    cohort[Replicate(arm, trial.number, draw, k)] = start(settings, model, trial, arm, draw, k, mask)
            if settings.restart == "rewind" and settings.masks_weights:
                check_rewound(cohort[Replicate("ticket", trial.number, 0, k)], trial)
        if not cohort:
            return
        outcomes = train(cohort)
        yield outcomes
        for trial in trials:
            trial.latest |= {r.arm: done for r, done in outcomes.items() if r.trial == trial.number and r.draw == 0}


def untrained_networks(settings: Settings, data: Data) -> Cohort:
    """The dense network of each trial, about to be trained from its initial weights."""
    theta_0 = {trial: initial_weights_of(settings, trial) for trial in range(settings.trials)}
    mask = masks.full_mask(build(settings, data.shape, data.classes))
    return {Replicate("ticket", trial, 0, 0): begin(settings, trial, 0, w, mask) for trial, w in theta_0.items()}


def initial_weights_of(settings: Recipe, trial: int) -> Weights:
    """The weights that a trial starts from, which follow from the seed."""
    model = build(settings, image_shape(settings), classes_of(settings))
    return initial_weights(model, settings, seed_for(settings.seed, "init", trial))


def needs_training(source: str) -> bool:
    """Whether masks of a source follow from trained weights; those of the others are found anew anywhere."""
    criterion = criterion_of(source)
    return not criterion or CRITERIA[criterion].trained


def mask_of(settings: Settings, data: Data, lineage: Lineage, trial: Trial, arm: str, k: int) -> Mask:
    """The mask of `arm` at round k: from the lineage where it is known, else found now and noted there.

    All masks that follow from the dense network are noted at once, while its weights are at hand.
    """
    source = arm_of(arm).masks
    if source == "by_synflow":
        rates = layer_rates(settings, build(settings, data.shape, data.classes))
        densities = densities_after(settings, trial.dense.mask, rates, k)
        return synflow_mask(seen_by(settings, data, trial, source, k), densities, settings.scope)
    last = settings.rounds if prunes_dense(source) else k
    for j in range(lineage.known.get((trial.number, source), 0) + 1, last + 1):
        lineage.note(trial.number, source, j, next_mask(settings, data, lineage, trial, source, j))
    return lineage.mask(trial.number, source, k)


def next_mask(settings: Settings, data: Data, lineage: Lineage, trial: Trial, source: str, k: int) -> Mask:
    """The mask of a source at round k: what the trained network it grows from keeps of the weights it had.

    One-shot pruning prunes k times by the same scores, those of the dense network: as many weights as the ticket's, to
    the weight. `by_<criterion>` is one-shot pruning by that criterion.
    """
    criterion = criterion_of(source) or settings.criterion
    scores = scores_of(criterion, seen_by(settings, data, trial, source, k))
    before = lineage.mask(trial.number, source, k - 1) if k > 1 else trial.dense.mask
    if criterion.startswith("late_") and not any(score.any() for score in scores.values()):
        return before  # the training ended at its best: there is nothing to go by, and the round prunes nothing
    scores = {name: -score for name, score in scores.items()} if source.endswith("-inverted") else scores
    return next_round(settings, data, scores, before)


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


def check_settings(settings: Recipe) -> None:
    """Raise LabError, before anything is computed, for what only the rooms above the settings can judge."""
    if isinstance(settings, Settings):
        fitting = [c for c in CRITERIA.values() if c.prunes == settings.granularity]
        choose("criterion", settings.criterion, [c.name for c in fitting if c.trained])
        for criterion in filter(None, (criterion_of(arm_of(arm).masks) for arm in settings.arms)):
            choose("criterion of an arm", criterion, [c.name for c in CRITERIA.values() if c.prunes == "weights"])
    choose("architecture", settings.architecture, MODELS)
    dataset_of(settings.dataset)
    pick_device(settings.device)
    check_size(settings)
    model = outline(settings, image_shape(settings), classes_of(settings))
    check_outputs(settings, image_shape(settings), classes_of(settings))
    check_takes(settings, image_shape(settings), classes_of(settings))
    if isinstance(settings, Settings):
        layer_rates(settings, model)
    if isinstance(settings, DynamicSettings) and not set(settings.prunable) & set(kinds_of(model).values()):
        raise LabError(f"prunable = {list(settings.prunable)}: {settings.architecture} has no layer of these kinds")
    if getattr(settings, "granularity", "weights") == "units":
        streams_of(model)


def planned(settings: Settings) -> list[Replicate]:
    """Every training of the experiment, in the order of the tables: by arm, trial, draw and round."""
    return [
        Replicate(arm, trial, draw, k)
        for arm in settings.arms
        for trial in range(settings.trials)
        for draw in range(settings.draws(arm))
        for k in range(0 if arm == "ticket" else 1, settings.rounds + 1)
    ]


def train_in_memory(settings: Settings, data: Data, cohort: Cohort) -> Cohort:
    """Train a cohort on all cores, keeping everything in memory."""
    outcomes = dict(train_cohort(settings, data, cohort))
    return {replicate: outcomes[replicate] for replicate in cohort}
