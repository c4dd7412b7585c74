"""Findings: what the tables of the studies say, in sentences that README and notebooks have from here.

Differences are by trial, in points, with 95% intervals. Sentences whose tables are not there are left out.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import pandas as pd

from lthcore.analysis import overlap, perturbed_init, prediction, stability, structure
from lthcore.analysis.cache import derived
from lthcore.analysis.similarity import interval_text
from lthcore.report.comparisons import gap, gaps, pruning_costs, published, runs_of, spread, trainings_of
from lthcore.runs.folder import read_record, read_tables
from lthcore.settings import Recipe, settings_of


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
            lines.append(f"{variant}: {spread(ours.mean(), ours.std())}% (n = {len(ours)}), published {bar:.2f}%.")
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


def transfer_findings(folder: Path) -> list[str]:
    """What a run of transferred masks says: against its own tickets, and against the same masks shuffled."""
    rounds, curves = read_tables(folder)
    pruned, lines = rounds[rounds["round"] > 0], []
    start = curves[curves["iteration"] == 0].set_index(["arm", "round", "trial"])["test_accuracy"]
    by = pruned.set_index(["arm", "round", "trial"])["es_test_accuracy"]
    left = pruned.groupby("round")["percent_left"].mean()
    for k in sorted({1, max(1, left.index.max() // 2), left.index.max()}):
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
    if 0 not in folders:
        return []
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


def movement_findings(root: Path) -> list[str]:
    """Each criterion against random pruning, where as little is left as every trial of high movement came down to.

    Rounds that were skipped leave a trial behind the others, so trials are held against each other at equal weights
    left, not at equal rounds.
    """
    runs, lines = runs_of(root, "movement_pruning"), []
    for stem, network in (("conv4_cifar10", "Conv-4 on CIFAR-10"), ("lenet_mnist", "LeNet on MNIST")):
        arms = ("high_movement", "low_movement", "magnitude", "magnitude_increase", "random")
        tables = {arm: read_tables(runs[f"{stem}-{arm}"])[0] for arm in arms if f"{stem}-{arm}" in runs}
        if not {"high_movement", "random"} <= tables.keys():
            continue
        lowest = tables["high_movement"].groupby("trial")["percent_left"].min().max()
        left = min(tables["random"]["percent_left"].unique(), key=lambda level: abs(level - lowest))
        at = {arm: _at(table, left) for arm, table in tables.items()}
        profile = runs[f"{stem}-random"].parents[1].name
        lines += [
            f"{network} (`{profile}`), {left:.3g}% left, {arm.replace('_', ' ')} against random: "
            f"{gap(at[arm], at['random'])}."
            for arm in tables
            if arm != "random"
        ]
    return lines


def _at(table: pd.DataFrame, left: float) -> pd.Series:
    """Test accuracy at the end by trial, of the round with so many percent left (to one in fifty)."""
    near = table[(table["percent_left"] / left - 1).abs() < 0.02]
    return near.drop_duplicates("trial").set_index("trial")["final_test_accuracy"]


def structured_findings(root: Path) -> list[str]:
    """Whole neurons pruned, by each criterion and scope: accuracy, and rewound against reinitialised."""
    runs, lines = runs_of(root, "structured_pruning"), []
    tables = {name.removeprefix("lenet_mnist-"): read_tables(f)[0] for name, f in runs.items() if "lenet" in name}
    for name, table in tables.items():
        last = table[table["round"] == table["round"].max()].set_index("trial")
        arms = {arm: part["es_test_accuracy"] for arm, part in last.groupby("arm")}
        if "reinit" in arms:
            left = last["percent_left"].mean()
            lines.append(
                f"Neurons by {name}, {left:.3g}% left: {100 * arms['ticket'].mean():.2f}%, rewound against "
                f"reinitialised {gap(arms['ticket'], arms['reinit'])}."
            )
    return lines


def structure_findings(root: Path, k: int = 6) -> list[str]:
    """What five tickets of LeNet on MNIST look like, and whether they agree, where 5% of the weights are left."""
    lines = []
    folder = runs_of(root, "ticket_structure").get("lenet_mnist")
    if _has(folder, "layers", "paths"):
        lines += structure.findings(derived(folder, "layers"), derived(folder, "paths"), k)
    folder = runs_of(root, "ticket_similarity").get("lenet_mnist")
    if _has(folder, "seeds"):
        lines += overlap.findings(derived(folder, "seeds"), k)
    return lines


def origin_findings(root: Path) -> list[str]:
    """Transfer, rewinding, connectivity, prediction and seeding of LeNet: a few sentences of each."""
    lines = []
    for name, folder in runs_of(root, "mask_transfer").items():
        if name.startswith("lenet"):
            lines += [f"{name.removeprefix('lenet_')}, {line}" for line in transfer_findings(folder)[1:2]]
    studied = runs_of(root, "rewinding_and_connectivity").items()
    folders = {int(n.rpartition("-")[2]): f for n, f in studied if n.startswith("lenet_mnist-")}
    if 0 in folders:
        lowest = read_tables(folders[0])[0]["percent_left"].min()
        lines += [line for line in rewinding_findings(folders) if line.startswith(f"{lowest:.3g}%")]
    if _has(folders.get(0), "stability"):
        lines += stability.findings(derived(folders[0], "stability"))
    folder = runs_of(root, "mask_prediction").get("lenet_mnist")
    if _has(folder, "prediction", "seeding"):
        lines += prediction.findings(derived(folder, "prediction"), 4)
        lines += [line for line in perturbed_init.findings(derived(folder, "seeding"), 4) if "largest" in line]
    return lines


def deconstructing_findings(root: Path) -> list[str]:
    """Masks of LeNet by criteria of the dense training, against the one-shot ticket's of as many weights."""
    runs, lines, at_zero = runs_of(root, "deconstructing"), [], {}
    for kind, where in (("zero", "at zero"), ("frozen", "frozen at their initial values")):
        folder = runs.get(f"lenet_mnist-{kind}")
        if folder is None:
            continue
        rounds, curves = read_tables(folder)
        start = 100 * curves[curves["iteration"] == 0].groupby(["arm", "round"])["test_accuracy"].mean()
        for k, left, by in _middle_and_last(rounds):
            base, arms = by["oneshot"], {_name(arm): by[arm] for arm in CRITERIA if arm in by}
            at = f"Pruned weights {where}, {left:.3g}% left"
            lines.append(f"{at}, against large final ({100 * base.mean():.2f}%): {gaps(arms, base)}.")
            if kind == "zero":  # frozen, an untrained network is the whole one under any mask
                knows = [f"{_name(arm)} {start[arm, k]:.0f}%" for arm in ("oneshot", *CRITERIA) if arm in by]
                lines.append(f"The same untrained: {', '.join(knows)}.")
                at_zero[k] = {"large final": base} | arms
            elif k in at_zero:
                lines.append(f"{at}, against at zero: {gaps({'large final': base} | arms, at_zero[k])}.")
    return lines


def pruning_at_init_findings(root: Path) -> list[str]:
    """Masks of LeNet found before training, against the one-shot ticket's of as many weights; and their checks."""
    folder = runs_of(root, "pruning_at_init").get("lenet_mnist")
    if folder is None:
        return []
    during, lines, checks = runs_of(root, "dynamic_pruning"), [], []
    for _, left, by in _middle_and_last(read_tables(folder)[0]):
        for name, label in (("rigl", "RigL"), ("rigl-gradual", "gradual magnitude")):
            other = during.get(f"lenet_mnist_{name}-{100 - left:.4g}")
            if other is not None:
                by[label] = read_tables(other)[0].set_index("trial")["final_test_accuracy"]
        arms = {_name(arm): by[arm] for arm in (*AT_INIT, "RigL", "gradual magnitude") if arm in by}
        base = by["oneshot"]
        lines.append(f"{left:.3g}% left, against one-shot tickets ({100 * base.mean():.2f}%): {gaps(arms, base)}.")
        for arm in ("by_snip", "by_grasp", "by_synflow"):
            others = {how: by[f"{arm}-{key}"] for key, how in CHECKS.items() if f"{arm}-{key}" in by}
            if others:
                checks.append(f"{left:.3g}% left, against {_name(arm)}: {gaps(others, by[arm])}.")
    return lines + checks


CRITERIA = ("by_magnitude_same_sign", "by_magnitude_increase", "by_movement", "by_magnitude_at_init", "by_random",
            "by_small_magnitude")  # fmt: skip
AT_INIT = ("ticket", "by_snip", "by_grasp", "by_synflow", "by_magnitude_at_init", "by_random")
CHECKS = {"shuffled": "its mask shuffled in layers", "fresh": "other weights", "inverted": "the worst kept"}
NAMES = {"oneshot": "large final", "by_snip": "SNIP", "by_grasp": "GraSP", "by_synflow": "SynFlow"}


def _name(arm: str) -> str:
    """What an arm is called in a sentence."""
    return NAMES.get(arm, arm.removeprefix("by_").replace("_", " "))


def _middle_and_last(rounds: pd.DataFrame) -> Iterator[tuple[int, float, dict[str, pd.Series]]]:
    """Two of the rounds: its number, percent of weights left, and arm -> test accuracy at the end by trial."""
    left = rounds[rounds["arm"] == "oneshot"].groupby("round")["percent_left"].mean()
    for k in (sorted(left.index)[len(left) // 2], left.index.max()):
        at = rounds[rounds["round"] == k].set_index("trial")
        yield k, left[k], dict(iter(at.groupby("arm")["final_test_accuracy"]))


def input_scaling_findings(root: Path) -> list[str]:
    """What dense networks reach at their early stop, by the scaling of their inputs, beside the paper."""
    runs, lines = runs_of(root, "iterative_pruning"), []
    for network, theirs in published("input_scaling")["dense"].items():
        stops = []
        for scaling in get_args(Recipe.model_fields["input_scaling"].annotation):
            folder = runs.get(f"input_scaling-{network}-{scaling}")
            if folder is None:
                continue
            rounds, s = read_tables(folder)[0], settings_of(read_record(folder)["settings"])
            test, held = (interval_text(100 * rounds[f"es_{split}_accuracy"], "{:.2f}") for split in ("test", "val"))
            at = ", ".join(f"{i:,}" for i in rounds["es_iteration"])
            stops.append(f"{scaling} {test}% of test and {held}% of validation images (n = {len(rounds)}; at {at})")
        if stops:
            where = f"{network}, {s.iterations:,} iterations, {s.precision}"
            lines.append(f"{where}: {'; '.join(stops)}. The paper: {theirs:g}%.")
    return lines


FINDINGS: dict[str, Callable[[Path], list[str]]] = {  # by the name of their place in README
    "input_scaling": input_scaling_findings,
    "dynamic": dynamic_findings,
    "robust": ablation_findings,
    "movement": movement_findings,
    "structured": structured_findings,
    "structure": structure_findings,
    "origins": origin_findings,
    "deconstructing": deconstructing_findings,
    "at_init": pruning_at_init_findings,
}


def into_readme(readme: Path, root: Path) -> None:
    """Put the findings into their places in README: between `<!-- found: NAME -->` and `<!-- end -->`."""
    text = readme.read_text(encoding="utf-8")
    for name, find in FINDINGS.items():
        mark, end = f"<!-- found: {name} -->\n", "<!-- end -->"
        before, _, rest = text.partition(mark)
        if rest:
            lines = "".join(f"* {line}\n" for line in find(root) or ["Not run yet."])
            text = f"{before}{mark}{lines}{end}{rest.partition(end)[2]}"
    readme.write_text(text, encoding="utf-8")


def _has(folder: Path | None, *tables: str) -> bool:
    return folder is not None and all((folder / f"{table}.csv").exists() for table in tables)
