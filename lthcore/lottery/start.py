"""Starts of training runs: the weights that each arm of a search starts a round from, and its initial state."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lthcore import masks
from lthcore.arms import ARMS, Arm, arm_of, criterion_of
from lthcore.data.datasets import classes_of, image_shape
from lthcore.errors import LabError, choose, one_line
from lthcore.masks import Mask, full_mask
from lthcore.models.build import build
from lthcore.models.weights import Weights, initial_weights
from lthcore.recipe import Recipe
from lthcore.registry import UNCOLOURED, check_fields, check_look, is_user_defined, name_of
from lthcore.seeds import seed_for
from lthcore.settings import Settings
from lthcore.training.state import TrainState


@dataclass
class Trial:
    """What the training runs of one trial start from: its initial weights and its outcomes so far.

    Outcomes have their weights, early stop and mask in a run; other tensors may be deleted to save memory, and so may
    those of arms that are not pruned by their own outcomes.
    """

    number: int
    theta_0: Weights
    dense: TrainState
    latest: dict[str, TrainState]  # latest outcome by arm; arms pruned by their own outcomes start from it

    @property
    def origin(self) -> Weights:
        """Weights that the tickets rewind to: those at iteration `rewind_to`, by default the initial weights."""
        return self.theta_0 if self.dense.rewind is None else self.dense.rewind


class Sources(NamedTuple):
    """Arguments of the functions in WEIGHTS: everything that an arm may derive its starting weights from."""

    settings: Settings
    model: nn.Module
    trial: Trial
    arm: Arm
    mask: Mask
    seed: int


def rewound(of: Sources) -> Weights:
    """Return the weights at iteration `rewind_to`, by default the initial weights."""
    return of.trial.origin


def initial(of: Sources) -> Weights:
    """Return the initial weights."""
    return of.trial.theta_0


def fresh(of: Sources) -> Weights:
    """Return newly drawn weights, initialised in the same way."""
    return initial_weights(of.model, of.settings, of.seed)


def trained(of: Sources) -> Weights:
    """Return the final weights of the arm's previous round."""
    return of.trial.latest[of.arm.name].weights


def resampled(of: Sources) -> Weights:
    """Draw weights layer by layer, with replacement, from those that the ticket starts with (the paper's Figure 17)."""
    generator, drawn = torch.Generator().manual_seed(of.seed), dict(of.trial.origin)
    for name, m in of.mask.items():
        surviving = of.trial.origin[name][m]
        if len(surviving):
            index = torch.randint(len(surviving), m.shape, generator=generator)
            drawn[name] = surviving[index]
    return drawn


def signed(weights: Weights, mask: Mask) -> Weights:
    """Replace every prunable weight by its sign times its layer's standard deviation (arXiv 1905.01067)."""
    return {name: w.sign() * w.std() if name in mask else w for name, w in weights.items()}


def signed_initial(of: Sources) -> Weights:
    """Return the signs of the initial weights, scaled as in `signed`."""
    return signed(of.trial.theta_0, of.mask)


def noisy(of: Sources) -> Weights:
    """Add Gaussian noise of `sigmas` layerwise standard deviations to the rewound weights (the paper's Figure 25)."""
    generator = torch.Generator().manual_seed(of.seed)
    return {
        name: w + of.arm.sigmas * w.std() * torch.randn(w.shape, generator=generator) if name in of.mask else w
        for name, w in of.trial.origin.items()
    }


WEIGHTS: dict[str, Callable[[Sources], Weights]] = {
    f.__name__: f for f in (rewound, initial, fresh, trained, resampled, signed_initial, noisy)
}


def register_arm(
    weights: Callable[[Sources], Weights] | None = None, /, *, masks: str = "ticket", **about: Any
) -> Callable:
    """Register an arm that experiments can name: a function of Sources that returns the weights the arm starts from.

    The arm is named after the function. `masks` is the source of its masks: `ticket`, `oneshot`, `by_<criterion>` or
    `by_<criterion>-inverted`. `about` are other fields of Arm; with `shuffled=True`, the masks are shuffled. Use as a
    decorator, with or without arguments. Raises LabError for a function without a name, for another source of masks,
    for a field that Arm does not have, for a name that this package already uses, and for a colour, line style or
    marker that `check_look` refuses.
    """
    if weights is None:
        return lambda weights: register_arm(weights, masks=masks, **about)
    name = name_of("arm", weights)
    check_fields(f"arm {name!r}", about, Arm, set_here=("name", "masks", "weights"))
    if masks not in ("ticket", "oneshot") and not (criterion_of(masks) and arm_of(masks).masks == masks):
        raise LabError(
            f"arm {name!r}: masks = {masks!r}: allowed are ticket, oneshot, by_<criterion> and "
            "by_<criterion>-inverted; for shuffled masks pass shuffled=True"
        )
    known = WEIGHTS.get(name)
    if known.__module__.startswith("lthcore.") if known else name in ARMS:
        raise LabError(f"arm {name!r}: this package has one of that name; choose another")
    arm = Arm(name, masks, name, **{"label": name.replace("_", " "), "colour": UNCOLOURED} | about)
    choose(f"arm {name!r}: drawn", arm.drawn, ("", "reinit_draws", "random_draws"))
    check_look(f"arm {name!r}", arm.colour, arm.style, arm.marker)
    WEIGHTS[name], ARMS[name] = weights, arm
    return weights


def start(settings: Settings, model: nn.Module, trial: Trial, name: str, draw: int, k: int, mask: Mask) -> TrainState:
    """Return the initial state of a training run of arm `name`, with its weights and its mask.

    `mask` is the mask from the arm's source, before any shuffling.
    """
    arm = arm_of(name)
    placeholder = any(past.placeholder for past in (trial.dense, *trial.latest.values()))
    if name == "ticket" and settings.restart == "best":
        past = trial.latest["ticket"]
        going_on = begin(settings, trial.number, k, past.early_stop, mask)
        going_on.optimizer = masks.apply_to_optimizer(mask, past.optimizer) if settings.keep_optimizer else {}
        going_on.placeholder = placeholder
        return going_on
    seed = seed_of(settings, name, trial.number, draw, k)
    mask = masks.shuffled(mask, seed) if arm.shuffled else mask
    weights = _weights_of(Sources(settings, model, trial, arm, mask, seed))
    iteration = settings.rewind_to if arm.resumes else 0  # of the schedule, too
    training = begin(settings, trial.number, k, weights, mask, iteration)
    training.fine_tuned, training.placeholder = arm.fine_tuned, placeholder
    return training


def seed_of(settings: Settings, name: str, trial: int, draw: int, k: int) -> int:
    """Return the seed of what arm `name` draws for a training run: new weights, or the places of a shuffled mask."""
    arm = arm_of(name)
    purpose = (arm.purpose or name, trial, draw, k) if arm.drawn or arm.purpose else (name, trial, k)
    return seed_for(settings.seed, *purpose)


def _weights_of(of: Sources) -> Weights:
    """Return the weights that an arm starts from. A user-defined arm gets copies, which it may change in place.

    Raises LabError if a user-defined arm fails or does not return finite tensors with the names and shapes of the
    network's parameters and buffers.
    """
    derive, arm = WEIGHTS[of.arm.weights], f"arm {of.arm.name!r}"
    if not is_user_defined(derive):
        return derive(of)
    model = build(of.settings, image_shape(of.settings), classes_of(of.settings))
    try:
        weights = derive(of._replace(model=model, trial=deepcopy(of.trial), mask=deepcopy(of.mask)))
    except Exception as error:
        raise LabError(f"{arm} failed ({type(error).__name__}: {one_line(error)})") from error
    if not isinstance(weights, dict):
        raise LabError(f"{arm} returned {type(weights).__name__}, not a dict of all the network's weights")
    for name, w in of.trial.theta_0.items():
        given = weights.get(name)
        if not isinstance(given, Tensor) or given.shape != w.shape:
            what = f"a tensor of {tuple(given.shape)}" if isinstance(given, Tensor) else type(given).__name__
            raise LabError(f"{arm}: {name} needs a tensor of {tuple(w.shape)} as its weights, not {what}")
        if not given.isfinite().all():
            raise LabError(f"{arm}: its weights of {name} are not all finite numbers")
    if extra := [str(name) for name in weights if name not in of.trial.theta_0]:
        raise LabError(f"{arm} returned weights of {', '.join(extra)}, which the network does not have")
    return {name: weights[name].detach().to(w, copy=True) for name, w in of.trial.theta_0.items()}


def begin(
    settings: Recipe, trial: int, k: int, weights: Weights, mask: Mask | None = None, iteration: int = 0
) -> TrainState:
    """Return the initial state of a training run of a trial at round k, from `weights` under `mask`.

    The mask is a full one by default. The seed, and so the order of the batches, depends on trial and round only: it is
    the same for all arms.
    """
    mask = full_mask(weights) if mask is None else mask
    masked = masks.apply(mask, weights) if settings.masks_weights else weights
    return TrainState(iteration, masked, mask, seed_for(settings.seed, "training", trial, k), start=masked)


def carried_over(settings: Settings, name: str) -> tuple[str, ...]:
    """Return the fields of a TrainState, besides its mask, that the next round of arm `name` starts from."""
    if arm_of(name).weights == "trained":
        return ("weights",)
    if settings.restart == "rewind":
        return ()
    return ("early_stop", "optimizer") if settings.keep_optimizer else ("early_stop",)


def check_rewound(ticket: TrainState, trial: Trial) -> None:
    """Raise AssertionError unless a ticket starts at mask x initial (or rewound) weights, bit for bit.

    This rules out the most common mistake in reproductions: tickets that were never rewound.
    """
    for name, w in ticket.start.items():
        mask = ticket.mask.get(name)
        if not torch.equal(w, trial.origin[name] if mask is None else trial.origin[name] * mask):
            raise AssertionError(f"trial {trial.number}: {name} does not start at mask x initial weights")
