"""Figures of what winning tickets look like, and how alike they are, from the derived tables of a run."""

from pathlib import Path

import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from lthcore.report.comparisons import runs_of
from lthcore.report.plots import caption_of, captioned, new_figure, plot_intervals, sparsity_axis
from lthcore.runs.folder import read_table

STRUCTURE = {  # title -> (column, or numerator and denominator)
    "Share of the layer left": ("density", None),
    "Of the weights left, started positive": ("positive_initial_kept", None),
    "Initial magnitude, kept / pruned": ("magnitude_initial_kept", "magnitude_initial_pruned"),
    "Movement in training, kept / pruned": ("movement_kept", "movement_pruned"),
    "Units without any input left": ("units_without_input", None),
}
ALIKE = {
    "jaccard": ("as they are", "#1f5fa8", "-"),
    "chance": ("random masks", "#1f5fa8", ":"),
    "aligned": ("units aligned", "#d1642a", "-"),
    "aligned_chance": ("random masks, aligned", "#d1642a", ":"),
}
ARMS_ALIKE = {
    "oneshot": ("one-shot ticket", "#7a4fa3"),
    "random": ("random mask", "#999999"),
    "transferred": ("mask from the other data", "#d1642a"),
}


def structure(folder: Path, caption: str = "") -> Figure:
    """Each layer against weights left: density, signs, magnitudes, movement, dead units; and paths."""
    layers, paths = (read_table(folder, f"{name}.csv") for name in ("layers", "paths"))
    names = list(dict.fromkeys(layers["layer"]))
    colours = dict(zip(names, sns.color_palette("viridis", len(names) + 1), strict=False))
    figure, panels = new_figure(2, 3)
    for axes, (title, (top, bottom)) in zip(panels, STRUCTURE.items(), strict=False):
        table = layers.assign(value=layers[top] / layers[bottom] if bottom else layers[top])
        for name in names:
            plot_intervals(table[table["layer"] == name], "percent_left", "value", axes, name, colours[name])
        axes.set(title=title)
        if bottom is None:
            axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    panels[1].axhline(0.5, color="#bbbbbb", linewidth=0.8)
    panels[0].legend()
    if len(paths):
        ratio = paths.assign(value=paths["paths"] / paths["expected"])
        plot_intervals(ratio, "percent_left", "value", panels[5], "paths / random mask's", "#1f5fa8")
        panels[5].set(title="Paths from input to output")
        panels[5].axhline(1, color="#bbbbbb", linewidth=0.8)
        panels[5].legend()
    for axes in panels:
        sparsity_axis(axes, layers["percent_left"].min())
        axes.set_xlabel("weights left (%)")
    return captioned(figure, caption)


def degree_figure(folder: Path, k: int, caption: str = "") -> Figure:
    """How many connections units keep at a round, against a random mask: a column for each layer, in and out."""
    table = read_table(folder, "degrees.csv")
    table = table[table["round"] == k]
    names = list(dict.fromkeys(table["layer"]))
    figure, panels = new_figure(2, len(names))
    for i, name in enumerate(names):
        for row, (side, what) in enumerate((("in", "units by connections in"), ("out", "inputs by connections out"))):
            part, axes = table[(table["layer"] == name) & (table["side"] == side)], panels[row * len(names) + i]
            width = max(1, round(len(part) / 40))
            groups = part.groupby(part["degree"] // width * width)[["units", "expected"]].sum()
            axes.bar(groups.index, groups["units"], width, align="edge", color="#1f5fa8", alpha=0.6, label="ticket")
            axes.plot(groups.index + width / 2, groups["expected"], color="#d1642a", label="random mask")
            axes.set(title=f"{name}: {what}", xlabel="connections", ylabel="units" if i == 0 else "")
    panels[0].legend()
    left = table["percent_left"].iloc[0]
    return captioned(figure, f"{left:.3g}% of the weights left; {caption}" if caption else f"{left:.3g}% left")


def pixel_figure(folder: Path, caption: str = "") -> Figure:
    """The share of first-layer units that each pixel is connected to, at four rounds."""
    table = read_table(folder, "pixels.csv")
    left = read_table(folder, "layers.csv").groupby("round")["percent_left"].mean()
    last = table["round"].max()
    rounds = sorted({max(1, round(last * part)) for part in (0.25, 0.5, 0.75, 1)})
    figure, panels = new_figure(1, len(rounds))
    for axes, k in zip(panels, rounds, strict=True):
        image = table[table["round"] == k].pivot(index="row", columns="column", values="share")
        shown = axes.imshow(image, cmap="viridis", vmin=0)
        figure.colorbar(shown, ax=axes, shrink=0.75, format=PercentFormatter(1, decimals=None))
        axes.set(title=f"{left[k]:.3g}% left", xticks=[], yticks=[])
        axes.grid(False)
    return captioned(figure, f"share of the first layer's units connected to each pixel; {caption}".rstrip("; "))


def similarity(folder: Path, caption: str = "") -> Figure:
    """Tickets of two seeds, layer by layer: their masks against chance, and their activations."""
    seeds = read_table(folder, "seeds.csv")
    names = list(dict.fromkeys(seeds["layer"]))
    figure, panels = new_figure(2, max(2, len(names)))
    pruned, across = seeds[seeds["round"] > 0], max(2, len(names))
    for axes, name in zip(panels, names, strict=False):
        for column, (label, colour, style) in ALIKE.items():
            part = pruned[pruned["layer"] == name]
            plot_intervals(part, "percent_left", column, axes, label, colour, style)
        axes.set(title=f"{name}: masks of two seeds", ylabel="Jaccard index")
    panels[0].legend()
    colours = dict(zip(names, sns.color_palette("viridis", len(names) + 1), strict=False))
    for axes, (column, title) in zip(
        panels[across:], {"cka": "linear CKA of activations", "cca": "mean CCA of activations"}.items(), strict=False
    ):
        for name in names:
            part = seeds[seeds["layer"] == name]
            plot_intervals(part, "percent_left", column, axes, name, colours[name])
        axes.set(title=title, ylim=(None, 1.02))
    panels[across].legend()
    other = panels[across + 2] if across > 2 else None
    arms = folder / "arms_alike.csv"
    if other is not None and arms.exists():
        table = read_table(folder, arms.name)
        for arm, (label, colour) in ARMS_ALIKE.items():
            part = table[(table["arm"] == arm) & (table["layer"] == names[0])]
            if len(part):
                plot_intervals(part, "percent_left", "jaccard", other, label, colour)
        other.set(title=f"{names[0]}: ticket against other masks", ylabel="Jaccard index")
        other.legend()
    for axes in panels:
        if axes.lines:
            sparsity_axis(axes, seeds["percent_left"].min())
            axes.set_xlabel("weights left (%)")
        else:
            axes.set_axis_off()
    return captioned(figure, caption)


def structure_lenet(root: Path) -> Figure | None:
    """Five tickets of LeNet on MNIST."""
    folder = _with(root, "ticket_structure", "layers", "paths")
    return structure(folder, caption_of("LeNet-300-100 on MNIST, 95% intervals", folder)) if folder else None


def degrees_lenet(root: Path) -> Figure | None:
    """Degrees of LeNet's tickets where few weights are left."""
    folder = _with(root, "ticket_structure", "degrees", "layers")
    if folder is None:
        return None
    left = read_table(folder, "layers.csv").groupby("round")["percent_left"].mean()
    return degree_figure(folder, int((left - 5).abs().idxmin()), caption_of("LeNet-300-100 on MNIST", folder))


def pixels_lenet(root: Path) -> Figure | None:
    """Where LeNet's tickets look."""
    folder = _with(root, "ticket_structure", "pixels", "layers")
    return pixel_figure(folder, caption_of("LeNet-300-100 on MNIST", folder)) if folder else None


def similarity_lenet(root: Path) -> Figure | None:
    """LeNet's tickets on MNIST, from five seeds."""
    folder = _with(root, "ticket_similarity", "seeds", "arms_alike")
    what = "LeNet-300-100 on MNIST, means and 95% intervals over pairs of seeds"
    return similarity(folder, caption_of(what, folder)) if folder else None


def _with(root: Path, study: str, *tables: str) -> Path | None:
    """The folder of a study's LeNet run, if these tables are in it."""
    folder = runs_of(root, study).get("lenet_mnist")
    return folder if folder and all((folder / f"{table}.csv").exists() for table in tables) else None
