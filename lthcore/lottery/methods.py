"""Methods: how the experiments of each class of settings are planned, carried out and trained."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from lthcore.data.datasets import Data
from lthcore.lottery import dynamic, search, transfer
from lthcore.lottery.lineage import Lineage
from lthcore.lottery.search import Cohort, TrainCohort
from lthcore.lottery.transfer import Search
from lthcore.recipe import Recipe
from lthcore.settings import DynamicSettings, Settings, TransferSettings
from lthcore.training.loop import Trainer, train_in_step
from lthcore.training.state import Replicate


class Outcomes(Protocol):
    """Function that trains an experiment cohort by cohort, where each cohort starts from the outcomes before it.

    `train` trains a cohort, `lineage` holds the masks known so far, and `elsewhere` runs another search for its masks.
    """

    def __call__(
        self, settings: Recipe, data: Data, train: TrainCohort, lineage: Lineage, elsewhere: Search
    ) -> Iterator[Cohort]:
        """Yield the outcomes of each cohort in turn."""


@dataclass(frozen=True)
class Method:
    """How experiments with one class of settings are planned and trained.

    `notebook` is the notebook whose params always have this class of settings; it is empty for the default class.
    """

    notebook: str
    settings: type[Recipe]
    planned: Callable[[Recipe], list[Replicate]]
    outcomes: Outcomes
    trainer: Trainer


def _find_tickets(
    settings: Settings, data: Data, train: TrainCohort, lineage: Lineage, elsewhere: Search
) -> Iterator[Cohort]:
    yield from search.find_tickets(settings, data, train, lineage=lineage)


def _prune_dynamically(
    settings: DynamicSettings, data: Data, train: TrainCohort, lineage: Lineage, elsewhere: Search
) -> Iterator[Cohort]:
    yield from dynamic.prune_dynamically(settings, data, train)


METHODS = {
    method.settings: method
    for method in (
        Method("", Settings, search.planned, _find_tickets, train_in_step),
        Method("mask_transfer", TransferSettings, search.planned, transfer.transfer, train_in_step),
        Method("dynamic_pruning", DynamicSettings, dynamic.planned, _prune_dynamically, dynamic.train_and_prune),
    )
}


def planned(settings: Recipe) -> list[Replicate]:
    """Return all planned training runs of an experiment, in the order of the tables."""
    return METHODS[type(settings)].planned(settings)


def settings_for(notebook: str, names: Collection[str] = ()) -> type[Recipe]:
    """Return the class of settings that the params of a notebook have.

    A notebook of another name than those of METHODS may have any of them: `names`, the keys of the params, tell which.
    """
    named = (kind for kind, method in METHODS.items() if method.notebook == notebook)
    return next(named, None) or _kind_of(names)


def settings_of(values: dict[str, Any]) -> Recipe:
    """Return the settings stored in a record or ticket. Their class follows from the names of the values."""
    return _kind_of(values)(**values)


def _kind_of(names: Collection[str]) -> type[Recipe]:
    own = {kind: kind.model_fields.keys() - Settings.model_fields.keys() for kind in METHODS}
    return next((kind for kind, keys in own.items() if not keys.isdisjoint(names)), Settings)
