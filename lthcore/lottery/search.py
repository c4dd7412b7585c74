"""The lottery ticket experiment (arXiv 1803.03635, section 2): train, prune, rewind, repeat, and its controls.

The arms, and the sources of their masks and weights, are defined in lthcore/arms.py.
"""

from collections.abc import Iterator
from functools import partial
from typing import Protocol

from lthcore import masks
from lthcore.arms import PRUNED_THEMSELVES, arm_of
from lthcore.data.datasets import Data, classes_of, image_shape
from lthcore.errors import LabError
from lthcore.lottery.checks import check_settings
from lthcore.lottery.lineage import Lineage
from lthcore.lottery.masks_of_arms import mask_of
from lthcore.lottery.start import Trial, begin, check_rewound, start
from lthcore.masks import Mask
from lthcore.models.build import build
from lthcore.models.weights import Weights, initial_weights
from lthcore.recipe import Recipe
from lthcore.seeds import seed_for
from lthcore.settings import Settings
from lthcore.training.parallel import train_cohort
from lthcore.training.state import Replicate, TrainState

Cohort = dict[Replicate, TrainState]
Found = dict[tuple[int, int], Mask]  # (trial, round) -> the mask found elsewhere


class TrainCohort(Protocol):
    """Function that trains the networks of a round from their starts and returns their outcomes in the same order."""

    def __call__(self, cohort: Cohort) -> Cohort:
        """Return the outcomes of the cohort."""


def find_tickets(
    settings: Settings,
    data: Data,
    train: TrainCohort | None = None,
    found: Found | None = None,
    lineage: Lineage | None = None,
) -> Iterator[Cohort]:
    """Find winning tickets by iterative pruning (arXiv 1803.03635, section 2); yield the outcomes of each round.

    `train` takes the cohort of a round at its start and returns its outcomes. The default trains in memory;
    `lthcore.run` passes a function that reuses what is complete in the run's folder. `found` holds masks found on
    another data set, for arms whose masks come from `elsewhere`. `lineage` holds the masks known so far, and new masks
    are added to it. A trial whose ticket diverges ends in that round. Before anything is trained, LabError is raised
    for settings of another kind of study, and for those that `check_settings` refuses.
    """
    if not isinstance(settings, Settings):
        raise LabError(f"{type(settings).__name__} asks for another study than a search for tickets: take lthcore.run")
    if found is None and (there := [arm for arm in settings.arms if arm_of(arm).masks == "elsewhere"]):
        raise LabError(f"arms: the masks of {there[0]} are found on another data set: take lthcore.run")
    check_settings(settings)
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
            arms = [arm for arm in map(arm_of, settings.arms) if not trial.latest[arm.follows].diverged]
            sources = dict.fromkeys(arm.masks for arm in arms)
            mask_from = {s: mask_of(settings, data, lineage, trial, s, k) for s in sources if s != "elsewhere"}
            if "elsewhere" in sources:
                mask_from["elsewhere"] = found[trial.number, k]
            for arm in arms:
                for draw in range(settings.draws(arm.name)):
                    begun = start(settings, model, trial, arm.name, draw, k, mask_from[arm.masks])
                    cohort[Replicate(arm.name, trial.number, draw, k)] = begun
            if settings.restart == "rewind" and settings.masks_weights:
                check_rewound(cohort[Replicate("ticket", trial.number, 0, k)], trial)
        if not cohort:
            return
        outcomes = train(cohort)
        yield outcomes
        for trial in trials:
            trial.latest |= {r.arm: done for r, done in outcomes.items() if r.trial == trial.number and r.draw == 0}


def untrained_networks(settings: Settings, data: Data) -> Cohort:
    """Return the dense network of each trial at the start of its training, with its initial weights."""
    theta_0 = {trial: initial_weights_of(settings, trial) for trial in range(settings.trials)}
    mask = masks.full_mask(build(settings, data.shape, data.classes))
    return {Replicate("ticket", trial, 0, 0): begin(settings, trial, 0, w, mask) for trial, w in theta_0.items()}


def initial_weights_of(settings: Recipe, trial: int) -> Weights:
    """Return the initial weights of a trial, which follow from the seed."""
    model = build(settings, image_shape(settings), classes_of(settings))
    return initial_weights(model, settings, seed_for(settings.seed, "init", trial))


def planned(settings: Settings) -> list[Replicate]:
    """Return all planned training runs of the experiment, in the order of the tables: by arm, trial, draw and round."""
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
