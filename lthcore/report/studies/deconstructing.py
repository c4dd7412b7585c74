"""Study of why tickets win: masks by other criteria and other weights (arXiv 1905.01067). Figures and sentences."""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from lthcore.report.finished_runs import classes_in, runs_beside
from lthcore.report.layout import caption_of, captioned, legend_above, new_figure, spread_bars
from lthcore.report.plots import plot_arms
from lthcore.report.run_tables import read_whole_trials
from lthcore.report.sentences import compared, gaps, level
from lthcore.report.study import Study
from lthcore.report.tables import before_training, middle_and_last, name_of

CRITERIA = {
    "criteria": ("by_magnitude_same_sign", "by_magnitude_increase", "by_movement", "by_large_init_large_final"),
    "controls": ("by_magnitude_at_init", "by_small_magnitude", "by_small_magnitude_at_init"),
}  # fmt: skip
WEIGHTS = {  # arm -> label
    "oneshot": "large final, rewound", "by_magnitude-signed": "large final, signs only",
    "oneshot_reinit": "large final, reinitialised", "ticket": "iterative ticket",
}  # fmt: skip


COMPARED = ("by_magnitude_same_sign", "by_magnitude_increase", "by_movement", "by_magnitude_at_init", "by_random",
            "by_small_magnitude")  # fmt: skip
OTHER_WEIGHTS = {"by_magnitude-signed": "one size with the initial signs", "oneshot_reinit": "drawn anew"}


def deconstructing(folder: Path, caption: str = "", frozen: Path | None = None) -> Figure:
    """Draw a run of masks by criterion: accuracies of trained and untrained networks, and with other weights.

    There is a column of panels for each group of criteria; both have the large final and the random masks. `frozen` is
    the folder of the same run with pruned weights kept at their initial values instead of zero. If it is given, a row
    shows how this changes the accuracy.
    """
    rounds, curves = read_whole_trials(folder)
    figure, panels = new_figure(4 if frozen else 3, 2)
    column = "final_test_accuracy"
    rows = [(rounds, column, "After training"), (before_training(curves), "test_accuracy", "Before training")]
    if frozen:
        rows.append((_change(read_whole_trials(frozen)[0], rounds, column), column, "Frozen minus zero"))
    for row, (table, of, what) in enumerate(rows):
        pair = panels[2 * row : 2 * row + 2]
        for axes, (group, arms) in zip(pair, CRITERIA.items(), strict=True):
            shown = {arm: name_of(arm) for arm in ("oneshot", *arms, "by_random")}
            plot_arms(table, shown, of, axes, f"{what}: {group}")
        ends = [end for axes in pair for end in axes.get_ylim()]
        for axes in pair:
            axes.set_ylim(min(ends), max(ends))  # one scale, so that the two groups can be compared
    for axes in (*panels[:2], panels[-2]):
        axes.set_ylabel("test accuracy at the end")
    for axes in panels[4:6] if frozen else ():
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.axhline(0, color="#888888", linewidth=0.8)
        axes.set_ylabel("change in accuracy (points)")
    plot_arms(rounds, WEIGHTS, column, panels[-2], "Other weights under one mask")
    for axes in panels[:-1]:
        spread_bars(axes)
    panels[-1].set_axis_off()
    panels[-1].legend(*panels[-2].get_legend_handles_labels(), loc="center left")
    handles = {label: h for axes in panels[:2] for h, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    legend_above(figure, handles.values(), handles)
    return captioned(figure, caption)


def _change(frozen: pd.DataFrame, zero: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return the change of a column of rounds.csv from zero to frozen weights, in points, for each training run."""
    keys = ["arm", "trial", "draw", "round", "percent_left"]
    both = [table.set_index(keys)[column] for table in (frozen, zero)]
    return (both[0] - both[1]).dropna().mul(100).reset_index()


def deconstructing_lenet(root: Path) -> Figure | None:
    """LeNet on MNIST: masks by criterion with pruned weights at zero, and the change if these weights are frozen."""
    runs = runs_beside(root, "deconstructing", "lenet_mnist-zero")
    folder, frozen = runs.get("lenet_mnist-zero"), runs.get("lenet_mnist-frozen")
    if folder is None:
        return None
    what, tables = (
        "LeNet-300-100 on MNIST, bars: range of trials, shifted apart",
        [folder, *([frozen] if frozen else [])],
    )
    return deconstructing(folder, caption_of(what, *tables), frozen)


def findings(root: Path) -> list[str]:
    """Return sentences that compare masks of LeNet by several criteria with one-shot tickets of the same size."""
    runs, lines, at_zero = runs_beside(root, "deconstructing", "lenet_mnist-zero"), [], {}
    for kind, where in (("zero", "set to zero"), ("frozen", "frozen at their initial values")):
        folder = runs.get(f"lenet_mnist-{kind}")
        if folder is None:
            continue
        classes, (rounds, curves) = classes_in(folder), read_whole_trials(folder)
        start = 100 * curves[curves["iteration"] == 0].groupby(["arm", "round"])["test_accuracy"].mean()
        for k, left, by in middle_and_last(rounds):
            base, arms = by["oneshot"], {name_of(arm): by[arm] for arm in COMPARED if arm in by}
            at = f"{left:.3g}% of weights remaining"
            lines.append(
                f"With pruned weights {where} and {at}, large-final masks reach a test accuracy of "
                f"{level(base, classes)} at the end of training. Masks by other criteria differ from this by: "
                f"{gaps(arms, base, classes)}."
            )
            if kind == "zero":  # with frozen weights, an untrained network is the same under any mask
                knows = [f"{name_of(arm)} {start[arm, k]:.0f}%" for arm in ("oneshot", *COMPARED) if arm in by]
                lines.append(f"Without training, the test accuracy with the same masks is: {', '.join(knows)}.")
                at_zero[k] = {"large final": base} | arms
                if weights := {what: by[arm] for arm, what in OTHER_WEIGHTS.items() if arm in by}:
                    lines.append(
                        f"At {at}, other weights under the large-final mask change the test accuracy at the end of "
                        f"training by: {gaps(weights, base, classes)}."
                    )
            elif k in at_zero:
                lines.append(
                    f"At {at}, freezing pruned weights at their initial values instead of setting them to zero changes "
                    "the test accuracy at the end of training by: "
                    f"{gaps({'large final': base} | arms, at_zero[k], classes)}."
                )
    return lines


def answer(root: Path) -> str:
    """Return how LeNet's one-shot tickets change with another mask, with signs only, and with values drawn anew."""
    folder = runs_beside(root, "deconstructing", "lenet_mnist-zero").get("lenet_mnist-zero")
    rounds = list(middle_and_last(read_whole_trials(folder)[0])) if folder else []
    if not rounds:
        return ""
    _, left, by = rounds[0]
    names = {
        "by_magnitude-signed": "its initial signs at one size",
        "oneshot_reinit": "values drawn anew",
        "by_random": "random mask",
    }
    others = {name: by[arm] for arm, name in names.items() if arm in by}
    what = f"LeNet's final test accuracy at {left:.3g}%"
    return compared("the one-shot ticket", what, others, by["oneshot"], classes_in(folder))


STUDY = Study(
    "deconstructing",
    "What matters in a ticket: its mask, its signs or its values?",
    {"deconstructing": deconstructing_lenet},
    findings,
    answer,
)
