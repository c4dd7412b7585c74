"""What sparse networks cost: training iterations and operations by method, and the speed of compacted networks."""

import json
from pathlib import Path

import pandas as pd

from lthcore.registry import CRITERIA
from lthcore.report.finished_runs import profile_of, runs_beside, runs_of, trainings_of

LEVEL = 0.98  # test accuracy that sparse networks are compared at


def pruning_costs(root: Path) -> pd.DataFrame:
    """Compare the cost and accuracy of dynamic and iterative pruning of LeNet, trained by the same recipe.

    Returns a row for each sparse network and trial: sparsity, method, iterations of each training run and in all (the
    dense network included), percentage of weights remaining, test accuracy at the end of training, number of classes.
    """
    runs = runs_beside(root, "dynamic_pruning", "lenet_mnist-98")
    if not runs:
        return pd.DataFrame()
    others = runs_of(root, "iterative_pruning", (profile_of(runs["lenet_mnist-98"]),))
    dynamic = trainings_of({k: v for k, v in runs.items() if k in ("lenet_mnist-78.9", "lenet_mnist-98")})
    iterative = trainings_of({k: v for k, v in others.items() if k.startswith("lenet_mnist_against_dynamic")})
    rows = [
        {"sparsity": r.sparsity, "method": "dynamic", "each": r.iterations, "in all": r.iterations,
         "trial": r.trial, "percent_left": r.percent_left, "accuracy": r.final_test_accuracy, "classes": r.classes}
        for r in dynamic.itertuples()
    ]  # fmt: skip
    names = {"ticket": "iterative, rewound", "continued": "iterative, trained on"}
    for r in iterative.itertuples():
        if r.round == r.rounds:
            rows.append({
                "sparsity": float(r.variant.rpartition("-")[2]) / 100, "method": names[r.arm], "each": r.iterations,
                "in all": r.iterations * (r.rounds + 1), "trial": r.trial, "percent_left": r.percent_left,
                "accuracy": r.final_test_accuracy, "classes": r.classes,
            })  # fmt: skip
    return pd.DataFrame(rows)


def ticket_costs(root: Path) -> pd.DataFrame:
    """Return the cost of finding a sparse LeNet on MNIST, for each method at its smallest network.

    This is the smallest network with a test accuracy of at least LEVEL, as the mean over trials at the end of
    training. The costs include all training runs that lead to it. FLOPs are those of masked dense training without
    evaluations. Seconds are the measured training time, on one core.
    """
    rows = []
    for study in ("iterative_pruning", "movement_pruning", "structured_pruning", "robust_training"):
        for variant, folder in runs_of(root, study).items():
            if variant.startswith("lenet_mnist") and not variant.startswith("lenet_mnist_widths"):  # other networks
                table = trainings_of({variant: folder})
                alone = all(c in CRITERIA and not CRITERIA[c].trained for c in table["criterion"])
                rows += [
                    _cost(f"{study}: {variant}, {arm}", table, arm, alone) for arm in ("ticket", "oneshot", "continued")
                ]
    runs = runs_beside(root, "dynamic_pruning", "lenet_mnist-dense").items()
    dynamic = trainings_of({k: v for k, v in runs if k.startswith("lenet_mnist-") and not k.endswith("-longer")})
    if len(dynamic) and dynamic["percent_left"].max() == 100:
        levels = {left: k for k, left in enumerate(sorted(dynamic["percent_left"].round(2).unique(), reverse=True))}
        as_rounds = dynamic.assign(round=dynamic["percent_left"].round(2).map(levels), arm="ticket")
        rows.append(_cost("dynamic_pruning: lenet_mnist", as_rounds, "ticket", alone=True))
    found = [row for row in rows if row]
    return pd.DataFrame(found).sort_values("GFLOPs", kind="stable").reset_index(drop=True) if found else pd.DataFrame()


def _cost(way: str, table: pd.DataFrame, arm: str, alone: bool = False) -> dict | None:
    """Return the row of an arm's smallest network that reaches LEVEL, or None; `alone` if a single training finds it.

    Otherwise the costs include those of the dense network and of the rounds before, except where pruning is one-shot.
    """
    dense = table[(table["arm"] == "ticket") & (table["round"] == 0)]
    means = table[table["arm"] == arm].groupby("round").mean(numeric_only=True)
    good = means[(means["final_test_accuracy"] >= LEVEL) & (means.index > 0)]
    if good.empty:
        return None
    k = good["percent_left"].idxmin()
    if alone:
        lineage = [k]
    elif arm == "oneshot":
        lineage = [0, k]
    else:
        lineage = list(range(k + 1))
    parts = table[(table["arm"] == arm) & table["round"].isin(lineage)]
    if arm != "ticket" and not alone:
        parts = pd.concat([dense, parts])
    per_trial = parts.groupby("trial")
    iterations = per_trial["iterations"].sum().mean()
    return {
        "way": way, "% of weights remaining": round(good.loc[k, "percent_left"], 2), "n": parts["trial"].nunique(),
        "test accuracy (%)": round(100 * good.loc[k, "final_test_accuracy"], 2),
        "dense (%)": round(100 * dense["final_test_accuracy"].mean(), 2), "trainings": len(lineage),
        "iterations": int(iterations), "core seconds": int(per_trial["seconds"].sum().mean()),
        "GFLOPs": int(6 * dense["weights_left"].max() * table["batch_size"].iloc[0] * iterations / 1e9),
        "profile": table["profile"].iloc[0],
    }  # fmt: skip


def compaction_table(root: Path) -> pd.DataFrame:
    """Return the rows that `benchmarks/compaction.py` measured, for all devices; empty if it was never run."""
    parts = []
    for path in sorted((root / "benchmarks").glob("*/compaction.json")):
        record = json.loads(path.read_text())
        where = record["hardware"]["gpu"] or record["hardware"]["cpu"]
        parts.append(pd.DataFrame(record["rows"]).assign(where=where))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
