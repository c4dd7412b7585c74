"""Comparisons and figures of the studies: they show the numbers of tables with known content."""

import json
import re
import shutil
from contextlib import suppress
from functools import cache
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import yaml

from lthcore.analysis.statistics import learned_anything, share_trials
from lthcore.paths import project_root
from lthcore.report.costs import pruning_costs, ticket_costs
from lthcore.report.finished_runs import runs_beside, runs_of
from lthcore.report.published import dynamic_missing, dynamic_summary, published
from lthcore.report.sentences import gap, level, levels_and_gap
from lthcore.report.studies import (
    STUDIES,
    dynamic_pruning,
    movement_pruning,
    pruning_at_init,
    rewinding_and_connectivity,
    robust_training,
)
from lthcore.report.studies.rewinding_and_connectivity import rewinding_findings
from lthcore.runs.experiments import NoSuchProfile, load_experiments
from lthcore.runs.runner import run
from lthcore.runs.schemas import CURVES, REPLICATE, ROUNDS
from lthcore.settings import DynamicSettings, Settings

FIGURES = {name: draw for study in STUDIES.values() for name, draw in study.figures.items()}
PARAMS = project_root() / "params"


@cache
def keys(study: str, profile: str) -> dict[str, str]:
    """Return variant -> run key for the experiments of a study's params files."""
    found = {}
    for path in (PARAMS / study).glob("*.yaml"):
        with suppress(NoSuchProfile):
            found |= {e.variant: e.settings.key for e in load_experiments(path, profile)}
    return found


def write(root: Path, name: str, settings, rows: list[dict], complete: bool = True) -> None:
    """Write the tables of a run as if it were of the params file of its name, if there is one."""
    folder = root / name
    folder.mkdir(parents=True)
    profile, study, variant = name.split("/")
    record = {"run_key": keys(study, profile).get(variant, settings.key), "complete": complete, "n": settings.trials}
    (folder / "run.json").write_text(json.dumps(record | {"settings": settings.model_dump(mode="json")}))
    blank = dict.fromkeys(ROUNDS, 0) | {
        "percent_left": 100.0,
        "iterations": settings.iterations,
        "seconds": 10.0,
        "arm": "ticket",
        "diverged": False,
        "skipped": False,
    }
    pd.DataFrame([blank | row for row in rows], columns=ROUNDS).to_csv(folder / "rounds.csv", index=False)
    points = [
        dict.fromkeys(CURVES, 0.5)
        | {name: row.get(name, 0) for name in REPLICATE}
        | {"iteration": i * settings.eval_every, "percent_left": 100 - 10 * i}
        for row in rows
        for i in range(3)
    ]
    pd.DataFrame(points, columns=CURVES).to_csv(folder / "curves.csv", index=False)


def dynamic(root: Path, name: str, accuracies: list[float], left: float = 20.0, **values) -> None:
    profile, variant = name.split("/")
    rows = [
        {"arm": "dynamic", "trial": t, "final_test_accuracy": a, "percent_left": left} for t, a in enumerate(accuracies)
    ]
    complete = values.pop("complete", True)
    settings = DynamicSettings(epochs=30, batch_size=128, trials=len(accuracies), **values)
    write(root, f"{profile}/dynamic_pruning/{variant}", settings, rows, complete)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    dynamic(tmp_path, "paper/lenet_mnist-98", [0.98, 0.984], 2.0, sparsity=0.98)
    dynamic(tmp_path, "cpu/lenet_mnist-98", [0.5], 2.0, sparsity=0.98)
    dynamic(tmp_path, "cpu/resnet18_cifar10", [0.93, 0.95], 20.0, architecture="resnet18", dataset="cifar10")
    dynamic(tmp_path, "smoke/resnet34_cifar10", [0.1], 50.0)
    dynamic(tmp_path, "paper/vgg_cifar10-like-97", [0.9], 3.0, complete=False)
    return tmp_path


def test_each_run_counts_once_at_its_largest_profile_if_complete(root):
    assert {variant: folder.parents[1].name for variant, folder in runs_of(root, "dynamic_pruning").items()} == {
        "lenet_mnist-98": "paper",
        "resnet18_cifar10": "cpu",
    }


def test_the_summary_says_what_the_tables_hold_and_what_was_published(root):
    summary = dynamic_summary(root)
    row = summary.loc["lenet_mnist-98"]
    assert row["test accuracy (%)"] == "98.20 ± 0.28" and row["n"] == 2 and row["published"] == "98.35"
    assert row["true sparsity (%)"] == 98.0 == row["asked for (%)"] and row["seconds a training"] == 10
    assert summary.loc["resnet18_cifar10", "published"] == "95.24 ± 0.06, 94.91 at 0% sparse"
    missing = dynamic_missing(root)
    assert "resnet34_cifar10" in missing and "lenet_mnist-98" not in missing
    assert dynamic_summary(root / "nowhere").empty


def test_findings_are_differences_by_trial_with_their_interval(root):
    dynamic(root, "paper/lenet_mnist-dense", [0.97, 0.972], 100.0, sparsity=0.0)
    (line,) = (line for line in dynamic_pruning.findings(root) if "98% sparsity during training" in line)
    # t = 12.7, standard error 0.1
    assert "98.20% and 97.10%, a difference of +1.10 points [-0.17, +2.37] (n = 2)" in line
    a, b = pd.Series([0.1, 0.2, 0.3]), pd.Series([0.1, 0.1, 0.1])
    assert gap(a + 0.2, b + 0.2, 10) == "+10.00 points [-14.84, +34.84] (n = 3)"
    assert gap(a[2:] + 0.2, b[2:] + 0.2, 10) == "+20.00 points (n = 1: no interval)"


def test_a_training_that_is_stuck_at_chance_is_counted_and_not_averaged_in(root):
    """A network that always answers "1" is right on 11.35% of MNIST's test images; a mean with it means nothing."""
    a, b = pd.Series([0.98, 0.1135, 0.97, 0.96]), pd.Series([0.97, 0.97, 0.97, 0.1])
    assert gap(a, b, 10) == "+0.50 points [-5.85, +6.85] (n = 2; 2 of 4 trials excluded: stuck at chance)"
    assert level(a, 10) == "97.00% (1 of 4 trials excluded: stuck at chance)" and level(b[3:], 10) == "stuck at chance"
    assert gap(a[1:2], b[1:2], 10) == "an unknown amount (1 of 1 trials excluded: stuck at chance)"
    dynamic(root, "paper/lenet_mnist_sensitivity-rate-0.3", [0.98, 0.984, 0.1135], 21.1)
    row = dynamic_summary(root).loc["lenet_mnist_sensitivity-rate-0.3"]
    assert (row["test accuracy (%)"], row["n"], row["stuck at chance"]) == ("98.20 ± 0.28", 3, 1)


def test_chance_is_that_of_the_number_of_classes(root):
    assert list(learned_anything(pd.Series([0.011, 0.05]), 100)) == [False, True]
    assert list(learned_anything(pd.Series([0.51, 0.7]), 2)) == [False, True]
    a, b = pd.Series([0.08, 0.1]), pd.Series([0.05, 0.08])
    assert "(n = 2)" in gap(a, b, 100) and level(a, 100) == "9.00%" and level(a, 10) == "stuck at chance"
    dynamic(root, "paper/lenet_mnist_sensitivity-rate-0.3", [0.011, 0.05], dataset="cifar100", architecture="conv2")
    assert dynamic_summary(root).loc["lenet_mnist_sensitivity-rate-0.3", "stuck at chance"] == 1


def test_two_levels_and_their_difference_are_of_the_same_trials():
    more, fewer = pd.Series([0.9, 0.92, 0.1135, 0.99]), pd.Series([0.8, 0.82, 0.84])
    assert levels_and_gap(more, fewer, 10).startswith("91.00% and 81.00%, a difference of +10.00 points [")


def test_sentences_on_dynamic_pruning_have_the_settings_of_its_runs(root):
    """At profile cpu, runs are shorter, and some of the sensitivity study differ from the base in two ways."""
    for variant, accuracies in (("lenet_mnist-dense", [0.97]), ("lenet_mnist-78.9", [0.96])):
        dynamic(root, f"cpu/{variant}", accuracies, sparsity=0.789)
    path = root / "cpu" / "dynamic_pruning" / "lenet_mnist-98" / "run.json"
    longer = DynamicSettings(epochs=36, batch_size=64, prune_until=24, sparsity=0.98)
    write(root, "paper/dynamic_pruning/lenet_mnist-98-longer", longer, [{"arm": "dynamic", "trial": 0}])
    found = [line for line in dynamic_pruning.findings(root) if "compared with 30 epochs" in line]
    assert len(found) == 1 and found[0].startswith("LeNet pruned to 98% in 36 epochs")
    assert "(here also with `batch_size` 64)" in found[0] and path.exists()
    dynamic(root, "cpu/lenet_mnist_sensitivity-rate-0.3", [0.95], sparsity=0.789, learning_rate=0.3)
    dynamic(
        root, "cpu/lenet_mnist_sensitivity-rate-0.01", [0.94], sparsity=0.789, learning_rate=0.01, label_smoothing=0.1
    )
    (line,) = dynamic_pruning.sensitivity(root)
    assert "0.3: -1.00 points" in line and "0.01:" not in line


def test_runs_that_are_compared_by_trial_share_their_trials():
    """`gap` pairs runs by trial, which is valid only if trial t is the same draw in both (`share_trials`)."""
    for study in ("movement_pruning", "robust_training", "rewinding_and_connectivity"):
        for path in (PARAMS / study).glob("*.yaml"):
            runs = [e.settings.model_dump() for e in load_experiments(path, "paper")]
            assert all(share_trials(runs[0], run) for run in runs[1:])
    (against,) = (PARAMS / "iterative_pruning").glob("lenet_mnist_against_dynamic.yaml")
    dynamic_run = load_experiments(PARAMS / "dynamic_pruning" / "lenet_mnist.yaml", "paper")[0].settings.model_dump()
    for e in load_experiments(against, "paper"):
        assert share_trials(e.settings.model_dump(), dynamic_run)


def test_runs_with_changed_settings_and_other_profiles_are_not_mixed_in(root):
    dynamic(root, "paper/lenet_mnist-98-1a2b3c4d", [0.1], 2.0, sparsity=0.98)
    assert "lenet_mnist-98-1a2b3c4d" not in runs_of(root, "dynamic_pruning")
    dynamic(root, "cpu/lenet_mnist-dense", [0.97, 0.972], 100.0, sparsity=0.0)
    assert list(runs_beside(root, "dynamic_pruning", "lenet_mnist-98")) == ["lenet_mnist-98"]
    beside = runs_beside(root, "dynamic_pruning", "lenet_mnist-dense")
    assert {variant: folder.parents[1].name for variant, folder in beside.items()} == {
        "lenet_mnist-98": "cpu", "lenet_mnist-dense": "cpu", "resnet18_cifar10": "cpu",
    }  # fmt: skip
    assert runs_beside(root, "dynamic_pruning", "lenet_mnist-78.9") == {}
    assert not [
        line for line in dynamic_pruning.findings(root) if "compared with the dense network" in line
    ]  # one run has profile paper, the other cpu


def test_costs_are_those_of_all_trainings_that_lead_to_the_sparse_network(root):
    settings = Settings(rounds=2, iterations=400, trials=1, arms=["ticket", "continued"], reinit_draws=1)
    rows = [
        {"arm": arm, "trial": 0, "round": k, "final_test_accuracy": 0.9 + k / 100, "percent_left": 100 - 49 * k}
        for arm in settings.arms
        for k in range(3)
    ]
    write(root, "paper/iterative_pruning/lenet_mnist_against_dynamic-equal_cost-98", settings, rows)
    costs = pruning_costs(root).set_index("method")
    assert list(costs.loc["dynamic", "in all"]) == [12_870] * 2 and set(costs["sparsity"]) == {0.98}
    for method in ("iterative, rewound", "iterative, trained on"):
        assert (costs.loc[method, "in all"], costs.loc[method, "accuracy"]) == (3 * 400, 0.92)
    assert FIGURES["dynamic_costs"](root) is not None
    plt.close("all")


def test_a_sparsity_without_its_dynamic_run_is_not_compared(tmp_path):
    dynamic(tmp_path, "paper/lenet_mnist-98", [0.98, 0.984], 2.0, sparsity=0.98)
    settings = Settings(rounds=1, iterations=6435, trials=2, arms=["ticket"])
    for percent, left in (("78.9", 21.1), ("98", 2.0)):
        rows = [{"arm": "ticket", "trial": t, "round": 1, "final_test_accuracy": 0.97 + t / 1000, "percent_left": left}
                for t in range(2)]  # fmt: skip
        write(tmp_path, f"paper/iterative_pruning/lenet_mnist_against_dynamic-equal_cost-{percent}", settings, rows)
    [line] = dynamic_pruning.at_equal_cost(tmp_path)
    assert line.startswith("At 98.0% sparsity, dynamic pruning instead of iterative pruning with rewinding at equal")


@pytest.mark.parametrize(("changes", "unit", "end"), [({}, "epoch", 30), ({"epochs": 0}, "iteration", 600)])
def test_dynamic_training_is_drawn_by_epoch_or_by_iteration_and_on_the_set_that_all_have(changes, unit, end, tmp_path):
    folders = {}
    for label, validation in (("without", 0), ("with", 100)):
        settings = DynamicSettings(
            epochs=30, batch_size=128, trials=1, dataset="digits", architecture="mlp", validation=validation
        )
        settings = settings.changed(iterations=600, prune_until=0, **changes) if changes else settings
        folders[label] = folder = tmp_path / "paper" / "lab" / label
        write(tmp_path, f"paper/lab/{label}", settings, [{"arm": "dynamic", "trial": 0}])
        curves = pd.read_csv(folder / "curves.csv")  # three evaluations
        curves.assign(iteration=[0, 30, settings.iterations]).to_csv(folder / "curves.csv", index=False)
    figure = dynamic_pruning.dynamic_training(folders)
    left, loss, _ = figure.axes
    assert left.get_xlabel() == unit and [line.get_xdata()[-1] for line in loss.lines] == [end, end]
    assert loss.get_title("left") == "Loss (test)"
    plt.close("all")


def test_more_runs_than_colours_are_all_drawn(tmp_path):
    for i in range(10):
        dynamic(tmp_path, f"paper/mine-{i}", [0.9], 50.0, sparsity=0.5)
    runs = {f"run {i}": tmp_path / "paper" / "dynamic_pruning" / f"mine-{i}" for i in range(10)}
    assert len(dynamic_pruning.dynamic_training(runs).axes[0].lines) == 10
    plt.close("all")


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_without_tables_is_none_and_no_error(name, tmp_path):
    assert FIGURES[name](tmp_path) is None


@pytest.mark.parametrize("name", [name for name in FIGURES if name.startswith("dynamic")])
def test_every_figure_of_dynamic_pruning_draws_what_its_tables_hold(name, tmp_path):
    variants = [
        experiment
        for path in (PARAMS / "dynamic_pruning").glob("*.yaml")
        for experiment in load_experiments(path, "paper")
    ]
    for i, e in enumerate(variants):
        values = {
            k: v for k, v in e.settings.given().items() if k not in ("epochs", "trials", "batch_size", "eval_every")
        }
        left = 100.0 if e.settings.masking == "gradients" else 100 * (1 - e.settings.sparsity)
        values |= {"prune_until": 0, "prune_from": 0}
        dynamic(tmp_path, f"paper/{e.variant}", [0.9 + i / 1000, 0.9 + i / 1000], left, **values)
    (experiment,) = [
        e
        for e in load_experiments(PARAMS / "iterative_pruning" / "lenet_mnist_against_dynamic.yaml", "paper")
        if e.variant.endswith("equal_cost-98")
    ]
    rows = [{"arm": "ticket", "trial": 0, "round": 18, "final_test_accuracy": 0.97, "percent_left": 2.0}]
    write(tmp_path, experiment.name, experiment.settings, rows)
    figure = FIGURES[name](tmp_path)
    values = {round(float(y), 4) for axes in figure.axes for line in axes.lines for y in line.get_ydata()}
    values |= {
        round(float(y), 4) for a in figure.axes for c in a.collections for point in c.get_offsets() for y in point
    }
    number = {e.variant: round(0.9 + i / 1000, 4) for i, e in enumerate(variants)}
    wanted = {
        "dynamic_training": {0.5, 100, 90, 80},
        "dynamic_sparsities": {number["lenet_mnist-98"], number["resnet18_cifar10_sparsities-95"], 0.9386},
        "dynamic_schedules": {number["lenet_mnist_schedules-constant"], number["lenet_mnist-98"]},
        "dynamic_sensitivity": {number["lenet_mnist_sensitivity-depth-4"], number["lenet_mnist-78.9"]},
        "dynamic_costs": {number["lenet_mnist-98"], 0.97},
    }[name]
    assert wanted <= values
    plt.close("all")


def test_what_was_published_is_of_experiments_that_there_are():
    there = {e.variant for path in (PARAMS / "dynamic_pruning").glob("*.yaml") for e in load_experiments(path, "paper")}
    assert set(published("dynamic_pruning").index) <= there
    tried = {e.variant for e in load_experiments(PARAMS / "iterative_pruning/input_scaling.yaml", "paper")}
    assert {f"input_scaling-{network}-unit" for network in published("input_scaling").index} <= tried
    assert set(yaml.safe_load((PARAMS / "published.yaml").read_text())) == {"dynamic_pruning", "input_scaling"}


def test_a_tickets_cost_is_that_of_the_trainings_that_lead_to_it(tmp_path):
    settings = Settings(rounds=3, iterations=400, batch_size=100, trials=2, arms=["ticket", "oneshot"])
    accuracy = {"ticket": [0.99, 0.985, 0.981, 0.97], "oneshot": [None, 0.982, 0.979, 0.96]}
    rows = [
        {"arm": arm, "trial": t, "round": k, "final_test_accuracy": a, "percent_left": 100 / 2**k}
        for arm, values in accuracy.items()
        for t in (0, 1)
        for k, a in enumerate(values)
        if a
    ]
    write(tmp_path, "paper/iterative_pruning/lenet_mnist", settings, rows)
    at_init = settings.changed(criterion="magnitude_at_init", trials=3)
    three = [{**row, "trial": t} for row in rows if row["arm"] == "ticket" and row["trial"] == 0 for t in range(3)]
    write(tmp_path, "paper/iterative_pruning/lenet_mnist_at_init", at_init, three)
    write(tmp_path, "paper/iterative_pruning/lenet_mnist_widths-25-9", settings, rows)
    dynamic(tmp_path, "paper/lenet_mnist-98", [0.981, 0.983], 2.0, sparsity=0.98)
    dynamic(tmp_path, "paper/lenet_mnist-dense", [0.99, 0.99], 100.0, sparsity=0.0)
    costs = ticket_costs(tmp_path).set_index("way")
    ticket = costs.loc["iterative_pruning: lenet_mnist, ticket"]
    assert (ticket["% of weights remaining"], ticket["trainings"], ticket["iterations"]) == (25.0, 3, 1200)
    assert ticket["core seconds"] == 30 and ticket["n"] == 2
    oneshot = costs.loc["iterative_pruning: lenet_mnist, oneshot"]
    assert (oneshot["% of weights remaining"], oneshot["trainings"], oneshot["iterations"]) == (50.0, 2, 800)
    before_training = costs.loc["iterative_pruning: lenet_mnist_at_init, ticket"]
    assert (before_training["% of weights remaining"], before_training["iterations"]) == (25.0, 400)
    assert not costs.index.str.contains("widths").any()  # a network of another size is no way to a sparse LeNet
    single = costs.loc["dynamic_pruning: lenet_mnist"]
    assert (single["% of weights remaining"], single["trainings"], single["iterations"]) == (2.0, 1, 12_870)


def test_findings_of_the_ablation_are_against_base(tmp_path):
    assert robust_training.findings(tmp_path) == []
    for label, gain in (("base", 0.0), ("dropout", 0.002)):
        settings = Settings(rounds=1, trials=2, arms=["ticket"])
        rows = [
            {"arm": "ticket", "trial": t, "round": k, "es_test_accuracy": 0.97 + gain + t / 100, "percent_left": left}
            for t in (0, 1)
            for k, left in ((0, 100.0), (1, 6.25))
        ]
        write(tmp_path, f"paper/robust_training/lenet_mnist-{label}", settings, rows)
    first, second = robust_training.findings(tmp_path)
    assert first == (
        "The test accuracy of base at the early stop is 97.50% at 100%, 97.50% at 6.25% of weights remaining."
    )
    assert second.startswith(
        "With dropout, the test accuracy at the early stop differs from base by +0.20 points [+0.20, +0.20] (n = 2)"
    )
    table = robust_training.gains(tmp_path)
    assert list(table.columns) == ["100%", "6.25%"] and list(table.index) == ["base: Adam (%)", "+ dropout"]
    assert table.loc["base: Adam (%)", "6.25%"].startswith("97.50% [")
    assert table.loc["+ dropout", "6.25%"] == "+0.20 [+0.20, +0.20]"


def test_masks_found_before_training_are_held_against_one_shot_tickets_and_checks_against_their_masks(tmp_path):
    arms = {"oneshot": 0.98, "by_snip": 0.97, "by_snip-shuffled": 0.96, "by_random": 0.9}
    rows = [
        {"arm": arm, "trial": t, "round": k, "final_test_accuracy": a - t / 100, "percent_left": 100 / 4**k}
        for arm, a in arms.items()
        for t in (0, 1)
        for k in (1, 2)
    ]
    assert pruning_at_init.oneshot_table(tmp_path).empty and pruning_at_init.checks_table(tmp_path).empty
    write(tmp_path, "paper/pruning_at_init/lenet_mnist", Settings(rounds=2, trials=2, arms=["ticket", *arms]), rows)
    dynamic(tmp_path, "paper/lenet_mnist_rigl-93.75", [0.985, 0.975], 6.25, sparsity=0.9375)
    beside, checks = (make(tmp_path) for make in (pruning_at_init.oneshot_table, pruning_at_init.checks_table))
    assert beside["6.25%"].to_dict() == {
        "one-shot ticket (%)": "97.50% [91.15%, 100.00%]", "SNIP": "-1.00 [-1.00, -1.00]",
        "random": "-8.00 [-8.00, -8.00]", "RigL (uniform)": "+0.50 [+0.50, +0.50]",
    }  # fmt: skip
    assert checks["6.25%"].to_dict() == {("SNIP", "mask shuffled within layers"): "-1.00 [-1.00, -1.00]"}
    said = pruning_at_init.findings(tmp_path)
    assert "SNIP -1.00 points [-1.00, -1.00] (n = 2)" in said[0] and "shuffled within layers -1.00 points" in said[-1]


def test_findings_of_movement_begin_with_the_published_network_and_name_emptied_layers(tmp_path):
    def conv4(emptied: str | None, trials: int) -> str:
        settings = Settings(architecture="conv4", dataset="cifar10", rounds=2, trials=trials, arms=["ticket"])
        rows = [
            {
                "arm": "ticket",
                "trial": t,
                "round": k,
                "percent_left": left,
                "final_test_accuracy": accuracy + t / 50,
                "emptied": gone,
            }
            for t in range(trials)
            for k, (left, accuracy, gone) in enumerate([(100.0, 0.75, None), (35.0, 0.7, None), (23.0, 0.6, emptied)])
        ]
        write(tmp_path, "cpu/movement_pruning/conv4_cifar10-high_movement", settings, rows)
        (said,) = movement_pruning.findings(tmp_path)
        shutil.rmtree(tmp_path / "cpu")
        return said.removeprefix("Conv-4 on CIFAR-10 (profile `cpu`), removing the weights that moved most: ")

    assert conv4(None, 1) == (
        "the test accuracy at the end of training is 75.00% at 100%, 70.00% at 35%, 60.00% at 23% of weights remaining "
        "(n = 1); no layer was emptied."
    )
    several = conv4("conv1.weight", 2)
    assert "76.00% [63.29%, 88.71%] at 100%" in several and several.endswith("(n = 2); emptied layers: conv1.weight.")


def test_accuracies_of_conv4_are_listed_by_criterion_and_first_at_each_percentage(tmp_path):
    assert movement_pruning.levels_of_conv4(tmp_path) == ""
    settings = Settings(architecture="conv4", dataset="cifar10", rounds=2, trials=1, arms=["ticket"])
    for criterion, sizes in (("high_movement", (100.0, 50.0, 50.0)), ("random", (100.0, 50.0, 25.0))):
        rows = [
            {"arm": "ticket", "trial": 0, "round": k, "percent_left": left, "es_test_accuracy": 0.7 - k / 10,
             "final_test_accuracy": 0.6 - k / 10}
            for k, left in enumerate(sizes)
        ]  # fmt: skip
        write(tmp_path, f"cpu/movement_pruning/conv4_cifar10-{criterion}", settings, rows)
    assert movement_pruning.levels_of_conv4(tmp_path).splitlines() == [
        "| weights remaining | prune high movement | prune at random |",
        "| --- | --- | --- |",
        "| 100.0% | 70.0 / 60.0 | 70.0 / 60.0 |",
        "| 50.0% | 60.0 / 50.0 | 60.0 / 50.0 |",  # the second round of high movement at 50% pruned nothing
        "| 25.0% |  | 50.0 / 40.0 |",
    ]


def test_criteria_are_compared_with_random_pruning_where_high_movement_ends_and_at_the_last_round(tmp_path):
    """At the last round of the others, high movement has no ticket and is left out."""
    settings = Settings(architecture="lenet", dataset="mnist", rounds=2, trials=2, arms=["ticket"])
    for criterion, sizes, accuracies in (
        ("high_movement", (100.0, 50.0, 50.0), (0.9, 0.7, 0.7)),  # the second round pruned nothing
        ("low_movement", (100.0, 50.0, 25.0), (0.9, 0.8, 0.78)),
        ("random", (100.0, 50.0, 25.0), (0.9, 0.8, 0.75)),
        ("high_movement_going_on", (100.0, 50.0, 25.0), (0.9, 0.1, 0.1)),
    ):
        rows = [
            {"arm": "ticket", "trial": t, "round": k, "percent_left": size, "final_test_accuracy": accuracy + t / 100}
            for t in range(2)
            for k, (size, accuracy) in enumerate(zip(sizes, accuracies, strict=True))
        ]
        write(tmp_path, f"paper/movement_pruning/lenet_mnist-{criterion}", settings, rows)
    still = [  # half of the weights are in each layer of each round
        {"trial": t, "round": k, "layer": layer, "percent_left": 100 / 2**k, "weights_left": 100, "immovable": share}
        for t in range(2)
        for k in range(3)
        for layer, share in (("fc1", 0.05 * k), ("output", 0.1 * k))
    ]
    name = "paper/movement_pruning/lenet_mnist-high_movement_going_on/immovable.csv"
    pd.DataFrame(still).to_csv(tmp_path / name, index=False)
    found = [line.partition("profile `paper`), ")[2] for line in movement_pruning.findings(tmp_path)]
    said = (
        "of weights remaining: removing the weights that moved {} instead of random ones changes the test accuracy at "
        "the end of training by"
    )
    assert [line.partition(" points")[0] for line in found] == [
        f"at 50% {said.format('most')} -10.00",
        f"at 50% {said.format('least')} +0.00",
        f"at 25% {said.format('least')} +3.00",
        "at 50% of weights remaining: if high movement continues from the best weights instead of rewinding them, this "
        "changes the test accuracy at the end of training by -60.00",
    ]
    assert found[-1].endswith("points [-60.00, -60.00] (n = 2); 7.50% of the remaining weights are immovable.")


@pytest.mark.parametrize("name", ["movement_rounds", "movement_arms", "movement_layers", "movement_immovable",
                                  "robust_training", "robust_ablation", "structured_pruning"])  # fmt: skip
def test_figures_of_the_committed_tables_have_something_in_each_panel(name):
    figure = FIGURES[name](project_root() / "results")
    shown = [axes for axes in figure.axes if axes.axison]
    assert shown and all(axes.lines or axes.collections or axes.patches for axes in shown)
    assert "; tables: results/" in " ".join(figure._supxlabel.get_text().split())
    said = [figure._supxlabel.get_text(), *(axes.get_title(loc="left") for axes in figure.axes)]
    assert any(re.search(r"n = \d+ trials? of [\d,]+ iterations", text) for text in map(" ".join, map(str.split, said)))
    plt.close("all")


def test_other_recipes_of_dynamic_pruning_are_compared_with_the_published_one(root):
    dynamic(root, "paper/lenet_mnist-78.9", [0.96, 0.97], 21.1)
    dynamic(root, "paper/lenet_mnist_sensitivity-momentum-0", [0.1, 0.95], 21.1)
    dynamic(root, "paper/lenet_mnist_sensitivity-momentum-0.5", [0.95, 0.96], 21.1)
    assert dynamic_pruning.sensitivity(root) == [
        "LeNet pruned to 78.9%, change in the final test accuracy by another momentum than 0.9: 0: -2.00 points "
        "(n = 1: no interval; 1 of 2 trials excluded: stuck at chance); 0.5: -1.00 [-1.00, -1.00] (n = 2)."
    ]


def test_each_network_is_rewound_within_its_own_runs(tmp_path):
    """Points are read from the settings, not from sweep labels: `later` is a point of ResNet-20, and not of LeNet."""
    runs = {"lenet_mnist-0": 0, "lenet_mnist-20": 20, "resnet20_cifar10-0": 0, "resnet20_cifar10-later": 87}
    for variant, iteration in runs.items():
        settings = Settings(rounds=1, trials=2, arms=["ticket"], rewind_to=iteration, iterations=100)
        rows = [
            {"arm": "ticket", "trial": t, "round": k, "percent_left": left,
             "final_test_accuracy": 0.9 + (iteration == 87) / 100 + t / 50}
            for t in (0, 1)
            for k, left in ((0, 100.0), (1, 6.25))
        ]  # fmt: skip
        write(tmp_path, f"paper/rewinding_and_connectivity/{variant}", settings, rows)
    points = rewinding_and_connectivity.points_of
    assert {network: list(points(tmp_path, network)) for network in rewinding_and_connectivity.NETWORKS} == {
        "lenet_mnist": [0, 20],
        "resnet20_cifar10": [0, 87],
    }
    said = rewinding_and_connectivity.findings(tmp_path)
    assert [line.split("weights to iteration ")[1].split(" ")[0] for line in said] == ["20", "87"]
    assert "+0.00 points" in said[0] and "+1.00 points" in said[1]
    changes = rewinding_and_connectivity.rewinding_changes(points(tmp_path, "resnet20_cifar10"))
    assert changes.loc["rewinding the weights to iteration 87 instead of 0"].to_dict() == {
        "6.25%": "+1.00 [+1.00, +1.00]"
    }
    for draw in rewinding_and_connectivity.STUDY.figures.values():
        assert draw(tmp_path).axes[0].lines
    folder = points(tmp_path, "resnet20_cifar10")[87]
    pd.read_csv(folder / "rounds.csv").query("round == 0").to_csv(folder / "rounds.csv", index=False)  # on its way
    assert not [line for line in rewinding_and_connectivity.findings(tmp_path) if "iteration 87" in line]


def test_a_result_stands_beside_a_published_one_with_the_epochs_of_both(root):
    dynamic(root, "cpu/resnet18_cifar10_sparsities-dense", [0.94, 0.95], 100.0, architecture="resnet18")
    said = dynamic_pruning.findings(root)
    assert (
        "`resnet18_cifar10` (profile cpu, 30 epochs): final test accuracy 94.00% [81.29%, 100.00%] (n = 2). "
        "Published: 95.24% (200 epochs)." in said
    )
    assert any("ResNet-18 pruned to 80%" in line and "final test accuracy 94.00% and" in line for line in said)


def test_one_rewinding_point_alone_is_drawn_and_compared_with_nothing(tmp_path):
    """Papermill executes the notebook for each run of a sweep, with the folder of this run alone."""
    settings = Settings(
        dataset="digits", architecture="mlp", validation=200, iterations=40, eval_every=20, rewind_to=10,
        arms=["ticket"], trials=2, rounds=1,
    )  # fmt: skip
    run(settings, tmp_path, quiet=True)
    assert rewinding_findings({10: tmp_path}) == []
    assert len(rewinding_and_connectivity.rewinding({10: tmp_path}).axes) == 4


def test_a_finished_run_counts_whatever_profiles_its_params_file_has(root, tmp_path, monkeypatch):
    lab = tmp_path / "lab"
    (lab / "params/dynamic_pruning").mkdir(parents=True)
    asked = yaml.safe_load((PARAMS / "dynamic_pruning/lenet_mnist.yaml").read_text())
    asked["profiles"] = {"paper": asked["profiles"]["paper"]}
    (lab / "params/dynamic_pruning/lenet_mnist.yaml").write_text(yaml.safe_dump(asked))
    monkeypatch.setattr("lthcore.report.finished_runs.project_root", lambda: lab)
    assert runs_of(root, "dynamic_pruning").keys() <= {"lenet_mnist-dense", "lenet_mnist-98"}
    assert "lenet_mnist-98" in runs_of(root, "dynamic_pruning")


def test_a_run_or_params_file_that_cannot_be_used_is_left_out_and_said_so(tmp_path, monkeypatch, capsys):
    """The other runs are compared without it. A run is of no use if its params file was changed since."""
    study = tmp_path / "params" / "lab"
    study.mkdir(parents=True)
    (tmp_path / "notebooks").mkdir()
    (study / "a.yaml").write_text(
        "{dataset: digits, validation: 200, sweep: {x: {}, y: {}, z: {}}, profiles: {cpu: {}}}"
    )
    (study / "b.yaml").write_text("{trials: none, profiles: {cpu: {}}}")
    monkeypatch.chdir(tmp_path)
    settings = load_experiments(study / "a.yaml")[0].settings
    for name, now in (("a-x", settings), ("a-y", settings), ("a-z", settings.changed(batch_size=30))):
        write(tmp_path / "results", f"cpu/lab/{name}", now, [{"round": 0}])
    (tmp_path / "results/cpu/lab/a-y/run.json").write_text("{")
    assert list(runs_of(tmp_path / "results", "lab")) == ["a-x"]
    err = capsys.readouterr().err
    assert err.count("note: left out: ") == 3 and "b.yaml" in err and "a-y" in err
    assert "a-z was made with other settings than its params file has now" in err


def test_draws_of_a_trial_count_once():
    ours = pd.Series([0.92, 0.93, 0.95, 0.91], index=[0, 0, 1, 2])
    base = pd.Series([0.90, 0.91, 0.90], index=[0, 1, 2])
    averaged = pd.Series([0.925, 0.95, 0.91], index=[0, 1, 2])
    assert gap(ours, base, 10) == gap(averaged, base, 10) and "(n = 3)" in gap(ours, base, 10)
