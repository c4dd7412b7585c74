"""Figures of high-movement pruning beside its controls: accuracies, layers that collapse, weights that cannot move."""

import itertools
from pathlib import Path

from matplotlib.figure import Figure

from lthcore.analysis.cache import has_derived
from lthcore.report.layout import (
    caption_of,
    captioned,
    in_percent,
    new_figure,
    one_legend,
    place_of,
    size_of,
    sparsity_axis,
    titled,
)
from lthcore.report.plots import from_dark_to_light, plot_rounds
from lthcore.report.run_tables import read_whole_trials
from lthcore.report.studies.movement_pruning.networks import MOVEMENT, NETWORKS, runs_of_network
from lthcore.runs.files import read_table

RESTARTS = {
    "high_movement": "Weights rewound",
    "high_movement_guarded": "Weights rewound (guarded)",
    "high_movement_going_on": "From the best weights",
    "high_movement_going_on_fresh": "From the best, new optimizer",
}


def movement_arms(root: Path) -> Figure | None:
    """Test accuracy against weights remaining: high-movement pruning and its controls.

    Each network has a row of two panels: all values, and closer those as high as random pruning's.
    """
    networks = {stem: runs for stem in NETWORKS if (runs := runs_of_network(root, stem))}
    if not networks:
        return None
    figure, panels = new_figure(len(networks), 2, (9, 2.3 * len(networks) + 1))
    any_emptied = False
    for (whole, closer), (stem, runs) in zip(panels.reshape(-1, 2), networks.items(), strict=True):
        tables = {arm: read_whole_trials(runs[f"{stem}-{arm}"])[0] for arm in MOVEMENT if f"{stem}-{arm}" in runs}
        for axes, (arm, rounds) in itertools.product((whole, closer), tables.items()):
            plot_rounds(rounds, "final_test_accuracy", axes, *MOVEMENT[arm])
            empty = rounds[rounds["emptied"].notna()] if "emptied" in rounds else rounds[:0]
            x, y = empty["percent_left"], empty["final_test_accuracy"]
            axes.scatter(x, y, s=90, linewidths=2, marker="x", color="#c00000", zorder=4)
            any_emptied |= len(empty) > 0
        for axes in (whole, closer):
            sparsity_axis(axes)
        title = f"{NETWORKS[stem]}, {size_of(runs[f'{stem}-high_movement'])}"  # over both panels
        whole.set(title=title, ylabel="test accuracy at the end")
        if "random" in tables:
            low, high = tables["random"]["final_test_accuracy"].agg(["min", "max"])
            closer.set_ylim(low - 0.1 * (high - low), high + 0.5 * (high - low))
    one_legend(figure)
    note = (
        "right: the same, closer; the first round of each trial at a percentage; since rounds may be skipped, a line "
        "ends where not all trials got further; bars: range"
    )
    note += any_emptied * "; red crosses: a layer was emptied"
    places = place_of(*(folder for runs in networks.values() for folder in runs.values()))
    return captioned(figure, f"{note}; tables: {places}")


def movement_layers(root: Path) -> Figure | None:
    """Remaining share of each layer against weights remaining, by pruning criterion: where layers collapse.

    Drawn for the largest network that has a run of high movement and a control.
    """
    stem = next((s for s in NETWORKS if len(runs_of_network(root, s)) > 1), None)
    runs = runs_of_network(root, stem) if stem else {}
    arms = [a for a in MOVEMENT if f"{stem}-{a}" in runs and (runs[f"{stem}-{a}"] / "structure.csv").exists()]
    if not arms:
        return None
    rows, columns = -(-len(arms) // 3), min(3, len(arms))
    figure, panels = new_figure(rows, columns, (3.1 * columns, 2.5 * rows + 0.7))
    for axes, arm in zip(panels, arms, strict=False):
        folder = runs[f"{stem}-{arm}"]
        density = read_table(folder, "structure.csv").groupby(["layer", "round"], sort=False)["density"].mean()
        left = read_whole_trials(folder)[0].groupby("round")["percent_left"].mean()
        layers = list(density.index.get_level_values("layer").unique())
        for layer, colour in from_dark_to_light(layers).items():
            style = "o-" if layer.startswith("conv") else "s--"  # with colours alone, neighbouring layers look alike
            axes.plot(left.loc[density[layer].index], density[layer], style, color=colour, markersize=3, label=layer)
        sparsity_axis(axes)
        axes.set(
            title=MOVEMENT[arm][0].capitalize(),
            ylabel="share of the layer kept",
            ylim=(-0.03, 1.03),
        )
        in_percent(axes.yaxis)
    one_legend(figure)
    for axes in panels[len(arms) :]:
        axes.set_axis_off()
    return captioned(figure, caption_of(NETWORKS[stem], *(runs[f"{stem}-{arm}"] for arm in arms)))


def movement_immovable(root: Path) -> Figure | None:
    """Draw the share of each layer's remaining weights that are immovable, by way to prune high movement.

    Drawn for the largest network with such tables (lthcore/analysis/immovable.py).
    """
    of_networks = {stem: runs for stem in NETWORKS if (runs := _with_immovable(root, stem))}
    if not of_networks:
        return None
    stem, runs = next(iter(of_networks.items()))
    figure, panels = new_figure(1, len(runs), (3.2 * len(runs), 3.3))
    for axes, (arm, folder) in zip(panels, runs.items(), strict=True):
        table = read_table(folder, "immovable.csv").assign(arm="ticket", draw=0)
        layers = list(dict.fromkeys(table["layer"]))
        for layer, colour in from_dark_to_light(layers).items():
            plot_rounds(table[table["layer"] == layer], "immovable", axes, f"{layer}: immovable weights", colour)
        rounds, _ = read_whole_trials(folder)
        plot_rounds(rounds, "final_test_accuracy", axes, "test accuracy of the network", "#808080", ":", "s")
        sparsity_axis(axes)
        axes.set(title=RESTARTS.get(arm, MOVEMENT[arm][0]), ylim=(-0.03, 1.03))
        in_percent(axes.yaxis)
    panels[0].set_ylabel("share; accuracy")
    one_legend(figure)
    title = f"High-movement pruning of {NETWORKS[stem]}: weights that cannot move"
    return captioned(titled(figure, title), caption_of("bars: range", *runs.values()))


def _with_immovable(root: Path, stem: str) -> dict[str, Path]:
    """Return criterion -> folder of a network's runs that have a table of immovable weights."""
    runs = runs_of_network(root, stem)
    found = {arm: runs[f"{stem}-{arm}"] for arm in MOVEMENT if f"{stem}-{arm}" in runs}
    return {arm: folder for arm, folder in found.items() if has_derived(folder, "immovable")}
