"""Winning tickets of committed runs: masks and initial weights from the lineage of a run, without any training.

The masks of a run are in its lineage, and the initial weights follow from its seed. A ticket is therefore available
wherever its run's tables are: to train it, to train another network under its mask, or to export it.
"""

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from torch import nn

from lthcore import masks
from lthcore.arms import arm_of
from lthcore.data.datasets import classes_of, image_shape
from lthcore.errors import LabError
from lthcore.lottery import lineage
from lthcore.lottery.lineage import Lineage
from lthcore.lottery.methods import settings_of
from lthcore.lottery.outcomes import ORIGIN
from lthcore.lottery.search import initial_weights_of
from lthcore.lottery.start import begin, seed_of
from lthcore.masks import Mask
from lthcore.models.build import build
from lthcore.models.weights import Weights, initial_weights
from lthcore.runs.files import read_record, read_table
from lthcore.runs.folder import RunFolder, read_lineage
from lthcore.runs.rows import nearest_round
from lthcore.runs.status import find_run
from lthcore.settings import Settings
from lthcore.training.state import TrainState

NEAR = 0.15  # tolerance between the percentage of a ticket and the one asked for, as a share of the smaller


@dataclass(frozen=True)
class WinningTicket:
    """The ticket of one round (from 1) of one trial of a run: a mask, and the weights that training starts from."""

    folder: Path  # of the run
    settings: Settings
    trial: int
    round: int
    remaining: float  # % of weights
    mask: Mask = field(repr=False)
    weights: Weights = field(repr=False)  # initial ones, of pruned weights too
    arm: str = "ticket"

    @property
    def run(self) -> str:
        """Name of the run, `<profile>/<notebook>/<variant>`."""
        return "/".join(self.folder.parts[-3:])

    def network(self) -> nn.Module:
        """Return the network at the start of training, with pruned weights set to zero."""
        model = _network(self.settings)
        model.load_state_dict(masks.apply(self.mask, self.weights))
        return model

    def start(self) -> TrainState:
        """Return the initial state of a training run of the ticket."""
        return begin(self.settings, self.trial, self.round, self.weights, self.mask, self.settings.rewind_to)

    def reinitialised(self, draw: int = 0) -> TrainState:
        """Return the initial state of a training run of the control: newly drawn weights under the same mask."""
        seed = seed_of(self.settings, "reinit", self.trial, draw, self.round)
        weights = initial_weights(_network(self.settings), self.settings, seed)
        return begin(self.settings, self.trial, self.round, weights, self.mask)


def load_ticket(
    run: str | Path, trial: int = 0, remaining: float | None = None, round: int | None = None, arm: str = "ticket"
) -> WinningTicket:
    """Return a ticket of a run, at `round`, or at that with about `remaining` % of weights; by default the last.

    `run` is a folder, `<profile>/<study>/<variant>`, `<study>/<variant>`, or a variant that only one study has.
    Raises LabError if the run, the ticket or the lineage does not exist, if networks of this arm do not start from
    rewound weights under the mask found, and if own code or an .npz file of the run has changed since.
    """
    folder = find_run(run, lineage.FILE)
    record = read_record(folder)
    settings = settings_of(record.get("settings", {}))
    if not isinstance(settings, Settings):
        raise LabError(f"tickets: {folder} is not a search for tickets, so it has none")
    RunFolder(folder, settings).check_file()  # initial weights are drawn again, by the code of the run alone
    if (
        arm_of(arm).weights != "rewound"
        or arm_of(arm).shuffled
        or settings.restart != "rewind"
        or not settings.masks_weights
    ):
        raise LabError(
            f"tickets: those of arm {arm} in {folder} do not start from rewound weights under the mask that was found"
        )
    known = read_lineage(folder, settings.key)
    table = read_table(folder, "rounds.csv")
    last = known.known.get((trial, arm_of(arm).masks), 0)
    rows = table[(table["arm"] == arm) & (table["trial"] == trial) & table["round"].between(1, last)]
    percentages = rows.groupby("round")["percent_left"].first()
    if percentages.empty:
        if arm_of(arm).masks not in {source for _, source in known.known} and arm in set(table["arm"]):
            raise LabError(
                f"tickets: the lineage of {folder} does not hold the masks of arm {arm}, so none can be loaded"
            )
        trials = sorted(t for t, source in known.known if source == arm_of(arm).masks)
        raise LabError(f"tickets: trial {trial} of arm {arm} is not in {folder} (trials: {trials or 'none'})")
    k = _nearest(percentages, remaining, round, folder)
    weights = _origin(settings, known, trial)
    mask = known.mask(trial, arm_of(arm).masks, k)
    return WinningTicket(folder, settings, trial, k, float(percentages[k]), mask, weights, arm)


def _network(settings: Settings) -> nn.Module:
    return build(settings, image_shape(settings), classes_of(settings))


def _nearest(percentages: pd.Series, remaining: float | None, round: int | None, folder: Path) -> int:
    """Return the round asked for, or the round nearest to `remaining` %. Raises LabError if there is none."""
    there = ", ".join(f"{percent:.1f}" for percent in percentages)
    if round is not None and remaining is not None:
        raise LabError("tickets: give either the round or the percentage of weights remaining")
    if round is not None:
        if round not in percentages.index:
            raise LabError(f"tickets: {folder} has rounds {percentages.index.min()} to {percentages.index.max()}")
        return round
    if remaining is None:
        return int(percentages.index.max())
    k = nearest_round(percentages, remaining, NEAR)
    if k is None:
        raise LabError(f"tickets: {folder} has no ticket with {remaining}% of weights remaining (but {there})")
    return k


def _origin(settings: Settings, known: Lineage, trial: int) -> Weights:
    """Return the weights that tickets of a trial start from.

    Raises LabError if they are trained weights that the lineage no longer has.
    """
    if settings.rewind_to:
        carried = known.carried.get((trial, ORIGIN), (0, {}))[1].get("rewind")
        if carried is None:
            raise LabError(
                "tickets: those of this run start from trained weights, and its lineage does not hold them any more"
            )
        return carried
    return initial_weights_of(settings, trial)
