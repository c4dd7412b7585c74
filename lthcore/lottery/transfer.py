"""Transfer of masks from one data set to another, where they are evaluated untrained (as supermasks) and trained.

Both searches start from the same initial weights, which follow from the seed and the architecture. A transferred mask
is therefore applied to the same weights that it was found with. curves.csv has the untrained accuracies at iteration 0.
"""

from collections.abc import Iterator
from typing import Protocol

from lthcore.data.datasets import Data, classes_of, image_shape
from lthcore.errors import LabError
from lthcore.lottery.lineage import Lineage
from lthcore.lottery.search import Cohort, Found, TrainCohort, find_tickets
from lthcore.settings import Settings, TransferSettings


class Search(Protocol):
    """Function that finds the tickets of other settings, in a run of its own or in memory."""

    def __call__(self, settings: Settings) -> Iterator[Cohort]:
        """Yield the outcomes of each round."""


def transfer(
    settings: TransferSettings,
    data: Data,
    train: TrainCohort,
    lineage: Lineage | None,
    search: Search,
) -> Iterator[Cohort]:
    """Find masks on `masks_from`, then find tickets on `dataset` and train those masks beside them, round by round.

    Raises LabError if the two data sets differ in the shape of their images or in their number of classes, and if the
    search for the masks diverges.
    """
    yield from find_tickets(settings, data, train, masks_elsewhere(settings, search), lineage)


def masks_elsewhere(settings: TransferSettings, search: Search) -> Found:
    """Return the masks of the same search on the other data set, by (trial, round)."""
    mine, other = image_shape(settings), image_shape(settings.source)
    if mine != other:
        raise LabError(
            f"masks_from = {settings.masks_from!r}: its images are {other}, those of {settings.dataset} {mine}; "
            "image_size makes them alike"
        )
    classes, others = classes_of(settings), classes_of(settings.source)
    if classes != others:
        raise LabError(
            f"masks_from = {settings.masks_from!r}: it has {others} classes and {settings.dataset} {classes}, so masks "
            "of the output layer do not fit"
        )
    found = {}
    for replicate, state in (pair for cohort in search(settings.source) for pair in cohort.items()):
        if state.diverged:
            raise LabError(
                f"masks_from = {settings.masks_from!r}: trial {replicate.trial} diverged at round {replicate.round}, "
                "and there is no mask to transfer; lower learning_rate"
            )
        found[replicate.trial, replicate.round] = state.mask
    return found
