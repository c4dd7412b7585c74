"""Paths of the project, its results, its data and the cache."""

import os
from pathlib import Path

from lthcore.errors import LabError

PROFILES = ("smoke", "cpu", "paper")  # how much of an experiment is run: the first part of a run's name


def project_root() -> Path:
    """Return the folder that holds params/: at or above the working directory, else next to lthcore.

    Returns the working directory if there is no such folder.
    """
    here = Path.cwd()
    places = (here, *here.parents, Path(__file__).resolve().parents[1])
    return next((place for place in places if (place / "params").is_dir()), here)


def results_root() -> Path:
    """Return the folder of all runs: `LTH_RESULTS` if set, else results/ of the project.

    Raises LabError if this is a file.
    """
    root = Path(os.environ.get("LTH_RESULTS") or project_root() / "results")
    if root.is_file():
        raise LabError(f"results: {root} is a file, not a folder; set LTH_RESULTS to a folder")
    return root


def folder_of(name: str, root: Path | None = None) -> Path:
    """Return the folder of a run `<profile>/<notebook>/<variant>` below a results root (default: `results_root()`).

    Raises LabError for a name that leads out of the root, also by symbolic links.
    """
    root = root or results_root()
    folder, inside = (root / name).resolve(), root.resolve()
    if folder == inside or not folder.is_relative_to(inside):
        raise LabError(f"results: {name} leads out of {root} (to {folder}); runs are kept below it")
    return root / name


def short(path: Path) -> str:
    """Return a path as text, relative to the working directory if it lies below it."""
    path = Path(path)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def cache_root() -> Path:
    """Return the cache folder: lth/ below `XDG_CACHE_HOME` if set, else below .cache in the home folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lth"


def data_root() -> Path:
    """Return the folder of data files: `LTH_DATA` if set, else data/ of the project."""
    return Path(os.environ.get("LTH_DATA") or project_root() / "data")
