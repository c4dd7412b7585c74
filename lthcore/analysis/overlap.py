"""Tables of the similarity of a run's tickets, between seeds, rounds and arms, by the measures in similarity.py.

The Jaccard indices of masks are listed beside their values by chance: the index of random masks, and for aligned masks
the index of the same mask shuffled within its layers and aligned in the same way.
"""

from collections.abc import Iterator
from itertools import combinations

import pandas as pd

from lthcore import masks
from lthcore.analysis.cache import TicketStore
from lthcore.analysis.similarity import (
    activations,
    align,
    chance_jaccard,
    cosine_of_rows,
    jaccard,
    linear_cka,
    mean_cca,
    sign_agreement,
)
from lthcore.pruning.streams import streams_of
from lthcore.seeds import seed_for
from lthcore.training.state import TrainState

IMAGES = 1000  # test images on which activations are compared
MEASURES = ("jaccard", "chance", "aligned", "aligned_chance", "signs", "cosine", "cosine_columns", "cka", "cca")


def compare(a: TrainState, b: TrainState, tickets: TicketStore) -> Iterator[dict]:
    """Compare two trained tickets; yield a row of MEASURES for each layer.

    CKA and CCA compare activations of the trained networks on IMAGES test images, after the ReLU in hidden layers.
    """
    model, images = tickets.model, tickets.data.test.images[:IMAGES].cpu()
    streams = streams_of(model)
    aligned = align(a.mask, b.mask, streams)
    chance = align(a.mask, masks.shuffled(b.mask, seed_for(b.seed, "chance")), streams)
    xs, ys = (activations(model, masks.apply(t.mask, t.weights), images) for t in (a, b))
    for name, m in a.mask.items():
        layer, other = name.removesuffix(".weight"), b.mask[name]
        kept = (a.weights[name] * m, b.weights[name] * other)
        yield {
            "layer": layer, "jaccard": jaccard(m, other),
            "chance": chance_jaccard(float(m.float().mean()), float(other.float().mean())),
            "aligned": jaccard(m, aligned[name]), "aligned_chance": jaccard(m, chance[name]),
            "signs": sign_agreement(a.weights[name], b.weights[name], m, other),
            "cosine": cosine_of_rows(*kept), "cosine_columns": cosine_of_rows(*(w.transpose(0, 1) for w in kept)),
            "cka": linear_cka(xs[layer], ys[layer]), "cca": mean_cca(xs[layer], ys[layer]),
        }  # fmt: skip


def between_seeds(tickets: TicketStore) -> pd.DataFrame:
    """Compare every pair of trials at each round, including the dense networks (round 0).

    Trials differ in their initial weights and in their batches.
    """
    rows = []
    for k in range(tickets.settings.rounds + 1):
        states = [tickets(trial, k) for trial in range(tickets.settings.trials)]
        for a, b in combinations(range(len(states)), 2):
            where = {"a": a, "b": b, "round": k, "percent_left": tickets.percent_left[k]}
            rows += [where | row for row in compare(states[a], states[b], tickets)]
    return _table(rows, "a", "b", "round", "percent_left")


def between_rounds(tickets: TicketStore) -> pd.DataFrame:
    """Compare each ticket with the dense network of its trial, and with the ticket of the previous round."""
    rows = []
    for trial in range(tickets.settings.trials):
        states = [tickets(trial, k) for k in range(tickets.settings.rounds + 1)]
        for k in range(1, len(states)):
            for against in {0, k - 1}:
                where = {"trial": trial, "round": k, "percent_left": tickets.percent_left[k], "against": against}
                rows += [where | row for row in compare(states[against], states[k], tickets)]
    return _table(rows, "trial", "round", "percent_left", "against")


def between_arms(tickets: TicketStore) -> pd.DataFrame:
    """Compare the ticket of each trial and round with the trial's other arms (their first draw)."""
    rows = []
    for arm in (arm for arm in tickets.settings.arms if arm != "ticket"):
        for trial in range(tickets.settings.trials):
            for k in range(1, tickets.settings.rounds + 1):
                where = {"arm": arm, "trial": trial, "round": k, "percent_left": tickets.percent_left[k]}
                rows += [where | row for row in compare(tickets(trial, k), tickets(trial, k, arm), tickets)]
    return _table(rows, "arm", "trial", "round", "percent_left")


def _table(rows: list[dict], *keys: str) -> pd.DataFrame:
    """Return the rows as a table with all columns, even if there are none: a run may have no arm but `ticket`."""
    return pd.DataFrame(rows, columns=[*keys, "layer", *MEASURES])
