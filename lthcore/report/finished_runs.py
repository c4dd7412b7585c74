"""The finished runs of a study. Each counts once, at the largest profile at which it is finished."""

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from lthcore.analysis.cache import has_derived
from lthcore.errors import LabError
from lthcore.lottery.methods import settings_of
from lthcore.paths import PROFILES, project_root, short
from lthcore.recipe import EXTENT
from lthcore.report.run_tables import read_whole_trials
from lthcore.runs.experiments import Experiment, NoSuchProfile, changes, load_experiments
from lthcore.runs.files import read_record
from lthcore.runs.status import status_of
from lthcore.sources.catalogue import dataset_of

FOLLOWING = ("iterations", "eval_every")  # settings that follow from the number of epochs, images and the batch size


def runs_of(root: Path, study: str, profiles: tuple[str, ...] = PROFILES[1:]) -> dict[str, Path]:
    """Return variant -> folder of each finished run of a study, at the largest of the given profiles.

    A run is finished if it has all training runs that its params file asks for (as in `lth list`), or all that its last
    `lth run` asked for. Only experiments defined by the params files count: runs made with `-p` have another variant
    and are left out. Params files and runs that cannot be read, and runs whose params file has other settings now, are
    left out with a note on stderr.
    """
    found = {}
    for profile in profiles:  # by default without `smoke`, which only shows that the code runs
        for path in (project_root() / "params" / study).glob("*.yaml"):
            for experiment in _readable(load_experiments, path, profile) or ():
                folder = root / experiment.name
                if (folder / "run.json").exists() and _readable(_is_drawn, folder, experiment):
                    found[experiment.variant] = folder
    return dict(sorted(found.items()))


def runs_beside(root: Path, study: str, base: str) -> dict[str, Path]:
    """Return the runs of a study at the same profile as its run `base`; {} if `base` is not finished at any profile."""
    folder = runs_of(root, study).get(base)
    return runs_of(root, study, (profile_of(folder),)) if folder else {}


def run_with(root: Path, study: str, *tables: str) -> Path | None:
    """Return the folder of a study's run of LeNet on MNIST, or None if it lacks any of these derived tables."""
    folder = runs_of(root, study).get("lenet_mnist")
    return folder if folder and has_derived(folder, *tables) else None


def profile_of(folder: Path) -> str:
    """Return the profile of a run, from its folder `<profile>/<notebook>/<variant>`."""
    return folder.parents[1].name


def classes_in(folder: Path) -> float:
    """Return the number of classes of a run's data set, infinity if the data set is not known here."""
    try:
        return dataset_of(read_record(folder)["settings"]["dataset"]).classes
    except LabError:
        return math.inf


def differing(one: Path, other: Path) -> dict[str, Any]:
    """Return the settings in which a run differs from another, with the values of `one`.

    Left out are those that follow from others, and those that say how many training runs there are.
    """
    ours, theirs = (settings_of(read_record(folder)["settings"]) for folder in (one, other))
    return {key: value for key, value in changes(theirs, ours).items() if key not in (*FOLLOWING, *EXTENT)}


def trainings_of(runs: dict[str, Path]) -> pd.DataFrame:
    """Return a table with a row for each training run of these runs (variant -> folder).

    Each row is a row of rounds.csv with the variant, profile, number of classes and settings of its run. Unfinished
    trials are left out.
    """
    parts = []
    for variant, folder in runs.items():
        rounds, record = read_whole_trials(folder)[0], read_record(folder)
        values = {k: str(v) if isinstance(v, list) else v for k, v in record["settings"].items() if k not in rounds}
        of_run = {"variant": variant, "profile": profile_of(folder), "classes": classes_in(folder)}
        parts.append(rounds.assign(**of_run, **values))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _is_drawn(folder: Path, experiment: Experiment) -> bool:
    """Return whether a run is finished. Raises LabError if its params file was changed since."""
    if read_record(folder).get("run_key") != experiment.settings.key:
        raise LabError(f"results: {short(folder)} was made with other settings than its params file has now")
    return status_of(experiment, folder.parents[2]).is_drawn


def _readable(read: Callable, *what: object) -> Any:
    """Return `read(*what)`; if it raises LabError, print a note to stderr (but of a missing profile); return None."""
    try:
        return read(*what)
    except NoSuchProfile:
        return None
    except LabError as error:
        print(f"note: left out: {error}", file=sys.stderr)
        return None
