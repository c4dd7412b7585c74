"""Figures of the accuracies that dynamic pruning reaches, by sparsity and by schedule."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lthcore.arms import arm_of
from lthcore.report.finished_runs import differing, runs_beside, runs_of, trainings_of
from lthcore.report.layout import caption_of, captioned, in_percent, new_figure, place_of, span
from lthcore.report.published import published

DYNAMIC = arm_of("dynamic").colour
GREY = "#767676"
SCHEDULING = {"sparsity_schedule", "prune_from", "prune_until", "scope", "regrowth", "masking", "reach_sparsity"}
FAMILIES = {  # title of a panel -> what the names of its runs begin with, and the name of another run in it
    "LeNet-300-100 on MNIST": ("lenet_mnist", ""),
    "LeNet-300-100, augmented images": ("lenet_mnist_augmented", ""),
    "ResNet-18 on CIFAR-10": ("resnet18_cifar10_sparsities", "resnet18_cifar10"),
}


def dynamic_sparsities(root: Path) -> Figure | None:
    """Test accuracy against sparsity: dynamically pruned networks (a dot for each trial) and published results."""
    runs = runs_of(root, "dynamic_pruning")
    found = {title: members for title, of in FAMILIES.items() if len(members := _members(runs, *of)) > 1}
    if not found:
        return None
    figure, panels = new_figure(1, len(found))
    sizes = []
    for axes, (title, members) in zip(panels, found.items(), strict=True):
        table = trainings_of(members)
        _draw_family(table, axes)
        axes.set_title(title)
        sizes.append(f"{title}: n = {span(set(table.groupby('variant').size()))}")
    panels[0].set_ylabel("test accuracy at the end")
    drawn = [folder for members in found.values() for folder in members.values()]
    return captioned(figure, f"{'; '.join(sizes)}; tables: {place_of(*drawn)}")


def _members(runs: dict[str, Path], stem: str, extra: str) -> dict[str, Path]:
    """Return the runs of a family: those whose names begin with `stem`, except longer ones, and the run `extra`."""
    return {
        name: folder
        for name, folder in runs.items()
        if (name.startswith(f"{stem}-") and not name.endswith("-longer")) or name == extra
    }


def _draw_family(table: pd.DataFrame, axes: Axes) -> None:
    """Draw the accuracies of networks in a table of `trainings_of` against their sparsities, with published ones."""
    table = table.assign(pruned=100 - table["percent_left"])
    x = _minus_log_left(table["pruned"])
    axes.scatter(x, table["final_test_accuracy"], s=14, color=DYNAMIC, alpha=0.6, label="one trial")
    means = table.groupby("variant")[["pruned", "final_test_accuracy"]].mean().sort_values("pruned", kind="stable")
    x, drawn = _minus_log_left(means["pruned"]), f"mean, {epochs_text(table['epochs'])}"
    axes.plot(x, means["final_test_accuracy"], color=DYNAMIC, label=drawn)
    theirs = published("dynamic_pruning").reindex(means.index)
    there, longer = theirs["later"].dropna(), theirs["epochs"].dropna()
    drawn = f"published{f', {epochs_text(longer)}' if len(longer) else ''}"
    axes.scatter(x[there.index], there / 100, marker="D", color=GREY, label=drawn, zorder=3)
    ticks = sorted({round(float(v), 1) for v in means["pruned"]})
    axes.set_xticks(_minus_log_left(pd.Series(ticks)), [f"{v:g}" for v in ticks])
    axes.set_xlabel("true sparsity (%)")
    in_percent(axes.yaxis)
    axes.legend()


def epochs_text(numbers: pd.Series) -> str:
    """Describe the numbers of epochs of training runs."""
    return f"{span({int(n) for n in numbers})} epochs"


def _minus_log_left(percent: pd.Series) -> pd.Series:
    """Map sparsities in percent to a logarithmic scale that separates 90, 99 and 99.9% and includes 0%."""
    return -np.log10((100 - percent).clip(lower=0.01))


def dynamic_schedules(root: Path) -> Figure | None:
    """Test accuracy of LeNet with 98% sparsity asked for, by sparsity schedule, and the true sparsity of each."""
    beside = runs_beside(root, "dynamic_pruning", "lenet_mnist-98")
    runs = {
        name: folder
        for name, folder in beside.items()
        if (
            name.startswith("lenet_mnist_schedules-")
            and differing(folder, beside["lenet_mnist-98"]).keys() <= SCHEDULING
        )
        or name == "lenet_mnist-98"
    }
    if len(runs) < 3:
        return None
    table = trainings_of(runs)
    table["label"] = table["variant"].str.removeprefix("lenet_mnist_schedules-").replace("lenet_mnist-98", "cubic-20")
    names = {
        "linear": "linear, to the last epoch", "linear-20": "linear, to epoch 20", "cubic": "cubic, to the last epoch",
        "cubic-20": "cubic, to epoch 20", "cosine": "cosine, to the last epoch", "cosine-20": "cosine, to epoch 20",
        "constant": "all at once, at the start", "constant-10": "all at once, at epoch 10",
        "cubic-20-layer": "cubic to epoch 20, layer by layer", "cubic-20-regrowth": "cubic to epoch 20, with regrowth",
        "gradients_only": "mask on gradients only",
    }  # fmt: skip
    table["label"] = table["label"].map(names)
    order = table.groupby("label")["final_test_accuracy"].mean().sort_values(kind="stable").index
    return _strip(table, "label", order, "LeNet-300-100 on MNIST, 98% sparsity asked for", runs)


def _strip(table: pd.DataFrame, key: str, order: pd.Index, title: str, runs: dict[str, Path]) -> Figure:
    """Draw test accuracies by label (a dot per trial, a bar for the mean), with the true sparsity of each label."""
    figure, (axes,) = new_figure(1, 1, (7.5, 0.9 + 0.32 * len(order)))
    for i, label in enumerate(order):
        part = table[table[key] == label]
        colour = DYNAMIC if part["percent_left"].mean() < 99.5 else GREY
        axes.scatter(part["final_test_accuracy"], np.full(len(part), i), s=16, color=colour, alpha=0.6)
        axes.plot([part["final_test_accuracy"].mean()] * 2, [i - 0.3, i + 0.3], color=colour)
    sparsity = {label: 100 - table.loc[table[key] == label, "percent_left"].mean() for label in order}
    axes.set_yticks(range(len(order)), [f"{label} ({sparsity[label]:.0f}% zero)" for label in order])
    in_percent(axes.xaxis)
    axes.set(title=title, xlabel="test accuracy at the end")
    return captioned(figure, caption_of("grey: nothing is pruned; dots: trials, bars: their means", *runs.values()))
