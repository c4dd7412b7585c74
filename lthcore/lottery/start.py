"""Starts: the weights that each arm of a search starts a round from, and the training as it starts."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from lthcore import masks
from lthcore.arms import ARMS, Arm, arm_of, criterion_of
from lthcore.errors import LabError
from lthcore.masks import Mask, full_mask
from lthcore.models import Weights, initial_weights
from lthcore.registry import UNCOLOURED
from lthcore.seeds import seed_for
from lthcore.settings import Recipe, Settings
from lthcore.training.state import TrainState


@dataclass
class Trial:
    """What the trainings of one trial start from: its initial weights, and the outcomes they grow from so far."""

    number: int
    theta_0: Weights
    dense: TrainState
    latest: dict[str, TrainState]  # by arm: those that are pruned by their own outcomes

    @property
    def origin(self) -> Weights:
        """Where its tickets rewind to: the weights at iteration `rewind_to`, which by default are the initial ones."""
        return self.theta_0 if self.dense.rewind is None else self.dense.rewind


class Sources(NamedTuple):
    """What the weights of an arm may be made of."""

    settings: Settings
    model: nn.Module
    trial: Trial
    arm: Arm
    mask: Mask
    seed: int


def rewound(of: Sources) -> Weights:
    """The weights at iteration `rewind_to`, by default the initial ones."""
    return of.trial.origin


def initial(of: Sources) -> Weights:
    """The initial weights."""
    return of.trial.theta_0


def fresh(of: Sources) -> Weights:
    """Other weights, initialised in the same way."""
    return initial_weights(of.model, of.settings, of.seed)


def trained(of: Sources) -> Weights:
    """Those that the arm's last round ended with."""
    return of.trial.latest[of.arm.name].weights


def resampled(of: Sources) -> Weights:
    """Weights drawn by layer, with replacement, from the initial weights that survive (the paper's Figure 17)."""
    generator, drawn = torch.Generator().manual_seed(of.seed), dict(of.trial.theta_0)
    for name, m in of.mask.items():
        surviving = of.trial.theta_0[name][m]
        if len(surviving):
            index = torch.randint(len(surviving), m.shape, generator=generator)
            drawn[name] = surviving[index]
    return drawn


def signed(weights: Weights, mask: Mask) -> Weights:
    """Every prunable weight at its layer's standard deviation, with the sign that it has (arXiv 1905.01067)."""
    return {name: w.sign() * w.std() if name in mask else w for name, w in weights.items()}


def signed_initial(of: Sources) -> Weights:
    """The initial weights' signs alone."""
    return signed(of.trial.theta_0, of.mask)


def noisy(of: Sources) -> Weights:
    """Initial weights plus Gaussian noise of so many of each layer's standard deviations (the paper's Figure 25)."""
    generator = torch.Generator().manual_seed(of.seed)
    return {
        name: w + of.arm.sigmas * w.std() * torch.randn(w.shape, generator=generator) if name in of.mask else w
        for name, w in of.trial.theta_0.items()
    }


WEIGHTS: dict[str, Callable[[Sources], Weights]] = {
    f.__name__: f for f in (rewound, initial, fresh, trained, resampled, signed_initial, noisy)
}


def register_arm(
    weights: Callable[[Sources], Weights] | None = None, /, *, masks: str = "ticket", **about: Any
) -> Callable:
    """Let experiments name an arm: a function that gives the weights that it starts from, under the masks of `masks`.

    Its name is the function's; `masks` is `ticket`, `oneshot` or `by_<criterion>`, and `about` are other fields of Arm.
    With or without arguments it is a decorator. Raises LabError for a name that this package has given to another.
    """
    if weights is None:
        return lambda weights: register_arm(weights, masks=masks, **about)
    name = weights.__name__
    if masks not in ("ticket", "oneshot") and not criterion_of(masks):
        raise LabError(f"arm {name!r}: masks = {masks!r}: allowed are ticket, oneshot and by_<criterion>")
    known = WEIGHTS.get(name)
    if known.__module__.startswith("lthcore.") if known else name in ARMS:
        raise LabError(f"arm {name!r}: this package has one of that name; choose another")
    WEIGHTS[name] = weights
    ARMS[name] = Arm(name, masks, name, **{"label": name.replace("_", " "), "colour": UNCOLOURED} | about)
    return weights


def start(settings: Settings, model: nn.Module, trial: Trial, name: str, draw: int, k: int, mask: Mask) -> TrainState:
    """The training of a replicate of arm `name` as it starts: which weights, under which mask."""
    arm = arm_of(name)
    if name == "ticket" and settings.restart == "best":
        past = trial.latest["ticket"]
        going_on = begin(settings, trial.number, k, past.early_stop, mask)
        going_on.optimizer = masks.apply_to_optimizer(mask, past.optimizer) if settings.keep_optimizer else {}
        return going_on
    purpose = (arm.purpose or name, trial.number, draw, k) if arm.drawn or arm.purpose else (name, trial.number, k)
    seed = seed_for(settings.seed, *purpose)
    mask = masks.shuffled(mask, seed) if arm.shuffled else mask
    weights = WEIGHTS[arm.weights](Sources(settings, model, trial, arm, mask, seed))
    iteration = settings.rewind_to if arm.weights in ("rewound", "trained") else 0  # where the schedule is rewound to
    training = begin(settings, trial.number, k, weights, mask, iteration)
    training.fine_tuned = arm.fine_tuned
    return training


def begin(
    settings: Recipe, trial: int, k: int, weights: Weights, mask: Mask | None = None, iteration: int = 0
) -> TrainState:
    """A training of trial `trial` at round k, about to start from `weights` under `mask` (default: `full_mask`).

    Its seed, and so its batches, depend on trial and round only: the arms differ in nothing else.
    """
    mask = full_mask(weights) if mask is None else mask
    masked = masks.apply(mask, weights) if settings.masks_weights else weights
    return TrainState(iteration, masked, mask, seed_for(settings.seed, "training", trial, k), start=masked)


def grown_from(settings: Settings, name: str) -> tuple[str, ...]:
    """Which tensors of the outcome of a round the next one of arm `name` starts from, beyond the mask."""
    if arm_of(name).weights == "trained":
        return ("weights",)
    if settings.restart == "rewind":
        return ()
    return ("early_stop", "optimizer") if settings.keep_optimizer else ("early_stop",)


def check_rewound(ticket: TrainState, trial: Trial) -> None:
    """Assert that a ticket starts at mask x initial (or rewound) weights, bit for bit.

    The mistake this rules out is the commonest in reproductions: tickets that were never rewound.
    """
    for name, w in ticket.start.items():
        mask = ticket.mask.get(name)
        if not torch.equal(w, trial.origin[name] if mask is None else trial.origin[name] * mask):
            raise AssertionError(f"trial {trial.number}: {name} does not start at mask x initial weights")
