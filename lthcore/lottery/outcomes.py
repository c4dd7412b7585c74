"""Outcomes: what later rounds need of a training that is done is kept in the run's lineage, which is committed; a
ticket's file is not. So a run goes on where its tables and its lineage are, and none of its tickets.

What a later round needs, by arm, where round k is done:

- ticket: its mask, which the lineage has, and the weights to rewind to; initial ones follow from the seed, later ones
  are carried in the lineage.
- reinit, random, noise: the ticket's mask; nothing grows from these arms.
- oneshot, by_<criterion>: their masks of all rounds, found when the dense network has ended.
- continued, fine_tuned: their mask, and their trained weights, carried until the next round is done.
"""

import math
from collections.abc import Iterable
from dataclasses import replace

import torch

from lthcore.arms import PRUNED_THEMSELVES, arm_of, prunes_dense
from lthcore.data.datasets import Data
from lthcore.lottery.lineage import Groups, Lineage
from lthcore.lottery.masks_of_arms import mask_of, needs_training
from lthcore.lottery.search import initial_weights_of
from lthcore.lottery.start import Trial, grown_from
from lthcore.settings import Recipe, Settings
from lthcore.training.state import Replicate, TrainState

ORIGIN = "origin"  # in a lineage, in place of an arm: the weights that tickets rewind to


def keep_for_later_rounds(
    settings: Recipe, data: Data, lineage: Lineage, replicate: Replicate, outcome: TrainState
) -> None:
    """Keep in the lineage what later rounds grow from: masks, found now, and the weights that an arm goes on from.

    Masks and weights of an outcome are kept together, so that none of them is done again for the other's sake.
    """
    arm, trial, _, k = replicate
    if outcome.diverged or not _is_grown_from(settings, arm):
        return
    pruned_themselves = [other for other in settings.arms if arm_of(other).is_pruned_itself]
    grow_from_it = pruned_themselves if k == 0 else [arm]  # round 0, the dense network, is every arm's

    ended = Trial(trial, initial_weights_of(settings, trial), outcome, dict.fromkeys(PRUNED_THEMSELVES, outcome))
    for source in _mask_sources(settings.arms):
        if source in grow_from_it or (k == 0 and prunes_dense(source)):
            mask_of(settings, data, lineage, ended, source, k + 1)

    if k == 0 and outcome.rewind is not None:
        lineage.carry(trial, ORIGIN, 0, {"rewind": outcome.rewind})
    for other in grow_from_it:
        if _carried(lineage, trial, other)[0] < k:
            groups = grown_from(settings, other) if k < settings.rounds else ()
            lineage.carry(trial, other, k, {group: getattr(outcome, group) for group in groups})


def release_tensors(settings: Recipe, replicate: Replicate, *states: TrainState) -> None:
    """Drop, in place, the tensors of a training that is done which no later one needs; the lineage has its part.

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


def outcome_from_lineage(
    settings: Recipe,
    lineage: Lineage,
    missing: Iterable[Replicate],
    replicate: Replicate,
    start: TrainState,
    diverged: bool,
) -> TrainState | None:
    """What stands for a training whose row is here and whose ticket is not: its start, with what the lineage carries.

    missing: the trainings still to do. None where they need more of it than that: then it has to be done again.
    """
    arm, trial, _, k = replicate
    if not _is_grown_from(settings, arm):
        return start
    if diverged:
        return _diverged(start)
    due = {r.arm for r in missing if r.trial == trial and r.round > k and (k == 0 or arm_of(r.arm).grows_from == arm)}
    if not _has_masks(settings, lineage, trial, k, due):
        return None
    outcome = replace(start, early_stop=start.weights)  # what is done already is only read again
    for other in due & set(PRUNED_THEMSELVES):
        at, groups = _carried(lineage, trial, other)
        if grown_from(settings, other) and (at < k or not groups):
            return None
        if at == k:
            for group, tensors in groups.items():
                setattr(outcome, group, tensors)
    if k == 0 and due and settings.rewind_to:
        outcome.rewind = _carried(lineage, trial, ORIGIN)[1].get("rewind")
        return None if outcome.rewind is None else outcome
    return outcome


def _is_grown_from(settings: Recipe, arm: str) -> bool:
    """Whether later rounds of a search may grow from an outcome of this arm."""
    return isinstance(settings, Settings) and arm_of(arm).is_pruned_itself


def _mask_sources(arms: Iterable[str]) -> set[str]:
    """Where the masks of these arms come from, as far as a trained network of this search is needed to find them."""
    return {
        source for source in (arm_of(arm).masks for arm in arms) if source != "elsewhere" and needs_training(source)
    }


def _has_masks(settings: Settings, lineage: Lineage, trial: int, k: int, arms: Iterable[str]) -> bool:
    """Whether the lineage has all masks that these arms take from an outcome of round k."""
    due = {source: settings.rounds if prunes_dense(source) else k + 1 for source in _mask_sources(arms)}
    return all(lineage.known.get((trial, source), 0) >= last for source, last in due.items())


def _diverged(start: TrainState) -> TrainState:
    """A training of this start as one that diverged, by which nothing is pruned: its weights are no numbers."""
    floating = {name: w for name, w in start.weights.items() if w.is_floating_point()}  # a norm's count is none
    return replace(start, weights=start.weights | {n: torch.full_like(w, math.nan) for n, w in floating.items()})


def _carried(lineage: Lineage, trial: int, arm: str) -> tuple[int, Groups]:
    """The round of an arm's carried outcome, -1 where there is none, and its tensors."""
    return lineage.carried.get((trial, arm), (-1, {}))
