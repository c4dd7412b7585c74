"""Outcomes: what later rounds need of a training that is done is kept in the run's lineage; and what
stands for that training on a machine where its ticket is not.
"""

import math
from collections.abc import Iterable
from dataclasses import replace

import torch

from lthcore.arms import PRUNED_THEMSELVES, arm_of, prunes_dense
from lthcore.data.datasets import Data
from lthcore.lottery.lineage import Lineage
from lthcore.lottery.search import initial_weights_of, mask_of, needs_training
from lthcore.lottery.start import Trial, grown_from
from lthcore.settings import Recipe, Settings
from lthcore.training.state import Replicate, TrainState

ORIGIN = "origin"  # in a lineage, in place of an arm: the weights that tickets rewind to


def keep(settings: Recipe, data: Data, lineage: Lineage, replicate: Replicate, outcome: TrainState) -> None:
    """Keep in the lineage what the next round grows from: masks, found now, and the weights that an arm goes on from.

    Masks and weights of an outcome are kept together, so that none of them is done again for the other's sake.
    """
    arm, trial, _, k = replicate
    if not arm_of(arm).is_pruned_itself or not isinstance(settings, Settings) or outcome.diverged:
        return
    grown = Trial(trial, initial_weights_of(settings, trial), outcome, dict.fromkeys(PRUNED_THEMSELVES, outcome))
    arms = [other for other in settings.arms if arm_of(other).is_pruned_itself] if k == 0 else [arm]
    for source in {arm_of(other).masks for other in settings.arms} - {"elsewhere"}:
        if needs_training(source) and (source in arms or (k == 0 and prunes_dense(source))):
            mask_of(settings, data, lineage, grown, source, k + 1)
    if k == 0 and outcome.rewind is not None:
        lineage.carry(trial, ORIGIN, 0, {"rewind": outcome.rewind})
    for other in set(arms) & set(PRUNED_THEMSELVES):
        if _carried(lineage, trial, other)[0] < k:
            lineage.carry(trial, other, k, grown_from(settings, other, outcome) if k < settings.rounds else {})


def let_go(settings: Recipe, replicate: Replicate, *states: TrainState) -> None:
    """Drop, in place, the tensors of a training that is done which no later one needs, once `keep` has kept its part.

    A round has many trainings, and what plans it holds them all until it ends: a tenth of a gigabyte each for Conv-2.
    The dense network keeps its start, which is what tickets rewind to.
    """
    for state in states:
        state.noise = state.remembered = None
        if not getattr(settings, "keep_optimizer", False):
            state.optimizer = {}
        if replicate.round > 0:
            state.start = {}
        if not arm_of(replicate.arm).is_pruned_itself:
            state.weights, state.mask, state.start, state.optimizer = {}, {}, {}, {}
            state.early_stop = state.rewind = None


def without_ticket(
    settings: Recipe,
    lineage: Lineage,
    missing: Iterable[Replicate],
    replicate: Replicate,
    start: TrainState,
    diverged: bool,
) -> TrainState | None:
    """What stands for a training that is done: its start, with what the lineage carries of its outcome.

    None where trainings that are `missing` need more of it than that: then it has to be done again.
    """
    arm, trial, _, k = replicate
    if not arm_of(arm).is_pruned_itself or not isinstance(settings, Settings):
        return start
    if diverged:  # nothing is pruned by it
        numbers = {name: w for name, w in start.weights.items() if w.is_floating_point()}  # a norm's count is none
        return replace(start, weights=start.weights | {n: torch.full_like(w, math.nan) for n, w in numbers.items()})
    later = {r.arm for r in missing if r.trial == trial and r.round > k and (k == 0 or arm_of(r.arm).grows_from == arm)}
    for source in {arm_of(other).masks for other in later} - {"elsewhere"}:
        due = settings.rounds if prunes_dense(source) else k + 1
        if needs_training(source) and lineage.known.get((trial, source), 0) < due:
            return None
    outcome = replace(start, early_stop=start.weights)  # what is done already is only read again
    for grown in later & set(PRUNED_THEMSELVES):
        at, groups = _carried(lineage, trial, grown)
        if grown_from(settings, grown, start) and (at < k or not groups):
            return None
        for group, tensors in groups.items() if at == k else ():
            setattr(outcome, group, tensors)
    if k == 0 and later and settings.rewind_to:
        outcome.rewind = _carried(lineage, trial, ORIGIN)[1].get("rewind")
        return None if outcome.rewind is None else outcome
    return outcome


def _carried(lineage: Lineage, trial: int, arm: str) -> tuple[int, dict]:
    """The round of an arm's carried outcome, -1 where there is none, and its tensors."""
    return lineage.carried.get((trial, arm), (-1, {}))
