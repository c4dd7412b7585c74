"""Outcomes of training runs: keeping what later rounds need, and resuming a run without its ticket files.

What later rounds need from a complete training run is kept in the run's lineage. The lineage is committed; ticket files
are not. A run can therefore be resumed from its tables and its lineage alone.

What the next rounds of each arm need once round k is complete:

- ticket: its mask, which is in the lineage, and the weights to rewind to. Initial weights follow from the seed; weights
  of a later iteration are carried in the lineage.
- reinit, random, noise: the ticket's mask. No later round starts from these arms.
- oneshot, by_<criterion>: their masks of all rounds, computed when the training of the dense network ends.
- continued, fine_tuned: their mask and their trained weights, carried until the next round is complete.
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
from lthcore.lottery.start import WEIGHTS, Trial, carried_over
from lthcore.recipe import Recipe
from lthcore.registry import is_user_defined
from lthcore.settings import Settings
from lthcore.training.state import Replicate, TrainState

ORIGIN = "origin"  # key in place of an arm in `Lineage.carried`, for the weights that tickets rewind to


def keep_for_later_rounds(
    settings: Recipe, data: Data, lineage: Lineage, replicate: Replicate, outcome: TrainState
) -> None:
    """Store in the lineage what later rounds start from: masks, which are computed now, and weights to continue from.

    Masks and weights of an outcome are stored together. If only one of them were stored, the training run would have
    to be repeated for the other.
    """
    arm, trial, _, k = replicate
    if outcome.diverged or not _has_successors(settings, arm):
        return
    pruned_themselves = [other for other in settings.arms if arm_of(other).is_pruned_itself]
    followers = pruned_themselves if k == 0 else [arm]  # all arms start from the dense network

    ended = Trial(trial, initial_weights_of(settings, trial), outcome, dict.fromkeys(PRUNED_THEMSELVES, outcome))
    for source in _mask_sources(settings.arms):
        if source in followers or (k == 0 and prunes_dense(source)):
            mask_of(settings, data, lineage, ended, source, k + 1)

    if k == 0 and outcome.rewind is not None:
        lineage.carry(trial, ORIGIN, 0, {"rewind": outcome.rewind})
    for other in followers:
        if _carried(lineage, trial, other)[0] < k:
            groups = carried_over(settings, other) if k < settings.rounds else ()
            lineage.carry(trial, other, k, {group: getattr(outcome, group) for group in groups})


def release_tensors(settings: Recipe, replicate: Replicate, *states: TrainState) -> None:
    """Delete, in place, the tensors of a complete training run that no later one needs or that the lineage holds.

    The states of all training runs of a round stay in memory until it ends: a tenth of a gigabyte each for Conv-2. The
    dense network keeps its start, to which tickets rewind.
    """
    for state in states:
        state.generator_state = state.remembered = None
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
    """Return a substitute for the outcome of a training run that has a row in the tables but no ticket file.

    The substitute is the start of the training run with the tensors that the lineage carries. Returns None if training
    runs still to do (`missing`) need more of the outcome than that; the training run then has to be repeated.
    """
    arm, trial, _, k = replicate
    if not _has_successors(settings, arm):
        return start
    if diverged:
        return _diverged(start)
    due = {r.arm for r in missing if r.trial == trial and r.round > k and (k == 0 or arm_of(r.arm).follows == arm)}
    if any(is_user_defined(WEIGHTS[arm_of(name).weights]) for name in due):
        return None  # a user-defined arm may start from any tensor of the outcome
    if not _has_masks(settings, lineage, trial, k, due):
        return None
    outcome = replace(start, early_stop=start.weights, placeholder=True)
    for other in due & set(PRUNED_THEMSELVES):
        at, groups = _carried(lineage, trial, other)
        if carried_over(settings, other) and (at < k or not groups):
            return None
        if at == k:
            for group, tensors in groups.items():
                setattr(outcome, group, tensors)
    if k == 0 and due and settings.rewind_to:
        outcome.rewind = _carried(lineage, trial, ORIGIN)[1].get("rewind")
        return None if outcome.rewind is None else outcome
    return outcome


def _has_successors(settings: Recipe, arm: str) -> bool:
    """Return whether later rounds of a search may start from an outcome of this arm."""
    return isinstance(settings, Settings) and arm_of(arm).is_pruned_itself


def _mask_sources(arms: Iterable[str]) -> list[str]:
    """Return the mask sources of these arms that need a trained network of this search, each once."""
    sources = dict.fromkeys(arm_of(arm).masks for arm in arms)
    return [source for source in sources if source != "elsewhere" and needs_training(source)]


def _has_masks(settings: Settings, lineage: Lineage, trial: int, k: int, arms: Iterable[str]) -> bool:
    """Return whether the lineage holds all masks that these arms need from an outcome of round k."""
    due = {source: settings.rounds if prunes_dense(source) else k + 1 for source in _mask_sources(arms)}
    return all(lineage.known.get((trial, source), 0) >= last for source, last in due.items())


def _diverged(start: TrainState) -> TrainState:
    """Return this start as an outcome that diverged, with nan as its weights, so that nothing is pruned by it."""
    floating = {name: w for name, w in start.weights.items() if w.is_floating_point()}  # a norm's counter is an integer
    return replace(start, weights=start.weights | {n: torch.full_like(w, math.nan) for n, w in floating.items()})


def _carried(lineage: Lineage, trial: int, arm: str) -> tuple[int, Groups]:
    """Return the round of an arm's carried outcome (-1 if there is none) and its tensors."""
    return lineage.carried.get((trial, arm), (-1, {}))
