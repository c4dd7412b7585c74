"""Study of dynamic pruning. Figures and sentences, made only from the committed tables."""

from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter, PercentFormatter, ScalarFormatter

from lthcore.analysis.statistics import learned_anything
from lthcore.arms import arm_of
from lthcore.lottery.methods import settings_of
from lthcore.recipe import Recipe
from lthcore.report.costs import pruning_costs
from lthcore.report.curves import at_shared_iterations
from lthcore.report.finished_runs import classes_in, differing, profile_of, runs_beside, runs_of, trainings_of
from lthcore.report.layout import CUT_BELOW, caption_of, captioned, in_percent, legend_above, new_figure, place_of, span
from lthcore.report.published import published
from lthcore.report.run_tables import read_whole_trials
from lthcore.report.sentences import compared, gap, gaps, level, levels_and_gap
from lthcore.report.study import Study
from lthcore.runs.files import read_record

GREY = "#767676"
PALETTE = ["#222222", "#1f5fa8", "#d1642a", "#3d8c5c", "#c07fae", "#b8860b", "#2a9d8f", "#7a4fa3"]
FACTORS = {  # factor in the names of runs -> its name, its value in the published study, and the settings it changes
    "batch": ("batch size", 128, {"batch_size"}),
    "rate": ("learning rate", 0.1, {"learning_rate"}),
    "momentum": ("momentum", 0.9, {"momentum"}),
    "epochs": ("number of epochs", 30, {"epochs", "prune_until"}),
    "depth": ("number of hidden layers", 2, {"widths"}),
    "validation": ("number of validation images", 5000, {"validation"}),
}
SCHEDULING = {"sparsity_schedule", "prune_from", "prune_until", "scope", "regrowth", "masking", "reach_sparsity"}
DENSE = "compared with the dense network"
RESNET = "resnet18_cifar10_sparsities-{}".format
# (sentence, run, run to compare it with, settings that it is about); {a} and {b} are the settings of the two runs
PAIRS = (
    (f"LeNet pruned to 78.9% sparsity during training, {DENSE}", "lenet_mnist-78.9", "lenet_mnist-dense", {"sparsity"}),
    (f"LeNet pruned to 98% sparsity during training, {DENSE}", "lenet_mnist-98", "lenet_mnist-dense", {"sparsity"}),
    (
        "LeNet pruned to 98% in {a.epochs} epochs, compared with {b.epochs} epochs",
        "lenet_mnist-98-longer", "lenet_mnist-98", {"epochs", "prune_until"},
    ),
    (
        f"LeNet with the mask applied only to gradients (98% sparsity asked for, 0% reached), {DENSE}",
        "lenet_mnist_schedules-gradients_only", "lenet_mnist-dense", SCHEDULING | {"sparsity"},
    ),
    (
        "LeNet pruned to 98% linearly until the last epoch, compared with the cubic schedule until epoch "
        "{b.prune_until}",
        "lenet_mnist_schedules-linear", "lenet_mnist-98", SCHEDULING,
    ),
    *(
        (
            f"LeNet pruned to {asked}%, with training images shifted and rotated, {DENSE}",
            f"lenet_mnist_augmented-{asked}", "lenet_mnist_augmented-dense", {"sparsity"},
        )
        for asked in ("78.9", "98")
    ),
    *(
        (f"ResNet-18 pruned to {asked}% sparsity during training, {DENSE}", variant, RESNET("dense"), {"sparsity"})
        for asked, variant in (("80", "resnet18_cifar10"), ("90", RESNET("90")), ("95", RESNET("95")))
    ),
    (
        f"ResNet-18 with the mask applied only to gradients (0% sparsity reached), {DENSE}",
        "resnet18_cifar10_gradients_only", RESNET("dense"), SCHEDULING | {"sparsity"},
    ),
)  # fmt: skip
FAMILIES = {  # title of a panel -> what the names of its runs begin with, and the name of another run in it
    "LeNet-300-100 on MNIST": ("lenet_mnist", ""),
    "LeNet-300-100, augmented images": ("lenet_mnist_augmented", ""),
    "ResNet-18 on CIFAR-10": ("resnet18_cifar10_sparsities", "resnet18_cifar10"),
}
LOSSES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2)  # ticks of the loss axis
COLOURS = {"dynamic": "#2a9d8f", "iterative, rewound": arm_of("ticket").colour, "iterative, trained on": GREY}
LABELS = {  # method in the table of `pruning_costs` -> its name in the figure and the sentences
    "dynamic": "dynamic pruning",
    "iterative, rewound": "iterative pruning with rewinding",
    "iterative, trained on": "iterative pruning with continued training",
}


def dynamic_training(folders: dict[str, Path], caption: str = "") -> Figure:
    """Draw weights remaining, loss and accuracy by epoch, with a colour for each run (label -> folder).

    Lines are means over trials, and bands are their range. If a run's length is given in iterations, they are drawn by
    iteration. Loss and accuracy are on the validation set if all runs have one, else on the test set.
    """
    figure, (left, loss, accuracy) = new_figure(1, 3)
    settings = {label: read_record(folder)["settings"] for label, folder in folders.items()}
    split = "val" if all(s["validation"] for s in settings.values()) else "test"
    in_epochs = all(s["epochs"] for s in settings.values())
    for (label, folder), colour in zip(folders.items(), cycle(PALETTE), strict=False):
        style = "--" if "gradients" in label else "-"  # dashed, because these lines lie on the dense network's
        curves, s = read_whole_trials(folder)[1], settings[label]
        trials = at_shared_iterations(curves).groupby("iteration")
        means, low, high = (getattr(trials, which)(numeric_only=True) for which in ("mean", "min", "max"))
        time = means.index / (s["iterations"] / s["epochs"]) if in_epochs else means.index
        # the mask is updated at the start of an epoch and recorded at its end: draw each value back to the start
        left.step(time, means["percent_left"], where="pre", color=colour, label=label, linestyle=style)
        for axes, column in ((loss, f"{split}_loss"), (accuracy, f"{split}_accuracy")):
            axes.plot(time, means[column], style, color=colour)
            axes.fill_between(time, low[column], high[column], color=colour, alpha=0.15, linewidth=0)
    left.set(title="Weights that are not zero", ylabel="share of all weights", ylim=(-3, 103))
    left.yaxis.set_major_formatter(PercentFormatter(100, decimals=0))
    what = {"val": "validation", "test": "test"}[split]
    loss.set(title=f"Loss ({what})", ylabel="cross-entropy (nats)", yscale="log")
    accuracy.set(title=f"Accuracy ({what})", ylabel="accuracy")
    best = max(line.get_ydata().max() for line in accuracy.lines)
    accuracy.set_ylim(best - 0.025, min(1.0, best + 0.003))
    accuracy.set_gid(CUT_BELOW)
    # losses before training are off the scale
    trained = [value for line in loss.lines for value in line.get_ydata()[1:]]
    loss.set_ylim(0.9 * min(trained), 1.1 * max(trained))
    loss.yaxis.set_major_formatter(ScalarFormatter())
    loss.yaxis.set_minor_formatter(NullFormatter())
    loss.set_yticks([tick for tick in LOSSES if loss.get_ylim()[0] < tick < loss.get_ylim()[1]])
    in_percent(accuracy.yaxis)
    for axes in (left, loss, accuracy):
        axes.set_xlabel("epoch" if in_epochs else "iteration")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    legend_above(figure, *left.get_legend_handles_labels())
    return captioned(figure, caption)


def dynamic_lenet(root: Path) -> Figure | None:
    """LeNet on MNIST pruned during training: dense, to 78.9% and to 98%, and with the mask on the gradients only."""
    wanted = {
        "lenet_mnist-dense": "dense", "lenet_mnist-78.9": "to 78.9%", "lenet_mnist-98": "to 98%",
        "lenet_mnist_schedules-linear": "to 98%, linear to the last epoch",
        "lenet_mnist_schedules-gradients_only": "mask on gradients only",
    }  # fmt: skip
    runs = runs_beside(root, "dynamic_pruning", "lenet_mnist-dense")
    found = {label: runs[name] for name, label in wanted.items() if name in runs}
    return (
        dynamic_training(found, caption_of("LeNet-300-100 on MNIST, bands: range of trials", *found.values()))
        if len(found) > 1
        else None
    )


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
    axes.scatter(x, table["final_test_accuracy"], s=14, color=COLOURS["dynamic"], alpha=0.6, label="one trial")
    means = table.groupby("variant")[["pruned", "final_test_accuracy"]].mean().sort_values("pruned", kind="stable")
    x, drawn = _minus_log_left(means["pruned"]), f"mean, {_epochs(table['epochs'])}"
    axes.plot(x, means["final_test_accuracy"], color=COLOURS["dynamic"], label=drawn)
    theirs = published("dynamic_pruning").reindex(means.index)
    there, longer = theirs["later"].dropna(), theirs["epochs"].dropna()
    drawn = f"published{f', {_epochs(longer)}' if len(longer) else ''}"
    axes.scatter(x[there.index], there / 100, marker="D", color=GREY, label=drawn, zorder=3)
    ticks = sorted({round(float(v), 1) for v in means["pruned"]})
    axes.set_xticks(_minus_log_left(pd.Series(ticks)), [f"{v:g}" for v in ticks])
    axes.set_xlabel("true sparsity (%)")
    in_percent(axes.yaxis)
    axes.legend()


def _epochs(numbers: pd.Series) -> str:
    return f"{span({int(n) for n in numbers})} epochs"


def _trained(table: pd.DataFrame) -> str:
    """Describe the profiles and the numbers of epochs of training runs in a table of `trainings_of`."""
    return f"profile {', '.join(sorted(set(table['profile'])))}, {_epochs(table['epochs'])}"


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
    axes.scatter(place, part["final_test_accuracy"], s=16, color=COLOURS["dynamic"], alpha=0.6)
    whole = learned_anything(part["final_test_accuracy"], part["classes"])
    means = part[whole].groupby("value")["final_test_accuracy"].mean()
    axes.plot(range(len(order)), means.reindex(order), color=COLOURS["dynamic"])
    said = {v: f"mean\n{mean:.1%}" for v, mean in means.items() if mean < lowest}
    for v, stuck in part[~whole].groupby("value").size().items():
        said[v] = f"{stuck} of {(part['value'] == v).sum()}\nat chance"
    for v, words in said.items():
        at, shift = (order.index(v), lowest), (0, 4)
        axes.annotate(words, at, shift, textcoords="offset points", ha="center", va="bottom", fontsize=8.5)
    axes.set_xticks(range(len(order)), [f"{v:g}" for v in order])
    axes.set_xlim(-0.45, len(order) - 0.55)
    in_percent(axes.yaxis)


def _values_of(factor: str, runs: dict[str, Path], base: Path) -> dict[str, float]:
    """Return the value of one of the FACTORS in each run that differs from `base` in nothing else."""
    return {
        name: float(name.rpartition("-")[2])
        for name, folder in runs.items()
        if f"_sensitivity-{factor}-" in name and differing(folder, base).keys() <= FACTORS[factor][2]
    }


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


def dynamic_costs(root: Path) -> Figure | None:
    """Dynamic and iterative pruning at equal sparsity: test accuracy against training iterations in all."""
    table = pruning_costs(root)
    if table.empty or table["method"].nunique() < 2:
        return None
    levels, sizes = sorted(table["sparsity"].unique()), set()
    figure, panels = new_figure(1, max(2, len(levels)))
    low, high = table["accuracy"].min(), table["accuracy"].max()
    for axes, sparsity in zip(panels, levels, strict=False):
        part = table[table["sparsity"] == sparsity]
        # budgets that are meant to be equal differ slightly, since rounds have a whole number of iterations
        budget = part["in all"].map(lambda n: float(f"{n:.2g}"))
        places = {b: i for i, b in enumerate(sorted(budget.unique()))}
        for i, (method, colour) in enumerate(COLOURS.items()):
            mine = part["method"] == method
            at = budget[mine].map(places) + 0.2 * (i - 1)
            axes.scatter(at, part.loc[mine, "accuracy"], s=18, color=colour, alpha=0.6)
            for b, values in part[mine].groupby(budget[mine])["accuracy"]:
                there = places[b] + 0.2 * (i - 1)
                axes.plot([there - 0.08, there + 0.08], [values.mean()] * 2, color=colour)
                sizes.add(len(values))
            axes.plot([], [], "o", color=colour, label=LABELS.get(method, method))
        exact = [part["in all"][budget == b] for b in places]
        axes.set_xticks(range(len(places)), [span({int(n) for n in of}).replace(" to", "\nto") for of in exact])
        axes.set(title=f"{sparsity:.1%} sparse", xlabel="total training iterations", ylabel="test accuracy at the end")
        axes.set_xlim(-0.5, len(places) - 0.5)
        axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
        in_percent(axes.yaxis)
    for axes in panels[len(levels) :]:
        axes.set_axis_off()
    legend_above(figure, *panels[0].get_legend_handles_labels())
    return captioned(
        figure,
        f"LeNet-300-100 on MNIST, one recipe for all; n = {span(sizes)} trials; dots: trials, bars: their means",
    )


def _strip(table: pd.DataFrame, key: str, order: pd.Index, title: str, runs: dict[str, Path]) -> Figure:
    """Draw test accuracies by label (a dot per trial, a bar for the mean), with the true sparsity of each label."""
    figure, (axes,) = new_figure(1, 1, (7.5, 0.9 + 0.32 * len(order)))
    for i, label in enumerate(order):
        part = table[table[key] == label]
        colour = COLOURS["dynamic"] if part["percent_left"].mean() < 99.5 else GREY
        axes.scatter(part["final_test_accuracy"], np.full(len(part), i), s=16, color=colour, alpha=0.6)
        axes.plot([part["final_test_accuracy"].mean()] * 2, [i - 0.3, i + 0.3], color=colour)
    sparsity = {label: 100 - table.loc[table[key] == label, "percent_left"].mean() for label in order}
    axes.set_yticks(range(len(order)), [f"{label} ({sparsity[label]:.0f}% zero)" for label in order])
    in_percent(axes.xaxis)
    axes.set(title=title, xlabel="test accuracy at the end")
    return captioned(figure, caption_of("grey: nothing is pruned; dots: trials, bars: their means", *runs.values()))


def _minus_log_left(percent: pd.Series) -> pd.Series:
    """Map sparsities in percent to a logarithmic scale that separates 90, 99 and 99.9% and includes 0%."""
    return -np.log10((100 - percent).clip(lower=0.01))


def findings(root: Path) -> list[str]:
    """Return sentences on the results of dynamic pruning. Sentences whose tables are missing are left out."""
    runs, lines = runs_of(root, "dynamic_pruning"), []
    table = trainings_of(runs)
    if table.empty:
        return lines
    by = {variant: part.set_index("trial")["final_test_accuracy"] for variant, part in table.groupby("variant")}
    profile, classes = (table.groupby("variant")[column].first() for column in ("profile", "classes"))
    for text, a, b, about in PAIRS:
        if a in by and b in by and profile[a] == profile[b]:
            said = text.format(a=_settings(runs[a]), b=_settings(runs[b]))
            others = _named(differing(runs[a], runs[b]), about)
            lines.append(f"{said}{others}: final test accuracy {levels_and_gap(by[a], by[b], classes[a])}.")
    theirs = published("dynamic_pruning").dropna(subset="later")
    for variant, bar in theirs[theirs.index.isin(by)].iterrows():
        trained, n = _trained(table[table["variant"] == variant]), len(by[variant])
        ours = level(by[variant], classes[variant], interval=n > 1)
        of = f" ({bar['epochs']:.0f} epochs)" if pd.notna(bar["epochs"]) else ""
        lines.append(
            f"`{variant}` ({trained}): final test accuracy {ours} (n = {n}). Published: {bar['later']:.2f}%{of}."
        )
    return lines + at_equal_cost(root)


def _named(changed: dict[str, Any], about: set[str]) -> str:
    """Name the changed settings that a sentence is not about, in parentheses; empty if there are none."""
    others = [f"`{key}` {value}" for key, value in changed.items() if key not in about]
    return f" (here also with {', '.join(others)})" if others else ""


def _settings(folder: Path) -> Recipe:
    return settings_of(read_record(folder)["settings"])


def at_equal_cost(root: Path) -> list[str]:
    """Return sentences that compare dynamic with iterative pruning of LeNet at equal sparsity, by their cost."""
    costs, lines = pruning_costs(root), []
    for sparsity, part in costs.groupby("sparsity") if len(costs) else ():
        dynamic = part[part["method"] == "dynamic"].set_index("trial")
        if dynamic.empty:
            continue  # not run yet at this sparsity
        for (method, in_all), other in part[part["method"] != "dynamic"].groupby(["method", "in all"]):
            times = in_all / dynamic["in all"].iloc[0]
            cost = "equal cost" if abs(times - 1) < 0.05 else f"{times:.2g} times the cost"
            difference = gap(dynamic["accuracy"], other.set_index("trial")["accuracy"], part["classes"].iloc[0])
            lines.append(
                f"At {sparsity:.1%} sparsity, dynamic pruning instead of {LABELS[method]} at {cost} changes the final "
                f"test accuracy by {difference}."
            )
    return lines


def answer(root: Path) -> str:
    """Return how LeNet's final accuracy, pruned to 78.9% and 98% while it trains, differs from the dense network's."""
    runs = runs_of(root, "dynamic_pruning")
    dense, *pruned = (runs.get(f"lenet_mnist-{name}") for name in ("dense", "78.9", "98"))
    if dense is None or None in pruned or len({profile_of(folder) for folder in (dense, *pruned)}) > 1:
        return ""
    base, *others = (read_whole_trials(f)[0].set_index("trial")["final_test_accuracy"] for f in (dense, *pruned))
    pruned_to = dict(zip(("78.9% pruned", "98% pruned"), others, strict=True))
    return compared("the dense network", "LeNet's final test accuracy", pruned_to, base, classes_in(dense))


STUDY = Study(
    "dynamic_pruning",
    "Can a network be pruned within one training run?",
    {
        "dynamic_training": dynamic_lenet,
        "dynamic_sparsities": dynamic_sparsities,
        "dynamic_schedules": dynamic_schedules,
        "dynamic_sensitivity": dynamic_sensitivity,
        "dynamic_costs": dynamic_costs,
    },
    findings,
    answer,
)
