"""Tables derived from a finished run's tickets, cached beside the run's own tables.

Tickets stay on the machine that made them, but tables are small enough to share. A derived table is therefore computed
once, where the tickets are, and can be read anywhere. derived.json records for each table how many training runs it was
computed from, and with which commit and package versions.
"""

import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import pandas as pd

from lthcore.data.datasets import Data, classes_of, image_shape, load
from lthcore.errors import LabError, counted, one_line
from lthcore.lottery.methods import settings_of
from lthcore.models.build import build
from lthcore.recipe import Recipe
from lthcore.runs.checkpoints import load_state, state_path
from lthcore.runs.files import read_file, read_record, read_table, read_tables, write_run
from lthcore.runs.lock import LOCK, locked
from lthcore.runs.provenance import COMMIT, versions
from lthcore.settings import Settings
from lthcore.training.loop import one_thread
from lthcore.training.state import Replicate, TrainState

NOTES = "derived.json"


class TicketStore:
    """Tickets (saved training runs) of a run. Call it to load one: `tickets(trial, round, arm, draw)`."""

    def __init__(self, folder: str | Path) -> None:
        """Open the folder of a complete run. Raises LabError if there is no run, or if it is unfinished."""
        self.folder = Path(folder)
        self.record = read_record(folder)
        if not self.record.get("complete"):
            raise LabError(f"results: {folder} has no complete run; `lth run` starts or resumes it")
        # tickets of a GPU are read on any machine
        self.settings = settings_of(self.record["settings"]).changed(device="auto")
        self.shape = image_shape(self.settings)

    def __call__(self, trial: int, k: int, arm: str = "ticket", draw: int = 0) -> TrainState:
        """Return the final state of one training run. Raises LabError if its ticket is not here, or if it diverged."""
        path, lost = self._path(trial, k, arm, draw), self.record.get("trainings_diverged", 0)
        if not path.exists():
            why = "tickets stay on the machine that made them"
            if lost:
                why = f"{counted(lost, 'training')} of this run diverged, and ended their trials; lower learning_rate"
            raise LabError(f"results: there is no ticket {path}: {why}")
        state = load_state(path)[0]
        if state.diverged:
            raise LabError(f"results: {path} has no finite weights, as its training diverged; lower learning_rate")
        return state

    def has(self, trial: int, k: int, arm: str = "ticket", draw: int = 0) -> bool:
        """Return whether this ticket is on this machine."""
        return self._path(trial, k, arm, draw).exists()

    def _path(self, trial: int, k: int, arm: str, draw: int) -> Path:
        return state_path(self.folder / "tickets", Replicate(arm, trial, draw, k))

    @cached_property
    def data(self) -> Data:
        """Data that the networks were trained on."""
        return load(self.settings)

    @cached_property
    def model(self):
        """Network to load the saved weights into, built on the CPU."""
        return build(self.settings, self.shape, classes_of(self.settings))

    @cached_property
    def percent_left(self) -> dict[int, float]:
        """Percentage of weights left by round, averaged over the tickets of all trials."""
        rounds, _ = read_tables(self.folder)
        return rounds[rounds["arm"] == "ticket"].groupby("round")["percent_left"].mean().round(2).to_dict()


def need_trials(settings: Recipe) -> None:
    """Raise LabError if there are fewer than two trials, for a study that compares trials with each other.

    Call it before anything is trained.
    """
    if settings.trials < 2:
        raise LabError(f"trials = {settings.trials}: this study compares trials with each other and needs at least 2")


def need_weights(settings: Settings) -> None:
    """Raise LabError if a run prunes whole units, for a study that prunes its networks again, weight by weight.

    Call it before anything is trained.
    """
    if settings.granularity != "weights":
        raise LabError(f"granularity = {settings.granularity}: this study needs a run with granularity = weights")


def has_derived(folder: Path, *names: str) -> bool:
    """Return whether these derived tables of a run exist and cover all of its training runs."""
    made, done = _made(folder), read_record(folder).get("trainings_done")
    return all((folder / f"{n}.csv").exists() and made.get(n, {}).get("trainings") == done for n in names)


def cached_table(
    folder: str | Path, name: str, make: Callable[[TicketStore], pd.DataFrame] | None = None
) -> pd.DataFrame:
    """Return the table `<name>.csv` of a run: read if it covers all training runs, else computed by `make` and saved.

    `make` computes the table from the run's tickets. Raises LabError if the table must be computed and `make` is None.
    """
    folder, tickets = Path(folder), TicketStore(folder)
    path = folder / f"{name}.csv"
    if not has_derived(folder, name):
        if make is None:
            raise LabError(
                f"results: {path} is missing or of fewer trainings than its run: execute the study's notebook"
            )
        with one_thread():
            table = make(tickets)
        made = {"trainings": tickets.record["trainings_done"], "commit": COMMIT, "versions": versions()}
        with locked(folder / LOCK, wait=True):  # others may write other tables of the run
            text = json.dumps(_made(folder) | {name: made}, indent=2) + "\n"
            write_run(
                folder,
                read_record(folder),
                {path.name: table.round(6).to_csv(index=False, lineterminator="\n"), NOTES: text},
            )
    return read_table(folder, path.name)


def _made(folder: Path) -> dict[str, dict]:
    """Return the content of derived.json, by table, or {} if the file does not exist. Raises LabError if damaged."""
    path = folder / NOTES
    try:
        return json.loads(read_file(path)) if path.exists() else {}
    except ValueError as error:
        raise LabError(f"results: {path} is damaged ({one_line(error)}); put it back, or delete it") from None
