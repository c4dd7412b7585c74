"""Study of rewinding points, and of when two copies of a network end in one valley. Figures and sentences."""

from collections.abc import Iterable
from itertools import cycle
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lthcore.analysis.cache import cached_table, has_derived
from lthcore.analysis.statistics import mean_of
from lthcore.arms import arm_of
from lthcore.report.finished_runs import classes_in, profile_of, runs_beside
from lthcore.report.layout import caption_of, captioned, cut_below, in_percent, in_thousands, new_figure, sparsity_axis
from lthcore.report.plots import from_dark_to_light, plot_intervals, plot_rounds
from lthcore.report.run_tables import read_whole_trials
from lthcore.report.sentences import compared, gap
from lthcore.report.study import Study
from lthcore.report.tables import with_dense
from lthcore.runs.files import read_record, read_table

STUDIED = "rewinding_and_connectivity"
DRAWN = "bars: range of trials, bands: 95% intervals"
NETWORKS = {"lenet_mnist": "LeNet-300-100 on MNIST, SGD with momentum", "resnet20_cifar10": "ResNet-20 on CIFAR-10"}
WAYS = {"continued": "learning-rate rewinding", "fine_tuned": "fine-tuning", "reinit": "reinitialisation"}
COLLAPSED = 0.05  # a training run has collapsed if its test accuracy is lower than its counterpart's by more


def points_of(root: Path, network: str) -> dict[int, Path]:
    """Return the runs of a network by the iteration that they rewind to, at the profile of the run that rewinds to 0.

    `network` is a key of NETWORKS.
    """
    runs = runs_beside(root, STUDIED, f"{network}-0").items()
    folders = [folder for name, folder in runs if name.startswith(f"{network}-")]
    return dict(sorted((read_record(folder)["settings"]["rewind_to"], folder) for folder in folders))


def rewinding(folders: dict[int, Path], caption: str = "") -> Figure:
    """Draw runs by rewinding point k (k -> folder): test accuracies, and the error barrier between two copies.

    Panels: weights rewound to k; training continued from the trained weights with the learning-rate schedule from k on;
    all ways to continue for k = 0; the barrier between two copies of a network that part at k.
    """
    points = sorted(folders)
    figure, panels = new_figure(2, 2)
    colours = from_dark_to_light(points)
    markers = dict(zip(points, cycle("os^Dv"), strict=False))  # for readers who cannot tell the colours apart
    barriers, fallen = [], []
    for point in points:
        rounds, _ = read_whole_trials(folders[point])
        tickets = rounds[rounds["arm"] == "ticket"]
        drawn = {"label": f"k = {point:,}", "colour": colours[point], "marker": markers[point]}
        plot_rounds(tickets, "final_test_accuracy", panels[0], **drawn)
        by_arm = dict(iter(with_dense(rounds).groupby("arm")))
        if "continued" in by_arm:
            plot_rounds(by_arm["continued"], "final_test_accuracy", panels[1], **drawn)
            fallen += _collapsed(rounds, point)
        if point == 0:
            _draw_ways(by_arm, tickets, panels[2])
        if has_derived(folders[point], "stability"):
            barriers.append(read_table(folders[point], "stability.csv"))
    if fallen:
        least = read_whole_trials(folders[points[0]])[0].query("arm == 'ticket'")
        cut_below(panels[1], least["final_test_accuracy"])
        caption += f"; collapsed with the learning rate rewound: {', '.join(fallen)}"
    titles = ("Weights rewound to iteration k", "Learning rate rewound to iteration k", "Ways to continue, k = 0")
    for axes, title in zip(panels, titles, strict=False):
        axes.set(title=title, ylabel="test accuracy at the end")
        sparsity_axis(axes)
        if axes.has_data():
            axes.legend()
        else:  # its arms may be trained with rewinding to 0 only
            axes.set_visible(False)
    if barriers:
        _draw_barriers(pd.concat(barriers), points, panels[3])
    else:
        panels[3].set_visible(False)
    return captioned(figure, caption)


def _draw_ways(by_arm: dict[str, pd.DataFrame], tickets: pd.DataFrame, axes: Axes) -> None:
    """Draw tickets rewound to the initial weights, and other ways to continue (arm -> rounds)."""
    plot_rounds(tickets, "final_test_accuracy", axes, "rewound: ticket", arm_of("ticket").colour)
    for arm, label in WAYS.items():
        if arm in by_arm:
            look = arm_of(arm)
            plot_rounds(by_arm[arm], "final_test_accuracy", axes, label, look.colour, look.style, look.marker)


def _draw_barriers(table: pd.DataFrame, points: list[int], axes: Axes) -> None:
    """Draw the error barrier between two copies against the iteration at which they part, by weights remaining."""
    lefts = sorted(table["percent_left"].unique(), reverse=True)
    shades = sns.color_palette("mako", len(lefts) + 1)
    for left, colour in zip(lefts, shades, strict=False):
        part = table[table["percent_left"] == left]
        plot_intervals(part, "rewind_to", "error_barrier", axes, f"{left:.3g}% remaining", colour)
    axes.set(title="Error barrier between two copies", xlabel="iteration k at which they part", ylabel="error barrier")
    axes.set_xscale("symlog", linthresh=max(1, min(filter(None, points), default=1)))
    # labels of points that are close to the next would touch its label
    axes.set_xticks([k for k, later in zip(points, [*points[1:], np.inf], strict=True) if later > 3 * k])
    in_thousands(axes.xaxis)
    axes.minorticks_off()
    in_percent(axes.yaxis)
    axes.legend()


def _collapsed(rounds: pd.DataFrame, point: int) -> list[str]:
    """Say for each round how many trials collapsed that went on from trained weights, unlike the rewound ones."""
    by_arm = {arm: part.set_index(["round", "trial"])["final_test_accuracy"] for arm, part in rounds.groupby("arm")}
    lost = (by_arm["continued"] - by_arm["ticket"]).dropna() < -COLLAPSED
    left = rounds.groupby("round")["percent_left"].mean()
    return [
        f"{part.sum()} of {len(part)} trials at {left[k]:.3g}% (k = {point:,})"
        for k, part in lost.groupby(level="round")
        if part.any()
    ]


def rewinding_lenet(root: Path) -> Figure | None:
    """LeNet on MNIST, trained by SGD with momentum: accuracy by rewinding point, and error barrier of two copies."""
    return _rewinding_of(root, "lenet_mnist")


def rewinding_resnet20(root: Path) -> Figure | None:
    """ResNet-20 on CIFAR-10, rewound to the start and to a later epoch: test accuracy against weights remaining."""
    return _rewinding_of(root, "resnet20_cifar10")


def _rewinding_of(root: Path, network: str) -> Figure | None:
    folders = points_of(root, network)
    return rewinding(folders, caption_of(f"{NETWORKS[network]}, {DRAWN}", *folders.values())) if 0 in folders else None


def rewinding_changes(folders: dict[int, Path], bare: bool = True) -> pd.DataFrame:
    """Return how other ways to continue change the test accuracy at the end of training, in points, as text.

    A row for each way and a column for each percentage of weights remaining. Other rewinding points and other ways are
    compared with rewinding to 0, and learning-rate rewinding to k with rewinding of weights to k. The number of trials
    that collapse is added. Unless `bare`, each text has the unit and the number of trials.
    """
    if 0 not in folders:
        return pd.DataFrame()
    tables = {k: read_whole_trials(folder)[0] for k, folder in sorted(folders.items())}
    by = {k: table.set_index(["round", "trial"]).groupby("arm")["final_test_accuracy"] for k, table in tables.items()}
    arms = {(k, arm): values for k, of in by.items() for arm, values in of}
    classes, rewound, later = classes_in(folders[0]), arms[0, "ticket"], [k for k in tables if k]
    compared = {f"rewinding the weights to iteration {k} instead of 0": (arms[k, "ticket"], rewound) for k in later}
    compared |= {
        f"{name} instead of rewinding the weights to iteration 0": (arms[0, arm], rewound)
        for arm, name in WAYS.items()
        if (0, arm) in arms
    }
    compared |= {
        f"rewinding only the learning rate instead of both to iteration {k}": (arms[k, "continued"], arms[k, "ticket"])
        for k in later
        if (k, "continued") in arms
    }
    left = tables[0][tables[0]["round"] > 0].groupby("round")["percent_left"].mean()
    cells = {
        f"{left[k]:.3g}%": {
            what: _change(a.loc[k], b.loc[k], classes, bare) if k in a.index and k in b.index else ""  # on its way
            for what, (a, b) in compared.items()
        }
        for k in left.index
    }
    return pd.DataFrame(cells).rename_axis(columns="weights remaining")


def _change(values: pd.Series, base: pd.Series, classes: float, bare: bool) -> str:
    """Describe how accuracies (index: trial) differ from others, and the number of collapsed trials."""
    collapsed = int((values.groupby(level=0).mean() - base.groupby(level=0).mean() < -COLLAPSED).sum())
    fallen = f"in {collapsed} of the trials it falls by more than {100 * COLLAPSED:.0f} points" if collapsed else ""
    return "; ".join(filter(None, (gap(values, base, classes, bare), fallen)))


def rewinding_findings(folders: dict[int, Path]) -> list[str]:
    """Return the last column of `rewinding_changes`, that of the smallest tickets, as sentences."""
    changes = rewinding_changes(folders, bare=False)
    return [
        f"At {left} of weights remaining, {what} changes the test accuracy at the end of training by {change}."
        for left in changes.columns[-1:]
        for what, change in changes[left].items()
        if change  # else one of the two has not come so far
    ]


def barrier_sentences(table: pd.DataFrame) -> list[str]:
    """Describe the error barrier at each rewinding point and percentage of weights left."""
    return [
        f"At {left:.3g}% of weights remaining, the error barrier between two copies that part at iteration {k} is "
        f"{mean_of(100 * part['error_barrier']).in_points('{:.2f}')}."
        for (left, k), part in table.groupby(["percent_left", "rewind_to"], sort=False)
    ]


def barriers(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Return the mean error barrier in points, with its interval, as text.

    There is a row for each rewinding point and a column for each percentage of weights remaining.
    """
    table = pd.concat(tables)
    means = table.groupby(["percent_left", "rewind_to"])["error_barrier"].agg(lambda part: mean_of(100 * part).text())
    wide = means.unstack("percent_left").sort_index(axis="columns", ascending=False)
    return wide.rename(columns="{:.3g}%".format).rename_axis(index="copies part at", columns="weights remaining")


def findings(root: Path) -> list[str]:
    """Return sentences on each network: rewinding in the last round, and whether two copies end in one valley."""
    lines = []
    for network in NETWORKS:
        folders = points_of(root, network)
        if 0 not in folders:
            continue
        found = rewinding_findings(folders)
        if has_derived(folders[0], "stability"):
            found += barrier_sentences(cached_table(folders[0], "stability"))
        lines += [f"{_named(folders[0])}: {line}" for line in found]
    return lines


def answer(root: Path) -> str:
    """Return how LeNet's smallest networks differ if they are rewound to the latest iteration, or fine-tuned."""
    folders = points_of(root, "lenet_mnist")
    if 0 not in folders:
        return ""
    latest, by = max(folders), {}
    tables = {k: read_whole_trials(folders[k])[0] for k in (0, latest)}
    both = min(rounds["round"].max() for rounds in tables.values())  # the last round that both runs have
    for k, rounds in tables.items():
        last = rounds[rounds["round"] == both].set_index("trial")
        by |= {(k, arm): values for arm, values in last.groupby("arm")["final_test_accuracy"]}
    ways = {f"rewinding to iteration {latest:,}": (latest, "ticket"), "fine-tuning": (0, "fine_tuned")}
    others = {name: by[way] for name, way in ways.items() if way in by and way != (0, "ticket")}
    what = f"LeNet's final test accuracy at {last['percent_left'].mean():.3g}%"
    return compared("rewinding to iteration 0", what, others, by[0, "ticket"], classes_in(folders[0]))


def _named(folder: Path) -> str:
    settings, profile = read_record(folder)["settings"], profile_of(folder)
    return f"{settings['architecture']} (profile `{profile}`, {settings['iterations']:,} iterations)"


STUDY = Study(
    STUDIED,
    "To which iteration should weights be rewound, and when is training stable?",
    {
        "rewinding_and_connectivity": rewinding_lenet,
        "rewinding_resnet20": rewinding_resnet20,
    },
    findings,
    answer,
)
