"""Sentences and a table on movement pruning: criteria in comparison with random pruning, and variants of one."""

from pathlib import Path

import pandas as pd

from lthcore.analysis.cache import has_derived
from lthcore.analysis.statistics import difference
from lthcore.report.finished_runs import classes_in, profile_of
from lthcore.report.run_tables import read_whole_trials
from lthcore.report.sentences import compared, gap, level
from lthcore.report.studies.movement_pruning.networks import MOVEMENT, PUBLISHED, runs_of_network
from lthcore.report.tables import table_of
from lthcore.runs.files import read_table

REMOVED = {  # in sentences
    "high_movement": "the weights that moved most", "low_movement": "the weights that moved least",
    "magnitude": "the smallest weights", "magnitude_increase": "the weights whose magnitude grew least",
    "random": "random weights",
}  # fmt: skip
VARIANTS = {  # of high movement that rewinds weights
    "high_movement_guarded": "keeps a share of each layer",
    "high_movement_going_on": "continues from the best weights instead of rewinding them",
    "high_movement_going_on_fresh": "continues from the best weights with a new optimizer",
}
COLLAPSE = 34.3  # % of weights remaining at which the published network had lost most of its accuracy


def levels_of_conv4(root: Path) -> str:
    """Return the mean test accuracies of Conv-4 in percent, at the early stop / at the end, as a Markdown table.

    There is a row for each percentage of weights remaining and a column for each criterion. Of a trial's rounds at one
    percentage the first counts. The text is empty if nothing has been run.
    """
    columns = {}
    for variant, folder in runs_of_network(root, PUBLISHED).items():
        rounds = read_whole_trials(folder)[0].sort_values("round")
        at = rounds.assign(left=rounds["percent_left"].round(1)).drop_duplicates(["trial", "left"]).groupby("left")
        means = 100 * at[["es_test_accuracy", "final_test_accuracy"]].mean()
        cells = means.apply(lambda mean: " / ".join(f"{value:.1f}" for value in mean), axis=1)
        columns[MOVEMENT[variant.removeprefix(f"{PUBLISHED}-")][0]] = cells
    if not columns:
        return ""
    table = pd.DataFrame(columns).sort_index(ascending=False).fillna("").rename(index="{:.1f}%".format)
    return table_of(table.rename_axis("weights remaining").reset_index())


def findings(root: Path) -> list[str]:
    """Return sentences that compare each criterion with random pruning, at two percentages of weights remaining.

    The first is the lowest that every trial of high movement reached, and the second the lowest of random pruning,
    which high movement may not reach. Trials are compared at equal percentages and not at equal rounds, because a trial
    that skips a round is behind the others. For the network of the published study, a sentence on each criterion alone
    comes first. Last come the variants of high movement, each at the lowest percentage that all of its trials and all
    of those of high movement reached, and the share of their weights that are immovable there.
    """
    lines = []
    for stem, network in (("conv4_cifar10", "Conv-4 on CIFAR-10"), ("lenet_mnist", "LeNet on MNIST")):
        runs = runs_of_network(root, stem)
        arms = ("high_movement", "low_movement", "magnitude", "magnitude_increase", "random")
        tables = {arm: read_whole_trials(runs[f"{stem}-{arm}"])[0] for arm in arms if f"{stem}-{arm}" in runs}
        if "high_movement" not in tables:
            continue
        folder = runs[f"{stem}-high_movement"]
        where, classes = f"{network} (profile `{profile_of(folder)}`)", classes_in(folder)
        if stem == PUBLISHED:
            lines += [
                f"{where}, removing {REMOVED[arm]}: the test accuracy at the end of training is "
                f"{_along(table, classes)}."
                for arm, table in tables.items()
            ]
        if "random" not in tables:
            continue
        lowest = tables["high_movement"].groupby("trial")["percent_left"].min().max()
        sizes = tables["random"]["percent_left"]
        for left in dict.fromkeys([min(sizes, key=lambda size, low=lowest: abs(size - low)), sizes.min()]):
            at = {arm: _at(table, left) for arm, table in tables.items()}
            lines += [
                f"{where}, at {left:.3g}% of weights remaining: removing {REMOVED[arm]} instead of random ones changes "
                f"the test accuracy at the end of training by {gap(at[arm], at['random'], classes)}."
                for arm in tables
                if arm != "random" and set(at[arm].index) == set(at["random"].index)
            ]
        lines += _of_variants(where, runs, stem, tables["high_movement"])
    return lines


def _of_variants(where: str, runs: dict[str, Path], stem: str, rewound: pd.DataFrame) -> list[str]:
    lines = []
    for arm, what in VARIANTS.items():
        if (folder := runs.get(f"{stem}-{arm}")) is None:
            continue
        table = read_whole_trials(folder)[0]
        left = max(t.groupby("trial")["percent_left"].min().max() for t in (rewound, table))
        # a network at chance counts: whether it gets there is the question
        change = difference(_at(table, left), _at(rewound, left), paired=True).times(100)
        said = f"changes the test accuracy at the end of training by {change.in_points()}"
        if has_derived(folder, "immovable"):
            still = read_table(folder, "immovable.csv").eval("share = immovable * weights_left")
            sums = still.groupby(["trial", "round"])[["share", "weights_left"]].sum().reset_index()
            first = sums.merge(table[["trial", "round", "percent_left"]]).sort_values("round")
            here = first[(first["percent_left"] / left - 1).abs() < 0.02].drop_duplicates("trial").set_index("trial")
            said += (
                f"; {100 * (here['share'] / here['weights_left']).mean():.2f}% of the remaining weights are immovable"
            )
        lines.append(f"{where}, at {left:.3g}% of weights remaining: if high movement {what}, this {said}.")
    return lines


def _along(table: pd.DataFrame, classes: float) -> str:
    """Describe a criterion at sizes that all trials reached: none pruned, where the published run fell, the last."""
    n = table["trial"].nunique()
    trials = table.groupby("percent_left")["trial"].nunique()
    sizes = sorted(trials.index[trials == n], reverse=True)
    shown = dict.fromkeys([sizes[0], min(sizes, key=lambda size: abs(size - COLLAPSE)), sizes[-1]])
    said = ", ".join(f"{level(_at(table, size), classes, interval=n > 1)} at {size:.3g}%" for size in shown)
    emptied = sorted({name for names in table["emptied"].dropna() for name in names.split()})
    layers = f"emptied layers: {', '.join(emptied)}" if emptied else "no layer was emptied"
    return f"{said} of weights remaining (n = {n}); {layers}"


def _at(table: pd.DataFrame, left: float) -> pd.Series:
    """Return the test accuracy at the end by trial, for the round with `left` percent remaining (within 2% of it)."""
    near = table[(table["percent_left"] / left - 1).abs() < 0.02]
    return near.drop_duplicates("trial").set_index("trial")["final_test_accuracy"]


def answer(root: Path) -> str:
    """Return how LeNet's final accuracy differs from that of random pruning if high or low movement is pruned.

    The size is the lowest that every trial of high movement reached.
    """
    runs = runs_of_network(root, "lenet_mnist")
    folders = [runs.get(f"lenet_mnist-{arm}") for arm in ("random", "high_movement", "low_movement")]
    if None in folders:
        return ""
    random, high, low = (read_whole_trials(folder)[0] for folder in folders)
    lowest = high.groupby("trial")["percent_left"].min().max()
    left = min(random["percent_left"], key=lambda size: abs(size - lowest))
    pruned = {"pruning those that moved most": _at(high, left), "those that moved least": _at(low, left)}
    what = f"LeNet's final test accuracy at {left:.3g}%"
    return compared("pruning at random", what, pruned, _at(random, left), classes_in(folders[0]))
