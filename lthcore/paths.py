"""Paths: where the project, its results and its data are."""

import os
from pathlib import Path

from lthcore.errors import LabError


def project_root() -> Path:
    """The folder that holds params/ and results/: at or above the working directory, else where lthcore lies."""
    here = Path.cwd()
    places = (here, *here.parents, Path(__file__).resolve().parents[1])
    return next((p for p in places if (p / "params").is_dir() and (p / "notebooks").is_dir()), here)


def results_root() -> Path:
    """Where runs are kept: `LTH_RESULTS`, else results/ of the project."""
    return Path(os.environ.get("LTH_RESULTS") or project_root() / "results")


def folder_of(name: str, root: Path | None = None) -> Path:
    """The folder of a run `<profile>/<notebook>/<variant>` below a results root (by default `results_root()`).

    Raises LabError for a name that leads out of the root, be it by links.
    """
    root = root or results_root()
    folder, inside = (root / name).resolve(), root.resolve()
    if folder == inside or not folder.is_relative_to(inside):
        raise LabError(f"results: {name} leads out of {root} (to {folder}); runs are kept below it")
    return root / name


def short(path: Path) -> str:
    """A path as people read it: from the working directory on, where it lies below that."""
    path = Path(path)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def cache_root() -> Path:
    """Where what can be found out again is kept: lth/ below `XDG_CACHE_HOME`, else below .cache of the home folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lth"


def data_root() -> Path:
    """Where data files are looked for: `LTH_DATA`, else data/ of the project."""
    return Path(os.environ.get("LTH_DATA") or project_root() / "data")
