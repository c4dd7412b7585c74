"""Comparisons: tables across the runs of a study. Each run counts once, at the largest profile it was run at."""

import json
from pathlib import Path

import pandas as pd
import yaml
from scipy import stats

from lthcore.records import read_record, read_tables
from lthcore.settings import PROFILES, load_experiments, project_root


def runs_of(root: Path, study: str, smoke: bool = False) -> dict[str, Path]:
    """Variant -> folder of each complete run of a study under a results root, at its largest profile.

    Of the experiments that the params files define: runs made with `-p` have another variant, and are left out.
    """
    defined = {
        experiment.variant
        for path in (project_root() / "params" / study).glob("*.yaml")
        for experiment in load_experiments(path, PROFILES[0])
    }
    found = {}
    for profile in PROFILES if smoke else PROFILES[1:]:
        for path in sorted((root / profile / study).glob("*/run.json")):
            if path.parent.name in defined and read_record(path.parent).get("complete"):
                found[path.parent.name] = path.parent
    return dict(sorted(found.items()))


def trainings_of(runs: dict[str, Path]) -> pd.DataFrame:
    """A row for each training of these runs: its row of rounds.csv, its run's profile and settings."""
    parts = []
    for variant, folder in runs.items():
        rounds, record = read_tables(folder)[0], read_record(folder)
        values = {k: str(v) if isinstance(v, list) else v for k, v in record["settings"].items() if k not in rounds}
        parts.append(rounds.assign(variant=variant, profile=folder.parents[1].name, **values))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def published(study: str) -> pd.DataFrame:
    """What was published of a study's experiments, by variant (params/published.yaml)."""
    text = (project_root() / "params" / "published.yaml").read_text(encoding="utf-8")
    return pd.DataFrame.from_dict(yaml.safe_load(text)[study], orient="index")


def dynamic_summary(root: Path) -> pd.DataFrame:
    """What dynamic pruning came to: accuracy in percent at the end of training, true sparsity, and what was published.

    A row for each experiment: mean and standard deviation over its n trials. Empty where nothing has been run.
    """
    table = trainings_of(runs_of(root, "dynamic_pruning"))
    if table.empty:
        return table
    groups = table.groupby("variant")
    accuracy = 100 * groups["final_test_accuracy"].agg(["mean", "std"])
    out = pd.DataFrame({
        "test accuracy (%)": [_spread(mean, std) for mean, std in accuracy.itertuples(index=False)],
        "true sparsity (%)": (100 - groups["percent_left"].mean()).round(2),
        "asked for (%)": (100 * groups["sparsity"].first()).round(2),
        "n": groups.size(),
        "seconds a training": groups["seconds"].mean().round(0).astype(int),
        "profile": groups["profile"].first(),
    }, index=accuracy.index)  # fmt: skip
    theirs = published("dynamic_pruning").reindex(out.index)
    out.insert(1, "published", [_published(row) for row in theirs.to_dict("records")])
    return out


def dynamic_missing(root: Path) -> list[str]:
    """The published experiments that have not been run here, beyond smoke runs."""
    return sorted(set(published("dynamic_pruning").index) - set(runs_of(root, "dynamic_pruning")))


def pruning_costs(root: Path) -> pd.DataFrame:
    """Dynamic against iterative pruning of LeNet by one recipe: what each method's sparse network cost and came to.

    A row for each trial: sparsity, method, iterations in all (those of the dense network included), test accuracy at
    the end of training.
    """
    dynamic = trainings_of(
        {k: v for k, v in runs_of(root, "dynamic_pruning").items() if k in ("lenet_mnist-78.9", "lenet_mnist-98")}
    )
    iterative = trainings_of(
        {k: v for k, v in runs_of(root, "iterative_pruning").items() if k.startswith("lenet_mnist_against_dynamic")}
    )
    if len(dynamic) and len(iterative):
        iterative = iterative[iterative["profile"].isin(dynamic["profile"].unique())]
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


def dynamic_findings(root: Path) -> list[str]:
    """What the tables of dynamic pruning say, in sentences; those of which the tables are not there are left out."""
    table, lines = trainings_of(runs_of(root, "dynamic_pruning")), []
    if table.empty:
        return lines
    by = {variant: part.set_index("trial")["final_test_accuracy"] for variant, part in table.groupby("variant")}
    profile = table.groupby("variant")["profile"].first()

    def say(text: str, a: str, b: str) -> None:
        if a in by and b in by and profile[a] == profile[b]:
            lines.append(f"{text}: {100 * by[a].mean():.2f}% against {100 * by[b].mean():.2f}%, {gap(by[a], by[b])}.")

    say("LeNet pruned to 78.9% as it trains, against dense", "lenet_mnist-78.9", "lenet_mnist-dense")
    say("LeNet pruned to 98%, against dense", "lenet_mnist-98", "lenet_mnist-dense")
    say("To 98% in 100 epochs, against 30", "lenet_mnist-98-longer", "lenet_mnist-98")
    only = "lenet_mnist_schedules-gradients_only"
    say("With the mask on gradients alone (asked for 98%, 0% zero), against dense", only, "lenet_mnist-dense")
    linear = "lenet_mnist_schedules-linear"
    say("To 98% linearly to the last epoch, against the cubic schedule to epoch 20", linear, "lenet_mnist-98")
    shifted = "lenet_mnist_augmented-{}".format
    say("With training images shifted and turned, 78.9%, against dense", shifted("78.9"), shifted("dense"))
    say("The same at 98%, against dense", shifted("98"), shifted("dense"))
    theirs = published("dynamic_pruning")
    for variant, bar in theirs["later"].dropna().items():
        if variant in by:
            ours = 100 * by[variant]
            lines.append(f"{variant}: {_spread(ours.mean(), ours.std())}% (n = {len(ours)}), published {bar:.2f}%.")
    costs = pruning_costs(root)
    for level, part in costs.groupby("sparsity") if len(costs) else ():
        dynamic = part[part["method"] == "dynamic"].set_index("trial")
        for (method, in_all), other in part[part["method"] != "dynamic"].groupby(["method", "in all"]):
            times = in_all / dynamic["in all"].iloc[0]
            cost = "equal cost" if abs(times - 1) < 0.05 else f"{times:.0f} times the cost"
            difference = gap(dynamic["accuracy"], other.set_index("trial")["accuracy"])
            lines.append(f"At {level:.1%}, dynamic against {method} at {cost}: {difference}.")
    return lines


def ablation_findings(root: Path) -> list[str]:
    """What each change of robust training adds to base: test accuracy at the early stop, dense and at 6% left."""
    prefix = "lenet_mnist-"
    table = trainings_of({k: v for k, v in runs_of(root, "robust_training").items() if k.startswith(prefix)})
    if table.empty or f"{prefix}base" not in set(table["variant"]):
        return []
    profile = table.loc[table["variant"] == f"{prefix}base", "profile"].iloc[0]
    tickets, lines = table[(table["arm"] == "ticket") & (table["profile"] == profile)], []
    by = tickets.set_index("trial").groupby(["variant", "round"])["es_test_accuracy"]
    left = tickets.groupby("round")["percent_left"].mean()
    for variant in dict.fromkeys(v for v in tickets["variant"] if v != f"{prefix}base"):
        parts = []
        for k in (0, (left - 6.25).abs().idxmin()):
            mine, base = (by.get_group((v, k)) for v in (variant, f"{prefix}base"))
            parts.append(f"at {left[k]:.3g}% left {gap(mine, base)}")
        lines.append(f"{variant.removeprefix(prefix)} against base: {', '.join(parts)}.")
    base = tickets[tickets["variant"] == f"{prefix}base"].groupby("round")["es_test_accuracy"].mean()
    values = ", ".join(f"{100 * base[k]:.2f}% at {left[k]:.3g}% left" for k in base.index)
    return [f"Base: {values}.", *lines]


def ticket_costs(root: Path, level: float = 0.98) -> pd.DataFrame:
    """What it costs to find a sparse LeNet on MNIST: for each way, at the smallest network that tests at `level`.

    Accuracies are means over trials at the end of training. A way's trainings are those that lead to that network.
    FLOPs are of masked-dense training, evaluations left out; seconds of training as it was done, on one core.
    """
    rows = []
    for study in ("iterative_pruning", "movement_pruning", "structured_pruning", "robust_training"):
        for variant, folder in runs_of(root, study).items():
            if variant.startswith("lenet_mnist"):
                table = trainings_of({variant: folder})
                rows += [
                    _cost(f"{study}: {variant}, {arm}", table, arm, level) for arm in ("ticket", "oneshot", "continued")
                ]
    runs = runs_of(root, "dynamic_pruning").items()
    dynamic = trainings_of({k: v for k, v in runs if k.startswith("lenet_mnist-") and not k.endswith("-longer")})
    if len(dynamic) and dynamic["percent_left"].max() == 100:
        levels = {left: k for k, left in enumerate(sorted(dynamic["percent_left"].round(2).unique(), reverse=True))}
        as_rounds = dynamic.assign(round=dynamic["percent_left"].round(2).map(levels), arm="ticket")
        rows.append(_cost("dynamic_pruning: lenet_mnist", as_rounds, "ticket", level, trainings=1))
    found = [row for row in rows if row]
    return pd.DataFrame(found).sort_values("GFLOPs").reset_index(drop=True) if found else pd.DataFrame()


def _cost(way: str, table: pd.DataFrame, arm: str, level: float, trainings: int | None = None) -> dict | None:
    dense = table[(table["arm"] == "ticket") & (table["round"] == 0)]
    means = table[table["arm"] == arm].groupby("round").mean(numeric_only=True)
    good = means[(means["final_test_accuracy"] >= level) & (means.index > 0)]
    if good.empty:
        return None
    k = good["percent_left"].idxmin()
    lineage = {"oneshot": [0, k]}.get(arm, list(range(k + 1)) if trainings is None else [k])
    parts = table[(table["arm"] == arm) & table["round"].isin(lineage)]
    if arm != "ticket" and trainings is None:
        parts = pd.concat([dense, parts])
    per_trial = parts.groupby("trial")
    iterations = per_trial["iterations"].sum().mean()
    return {
        "way": way, "weights left (%)": round(good.loc[k, "percent_left"], 2), "n": parts["trial"].nunique(),
        "test accuracy (%)": round(100 * good.loc[k, "final_test_accuracy"], 2),
        "dense (%)": round(100 * dense["final_test_accuracy"].mean(), 2), "trainings": len(lineage),
        "iterations": int(iterations), "core seconds": int(per_trial["seconds"].sum().mean()),
        "GFLOPs": int(6 * dense["weights_left"].max() * table["batch_size"].iloc[0] * iterations / 1e9),
        "profile": table["profile"].iloc[0],
    }  # fmt: skip


def transfer_findings(folder: Path) -> list[str]:
    """What a run of transferred masks says: against its own tickets, and against the same masks shuffled."""
    rounds, curves = read_tables(folder)
    pruned, lines = rounds[rounds["round"] > 0], []
    start = curves[curves["iteration"] == 0].set_index(["arm", "round", "trial"])["test_accuracy"]
    by = pruned.set_index(["arm", "round", "trial"])["es_test_accuracy"]
    left = pruned.groupby("round")["percent_left"].mean()
    for k in sorted({1, left.index.max() // 2, left.index.max()}):
        native, moved, shuffled = (by[arm][k] for arm in ("ticket", "transferred", "transferred-shuffled"))
        known = [100 * start[arm][k].mean() for arm in ("ticket", "transferred", "transferred-shuffled")]
        lines.append(
            f"{left[k]:.3g}% left: transferred against native {gap(moved, native)}, against its shuffle "
            f"{gap(moved, shuffled)}; untrained {known[0]:.1f}% native, {known[1]:.1f}% transferred, "
            f"{known[2]:.1f}% shuffled."
        )
    return lines


def rewinding_findings(folders: dict[int, Path]) -> list[str]:
    """What runs by rewinding point say at the end of training: against rewinding to 0, and of training on."""
    tables = {k: read_tables(folder)[0] for k, folder in folders.items()}
    base = tables[0]
    left, last = base.groupby("round")["percent_left"].mean(), base["round"].max()

    def at(table: pd.DataFrame, arm: str, k: int) -> pd.Series:
        return table[(table["arm"] == arm) & (table["round"] == k)].set_index("trial")["final_test_accuracy"]

    lines = []
    for k in sorted({last // 2, last}):
        against = {f"rewound to {point}": at(tables[point], "ticket", k) for point in sorted(tables) if point}
        names = {"continued": "learning-rate rewinding", "fine_tuned": "fine-tuning", "reinit": "reinitialised"}
        against |= {name: at(base, arm, k) for arm, name in names.items() if arm in set(base["arm"])}
        lines += [
            f"{left[k]:.3g}% left, {name} against rewound to 0: {gap(values, at(base, 'ticket', k))}."
            for name, values in against.items()
        ]
    return lines


def compaction_table(root: Path) -> pd.DataFrame:
    """What `benchmarks/compaction.py` measured, on whatever devices it was run; empty where on none."""
    parts = []
    for path in sorted((root / "benchmarks").glob("*/compaction.json")):
        record = json.loads(path.read_text())
        where = record["hardware"]["gpu"] or record["hardware"]["cpu"]
        parts.append(pd.DataFrame(record["rows"]).assign(where=where))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def gap(a: pd.Series, b: pd.Series) -> str:
    """The mean difference of two series by trial, in points, with its 95% interval (Student's t, paired)."""
    difference = 100 * (a - b).dropna()
    n, mean = len(difference), difference.mean()
    if n < 2:
        return f"{mean:+.2f} points (n = {n})"
    half = stats.t.ppf(0.975, n - 1) * difference.std() / n**0.5
    return f"{mean:+.2f} points [{mean - half:+.2f}, {mean + half:+.2f}] (n = {n})"


def _spread(mean: float, std: float) -> str:
    return f"{mean:.2f}" if std != std else f"{mean:.2f} ± {std:.2f}"


def _published(row: dict) -> str:
    parts = []
    if row.get("later") == row.get("later"):
        parts.append(_spread(row["later"], row["spread"]))
    if row.get("first") == row.get("first"):
        parts.append(f"{row['first']:.2f} at 0% sparse")
    return ", ".join(parts)
