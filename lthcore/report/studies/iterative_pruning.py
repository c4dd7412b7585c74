"""Study of iterative pruning: results of the search for tickets beyond the paper's figures, in sentences."""

from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd

from lthcore.analysis.statistics import mean_accuracy
from lthcore.errors import counted
from lthcore.lottery.methods import settings_of
from lthcore.paths import PROFILES
from lthcore.recipe import Recipe
from lthcore.report.figure_specs import LENET, LENET_RUN
from lthcore.report.finished_runs import profile_of, runs_of
from lthcore.report.measures import larger_losing, smallest_winning
from lthcore.report.paper_figures import largest_run
from lthcore.report.published import published
from lthcore.report.run_tables import Absent, RunTables, read_whole_trials
from lthcore.report.study import Study
from lthcore.report.tables import described
from lthcore.runs.files import read_record


def findings(root: Path) -> list[str]:
    """Return the accuracies of dense networks at early stopping by input scaling, beside the published accuracies."""
    runs, lines = runs_of(root, "iterative_pruning"), []
    for network, theirs in published("input_scaling")["dense"].items():
        stops = []
        for scaling in get_args(Recipe.model_fields["input_scaling"].annotation):
            folder = runs.get(f"input_scaling-{network}-{scaling}")
            if folder is None:
                continue
            rounds, s = read_whole_trials(folder)[0], settings_of(read_record(folder)["settings"])
            means = (mean_accuracy(rounds[f"es_{split}_accuracy"]).times(100) for split in ("test", "val"))
            test, held = (mean.text("{:.2f}%") for mean in means)
            at = ", ".join(f"{i:,}" for i in rounds["es_iteration"])
            stops.append(
                f"`{scaling}` {test} on test images and {held} on validation images (n = {len(rounds)}; early stop at "
                f"iteration {at})"
            )
        if stops:
            where = f"Dense {network} ({s.iterations:,} iterations, {s.precision})"
            lines.append(
                f"{where}, accuracy at the early stop: {'; '.join(stops)}. Published test accuracy: {theirs:g}%."
            )
    return lines


# run -> name of the network, and the percentages of weights remaining that the sentences report
CONVOLUTIONAL = {
    "conv2_cifar10": ("Conv-2", (26.5, 11.0, 4.6)),
    "conv4_cifar10": ("Conv-4", (43.6, 29.1, 19.6, 13.3, 4.5)),
    "conv6_cifar10": ("Conv-6", (26.4, 11.1, 5.0)),
}


def committed(root: Path) -> str:
    """Return the findings for the paper's networks in Markdown, as far as their tables are below a results root.

    If the tables of LeNet are missing, a sentence says how to make them.
    """
    folder = largest_run(root, LENET)
    if folder is None:
        lenet = f"No tables of {LENET} are here yet: `lth run params/{LENET}.yaml` makes them."
    else:
        lenet = f"LeNet on MNIST:\n\n{described(read_whole_trials(folder)[0])}"
    return "\n\n".join(filter(None, (lenet, convolutional(root))))


def convolutional(root: Path) -> str:
    """Return the findings for convolutional networks in Markdown, each at the largest profile with a whole trial."""
    parts = []
    for variant, (network, percents) in CONVOLUTIONAL.items():
        folder = largest_run(root, f"iterative_pruning/{variant}", profiles=PROFILES[1:])
        if folder is None or len((run := RunTables.read(folder)).left) == 1:
            continue
        record, profile, rounds = read_record(folder), profile_of(folder), run.rounds
        s, n_test = record["settings"], record["n_test"]
        p = rounds[rounds["round"] == 0]["es_test_accuracy"].mean()
        settings = (
            f"{network} on CIFAR-10 at profile `{profile}`: {s['iterations']:,} iterations, {s['precision']}, "
            f"{counted(run.n, 'trial')}, {counted(len(run.left) - 1, 'round')} of pruning down to {run.left[-1]:.1f}% "
            f"of weights. An accuracy on {n_test:,} test images has a standard error of "
            f"{100 * np.sqrt(p * (1 - p) / n_test):.1f} points from the draw of these images alone."
        )
        fitted = f"* {_fitted(rounds)}\n" if _fitted(rounds) else ""
        parts.append(f"{settings}\n\n{fitted}{described(rounds, percents)}")
    return "\n\n".join(parts)


def _fitted(rounds: pd.DataFrame) -> str:
    """Return a sentence on the final training accuracy: of the dense network, and of the tickets with the lowest.

    Returns an empty string if the tickets have no training accuracies.
    """
    tickets = rounds[rounds["arm"] == "ticket"].pivot(index="trial", columns="round", values="final_train_accuracy")
    if tickets.isna().all().all():
        return ""
    worst = tickets.iloc[:, 1:].mean().idxmin()
    left = rounds.loc[(rounds["arm"] == "ticket") & (rounds["round"] == worst), "percent_left"].mean()
    dense, least = (mean_accuracy(tickets[k]).times(100).text("{:.2f}%") for k in (0, worst))
    return (
        f"At the end of training, the dense network has a training accuracy of {dense}. The tickets' mean is lowest "
        f"at {left:.1f}% of weights remaining: {least}."
    )


def answer(root: Path) -> str:
    """Return the size of the smallest winning tickets of each network, at the largest profile with a whole trial."""
    networks, said = {LENET_RUN: "LeNet"} | {variant: name for variant, (name, _) in CONVOLUTIONAL.items()}, []
    for variant, network in networks.items():
        folder = largest_run(root, f"iterative_pruning/{variant}", profiles=PROFILES[1:])
        if folder is None:
            continue
        run = RunTables.read(folder)
        try:
            smallest, others = smallest_winning(run), [f"{left:.1f}%" for left in larger_losing(run)]
        except Absent:  # without a validation set there is no early stop
            continue
        if len(run.left) == 1:
            continue
        size = smallest.text("{:.1f}%", note=False) if smallest.value < 100 else "none"
        but = f"; not at {', '.join(others)}" if others and smallest.value < 100 else ""
        said.append(f"{network} {size} (n = {run.n}, pruned to {run.left[-1]:.1f}%{but})")
    return f"By the means, they do down to these percentages of weights: {'; '.join(said)}." if said else ""


STUDY = Study(
    "iterative_pruning",
    "Do small subnetworks match the dense one from their own initial weights?",
    findings=findings,
    answer=answer,
)
