"""Figures of where tickets come from: transfer, rewinding, prediction, seeded weights, masks without training."""

from pathlib import Path

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter, ScalarFormatter

from lthcore.report.comparisons import runs_of
from lthcore.report.mask_figures import untrained
from lthcore.report.plots import ARMS, caption_of, captioned, new_figure, plot_intervals, plot_means, sparsity_axis
from lthcore.runs.folder import read_record, read_table, read_tables

TRANSFER = ("ticket", "transferred", "transferred-shuffled")
PREDICTED = {
    "before training": "#d1642a",
    "and early in it": "#3d8c5c",
    "and its end (leaky)": "#999999",
}
METHODS = {
    "learned (edge-popup)": "#1f5fa8",
    "learned, weights as drawn": "#1f5fa8",
    "learned, weights signed": "#2a9d8f",
    "evolved (NSGA-II)": "#d1642a",
    "ticket's mask": "#222222",
    "random mask": "#999999",
}
CHOSEN = {  # arm -> label and colour of masks that training chose
    "by_magnitude_same_sign": ("large final, same sign, as drawn", "#1f5fa8"),
    "by_magnitude_same_sign-signed": ("large final, same sign, signed", "#2a9d8f"),
}


def transfer(folders: dict[str, Path], caption: str = "") -> Figure:
    """A row for each run (title -> folder): masks from elsewhere and native ones, untrained and trained."""
    figure, panels = new_figure(len(folders), 2)
    for i, (title, folder) in enumerate(folders.items()):
        rounds, curves = read_tables(folder)
        for axes, table, column, when in (
            (panels[2 * i], untrained(curves), "test_accuracy", "untrained"),
            (panels[2 * i + 1], rounds, "es_test_accuracy", "trained"),
        ):
            left = table["round"].map(rounds[rounds["arm"] == "ticket"].groupby("round")["percent_left"].mean())
            for arm in TRANSFER:
                part = table[(table["arm"] == arm) & (table["round"] > 0)]
                label, colour, style = ARMS[arm]
                plot_means(part[column], left[part.index], axes, label, colour, style)
            sparsity_axis(axes, rounds["percent_left"].min())
            axes.set(title=f"{title}, {when}", xlabel="weights left (%)", ylabel="test accuracy")
    panels[0].legend()
    return captioned(figure, caption)


def rewinding(folders: dict[int, Path], caption: str = "") -> Figure:
    """Runs by rewinding point: accuracy of tickets and of training on; and the barrier between copies parted there."""
    points = sorted(folders)
    figure, panels = new_figure(1, 3)
    colours = dict(zip(points, sns.color_palette("viridis", len(points) + 1), strict=False))
    barriers = []
    for point in points:
        rounds, _ = read_tables(folders[point])
        tickets = rounds[rounds["arm"] == "ticket"]
        label = f"rewound to {point}" if point else "rewound to 0: ticket"
        _means(tickets, panels[0], label, colours[point])
        if point == 0:
            _means(tickets, panels[1], label, colours[point])
            for arm, text in (("continued", "learning-rate rewinding"), ("fine_tuned", "fine-tuning"), ("reinit", "")):
                part = rounds[(rounds["arm"] == arm) | (rounds["round"] == 0)]
                if (part["round"] > 0).any():
                    _means(part, panels[1], text or ARMS[arm][0], ARMS[arm][1], ARMS[arm][2])
        if (folders[point] / "stability.csv").exists():
            barriers.append(read_table(folders[point], "stability.csv"))
    for axes, title in zip(panels, ("Rewound to iteration k", "Rewound, or trained on"), strict=False):
        axes.set(title=title, xlabel="weights left (%)", ylabel="test accuracy at the end")
        sparsity_axis(axes, rounds["percent_left"].min())
        if axes.has_data():
            axes.legend()
        else:  # these go with rewinding to 0
            axes.set_visible(False)
    if barriers:
        table = pd.concat(barriers)
        lefts = sorted(table["percent_left"].unique(), reverse=True)
        shades = sns.color_palette("mako", len(lefts) + 1)
        for left, colour in zip(lefts, shades, strict=False):
            part = table[table["percent_left"] == left]
            plot_intervals(part, "rewind_to", "error_barrier", panels[2], f"{left:.3g}% left", colour)
        panels[2].set(
            title="Error barrier of two copies", xlabel="iteration k at which they part", ylabel="error barrier"
        )
        panels[2].set_xscale("symlog", linthresh=max(1, min(filter(None, points), default=1)))
        panels[2].set_xticks(points)
        panels[2].xaxis.set_major_formatter(ScalarFormatter())
        panels[2].minorticks_off()
        panels[2].yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
        panels[2].legend()
    return captioned(figure, caption)


def prediction(folder: Path, caption: str = "") -> Figure:
    """ROC-AUC on held-out seeds against weights left: sets of features, single ones; and what each is worth."""
    table, importance = (read_table(folder, f"{name}.csv") for name in ("prediction", "importance"))
    figure, panels = new_figure(1, 3, (13.0, 3.8))
    for name, colour in PREDICTED.items():
        for model, style in (("gradient boosting", "-"), ("logistic regression", "--")):
            part = table[(table["features"] == name) & (table["model"] == model)]
            plot_intervals(part, "percent_left", "auc", panels[0], f"{name}, {model}", colour, style)
    alone = table[table["model"] == "alone"]
    names = list(dict.fromkeys(alone["features"]))
    for name, colour in zip(names, sns.color_palette("husl", len(names)), strict=True):
        plot_intervals(alone[alone["features"] == name], "percent_left", "auc", panels[1], name, colour)
    for axes, title in zip(panels, ("All features together", "Each feature alone"), strict=False):
        sparsity_axis(axes, table["percent_left"].min())
        axes.set(title=title, xlabel="weights left (%)", ylabel="ROC-AUC, held-out seed", ylim=(0.3, 1.02))
        axes.legend(fontsize=7, loc="lower right", ncols=2 if axes is panels[1] else 1)
    means = importance.groupby(["feature", "round"])["loss"].mean().unstack()
    order = means.mean(axis=1).sort_values().index
    left = importance.groupby("round")["percent_left"].first()
    for k, colour in zip((means.columns.min(), means.columns.max()), ("#8fb3dc", "#1f5fa8"), strict=True):
        shift = -0.2 if k == means.columns.min() else 0.2
        heights = [i + shift for i in range(len(order))]
        panels[2].barh(heights, means.loc[order, k], height=0.38, color=colour, label=f"{left[k]:.3g}% left")
    panels[2].set_yticks(range(len(order)), order)
    panels[2].set(title="What AUC loses without it (shuffled)", xlabel="loss of ROC-AUC")
    panels[2].legend(loc="lower right")
    return captioned(figure, caption)


def seeding(folder: Path, caption: str = "") -> Figure:
    """Which share of the weights seeded by size or sign survives, and what the dense network comes to."""
    table = read_table(folder, "seeding.csv")
    labels = list(dict.fromkeys(table["seeding"]))
    figure, (survive, dense) = new_figure(1, 2, (12.0, 3.8))
    for label, colour in zip(labels, sns.color_palette("husl", len(labels)), strict=True):
        plot_intervals(table[table["seeding"] == label], "percent_left", "seeded", survive, label, colour)
    left = sorted(table["percent_left"].unique())
    survive.plot(left, [x / 100 for x in left], color="#999999", linestyle=":", label="all weights")
    sparsity_axis(survive, min(left))
    survive.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    survive.set(title="Share of the seeded weights that survives", xlabel="weights left (%)")
    survive.legend(fontsize=7)
    trials = table.drop_duplicates(["seeding", "trial"])
    sns.stripplot(trials, x="dense_test_accuracy", y="seeding", color="#1f5fa8", ax=dense, jitter=False)
    dense.xaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    dense.set(title="Dense network, each trial", xlabel="test accuracy", ylabel="")
    return captioned(figure, caption)


def supermasks(folder: Path, name: str, caption: str = "") -> Figure:
    """Accuracy of untrained networks under masks that were searched for: from learned.csv or evolved.csv.

    Beside them, masks that a criterion takes from the weights' training, where the run has them.
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
            plot_means(part["test_accuracy"], part["percent_left"].round(1), axes, method, colour)
    start = untrained(read_tables(folder)[1]).query("round > 0")
    for arm, (label, colour) in CHOSEN.items():
        if (start["arm"] == arm).any():
            part = start[start["arm"] == arm]
            plot_means(part["test_accuracy"], part["percent_left"].round(1), axes, label, colour, "--")
    sparsity_axis(axes, table["percent_left"].min())
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    axes.set(title="Masks of untrained weights", xlabel="weights left (%)", ylabel="test accuracy, untrained")
    axes.legend()
    return captioned(figure, caption)


def transfer_lenet(root: Path) -> Figure | None:
    """LeNet between MNIST and digits, and Fashion-MNIST where it has been run."""
    runs = runs_of(root, "mask_transfer")
    if not any(name.startswith("lenet") for name in runs):
        return None
    folders = {_directions(folder): folder for name, folder in runs.items() if name.startswith("lenet")}
    return transfer(folders, caption_of("LeNet-300-100, bars from min to max", *folders.values()))


def rewinding_lenet(root: Path) -> Figure | None:
    """LeNet on MNIST by SGD with momentum."""
    studied = runs_of(root, "rewinding_and_connectivity").items()
    folders = {int(n.rpartition("-")[2]): folder for n, folder in studied if n.startswith("lenet_mnist-")}
    if 0 not in folders:
        return None
    return rewinding(folders, caption_of("LeNet-300-100 on MNIST, SGD with momentum", *folders.values()))


def prediction_lenet(root: Path) -> Figure | None:
    """LeNet on MNIST, each of five seeds held out."""
    folder = _with(root, "prediction", "importance")
    return prediction(folder, caption_of("LeNet-300-100 on MNIST, 95% intervals", folder)) if folder else None


def seeding_lenet(root: Path) -> Figure | None:
    """LeNet on MNIST, initial weights changed on purpose."""
    folder = _with(root, "seeding")
    return seeding(folder, caption_of("LeNet-300-100 on MNIST, 95% intervals", folder)) if folder else None


def supermasks_lenet(root: Path) -> Figure | None:
    """LeNet on MNIST, learned supermasks."""
    folder = runs_of(root, "deconstructing").get("lenet_mnist-zero")
    if folder is None or not (folder / "learned.csv").exists():
        return None
    return supermasks(folder, "learned", caption_of("LeNet-300-100 on MNIST, bars from min to max", folder))


def _with(root: Path, *tables: str) -> Path | None:
    folder = runs_of(root, "mask_prediction").get("lenet_mnist")
    return folder if folder and all((folder / f"{table}.csv").exists() for table in tables) else None


def _directions(folder: Path) -> str:
    settings = read_record(folder)["settings"]
    names = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST", "mnist_permuted": "permuted MNIST"}
    source, target = (names.get(settings[key], settings[key]) for key in ("masks_from", "dataset"))
    return f"{source} to {target}"


def _means(rounds: pd.DataFrame, axes: Axes, label: str, colour: str, style: str = "-") -> None:
    plot_means(rounds["final_test_accuracy"], rounds["percent_left"].round(2), axes, label, colour, style)
