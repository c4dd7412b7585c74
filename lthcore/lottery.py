"""The lottery ticket experiment: train, prune, rewind, repeat, with the controls that tell what a ticket owes to what.

Each arm is what is trained at round k >= 1. They share the data split, and at equal (trial, round) the batches:

ticket          the mask found by iterative pruning, weights rewound (to iteration 0, or `rewind_to`)
reinit          the ticket's mask, fresh weights
random          as many weights in each layer at random, the initial weights
oneshot         as many weights, chosen by pruning the trained dense network once; weights rewound
oneshot_reinit  the one-shot mask, fresh weights
continued       iterative pruning that goes on from the trained weights instead of rewinding

Round 0 is the dense network; it is the ticket's, and all other arms start from it.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import nn

from lthcore import masks
from lthcore.data import DATASETS, Data, pick_device
from lthcore.masks import Mask, full_mask
from lthcore.models import MODELS, Weights, build, initial_weights
from lthcore.pruning import CRITERIA, layer_rates, prune, scores
from lthcore.settings import Settings, choose, seed_for
from lthcore.train import Training, train_cohort


class Replicate(NamedTuple):
    """Which training: the key of its row in the tables."""

    arm: str
    trial: int
    draw: int
    round: int


Cohort = dict[Replicate, Training]


def find_tickets(settings: Settings, data: Data, train: Callable[[Cohort], Cohort] | None = None) -> Iterator[Cohort]:
    """Find winning tickets by iterative pruning (arXiv 1803.03635, section 2); yield the outcomes of each round.

    `train` takes the cohort of a round as it starts and returns it trained. The default trains in memory;
    `results.run` passes one that remembers what is done.
    """
    train = train or partial(train_in_memory, settings, data)
    model = build(settings, data.shape, 10)
    trials = range(settings.trials)
    theta_0 = [initial_weights(model, settings, seed_for(settings.seed, "init", trial)) for trial in trials]

    dense = latest = train({Replicate("ticket", t, 0, 0): begin(settings, t, 0, theta_0[t]) for t in trials})
    yield dense
    for k in range(1, settings.rounds + 1):
        cohort = {}
        for t in trials:
            for arm in settings.arms:
                mask = next_mask(settings, arm, t, k, theta_0[t], dense, latest)
                for draw in range(settings.draws(arm)):
                    replicate = Replicate(arm, t, draw, k)
                    cohort[replicate] = start(settings, model, replicate, mask, theta_0[t], dense, latest)
        check_start(settings, cohort, theta_0, dense)
        latest = train(cohort)
        yield latest


def next_mask(
    settings: Settings, arm: str, trial: int, k: int, theta_0: Weights, dense: Cohort, latest: Cohort
) -> Mask:
    """The mask of `arm` at round k: the outcome it grows from, pruned.

    One-shot pruning is k rounds of it by the scores of the dense network: as many weights as the ticket's, to the weight.
    """
    if arm.startswith("oneshot"):
        grown, rounds = dense[Replicate("ticket", trial, 0, 0)], k
    else:
        grown, rounds = latest[_parent(arm, trial, k)], 1
    mask, worth = grown.mask, scores(settings.criterion, theta_0, grown.weights, grown.mask)
    for _ in range(rounds):
        mask = prune(worth, mask, layer_rates(settings, mask), settings.scope)
    return mask


def start(
    settings: Settings, model: nn.Module, replicate: Replicate, mask: Mask, theta_0: Weights, dense: Cohort, latest: Cohort
) -> Training:
    """The state in which a replicate starts its round: the arm's weights under its mask."""
    arm, trial, draw, k = replicate
    match arm:
        case "ticket" | "oneshot" if settings.rewind_to:
            rewound = dense[Replicate("ticket", trial, 0, 0)].rewind
            return begin(settings, trial, k, rewound, mask, iteration=settings.rewind_to)
        case "ticket" | "oneshot":
            return begin(settings, trial, k, theta_0, mask)
        case "reinit" | "oneshot_reinit":
            fresh = initial_weights(model, settings, seed_for(settings.seed, "reinit", trial, draw, k))
            return begin(settings, trial, k, fresh, mask)
        case "random":
            elsewhere = masks.shuffled(mask, seed_for(settings.seed, "random mask", trial, draw, k))
            return begin(settings, trial, k, theta_0, elsewhere)
        case "continued":
            return begin(settings, trial, k, latest[_parent(arm, trial, k)].weights, mask)
    raise ValueError(arm)


def begin(
    settings: Settings, trial: int, k: int, weights: Weights, mask: Mask | None = None, iteration: int = 0
) -> Training:
    """A training of trial `trial` at round `k`, about to start from `weights` under `mask` (default: all of them)."""
    mask = full_mask(weights) if mask is None else mask
    masked = masks.apply(mask, weights)
    return Training(iteration, masked, mask, seed_for(settings.seed, "training", trial, k), start=masked)


def check_start(settings: Settings, cohort: Cohort, theta_0: list[Weights], dense: Cohort) -> None:
    """Assert of every ticket: its weights are mask x (initial or rewound weights), bit for bit; its mask is exact.

    The mistake this rules out is the commonest in reproductions: a "ticket" that was never rewound.
    """
    for (arm, trial, _, _), state in cohort.items():
        if arm != "ticket":
            continue
        origin = dense[Replicate("ticket", trial, 0, 0)].rewind if settings.rewind_to else theta_0[trial]
        for name, w in state.start.items():
            expected = origin[name] * state.mask[name] if name in state.mask else origin[name]
            if not torch.equal(w, expected):
                raise AssertionError(f"trial {trial}: {name} does not start at mask x initial weights")


def check_settings(settings: Settings) -> None:
    """Raise LabError, before anything is computed, for what only the rooms above the settings can judge."""
    choose("criterion", settings.criterion, CRITERIA)
    choose("architecture", settings.architecture, MODELS)
    choose("dataset", settings.dataset, DATASETS)
    pick_device(settings.device)


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


def _parent(arm: str, trial: int, k: int) -> Replicate:
    """The replicate of the round before that `arm` grows from: its own if it continues, else the ticket's."""
    return Replicate("continued" if arm == "continued" and k > 1 else "ticket", trial, 0, k - 1)
