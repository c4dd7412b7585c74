"""Plots of tables of runs. Nothing is trained here.

Lines are means over trials (and draws). Error bars are their range, from the lowest to the highest, as in the paper.
Shaded bands are 95% intervals of the mean if the caption says so, else the range of trials.
"""

from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from lthcore.analysis.statistics import Estimate, mean_of, mean_of_pairs, ratio
from lthcore.arms import ARMS, arm_of
from lthcore.registry import UNCOLOURED
from lthcore.report.figure_specs import TITLES
from lthcore.report.layout import (
    CUT_OFF,
    captioned,
    cut_below,
    in_decades,
    in_percent,
    in_thousands,
    legend_above,
    new_figure,
    one_legend,
    sparsity_axis,
)
from lthcore.report.tables import cut_off, with_dense

TRAINING_ENDS = "end of training"  # id of the line of this name
FACTOR = 8.0  # between early stops, above which their axis is logarithmic
FEW_RUNS = 2  # figures of more compare settings


class Series(NamedTuple):
    """One line of a figure: the table of a run, the arm, and the label, colour, style and marker of the line."""

    rounds: pd.DataFrame
    arm: str
    label: str
    colour: str
    style: str
    marker: str


def series_of(rounds: pd.DataFrame, arms: Iterable[str] = ()) -> list[Series]:
    """Return a line for each of these arms that has pruned rounds in the table; for every such arm if none is given.

    If no arm has pruned rounds, as in dynamic pruning and in a search for zero rounds, all arms count. An arm without a
    colour of its own, or with the colour and style of another arm shown, gets a spare colour.
    """
    pruned = rounds[rounds["round"] > 0]
    present = list(dict.fromkeys((rounds if pruned.empty else pruned)["arm"]))
    shown = [arm for arm in arms or (*ARMS, *(arm for arm in present if arm not in ARMS)) if arm in present]
    spare = iter(sns.color_palette("husl", max(1, len(shown))).as_hex())
    series: list[Series] = []
    for arm in shown:
        look = arm_of(arm)
        taken = look.colour == UNCOLOURED or (look.colour, look.style) in {(one.colour, one.style) for one in series}
        series.append(Series(rounds, arm, look.label, next(spare) if taken else look.colour, look.style, look.marker))
    return series


def plot_series(series: Series, column: str, axes: Axes, x: str = "percent_left") -> None:
    """Plot one column of rounds.csv against the weights remaining (`x`: "percent_left" or "weights_left").

    The line is the mean over trials and draws, with bars from the lowest to the highest. Early-stop iterations have a
    hollow marker in rounds in which some training run was cut off (`cut_off`), and `captioned` says so. A line then
    shows where training ends.
    """
    table = with_dense(series.rounds)
    part = table[(table["arm"] == series.arm) & table[column].notna()]
    if part.empty:
        return
    # the weights left differ slightly between trials, so all points of a round are drawn at their mean
    left = part.groupby("round")[x].transform("mean")
    plot_means(part[column], left, axes, series.label, series.colour, series.style, series.marker)
    axes.set(
        xlabel="% of weights remaining" if x == "percent_left" else "weights remaining",
        ylabel=TITLES.get(column, column.replace("_", " ")).lower(),
    )
    if "iteration" in column:
        axes.yaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 2.5, 5, 10]))
        in_thousands(axes.yaxis)
    if column == "es_iteration" and cut_off(part).any():
        means = part.assign(ended=cut_off(part)).groupby(left)[[column, "ended"]].mean()
        means = means[means["ended"] > 0]
        axes.scatter(
            means.index, means[column], s=22, marker=series.marker, facecolor="white",
            edgecolor=series.colour, zorder=5 if series.arm == "ticket" else 4, gid=CUT_OFF,
        )  # fmt: skip
        _show_end(axes, part["iterations"].max())
    if "accuracy" in column:
        in_percent(axes.yaxis)


def _show_end(axes: Axes, iterations: int) -> None:
    """Draw where training ends in a panel of early-stop iterations, once for each number of iterations."""
    if iterations not in _ends(axes):
        axes.axhline(iterations, color="#888888", linewidth=1, linestyle=(0, (1, 1)), gid=TRAINING_ENDS, zorder=1)
        axes.text(
            0.01, 1.02 * iterations, "training ends", transform=axes.get_yaxis_transform(), va="bottom", fontsize=8.5,
            color="#666666", path_effects=[withStroke(linewidth=2, foreground="white")], zorder=6,
        )  # fmt: skip


def _ends(axes: Axes) -> list[int]:
    """Return the iterations at which a panel shows that training ends."""
    return [line.get_ydata()[0] for line in axes.lines if line.get_gid() == TRAINING_ENDS]


def from_dark_to_light(keys: Collection[Any]) -> dict[Any, tuple[float, float, float]]:
    """Return a colour for each of an ordered series of layers or rounds, from dark (the first) to light."""
    return dict(zip(keys, sns.color_palette("viridis", len(keys) + 1), strict=False))


def plot_against_sparsity(
    rounds: pd.DataFrame,
    column: str,
    arms: Iterable[str] = (),
    axes: Axes | None = None,
    linear: bool = False,
    sweep: bool = False,
) -> Axes:
    """Plot one column of rounds.csv against the percentage of weights remaining, with a line for each arm.

    Arms are chosen as in `series_of`. The x-axis is logarithmic unless `linear` is set. `sweep` cuts an axis of
    accuracies as in figures of sweeps (`cut_below`). Returns the axes.
    """
    axes = axes or new_figure(1, 1)[1][0]
    for series in series_of(rounds, arms):
        plot_series(series, column, axes)
    _scale(axes, column, [rounds], sweep)
    if linear:
        axes.invert_xaxis()
    else:
        sparsity_axis(axes)
    if axes.lines:
        axes.legend()
    return axes


def _quantity(column: str) -> str:
    """Return the quantity in a column of rounds.csv, for an axis whose title says when it was measured."""
    names = {"iteration": "iteration", "test_accuracy": "test accuracy", "train_accuracy": "training accuracy",
             "val_accuracy": "validation accuracy"}  # fmt: skip
    return next((name for end, name in names.items() if column.endswith(end)), column.replace("_", " "))


def _scale(axes: Axes, column: str, tables: list[pd.DataFrame], sweep: bool) -> None:
    """Scale the vertical axis so that lines of tickets can be told apart, where others leave them far behind.

    An axis of accuracies is cut below where lines fall so far that those of tickets look flat: in a `sweep`, those of
    its better settings, or where more weights remain. Early stops that differ by a large factor get a logarithmic axis;
    with the end of training in the panel, other axes of early stops begin at zero.
    """
    heights = np.concatenate([line.get_ydata() for line in axes.lines] or [[]]).astype(float)
    if column == "es_iteration" and len(heights) and 0 < FACTOR * np.nanmin(heights) < np.nanmax(heights):
        in_decades(axes)
        axes.set_ylim(np.nanmin(heights) / 1.2, np.nanmax(heights) * 1.3)
    elif _ends(axes):
        axes.set_ylim(0, 1.14 * np.nanmax(heights))
    tickets = pd.concat([pd.Series(dtype=float), *(t[t["arm"] == "ticket"][column].dropna() for t in tables)])
    if "accuracy" in column and len(tickets):
        cut_below(axes, tickets, sweep)


def panels(
    series: Iterable[Series],
    columns: dict[str, str],
    caption: str = "",
    x: str = "percent_left",
    missing: Iterable[str] = (),
) -> Figure:
    """Draw a panel with all series for each column (column -> title), like most of the paper's figures.

    `missing` names runs or arms that the caption lists as absent.
    """
    series = list(series)
    across = 2 if len(columns) == 4 else min(len(columns), 3)
    figure, axes = new_figure(-(-len(columns) // across), across)
    handles, labels = [], []
    for panel, (column, title) in zip(axes, columns.items(), strict=False):
        if all(one.rounds[column].isna().all() for one in series):
            _say_empty(panel, column)
        for one in series:
            plot_series(one, column, panel, x)
        _scale(panel, column, [one.rounds for one in series], sweep=len(series) > FEW_RUNS)
        if x == "percent_left":
            sparsity_axis(panel)
        else:
            panel.set_xscale("log")
            panel.invert_xaxis()
        panel.set(title=title, ylabel=_quantity(column))
        if (shown := panel.get_legend_handles_labels())[0]:
            handles, labels = shown
    for panel in axes[len(columns) :]:
        panel.set_axis_off()
    if handles and len(axes) > len(columns):
        axes[-1].legend(handles, labels, loc="center left")  # into the unused last panel
    elif handles:
        legend_above(figure, handles, labels)
    return captioned(figure, caption, missing)


def _say_empty(axes: Axes, column: str) -> None:
    """Write into an empty panel why it is empty."""
    why = "no validation set, so no early stop" if column.startswith("es_") else "nothing in the tables"
    axes.text(0.5, 0.5, why, transform=axes.transAxes, ha="center", color="#666666")


def figure4(rounds: pd.DataFrame, caption: str = "") -> Figure:
    """Draw the paper's Figure 4: early stop, and accuracies there and at the end, of tickets and reinitialisations.

    A panel with the training accuracy at the early stop is added.
    """
    arms = ("ticket", "reinit", "oneshot", "oneshot_reinit")
    one_shot = any(arm.startswith("oneshot") for arm in rounds["arm"].unique())
    figure, panels = new_figure(3 if one_shot else 2, 2)
    columns = ("es_iteration", "es_test_accuracy", "es_train_accuracy", "final_test_accuracy")
    for axes, column in zip(panels, columns, strict=False):
        if rounds[column].isna().all():
            _say_empty(axes, column)
        plot_against_sparsity(rounds, column, arms, axes, sweep=True)  # with few weights, all accuracies fall far
        axes.set(title=TITLES[column], ylabel=_quantity(column))
    for axes, above, column in zip(panels[4:], panels, columns, strict=False):  # the paper's Figure 4c
        plot_against_sparsity(rounds, column, ("oneshot", "oneshot_reinit"), axes, linear=True)
        axes.set(title=f"One-shot: {_quantity(column)}, linear x-axis", ylabel=_quantity(column))
        if above.get_yscale() == "log":
            in_decades(axes)
        axes.set_ylim(above.get_ylim())
    one_legend(figure)
    return captioned(figure, caption, absent(rounds, arms))


def plot_means(
    values: pd.Series, left: pd.Series, axes: Axes, label: str, colour: str, style: str = "-", marker: str = "o"
) -> None:
    """Plot values against the weights remaining, given by `left` for each value.

    The line is the mean of the values at each percentage, with bars from the lowest to the highest.
    """
    found = values.groupby(left).agg(["mean", "min", "max"]).sort_index(ascending=False)
    # by rounding, the mean of equal numbers may lie outside their range
    bars = [(found["mean"] - found["min"]).clip(0), (found["max"] - found["mean"]).clip(0)]
    axes.errorbar(
        found.index, found["mean"], bars, label=label, color=colour, linestyle=style, marker=marker, markersize=4,
        capsize=1.5, elinewidth=0.8, linewidth=1.4,
    )  # fmt: skip


def plot_intervals(
    table: pd.DataFrame, x: str, y: str, axes: Axes, label: str, colour: str, style: str = "-", over: str = ""
) -> None:
    """Plot the mean over trials of column `y` at each value of column `x`, with a band of the 95% intervals.

    If `over` names a column, the ratio of the means of `y` and `over` is plotted. If the table has a row for each pair
    of trials (columns a and b), the interval is computed over trials, not over pairs.
    """
    found = {at: _interval(part, y, over) for at, part in table.groupby(x) if part[y].notna().any()}
    mean, low, high = ([getattr(e, end) for e in found.values()] for end in ("value", "low", "high"))
    axes.plot(list(found), mean, style, color=colour, label=label, marker="o", markersize=3.5)
    axes.fill_between(list(found), low, high, color=colour, alpha=0.18, linewidth=0)


def _interval(part: pd.DataFrame, y: str, over: str) -> Estimate:
    if over:
        return ratio(part[y], part[over])
    return mean_of_pairs(part[y], part["a"], part["b"]) if {"a", "b"} <= set(part) else mean_of(part[y])


def absent(rounds: pd.DataFrame, arms: Iterable[str]) -> list[str]:
    """Return the labels of the given arms that a table does not have."""
    return [arm_of(arm).label for arm in arms if arm not in set(rounds["arm"])]


def plot_rounds(
    rounds: pd.DataFrame, column: str, axes: Axes, label: str, colour: str, style: str = "-", marker: str = "o"
) -> None:
    """Plot shares in rounds.csv against the weights remaining: means over trials, bars from lowest to highest.

    Rows are grouped by the percentage remaining and not by round, because a trial that skips a round is behind the
    others from then on. Of a trial's rounds at one percentage the first counts. Only percentages that every trial has
    are shown.
    """
    rounds = rounds.assign(percent_left=rounds["percent_left"].round(2)).sort_values("round", kind="stable")
    rounds = rounds.drop_duplicates(["arm", "trial", "draw", "percent_left"])
    left = rounds["percent_left"]
    everyone = rounds.groupby(left)["trial"].transform("nunique") == rounds["trial"].nunique()
    plot_means(rounds[column][everyone], left[everyone], axes, label, colour, style, marker)
    in_percent(axes.yaxis)


def plot_arms(table: pd.DataFrame, arms: dict[str, str], column: str, axes: Axes, title: str) -> None:
    """Plot test accuracies with a line for each arm in the table: means over trials, bars from lowest to highest.

    `arms` maps each arm to its label in the legend.
    """
    for arm, label in arms.items():
        part = table[(table["arm"] == arm) & (table["round"] > 0)]
        if part.empty:
            continue
        left = part.groupby("round")["percent_left"].transform("mean")
        look = arm_of(arm)
        plot_means(part[column], left, axes, label, look.colour, look.style, look.marker)
    sparsity_axis(axes)
    in_percent(axes.yaxis)
    axes.set(title=title, ylabel="test accuracy")
