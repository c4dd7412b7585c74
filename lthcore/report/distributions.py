"""Plots of distributions.csv: weights, movements and connections, by layer and round."""

from collections.abc import Iterable

import pandas as pd
from matplotlib.figure import Figure

from lthcore.arms import arm_of
from lthcore.report.layout import captioned, legend_above, new_figure
from lthcore.report.plots import from_dark_to_light

AXES = {  # quantity of distributions.csv -> label of the x-axis
    "surviving initial weights": "initial weight", "movement": "|w at the end - w at the start|",
    "magnitude change": "|w at the end| - |w at the start|",
    "incoming connections kept": "share of incoming connections kept",
    "outgoing connections kept": "share of outgoing connections kept",
}  # fmt: skip


def plot_distributions(
    table: pd.DataFrame, quantities: Iterable[str], rounds: dict[int, float], caption: str = "", together: bool = False
) -> Figure:
    """Plot distributions of `quantities` by layer, from distributions.csv, with a line for each round.

    `rounds` maps each round to its percentage of weights remaining. `together` draws all quantities into the same
    panels, at the last round only (for example weights in the ticket against pruned ones); the few largest values are
    cut off.
    """
    layers, quantities = list(dict.fromkeys(table["layer"])), list(quantities)
    cumulative = quantities[0].endswith("connections kept")  # a density of so few values would be all spikes
    figure, axes = new_figure(1 if together else len(quantities), len(layers))
    colours = from_dark_to_light(rounds)
    what = "share of units with at most this" if cumulative else "density"
    for row, quantity in enumerate(quantities):
        for column, layer in enumerate(layers):
            panel = axes[column if together else row * len(layers) + column]
            for k, left in list(rounds.items())[-1 if together else 0 :]:
                part = table[(table["quantity"] == quantity) & (table["layer"] == layer) & (table["round"] == k)]
                shares = part["count"] / part["count"].sum()
                x, y = (part["left"] + part["right"]) / 2, shares / (part["right"] - part["left"])
                if cumulative:
                    x, y = [0, *part["right"]], [0, *shares.cumsum()]
                label = quantity.split(", ")[-1] if together else f"{left:.1f}% remaining"
                colour = arm_of(("ticket", "random")[row]).colour if together else colours[k]
                panel.plot(x, y, color=colour, label=label, drawstyle="steps-post" if cumulative else "default")
                if together and part["left"].min() >= 0:
                    shown = x[shares.cumsum() >= 0.999].iloc[0]
                    panel.set_xlim(0, shown if row == 0 else max(panel.get_xlim()[1], shown))
            of = quantity.split(",")[0]
            panel.set(title=_place(of, layer), xlabel=AXES[of], ylabel=what if column == 0 else "")
    legend_above(figure, *axes[0].get_legend_handles_labels())
    return captioned(figure, caption)


def _place(quantity: str, layer: str) -> str:
    """Return what a panel is about: a quantity of a layer, or its units or inputs, which have connections."""
    of = {"incoming connections kept": f"Units of {layer}", "outgoing connections kept": f"Inputs of {layer}"}
    return of.get(quantity, f"{layer}: {quantity}")
