"""Transfer: masks found on one data set, tried on another: as they are (a supermask?), and trained.

Both searches start from the same initial weights, which follow from the seed and the architecture, so a transferred
mask lands on the very weights it was found with. Untrained accuracies are those at iteration 0 of curves.csv.
"""

from collections.abc import Callable, Iterator

from lthcore.data import Data, load
from lthcore.lottery import Cohort, Found, find_tickets
from lthcore.settings import LabError, TransferSettings


def transfer(settings: TransferSettings, data: Data, train: Callable[[Cohort], Cohort]) -> Iterator[Cohort]:
    """Find masks on `masks_from`, then tickets on `dataset` with those masks beside them, round by round.

    Raises LabError where the two have images of different shapes.
    """
    yield from find_tickets(settings, data, train, masks_elsewhere(settings, data))


def masks_elsewhere(settings: TransferSettings, data: Data) -> Found:
    """The masks of each trial and round of the same search on the other data set, made anew each time it is asked."""
    other = load(settings.source)
    if other.shape != data.shape:
        raise LabError(
            f"masks_from = {settings.masks_from!r}: its images are {other.shape}, those of {settings.dataset} "
            f"{data.shape}; image_size makes them alike"
        )
    outcomes = (pair for cohort in find_tickets(settings.source, other) for pair in cohort.items())
    return {(replicate.trial, replicate.round): state.mask for replicate, state in outcomes}
