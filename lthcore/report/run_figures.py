"""Figures of any run, including those of the user's own, and of several runs together."""

from collections.abc import Iterable
from itertools import cycle
from pathlib import Path

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from lthcore.errors import LabError
from lthcore.recipe import EXTENT
from lthcore.report import plots
from lthcore.report.curves import figure3
from lthcore.report.figure_specs import PAIR, TITLES
from lthcore.report.layout import BANDS, describe
from lthcore.report.plots import Series
from lthcore.report.run_tables import TICKETS, read_whole_trials
from lthcore.runs.files import has_results, read_record

FEW_SETTINGS = 3  # maximum number of settings in the label of a line


def figures_of(folder: Path) -> dict[str, Figure]:
    """Return figures of any run, by name.

    `rounds` shows the early stop and the accuracies of all arms by weights remaining. `curves`, only for runs with
    tickets, shows the test accuracy during training. Raises LabError if no training run is done yet.
    """
    if not has_results(folder):
        raise LabError(f"figures: no training of {folder} is done yet; `lth run` goes on with it")
    rounds, curves = read_whole_trials(folder)
    columns = {column: TITLES[column] for column in (*PAIR, "final_test_accuracy") if rounds[column].notna().any()}
    record = read_record(folder)
    done, asked = record.get("trainings_done", 0), record.get("trainings_planned", 0)
    so_far = f"; {done} of {asked} trainings done" if done < asked else ""
    figures = {"rounds": plots.panels(plots.series_of(rounds), columns, describe(folder) + so_far)}
    if (rounds["arm"] == "ticket").any():
        figures["curves"] = figure3(rounds, curves, describe(folder, spread=BANDS) + so_far)
    return figures


def figure_of_runs(folders: dict[str, Path]) -> Figure:
    """Draw the tickets of several runs (label -> folder), such as those of a sweep, into the same panels.

    Raises LabError if there are no tickets.
    """
    tables = {label: read_whole_trials(folder)[0] for label, folder in folders.items()}
    columns = [c for c in (*PAIR, "final_test_accuracy") if any(rounds[c].notna().any() for rounds in tables.values())]
    series = series_of_runs(tables, TICKETS)
    if not series:
        raise LabError(f"figures: {', '.join(folders)} have no tickets to draw together; draw each alone")
    return plots.panels(series, {column: TITLES[column] for column in columns}, describe(*folders.values()))


def compared(folders: Iterable[Path]) -> dict[str, Path]:
    """Return label -> folder for runs to be compared: the settings in which they differ, if these are few, or names.

    The number of trials and other settings that say how much of an experiment is run do not count. Raises LabError for
    runs on different data sets, whose accuracies have no axis in common.
    """
    folders = list(folders)
    settings = [{k: v for k, v in read_record(f).get("settings", {}).items() if k not in EXTENT} for f in folders]
    if len(data := sorted({str(s.get("dataset")) for s in settings})) > 1:
        raise LabError(f"figures: these runs are on {' and '.join(data)}; draw only runs on one data set together")
    differ = [key for key in settings[0] if any(s.get(key) != settings[0][key] for s in settings)]
    labels = [", ".join(f"{key.replace('_', ' ')} {s.get(key)}" for key in differ) for s in settings]
    if not 0 < len(differ) <= FEW_SETTINGS or len(set(labels)) < len(labels):
        labels = ["/".join(folder.parts[-3:]) for folder in folders]
    return dict(zip(labels, folders, strict=True))


def series_of_runs(tables: dict[str, pd.DataFrame], arms: Iterable[str], with_arms_colours: str = "") -> list[Series]:
    """Return the lines of several runs (label -> rounds), with a colour for each run.

    The run labelled `with_arms_colours` has those of its arms.
    """
    colours = sns.color_palette("viridis" if len(tables) > plots.FEW_RUNS else "deep", len(tables) + 1)
    if with_arms_colours:  # the first two would look the same
        colours = sns.color_palette("deep")[2:]
    series, markers = [], cycle("os^Dv<>P")
    for colour, (label, rounds) in zip(colours, tables.items(), strict=False):
        for one in plots.series_of(rounds, arms):
            arm = "" if one.arm in TICKETS else f", {one.label}"
            drawn = one.colour if label == with_arms_colours else colour
            marker = one.marker if len(tables) <= plots.FEW_RUNS else next(markers)
            series.append(Series(rounds, one.arm, f"{label}{arm}", drawn, one.style, marker))
    return series
