"""Plots: tables to figures, in one style. No training happens here, and nothing is read but tables.

Lines are means over trials (and draws), bars reach from the lowest to the highest of them, as in the paper.
"""

import warnings
from collections.abc import Iterable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter, ScalarFormatter

from lthcore.tables import round_nearest, with_dense

STYLE = Path(__file__).with_name("lth.mplstyle")
# arm -> (label, colour, line style)
ARMS = {
    "ticket": ("winning ticket", "#1f5fa8", "-"),
    "reinit": ("reinitialised ticket", "#d1642a", "--"),
    "random": ("random sparse network", "#3d8c5c", ":"),
    "oneshot": ("one-shot ticket", "#7a4fa3", "-"),
    "oneshot_reinit": ("reinitialised one-shot", "#b8860b", "--"),
    "continued": ("continued training", "#767676", "-."),
}
TICKS = (100, 41.1, 16.9, 7.0, 2.9, 1.2, 0.5, 0.2)  # weights left, as on the paper's axes

warnings.filterwarnings("ignore", category=DeprecationWarning, module="seaborn")
warnings.filterwarnings("ignore", message=".*copy keyword is deprecated.*")  # seaborn 0.13.2 on pandas 3


def plot_against_sparsity(
    rounds: pd.DataFrame, column: str, arms: Iterable[str] = tuple(ARMS), axes: Axes | None = None, linear: bool = False
) -> Axes:
    """One column of rounds.csv against the percentage of weights left, a line for each arm that the table has."""
    axes = axes or _figure(1, 1)[1][0]
    table = with_dense(rounds)
    for arm in arms:
        part = table[(table["arm"] == arm) & table[column].notna()]
        if part.empty or set(part["round"]) == {0}:
            continue
        label, colour, style = ARMS[arm]
        # trials agree on the weights left to one weight in thousands: the round is what they share
        left = part.groupby("round")["percent_left"].transform("mean")
        sns.lineplot(
            part.assign(percent_left=left), x="percent_left", y=column, label=label, color=colour, linestyle=style,
            marker="o", markeredgewidth=0, errorbar=("pi", 100), err_style="bars", err_kws={"capsize": 2}, ax=axes,
        )  # fmt: skip
    if linear:
        axes.invert_xaxis()
    else:
        sparsity_axis(axes, rounds["percent_left"].min())
    axes.set_xlabel("weights left (%)")
    if "accuracy" in column:
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    return axes


def sparsity_axis(axes: Axes, lowest: float) -> None:
    """A falling logarithmic axis of weights left, with the paper's ticks."""
    axes.set_xscale("log")
    axes.set_xlim(115, lowest / 1.15)
    axes.set_xticks([tick for tick in TICKS if tick >= lowest / 1.15])
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.minorticks_off()


def plot_curves(
    curves: pd.DataFrame, series: Iterable[tuple[str, int]], column: str = "test_accuracy", axes: Axes | None = None
) -> Axes:
    """One column of curves.csv against the iteration: a line for each (arm, round) that the table has."""
    axes = axes or _figure(1, 1)[1][0]
    series = [(arm, k) for arm, k in series if ((curves["arm"] == arm) & (curves["round"] == k)).any()]
    levels = sorted({k for _, k in series})
    colours = dict(zip(levels, sns.color_palette("viridis", len(levels) + 1), strict=False))
    for arm, k in series:
        part = curves[(curves["arm"] == arm) & (curves["round"] == k)]
        spread = part.groupby("iteration")[column].agg(["mean", "min", "max"])
        left = f"{part['percent_left'].mean():.1f}%"
        style, label = ("-", left) if arm == "ticket" else (ARMS[arm][2], f"{left} {arm}")
        axes.plot(spread.index, spread["mean"], style, color=colours[k], label=label)
        axes.fill_between(spread.index, spread["min"], spread["max"], color=colours[k], alpha=0.15, linewidth=0)
    axes.set_xlabel("training iterations")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    axes.legend(title="weights left", loc="lower right")
    return axes


def figure1(rounds: pd.DataFrame, caption: str = "") -> Figure:
    """The paper's Figure 1: early-stop iteration and test accuracy there, tickets against random sparse networks."""
    figure, (left, right) = _figure(1, 2)
    plot_against_sparsity(rounds, "es_iteration", ("ticket", "random"), left)
    plot_against_sparsity(rounds, "es_test_accuracy", ("ticket", "random"), right)
    left.set(title="How fast it learns", ylabel="early-stop iteration")
    right.set(title="How well it learns", ylabel="test accuracy at early stop")
    return _captioned(figure, caption, _absent(rounds, ("ticket", "random")))


def figure3(rounds: pd.DataFrame, curves: pd.DataFrame, caption: str = "") -> Figure:
    """The paper's Figure 3: test accuracy as training proceeds, at several sparsities."""
    figure, panels = _figure(1, 3)
    panel_levels = [(100, 51.3, 21.1), (100, 7.0, 3.6, 1.9), (100, 51.3, 21.1)]
    titles = ["Pruned moderately", "Pruned hard", "Rewound or reinitialised"]
    missing = set()
    for axes, levels, title in zip(panels, panel_levels, titles, strict=True):
        found = {level: round_nearest(rounds, level) for level in levels}
        missing |= {level for level, k in found.items() if k is None}
        series = [("ticket", k) for k in found.values() if k is not None]
        if axes is panels[2]:
            series += [("reinit", k) for k in found.values() if k]
        plot_curves(curves, series, axes=axes)
        axes.set(title=title, ylabel="test accuracy" if axes is panels[0] else "")
    top = curves["test_accuracy"].max()
    for axes in panels:
        axes.set_ylim(top - 0.05, top + 0.002)
    levels = [f"{level}%" for level in sorted(missing)]
    return _captioned(figure, caption, levels + _absent(rounds, ("ticket", "reinit")))


def figure4(rounds: pd.DataFrame, caption: str = "") -> Figure:
    """The paper's Figure 4: early stop, accuracies there and at the end, of tickets and their reinitialisations."""
    arms = ("ticket", "reinit", "oneshot", "oneshot_reinit")
    one_shot = any(arm.startswith("oneshot") for arm in rounds["arm"].unique())
    figure, panels = _figure(3 if one_shot else 2, 2)
    columns = {
        "es_iteration": ("Early-stop iteration", "iteration"),
        "es_test_accuracy": ("Test accuracy at early stop", "accuracy"),
        "es_train_accuracy": ("Training accuracy at early stop", "accuracy"),
        "final_test_accuracy": ("Test accuracy at the end of training", "accuracy"),
    }
    for axes, (column, (title, label)) in zip(panels, columns.items(), strict=False):
        plot_against_sparsity(rounds, column, arms, axes)
        axes.set(title=title, ylabel=label)
    for axes, column in zip(panels[4:], ("es_iteration", "es_test_accuracy"), strict=False):  # the paper's 4c
        plot_against_sparsity(rounds, column, ("oneshot", "oneshot_reinit"), axes, linear=True)
        title, label = columns[column]
        axes.set(title=f"{title}, one-shot, linear axis", ylabel=label)
    for axes in [axes for axes in panels if axes.get_legend()][1:]:  # one legend is enough
        axes.get_legend().remove()
    return _captioned(figure, caption, _absent(rounds, arms))


def save(figure: Figure, folder: str | Path, name: str) -> list[Path]:
    """Write a figure as svg and png, the same bytes for the same figure, and close it; return the paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.{suffix}" for suffix in ("svg", "png")]
    with plt.style.context(STYLE):
        figure.savefig(paths[0], metadata={"Date": None})
        figure.savefig(paths[1])
    plt.close(figure)
    return paths


def _figure(rows: int, columns: int) -> tuple[Figure, np.ndarray]:
    plt.style.use(STYLE)
    width = {1: 5.5, 2: 9.0, 3: 12.0}[columns]
    figure, axes = plt.subplots(rows, columns, figsize=(width, 3.4 * rows), layout="constrained", squeeze=False)
    return figure, axes.ravel()


def _absent(rounds: pd.DataFrame, arms: Iterable[str]) -> list[str]:
    return [ARMS[arm][0] for arm in arms if arm not in set(rounds["arm"])]


def _captioned(figure: Figure, caption: str, absent: Iterable[str] = ()) -> Figure:
    missing = f"not in the table: {', '.join(absent)}" if absent else ""
    figure.supxlabel("; ".join(filter(None, (caption, missing))), fontsize=8, color="#666666")
    return figure
