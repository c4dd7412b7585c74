"""Figures of movement pruning, robust training and structured pruning, drawn from the committed tables alone."""

from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from lthcore.report.comparisons import runs_of, trainings_of
from lthcore.report.plots import ARMS, caption_of, captioned, new_figure, plot_means, sparsity_axis
from lthcore.runs.folder import read_record, read_table, read_tables

MOVEMENT = {
    "high_movement": ("high movement goes", "#1f5fa8"), "low_movement": ("low movement goes", "#d1642a"),
    "magnitude": ("low magnitude goes", "#222222"), "magnitude_increase": ("low increase goes", "#3d8c5c"),
    "random": ("random goes", "#999999"), "high_movement_guarded": ("high movement, layers guarded", "#7a4fa3"),
    "high_movement_going_on": ("high movement, going on from the best", "#b8860b"),
    "high_movement_going_on_fresh": ("the same, fresh optimizer", "#c07fae"),
}  # fmt: skip
NETWORKS = {
    "conv4_cifar10": "Conv-4 on CIFAR-10",
    "lenet_mnist": "LeNet-300-100 on MNIST",
    "mlp_digits": "A small network on digits",
}
ABLATION = {
    "base": "base: Adam", "clipping": "+ gradient clipping", "dropout": "+ dropout", "kaiming": "+ Kaiming",
    "adamw": "+ AdamW", "all": "all four",
}  # fmt: skip
SHADES = {
    "base": "#222222", "clipping": "#3d8c5c", "dropout": "#d1642a", "kaiming": "#b8860b", "adamw": "#7a4fa3",
    "all": "#1f5fa8",
}  # fmt: skip
UNITS = {
    "l1": ("mean |w|", "#1f5fa8"), "l2": ("root mean square of w", "#3d8c5c"), "activation": ("mean output", "#d1642a"),
    "l1-global": ("mean |w|, all layers together", "#7a9cc9"),
    "l2-global": ("root mean square, all together", "#8cc0a0"),
    "activation-global": ("mean output, all together", "#e6a882"),
}  # fmt: skip


def pruning_rounds(folder: Path, caption: str = "") -> Figure:
    """A run of iterative pruning round by round: curves by epoch, what validated best, and what it came to."""
    rounds, curves = (table[table["arm"] == "ticket"] for table in read_tables(folder))
    settings = read_record(folder)["settings"]
    steps = settings["iterations"] / settings["epochs"] if settings["epochs"] else 1
    unit = "epoch" if settings["epochs"] else "iteration"
    figure, panels = new_figure(2, 4)
    ks = sorted(curves["round"].unique())
    colours = dict(zip(ks, sns.color_palette("viridis", len(ks) + 1), strict=False))
    for k in ks:
        means = curves[curves["round"] == k].groupby("iteration").mean(numeric_only=True)
        for axes, column in zip(panels, ("test_accuracy", "test_loss", "val_loss"), strict=False):
            label = f"{means['percent_left'].iloc[-1]:.3g}%"
            axes.plot(means.index / steps, means[column], color=colours[k], label=label)
    for axes, title in zip(panels, ("Test accuracy", "Test loss", "Validation loss"), strict=False):
        axes.set(title=f"{title}, each round", xlabel=unit)
        if "accuracy" in title:
            axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        else:
            later = np.concatenate([line.get_ydata()[1:] for line in axes.lines])
            axes.set_ylim(0.9 * np.nanmin(later), 1.05 * np.nanmax(later))
    handles, labels = panels[0].get_legend_handles_labels()
    few = range(0, len(labels), max(1, len(labels) // 5))
    panels[0].legend([handles[i] for i in few], [labels[i] for i in few], title="weights left")
    last = curves.sort_values("iteration").groupby(["trial", "round"])["test_loss"].last().groupby("round").mean()
    by_round = rounds.groupby("round")
    _per_round(panels[3], by_round["es_val_loss"].mean(), "Best validation loss")
    _per_round(panels[4], by_round["es_val_accuracy"].mean(), "Best validation accuracy")
    collapsed = [k for k, part in by_round if "emptied" in part and part["emptied"].notna().any()]
    _bars(panels[5], by_round["final_test_accuracy"].mean(), "Test accuracy at the end", collapsed)
    _bars(panels[6], last, "Test loss at the end", collapsed)
    _bars(panels[7], 1 - by_round["percent_left"].mean() / 100, "Sparsity", collapsed)
    for axes in (panels[4], panels[5], panels[7]):
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    note = f"; in rounds {', '.join(map(str, collapsed))} (red) a layer was emptied" if collapsed else ""
    return captioned(figure, caption + note)


def movement_rounds(root: Path) -> Figure | None:
    """High-movement pruning of the largest network it has been run on, round by round."""
    runs = runs_of(root, "movement_pruning")
    for stem in NETWORKS:
        if f"{stem}-high_movement" in runs:
            return pruning_rounds(
                runs[f"{stem}-high_movement"], caption_of(NETWORKS[stem], runs[f"{stem}-high_movement"])
            )
    return None


def movement_arms(root: Path) -> Figure | None:
    """Accuracy against sparsity: high movement and its controls, as many a round; a panel for each network."""
    runs = runs_of(root, "movement_pruning")
    stems = [stem for stem in NETWORKS if f"{stem}-high_movement" in runs]
    if not stems:
        return None
    figure, panels = new_figure(1, len(stems) if len(stems) > 1 else 2)
    for axes, stem in zip(panels, stems, strict=False):
        lowest = 100.0
        for name, (label, colour) in MOVEMENT.items():
            if f"{stem}-{name}" not in runs:
                continue
            rounds, _ = read_tables(runs[f"{stem}-{name}"])
            _line(rounds, "final_test_accuracy", axes, label, colour)
            lowest = min(lowest, rounds["percent_left"].min())
            if "emptied" in rounds:
                empty = rounds[rounds["emptied"].notna()]
                axes.scatter(empty["percent_left"], empty["final_test_accuracy"], marker="x", color="#c00000", zorder=4)
        sparsity_axis(axes, lowest)
        title = (
            caption_of(NETWORKS[stem], runs[f"{stem}-high_movement"]).replace("; ", "\n").replace(" trials each", "")
        )
        axes.set(title=title, ylabel="test accuracy at the end", xlabel="weights left (%)")
        axes.legend().remove()
    for axes in panels[len(stems) :]:
        axes.set_axis_off()
    handles = {label: h for axes in panels for h, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside right upper")
    return captioned(figure, "bars from lowest to highest trial; red crosses: a layer was emptied")


def movement_layers(root: Path) -> Figure | None:
    """What is left of each layer as rounds go by: where layers collapse, and where they do not."""
    runs = runs_of(root, "movement_pruning")
    stem = next((s for s in NETWORKS if f"{s}-high_movement" in runs), None)
    arms = [a for a in MOVEMENT if f"{stem}-{a}" in runs and (runs[f"{stem}-{a}"] / "structure.csv").exists()][:6]
    if stem is None or not arms:
        return None
    figure, panels = new_figure(-(-len(arms) // 3), 3)
    for axes, arm in zip(panels, arms, strict=False):
        folder = runs[f"{stem}-{arm}"]
        density = read_table(folder, "structure.csv").groupby(["layer", "round"], sort=False)["density"].mean()
        left = read_tables(folder)[0].groupby("round")["percent_left"].mean()
        layers = list(density.index.get_level_values("layer").unique())
        for layer, colour in zip(layers, sns.color_palette("viridis", len(layers) + 1), strict=False):
            axes.plot(
                left.loc[density[layer].index], density[layer], color=colour, marker="o", markersize=3, label=layer
            )
        sparsity_axis(axes, left.min())
        axes.set(
            title=MOVEMENT[arm][0], xlabel="weights left (%)", ylabel="share of the layer left", ylim=(-0.03, 1.03)
        )
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    panels[0].legend()
    for axes in panels[len(arms) :]:
        axes.set_axis_off()
    return captioned(figure, caption_of(NETWORKS[stem], runs[f"{stem}-high_movement"]))


def robust_training(root: Path) -> Figure | None:
    """Accuracy against sparsity: iterative pruning, its reinitialisation, and the two together for base and all."""
    found = _ablation(root)
    if found is None:
        return None
    figure, panels = new_figure(1, 3)
    for axes, arm, title in zip(panels, ("ticket", "reinit"), ("Iterative pruning", "Reinitialised"), strict=False):
        for name, part in found.groupby("label", sort=False):
            rounds = part[(part["arm"] == arm) | (part["round"] == 0)]
            _line(rounds, "es_test_accuracy", axes, ABLATION[name], SHADES[name])
        axes.set_title(title)
    for name in ("base", "all"):
        for arm in ("ticket", "reinit"):
            part = found[(found["label"] == name) & ((found["arm"] == arm) | (found["round"] == 0))]
            label = f"{ABLATION[name].split(':')[0]}, {ARMS[arm][0]}"
            _line(part, "es_test_accuracy", panels[2], label, SHADES[name], ARMS[arm][2])
    panels[2].set_title("Rewound against reinitialised")
    for axes in panels:
        sparsity_axis(axes, found["percent_left"].min())
        axes.set(xlabel="weights left (%)", ylabel="test accuracy at early stop")
        axes.legend()
    return captioned(figure, caption_of("LeNet-300-100 on MNIST, bars from lowest to highest trial", *_folders(root)))


def robust_ablation(root: Path) -> Figure | None:
    """A heat map of the ablation, mean and spread over trials; and how soon each comes to 97% of test images."""
    found = _ablation(root)
    if found is None:
        return None
    figure, (heat, soon) = new_figure(1, 2, (12.0, 3.8))
    tickets = found[found["arm"] == "ticket"]
    table = (100 * tickets["es_test_accuracy"]).groupby([tickets["label"], tickets["round"]])
    names = [name for name in ABLATION if name in set(found["label"])]
    mean, std = table.mean().unstack().loc[names], table.std().unstack().loc[names]
    left = tickets.groupby("round")["percent_left"].mean()
    text = mean.map("{:.2f}".format) + std.map("\n± {:.2f}".format)
    sns.heatmap(
        mean,
        annot=text,
        fmt="",
        cmap="viridis",
        ax=heat,
        cbar_kws={"label": "test accuracy (%)"},
        annot_kws={"size": 8},
    )
    heat.set_xticklabels([f"{left[k]:.3g}%" for k in mean.columns])
    heat.set_yticklabels([ABLATION[name] for name in names], rotation=0)
    heat.set(xlabel="weights left", ylabel="", title="Tickets: test accuracy at early stop, mean ± sd")
    epochs = _epochs_to(root, 0.97)
    for name in names:
        part = epochs[epochs["label"] == name].groupby("percent_left")["epochs"].mean()
        soon.plot(part.index, part, color=SHADES[name], marker="o", markersize=4, label=ABLATION[name])
    sparsity_axis(soon, found["percent_left"].min())
    soon.set(title="Epochs until 97% of test images", xlabel="weights left (%)", ylabel="epochs")
    soon.legend()
    return captioned(figure, caption_of("LeNet-300-100 on MNIST", *_folders(root)))


def structured_pruning(root: Path) -> Figure | None:
    """Whole neurons pruned: accuracy against what is left, by criterion and scope, tickets and reinitialisations."""
    runs = runs_of(root, "structured_pruning")
    found = {name: runs[f"lenet_mnist-{name}"] for name in UNITS if f"lenet_mnist-{name}" in runs}
    if not found:
        return None
    figure, panels = new_figure(1, 3)
    for name, folder in found.items():
        rounds, _ = read_tables(folder)
        label, colour = UNITS[name]
        tickets = rounds[rounds["arm"] == "ticket"]
        _line_by_round(tickets, panels[1 if "global" in name else 0], label.split(",")[0], colour)
        if name in ("l1", "activation"):
            _line_by_round(tickets, panels[2], f"{label}, rewound", colour)
            other = rounds[(rounds["arm"] == "reinit") | (rounds["round"] == 0)]
            _line_by_round(other, panels[2], f"{label}, reinitialised", colour, "--")
    titles = ("Within each layer", "All layers together", "Rewound against reinitialised")
    for axes, title in zip(panels, titles, strict=True):
        if not axes.lines:
            axes.set_axis_off()
            continue
        axes.set_xscale("log")
        axes.invert_xaxis()
        axes.set_xticks([100, 60, 40, 25, 15])
        axes.minorticks_off()
        axes.xaxis.set_major_formatter(PercentFormatter(100, decimals=0))
        axes.set(title=title, xlabel="weights left", ylabel="test accuracy at early stop")
        axes.legend()
    return captioned(figure, caption_of("LeNet-300-100 on MNIST, whole neurons", *found.values()))


def _ablation(root: Path) -> pd.DataFrame | None:
    folders = {path.name.removeprefix("lenet_mnist-"): path for path in _folders(root)}
    if not {"base", "all"} <= folders.keys():
        return None
    table = trainings_of({name: folders[name] for name in ABLATION if name in folders})
    return table.assign(label=table["variant"])


def _folders(root: Path) -> list[Path]:
    return [path for name, path in runs_of(root, "robust_training").items() if name.startswith("lenet_mnist-")]


def _epochs_to(root: Path, accuracy: float) -> pd.DataFrame:
    """Epochs until a ticket's test accuracy first reaches a value, where it does in every trial."""
    rows = []
    for path in _folders(root):
        curves, record = read_tables(path)[1], read_record(path)
        steps = record["n_train"] // record["settings"]["batch_size"]
        tickets = curves[(curves["arm"] == "ticket") & (curves["test_accuracy"] >= accuracy)]
        first = tickets.groupby(["trial", "round"])[["iteration", "percent_left"]].min().reset_index()
        first = first[first.groupby("round")["trial"].transform("size") == curves["trial"].nunique()]
        rows.append(first.assign(label=path.name.removeprefix("lenet_mnist-"), epochs=first["iteration"] / steps))
    found = pd.concat(rows, ignore_index=True)
    return found.assign(percent_left=found.groupby("round")["percent_left"].transform("mean"))


def _line(rounds: pd.DataFrame, column: str, axes: Axes, label: str, colour: str, style: str = "-") -> None:
    """A column of rounds.csv against weights left: means over trials, bars from the lowest to the highest.

    By what is left and not by round: a trial that skips a round is behind the others from there on.
    """
    plot_means(rounds[column], rounds["percent_left"].round(2), axes, label, colour, style)


def _line_by_round(rounds: pd.DataFrame, axes: Axes, label: str, colour: str, style: str = "-") -> None:
    """Test accuracy at the early stop: of whole units, a trial's weights left differ from another's in a round."""
    left = rounds["percent_left"].groupby(rounds["round"]).transform("mean")
    plot_means(rounds["es_test_accuracy"], left, axes, label, colour, style)


def _per_round(axes: Axes, values: pd.Series, title: str) -> None:
    axes.plot(values.index, values, color=ARMS["ticket"][1], marker="o", markersize=4)
    axes.set(title=title, xlabel="round")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))


def _bars(axes: Axes, values: pd.Series, title: str, collapsed: list[int]) -> None:
    axes.bar(values.index, values, color=["#c00000" if k in collapsed else ARMS["ticket"][1] for k in values.index])
    axes.set(title=title, xlabel="round")
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
