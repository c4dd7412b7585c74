"""Figures of training runs in which networks are pruned: weights remaining, loss and accuracy by epoch."""

from itertools import cycle
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter, PercentFormatter, ScalarFormatter

from lthcore.report.curves import at_shared_iterations
from lthcore.report.finished_runs import runs_beside
from lthcore.report.layout import CUT_BELOW, caption_of, captioned, in_percent, legend_above, new_figure
from lthcore.report.run_tables import read_whole_trials
from lthcore.runs.files import read_record

PALETTE = ["#222222", "#1f5fa8", "#d1642a", "#3d8c5c", "#c07fae", "#b8860b", "#2a9d8f", "#7a4fa3"]
LOSSES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2)  # ticks of the loss axis


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
