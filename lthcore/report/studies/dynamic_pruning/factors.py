"""Sensitivity of dynamic pruning to the recipe: figure and sentences, with one factor changed at a time."""

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lthcore.analysis.statistics import learned_anything
from lthcore.arms import arm_of
from lthcore.report.finished_runs import classes_in, differing, runs_beside, trainings_of
from lthcore.report.layout import caption_of, captioned, in_percent, new_figure
from lthcore.report.run_tables import read_whole_trials
from lthcore.report.sentences import gaps

DYNAMIC = arm_of("dynamic").colour
FACTORS = {  # factor in the names of runs -> its name, its value in the published study, and the settings it changes
    "batch": ("batch size", 128, {"batch_size"}),
    "rate": ("learning rate", 0.1, {"learning_rate"}),
    "momentum": ("momentum", 0.9, {"momentum"}),
    "epochs": ("number of epochs", 30, {"epochs", "prune_until"}),
    "depth": ("number of hidden layers", 2, {"widths"}),
    "validation": ("number of validation images", 5000, {"validation"}),
}


def dynamic_sensitivity(root: Path) -> Figure | None:
    """Test accuracy of LeNet pruned to 78.9%, by batch size, learning rate, momentum, epochs, depth and validation."""
    beside = runs_beside(root, "dynamic_pruning", "lenet_mnist-78.9")
    base = beside.get("lenet_mnist-78.9")
    alike = {name for factor in FACTORS for name in _values_of(factor, beside, base)} if base else set()
    runs = {name: folder for name, folder in beside.items() if name in alike}
    if len(runs) < 3:
        return None
    table = trainings_of(runs | {"base": base})
    trials = table["final_test_accuracy"][learned_anything(table["final_test_accuracy"], table["classes"])]
    lowest, highest = trials.quantile(0.1) - 0.003, trials.max() + 0.0005  # one scale, to compare the factors
    figure, panels = new_figure(2, 3)
    for axes, (factor, (label, published_value, _)) in zip(panels, FACTORS.items(), strict=False):
        values = {"base": published_value} | _values_of(factor, runs, base)
        part = table[table["variant"].isin(values)].assign(value=lambda t, v=values: t["variant"].map(v))
        axes.set(xlabel=label, ylabel="test accuracy at the end", title=f"By {label.removeprefix('number of ')}")
        axes.set_ylim(lowest, highest)
        _draw_factor(part, axes)
    drawn = "dots: trials, lines: means of those not stuck at chance"
    return captioned(
        figure,
        caption_of(
            f"LeNet-300-100 on MNIST pruned to 78.9% sparsity, 30 epochs except in their own panel, {drawn}",
            base,
            *runs.values(),
        ),
    )


def _draw_factor(part: pd.DataFrame, axes: Axes) -> None:
    """Draw accuracies by the column `value`, and write where a mean is below the axes and how many trials are stuck."""
    order, lowest = sorted(set(part["value"])), axes.get_ylim()[0]
    place = part["value"].map({v: i for i, v in enumerate(order)})
    axes.scatter(place, part["final_test_accuracy"], s=16, color=DYNAMIC, alpha=0.6)
    whole = learned_anything(part["final_test_accuracy"], part["classes"])
    means = part[whole].groupby("value")["final_test_accuracy"].mean()
    axes.plot(range(len(order)), means.reindex(order), color=DYNAMIC)
    said = {v: f"mean\n{mean:.1%}" for v, mean in means.items() if mean < lowest}
    for v, stuck in part[~whole].groupby("value").size().items():
        said[v] = f"{stuck} of {(part['value'] == v).sum()}\nat chance"
    for v, words in said.items():
        at, shift = (order.index(v), lowest), (0, 4)
        axes.annotate(words, at, shift, textcoords="offset points", ha="center", va="bottom", fontsize=8.5)
    axes.set_xticks(range(len(order)), [f"{v:g}" for v in order])
    axes.set_xlim(-0.45, len(order) - 0.55)
    in_percent(axes.yaxis)


def sensitivity(root: Path) -> list[str]:
    """Return a sentence for each of the FACTORS: how other values change the accuracy of LeNet pruned to 78.9%."""
    runs = runs_beside(root, "dynamic_pruning", "lenet_mnist-78.9")
    lines = []
    for factor, (label, published_value, _) in FACTORS.items() if runs else ():
        values = _values_of(factor, runs, runs["lenet_mnist-78.9"])
        if values:
            tables = {name: read_whole_trials(runs[name])[0] for name in ("lenet_mnist-78.9", *values)}
            base, *others = (table.set_index("trial")["final_test_accuracy"] for table in tables.values())
            changed = {f"{value:g}:": other for value, other in zip(values.values(), others, strict=True)}
            lines.append(
                f"LeNet pruned to 78.9%, change in the final test accuracy by another {label} than "
                f"{published_value:g}: {gaps(changed, base, classes_in(runs['lenet_mnist-78.9']))}."
            )
    return lines


def _values_of(factor: str, runs: dict[str, Path], base: Path) -> dict[str, float]:
    """Return the value of one of the FACTORS in each run that differs from `base` in nothing else."""
    return {
        name: float(name.rpartition("-")[2])
        for name, folder in runs.items()
        if f"_sensitivity-{factor}-" in name and differing(folder, base).keys() <= FACTORS[factor][2]
    }
