"""Plots of a column of curves.csv during training, as in the paper's Figures 3 and 11. Nothing is trained here."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.optimize import isotonic_regression

from lthcore.arms import arm_of
from lthcore.report.layout import captioned, in_percent, in_thousands, new_figure
from lthcore.report.plots import absent
from lthcore.report.run_tables import NEAR
from lthcore.runs.rows import nearest_round

REINIT = {"reinit": "reinitialised"}  # arms with a name of their own in the labels
UNTIL = 15_000  # iterations shown, as in the paper


def colours_of(rounds: Iterable[int]) -> dict[int, Any]:
    """Return a colour for each round: black for the dense network (round 0), blue to red for the others."""
    pruned = sorted({k for k in rounds if k})
    return {0: "#222222"} | dict(zip(pruned, sns.color_palette("turbo", len(pruned), desat=0.65), strict=True))


def at_shared_iterations(curves: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the curves of one arm and round whose iteration every trial has.

    Long curves are thinned when they are stored, but each trial keeps the evaluation at its own early stop. A mean over
    trials at such an iteration would cover fewer trials than its neighbours.
    """
    trials = curves.groupby("iteration")["trial"].transform("nunique")
    return curves[trials == curves["trial"].nunique()]


def plot_curves(
    curves: pd.DataFrame,
    series: Iterable[tuple[str, int]],
    column: str = "test_accuracy",
    axes: Axes | None = None,
    colours: dict[int, Any] | None = None,
) -> Axes:
    """Plot one column of curves.csv against the iteration, with a line for each (arm, round) of `series` in the table.

    Lines are means over trials and draws, and bands are their range. Returns the axes.
    """
    axes = axes or new_figure(1, 1)[1][0]
    series = [(arm, k) for arm, k in series if ((curves["arm"] == arm) & (curves["round"] == k)).any()]
    colours = colours or colours_of(k for _, k in series)
    for arm, k in series:
        part = at_shared_iterations(curves[(curves["arm"] == arm) & (curves["round"] == k)])
        spread = part.groupby("iteration")[column].agg(["mean", "min", "max"])
        left = f"{part['percent_left'].mean():.1f}%"
        style, label = ("-", left) if arm == "ticket" else (arm_of(arm).style, f"{left}, {REINIT.get(arm, arm)}")
        axes.plot(spread.index, spread["mean"], style, color=colours[k], label=label)
        axes.fill_between(spread.index, spread["min"], spread["max"], color=colours[k], alpha=0.15, linewidth=0)
    axes.set_xlabel("training iterations")
    axes.xaxis.set_major_locator(MaxNLocator(4))
    in_thousands(axes.xaxis)
    accuracy = "accuracy" in column
    if accuracy:
        in_percent(axes.yaxis)
    axes.legend(title="% of weights remaining", loc="lower right" if accuracy else "upper right")
    return axes


def label_ends(axes: Axes) -> None:
    """Label each line of a panel at its right end, in a darker shade and without overlap, instead of with a legend."""
    size, apart = 8.5, 10.5  # points
    if axes.get_legend():
        axes.get_legend().remove()
    low, high = axes.get_ylim()
    ends = {line: float(np.clip(line.get_ydata()[-1], low, high)) for line in axes.lines}  # nan if a line ends in nan
    lines = sorted((line for line in ends if not math.isnan(ends[line])), key=ends.__getitem__)
    unit = 72 * axes.bbox.height / axes.figure.dpi / (high - low)  # points per unit of the y-axis
    here, steps = unit * np.array([ends[line] for line in lines]), apart * np.arange(len(lines))
    places = isotonic_regression(here - steps).x + steps if lines else []  # nearest to the line ends at this distance
    for line, above in zip(lines, places - here, strict=True):
        axes.annotate(
            line.get_label(), (line.get_xdata()[-1], ends[line]), (5, above), va="center", fontsize=size,
            textcoords="offset points", color=legible(line.get_color()), annotation_clip=False,
        )  # fmt: skip


def legible(colour: Any) -> tuple[float, float, float]:
    """Return a shade of a colour in which text has a contrast of 4.5 on white (WCAG 2.2), or the colour itself."""
    shade = np.array(to_rgb(colour))
    while 1.05 / (_luminance(shade) + 0.05) < 4.5:
        shade = 0.95 * shade
    return tuple(shade)


def _luminance(rgb: np.ndarray) -> float:
    """Return the relative luminance of a colour in sRGB, from 0 (black) to 1 (white), as WCAG 2.2 defines it."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def figure3(rounds: pd.DataFrame, curves: pd.DataFrame, caption: str = "", column: str = "test_accuracy") -> Figure:
    """Draw the paper's Figure 3 (or Figure 11, for the validation loss): a column of curves.csv during training.

    If a run has at most one of the paper's percentages of weights remaining, besides the dense network's, its own
    percentages are shown, evenly spread over its rounds. Iterations beyond UNTIL are cut off.
    """
    if curves["iteration"].max() > UNTIL:
        curves = curves[curves["iteration"] <= UNTIL]
        caption = f"{caption}; {UNTIL:,} shown" if caption else ""
    figure, panels = new_figure(1, 3, (9.5, 3.6))
    left = rounds[rounds["arm"] == "ticket"].groupby("round")["percent_left"].mean()
    moderate, hard = _levels_shown(left)
    colours = colours_of(k for level in (*moderate, *hard) if (k := nearest_round(left, level, NEAR)) is not None)
    panel_levels = [moderate, hard, moderate]
    titles = ["Pruned moderately", "Pruned hard", "Rewound or reinitialised"]
    missing = set()
    for axes, levels, title in zip(panels, panel_levels, titles, strict=True):
        found = {level: nearest_round(left, level, NEAR) for level in levels}
        missing |= {level for level, k in found.items() if k is None}
        series = [("ticket", k) for k in found.values() if k is not None]
        if axes is panels[2]:
            series += [("reinit", k) for k in found.values() if k]
        plot_curves(curves, series, column, axes, colours)
        axes.set(
            title=title, ylabel=column.replace("_", " ").replace("val ", "validation ") if axes is panels[0] else ""
        )
    for axes in panels:
        if "accuracy" in column:
            axes.set_ylim(curves[column].max() - 0.035, curves[column].max() + 0.002)
        else:
            axes.set_ylim(0.9 * curves[column].min(), 5 * curves[column].min())
        label_ends(axes)
    levels = [f"{level}%" for level in sorted(missing)]
    return captioned(
        figure,
        f"{caption}; labels: % of weights remaining" if caption else "",
        levels + absent(rounds, ("ticket", "reinit")),
    )


def _levels_shown(left: pd.Series) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the percentages of weights remaining that Figure 3 shows as pruned moderately and as pruned hard.

    `left` has the percentages of the run, by round.
    """
    moderate, hard = (100, 51.3, 21.1), (100, 7.0, 3.6, 1.9)
    if sum(bool(nearest_round(left, level, NEAR)) for level in {*moderate, *hard}) > 1:
        return moderate, hard
    k = sorted(set(np.linspace(0, left.index.max(), 6).round().astype(int)))
    levels = [float(f"{left[i]:.3g}") for i in k]
    return tuple(levels[:3]), (100, *levels[3:])
