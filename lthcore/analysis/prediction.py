"""Prediction of which weights will be pruned, from features of every weight before and early in training.

Classifiers learn on some seeds and are tested on a seed that they have not seen. Features of size are ranks within a
layer in [0, 1], so that they mean the same in all layers; `z-score` is the signed weight in standard deviations of its
layer (initial weights have mean zero), and `layer` is the position of the layer. `final magnitude` is the score of
magnitude pruning itself: it leaks the answer, and is shown as the upper bound.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd
from scipy.stats import rankdata
from sklearn.base import ClassifierMixin
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lthcore.analysis.cache import TicketStore
from lthcore.lottery.start import begin
from lthcore.pruning.criteria import PruningContext
from lthcore.pruning.saliency import snip, synflow
from lthcore.seeds import seed_for
from lthcore.training.loop import train

BEFORE = ("layer", "initial magnitude", "z-score", "gradient x weight", "SynFlow")
EARLY = (*BEFORE, "early movement", "early magnitude")
LEAKY = (*EARLY, "final magnitude (leaky)")
SETS = {"before training": BEFORE, "and early in it": EARLY, "and its end (leaky)": LEAKY}
SAMPLE = 20_000  # weights sampled in each trial
EARLY_SHARE = 1 / 30  # share of the iterations before early features are taken


def features(tickets: TicketStore, trial: int) -> pd.DataFrame:
    """Return the features of a trial's dense network: a row for each prunable weight, with the columns LEAKY.

    Early features come from the first evaluation at or after EARLY_SHARE of the iterations. The dense network is
    trained again up to that point.
    """
    s, dense = tickets.settings, tickets(trial, 0)
    initial, mask = dense.start, dense.mask
    seen = PruningContext(s, tickets.data, mask, initial, initial, initial, seed_for(s.seed, "features", trial))
    early = begin(s, trial, 0, initial, mask)
    for state in train(s, tickets.data, early):
        if state.iteration >= EARLY_SHARE * s.iterations:
            break
    gradients, flow = snip(seen), synflow(seen)
    parts = []
    for number, name in enumerate(mask):
        w, at = initial[name], early.weights[name].cpu()
        parts.append(pd.DataFrame({
            "layer": np.full(w.numel(), number / max(1, len(mask) - 1)), "initial magnitude": _ranks(w.abs()),
            "z-score": (w.flatten() / w.std()).numpy(), "gradient x weight": _ranks(gradients[name]),
            "SynFlow": _ranks(flow[name]), "early movement": _ranks((at - w).abs()),
            "early magnitude": _ranks(at.abs()), "final magnitude (leaky)": _ranks(dense.weights[name].abs()),
        }))  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def samples(tickets: TicketStore, rounds: Iterable[int]) -> dict[int, tuple[pd.DataFrame, dict[int, np.ndarray]]]:
    """Return for each trial the features of SAMPLE of its weights, and by round whether the ticket prunes them."""
    found = {}
    for trial in range(tickets.settings.trials):
        table = features(tickets, trial)
        generator = np.random.default_rng(seed_for(tickets.settings.seed, "sample", trial))
        chosen = np.sort(generator.permutation(len(table))[:SAMPLE])
        pruned = {
            k: np.concatenate([(~m).flatten().numpy() for m in tickets(trial, k).mask.values()])[chosen] for k in rounds
        }
        found[trial] = table.iloc[chosen].reset_index(drop=True), pruned
    return found


def predictable(by_trial: dict, k: int) -> bool:
    """Return whether some of the sampled weights are pruned up to round k and some are kept, in every trial."""
    return all(len(np.unique(targets[k])) > 1 for _, targets in by_trial.values())


def models() -> dict[str, ClassifierMixin]:
    """Return new, unfitted classifiers by name."""
    return {
        "logistic regression": make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
        "gradient boosting": HistGradientBoostingClassifier(max_iter=60, random_state=0),
    }


def predict(tickets: TicketStore) -> pd.DataFrame:
    """Return the ROC-AUC on each held-out seed: a row for each round, model and set of features.

    The column `features` is one of SETS for gradient boosting and logistic regression, and a single feature for the
    model `alone`. A single feature predicts by its absolute value; if its AUC is below 0.5, the row has one minus it.
    Left out are rounds in which there is nothing to tell apart: `predictable`.
    """
    rounds, rows = range(1, tickets.settings.rounds + 1), []
    by_trial = samples(tickets, rounds)
    for k in rounds:
        where = {"round": k, "percent_left": tickets.percent_left[k]}
        for held_out in by_trial if predictable(by_trial, k) else ():
            table, target = by_trial[held_out][0], by_trial[held_out][1][k]
            for name in LEAKY:
                auc = roc_auc_score(target, table[name].abs())
                rows.append(
                    where | {"held_out": held_out, "model": "alone", "features": name, "auc": max(auc, 1 - auc)}
                )
            x, y = _others(by_trial, held_out, k)
            for label, names in SETS.items():
                for model, classifier in models().items():
                    classifier.fit(x[list(names)], y)
                    auc = roc_auc_score(target, classifier.predict_proba(table[list(names)])[:, 1])
                    rows.append(where | {"held_out": held_out, "model": model, "features": label, "auc": auc})
    return pd.DataFrame(rows, columns=["round", "percent_left", "held_out", "model", "features", "auc"])


def importance(tickets: TicketStore) -> pd.DataFrame:
    """Return how much the AUC on a held-out seed decreases if a feature is shuffled: a row for each feature.

    The model is gradient boosting on the features EARLY, fitted on the other seeds for each round. Left out are rounds
    in which there is nothing to tell apart: `predictable`.
    """
    rounds, rows = range(1, tickets.settings.rounds + 1), []
    by_trial = samples(tickets, rounds)
    for k in rounds:
        for held_out, (table, targets) in by_trial.items() if predictable(by_trial, k) else ():
            x, y = _others(by_trial, held_out, k)
            classifier = models()["gradient boosting"].fit(x[list(EARLY)], y)
            shuffled = permutation_importance(
                classifier, table[list(EARLY)], targets[k], scoring="roc_auc", n_repeats=3, random_state=0
            )
            where = {"round": k, "percent_left": tickets.percent_left[k], "held_out": held_out}
            rows += [
                where | {"feature": f, "loss": v} for f, v in zip(EARLY, shuffled["importances_mean"], strict=True)
            ]
    return pd.DataFrame(rows, columns=["round", "percent_left", "held_out", "feature", "loss"])


def _others(by_trial: dict, held_out: int, k: int) -> tuple[pd.DataFrame, np.ndarray]:
    """Return the features, and the targets at round k, of all trials but one."""
    others = [found for trial, found in by_trial.items() if trial != held_out]
    tables = pd.concat([table for table, _ in others], ignore_index=True)
    return tables, np.concatenate([targets[k] for _, targets in others])


def _ranks(values) -> np.ndarray:
    """Return ranks in [0, 1]. Equal values get the same rank."""
    flat = values.flatten().double().numpy()
    return (rankdata(flat) - 1) / max(1, len(flat) - 1)
