"""Early-bird tickets: how early in dense training a mask stops changing, and how well it trains (arXiv 1909.11957).

The paper prunes channels by the scales of their batch norms. Here masks prune weights by magnitude, to the same
percentages as the run's one-shot tickets.
"""

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor

from lthcore.analysis.cache import TicketStore, need_weights
from lthcore.analysis.similarity import jaccard
from lthcore.lottery.search import initial_weights_of
from lthcore.lottery.start import begin
from lthcore.masks import Mask, full_mask
from lthcore.models.weights import Weights
from lthcore.pruning.allocation import layer_rates, prune
from lthcore.training.loop import train

PATIENCE, CLOSE = 5, 0.1  # a mask is stable if it is closer than CLOSE to each of the PATIENCE masks before it
BOUND = 100 * CLOSE  # CLOSE in percent; two masks that keep p% of the weights differ in at most 2p% of all weights


class Snapshot(NamedTuple):
    """Dense network at an evaluation, and how long its weights would last if it were pruned by magnitude there.

    `rounds` (uint8) has for each prunable weight the number of rounds of pruning that it survives.
    """

    iteration: int
    weights: Weights
    rounds: Weights

    def mask(self, k: int) -> Mask:
        """Return the mask of round k."""
        return {name: survived >= k for name, survived in self.rounds.items()}


def distance(a: Mask, b: Mask) -> float:
    """Return the share of all weights in which two masks differ (normalised Hamming distance, section 3.1)."""
    return float((_flat(a) ^ _flat(b)).double().mean())


def farthest(masks: list[Mask]) -> float:
    """Return the largest distance of the last mask to the PATIENCE masks before it; nan if there are fewer."""
    before = masks[-PATIENCE - 1 : -1]
    return max(distance(masks[-1], mask) for mask in before) if len(before) == PATIENCE else float("nan")


def snapshots(tickets: TicketStore, trial: int) -> Iterator[Snapshot]:
    """Train the dense network of a trial again, and yield a snapshot at each evaluation.

    Raises LabError if the run prunes units.
    """
    s, data = tickets.settings, tickets.data
    need_weights(s)
    rates = layer_rates(s, tickets.model)
    for state in train(s, data, begin(s, trial, 0, initial_weights_of(s, trial), full_mask(tickets.model))):
        weights = {name: w.detach().cpu().clone() for name, w in state.weights.items()}
        scores, mask = {name: weights[name].abs() for name in state.mask}, full_mask(tickets.model)
        rounds = {name: torch.zeros(m.shape, dtype=torch.uint8) for name, m in mask.items()}
        for _ in range(s.rounds):
            mask = prune(scores, mask, rates, s.scope, s.keep_at_least)
            for name, m in mask.items():
                rounds[name] += m
        yield Snapshot(state.iteration, weights, rounds)


def early_bird(tickets: TicketStore) -> pd.DataFrame:
    """Return a table of how masks change while the dense network trains: a row for each trial, round and evaluation.

    Columns: `farthest`, the largest distance to the PATIENCE masks before, and `overlap`, the Jaccard index with the
    mask at the end.
    """
    rows = []
    for trial in range(tickets.settings.trials):
        seen = [snapshot._replace(weights={}) for snapshot in snapshots(tickets, trial)]  # all weights would be large
        for k in range(1, tickets.settings.rounds + 1):
            masks = [snapshot.mask(k) for snapshot in seen]
            where = {"trial": trial, "round": k, "percent_left": tickets.percent_left[k]}
            rows += [
                where
                | {"iteration": snapshot.iteration, "farthest": farthest(masks[: i + 1])}
                | {"overlap": jaccard(_flat(masks[i]), _flat(masks[-1]))}
                for i, snapshot in enumerate(seen)
            ]
    return pd.DataFrame(rows)


def early_bird_tickets(tickets: TicketStore) -> pd.DataFrame:
    """Prune and train on where the mask is first stable; return a row for each trial and round where that happens.

    Training continues under the mask with the rest of the schedule, so that all of it is as long as one training run.
    A mask that is first stable at the end of training is left out.
    """
    s, rows = tickets.settings, []
    for trial in range(s.trials):
        for k, stable in sorted(_first_stable(tickets, trial).items()):
            state = begin(s, trial, k, stable.weights, stable.mask(k), stable.iteration)
            for _ in train(s, tickets.data, state):
                pass
            where = {"trial": trial, "round": k, "percent_left": tickets.percent_left[k]}
            rows.append(where | {"iteration": stable.iteration, "final_test_accuracy": state.curve[-1].test_accuracy})
    columns = ["trial", "round", "percent_left", "iteration", "final_test_accuracy"]
    return pd.DataFrame(rows, columns=columns)


def _first_stable(tickets: TicketStore, trial: int) -> dict[int, Snapshot]:
    """Return round -> the first snapshot, before the end of training, at which the round's mask is stable."""
    recent, found = deque(maxlen=PATIENCE + 1), {}
    for snapshot in snapshots(tickets, trial):
        if snapshot.iteration == tickets.settings.iterations:
            break
        recent.append(snapshot)
        for k in range(1, tickets.settings.rounds + 1):
            if k not in found and farthest([before.mask(k) for before in recent]) < CLOSE:
                found[k] = snapshot
        if len(found) == tickets.settings.rounds:
            break
    return found


def _flat(mask: Mask) -> Tensor:
    return torch.cat([m.flatten() for m in mask.values()])
