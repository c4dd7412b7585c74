"""Registries of networks and criteria that experiments can name. This package fills them, and users may add to them."""

import inspect
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, fields
from typing import Any, Literal

from lthcore.errors import LabError, choose, shown

Kind = Literal["conv", "shortcut", "fc", "output"]  # of a layer whose weights are pruned
STYLES, MARKERS = ("-", "--", "-.", ":"), ("o", "s", "^", "v", "D", "d", "P", "X")  # of lines in figures
UNCOLOURED = "#444444"  # of arms and criteria without a colour of their own: figures choose one for them


@dataclass(frozen=True)
class Criterion:
    """A pruning criterion, with the label, colour and line style of its arm `by_<name>`.

    `score` maps a PruningContext (lthcore/pruning/criteria.py) to a score for each prunable weight or unit; the lowest
    are pruned first. `trained` tells whether it uses trained weights. `once` tells whether it is for arms `by_<name>`
    only, which prune once, and not for the rounds of a search. `uses_best` tells whether it compares with the weights
    at early stopping, which takes a validation set; scores that are all 0 then mean that training ended at its early
    stop, and nothing is pruned.
    """

    name: str
    score: Callable[[Any], dict[str, Any]]
    label: str
    colour: str = UNCOLOURED
    style: str = "-"
    prunes: Literal["weights", "units"] = "weights"
    trained: bool = True
    once: bool = False
    uses_best: bool = False


MODELS: dict[str, Callable[..., Any]] = {}
CRITERIA: dict[str, Criterion] = {}


def register_model(model: Callable[..., Any]) -> Callable[..., Any]:
    """Register a network that experiments can name: a function of (settings, shape (C, H, W), classes) -> nn.Module.

    The network is named after the function. Raises LabError if the function has no name or does not take these three
    arguments, and for a name that this package already uses.
    """
    name = name_of("architecture", model)
    try:
        inspect.signature(model).bind(None, None, None)
    except TypeError:
        raise LabError(
            f"architecture {name!r}: its function must take (settings, shape, classes), not {inspect.signature(model)}"
        ) from None
    _register(MODELS, "architecture", name, model, model)
    return model


def register_criterion(score: Callable | None = None, /, **about: Any) -> Callable:
    """Register a criterion that experiments can name: a function of a PruningContext that scores every prunable weight.

    The criterion is named after the function; `about` are the other fields of Criterion. Use as a decorator, with or
    without arguments. Raises LabError for a function without a name, for a name that this package already uses, for a
    field that Criterion does not have, for anything else to prune than weights or units, for a colour that is not
    `#rrggbb`, and for another style than STYLES.
    """
    if score is None:
        return lambda score: register_criterion(score, **about)
    name = name_of("criterion", score)
    check_fields(f"criterion {name!r}", about, Criterion, set_here=("name", "score"))
    criterion = Criterion(name, score, **{"label": name.replace("_", " ")} | about)
    choose(f"criterion {name!r}: prunes", criterion.prunes, ("weights", "units"))
    check_look(f"criterion {name!r}", criterion.colour, criterion.style)
    _register(CRITERIA, "criterion", name, criterion, score)
    return score


def name_of(kind: str, function: object) -> str:
    """Return the name that a function is registered under. Raises LabError if it has none, like a partial or lambda."""
    name = getattr(function, "__name__", "")
    if not name.isidentifier():
        raise LabError(f"{kind}: {shown(function)} has no name; register a function that is defined by `def`")
    return name


def check_fields(what: str, about: Iterable[str], record: type, set_here: Collection[str]) -> None:
    """Raise LabError unless `about` are names of fields of a dataclass, other than those that are `set_here`."""
    allowed = [field.name for field in fields(record) if field.name not in set_here]
    for key in about:
        choose(f"{what}: field", key, allowed)


def check_look(what: str, colour: str, style: str, marker: str = "o") -> None:
    """Raise LabError for a colour that is not `#rrggbb`, and for an unknown line style or marker; `what` has them."""
    if not re.fullmatch("#[0-9a-fA-F]{6}", str(colour)):
        raise LabError(f"{what}: colour = {shown(colour)}: must be '#' and six hexadecimal digits, as in '#1f5fa8'")
    choose(f"{what}: style", style, STYLES)
    choose(f"{what}: marker", marker, MARKERS)


def is_user_defined(function: Callable) -> bool:
    """Return whether a function is user-defined, i.e. not from this package. Results of such functions are checked."""
    return not str(getattr(function, "__module__", "")).startswith("lthcore.")


def _register(registry: dict[str, Any], kind: str, name: str, item: object, function: Callable) -> None:
    """Add an item to a registry.

    User-defined items may be defined again, as when a notebook's cell is rerun. Raises LabError for a name that this
    package uses, whichever of the two comes first: this package may register its own only after a user's module.
    """
    known = registry.get(name)
    before = getattr(known, "score", known)
    if before is not None and is_user_defined(before) != is_user_defined(function):
        raise LabError(f"{kind} {name!r}: this package has one of that name; choose another")
    registry[name] = item
