"""Study of pruning before training, and its sanity checks (arXiv 2009.08576). Figures and sentences."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from lthcore.analysis import early_bird
from lthcore.analysis.cache import cached_table
from lthcore.analysis.statistics import difference, mean_accuracy, mean_of
from lthcore.arms import arm_of
from lthcore.report.finished_runs import classes_in, profile_of, run_with, runs_of
from lthcore.report.layout import caption_of, captioned, in_percent, in_thousands, legend_above, new_figure
from lthcore.report.plots import from_dark_to_light, plot_arms, plot_intervals, plot_means
from lthcore.report.run_tables import read_whole_trials
from lthcore.report.sentences import compared, gap, gaps, level
from lthcore.report.study import Study
from lthcore.report.tables import middle_and_last, name_of
from lthcore.runs.files import read_table

AT_INIT = ("ticket", "oneshot", "by_snip", "by_grasp", "by_synflow", "by_magnitude_at_init", "by_random")

EARLY_BIRD = ("early_bird", "early_bird_tickets")  # derived tables


SANITY = {  # suffix of an arm by a criterion -> label
    "": "unchanged",
    "-shuffled": "mask shuffled within layers",
    "-fresh": "weights reinitialised",
    "-inverted": "worst weights kept (not SynFlow)",
}


def pruning_at_init(folder: Path, caption: str = "", during: dict[str, list[Path]] | None = None) -> Figure:
    """Draw a run of masks found before training, in comparison with tickets, and the sanity checks of each method.

    `during` (label -> folders) adds runs of networks that are pruned during training.
    """
    rounds, _ = read_whole_trials(folder)
    lowest, highest, below = _limits(rounds[rounds["round"] > 0])
    # the range of trials whose mean is below the panel would be a bar without a line
    means = rounds.groupby(["arm", "round"])["final_test_accuracy"].transform("mean")
    rounds = rounds.assign(final_test_accuracy=rounds["final_test_accuracy"].where(means >= lowest, means))
    figure, panels = new_figure(2, 2, (9.0, 7.5))
    shown = {arm: arm_of(arm).label for arm in AT_INIT}
    when = "before, during or after" if during else "before or after"
    plot_arms(rounds, shown, "final_test_accuracy", panels[0], f"Masks found {when} training")
    for (label, folders), colour in zip((during or {}).items(), ("#222222", "#d4743c", "#2a9d8f"), strict=False):
        table = pd.concat([read_whole_trials(other)[0] for other in folders])
        plot_means(table["final_test_accuracy"], table["percent_left"], panels[0], label, colour, "--")
    for axes, name in zip(panels[1:], ("snip", "grasp", "synflow"), strict=True):
        arms = {f"by_{name}{suffix}": text for suffix, text in SANITY.items()}
        plot_arms(rounds, arms, "final_test_accuracy", axes, f"{arm_of(f'by_{name}').label}: sanity checks")
    for axes in panels:
        axes.set_ylim(lowest, highest)
    legend_above(figure, *panels[0].get_legend_handles_labels())
    looks = [arm_of(f"by_snip{suffix}") for suffix in SANITY]
    ways = [Line2D([], [], color="#444444", linestyle=look.style, marker=look.marker) for look in looks]
    panels[3].legend(ways, SANITY.values(), loc="lower left", title="in the panels of sanity checks")
    return captioned(figure, "; ".join(filter(None, (caption, below))))


def _limits(table: pd.DataFrame) -> tuple[float, float, str]:
    """Return the ends of an axis of accuracies that shows most of the lines, and a note on the means below it."""
    left = table.groupby("round")["percent_left"].mean()
    means = table.groupby(["arm", "round"])["final_test_accuracy"].mean()
    lowest = max(0.0, means.quantile(0.1) - 0.6 * (means.max() - means.quantile(0.1)))
    highest = means.max() + 0.1 * (means.max() - lowest)
    fallen = [
        f"{arm_of(arm).label.replace(',', ' with')} {mean:.0%} ({left[k]:.1f}% remaining)"
        for (arm, k), mean in means.items()
        if mean < lowest
    ]
    return lowest, highest, f"below the panels: {', '.join(fallen)}" if fallen else ""


def pruning_at_init_lenet(root: Path) -> Figure | None:
    """Test accuracy of LeNet on MNIST with masks found before, during or after training, and sanity checks."""
    folder = runs_of(root, "pruning_at_init").get("lenet_mnist")
    if folder is None:
        return None
    during: dict[str, list[Path]] = {}
    for name, other in runs_of(root, "dynamic_pruning", (profile_of(folder),)).items():
        kind = name.rpartition("-")[0]
        if kind in DURING:
            during.setdefault(DURING[kind], []).append(other)
    return pruning_at_init(folder, caption_of("LeNet-300-100 on MNIST, bars: range of trials", folder), during)


def early_birds(folder: Path, caption: str = "") -> Figure:
    """Draw how early in the dense training run a mask stops changing, and the accuracy reached by pruning there."""
    masks, found = (read_table(folder, f"{name}.csv") for name in EARLY_BIRD)
    rounds, _ = read_whole_trials(folder)
    figure, (still, alike, accuracy) = new_figure(1, 3)
    lefts = sorted(masks["percent_left"].unique(), reverse=True)
    for left, colour in from_dark_to_light(lefts).items():
        part, label = masks[masks["percent_left"] == left], f"{left:.3g}% remaining"
        farthest = 2 * left / 100  # share of all weights in which two masks of this size differ at most
        part = part.assign(farthest=part["farthest"] / farthest)
        plot_intervals(part, "iteration", "farthest", still, label, colour)
        plot_intervals(part, "iteration", "overlap", alike, label, colour)
        if farthest > early_bird.CLOSE:
            still.axhline(early_bird.CLOSE / farthest, color=colour, linewidth=1, linestyle=":")
            still.text(
                0.98, early_bird.CLOSE / farthest, f"{left:.3g}%: stable below", transform=still.get_yaxis_transform(),
                ha="right", va="bottom", fontsize=8, color=colour,
            )  # fmt: skip
    still.set(title="Distance to 5 previous masks", ylabel="distance / largest possible")
    alike.set(title="Overlap with the final mask", ylabel="Jaccard index")
    still.set_xlim(alike.get_xlim())
    for axes in (still, alike):
        axes.set_xlabel("training iterations")
        axes.xaxis.set_major_locator(MaxNLocator(4))
        in_thousands(axes.xaxis)
    in_percent(still.yaxis)
    arms = {arm: arm_of(arm).label for arm in ("ticket", "oneshot", "by_snip")}
    plot_arms(rounds, arms, "final_test_accuracy", accuracy, "Pruned when first stable")
    plot_means(found["final_test_accuracy"], found["percent_left"], accuracy, "early-bird ticket", "#222222", "--")
    accuracy.set_ylabel("test accuracy at the end")
    alike.legend()
    accuracy.legend(loc="lower left")
    return captioned(figure, caption)


def early_birds_lenet(root: Path) -> Figure | None:
    """LeNet on MNIST: changes of the mask during training of the dense network, and accuracy of early-bird tickets."""
    folder = run_with(root, "pruning_at_init", *EARLY_BIRD)
    if folder is None:
        return None
    fewest = read_table(folder, EARLY_BIRD[0] + ".csv")["percent_left"].min()
    near = "at the fewest weights, any two masks are so near that they count as stable; "
    what = f"LeNet-300-100 on MNIST; {near if 2 * fewest < early_bird.BOUND else ''}"
    return early_birds(folder, caption_of(f"{what}bands: 95% intervals, bars: range of trials", folder))


def early_bird_sentences(masks: pd.DataFrame, found: pd.DataFrame, oneshot: pd.DataFrame) -> list[str]:
    """Describe when masks are first stable, and compare those tickets with one-shot tickets of the same trials.

    `masks` is the table of `early_bird`, `found` the table of `early_bird_tickets`, and `oneshot` holds the rows of the
    arm `oneshot` in rounds.csv.
    """
    lines, last = [], masks["iteration"].max()
    for (k, left), part in found.groupby(["round", "percent_left"]):
        early, late = (
            t[t["round"] == k].set_index("trial")["final_test_accuracy"].rename_axis(None) for t in (part, oneshot)
        )
        both = early.index.intersection(late.index)
        if both.empty:
            continue  # no one-shot tickets to compare with
        gain = difference(early[both], late[both], paired=True).times(100)
        overlap = masks.merge(part[["trial", "round", "iteration"]])["overlap"]
        earliest = masks.loc[masks["farthest"].notna(), "iteration"].min()
        at = ", the first evaluation at which it can be stable" if (part["iteration"] == earliest).all() else ""
        trials = masks["trial"].nunique()
        some = f"in {len(part)} of {trials} trials, " if len(part) < trials else ""
        stable, alike = mean_of(part["iteration"]), mean_accuracy(overlap)
        stable = replace(stable, low=max(stable.low, 0.0))
        bound = f" (any two masks of this size differ in at most {2 * left:.2g}% of all weights)"
        near = bound if 2 * left < early_bird.BOUND else ""
        lines.append(
            f"At {left:.3g}% of weights remaining, {some}the mask is first stable after "
            f"{stable.text('{:,.0f}', note=False)} of {last:,} iterations{at}{near}. Its Jaccard index "
            f"with the final mask is then {alike.text(note=False)}. Compared with the one-shot ticket, pruning there "
            f"and training on changes the final test accuracy by {gain.in_points()}."
        )
    return lines


def early_bird_findings(root: Path) -> list[str]:
    """Return sentences on when masks of LeNet become stable, and on the accuracy of early-bird tickets."""
    folder = run_with(root, "pruning_at_init", *EARLY_BIRD)
    if folder is None:
        return []
    rounds, _ = read_whole_trials(folder)
    return early_bird_sentences(*(cached_table(folder, n) for n in EARLY_BIRD), rounds[rounds["arm"] == "oneshot"])


def findings(root: Path) -> list[str]:
    """Return sentences that compare masks of LeNet found before or during training with one-shot tickets of equal size.

    Sentences on sanity checks and on early-bird tickets follow.
    """
    lines, checks = [], []
    for left, classes, by in _by_size(root):
        base, others = by["oneshot"], _beside_oneshot(by)
        lines.append(
            f"At {left:.3g}% of weights remaining, one-shot tickets reach a test accuracy of {level(base, classes)} "
            f"at the end of training. Other sparse networks differ from this by: {gaps(others, base, classes)}."
        )
        for arm in CHECKED:
            others = _checks_of(arm, by)
            if others:
                checks.append(
                    f"At {left:.3g}% of weights remaining, the sanity checks change {name_of(arm)}'s test accuracy at "
                    f"the end of training by: {gaps(others, by[arm], classes)}."
                )
    return lines + checks + [f"Early-bird tickets: {line}" for line in early_bird_findings(root)]


def oneshot_table(root: Path) -> pd.DataFrame:
    """Return how sparse networks of LeNet (rows) differ from one-shot tickets of their size (columns).

    These are differences of the test accuracy at the end, in points, with 95% intervals. The first row is that of
    one-shot tickets themselves, in percent.
    """
    columns = {
        f"{left:.3g}%": {"one-shot ticket (%)": level(by["oneshot"], classes, interval=True)}
        | {name: gap(values, by["oneshot"], classes, bare=True) for name, values in _beside_oneshot(by).items()}
        for left, classes, by in _by_size(root)
    }
    return pd.DataFrame(columns).fillna("").rename_axis("network").rename_axis(columns="weights remaining")


def checks_table(root: Path) -> pd.DataFrame:
    """Return how sanity checks (rows) change the test accuracy at the end, in points, with 95% intervals, by size."""
    columns = {
        f"{left:.3g}%": {
            (name_of(arm), how): gap(values, by[arm], classes, bare=True)
            for arm in CHECKED
            for how, values in _checks_of(arm, by).items()
        }
        for left, classes, by in _by_size(root)
    }
    found = pd.DataFrame(columns).fillna("").rename_axis(columns="weights remaining")
    return found.set_axis(pd.MultiIndex.from_tuples(list(found.index), names=["mask", "changed"]))


def _by_size(root: Path) -> Iterator[tuple[float, float, dict[str, pd.Series]]]:
    """Yield percentage of weights remaining, number of classes, and arm or label -> test accuracy at the end by trial.

    There is one for each of two sizes, with the networks of DURING if they were trained.
    """
    folder = runs_of(root, "pruning_at_init").get("lenet_mnist")
    if folder is None:
        return
    during = runs_of(root, "dynamic_pruning", (profile_of(folder),))
    for _, left, by in middle_and_last(read_whole_trials(folder)[0]):
        for kind, label in DURING.items():
            other = during.get(f"{kind}-{100 - left:.4g}")
            if other is not None:
                by[label] = read_whole_trials(other)[0].set_index("trial")["final_test_accuracy"]
        yield left, classes_in(folder), by


def _beside_oneshot(by: dict[str, pd.Series]) -> dict[str, pd.Series]:
    found = {name_of(arm): by[arm] for arm in FOUND_BEFORE if arm in by}
    return found | {label: by[label] for label in DURING.values() if label in by}


def _checks_of(arm: str, by: dict[str, pd.Series]) -> dict[str, pd.Series]:
    return {how: by[f"{arm}-{key}"] for key, how in CHECKS.items() if f"{arm}-{key}" in by}


# dynamic pruning: name of the run without its sparsity -> label, for networks pruned or rewired during training
DURING = {
    "lenet_mnist_rigl": "RigL (uniform)",
    "lenet_mnist_rigl-erk": "RigL (ERK)",
    "lenet_mnist_rigl-gradual": "gradual magnitude",
}
CHECKED = ("by_snip", "by_grasp", "by_synflow")
FOUND_BEFORE = ("ticket", "by_snip", "by_grasp", "by_synflow", "by_magnitude_at_init", "by_random")


CHECKS = {
    "shuffled": "mask shuffled within layers",
    "fresh": "weights reinitialised",
    "inverted": "worst weights kept",
}


def answer(root: Path) -> str:
    """Return how LeNet's final accuracy under masks found before training differs from that of one-shot tickets."""
    folder = runs_of(root, "pruning_at_init").get("lenet_mnist")
    rounds = list(middle_and_last(read_whole_trials(folder)[0])) if folder else []
    if not rounds:
        return ""
    _, left, by = rounds[0]
    found = {name_of(arm): by[arm] for arm in ("by_snip", "by_grasp", "by_synflow") if arm in by}
    what = f"LeNet's final test accuracy at {left:.3g}%"
    return compared("the one-shot ticket", what, found, by["oneshot"], classes_in(folder))


STUDY = Study(
    "pruning_at_init",
    "Can tickets be found before any training?",
    {"pruning_at_init": pruning_at_init_lenet, "early_bird": early_birds_lenet},
    findings,
    answer,
)
