"""Tickets: what they look like. Pure functions over weights and masks, and the tables made of them.

In all of them `initial` and `final` are the dense network's weights before and after its training, and the mask is the
ticket's: what the paper's appendix on the structure of tickets compares.
"""

import itertools
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from lthcore.analysis.cache import TicketStore
from lthcore.lottery import lineage
from lthcore.lottery.lineage import Lineage
from lthcore.lottery.methods import settings_of
from lthcore.lottery.search import untrained_networks
from lthcore.masks import Mask
from lthcore.models import Weights
from lthcore.pruning.streams import columns, streams_of
from lthcore.runs.files import read_file, read_record, read_table, write_run
from lthcore.runs.lock import locked
from lthcore.settings import Settings
from lthcore.training.parallel import train_cohort
from lthcore.training.state import TrainState

STRUCTURE, DISTRIBUTIONS = "structure.csv", "distributions.csv"
SHOWN = 4  # distributions are kept of every fourth round: 41.1, 16.9, 7.0, 2.9, 1.2% left
BINS = 40


def movement(initial: Tensor, final: Tensor) -> Tensor:
    """|w_T - w_0| of every weight (the paper's Figure 19)."""
    return (final - initial).abs()


def magnitude_change(initial: Tensor, final: Tensor) -> Tensor:
    """|w_T| - |w_0| of every weight (the paper's Figure 20)."""
    return final.abs() - initial.abs()


def incoming(mask: Tensor) -> Tensor:
    """The share of its incoming connections that each unit keeps: (units, ...) -> (units,) (the paper's Figure 21)."""
    return mask.flatten(1).float().mean(1)


def outgoing(mask: Tensor) -> Tensor:
    """The share of its outgoing connections that each input keeps: (units, inputs, ...) -> (inputs,) (Figure 22)."""
    return mask.transpose(0, 1).flatten(1).float().mean(1)


def describe(initial: Tensor, final: Tensor, mask: Tensor) -> dict[str, float]:
    """A layer in numbers: density, share of positive weights and mean magnitude, initial and final, kept and pruned.

    `final` is the dense network's, so that what was pruned has a value too; nan where there is nothing to count.
    """
    found = {"density": float(mask.float().mean())}
    for when, w in (("initial", initial), ("final", final)):
        for which, m in (("kept", mask), ("pruned", ~mask)):
            found[f"positive_{when}_{which}"] = _mean((w[m] > 0).float())
            found[f"magnitude_{when}_{which}"] = _mean(w[m].abs())
    return found


def degrees(mask: Tensor, side: str = "in") -> pd.DataFrame:
    """How many units keep how many connections, against a random mask: columns degree, units, expected.

    side "in": connections into each unit (row); "out": out of each of the units that the layer reads. In a random
    mask of the same number of weights a unit's degree is hypergeometric: so many drawn from all, so many of them its.
    """
    from scipy.stats import hypergeom  # slow to import, and a run needs it only here

    matrix = mask.flatten(1) if side == "in" else mask.transpose(0, 1).flatten(1)
    counts = matrix.sum(1)
    degree = np.arange(matrix.shape[1] + 1)
    chance = hypergeom(matrix.numel(), int(mask.sum()), matrix.shape[1]).pmf(degree)
    units = torch.bincount(counts, minlength=len(degree)).numpy()
    return pd.DataFrame({"degree": degree, "units": units, "expected": chance * len(matrix)})


def pixel_map(mask: Tensor, shape: tuple[int, int, int]) -> np.ndarray:
    """The share of a first dense layer's units that each input pixel is connected to: (C, H, W)."""
    return outgoing(mask).view(shape).numpy()


def path_count(mask: Mask) -> tuple[float, float]:
    """Paths from inputs to outputs of a chain of dense layers, and as many as random masks of these densities have."""
    paths, expected, previous = None, 1.0, None
    for m in mask.values():
        matrix = m.double()
        paths = matrix.sum(1) if paths is None else matrix @ paths
        expected *= float(matrix.sum()) / (1 if previous is None else previous)
        previous = len(matrix)
    return float(paths.sum()), expected


def connected(model: nn.Sequential, mask: Mask) -> Mask:
    """The weights of a mask that lie on a path from an input to an output: the mask without its dead ends."""
    streams, kept = streams_of(model), {name: m.clone() for name, m in mask.items()}
    while True:
        before = {name: m.clone() for name, m in kept.items()}
        for stream in streams:
            if not stream.producers:
                continue
            units = len(kept[f"{stream.producers[0]}.weight"])
            fed = torch.stack([kept[f"{p}.weight"].flatten(1).any(1) for p in stream.producers]).any(0)
            read = torch.stack([columns(kept[f"{c}.weight"], units).any(2).any(0) for c in stream.consumers]).any(0)
            for producer in stream.producers:
                kept[f"{producer}.weight"][~read] = False
            for consumer in stream.consumers:
                columns(kept[f"{consumer}.weight"], units)[:, ~fed] = False
        if all(torch.equal(kept[name], before[name]) for name in kept):
            return kept


def quantities(initial: Weights, final: Weights, mask: Mask) -> Iterator[tuple[str, str, Tensor]]:
    """(quantity, layer, values) of what the paper's Figures 15 to 24 show the distributions of."""
    for name, kept in mask.items():
        layer = name.removesuffix(".weight")
        moved, change = movement(initial[name], final[name]), magnitude_change(initial[name], final[name])
        yield "surviving initial weights", layer, initial[name][kept]
        yield "movement, in the ticket", layer, moved[kept]
        yield "movement, pruned", layer, moved[~kept]
        yield "magnitude change, in the ticket", layer, change[kept]
        yield "magnitude change, pruned", layer, change[~kept]
        yield "incoming connections kept", layer, incoming(kept)
        yield "outgoing connections kept", layer, outgoing(kept)


def write_ticket_tables(folder: Path) -> None:
    """Write structure.csv and distributions.csv of a complete search, unless they are of all its tickets already.

    Where tickets are on another machine, masks come from the run's lineage, and the dense networks are trained again.
    """
    record = read_record(folder)
    settings = settings_of(record["settings"]) if record.get("complete") else None
    if not isinstance(settings, Settings) or not settings.rounds or _are_whole(folder, settings):
        return
    path = folder / lineage.FILE
    masks = Lineage.from_bytes(read_file(path), settings.key) if path.exists() else Lineage()
    here, numbers = TicketStore(folder), list(itertools.product(range(settings.trials), range(1, settings.rounds + 1)))
    if not all(here.has(trial, k) or masks.mask(trial, "ticket", k) for trial, k in numbers):
        return  # of a trial that ended early, or of an older version
    dense = {trial: here(trial, 0) for trial in range(settings.trials) if here.has(trial, 0)}
    if len(dense) < settings.trials:
        dense |= _dense_networks_again(here, set(range(settings.trials)) - dense.keys())

    def ticket(trial: int, k: int) -> TrainState:
        mask = masks.mask(trial, "ticket", k) if k else dense[trial].mask
        return replace(dense[trial], mask=mask) if mask else here(trial, k)

    structure, distributions = tables_of_tickets(ticket, settings)
    tables = {STRUCTURE: structure.to_csv(index=False), DISTRIBUTIONS: distributions.to_csv(index=False)}
    with locked(folder / "checkpoints" / "lock.json", wait=True):
        write_run(folder, read_record(folder), tables)


def _are_whole(folder: Path, settings: Settings) -> bool:
    if not all((folder / name).exists() for name in (STRUCTURE, DISTRIBUTIONS)):
        return False
    there = read_table(folder, STRUCTURE)[["trial", "round"]].drop_duplicates()
    return len(there) >= settings.trials * settings.rounds


def _dense_networks_again(tickets: TicketStore, trials: set[int]) -> dict[int, TrainState]:
    print(f"note: {len(trials)} dense networks are trained again, whose final weights are not here", file=sys.stderr)
    starts = untrained_networks(tickets.settings, tickets.data).items()
    cohort = {replicate: state for replicate, state in starts if replicate.trial in trials}
    return {replicate.trial: state for replicate, state in train_cohort(tickets.settings, tickets.data, cohort)}


def tables_of_tickets(
    ticket: Callable[[int, int], TrainState], settings: Settings
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """structure.csv and distributions.csv of a run, from `ticket(trial, round)`.

    structure: per trial, round and layer the density, the mean movement and the mean initial magnitude of the weights
    in the ticket and of those pruned, and dead units (no connection in, or none out). distributions: histograms,
    summed over trials, of `quantities`, at every fourth round (of fewer, at the last one); `left` and `right` are the
    edges of a bin.
    """
    structure, values = [], {}
    shown = range(SHOWN, settings.rounds + 1, SHOWN) or [settings.rounds]
    for trial in range(settings.trials):
        dense = ticket(trial, 0)
        for k in range(1, settings.rounds + 1):
            mask = ticket(trial, k).mask
            found = list(quantities(dense.start, dense.weights, mask))
            by_name = {(quantity, layer): tensor for quantity, layer, tensor in found}
            for name, kept in mask.items():
                layer, size = name.removesuffix(".weight"), dense.start[name].abs()
                structure.append({
                    "trial": trial, "round": k, "layer": layer, "density": float(kept.float().mean()),
                    "movement_kept": _mean(by_name["movement, in the ticket", layer]),
                    "movement_pruned": _mean(by_name["movement, pruned", layer]),
                    "initial_magnitude_kept": _mean(size[kept]), "initial_magnitude_pruned": _mean(size[~kept]),
                    "units_without_input": int((incoming(kept) == 0).sum()),
                    "inputs_without_output": int((outgoing(kept) == 0).sum()),
                })  # fmt: skip
            if k in shown:
                for quantity, layer, tensor in found:
                    values.setdefault((k, quantity, layer), []).append(tensor.flatten().numpy())
    rows = [
        {"round": k, "quantity": quantity, "layer": layer, "left": left, "right": right, "count": int(count)}
        for (k, quantity, layer), parts in values.items()
        for left, right, count in _histogram(np.concatenate(parts))
    ]
    distributions = pd.DataFrame(rows, columns=["round", "quantity", "layer", "left", "right", "count"])
    return pd.DataFrame(structure).round(6), distributions.round(6)


def _mean(values: Tensor) -> float:
    return float(values.mean()) if values.numel() else float("nan")


def _histogram(values: np.ndarray) -> Iterator[tuple[float, float, int]]:
    if len(values):
        counts, edges = np.histogram(values, BINS)
        yield from zip(edges[:-1], edges[1:], counts, strict=True)
