"""Registries: the networks and criteria that experiments name. The rooms that define them fill these; anyone may."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from lthcore.errors import LabError

UNCOLOURED = "#444444"  # of what has no colour of its own: a figure gives it one


@dataclass(frozen=True)
class Criterion:
    """A criterion of pruning, and what the arm `by_<name>` is called and drawn as.

    `score` maps a PruningContext (lthcore/pruning/criteria.py) to a number for each prunable weight or unit: the lowest
    are pruned first. `trained` says whether it looks at trained weights; the others only serve arms `by_<name>`.
    """

    name: str
    score: Callable[[Any], dict[str, Any]]
    label: str
    colour: str = UNCOLOURED
    style: str = "-"
    prunes: Literal["weights", "units"] = "weights"
    trained: bool = True


MODELS: dict[str, Callable[..., Any]] = {}
CRITERIA: dict[str, Criterion] = {}


def register_model(model: Callable[..., Any]) -> Callable[..., Any]:
    """Let experiments name a network: a function of (settings, shape (C, H, W), classes) that returns an nn.Module.

    Its name is the function's. Raises LabError for other arguments than these three, and for a name that this package
    has given to another.
    """
    try:
        inspect.signature(model).bind(None, None, None)
    except TypeError:
        raise LabError(
            f"architecture {model.__name__!r}: its function must take (settings, shape, classes), not "
            f"{inspect.signature(model)}"
        ) from None
    _take(MODELS, "architecture", model.__name__, model, model)
    return model


def register_criterion(score: Callable | None = None, /, **about: Any) -> Callable:
    """Let experiments name a criterion: a function of a PruningContext that scores every prunable weight.

    Its name is the function's; `about` are the other fields of Criterion. With or without arguments it is a decorator.
    Raises LabError for a name that this package has given to another.
    """
    if score is None:
        return lambda score: register_criterion(score, **about)
    name = score.__name__
    criterion = Criterion(name, score, **{"label": name.replace("_", " ")} | about)
    _take(CRITERIA, "criterion", name, criterion, score)
    return score


def is_own(function: Callable) -> bool:
    """Whether a function is somebody's own, registered from outside this package: then its answers are checked."""
    return not str(getattr(function, "__module__", "")).startswith("lthcore.")


def _take(registry: dict[str, Any], kind: str, name: str, item: object, function: Callable) -> None:
    """Enter an item. What a notebook defines it may define again; what this package defines stays."""
    known = registry.get(name)
    before = getattr(known, "score", known)
    if before is not None and before.__module__.startswith("lthcore.") and before.__module__ != function.__module__:
        raise LabError(f"{kind} {name!r}: this package has one of that name; choose another")
    registry[name] = item
