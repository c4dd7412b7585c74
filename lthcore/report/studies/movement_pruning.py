"""Study of high-movement pruning and its controls. Figures and sentences."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lthcore.analysis.cache import has_derived
from lthcore.analysis.statistics import difference
from lthcore.arms import arm_of
from lthcore.report.curves import at_shared_iterations
from lthcore.report.finished_runs import classes_in, profile_of, runs_beside
from lthcore.report.layout import (
    caption_of,
    captioned,
    in_percent,
    new_figure,
    one_legend,
    place_of,
    size_of,
    sparsity_axis,
    titled,
)
from lthcore.report.plots import from_dark_to_light, plot_rounds
from lthcore.report.run_tables import read_whole_trials, whole_trials
from lthcore.report.sentences import compared, gap, level
from lthcore.report.study import Study
from lthcore.report.tables import table_of
from lthcore.runs.files import read_record, read_table

MOVEMENT = {  # criterion -> label, colour, style and marker of its line
    "high_movement": ("prune high movement", "#a5282c", "-", "o"),
    "low_movement": ("prune low movement", "#2a9d8f", "-", "s"),
    "magnitude": ("prune low magnitude", "#1f5fa8", "-", "^"),
    "magnitude_increase": ("prune low magnitude increase", "#3d8c5c", "-", "v"),
    "random": ("prune at random", "#808080", ":", "D"),
    "high_movement_guarded": ("prune high movement, guarded", "#7a4fa3", "--", "P"),
    "high_movement_going_on": ("prune high movement, from best weights", "#b8860b", "-", "X"),
    "high_movement_going_on_fresh": ("prune high movement, from best weights, new optimizer", "#c07fae", "--", "d"),
}


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

RESTARTS = {
    "high_movement": "Weights rewound",
    "high_movement_guarded": "Weights rewound (guarded)",
    "high_movement_going_on": "From the best weights",
    "high_movement_going_on_fresh": "From the best, new optimizer",
}

BLUE = arm_of("ticket").colour
NETWORKS = {
    "conv4_cifar10": "Conv-4 on CIFAR-10",
    "lenet_mnist": "LeNet-300-100 on MNIST",
    "mlp_digits": "A small network on digits",
}


PUBLISHED = "conv4_cifar10"  # the network of the published study
COLLAPSE = 34.3  # % of weights remaining at which the published network had lost most of its accuracy


def pruning_rounds(folder: Path, caption: str = "") -> Figure:
    """Draw a run of iterative pruning: curves of each round, then values at the early stop and at the end by round."""
    rounds, curves = (table[table["arm"] == "ticket"] for table in read_whole_trials(folder))
    settings = read_record(folder)["settings"]
    steps = settings["iterations"] / settings["epochs"] if settings["epochs"] else 1
    figure, panels = new_figure(2, 4, (10.4, 5.4))
    ks = sorted(curves["round"].unique())
    colours = from_dark_to_light(ks)
    for k in ks:
        means = at_shared_iterations(curves[curves["round"] == k]).groupby("iteration").mean(numeric_only=True)
        for axes, column in zip(panels, ("test_accuracy", "test_loss", "val_loss"), strict=False):
            axes.plot(means.index / steps, means[column], color=colours[k], label=f"round {k}")
    _finish_curves(panels, "epoch" if settings["epochs"] else "iteration")
    last = curves.sort_values("iteration").groupby(["trial", "round"])["test_loss"].last().groupby("round").mean()
    by_round = rounds.groupby("round")
    _per_round(panels[3], by_round["es_val_loss"].mean(), "Minimum validation loss")
    _per_round(panels[4], by_round["es_val_accuracy"].mean(), "Validation accuracy")
    collapsed = [k for k, part in by_round if "emptied" in part and part["emptied"].notna().any()]
    _per_round(panels[5], by_round["final_test_accuracy"].mean(), "Test accuracy at the end")
    _per_round(panels[6], last, "Test loss at the end")
    pruned = 1 - by_round["percent_left"].mean() / 100
    _bars(panels[7], pruned, "Share of weights pruned", collapsed)
    for axes in (panels[4], panels[5], panels[7]):
        in_percent(axes.yaxis)
    skipped = pruned.index[pruned.diff().eq(0)]
    caption += "; validation accuracy: at the early stop" if caption else ""
    note = f"; in rounds {', '.join(map(str, collapsed))} (red) a layer was emptied" if collapsed else ""
    note += f"; no further weights were pruned before round {', '.join(map(str, skipped))}" if len(skipped) else ""
    return captioned(figure, caption + note)


def _finish_curves(panels: list[Axes], unit: str) -> None:
    """Give the panels with curves their titles and scales, and the first a legend of a few of its rounds."""
    for axes, title in zip(panels, ("Test accuracy", "Test loss", "Validation loss"), strict=False):
        axes.set(title=f"{title}, each round", xlabel=unit)
        if "accuracy" in title:
            in_percent(axes.yaxis)
        else:
            later = np.concatenate([line.get_ydata()[1:] for line in axes.lines])
            axes.set_ylim(0.9 * np.nanmin(later), 1.05 * np.nanmax(later))
    handles, labels = panels[0].get_legend_handles_labels()
    few = range(0, len(labels), -(-len(labels) // 5))
    panels[0].legend([handles[i] for i in few], [labels[i] for i in few], loc="lower right", fontsize=7)


def movement_rounds(root: Path) -> Figure | None:
    """High-movement pruning round by round, for the largest network with results."""
    for stem in NETWORKS:
        if folder := _runs(root, stem).get(f"{stem}-high_movement"):
            means = "means over trials; " if whole_trials(folder) > 1 else ""
            figure = pruning_rounds(folder, f"{means}{size_of(folder)}; tables: {place_of(folder)}")
            return titled(figure, f"High-movement pruning, {NETWORKS[stem]}")
    return None


def movement_arms(root: Path) -> Figure | None:
    """Test accuracy against weights remaining: high-movement pruning and its controls.

    Each network has a row of two panels: all values, and closer those as high as random pruning's.
    """
    networks = {stem: runs for stem in NETWORKS if (runs := _runs(root, stem))}
    if not networks:
        return None
    figure, panels = new_figure(len(networks), 2, (9, 2.3 * len(networks) + 1))
    any_emptied = False
    for (whole, closer), (stem, runs) in zip(panels.reshape(-1, 2), networks.items(), strict=True):
        tables = {arm: read_whole_trials(runs[f"{stem}-{arm}"])[0] for arm in MOVEMENT if f"{stem}-{arm}" in runs}
        for axes, (arm, rounds) in itertools.product((whole, closer), tables.items()):
            plot_rounds(rounds, "final_test_accuracy", axes, *MOVEMENT[arm])
            empty = rounds[rounds["emptied"].notna()] if "emptied" in rounds else rounds[:0]
            x, y = empty["percent_left"], empty["final_test_accuracy"]
            axes.scatter(x, y, s=90, linewidths=2, marker="x", color="#c00000", zorder=4)
            any_emptied |= len(empty) > 0
        for axes in (whole, closer):
            sparsity_axis(axes)
        title = f"{NETWORKS[stem]}, {size_of(runs[f'{stem}-high_movement'])}"  # over both panels
        whole.set(title=title, ylabel="test accuracy at the end")
        if "random" in tables:
            low, high = tables["random"]["final_test_accuracy"].agg(["min", "max"])
            closer.set_ylim(low - 0.1 * (high - low), high + 0.5 * (high - low))
    one_legend(figure)
    note = (
        "right: the same, closer; the first round of each trial at a percentage; since rounds may be skipped, a line "
        "ends where not all trials got further; bars: range"
    )
    note += any_emptied * "; red crosses: a layer was emptied"
    places = place_of(*(folder for runs in networks.values() for folder in runs.values()))
    return captioned(figure, f"{note}; tables: {places}")


def movement_layers(root: Path) -> Figure | None:
    """Remaining share of each layer against weights remaining, by pruning criterion: where layers collapse.

    Drawn for the largest network that has a run of high movement and a control.
    """
    stem = next((s for s in NETWORKS if len(_runs(root, s)) > 1), None)
    runs = _runs(root, stem) if stem else {}
    arms = [a for a in MOVEMENT if f"{stem}-{a}" in runs and (runs[f"{stem}-{a}"] / "structure.csv").exists()]
    if not arms:
        return None
    rows, columns = -(-len(arms) // 3), min(3, len(arms))
    figure, panels = new_figure(rows, columns, (3.1 * columns, 2.5 * rows + 0.7))
    for axes, arm in zip(panels, arms, strict=False):
        folder = runs[f"{stem}-{arm}"]
        density = read_table(folder, "structure.csv").groupby(["layer", "round"], sort=False)["density"].mean()
        left = read_whole_trials(folder)[0].groupby("round")["percent_left"].mean()
        layers = list(density.index.get_level_values("layer").unique())
        for layer, colour in from_dark_to_light(layers).items():
            style = "o-" if layer.startswith("conv") else "s--"  # with colours alone, neighbouring layers look alike
            axes.plot(left.loc[density[layer].index], density[layer], style, color=colour, markersize=3, label=layer)
        sparsity_axis(axes)
        axes.set(
            title=MOVEMENT[arm][0].capitalize(),
            ylabel="share of the layer kept",
            ylim=(-0.03, 1.03),
        )
        in_percent(axes.yaxis)
    one_legend(figure)
    for axes in panels[len(arms) :]:
        axes.set_axis_off()
    return captioned(figure, caption_of(NETWORKS[stem], *(runs[f"{stem}-{arm}"] for arm in arms)))


def movement_immovable(root: Path) -> Figure | None:
    """Draw the share of each layer's remaining weights that are immovable, by way to prune high movement.

    Drawn for the largest network with such tables (lthcore/analysis/immovable.py).
    """
    of_networks = {stem: runs for stem in NETWORKS if (runs := _with_immovable(root, stem))}
    if not of_networks:
        return None
    stem, runs = next(iter(of_networks.items()))
    figure, panels = new_figure(1, len(runs), (3.2 * len(runs), 3.3))
    for axes, (arm, folder) in zip(panels, runs.items(), strict=True):
        table = read_table(folder, "immovable.csv").assign(arm="ticket", draw=0)
        layers = list(dict.fromkeys(table["layer"]))
        for layer, colour in from_dark_to_light(layers).items():
            plot_rounds(table[table["layer"] == layer], "immovable", axes, f"{layer}: immovable weights", colour)
        rounds, _ = read_whole_trials(folder)
        plot_rounds(rounds, "final_test_accuracy", axes, "test accuracy of the network", "#808080", ":", "s")
        sparsity_axis(axes)
        axes.set(title=RESTARTS.get(arm, MOVEMENT[arm][0]), ylim=(-0.03, 1.03))
        in_percent(axes.yaxis)
    panels[0].set_ylabel("share; accuracy")
    one_legend(figure)
    title = f"High-movement pruning of {NETWORKS[stem]}: weights that cannot move"
    return captioned(titled(figure, title), caption_of("bars: range", *runs.values()))


def _with_immovable(root: Path, stem: str) -> dict[str, Path]:
    """Return criterion -> folder of a network's runs that have a table of immovable weights."""
    runs = _runs(root, stem)
    found = {arm: runs[f"{stem}-{arm}"] for arm in MOVEMENT if f"{stem}-{arm}" in runs}
    return {arm: folder for arm, folder in found.items() if has_derived(folder, "immovable")}


def _runs(root: Path, stem: str) -> dict[str, Path]:
    """Return the runs of a network at the same profile as its run of high-movement pruning."""
    runs = runs_beside(root, "movement_pruning", f"{stem}-high_movement")
    return {variant: folder for variant, folder in runs.items() if variant.startswith(f"{stem}-")}


def _per_round(axes: Axes, values: pd.Series, title: str) -> None:
    axes.plot(values.index, values, color=BLUE, marker="o", markersize=4)
    axes.set(title=title, xlabel="round")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def _bars(axes: Axes, values: pd.Series, title: str, collapsed: list[int]) -> None:
    axes.bar(values.index, values, color=["#c00000" if k in collapsed else BLUE for k in values.index])
    axes.set(title=title, xlabel="round")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def levels_of_conv4(root: Path) -> str:
    """Return the mean test accuracies of Conv-4 in percent, at the early stop / at the end, as a Markdown table.

    There is a row for each percentage of weights remaining and a column for each criterion. Of a trial's rounds at one
    percentage the first counts. The text is empty if nothing has been run.
    """
    columns = {}
    for variant, folder in _runs(root, PUBLISHED).items():
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
        runs = _runs(root, stem)
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


def answer(root: Path) -> str:
    """Return how LeNet's final accuracy differs from that of random pruning if high or low movement is pruned.

    The size is the lowest that every trial of high movement reached.
    """
    runs = _runs(root, "lenet_mnist")
    folders = [runs.get(f"lenet_mnist-{arm}") for arm in ("random", "high_movement", "low_movement")]
    if None in folders:
        return ""
    random, high, low = (read_whole_trials(folder)[0] for folder in folders)
    lowest = high.groupby("trial")["percent_left"].min().max()
    left = min(random["percent_left"], key=lambda size: abs(size - lowest))
    pruned = {"pruning those that moved most": _at(high, left), "those that moved least": _at(low, left)}
    what = f"LeNet's final test accuracy at {left:.3g}%"
    return compared("pruning at random", what, pruned, _at(random, left), classes_in(folders[0]))


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


STUDY = Study(
    "movement_pruning",
    "Should the weights that move most be kept, or pruned?",
    {
        "movement_rounds": movement_rounds,
        "movement_arms": movement_arms,
        "movement_layers": movement_layers,
        "movement_immovable": movement_immovable,
    },
    findings,
    answer,
)
