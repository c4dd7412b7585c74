"""The paper's figures (arXiv 1803.03635) from whatever tables there are: the largest profile wins."""

from pathlib import Path

import pandas as pd

from lthcore import plots
from lthcore.results import read_record, read_tables
from lthcore.settings import PROFILES, LabError

LENET = "iterative_pruning/lenet_mnist"
# file name -> (run, its figure as a function of rounds, curves and caption)
FIGURES = {
    "fig01_lenet_mnist": (LENET, lambda rounds, curves, caption: plots.figure1(rounds, caption)),
    "fig03_lenet_mnist": (LENET, plots.figure3),
    "fig04_lenet_mnist": (LENET, lambda rounds, curves, caption: plots.figure4(rounds, caption)),
}


def largest_run(root: Path, name: str) -> Path | None:
    """The folder of `<notebook>/<variant>` under the largest profile that has tables; None where none has."""
    root = Path(root)
    folders = [root / profile / name for profile in reversed(PROFILES)]
    return next((folder for folder in folders if (folder / "rounds.csv").exists()), None)


def load_run(root: Path, name: str) -> tuple[dict, pd.DataFrame, pd.DataFrame]:
    """run.json, rounds and curves of the largest run of `<notebook>/<variant>`. Raises LabError where there is none."""
    folder = largest_run(root, name)
    if folder is None:
        raise LabError(f"results: no tables of {name} under {root}; `lth run params/{name}.yaml` makes them")
    return read_record(folder), *read_tables(folder)


def describe(folder: Path, rounds: pd.DataFrame) -> str:
    """A caption: profile, n, iterations, and how much of the run is done."""
    record = read_record(folder)
    if not record:
        return "no run.json beside this table: settings unknown"
    done, planned = record["trainings_done"], record["trainings_planned"]
    profile = folder.relative_to(folder.parents[2]).parts[0]
    partial = "" if done >= planned else f", {done} of {planned} trainings done"
    n, iterations = rounds["trial"].nunique(), rounds["iterations"].max()
    key = record["run_key"]
    return f"profile {profile}: n = {n} trials of {iterations:,} iterations, bars from min to max{partial} ({key})"


def draw(name: str, root: Path):
    """One figure of FIGURES, or None where its tables are not there."""
    run, figure = FIGURES[name]
    folder = largest_run(root, run)
    if folder is None:
        return None
    rounds, curves = read_tables(folder)
    return figure(rounds, curves, describe(folder, rounds))


def draw_all(root: Path, folder: Path) -> list[str]:
    """Draw every figure into `folder` as svg and png; return a line for each that says what became of it."""
    lines = []
    for name in FIGURES:
        figure = draw(name, root)
        if figure is None:
            lines.append(f"{name}: no tables of {FIGURES[name][0]} yet")
        else:
            plots.save(figure, folder, name)
            lines.append(f"{name}: drawn as svg and png")
    return lines
