"""Tables structure.csv and distributions.csv of a search, computed from its tickets or its lineage."""

import itertools
import sys
import time
from collections.abc import Callable, Hashable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from torch import Tensor

from lthcore.analysis.cache import TicketStore
from lthcore.analysis.tickets import incoming, magnitude_change, mean_or_nan, movement, outgoing
from lthcore.errors import TimeLimit
from lthcore.lottery.methods import settings_of
from lthcore.lottery.search import untrained_networks
from lthcore.masks import Mask
from lthcore.models.weights import Weights
from lthcore.runs.files import read_record, read_table, write_run
from lthcore.runs.folder import read_lineage
from lthcore.runs.lock import LOCK, locked
from lthcore.settings import Settings
from lthcore.training.parallel import train_cohort
from lthcore.training.state import TrainState

STRUCTURE, DISTRIBUTIONS = "structure.csv", "distributions.csv"
SHOWN = 4  # distributions are kept for every fourth round: 41.1, 16.9, 7.0, 2.9, 1.2% left
BINS = 40
NARROWEST = 2e-6  # bin of nearly equal values, so that its edges differ in the six decimals of the table


def quantities(initial: Weights, final: Weights, mask: Mask) -> Iterator[tuple[str, str, Tensor]]:
    """Yield (quantity, layer, values) for the quantities whose distributions the paper's Figures 15 to 24 show."""
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


def write_ticket_tables(folder: Path, time_limit: float = float("inf")) -> None:
    """Write structure.csv and distributions.csv of a complete search, unless they already cover all of its tickets.

    Masks come from the run's lineage or, if it lacks them, from the tickets. Dense networks whose tickets are on
    another machine are trained again; raises TimeLimit if that takes more than `time_limit` seconds.
    """
    if has_ticket_tables(folder):
        return
    here = TicketStore(folder)
    settings, masks = here.settings, read_lineage(folder, here.settings.key)
    dense = {trial: here(trial, 0) for trial in range(settings.trials) if here.has(trial, 0)}
    if len(dense) < settings.trials:
        deadline = time.monotonic() + time_limit
        dense |= _dense_networks_again(here, set(range(settings.trials)) - dense.keys(), deadline)

    def ticket(trial: int, k: int) -> TrainState:
        mask = masks.mask(trial, "ticket", k) if k else dense[trial].mask
        return replace(dense[trial], mask=mask) if mask else here(trial, k)

    structure, distributions = tables_of_tickets(ticket, settings)
    tables = {STRUCTURE: structure, DISTRIBUTIONS: distributions}
    texts = {name: table.to_csv(index=False, lineterminator="\n") for name, table in tables.items()}
    with locked(folder / LOCK, wait=True):
        write_run(folder, read_record(folder), texts)


def has_ticket_tables(folder: Path) -> bool:
    """Return whether structure.csv and distributions.csv cover all tickets of a run, or it is one that has neither.

    Those are unfinished runs, runs that are no search, and those of which a mask is missing: because a trial ended
    early, or because the run is from an older version.
    """
    record = read_record(folder)
    settings = settings_of(record["settings"]) if record.get("complete") else None
    if not isinstance(settings, Settings) or not settings.rounds:
        return True
    if all((folder / name).exists() for name in (STRUCTURE, DISTRIBUTIONS)):
        there = read_table(folder, STRUCTURE)[["trial", "round"]].drop_duplicates()
        if len(there) >= settings.trials * settings.rounds:
            return True
    here, masks = TicketStore(folder), read_lineage(folder, settings.key)
    tickets = itertools.product(range(settings.trials), range(1, settings.rounds + 1))
    return not all(here.has(trial, k) or masks.mask(trial, "ticket", k) for trial, k in tickets)


def _dense_networks_again(tickets: TicketStore, trials: set[int], deadline: float) -> dict[int, TrainState]:
    """Return the trained dense networks of these trials. Raises TimeLimit at the deadline; nothing is saved then."""
    print(
        f"note: {len(trials)} dense networks are trained again, because their final weights are not on this machine",
        file=sys.stderr,
    )
    starts = untrained_networks(tickets.settings, tickets.data).items()
    cohort = {replicate: state for replicate, state in starts if replicate.trial in trials}
    trained = dict(train_cohort(tickets.settings, tickets.data, cohort, partial(_is_before, deadline)))
    if any(state.iteration < tickets.settings.iterations and not state.diverged for state in trained.values()):
        raise TimeLimit(
            f"time limit reached before the dense networks of {tickets.folder} were trained again, for {STRUCTURE}; "
            "give the same command more time, or give it where the tickets are"
        )
    return {replicate.trial: state for replicate, state in trained.items()}


def _is_before(deadline: float, key: Hashable, state: TrainState) -> bool:
    return time.monotonic() < deadline


def tables_of_tickets(
    ticket: Callable[[int, int], TrainState], settings: Settings
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the tables structure.csv and distributions.csv of a run, from `ticket(trial, round)`.

    structure has for each trial, round and layer the density, the mean movement and mean initial magnitude of kept and
    of pruned weights, and the numbers of dead units (without incoming, or without outgoing connections). distributions
    has histograms of `quantities` over all trials, at every fourth round (with fewer than four rounds, at the last
    one). `left` and `right` are the edges of a bin.
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
                    "movement_kept": mean_or_nan(by_name["movement, in the ticket", layer]),
                    "movement_pruned": mean_or_nan(by_name["movement, pruned", layer]),
                    "initial_magnitude_kept": mean_or_nan(size[kept]),
                    "initial_magnitude_pruned": mean_or_nan(size[~kept]),
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


def _histogram(values: np.ndarray) -> Iterator[tuple[float, float, int]]:
    if not len(values):
        return
    try:
        counts, edges = np.histogram(values, BINS)
    except ValueError:  # float32 has fewer than BINS numbers between the smallest and the largest of these values
        values = values.astype(np.float64)
        middle, half = (values.min() + values.max()) / 2, max(np.ptp(values) / 2, BINS * NARROWEST / 2)
        counts, edges = np.histogram(values, BINS, (middle - half, middle + half))
    yield from zip(edges[:-1], edges[1:], counts, strict=True)
