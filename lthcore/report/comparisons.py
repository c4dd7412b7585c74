"""Tables across the runs of a study. Each run counts once, at the largest profile at which it is finished."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lthcore.analysis.cache import has_derived
from lthcore.analysis.statistics import difference, learned_anything, mean_accuracy
from lthcore.errors import LabError, choose
from lthcore.paths import PROFILES, project_root, short
from lthcore.report.run_tables import read_whole_trials
from lthcore.runs.experiments import Experiment, NoSuchProfile, load_experiments
from lthcore.runs.files import read_record
from lthcore.runs.status import status_of
from lthcore.runs.yaml_files import check_shape, read_yaml
from lthcore.sources.catalogue import DATASETS

BEFORE_TRAINING = ("magnitude_at_init", "small_magnitude_at_init")  # criteria that need no training run
PUBLISHED = ("dense", "first", "later", "spread", "n", "epochs")  # columns of published.yaml


def runs_of(root: Path, study: str, profiles: tuple[str, ...] = PROFILES[1:]) -> dict[str, Path]:
    """Return variant -> folder of each finished run of a study, at the largest of the given profiles.

    A run is finished if it has all training runs that its params file asks for (as in `lth list`), or all that its last
    `lth run` asked for. Only experiments defined by the params files count: runs made with `-p` have another variant
    and are left out. Params files and runs that cannot be read, and runs whose params file has other settings now, are
    left out with a note on stderr.
    """
    found = {}
    for profile in profiles:  # by default without `smoke`, which only shows that the code runs
        for path in (project_root() / "params" / study).glob("*.yaml"):
            for experiment in _readable(load_experiments, path, profile) or ():
                folder = root / experiment.name
                if (folder / "run.json").exists() and _readable(_is_drawn, folder, experiment):
                    found[experiment.variant] = folder
    return dict(sorted(found.items()))


def runs_beside(root: Path, study: str, base: str) -> dict[str, Path]:
    """Return the runs of a study at the same profile as its run `base`; {} if `base` is not finished at any profile."""
    folder = runs_of(root, study).get(base)
    return runs_of(root, study, (profile_of(folder),)) if folder else {}


def profile_of(folder: Path) -> str:
    """Return the profile of a run, from its folder `<profile>/<notebook>/<variant>`."""
    return folder.parents[1].name


def _is_drawn(folder: Path, experiment: Experiment) -> bool:
    """Return whether a run is finished. Raises LabError if its params file was changed since."""
    if read_record(folder).get("run_key") != experiment.settings.key:
        raise LabError(f"results: {short(folder)} was made with other settings than its params file has now")
    return status_of(experiment, folder.parents[2]).is_drawn


def _readable(read: Callable, *what: object) -> Any:
    """Return `read(*what)`; if it raises LabError, print a note to stderr (but of a missing profile); return None."""
    try:
        return read(*what)
    except NoSuchProfile:
        return None
    except LabError as error:
        print(f"note: left out: {error}", file=sys.stderr)
        return None


def trainings_of(runs: dict[str, Path]) -> pd.DataFrame:
    """Return a table with a row for each training run of these runs (variant -> folder).

    Each row is a row of rounds.csv with the variant, profile and settings of its run. Unfinished trials are left out.
    """
    parts = []
    for variant, folder in runs.items():
        rounds, record = read_whole_trials(folder)[0], read_record(folder)
        values = {k: str(v) if isinstance(v, list) else v for k, v in record["settings"].items() if k not in rounds}
        parts.append(rounds.assign(variant=variant, profile=profile_of(folder), **values))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def published(study: str) -> pd.DataFrame:
    """Return the published results of a study's experiments: a row for each variant (params/published.yaml).

    Empty if the project has no such file. Raises LabError if the file is invalid or does not have the study.
    """
    path = project_root() / "params" / "published.yaml"
    if not path.exists():
        return pd.DataFrame(columns=PUBLISHED, index=pd.Index([], dtype=str))
    studies = read_yaml(path, "published")
    check_shape(studies, dict[str, dict[str, dict[str, float]]], f"published: {path}")
    return pd.DataFrame.from_dict(studies[choose(f"published: {path}: study", study, studies)], orient="index")


def dynamic_summary(root: Path) -> pd.DataFrame:
    """Return the results of dynamic pruning: test accuracy in percent, true sparsity, and the published accuracy.

    There is a row for each experiment. Accuracies are read at the end of training. Mean and standard
    deviation are over its trials without those that are stuck at chance, which are counted separately. The table is
    empty if nothing has been run.
    """
    table = trainings_of(runs_of(root, "dynamic_pruning"))
    if table.empty:
        return table
    groups = table.groupby("variant")
    # of a data set of one's own whose plugin is not there, the classes are unknown, and no training run is left out
    classes = table["dataset"].map({name: known.classes for name, known in DATASETS.items()}).fillna(np.inf)
    learned = table["final_test_accuracy"].where(learned_anything(table["final_test_accuracy"], classes))
    accuracy = 100 * learned.groupby(table["variant"]).agg(["mean", "std"])
    out = pd.DataFrame({
        "test accuracy (%)": [spread(mean, std) for mean, std in accuracy.itertuples(index=False)],
        "true sparsity (%)": (100 - groups["percent_left"].mean()).round(2),
        "asked for (%)": (100 * groups["sparsity"].first()).round(2),
        "n": groups.size(),
        "stuck at chance": learned.isna().groupby(table["variant"]).sum(),
        "seconds a training": groups["seconds"].mean().round(0).astype(int),
        "profile": groups["profile"].first(),
    }, index=accuracy.index)  # fmt: skip
    theirs = published("dynamic_pruning").reindex(out.index)
    out.insert(1, "published", [_published(row) for row in theirs.to_dict("records")])
    return out


def dynamic_missing(root: Path) -> list[str]:
    """Return the published experiments that have no finished run here, not counting smoke runs."""
    return sorted(set(published("dynamic_pruning").index) - set(runs_of(root, "dynamic_pruning")))


def pruning_costs(root: Path) -> pd.DataFrame:
    """Compare the cost and accuracy of dynamic and iterative pruning of LeNet, trained by the same recipe.

    Returns a row for each sparse network and trial: sparsity, method, iterations of each training run and in all (the
    dense network included), percentage of weights remaining, test accuracy at the end of training.
    """
    runs = runs_beside(root, "dynamic_pruning", "lenet_mnist-98")
    if not runs:
        return pd.DataFrame()
    others = runs_of(root, "iterative_pruning", (profile_of(runs["lenet_mnist-98"]),))
    dynamic = trainings_of({k: v for k, v in runs.items() if k in ("lenet_mnist-78.9", "lenet_mnist-98")})
    iterative = trainings_of({k: v for k, v in others.items() if k.startswith("lenet_mnist_against_dynamic")})
    rows = [
        {"sparsity": r.sparsity, "method": "dynamic", "each": r.iterations, "in all": r.iterations,
         "trial": r.trial, "percent_left": r.percent_left, "accuracy": r.final_test_accuracy}
        for r in dynamic.itertuples()
    ]  # fmt: skip
    names = {"ticket": "iterative, rewound", "continued": "iterative, trained on"}
    for r in iterative.itertuples():
        if r.round == r.rounds:
            rows.append({
                "sparsity": float(r.variant.rpartition("-")[2]) / 100, "method": names[r.arm], "each": r.iterations,
                "in all": r.iterations * (r.rounds + 1), "trial": r.trial, "percent_left": r.percent_left,
                "accuracy": r.final_test_accuracy,
            })  # fmt: skip
    return pd.DataFrame(rows)


def ticket_costs(root: Path, level: float = 0.98) -> pd.DataFrame:
    """Return the cost of finding a sparse LeNet on MNIST, for each method at its smallest network.

    This is the smallest network with a test accuracy of at least `level`, as the mean over trials at the end of
    training. The costs include all training runs that lead to it. FLOPs are those of masked dense training without
    evaluations. Seconds are the measured training time, on one core.
    """
    rows = []
    for study in ("iterative_pruning", "movement_pruning", "structured_pruning", "robust_training"):
        for variant, folder in runs_of(root, study).items():
            if variant.startswith("lenet_mnist") and not variant.startswith("lenet_mnist_widths"):  # other networks
                table = trainings_of({variant: folder})
                alone = bool(table["criterion"].isin(BEFORE_TRAINING).all())
                rows += [
                    _cost(f"{study}: {variant}, {arm}", table, arm, level, alone)
                    for arm in ("ticket", "oneshot", "continued")
                ]
    runs = runs_of(root, "dynamic_pruning").items()
    dynamic = trainings_of({k: v for k, v in runs if k.startswith("lenet_mnist-") and not k.endswith("-longer")})
    if len(dynamic) and dynamic["percent_left"].max() == 100:
        levels = {left: k for k, left in enumerate(sorted(dynamic["percent_left"].round(2).unique(), reverse=True))}
        as_rounds = dynamic.assign(round=dynamic["percent_left"].round(2).map(levels), arm="ticket")
        rows.append(_cost("dynamic_pruning: lenet_mnist", as_rounds, "ticket", level, alone=True))
    found = [row for row in rows if row]
    return pd.DataFrame(found).sort_values("GFLOPs", kind="stable").reset_index(drop=True) if found else pd.DataFrame()


def _cost(way: str, table: pd.DataFrame, arm: str, level: float, alone: bool = False) -> dict | None:
    """Return the row of an arm's smallest network that reaches `level`, or None; `alone` if a single training finds it.

    Otherwise the costs include those of the dense network and of the rounds before, except where pruning is one-shot.
    """
    dense = table[(table["arm"] == "ticket") & (table["round"] == 0)]
    means = table[table["arm"] == arm].groupby("round").mean(numeric_only=True)
    good = means[(means["final_test_accuracy"] >= level) & (means.index > 0)]
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


def gap(a: pd.Series, b: pd.Series, bare: bool = False) -> str:
    """Describe the mean difference of two series of accuracies (index: trial), in points, with its interval.

    The series must share trials (`share_trials`): they come from one run, or from runs with the same seed and network.
    Draws of a trial are averaged. Trials in which either series is stuck at chance are left out and counted. `bare`
    leaves out the unit and the number of trials, for a table that gives them once.
    """
    return gaps({"": a}, b, bare).strip()


def gaps(others: dict[str, pd.Series], base: pd.Series | dict[str, pd.Series], bare: bool = False) -> str:
    """Describe the gaps of several named series to one baseline, or each to its own, as `gap` does for one.

    The number of trials n is given for the first series, and again only if it changes.
    """
    parts, said = [], ""
    for name, other in others.items():
        both = (other, base[name] if isinstance(base, dict) else base)
        a, b = (values.groupby(level=0).mean() for values in both)
        a, b = a.align(b, join="inner")
        learned = learned_anything(a) & learned_anything(b)
        stuck = f"{(~learned).sum()} of {len(a)} trials excluded: stuck at chance"
        if not learned.any():
            parts.append(f"{name} an unknown amount ({stuck})")
            continue
        excluded = "" if learned.all() else f"; {stuck}"
        found = difference(a[learned], b[learned], paired=True).times(100)
        interval = f" [{found.low:+.2f}, {found.high:+.2f}]" if found.n > 1 else ""
        count = excluded if bare else f" (n = {found.n}{'' if interval else ': no interval'}{excluded})"
        unit = "" if said or bare else " points"
        parts.append(f"{name} {found.value:+.2f}{unit}{interval}{'' if count == said else count}")
        said = count
    return "; ".join(parts)


def level(accuracies: pd.Series, interval: bool = False) -> str:
    """Describe the mean accuracy, in percent, of the training runs that learned anything, and count those that did not.

    With `interval`, the 95% interval is added.
    """
    learned = learned_anything(accuracies)
    if not learned.any():
        return "stuck at chance"
    excluded = f" ({(~learned).sum()} of {len(accuracies)} trials excluded: stuck at chance)"
    found = mean_accuracy(accuracies[learned]).times(100)
    return f"{found.text('{:.2f}%') if interval else f'{found.value:.2f}%'}{'' if learned.all() else excluded}"


def spread(mean: float, std: float) -> str:
    """Format a mean with its standard deviation, if there is one."""
    return f"{mean:.2f}" if std != std else f"{mean:.2f} ± {std:.2f}"


def _published(row: dict) -> str:
    parts = []
    if row.get("later") == row.get("later"):
        parts.append(spread(row["later"], row["spread"]))
    if row.get("first") == row.get("first"):
        parts.append(f"{row['first']:.2f} at 0% sparse")
    return ", ".join(parts)


def run_with(root: Path, study: str, *tables: str) -> Path | None:
    """Return the folder of a study's run of LeNet on MNIST, or None if it lacks any of these derived tables."""
    folder = runs_of(root, study).get("lenet_mnist")
    return folder if folder and has_derived(folder, *tables) else None
