"""Figure of high-movement pruning round by round: curves of each round, and values at its early stop and end."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lthcore.arms import arm_of
from lthcore.report.curves import at_shared_iterations
from lthcore.report.layout import captioned, in_percent, new_figure, place_of, size_of, titled
from lthcore.report.plots import from_dark_to_light
from lthcore.report.run_tables import read_whole_trials, whole_trials
from lthcore.report.studies.movement_pruning.networks import NETWORKS, runs_of_network
from lthcore.runs.files import read_record

BLUE = arm_of("ticket").colour


def pruning_rounds(folder: Path, caption: str = "") -> Figure:
    """Draw a run of iterative pruning: curves of each round, then values at the early stop and at the end by round."""
    rounds, curves = (table[table["arm"] == "ticket"] for table in read_whole_trials(folder))
    settings = read_record(folder)["settings"]
    steps = settings["iterations"] / settings["epochs"] if settings["epochs"] else 1
    figure, panels = new_figure(2, 4, (10.4, 5.4))
    ks = sorted(curves["round"].unique())
    colours = from_dark_to_light(ks)
    for k in ks:
        means = at_shared_iterations(curves[curves["round"] == k]).groupby("iteration").mean(numeric_only=True)
        for axes, column in zip(panels, ("test_accuracy", "test_loss", "val_loss"), strict=False):
            axes.plot(means.index / steps, means[column], color=colours[k], label=f"round {k}")
    _finish_curves(panels, "epoch" if settings["epochs"] else "iteration")
    last = curves.sort_values("iteration").groupby(["trial", "round"])["test_loss"].last().groupby("round").mean()
    by_round = rounds.groupby("round")
    _per_round(panels[3], by_round["es_val_loss"].mean(), "Minimum validation loss")
    _per_round(panels[4], by_round["es_val_accuracy"].mean(), "Validation accuracy")
    collapsed = [k for k, part in by_round if "emptied" in part and part["emptied"].notna().any()]
    _per_round(panels[5], by_round["final_test_accuracy"].mean(), "Test accuracy at the end")
    _per_round(panels[6], last, "Test loss at the end")
    pruned = 1 - by_round["percent_left"].mean() / 100
    _bars(panels[7], pruned, "Share of weights pruned", collapsed)
    for axes in (panels[4], panels[5], panels[7]):
        in_percent(axes.yaxis)
    skipped = pruned.index[pruned.diff().eq(0)]
    caption += "; validation accuracy: at the early stop" if caption else ""
    note = f"; in rounds {', '.join(map(str, collapsed))} (red) a layer was emptied" if collapsed else ""
    note += f"; no further weights were pruned before round {', '.join(map(str, skipped))}" if len(skipped) else ""
    return captioned(figure, caption + note)


def _finish_curves(panels: list[Axes], unit: str) -> None:
    """Give the panels with curves their titles and scales, and the first a legend of a few of its rounds."""
    for axes, title in zip(panels, ("Test accuracy", "Test loss", "Validation loss"), strict=False):
        axes.set(title=f"{title}, each round", xlabel=unit)
        if "accuracy" in title:
            in_percent(axes.yaxis)
        else:
            later = np.concatenate([line.get_ydata()[1:] for line in axes.lines])
            axes.set_ylim(0.9 * np.nanmin(later), 1.05 * np.nanmax(later))
    handles, labels = panels[0].get_legend_handles_labels()
    few = range(0, len(labels), -(-len(labels) // 5))
    panels[0].legend([handles[i] for i in few], [labels[i] for i in few], loc="lower right", fontsize=7)


def movement_rounds(root: Path) -> Figure | None:
    """High-movement pruning round by round, for the largest network with results."""
    for stem in NETWORKS:
        if folder := runs_of_network(root, stem).get(f"{stem}-high_movement"):
            means = "means over trials; " if whole_trials(folder) > 1 else ""
            figure = pruning_rounds(folder, f"{means}{size_of(folder)}; tables: {place_of(folder)}")
            return titled(figure, f"High-movement pruning, {NETWORKS[stem]}")
    return None


def _per_round(axes: Axes, values: pd.Series, title: str) -> None:
    axes.plot(values.index, values, color=BLUE, marker="o", markersize=4)
    axes.set(title=title, xlabel="round")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def _bars(axes: Axes, values: pd.Series, title: str, collapsed: list[int]) -> None:
    axes.bar(values.index, values, color=["#c00000" if k in collapsed else BLUE for k in values.index])
    axes.set(title=title, xlabel="round")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
