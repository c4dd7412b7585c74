"""Study of mask prediction: pruned weights, perturbed initial weights and supermasks. Figures and sentences."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from lthcore.analysis import perturbed_init
from lthcore.analysis.cache import cached_table, has_derived
from lthcore.analysis.statistics import mean_of
from lthcore.report.finished_runs import run_with, runs_of
from lthcore.report.layout import caption_of, captioned, in_percent, new_figure, sparsity_axis
from lthcore.report.plots import plot_intervals, plot_means
from lthcore.report.run_tables import read_whole_trials
from lthcore.report.study import Study
from lthcore.report.tables import before_training
from lthcore.runs.files import read_table

PREDICTED = {
    "before training": "#d1642a",
    "and early in it": "#3d8c5c",
    "and its end (leaky)": "#999999",
}


WHEN = {
    "before training": "before training",
    "and early in it": "before and early",
    "and its end (leaky)": "before, early and end (leaky)",
}
SAID = {  # names of these sets in the sentences of `prediction_sentences`
    "before training": "features from before training",
    "and early in it": "features from before training and early training",
    "and its end (leaky)": "features from before training, early training and the end of training (leaky)",
}


CHOSEN = {  # arm -> label and colour, for masks found by a criterion that uses trained weights
    "by_magnitude_same_sign": ("large final of the same sign, weights as drawn", "#7a4fa3"),
    "by_magnitude_same_sign-signed": ("large final of the same sign, only signs kept", "#2a9d8f"),
}

METHODS = {
    "learned (edge-popup)": "#7a4fa3",
    "learned, weights as drawn": "#7a4fa3",
    "learned, weights signed": "#2a9d8f",
    "evolved (NSGA-II)": "#d1642a",
    "ticket's mask": "#1f5fa8",
    "random mask": "#999999",
}


def prediction(folder: Path, caption: str = "") -> Figure:
    """Draw the ROC-AUC on held-out seeds against weights remaining, and the importance of each feature.

    The AUC is shown for sets of features and for single features. Importance is the loss of AUC if it is shuffled.
    """
    table, importance = (read_table(folder, f"{name}.csv") for name in ("prediction", "importance"))
    figure, panels = new_figure(2, 2, (8.5, 7.0))
    for name, colour in PREDICTED.items():
        for model, style in (("gradient boosting", "-"), ("logistic regression", "--")):
            part = table[(table["features"] == name) & (table["model"] == model)]
            label = WHEN[name] if style == "-" else "_"  # matplotlib leaves labels that begin with _ out of legends
            plot_intervals(part, "percent_left", "auc", panels[0], label, colour, style)
    alone = table[table["model"] == "alone"]
    names = list(dict.fromkeys(alone["features"]))
    for i, (name, colour) in enumerate(zip(names, sns.color_palette("tab10", len(names)), strict=True)):
        style = ("-", "--", ":")[i % 3]  # some lines coincide
        plot_intervals(alone[alone["features"] == name], "percent_left", "auc", panels[1], name, colour, style)
    for axes, title in zip(panels, ("All features together", "Each feature alone"), strict=False):
        axes.axhline(0.5, color="#888888", linewidth=1, linestyle=":")
        sparsity_axis(axes)
        axes.set(title=title, ylabel="ROC-AUC, held-out seed", ylim=(0.4, 1.02))
    lines = "solid: gradient boosting\ndashed: logistic regression"
    legend = panels[0].legend(title=lines, fontsize=8, title_fontsize=8, loc="lower right", frameon=True, framealpha=1)
    legend.get_frame().set_edgecolor("none")  # hides the line of chance behind it
    panels[3].set_axis_off()
    panels[3].legend(*panels[1].get_legend_handles_labels(), title="each feature alone", loc="upper left")
    of = importance.groupby(["feature", "round"])["loss"].agg(["mean", "min", "max"])
    order = of["mean"].groupby("feature").mean().sort_values(kind="stable").index
    left = importance.groupby("round")["percent_left"].first()
    for k, colour, shift in ((left.index.max(), "#1f5fa8", 0.2), (left.index.min(), "#8fb3dc", -0.2)):
        found = of.xs(k, level="round").loc[order]
        spread = [found["mean"] - found["min"], found["max"] - found["mean"]]
        panels[2].barh(
            np.arange(len(order)) + shift, found["mean"], height=0.38, color=colour, xerr=spread, ecolor="#444444",
            label=f"{left[k]:.3g}% remaining",
        )  # fmt: skip
    panels[2].set_yticks(range(len(order)), order)
    panels[2].set(title="If a feature is shuffled", xlabel="loss of ROC-AUC, mean and range of held-out seeds")
    panels[2].legend(loc="lower right")
    return captioned(figure, caption)


def perturbed_initial_weights(folder: Path, caption: str = "") -> Figure:
    """Draw the share of perturbed initial weights that survives, and the test accuracy of the dense networks."""
    table = read_table(folder, "perturbed_init.csv")
    labels = list(dict.fromkeys(table["perturbation"]))
    figure, (survive, dense) = new_figure(2, 1, (7.5, 7.0))
    for label, colour in zip(labels, sns.color_palette("husl", len(labels)), strict=True):
        plot_intervals(table[table["perturbation"] == label], "percent_left", "perturbed", survive, label, colour)
    left = sorted(table["percent_left"].unique())
    survive.plot(left, [x / 100 for x in left], color="#999999", linestyle=":", label="all weights")
    sparsity_axis(survive)
    in_percent(survive.yaxis)
    survive.set(title="Share of these weights that survives pruning")
    survive.legend()
    same = {f"{which}, as drawn": "all weights as drawn" for which in ("largest", "smallest")}  # the same networks
    trials = table.replace({"perturbation": same}).drop_duplicates(["perturbation", "trial"])
    sns.stripplot(trials, x="dense_test_accuracy", y="perturbation", color="#1f5fa8", ax=dense, jitter=False)
    in_percent(dense.xaxis)
    dense.set(title="Dense network, each trial", xlabel="test accuracy", ylabel="")
    return captioned(figure, caption)


def supermasks(folder: Path, name: str, caption: str = "") -> Figure:
    """Draw the test accuracy of untrained networks under learned or evolved masks, from the table `<name>.csv`.

    `name` is "learned" or "evolved". Masks found by a criterion from trained weights are added if the run has them.
    """
    table = read_table(folder, f"{name}.csv")
    figure, (axes,) = new_figure(1, 1, (7.0, 4.0))
    for method, colour in METHODS.items():
        part = table[table["method"] == method]
        if part.empty:
            continue
        if method.startswith("evolved"):
            axes.scatter(part["percent_left"], part["test_accuracy"], s=10, color=colour, label=method)
        else:
            label = method.replace("weights signed", "only signs kept")
            plot_means(part["test_accuracy"], part["percent_left"].round(1), axes, label, colour)
    start = before_training(read_whole_trials(folder)[1]).query("round > 0")
    for arm, (label, colour) in CHOSEN.items():
        if (start["arm"] == arm).any():
            part = start[start["arm"] == arm]
            plot_means(part["test_accuracy"], part["percent_left"].round(1), axes, label, colour, "--")
    sparsity_axis(axes)
    in_percent(axes.yaxis)
    axes.set(title="Masks on untrained networks", ylabel="test accuracy, untrained")
    axes.legend()
    return captioned(figure, caption)


def prediction_lenet(root: Path) -> Figure | None:
    """Prediction of the pruned weights of LeNet on MNIST, with each of five seeds held out."""
    folder = run_with(root, "mask_prediction", "prediction", "importance")
    return prediction(folder, caption_of("LeNet-300-100 on MNIST, bands: 95% intervals", folder)) if folder else None


def perturbed_init_lenet(root: Path) -> Figure | None:
    """Survival of LeNet's largest and smallest initial weights on MNIST, as drawn or changed in size or sign."""
    folder = run_with(root, "mask_prediction", "perturbed_init")
    what = (
        "LeNet-300-100 on MNIST, the largest (or smallest) fifth of each layer's initial weights, bands: 95% intervals"
    )
    return perturbed_initial_weights(folder, caption_of(what, folder)) if folder else None


def supermasks_lenet(root: Path) -> Figure | None:
    """Test accuracy of untrained LeNet on MNIST under learned supermasks and other masks."""
    folder = runs_of(root, "deconstructing").get("lenet_mnist-zero")
    if folder is None or not has_derived(folder, "learned"):
        return None
    return supermasks(folder, "learned", caption_of("LeNet-300-100 on MNIST, bars: range of trials", folder))


def prediction_sentences(table: pd.DataFrame, k: int) -> list[str]:
    """Describe the AUC of gradient boosting at round k for each set of features.

    The sentences give means over held-out seeds with 95% intervals.
    """
    at = table[(table["round"] == k) & (table["model"] == "gradient boosting")]
    left = at["percent_left"].mean()
    return [
        f"At {left:.3g}% of weights remaining, {SAID[name]} predict which weights are pruned with a ROC-AUC of "
        f"{mean_of(part['auc']).text('{:.3f}')} on held-out seeds (n = {len(part)})."
        for name, part in at.groupby("features", sort=False)
    ]


def prediction_table(table: pd.DataFrame, rounds: Iterable[int]) -> pd.DataFrame:
    """Return the AUC of gradient boosting for each set of features (rows) at rounds (columns, by weights remaining).

    These are means over held-out seeds with 95% intervals.
    """
    by_round = {}
    for k in rounds:
        at = table[(table["round"] == k) & (table["model"] == "gradient boosting")]
        by_round[f"{at['percent_left'].mean():.3g}%"] = {
            WHEN[name]: mean_of(part["auc"]).text("{:.3f}") for name, part in at.groupby("features", sort=False)
        }
    return pd.DataFrame(by_round).rename_axis("features").rename_axis(columns="weights remaining")


def survival_table(table: pd.DataFrame, k: int) -> pd.DataFrame:
    """Return for each change of initial weights (rows) what survives at round k, and the dense network's accuracy.

    All are in percent: means over trials with 95% intervals.
    """
    columns = {
        "perturbed": ("of them survive (%)", "{:.1f}"), "others": ("of the others survive (%)", "{:.1f}"),
        "dense_test_accuracy": ("dense test accuracy (%)", "{:.2f}"),
    }  # fmt: skip
    rows = {
        label: {said: mean_of(100 * part[name]).text(form) for name, (said, form) in columns.items()}
        for label, part in table[table["round"] == k].groupby("perturbation", sort=False)
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("weights that are changed")


def survival_sentences(table: pd.DataFrame, k: int) -> list[str]:
    """Describe which weights survive at round k: means over trials, with 95% intervals."""
    at = table[table["round"] == k]
    left = at["percent_left"].mean()
    return [
        f"At {left:.3g}% of weights remaining, if {_changed(label)}, "
        f"{mean_of(100 * part['perturbed']).text('{:.1f}%')} of them survive pruning, and "
        f"{100 * part['others'].mean():.1f}% of the others. The dense network reaches a test accuracy of "
        f"{mean_of(100 * part['dense_test_accuracy']).text('{:.2f}%')}."
        for label, part in at.groupby("perturbation", sort=False)
    ]


def _changed(label: str) -> str:
    """Return one of the PERTURBATIONS of initial weights as a clause."""
    which, _, change = label.partition(", ")
    done = {"as drawn": "left as drawn", "to the layer's sigma": "set to plus or minus the layer's sigma"}
    return f"the {which} {perturbed_init.SHARE:.0%} of each layer's initial weights are {done.get(change, change)}"


def findings(root: Path, k: int = 4) -> list[str]:
    """Return sentences on LeNet in round k: prediction of its pruned weights, and survival of its largest weights."""
    folder = run_with(root, "mask_prediction", "prediction", "perturbed_init")
    if folder is None:
        return []
    perturbed = survival_sentences(cached_table(folder, "perturbed_init"), k)
    return prediction_sentences(cached_table(folder, "prediction"), k) + [
        line for line in perturbed if "largest" in line
    ]


def answer(root: Path, k: int = 4) -> str:
    """Return how well features from before training predict the pruned weights of LeNet, in round k."""
    folder = run_with(root, "mask_prediction", "prediction")
    if folder is None:
        return ""
    table = cached_table(folder, "prediction")
    early = (table["features"] == "before training") & (table["model"] == "gradient boosting")
    part = table[early & (table["round"] == k)]
    if part.empty:
        return ""
    return (
        f"With features from before training, the ROC-AUC for LeNet at {part['percent_left'].mean():.3g}% is "
        f"{mean_of(part['auc']).text('{:.3f}')} on held-out seeds (n = {len(part)})."
    )


STUDY = Study(
    "mask_prediction",
    "Can one predict which weights will be pruned?",
    {"mask_prediction": prediction_lenet, "perturbed_init": perturbed_init_lenet, "supermasks": supermasks_lenet},
    findings,
    answer,
)
