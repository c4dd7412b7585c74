"""The lottery ticket experiment: train, prune, rewind, repeat, with the controls that tell what a ticket owes to what.

Each arm is what is trained at round k >= 1. They share the data split, and at equal (trial, round) the batches:

ticket          the mask found by iterative pruning, weights rewound (to iteration 0, or `rewind_to`; with
                `restart: best` they go on from those that validated best)
reinit          the ticket's mask, fresh weights
random          as many weights in each layer at random, the initial weights
oneshot         as many weights, chosen by pruning the trained dense network once; weights rewound
oneshot_reinit  the one-shot mask, fresh weights
by_<criterion>  as many weights, chosen once by another criterion, of the trained dense network or of the untrained one
                (SNIP and the like); weights rewound. With `-shuffled` the mask shuffled within layers, with `-fresh`
                other weights, with `-inverted` the worst weights kept: what a criterion's score is worth without it;
                with `-signed` every weight at its layer's standard deviation, its own sign kept
continued       iterative pruning that goes on from the trained weights instead of rewinding
continued_reset the mask that continued training finds, weights rewound (the paper's Figure 9, second strategy)
fine_tuned      as continued, but all at the learning rate that the dense training ended with (arXiv 2003.02389, whose
                learning-rate rewinding to iteration 0 is `continued`)
resampled       the ticket's mask, weights drawn from its own surviving initial weights, layer by layer
noise_0.5 ...   the ticket with Gaussian noise of 0.5, 1, 2 or 3 standard deviations of each layer added

transferred     a mask found elsewhere (lthcore/lottery/transfer.py), the initial weights; with `-shuffled` that mask shuffled
                within layers

Round 0 is the dense network; it is the ticket's, and all other arms start from it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from lthcore import masks
from lthcore.data.datasets import DATASETS, Data, check_size, image_shape, pick_device
from lthcore.errors import choose
from lthcore.lottery.lineage import Groups, Lineage
from lthcore.masks import Mask, full_mask
from lthcore.models import MODELS, Weights, build, initial_weights, outline
from lthcore.pruning.allocation import layer_rates, prune
from lthcore.pruning.criteria import CRITERIA, Scores, Seen, scores
from lthcore.pruning.saliency import SALIENCIES, synflow_mask
from lthcore.pruning.units import UNIT_CRITERIA, prune_units, units_of
from lthcore.seeds import seed_for
from lthcore.settings import Recipe, Settings
from lthcore.training.parallel import train_cohort
from lthcore.training.state import Replicate, Training

LINEAGE = ("ticket", "continued", "fine_tuned")  # the arms whose next round grows from their own outcome


Cohort = dict[Replicate, Training]
Found = dict[tuple[int, int], Mask]  # (trial, round) -> the mask found elsewhere


@dataclass
class Trial:
    """What the trainings of one trial start from: its initial weights, and the outcomes they grow from so far."""

    number: int
    theta_0: Weights
    dense: Training
    latest: dict[str, Training]  # by arm: those in LINEAGE are grown from

    @property
    def origin(self) -> Weights:
        """Where its tickets rewind to: the weights at iteration `rewind_to`, which by default are the initial ones."""
        return self.theta_0 if self.dense.rewind is None else self.dense.rewind


def find_tickets(
    settings: Settings,
    data: Data,
    train: Callable[[Cohort], Cohort] | None = None,
    found: Found | None = None,
    lineage: Lineage | None = None,
) -> Iterator[Cohort]:
    """Find winning tickets by iterative pruning (arXiv 1803.03635, section 2); yield the outcomes of each round.

    `train` takes the cohort of a round as it starts and returns it trained. The default trains in memory;
    `results.run` passes one that remembers what is done. `found` are masks from elsewhere, of the arm transferred;
    `lineage` holds masks that are known already, and gets those that are found. A trial whose ticket diverges ends
    there.
    """
    train, lineage = train or partial(train_in_memory, settings, data), lineage or Lineage()
    model, untrained = build(settings, data.shape, 10), untrained_networks(settings, data)
    outcomes = train(untrained)
    yield outcomes
    trials = [Trial(r.trial, untrained[r].start, dense, dict.fromkeys(LINEAGE, dense)) for r, dense in outcomes.items()]

    for k in range(1, settings.rounds + 1):
        trials, cohort = [trial for trial in trials if not trial.latest["ticket"].diverged], {}
        for trial in trials:
            for arm in settings.arms:
                if trial.latest[lineage_of(arm)].diverged:
                    continue
                elsewhere = arm.startswith("transferred")
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
    theta_0 = {trial: initial_weights_of(settings, data, trial) for trial in range(settings.trials)}
    return {Replicate("ticket", trial, 0, 0): begin(settings, trial, 0, w) for trial, w in theta_0.items()}


def initial_weights_of(settings: Settings, data: Data, trial: int) -> Weights:
    """The weights that a trial starts from, which follow from the seed."""
    return initial_weights(build(settings, data.shape, 10), settings, seed_for(settings.seed, "init", trial))


def lineage_of(arm: str) -> str:
    """The arm whose outcome of the round before an arm's mask comes from."""
    return arm if arm in LINEAGE else "continued" if arm.startswith("continued") else "ticket"


def source_of(arm: str) -> str:
    """Where the masks of an arm come from: an arm of LINEAGE, `oneshot`, or `by_<criterion>` (`-inverted`)."""
    if arm.startswith("by_"):
        base, _, how = arm.partition("-")
        return arm if how == "inverted" else base
    return "oneshot" if arm.startswith("oneshot") else lineage_of(arm)


def prunes_dense(source: str) -> bool:
    """Whether all masks of a source follow from the dense network of a trial."""
    return source.startswith(("oneshot", "by_"))


def needs_training(source: str) -> bool:
    """Whether masks of a source follow from trained weights; those of the others are found anew anywhere."""
    return source.removeprefix("by_").partition("-")[0] not in SALIENCIES


def mask_of(settings: Settings, data: Data, lineage: Lineage, trial: Trial, arm: str, k: int) -> Mask:
    """The mask of `arm` at round k: from the lineage where it is known, else found now and noted there.

    All masks that follow from the dense network are noted at once, while its weights are at hand.
    """
    source = source_of(arm)
    if source == "by_synflow":
        return synflow_mask(seen_by(settings, data, trial, source, k), sparsity_after(settings, trial.dense.mask, k))
    last = settings.rounds if prunes_dense(source) else k
    for j in range(lineage.known.get((trial.number, source), 0) + 1, last + 1):
        lineage.note(trial.number, source, j, next_mask(settings, data, lineage, trial, source, j))
    return lineage.mask(trial.number, source, k)


def next_mask(settings: Settings, data: Data, lineage: Lineage, trial: Trial, source: str, k: int) -> Mask:
    """The mask of a source at round k: what the trained network it grows from keeps of the weights it had.

    One-shot pruning prunes k times by the same scores, those of the dense network: as many weights as the ticket's, to
    the weight. `by_<criterion>` is one-shot pruning by that criterion.
    """
    criterion = source.removeprefix("by_").partition("-")[0] if source.startswith("by_") else settings.criterion
    worth = scores(criterion, seen_by(settings, data, trial, source, k), CRITERIA | UNIT_CRITERIA | SALIENCIES)
    before = lineage.mask(trial.number, source, k - 1) if k > 1 else trial.dense.mask
    if criterion.startswith("late_") and not any(score.any() for score in worth.values()):
        return before  # the training ended at its best: there is nothing to go by, and the round prunes nothing
    worth = {name: -score for name, score in worth.items()} if source.endswith("-inverted") else worth
    return next_round(settings, data, worth, before)


def seen_by(settings: Settings, data: Data, trial: Trial, source: str, k: int) -> Seen:
    """What the criterion of a source may look at for round k."""
    once = prunes_dense(source)
    grown = trial.dense if once else trial.latest[source]
    seed = seed_for(settings.seed, "criterion", trial.number, "oneshot" if once else source, 0 if once else k)
    best = grown.early_stop or grown.weights
    return Seen(settings, data, grown.mask, trial.theta_0, best, grown.weights, seed)


def next_round(settings: Settings, data: Data, worth: Scores, mask: Mask) -> Mask:
    """The mask after one more round of pruning by these scores."""
    if settings.granularity == "units":
        return prune_units(worth, mask, units_of(settings, data.shape), settings)
    return prune(worth, mask, layer_rates(settings, mask), settings.scope, settings.keep_at_least)


def sparsity_after(settings: Settings, mask: Mask, k: int) -> float:
    """The share of all weights that k rounds prune."""
    ties = {name: torch.zeros(m.shape) for name, m in mask.items()}
    for _ in range(k):
        mask = prune(ties, mask, layer_rates(settings, mask), settings.scope)
    return 1 - masks.weights_left(mask) / sum(m.numel() for m in mask.values())


def start(settings: Settings, model: nn.Module, trial: Trial, arm: str, draw: int, k: int, mask: Mask) -> Training:
    """The training of a replicate as it starts: which weights, under which mask."""
    this = partial(begin, settings, trial.number, k)
    match arm:
        case "ticket" if settings.restart == "best":
            past = trial.latest["ticket"]
            going_on = this(past.early_stop, mask)
            going_on.optimizer = masks.apply_to_optimizer(mask, past.optimizer) if settings.keep_optimizer else {}
            return going_on
        case "ticket" | "oneshot" | "continued_reset":
            return this(trial.origin, mask, iteration=settings.rewind_to)
        case "reinit" | "oneshot_reinit":
            fresh = seed_for(settings.seed, "reinit", trial.number, draw, k)
            return this(initial_weights(model, settings, fresh), mask)
        case _ if arm.startswith("by_"):
            if arm.endswith("-shuffled"):
                mask = masks.shuffled(mask, seed_for(settings.seed, arm, trial.number, k))
            if arm.endswith("-signed"):
                return this(signed(trial.theta_0), mask)
            if arm.endswith("-fresh"):
                return this(initial_weights(model, settings, seed_for(settings.seed, arm, trial.number, k)), mask)
            return this(trial.origin, mask, iteration=settings.rewind_to)
        case "random":
            shuffle = seed_for(settings.seed, "random mask", trial.number, draw, k)
            return this(trial.theta_0, masks.shuffled(mask, shuffle))
        case "transferred":
            return this(trial.theta_0, mask)
        case "transferred-shuffled":
            return this(trial.theta_0, masks.shuffled(mask, seed_for(settings.seed, arm, trial.number, k)))
        case "continued":
            return this(trial.latest["continued"].weights, mask)
        case "fine_tuned":
            going_on = this(trial.latest["fine_tuned"].weights, mask)
            going_on.fine_tuned = True
            return going_on
        case "resampled":
            seed = seed_for(settings.seed, "resampled", trial.number, draw, k)
            return this(resampled(trial.theta_0, mask, seed), mask)
        case _ if arm.startswith("noise_"):
            seed = seed_for(settings.seed, arm, trial.number, k)
            return this(with_noise(trial.theta_0, float(arm.removeprefix("noise_")), seed), mask)
    raise ValueError(f"unknown arm {arm!r}")


def grown_from(settings: Settings, arm: str, outcome: Training) -> Groups:
    """What of the outcome of a round the next one of that arm starts from, beyond the mask."""
    if arm in ("continued", "fine_tuned"):
        return {"weights": outcome.weights}
    if settings.restart == "rewind":
        return {}
    optimizer = {"optimizer": outcome.optimizer} if settings.keep_optimizer else {}
    return {"early_stop": outcome.early_stop} | optimizer


def resampled(initial: Weights, mask: Mask, seed: int) -> Weights:
    """Weights drawn by layer, with replacement, from the initial weights that survive (the paper's Figure 17)."""
    generator, drawn = torch.Generator().manual_seed(seed), dict(initial)
    for name, m in mask.items():
        surviving = initial[name][m]
        if len(surviving):
            index = torch.randint(len(surviving), m.shape, generator=generator)
            drawn[name] = surviving[index]
    return drawn


def signed(initial: Weights) -> Weights:
    """Every weight at its layer's standard deviation, with the sign that it started with (arXiv 1905.01067)."""
    return {name: w.sign() * w.std() if w.ndim >= 2 else w for name, w in initial.items()}


def with_noise(initial: Weights, sigmas: float, seed: int) -> Weights:
    """Initial weights plus Gaussian noise of so many of each layer's standard deviations (the paper's Figure 25)."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: w + sigmas * w.std() * torch.randn(w.shape, generator=generator) if w.ndim >= 2 else w
        for name, w in initial.items()
    }


def begin(
    settings: Recipe, trial: int, k: int, weights: Weights, mask: Mask | None = None, iteration: int = 0
) -> Training:
    """A training of trial `trial` at round k, about to start from `weights` under `mask` (default: all of them).

    Its seed, and so its batches, depend on trial and round only: the arms differ in nothing else.
    """
    mask = full_mask(weights) if mask is None else mask
    masked = masks.apply(mask, weights) if settings.masks_weights else weights
    return Training(iteration, masked, mask, seed_for(settings.seed, "training", trial, k), start=masked)


def check_rewound(ticket: Training, trial: Trial) -> None:
    """Assert that a ticket starts at mask x initial (or rewound) weights, bit for bit.

    The mistake this rules out is the commonest in reproductions: tickets that were never rewound.
    """
    for name, w in ticket.start.items():
        mask = ticket.mask.get(name)
        if not torch.equal(w, trial.origin[name] if mask is None else trial.origin[name] * mask):
            raise AssertionError(f"trial {trial.number}: {name} does not start at mask x initial weights")


def check_settings(settings: Recipe) -> None:
    """Raise LabError, before anything is computed, for what only the rooms above the settings can judge."""
    if isinstance(settings, Settings):
        units = settings.granularity == "units"
        choose("criterion", settings.criterion, UNIT_CRITERIA if units else CRITERIA)
        for arm in (arm for arm in settings.arms if arm.startswith("by_")):
            choose("criterion of an arm", arm.removeprefix("by_").partition("-")[0], CRITERIA | SALIENCIES)
    choose("architecture", settings.architecture, MODELS)
    choose("dataset", settings.dataset, DATASETS)
    pick_device(settings.device)
    check_size(settings)
    outline(settings, image_shape(settings), 10)


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
