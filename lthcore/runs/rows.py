"""Rows of a training run in rounds.csv and curves.csv, and the round with a percentage of weights remaining."""

from dataclasses import asdict

import numpy as np
import pandas as pd

from lthcore import masks
from lthcore.costs import Costs
from lthcore.recipe import Recipe
from lthcore.runs.schemas import READ, REPLICATE
from lthcore.training.loop import left_in, percent_left_in
from lthcore.training.state import Replicate, TrainState

# Number of evaluations that curves.csv keeps in full, for arms whose curves are drawn (the paper's Figure 3 ends at
# 15,000 iterations) and for other arms. After these it keeps every tenth evaluation. Tickets keep all evaluations.
WHOLE, WHOLE_OTHERS = 151, 21


def round_row(settings: Recipe, replicate: Replicate, state: TrainState, before: dict | None, costs: Costs) -> dict:
    """Return the row of rounds.csv for a complete training run.

    `before` is the row of the training run it was pruned from (None if there is none). `costs` are those of the network
    without pruning.
    """
    left = left_in(settings, state)
    stop, last = state.early_stop_point, state.curve[-1]
    accuracies = {point.iteration: point.test_accuracy for point in state.curve}
    read = [accuracies[iteration] for iteration in settings.read_at]
    left_by_layer = {} if settings.counts_nonzero else masks.counts(state.mask)
    return _rounded({
        **dict(zip(REPLICATE, replicate, strict=True)),
        "weights_left": left,
        "percent_left": round(percent_left_in(settings, state), 4),
        "es_iteration": stop.iteration if stop else None,
        "es_val_loss": stop.val_loss if stop else None,
        "es_val_accuracy": stop.val_accuracy if stop else None,
        "es_test_accuracy": stop.test_accuracy if stop else None,
        "es_train_accuracy": state.early_stop_train_accuracy,
        "final_val_accuracy": last.val_accuracy,
        "final_test_accuracy": last.test_accuracy,
        "final_train_accuracy": state.final_train_accuracy,
        "iterations": state.iteration,
        "seconds": round(state.seconds, 2),
        **dict(zip(READ, [*read, None, None, None], strict=False)),
        "diverged": state.diverged,
        "skipped": bool(before) and before["weights_left"] == left,  # a round that pruned nothing
        "emptied": " ".join(name for name, n in left_by_layer.items() if n == 0) or None,
        "multiply_adds": costs.of(left_by_layer) if left_by_layer else costs.multiply_adds,
    })  # fmt: skip


def curve_rows(replicate: Replicate, state: TrainState) -> list[dict]:
    """Return the rows of curves.csv for a complete training run, one for each evaluation."""
    where = dict(zip(REPLICATE, replicate, strict=True))
    return [_rounded(where | asdict(point) | {"percent_left": round(point.percent_left, 4)}) for point in state.curve]


def thinned(rows: list[dict], every: int, early_stop: int | None) -> list[dict]:
    """Return the rows that curves.csv keeps of a training run: the first, every tenth, the early stop and the last.

    `every` is the number of iterations between two evaluations. `early_stop` is the iteration of the early stop, which
    rounded losses no longer tell (None without a validation set).
    """
    whole = every * (WHOLE if rows[0]["arm"] in ("ticket", "reinit", "dynamic") else WHOLE_OTHERS)
    always = {rows[-1]["iteration"], early_stop}
    return [
        row
        for row in rows
        if row["iteration"] < whole or row["iteration"] % (10 * every) == 0 or row["iteration"] in always
    ]


def nearest_round(percent_left: pd.Series, percent: float, within: float) -> int | None:
    """Return the round whose percentage of weights remaining is nearest to `percent`, the first of those equally near.

    `percent_left` has the percentages by round. None if all differ by more than a factor of 1 + `within`.
    """
    factor = np.exp(np.log(percent_left.dropna() / percent).abs())
    return int(factor.idxmin()) if len(factor) and factor.min() <= 1 + within else None


def _rounded(row: dict) -> dict:
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in row.items()}
