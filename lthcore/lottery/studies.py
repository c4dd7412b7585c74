"""Studies: for each kind of settings, which trainings it plans, how they grow from each other, and what trains them."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from lthcore.lottery import dynamic, search, transfer
from lthcore.lottery.search import Cohort
from lthcore.settings import DynamicSettings, Recipe, Settings, TransferSettings
from lthcore.training.loop import Trainer, train_in_step
from lthcore.training.state import Replicate


class Study(NamedTuple):
    """`planned` lists the trainings in the order of the tables; `outcomes` yields them trained, cohort by cohort.

    Where `searches`, `outcomes` takes, as well, what runs another search that it needs.
    """

    planned: Callable[[Recipe], list[Replicate]]
    outcomes: Callable[..., Iterator[Cohort]]  # of the settings, the data, and what trains a cohort
    trainer: Trainer
    searches: bool = False


STUDIES: dict[type[Recipe], Study] = {
    Settings: Study(search.planned, search.find_tickets, train_in_step),
    TransferSettings: Study(search.planned, transfer.transfer, train_in_step, searches=True),
    DynamicSettings: Study(dynamic.planned, dynamic.prune_dynamically, dynamic.train_and_prune),
}


def planned(settings: Recipe) -> list[Replicate]:
    """Every training of an experiment, in the order of the tables."""
    return STUDIES[type(settings)].planned(settings)
