"""Methods: for each kind of settings, which trainings it plans, how they grow from each other, and what trains them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from lthcore.data.datasets import Data
from lthcore.lottery import dynamic, search, transfer
from lthcore.lottery.lineage import Lineage
from lthcore.lottery.search import Cohort, TrainCohort
from lthcore.lottery.transfer import Search
from lthcore.settings import DynamicSettings, Recipe, Settings, TransferSettings
from lthcore.training.loop import Trainer, train_in_step
from lthcore.training.state import Replicate


class Outcomes(Protocol):
    """Yields the trainings of an experiment trained, cohort by cohort, each grown from those before.

    `train` trains a cohort, `lineage` holds masks that are known, and `elsewhere` runs another search, for its masks.
    """

    def __call__(
        self, settings: Recipe, data: Data, train: TrainCohort, lineage: Lineage, elsewhere: Search
    ) -> Iterator[Cohort]:
        """The outcomes of each cohort in turn."""


@dataclass(frozen=True)
class Method:
    """How experiments of one kind of settings are made. `notebook` is the one that is its own, empty for all others."""

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
    """Every training of an experiment, in the order of the tables."""
    return METHODS[type(settings)].planned(settings)


def settings_for(notebook: str) -> type[Recipe]:
    """The kind of settings that the params of a notebook hold."""
    return next((kind for kind, method in METHODS.items() if method.notebook == notebook), Settings)


def settings_of(values: dict[str, Any]) -> Recipe:
    """The settings that a record or ticket holds: which kind they are of shows in their names."""
    own = {kind: kind.model_fields.keys() - Settings.model_fields.keys() for kind in METHODS}
    return next((kind for kind, names in own.items() if names & values.keys()), Settings)(**values)
