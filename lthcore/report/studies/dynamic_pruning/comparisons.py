"""Sentences on dynamic pruning: what it reaches in comparison with dense networks and with published results."""

from pathlib import Path
from typing import Any

import pandas as pd

from lthcore.lottery.methods import settings_of
from lthcore.recipe import Recipe
from lthcore.report.finished_runs import classes_in, differing, profile_of, runs_of, trainings_of
from lthcore.report.published import published
from lthcore.report.run_tables import read_whole_trials
from lthcore.report.sentences import compared, level, levels_and_gap
from lthcore.report.studies.dynamic_pruning.accuracies import SCHEDULING, epochs_text
from lthcore.report.studies.dynamic_pruning.costs import at_equal_cost
from lthcore.runs.files import read_record

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


def _trained(table: pd.DataFrame) -> str:
    """Describe the profiles and the numbers of epochs of training runs in a table of `trainings_of`."""
    return f"profile {', '.join(sorted(set(table['profile'])))}, {epochs_text(table['epochs'])}"


def answer(root: Path) -> str:
    """Return how LeNet's final accuracy, pruned to 78.9% and 98% while it trains, differs from the dense network's."""
    runs = runs_of(root, "dynamic_pruning")
    dense, *pruned = (runs.get(f"lenet_mnist-{name}") for name in ("dense", "78.9", "98"))
    if dense is None or None in pruned or len({profile_of(folder) for folder in (dense, *pruned)}) > 1:
        return ""
    base, *others = (read_whole_trials(f)[0].set_index("trial")["final_test_accuracy"] for f in (dense, *pruned))
    pruned_to = dict(zip(("78.9% pruned", "98% pruned"), others, strict=True))
    return compared("the dense network", "LeNet's final test accuracy", pruned_to, base, classes_in(dense))
