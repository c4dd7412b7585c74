"""Study of whether tickets of different seeds agree. Figures and sentences."""

from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lthcore.analysis.cache import cached_table, has_derived
from lthcore.analysis.statistics import mean_of_pairs
from lthcore.arms import arm_of
from lthcore.errors import counted
from lthcore.report.finished_runs import run_with
from lthcore.report.layout import caption_of, captioned, new_figure, sparsity_axis
from lthcore.report.plots import from_dark_to_light, plot_intervals
from lthcore.report.study import Study
from lthcore.runs.files import read_table

ALIKE = {
    "jaccard": ("not aligned", "#1f5fa8", "-"),
    "chance": ("random masks", "#1f5fa8", ":"),
    "aligned": ("aligned", "#d1642a", "-"),
    "aligned_chance": ("random masks, aligned", "#d1642a", ":"),
}
BY_LAYER = (  # column, title, label of the y-axis, value expected by chance
    ("cka", "Linear CKA of activations", "CKA", None),
    ("cca", "Mean CCA of activations", "CCA", None),
    ("cosine", "Cosine of incoming weights", "cosine", 0),
    ("cosine_columns", "Cosine of outgoing weights", "cosine", 0),
    ("signs", "Shared weights of equal sign", "share", 0.5),
)
ARMS_ALIKE = {"oneshot": "one-shot ticket", "random": "random mask", "transferred": "mask from the other data set"}


def similarity(folder: Path, caption: str = "") -> Figure:
    """Draw the similarity of tickets of two seeds by layer: of masks (against chance), activations and weights.

    A panel compares tickets with the masks of other arms, if the run has the table arms_alike.csv.
    """
    seeds = read_table(folder, "seeds.csv")
    names = list(dict.fromkeys(seeds["layer"]))
    across = max(3, len(names))
    figure, panels = new_figure(3, across, (3.2 * across, 8.0))
    pruned = seeds[seeds["round"] > 0]
    for axes, name in zip(panels, names, strict=False):
        for column, (label, colour, style) in ALIKE.items():
            part = pruned[pruned["layer"] == name]
            plot_intervals(part, "percent_left", column, axes, label, colour, style)
        axes.set(title=f"{name}: masks of two seeds", ylabel="Jaccard index", ylim=(0, 0.75))
    panels[0].legend()
    _draw_layers(seeds, names, [*panels[across : across + 2], *panels[2 * across :]])
    panels[across].legend()
    if has_derived(folder, "arms_alike"):
        other, table = panels[across + 2], read_table(folder, "arms_alike.csv")
        for arm, label in ARMS_ALIKE.items():
            part = table[(table["arm"] == arm) & (table["layer"] == names[0])]
            if len(part):
                plot_intervals(part, "percent_left", "jaccard", other, label, arm_of(arm).colour)
        other.set(title=f"{names[0]}: ticket and other masks", ylabel="Jaccard index")
        other.legend()
    for axes in panels:
        if axes.lines:
            sparsity_axis(axes)
        else:
            axes.set_axis_off()
    return captioned(figure, caption)


def _draw_layers(seeds: pd.DataFrame, names: list[str], panels: list[Axes]) -> None:
    """Draw each of the measures BY_LAYER in a panel, with a line for each layer."""
    colours = from_dark_to_light(names)
    for axes, (column, title, what, chance) in zip(panels, BY_LAYER, strict=False):
        for name in names:
            part = seeds[seeds["layer"] == name]
            plot_intervals(part, "percent_left", column, axes, name, colours[name])
        axes.set(title=title, ylabel=what)
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, -1.02 if what == "cosine" else -0.02), min(high, 1.02))  # where there can be values
        if chance is not None:
            axes.axhline(chance, color="#888888", linewidth=1, linestyle=":")


def similarity_lenet(root: Path) -> Figure | None:
    """Similarity of LeNet's tickets on MNIST between five seeds, layer by layer."""
    folder = run_with(root, "ticket_similarity", "seeds", "arms_alike")
    what = "LeNet-300-100 on MNIST, means over pairs of seeds, bands: 95% intervals over seeds"
    return similarity(folder, caption_of(what, folder)) if folder else None


def overlap_sentences(seeds: pd.DataFrame, k: int) -> list[str]:
    """Describe the table of `between_seeds` at round k: means over pairs of trials, layer by layer."""
    lines = []
    for layer, part in seeds[seeds["round"] == k].groupby("layer", sort=False):
        shared, aligned, alike = (mean_of_pairs(part[of], part["a"], part["b"]) for of in ("jaccard", "aligned", "cka"))
        pairs = f"{counted(len(part), 'pair')} of n = {shared.n} seeds"
        lines.append(
            f"{layer}: the masks of two seeds have a Jaccard index of {shared.text('{:.3f}')}, compared with "
            f"{part['chance'].mean():.3f} by chance. With aligned units it is {aligned.text('{:.3f}')}, compared with "
            f"{part['aligned_chance'].mean():.3f} for aligned random masks. The CKA of their activations is "
            f"{alike.text()}. The numbers are means over {pairs}."
        )
    return lines


def findings(root: Path, k: int = 6) -> list[str]:
    """Return sentences on whether five tickets of LeNet on MNIST agree in round k (by default with 5% remaining)."""
    folder = run_with(root, "ticket_similarity", "seeds")
    return overlap_sentences(cached_table(folder, "seeds"), k) if folder else []


def answer(root: Path, k: int = 6) -> str:
    """Return how much of LeNet's first layer two seeds share with aligned units, in round k, and by chance."""
    folder = run_with(root, "ticket_similarity", "seeds")
    if folder is None:
        return ""
    seeds = cached_table(folder, "seeds")
    part = seeds[(seeds["round"] == k) & (seeds["layer"] == seeds["layer"].iloc[0])]
    if part.empty:
        return ""
    aligned = mean_of_pairs(part["aligned"], part["a"], part["b"])
    return (
        f"At {part['percent_left'].mean():.3g}%, the first layers of two LeNets, with aligned units, have a Jaccard "
        f"index of {aligned.text('{:.3f}')}, random masks of {part['aligned_chance'].mean():.3f} (n = {aligned.n})."
    )


STUDY = Study(
    "ticket_similarity",
    "Do different seeds find the same ticket?",
    {"ticket_similarity": similarity_lenet},
    findings,
    answer,
)
