"""Study of mask transfer: masks found on another data set. Figures and sentences."""

from pathlib import Path

from matplotlib.figure import Figure

from lthcore.arms import arm_of
from lthcore.report.finished_runs import classes_in, runs_of
from lthcore.report.layout import caption_of, captioned, in_percent, new_figure, one_legend, sparsity_axis
from lthcore.report.plots import plot_means
from lthcore.report.run_tables import read_whole_trials
from lthcore.report.sentences import compared, gap
from lthcore.report.study import Study
from lthcore.report.tables import before_training
from lthcore.runs.files import read_record

TRANSFER = ("ticket", "transferred", "transferred-shuffled")


def transfer(folders: dict[str, Path], caption: str = "") -> Figure:
    """Draw a row for each run (title -> folder): accuracy with transferred and native masks, untrained and trained."""
    figure, panels = new_figure(len(folders), 2, (9.5, 3.0 * len(folders)))
    for i, (title, folder) in enumerate(folders.items()):
        rounds, curves = read_whole_trials(folder)
        for axes, table, column, when in (
            (panels[2 * i], before_training(curves), "test_accuracy", "untrained"),
            (panels[2 * i + 1], rounds, "es_test_accuracy", "trained"),
        ):
            left = table["round"].map(rounds[rounds["arm"] == "ticket"].groupby("round")["percent_left"].mean())
            for arm in TRANSFER:
                part = table[(table["arm"] == arm) & (table["round"] > 0)]
                look = arm_of(arm)
                plot_means(part[column], left[part.index], axes, look.label, look.colour, look.style, look.marker)
            sparsity_axis(axes)
            in_percent(axes.yaxis)
            axes.set(title=f"{title}, {when}", ylabel="test accuracy")
    one_legend(figure)
    return captioned(figure, caption)


def transfer_lenet(root: Path) -> Figure | None:
    """Masks of LeNet transferred between MNIST and other data sets: test accuracy, untrained and trained."""
    runs = runs_of(root, "mask_transfer")
    if not any(name.startswith("lenet") for name in runs):
        return None
    folders = {_directions(folder): folder for name, folder in runs.items() if name.startswith("lenet")}
    return transfer(folders, caption_of("LeNet-300-100, bars: range of trials", *folders.values()))


def _directions(folder: Path) -> str:
    settings = read_record(folder)["settings"]
    names = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST", "mnist_permuted": "permuted MNIST"}
    source, target = (names.get(settings[key], settings[key]) for key in ("masks_from", "dataset"))
    return f"Mask of {source} on {target}"


def transfer_findings(folder: Path) -> list[str]:
    """Return sentences that compare transferred masks of a run with its own tickets and with the same masks shuffled.

    There is a sentence for the first round, one in the middle, and the last; none if one of the arms was not run.
    """
    classes, (rounds, curves) = classes_in(folder), read_whole_trials(folder)
    if not set(TRANSFER) <= set(rounds["arm"]):
        return []
    pruned, lines = rounds[rounds["round"] > 0], []
    start = curves[curves["iteration"] == 0].set_index(["arm", "round", "trial"])["test_accuracy"]
    by = pruned.set_index(["arm", "round", "trial"])["es_test_accuracy"]
    left = pruned.groupby("round")["percent_left"].mean()
    for k in sorted({1, max(1, left.index.max() // 2), left.index.max()}):
        native, moved, shuffled = (by[arm][k] for arm in ("ticket", "transferred", "transferred-shuffled"))
        known = [100 * start[arm][k].mean() for arm in ("ticket", "transferred", "transferred-shuffled")]
        lines.append(
            f"At {left[k]:.3g}% of weights remaining, using the transferred mask instead of the native one changes the "
            f"test accuracy at the early stop by {gap(moved, native, classes)}. Using it instead of its shuffled copy "
            f"changes it by {gap(moved, shuffled, classes)}. Without training, the test accuracy is {known[0]:.1f}% "
            f"with the native mask, {known[1]:.1f}% with the transferred mask and {known[2]:.1f}% with the shuffled "
            "mask."
        )
    return lines


def findings(root: Path) -> list[str]:
    """Return for each run of LeNet the sentence on a round in the middle."""
    runs = {name: folder for name, folder in runs_of(root, "mask_transfer").items() if name.startswith("lenet")}
    return [
        f"{name.removeprefix('lenet_')}: {line}"
        for name, folder in runs.items()
        for line in transfer_findings(folder)[1:2]
    ]


def answer(root: Path) -> str:
    """Return how LeNet's accuracy under each transferred mask differs from that under its own mask, near 13%."""
    native, moved, lefts, classes = {}, {}, [], 0.0
    for name, folder in runs_of(root, "mask_transfer").items():
        if name.startswith("lenet"):
            rounds = read_whole_trials(folder)[0]
            if not set(TRANSFER) <= set(rounds["arm"]):
                continue
            at = rounds[rounds["round"] == max(1, rounds["round"].max() // 2)].set_index("trial")
            left = at["percent_left"].mean()
            if lefts and abs(left - lefts[0]) > 1:
                continue  # of another size
            by, label = (
                dict(iter(at.groupby("arm")["es_test_accuracy"])),
                _directions(folder).replace("Mask", "mask", 1),
            )
            native[label], moved[label], classes = by["ticket"], by["transferred"], classes_in(folder)
            lefts.append(left)
    if not moved:
        return ""
    return compared("the native mask", f"LeNet's test accuracy at {lefts[0]:.3g}%", moved, native, classes)


STUDY = Study(
    "mask_transfer",
    "Does a mask found on one data set work on another?",
    {"mask_transfer": transfer_lenet},
    findings,
    answer,
)
