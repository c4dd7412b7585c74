"""Study of robust training, with one change of the recipe at a time. Figures and sentences."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from lthcore.arms import arm_of
from lthcore.report.finished_runs import classes_in, runs_beside, trainings_of
from lthcore.report.layout import caption_of, captioned, legend_above, new_figure, sparsity_axis, spread_bars
from lthcore.report.plots import plot_means, plot_rounds
from lthcore.report.run_tables import read_whole_trials
from lthcore.report.sentences import compared, gap, level
from lthcore.report.study import Study
from lthcore.runs.files import read_record

ABLATION = {
    "base": "base: Adam", "clipping": "+ gradient clipping", "dropout": "+ dropout",
    "kaiming": "+ Kaiming initialisation", "adamw": "+ AdamW", "all": "all four",
}  # fmt: skip

LOWEST = -1.5  # lower end of the axis, in points relative to base
COLLAPSED = 0.9  # captions name tickets that reach no higher test accuracy than this
SHADES = {
    "base": "#222222", "clipping": "#3d8c5c", "dropout": "#c2356b", "kaiming": "#b8860b", "adamw": "#7a4fa3",
    "all": "#1098ad",
}  # fmt: skip


def robust_training(root: Path) -> Figure | None:
    """Gain in test accuracy of each change over base, for tickets and reinitialised tickets, and base with all four."""
    found = _ablation(root)
    if found is None:
        return None
    figure, panels = new_figure(1, 3, (11.0, 4.0))
    below = []
    for axes, arm in zip(panels, ("ticket", "reinit"), strict=False):
        label = arm_of(arm).label
        for name, part in _against_base(found, arm).groupby("label", sort=False):
            plot_means(part["points"], part["percent_left"].round(2), axes, ABLATION[name], SHADES[name])
            means = part.groupby("percent_left")["points"].mean()
            below += [
                f"{name} ({label}, {left:.3g}% remaining) {mean:+.2f}" for left, mean in means.items() if mean < LOWEST
            ]
        axes.axhline(0, color=SHADES["base"], linewidth=1)
        axes.set(title=f"{label.capitalize()}, minus base", ylabel="change in test accuracy (points)", ylim=(LOWEST, 1))
    for name in ("base", "all"):
        for arm in ("ticket", "reinit"):
            part = found[(found["label"] == name) & ((found["arm"] == arm) | (found["round"] == 0))]
            look, label = arm_of(arm), f"{ABLATION[name].split(':')[0]}, {arm_of(arm).label}"
            plot_rounds(part, "es_test_accuracy", panels[2], label, SHADES[name], look.style, look.marker)
    panels[2].set(title="Rewound and reinitialised", ylabel="test accuracy at early stop")
    for axes in panels:
        sparsity_axis(axes)
        spread_bars(axes)
    panels[2].legend()
    legend_above(figure, *panels[0].get_legend_handles_labels())
    what = "LeNet-300-100 on MNIST, test accuracy at the early stop, bars: range of trials, shifted apart"
    below = f"; below the panels: {', '.join(below)}" if below else ""
    return captioned(figure, caption_of(what, *_folders(root)) + below)


def _against_base(found: pd.DataFrame, arm: str) -> pd.DataFrame:
    """Return the points of test accuracy that each change adds to base in the same trial and round of an arm.

    Round 0, the dense network, is included.
    """
    keys = ["trial", "draw", "round"]
    part = found[(found["arm"] == arm) | (found["round"] == 0)]
    base = part[part["label"] == "base"].set_index(keys)["es_test_accuracy"]
    others = part[part["label"] != "base"].set_index(keys)
    others = others.assign(points=100 * (others["es_test_accuracy"] - base.reindex(others.index)))
    left = others.groupby("round")["percent_left"].transform("mean")
    return others.assign(percent_left=left).reset_index()


def robust_ablation(root: Path) -> Figure | None:
    """Heat map of the ablation (mean and standard deviation over trials), and epochs until 97% test accuracy."""
    found = _ablation(root)
    if found is None:
        return None
    figure, (heat, soon) = new_figure(2, 1, (7.5, 7.0))
    tickets = found[found["arm"] == "ticket"]
    table = (100 * tickets["es_test_accuracy"]).groupby([tickets["label"], tickets["round"]])
    names = [name for name in ABLATION if name in set(found["label"])]
    mean, std = table.mean().unstack().loc[names], table.std().unstack().loc[names]
    left = tickets.groupby("round")["percent_left"].mean()
    text = mean.map("{:.2f}".format) + std.map(lambda sd: "" if np.isnan(sd) else f"\n± {sd:.2f}")
    lowest = np.quantile(mean, 0.05)  # a cell with a trial that fell far behind would make all others look alike
    sns.heatmap(
        mean, annot=text, fmt="", cmap="viridis", vmin=lowest, ax=heat, annot_kws={"size": 8},
        cbar_kws={"label": "test accuracy (%)", "extend": "min"},
    )  # fmt: skip
    heat.set_xticklabels([f"{left[k]:.3g}%" for k in mean.columns])
    heat.set_yticklabels([ABLATION[name] for name in names], rotation=0)
    heat.set(xlabel="% of weights remaining", ylabel="", title="Tickets: test accuracy at early stop, mean ± sd")
    epochs = _epochs_to(root, 0.97)
    for name in names:
        part = epochs[epochs["label"] == name]
        plot_means(part["epochs"], part["percent_left"], soon, ABLATION[name], SHADES[name])
    sparsity_axis(soon)
    soon.set(title="Epochs until 97% test accuracy", ylabel="epochs")
    soon.legend()
    lost = [
        f"{ABLATION[row.label]} at {row.percent_left:.3g}%: one trial at {row.es_test_accuracy:.1%}"
        for row in tickets[tickets["es_test_accuracy"] < COLLAPSED].itertuples()
    ]
    what = "; ".join(["LeNet-300-100 on MNIST; epochs where every trial reaches 97%, bars: their range", *lost])
    return captioned(figure, caption_of(what, *_folders(root)))


def _ablation(root: Path) -> pd.DataFrame | None:
    folders = {path.name.removeprefix("lenet_mnist-"): path for path in _folders(root)}
    if not {"base", "all"} <= folders.keys():
        return None
    table = trainings_of({name: folders[name] for name in ABLATION if name in folders})
    return table.assign(label=table["variant"])


def _folders(root: Path) -> list[Path]:
    runs = runs_beside(root, "robust_training", "lenet_mnist-base").items()
    return [path for name, path in runs if name.startswith("lenet_mnist-")]


def _epochs_to(root: Path, accuracy: float) -> pd.DataFrame:
    """Return the epochs until tickets first reach a test accuracy, for the rounds in which every trial reaches it."""
    rows = []
    for path in _folders(root):
        curves, record = read_whole_trials(path)[1], read_record(path)
        steps = record["n_train"] // record["settings"]["batch_size"]
        tickets = curves[(curves["arm"] == "ticket") & (curves["test_accuracy"] >= accuracy)]
        first = tickets.groupby(["trial", "round"])[["iteration", "percent_left"]].min().reset_index()
        first = first[first.groupby("round")["trial"].transform("size") == curves["trial"].nunique()]
        rows.append(first.assign(label=path.name.removeprefix("lenet_mnist-"), epochs=first["iteration"] / steps))
    found = pd.concat(rows, ignore_index=True)
    return found.assign(percent_left=found.groupby("round")["percent_left"].transform("mean"))


def findings(root: Path) -> list[str]:
    """Return sentences on the gain of each change over base at early stopping, dense and near 6% remaining."""
    by, left, classes = _tickets(root)
    lines = []
    for change in dict.fromkeys(change for change, _ in by if change != "base"):
        parts = [
            f"by {gap(by[change, k], by['base', k], classes)} at {left[k]:.3g}% of weights remaining"
            for k in (0, (left - 6.25).abs().idxmin())
        ]
        said = ABLATION.get(change, change).removeprefix("+ ")
        lines.append(f"With {said}, the test accuracy at the early stop differs from base {' and '.join(parts)}.")
    values = ", ".join(f"{100 * by['base', k].mean():.2f}% at {left[k]:.3g}%" for k in left.index)
    return [f"The test accuracy of base at the early stop is {values} of weights remaining.", *lines] if lines else []


def gains(root: Path) -> pd.DataFrame:
    """Return the points of test accuracy that each change (rows) adds to base at the early stop, by size (columns).

    These are the dense network's and its tickets', with 95% intervals. The first row is base itself, in percent.
    """
    by, left, classes = _tickets(root)
    changes = sorted({change for change, _ in by} - {"base"}, key=[*ABLATION, *(change for change, _ in by)].index)
    columns = {
        f"{left[k]:.3g}%": {f"{ABLATION['base']} (%)": level(by["base", k], classes, interval=True)}
        | {ABLATION.get(change, change): gap(by[change, k], by["base", k], classes, bare=True) for change in changes}
        for k in left.index
    }
    return pd.DataFrame(columns).rename_axis("change").rename_axis(columns="weights remaining")


def _tickets(root: Path) -> tuple[dict[tuple[str, int], pd.Series], pd.Series, float]:
    """Return (change, round) -> the test accuracy of tickets at the early stop by trial, the sizes, and the classes.

    Sizes are percentages of weights remaining by round.
    """
    table = trainings_of({path.name.removeprefix("lenet_mnist-"): path for path in _folders(root)})
    if table.empty:
        return {}, pd.Series(dtype=float), math.inf
    tickets = table[table["arm"] == "ticket"]
    by = tickets.set_index("trial").groupby(["variant", "round"])["es_test_accuracy"]
    return dict(iter(by)), tickets.groupby("round")["percent_left"].mean(), tickets["classes"].iloc[0]


def answer(root: Path) -> str:
    """Return how all changes together change the accuracy of LeNet at early stopping, dense and near 6% remaining."""
    folders = {path.name: path for path in _folders(root)}
    if not {"lenet_mnist-all", "lenet_mnist-base"} <= folders.keys():
        return ""
    tables = [read_whole_trials(folders[f"lenet_mnist-{name}"])[0].query("arm == 'ticket'") for name in ("all", "base")]
    left = tables[0].groupby("round")["percent_left"].mean()
    sparse = (left - 6.25).abs().idxmin()
    rounds = {"dense": 0, f"tickets at {left[sparse]:.3g}%": sparse}
    combined, base = (
        {at: table[table["round"] == k].set_index("trial")["es_test_accuracy"] for at, k in rounds.items()}
        for table in tables
    )
    what = "LeNet's test accuracy with all four"
    return compared("Adam alone", what, combined, base, classes_in(folders["lenet_mnist-all"]))


STUDY = Study(
    "robust_training",
    "Do clipping, dropout, Kaiming and AdamW make tickets smaller?",
    {"robust_training": robust_training, "robust_ablation": robust_ablation},
    findings,
    answer,
)
