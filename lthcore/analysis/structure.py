"""Tables of the structure of a run's winning tickets, computed from its saved tickets."""

import math

import pandas as pd

from lthcore.analysis.cache import TicketStore
from lthcore.analysis.tickets import connected, degrees, describe, incoming, outgoing, path_count, pixel_map
from lthcore.lottery.methods import planned
from lthcore.masks import weights_left
from lthcore.training.engines.chain import is_chain

IDLE = 0.1  # inputs that vary less are idle, in units of the data set's standard deviation


def layers(tickets: TicketStore) -> pd.DataFrame:
    """Return statistics of each layer, per trial and round >= 1: those of `describe`, and movement.

    `share_without_input` is the share of its units whose incoming connections are all pruned, `share_without_output`
    that of the units or pixels it reads whose outgoing connections are.
    """
    rows = []
    for trial in range(tickets.settings.trials):
        dense = tickets(trial, 0)
        for k in range(1, tickets.settings.rounds + 1):
            mask = tickets(trial, k).mask
            for name, m in mask.items():
                moved = (dense.weights[name] - dense.start[name]).abs()
                rows.append({
                    "trial": trial, "round": k, "percent_left": tickets.percent_left[k],
                    "layer": name.removesuffix(".weight"), **describe(dense.start[name], dense.weights[name], m),
                    "movement_kept": float(moved[m].mean()), "movement_pruned": float(moved[~m].mean()),
                    "share_without_input": float((incoming(m) == 0).float().mean()),
                    "share_without_output": float((outgoing(m) == 0).float().mean()),
                })  # fmt: skip
    return pd.DataFrame(rows)


def degree_table(tickets: TicketStore) -> pd.DataFrame:
    """Return how many units keep how many connections, and how many would in a random mask, as means over trials.

    Columns are round, percent_left, layer, side (in: connections of a layer's units; out: of the units it reads),
    degree, units and expected. Rows are left out if `units` and `expected` are both below 0.01.
    """
    parts = []
    for k in range(1, tickets.settings.rounds + 1):
        masks = [tickets(trial, k).mask for trial in range(tickets.settings.trials)]
        for name in masks[0]:
            for side in ("in", "out"):
                mean = sum(degrees(mask[name], side) for mask in masks) / len(masks)
                where = {"round": k, "percent_left": tickets.percent_left[k], "layer": name.removesuffix(".weight")}
                parts.append(mean.assign(**where, side=side)[[*where, "side", "degree", "units", "expected"]])
    table = pd.concat(parts, ignore_index=True).astype({"degree": int})
    return table[table[["units", "expected"]].max(axis=1) >= 0.01]


def pixel_table(tickets: TicketStore) -> pd.DataFrame:
    """Return the share of the first layer's units that each pixel is connected to: round, row, column, share.

    Shares are means over channels and trials. The table is empty if the first layer is not dense.
    """
    parts, name = [], _first_dense(tickets)
    for k in range(1, tickets.settings.rounds + 1) if name else ():
        maps = [pixel_map(tickets(trial, k).mask[name], tickets.shape) for trial in range(tickets.settings.trials)]
        mean = sum(maps).mean(0) / len(maps)
        flat = pd.DataFrame(mean).rename_axis("row").reset_index()
        parts.append(flat.melt("row", var_name="column", value_name="share").assign(round=k))
    if not parts:
        return pd.DataFrame(columns=["round", "row", "column", "share"])
    return pd.concat(parts, ignore_index=True)[["round", "row", "column", "share"]].astype({"column": int}).round(4)


def first_layer(tickets: TicketStore) -> pd.DataFrame:
    """Return which pixels the first layer of each arm reads: arm, trial, round, percent_left, and two shares.

    `at_idle_pixels` is the share of its connections that come from inputs that hardly vary: whose standard deviation
    over the training images is below IDLE times that of all inputs together. `units` is the share of its units that
    keep a connection. Of several draws of an arm, the first is read. The table is empty if the first layer is not
    dense.
    """
    pixels = tickets.data.train.images.flatten(1).cpu()
    rows, idle, name = [], pixels.std(0) < IDLE * pixels.std(), _first_dense(tickets)
    for replicate in planned(tickets.settings) if name else ():
        arm, trial, draw, k = replicate
        if k == 0 or draw > 0:
            continue
        first = tickets(trial, k, arm).mask[name]
        rows.append({
            "arm": arm, "trial": trial, "round": k, "percent_left": tickets.percent_left[k],
            "at_idle_pixels": float(first[:, idle].sum() / first.sum()),
            "units": float((incoming(first) > 0).float().mean()),
        })  # fmt: skip
    return pd.DataFrame(rows, columns=["arm", "trial", "round", "percent_left", "at_idle_pixels", "units"])


def _first_dense(tickets: TicketStore) -> str | None:
    """Return the name of the weights that read the pixels if they belong to a dense layer, else None."""
    name, first = next(iter(tickets(0, 0).mask.items()))
    return name if first.ndim == 2 and first.shape[1] == math.prod(tickets.shape) else None


def path_table(tickets: TicketStore) -> pd.DataFrame:
    """Return the number of paths from inputs to outputs and the share of remaining weights on no path.

    The table has a row for each trial and round. `expected` is the expected number of paths in random masks of the same
    densities. The table is empty if the network is not a chain of dense layers.
    """
    rows = []
    for trial in range(tickets.settings.trials):
        for k in range(1, tickets.settings.rounds + 1) if is_chain(tickets.model) else ():
            mask = tickets(trial, k).mask
            paths, expected = path_count(mask)
            on_paths = weights_left(connected(tickets.model, mask))
            rows.append({
                "trial": trial, "round": k, "percent_left": tickets.percent_left[k], "paths": paths,
                "expected": expected, "on_no_path": 1 - on_paths / weights_left(mask),
            })  # fmt: skip
    return pd.DataFrame(rows, columns=["trial", "round", "percent_left", "paths", "expected", "on_no_path"])
