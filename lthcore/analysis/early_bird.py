"""Early-bird tickets: how early in dense training a mask stops changing, and how well it trains (arXiv 1909.11957).

The paper prunes channels by the scales of their batch norms. Here masks prune weights by magnitude, to the same
percentages as the run's one-shot tickets.
"""

from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor

from lthcore.analysis.cache import TicketStore, need_weights
from lthcore.analysis.similarity import jaccard
from lthcore.analysis.statistics import difference, mean_accuracy, mean_of
from lthcore.lottery.masks_of_arms import next_round
from lthcore.lottery.search import initial_weights_of
from lthcore.lottery.start import begin
from lthcore.masks import Mask, full_mask
from lthcore.models import Weights
from lthcore.training.loop import train

PATIENCE, CLOSE = 5, 0.1  # a mask is stable if it is closer than CLOSE to each of the PATIENCE masks before it
BOUND = 100 * CLOSE  # CLOSE in percent; two masks that keep p% of the weights differ in at most 2p% of all weights


class Snapshot(NamedTuple):
    """Dense network at an evaluation, and the masks of all rounds (from 0) if it were pruned by magnitude there."""

    iteration: int
    weights: Weights
    masks: list[Mask]


def distance(a: Mask, b: Mask) -> float:
    """Return the share of all weights in which two masks differ (normalised Hamming distance, section 3.1)."""
    return float((_flat(a) ^ _flat(b)).double().mean())


def farthest(masks: list[Mask]) -> float:
    """Return the largest distance of the last mask to the PATIENCE masks before it; nan if there are fewer."""
    before = masks[-PATIENCE - 1 : -1]
    return max(distance(masks[-1], mask) for mask in before) if len(before) == PATIENCE else float("nan")


def snapshots(tickets: TicketStore, trial: int) -> list[Snapshot]:
    """Train the dense network of a trial again, and return a snapshot for each evaluation.

    Raises LabError if the run prunes units.
    """
    s, data, found = tickets.settings, tickets.data, []
    need_weights(s)
    for state in train(s, data, begin(s, trial, 0, initial_weights_of(s, trial), full_mask(tickets.model))):
        weights = {name: w.detach().cpu().clone() for name, w in state.weights.items()}
        scores, masks = {name: weights[name].abs() for name in state.mask}, [full_mask(tickets.model)]
        for _ in range(s.rounds):
            masks.append(next_round(s, data, scores, masks[-1]))
        found.append(Snapshot(state.iteration, weights, masks))
    return found


def early_bird(tickets: TicketStore) -> pd.DataFrame:
    """Return a table of how masks change while the dense network trains: a row for each trial, round and evaluation.

    Columns: `farthest`, the largest distance to the PATIENCE masks before, and `overlap`, the Jaccard index with the
    mask at the end.
    """
    rows = []
    for trial in range(tickets.settings.trials):
        seen = snapshots(tickets, trial)
        for k in range(1, tickets.settings.rounds + 1):
            masks = [snapshot.masks[k] for snapshot in seen]
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
        seen = snapshots(tickets, trial)
        for k in range(1, s.rounds + 1):
            masks = [snapshot.masks[k] for snapshot in seen]
            stable = (i for i in range(len(seen)) if farthest(masks[: i + 1]) < CLOSE)
            first = next(stable, None)
            if first is None or seen[first].iteration == s.iterations:
                continue
            state = begin(s, trial, k, seen[first].weights, masks[first], seen[first].iteration)
            for _ in train(s, tickets.data, state):
                pass
            where = {"trial": trial, "round": k, "percent_left": tickets.percent_left[k]}
            found = {"iteration": seen[first].iteration, "final_test_accuracy": state.curve[-1].test_accuracy}
            rows.append(where | found)
    columns = ["trial", "round", "percent_left", "iteration", "final_test_accuracy"]
    return pd.DataFrame(rows, columns=columns)


def findings(masks: pd.DataFrame, found: pd.DataFrame, oneshot: pd.DataFrame) -> list[str]:
    """Describe when masks are first stable, and compare those tickets with one-shot tickets of the same trials.

    `masks` is the table of `early_bird`, `found` the table of `early_bird_tickets`, and `oneshot` holds the rows of the
    arm `oneshot` in rounds.csv.
    """
    lines, last = [], masks["iteration"].max()
    for (k, left), part in found.groupby(["round", "percent_left"]):
        early, late = (
            t[t["round"] == k].set_index("trial")["final_test_accuracy"].rename_axis(None) for t in (part, oneshot)
        )
        both = early.index.intersection(late.index)
        if both.empty:
            continue  # no one-shot tickets to compare with
        gain = difference(early[both], late[both], paired=True).times(100)
        overlap = masks.merge(part[["trial", "round", "iteration"]])["overlap"]
        earliest = masks.loc[masks["farthest"].notna(), "iteration"].min()
        at = ", the first evaluation at which it can be stable" if (part["iteration"] == earliest).all() else ""
        stable, alike = mean_of(part["iteration"]), mean_accuracy(overlap)
        bound = f" (any two masks of this size differ in at most {2 * left:.2g}% of all weights)"
        near = bound if 2 * left < BOUND else ""
        lines.append(
            f"At {left:.3g}% of weights remaining, the mask is first stable after "
            f"{stable.text('{:,.0f}', note=False)} of {last:,} iterations{at}{near}. Its Jaccard index "
            f"with the final mask is then {alike.text(note=False)}. Compared with the one-shot ticket, pruning there "
            f"and training on changes the final test accuracy by {gain.in_points()}."
        )
    return lines


def _flat(mask: Mask) -> Tensor:
    return torch.cat([m.flatten() for m in mask.values()])
