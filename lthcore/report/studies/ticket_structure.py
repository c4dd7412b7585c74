"""Study of the structure of tickets. Figures and sentences."""

from itertools import cycle
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from lthcore.analysis.cache import cached_table
from lthcore.analysis.statistics import mean_of, ratio
from lthcore.arms import arm_of
from lthcore.report.finished_runs import run_with
from lthcore.report.layout import caption_of, captioned, in_percent, new_figure, sparsity_axis
from lthcore.report.plots import from_dark_to_light, plot_intervals
from lthcore.report.study import Study
from lthcore.runs.files import read_table

STRUCTURE = {  # title -> (column, or numerator and denominator)
    "Share of the layer kept": ("density", None),
    "Kept weights that started positive": ("positive_initial_kept", None),
    "Initial size, kept / pruned": ("magnitude_initial_kept", "magnitude_initial_pruned"),
    "Movement, kept / pruned": ("movement_kept", "movement_pruned"),
    "Units without any input": ("share_without_input", None),
}


def structure(folder: Path, caption: str = "") -> Figure:
    """Draw properties of each layer against weights remaining, and the number of paths through the network.

    The properties are density, signs, magnitudes, movement and units without input.
    """
    layers, paths = (read_table(folder, f"{name}.csv") for name in ("layers", "paths"))
    names = list(dict.fromkeys(layers["layer"]))
    colours = from_dark_to_light(names)
    figure, panels = new_figure(2, 3)
    for axes, (title, (top, bottom)) in zip(panels, STRUCTURE.items(), strict=False):
        for name, style in zip(names, cycle(("-", "--", "-."))):  # lines may lie on each other
            part = layers[layers["layer"] == name]
            plot_intervals(part, "percent_left", top, axes, name, colours[name], style, over=bottom or "")
        axes.set(title=title, ylabel="ratio" if bottom else "")
        if bottom:
            axes.axhline(1, color="#bbbbbb", linewidth=0.8)
        else:
            in_percent(axes.yaxis)
    panels[1].axhline(0.5, color="#bbbbbb", linewidth=0.8)
    panels[0].legend()
    if len(paths):
        plot_intervals(paths, "percent_left", "paths", panels[5], "ticket / random mask", "#1f5fa8", over="expected")
        panels[5].set(title="Paths from input to output", ylabel="ratio")
        panels[5].axhline(1, color="#bbbbbb", linewidth=0.8)
        panels[5].legend()
    panels[4].set_ylim(bottom=0)  # the band is symmetric, but no share is negative
    for axes in panels:
        sparsity_axis(axes)
    return captioned(figure, caption)


def degree_figure(folder: Path, k: int, caption: str = "") -> Figure:
    """Draw histograms of the connections that units keep in round k, in and out, compared with a random mask.

    There is a column for each layer.
    """
    table = read_table(folder, "degrees.csv")
    table = table[table["round"] == k]
    names = list(dict.fromkeys(table["layer"]))
    figure, panels = new_figure(2, len(names))
    for i, name in enumerate(names):
        sides = (("in", "connections into units", "units"), ("out", "connections out of inputs", "inputs"))
        for row, (side, what, counted) in enumerate(sides):
            part, axes = table[(table["layer"] == name) & (table["side"] == side)], panels[row * len(names) + i]
            width = max(1, round(len(part) / 40))
            groups = part.groupby(part["degree"] // width * width)[["units", "expected"]].sum()
            axes.bar(groups.index, groups["units"], width, align="edge", color="#1f5fa8", alpha=0.6, label="ticket")
            axes.plot(groups.index + width / 2, groups["expected"], color=arm_of("random").colour, label="random mask")
            of_trials = f"{counted}, mean of trials" if i == 0 else ""
            axes.set(title=f"{name}: {what}", xlabel="connections", ylabel=of_trials)
    panels[0].legend()
    left = table["percent_left"].iloc[0]
    return captioned(
        figure, f"{left:.3g}% of weights remaining; {caption}" if caption else f"{left:.3g}% of weights remaining"
    )


def pixel_figure(folder: Path, caption: str = "") -> Figure:
    """Draw how many first-layer units each pixel is connected to, relative to the average, at up to four rounds."""
    table = read_table(folder, "pixels.csv")
    left = read_table(folder, "layers.csv").groupby("round")["percent_left"].mean()
    last = table["round"].max()
    rounds = sorted({max(1, round(last * part)) for part in (0.25, 0.5, 0.75, 1)})
    relative = table["share"] / table.groupby("round")["share"].transform("mean")
    figure, panels = new_figure(1, len(rounds), (11.0, 2.9))
    for axes, k in zip(panels, rounds, strict=True):
        image = table.assign(share=relative)[table["round"] == k].pivot(index="row", columns="column", values="share")
        shown = axes.imshow(image, cmap="viridis", vmin=0, vmax=relative[table["round"].isin(rounds)].max())
        axes.set(title=f"{left[k]:.3g}% remaining", xticks=[], yticks=[])
        axes.grid(False)
    figure.colorbar(shown, ax=list(panels), shrink=0.8, label="connections / mean of all pixels")
    return captioned(figure, f"units of the first layer connected to each pixel; {caption}".rstrip("; "))


def structure_lenet(root: Path) -> Figure | None:
    """Structure of five tickets of LeNet on MNIST: properties of each layer, and paths from input to output."""
    folder = run_with(root, "ticket_structure", "layers", "paths")
    return structure(folder, caption_of("LeNet-300-100 on MNIST, bands: 95% intervals", folder)) if folder else None


def degrees_lenet(root: Path) -> Figure | None:
    """Connections per unit in LeNet's tickets on MNIST with few weights remaining, compared with random masks."""
    folder = run_with(root, "ticket_structure", "degrees", "layers")
    if folder is None:
        return None
    left = read_table(folder, "layers.csv").groupby("round")["percent_left"].mean()
    return degree_figure(folder, int((left - 5).abs().idxmin()), caption_of("LeNet-300-100 on MNIST", folder))


def pixels_lenet(root: Path) -> Figure | None:
    """Pixels that LeNet's tickets on MNIST are connected to."""
    folder = run_with(root, "ticket_structure", "pixels", "layers")
    return pixel_figure(folder, caption_of("LeNet-300-100 on MNIST", folder)) if folder else None


def layer_sentences(layer_rows: pd.DataFrame, paths: pd.DataFrame, k: int) -> list[str]:
    """Describe the tables at round k: means over trials, and ratios of means, with their intervals.

    Layers without pruned weights are left out.
    """
    at = layer_rows[layer_rows["round"] == k].set_index("trial")
    lines = []
    for layer, part in at.dropna(subset="movement_pruned").groupby("layer", sort=False):
        bigger = ratio(part["magnitude_initial_kept"], part["magnitude_initial_pruned"]).text()
        moved = ratio(part["movement_kept"], part["movement_pruned"]).text()
        positive = mean_of(100 * part["positive_initial_kept"]).text("{:.1f}%")
        lines.append(
            f"{layer}: the kept weights started {bigger} times as large as the pruned ones and moved {moved} times as "
            f"far. Of the kept weights, {positive} started positive."
        )
    of_paths = paths[paths["round"] == k].set_index("trial")
    if len(of_paths):
        times = ratio(of_paths["paths"], of_paths["expected"]).text()
        lines.append(
            f"Paths from inputs to outputs: {times} times as many as expected in random masks of equal density."
        )
    return lines


def findings(root: Path, k: int = 6) -> list[str]:
    """Return sentences on the structure of five tickets of LeNet on MNIST in round k (by default with 5% remaining)."""
    folder = run_with(root, "ticket_structure", "layers", "paths")
    return layer_sentences(cached_table(folder, "layers"), cached_table(folder, "paths"), k) if folder else []


def answer(root: Path, k: int = 6) -> str:
    """Return how kept and pruned weights of LeNet's first layer differ, in round k."""
    folder = run_with(root, "ticket_structure", "layers")
    if folder is None:
        return ""
    layers = cached_table(folder, "layers")
    part = layers[(layers["round"] == k) & (layers["layer"] == layers["layer"].iloc[0])].set_index("trial")
    if part.empty:
        return ""
    bigger, further = (
        ratio(part[f"{what}_kept"], part[f"{what}_pruned"]).text() for what in ("magnitude_initial", "movement")
    )
    return (
        f"At {part['percent_left'].mean():.3g}%, the weights kept in LeNet's first layer started {bigger} times as "
        f"large as the others and moved {further} times as far (n = {len(part)})."
    )


STUDY = Study(
    "ticket_structure",
    "What do tickets look like?",
    {"ticket_structure": structure_lenet, "ticket_degrees": degrees_lenet, "ticket_pixels": pixels_lenet},
    findings,
    answer,
)
