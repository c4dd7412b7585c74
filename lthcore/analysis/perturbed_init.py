"""Perturbed initial weights: which weights survive magnitude pruning if their initial size or sign is changed."""

from functools import partial

import pandas as pd
import torch
from torch import Tensor

from lthcore.analysis.cache import TicketStore, need_weights
from lthcore.lottery.masks_of_arms import next_round
from lthcore.lottery.search import initial_weights_of
from lthcore.lottery.start import begin
from lthcore.masks import Mask, full_mask, percent_left
from lthcore.models.weights import Weights
from lthcore.pruning.criteria import PruningContext, scores_of
from lthcore.training.parallel import train_cohort
from lthcore.training.state import Replicate

SHARE = 0.2  # of each layer's weights: the largest or the smallest ones are selected
# label -> which weights of a layer are selected, and the function that changes them
PERTURBATIONS = {
    "largest, as drawn": ("largest", lambda w: w),
    "largest, halved": ("largest", lambda w: w / 2),
    "largest, doubled": ("largest", lambda w: w * 2),
    "largest, made positive": ("largest", Tensor.abs),
    "smallest, as drawn": ("smallest", lambda w: w),
    "smallest, to the layer's sigma": ("smallest", lambda w: w.sign() * w.std()),
    "smallest, made positive": ("smallest", Tensor.abs),
}


def chosen(initial: Weights, full: Mask, which: str) -> Mask:
    """Return a mask of the SHARE of weights with the largest or smallest magnitude in each layer of `full`.

    `which` is "largest" or "smallest".
    """
    found = {}
    for name in full:
        w = initial[name]
        order = w.abs().flatten().argsort(descending=which == "largest", stable=True)
        mask = torch.zeros(w.numel(), dtype=torch.bool)
        mask[order[: round(SHARE * w.numel())]] = True
        found[name] = mask.view(w.shape)
    return found


def perturbed(initial: Weights, full: Mask, label: str) -> Weights:
    """Return the initial weights with one of PERTURBATIONS applied in the layers of `full`; others are unchanged."""
    which, change = PERTURBATIONS[label]
    masks = chosen(initial, full, which)
    return initial | {name: torch.where(m, change(initial[name]), initial[name]) for name, m in masks.items()}


def survival(tickets: TicketStore) -> pd.DataFrame:
    """Train dense networks from perturbed weights; return which share of weights survives one-shot magnitude pruning.

    The table has a row for each perturbation, trial and round, and uses the settings of the run. `perturbed` and
    `others` are the surviving shares of the selected and of all other weights. `dense_test_accuracy` is the final test
    accuracy of the dense network. Raises LabError if the run prunes units.
    """
    settings, data, full = tickets.settings, tickets.data, full_mask(tickets.model)
    need_weights(settings)
    starts = {
        Replicate(label, trial, 0, 0): begin(
            settings, trial, 0, perturbed(initial_weights_of(settings, trial), full, label), full
        )
        for label in PERTURBATIONS
        for trial in range(settings.trials)
        if label != "smallest, as drawn"
    }
    rows, outcomes = [], dict(train_cohort(settings, data, starts))
    for label in PERTURBATIONS:
        for trial in range(settings.trials):
            # both perturbations "as drawn" train the same network; only the selected weights differ
            trained = label if label != "smallest, as drawn" else "largest, as drawn"
            done, initial = outcomes[Replicate(trained, trial, 0, 0)], initial_weights_of(settings, trial)
            these, mask = chosen(initial, full, PERTURBATIONS[label][0]), full
            seen = PruningContext(settings, data, mask, done.start, done.weights, done.weights, 0)
            keep = partial(next_round, settings, data, scores_of("magnitude", seen))
            for k in range(1, settings.rounds + 1):
                mask = keep(mask)
                kept = {w: _share(mask, these, w == "perturbed") for w in ("perturbed", "others")}
                where = {
                    "perturbation": label,
                    "trial": trial,
                    "round": k,
                    "percent_left": round(percent_left(mask), 2),
                }
                rows.append(where | kept | {"dense_test_accuracy": done.curve[-1].test_accuracy})
    return pd.DataFrame(rows)


def _share(mask: Mask, these: Mask, inside: bool) -> float:
    """Return the share of the weights in `these` (outside of it, unless `inside`) that a mask keeps."""
    kept = sum(int((mask[name] & (these[name] == inside)).sum()) for name in mask)
    return kept / sum(int((these[name] == inside).sum()) for name in mask)
