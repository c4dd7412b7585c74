"""Figures of what makes a mask: criteria after training and before it, weights rewound, signed or drawn anew."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from lthcore.report.comparisons import runs_of
from lthcore.report.plots import caption_of, captioned, new_figure, plot_means, sparsity_axis
from lthcore.runs.folder import read_tables

# arm -> label, colour, line style
CRITERIA = {
    "oneshot": ("large final", "#1f5fa8", "-"),
    "by_magnitude_same_sign": ("large final, same sign", "#2a9d8f", "-"),
    "by_magnitude_increase": ("magnitude increase", "#3d8c5c", "-"),
    "by_movement": ("movement", "#b8860b", "-"),
    "by_large_init_large_final": ("large at both ends", "#7a4fa3", "-"),
    "by_magnitude_at_init": ("large at init", "#d1642a", "-"),
    "by_random": ("random", "#999999", "-"),
    "by_small_magnitude": ("small final", "#c07fae", ":"),
    "by_small_magnitude_at_init": ("small at init", "#c00000", ":"),
}
WEIGHTS = {
    "oneshot": ("large final, rewound", "#1f5fa8", "-"),
    "by_magnitude-signed": ("its signs alone", "#2a9d8f", "-"),
    "oneshot_reinit": ("drawn anew", "#d1642a", "--"),
    "ticket": ("iterative ticket", "#222222", "-"),
}
AT_INIT = {
    "ticket": ("iterative ticket", "#222222", "-"),
    "oneshot": ("one-shot ticket", "#1f5fa8", "-"),
    "by_snip": ("SNIP", "#3d8c5c", "-"),
    "by_grasp": ("GraSP", "#d1642a", "-"),
    "by_synflow": ("SynFlow", "#7a4fa3", "-"),
    "by_magnitude_at_init": ("magnitude at init", "#b8860b", "-"),
    "by_random": ("random", "#999999", "-"),
}
SANITY = {
    "": ("as it is", "-"),
    "-shuffled": ("mask shuffled in layers", "--"),
    "-fresh": ("other weights", "-."),
    "-inverted": ("worst kept", ":"),
}


def deconstructing(folder: Path, caption: str = "", frozen: Path | None = None) -> Figure:
    """A run of masks by criterion: trained, untrained, and with other weights.

    `frozen` is the same with pruned weights kept at their initial values instead of zero: what that changes.
    """
    rounds, curves = read_tables(folder)
    figure, panels = new_figure(1, 4 if frozen else 3, (16.5, 3.8) if frozen else None)
    column = "es_test_accuracy" if rounds["es_test_accuracy"].notna().any() else "final_test_accuracy"
    _lines(rounds, CRITERIA, column, panels[0], "Criteria, trained")
    _lines(untrained(curves), CRITERIA, "test_accuracy", panels[1], "Criteria, untrained: supermasks")
    _lines(rounds, WEIGHTS, column, panels[2], "What of the weights matters")
    panels[2].legend()
    if frozen:
        keys = ["arm", "trial", "draw", "round", "percent_left"]
        both = [table.set_index(keys)[column] for table in (read_tables(frozen)[0], rounds)]
        change = (both[0] - both[1]).dropna().mul(100).reset_index()
        _lines(change, CRITERIA, column, panels[3], "Frozen instead of zero")
        panels[3].yaxis.set_major_formatter(ScalarFormatter())
        panels[3].axhline(0, color="#888888", linewidth=0.8)
        panels[3].set_ylabel("change of test accuracy (points)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper")
    return captioned(figure, caption)


def pruning_at_init(folder: Path, caption: str = "", during: dict[str, list[Path]] | None = None) -> Figure:
    """A run of masks found before training, against tickets; and each one's sanity checks.

    `during` are runs of networks that were pruned as they trained (label -> folders), drawn beside them.
    """
    rounds, _ = read_tables(folder)
    figure, panels = new_figure(1, 4, (16.0, 4.2))
    _lines(rounds, AT_INIT, "final_test_accuracy", panels[0], "Found before training, or after")
    for (label, folders), colour in zip((during or {}).items(), ("#c00000", "#2a9d8f"), strict=False):
        table = pd.concat([read_tables(other)[0] for other in folders])
        plot_means(table["final_test_accuracy"], table["percent_left"], panels[0], label, colour, "--")
    for axes, name in zip(panels[1:], ("snip", "grasp", "synflow"), strict=True):
        label, colour, _ = AT_INIT[f"by_{name}"]
        arms = {f"by_{name}{suffix}": (text, colour, style) for suffix, (text, style) in SANITY.items()}
        _lines(rounds, arms, "final_test_accuracy", axes, f"{label}: sanity checks")
    below = _zoom(rounds[rounds["round"] > 0], panels)
    for axes in panels:
        axes.legend(loc="lower left")
    return captioned(figure, "; ".join(filter(None, (caption, below))))


def _zoom(table: pd.DataFrame, panels: Iterable[Axes]) -> str:
    """Give all panels one scale, on which most lines lie, and say which go below it."""
    left = table.groupby("round")["percent_left"].mean().round(2)
    means = table.groupby(["arm", "round"])["final_test_accuracy"].mean()
    lowest = max(0.0, means.quantile(0.1) - 0.6 * (means.max() - means.quantile(0.1)))
    for axes in panels:
        axes.set_ylim(lowest, means.max() + 0.1 * (means.max() - lowest))
        sparsity_axis(axes, left.min(), left.max(), left)
    fallen = [
        f"{arm.removeprefix('by_').replace('-inverted', ', worst kept,')} {mean:.0%} ({left[k]:.1f}% left)"
        for (arm, k), mean in means.items()
        if mean < lowest
    ]
    return f"below the panels: {', '.join(fallen)}" if fallen else ""


def untrained(curves: pd.DataFrame) -> pd.DataFrame:
    """The accuracies before any training: what a mask alone knows."""
    return curves[curves["iteration"] == 0]


def deconstructing_lenet(root: Path) -> Figure | None:
    """LeNet on MNIST, pruned weights at zero, and beside them frozen."""
    runs = runs_of(root, "deconstructing")
    folder, frozen = runs.get("lenet_mnist-zero"), runs.get("lenet_mnist-frozen")
    if folder is None:
        return None
    return deconstructing(folder, caption_of("LeNet-300-100 on MNIST, bars from min to max", folder), frozen)


def pruning_at_init_lenet(root: Path) -> Figure | None:
    """LeNet on MNIST."""
    folder = runs_of(root, "pruning_at_init").get("lenet_mnist")
    if folder is None:
        return None
    runs = {
        n.removeprefix("lenet_mnist_rigl-"): f for n, f in runs_of(root, "dynamic_pruning").items() if "_rigl-" in n
    }
    kinds = {"RigL": [f for n, f in runs.items() if "gradual" not in n],
             "gradual magnitude": [f for n, f in runs.items() if "gradual" in n]}  # fmt: skip
    during = {label: folders for label, folders in kinds.items() if folders}
    return pruning_at_init(folder, caption_of("LeNet-300-100 on MNIST, bars from min to max", folder), during)


def _lines(table: pd.DataFrame, arms: dict[str, tuple[str, str, str]], column: str, axes: Axes, title: str) -> None:
    """A line for each arm that the table has: means over trials, bars from the lowest to the highest."""
    for arm, (label, colour, style) in arms.items():
        part = table[(table["arm"] == arm) & (table["round"] > 0)]
        if part.empty:
            continue
        left = part.groupby("round")["percent_left"].transform("mean")
        plot_means(part[column], left, axes, label, colour, style)
    sparsity_axis(axes, table["percent_left"].min())
    axes.set(title=title, xlabel="weights left (%)", ylabel="test accuracy")
