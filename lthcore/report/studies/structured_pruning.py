"""Study of structured pruning, of whole neurons and filters. Figures and sentences."""

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from lthcore.analysis.statistics import learned_anything
from lthcore.report.finished_runs import classes_in, profile_of, runs_beside, runs_of
from lthcore.report.layout import caption_of, captioned, in_percent, new_figure
from lthcore.report.plots import plot_means
from lthcore.report.run_tables import read_whole_trials
from lthcore.report.sentences import compared, gap, level
from lthcore.report.study import Study
from lthcore.report.tables import with_dense

UNITS = {
    "l1": ("mean |w|", "#1f5fa8"), "l2": ("root mean square of w", "#3d8c5c"), "activation": ("mean output", "#d1642a"),
    "l1-global": ("mean |w|, all layers together", "#1f5fa8"),
    "l2-global": ("root mean square of w, all layers together", "#3d8c5c"),
    "activation-global": ("mean output, all layers together", "#d1642a"),
}  # fmt: skip


# variant without its criterion -> name of the network, and name of its units
NETWORKS = {
    "lenet_mnist": ("LeNet-300-100 on MNIST", "neurons"),
    "conv2_cifar10": ("Conv-2 on CIFAR-10", "filters and neurons"),
}


def structured_lenet(root: Path) -> Figure | None:
    """Test accuracy of LeNet with whole neurons pruned, by criterion and scope: tickets and reinitialised tickets."""
    return _structured(root, "lenet_mnist")


def structured_conv2(root: Path) -> Figure | None:
    """Test accuracy of Conv-2 with whole filters and neurons pruned: tickets and reinitialised tickets."""
    return _structured(root, "conv2_cifar10")


def _structured(root: Path, network: str) -> Figure | None:
    runs, (title, units) = runs_beside(root, "structured_pruning", f"{network}-l1"), NETWORKS[network]
    found = {name: runs[f"{network}-{name}"] for name in UNITS if f"{network}-{name}" in runs}
    if not found:
        return None
    figure, panels = new_figure(1, 3, (9.5, 3.8))
    for name, folder in found.items():
        rounds = read_whole_trials(folder)[0].assign(classes=classes_in(folder))
        label, colour = UNITS[name]
        tickets = rounds[rounds["arm"] == "ticket"]
        _line_by_round(tickets, panels[1 if "global" in name else 0], label.split(",")[0], colour)
        if name in ("l1", "activation"):
            _line_by_round(tickets, panels[2], f"{label}, rewound", colour)
            other = with_dense(rounds)
            _line_by_round(other[other["arm"] == "reinit"], panels[2], f"{label}, reinitialised", colour, "--")
    titles = ("Within each layer", "All layers together", "Two criteria, both starts")
    for axes, of in zip(panels, titles, strict=True):
        if not axes.lines:
            axes.set_axis_off()
            continue
        axes.set_xscale("log")
        axes.invert_xaxis()
        axes.set_xticks([100, 60, 40, 25, 15])
        axes.minorticks_off()
        axes.xaxis.set_major_formatter(PercentFormatter(100, decimals=0))
        in_percent(axes.yaxis)
        axes.set(title=of, xlabel="% of weights remaining", ylabel="test accuracy at early stop")
        bottom, top = axes.get_ylim()
        axes.set_ylim(bottom - (0.35 * (top - bottom) if axes is not panels[1] else 0), top)  # space for the legend
        axes.legend(fontsize=8, loc="center left" if axes is panels[1] else "lower left")
    what = f"{title}, whole {units}, bars: range of trials, without those stuck at chance (crosses; a/b: a of b trials)"
    return captioned(figure, caption_of(what, *found.values()))


def _line_by_round(rounds: pd.DataFrame, axes: Axes, label: str, colour: str, style: str = "-") -> None:
    """Plot the test accuracy at early stopping against weights remaining, without training runs stuck at chance.

    These are drawn as crosses, with their number. The weights remaining are averaged in each round, since they differ
    between trials if whole units are pruned.
    """
    learned = learned_anything(rounds["es_test_accuracy"], rounds["classes"])
    left = rounds["percent_left"].groupby(rounds["round"]).transform("mean")
    plot_means(rounds["es_test_accuracy"][learned], left[learned], axes, label, colour, style)
    for at, part in learned.groupby(left):
        if not part.all():
            stuck = rounds["es_test_accuracy"][part.index][~part]
            axes.scatter([at] * len(stuck), stuck, marker="x", s=22, linewidth=1, color=colour)
            said = f"{len(stuck)}/{len(part)}"
            axes.annotate(said, (at, stuck.max()), (0, 5), textcoords="offset points", ha="center", fontsize=8.5)


def findings(root: Path) -> list[str]:
    """Return for each criterion and scope the accuracy in the last round, and the gain over reinitialised tickets."""
    lines = []
    for variant, folder in runs_of(root, "structured_pruning").items():
        network, _, name = variant.partition("-")
        if network not in NETWORKS:
            continue
        (title, units), (left, arms) = NETWORKS[network], _last_round(folder)
        if "reinit" in arms:
            tickets, reinit, classes = arms["ticket"], arms["reinit"], classes_in(folder)
            criterion = UNITS.get(name, [name])[0]
            lines.append(
                f"{title} (profile `{profile_of(folder)}`), {units} pruned by {criterion}, {left:.3g}% of weights "
                f"remaining: the tickets' test accuracy at the early stop is {level(tickets, classes)}; rewinding "
                f"instead of reinitialising changes it by {gap(tickets, reinit, classes)}."
            )
    return lines


def _last_round(folder: Path) -> tuple[float, dict[str, pd.Series]]:
    """Return the mean percentage of weights remaining, and arm -> test accuracy at early stopping by trial."""
    rounds = read_whole_trials(folder)[0]
    last = rounds[rounds["round"] == rounds["round"].max()].set_index("trial")
    return last["percent_left"].mean(), dict(iter(last.groupby("arm")["es_test_accuracy"]))


def answer(root: Path) -> str:
    """Return what rewinding gains over reinitialisation for LeNet with its neurons pruned layer by layer."""
    runs, lefts = runs_beside(root, "structured_pruning", "lenet_mnist-l1"), set()
    tickets, reinitialised = {}, {}
    for name, by in {"l1": "neurons pruned by their weights", "activation": "by their mean output"}.items():
        folder = runs.get(f"lenet_mnist-{name}")
        left, arms = _last_round(folder) if folder else (0.0, {})
        lefts.add(round(left, 1))
        if "reinit" not in arms or len(lefts) > 1:
            return ""
        tickets[by], reinitialised[by] = arms["ticket"], arms["reinit"]
    what = f"LeNet's test accuracy at {left:.3g}%"
    return compared("reinitialising", f"{what} with rewinding", tickets, reinitialised, classes_in(folder))


STUDY = Study(
    "structured_pruning",
    "Are there winning tickets of whole neurons and filters?",
    {
        "structured_pruning": structured_lenet,
        "structured_conv2": structured_conv2,
    },
    findings,
    answer,
)
