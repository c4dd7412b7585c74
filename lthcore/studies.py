"""Studies: for each kind of settings, which trainings it plans, how they grow from each other, and what trains them."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from lthcore import dynamic, lottery, transfer
from lthcore.data import Data
from lthcore.lottery import Cohort, Replicate
from lthcore.settings import DynamicSettings, Recipe, Settings, TransferSettings
from lthcore.train import Trainer, train_in_step


class Study(NamedTuple):
    """`planned` lists the trainings in the order of the tables; `outcomes` yields them trained, cohort by cohort."""

    planned: Callable[[Recipe], list[Replicate]]
    outcomes: Callable[[Recipe, Data, Callable[[Cohort], Cohort]], Iterator[Cohort]]
    trainer: Trainer


STUDIES: dict[type[Recipe], Study] = {
    Settings: Study(lottery.planned, lottery.find_tickets, train_in_step),
    TransferSettings: Study(lottery.planned, transfer.transfer, train_in_step),
    DynamicSettings: Study(dynamic.planned, dynamic.prune_dynamically, dynamic.train_and_prune),
}


def planned(settings: Recipe) -> list[Replicate]:
    """Every training of an experiment, in the order of the tables."""
    return STUDIES[type(settings)].planned(settings)
