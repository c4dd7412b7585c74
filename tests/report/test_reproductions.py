"""Reproductions: our results are shown beside those of others, at their percentages of weights remaining."""

import json

import pandas as pd
import pytest

from lthcore import paths
from lthcore.errors import LabError
from lthcore.report import reproductions as module
from lthcore.report.readme import found_in
from lthcore.report.reproductions import reproductions
from lthcore.runs import schemas
from lthcore.runs.experiments import load_experiments, params_files

LEFT = (100.0, 64.2, 26.5, 4.6)
GAINS = {"ticket": (0, 0.5, 1.5, -2.0), "reinit": (None, -1.0, -2.0, -3.0)}
DENSE = (69.0, 70.0, 71.0)


def write(root, trials: int) -> None:
    """Write a run of Conv-2 whose arms gain GAINS points in every trial, and twice as much on validation images."""
    rows = [
        {
            "arm": arm, "trial": trial, "draw": 0, "round": k, "percent_left": left, "weights_left": int(1000 * left),
            "es_test_accuracy": (DENSE[trial] + gain) / 100, "es_val_accuracy": (DENSE[trial] + 2 * gain) / 100,
            "es_iteration": 1000, "iterations": 6000, "seconds": 1.0,
        }
        for arm, gains in GAINS.items()
        for trial in range(trials)
        for k, (left, gain) in enumerate(zip(LEFT, gains, strict=True))
        if gain is not None
    ]  # fmt: skip
    folder = root / "cpu" / "iterative_pruning" / "conv2_cifar10"
    folder.mkdir(parents=True)
    pd.DataFrame(rows).reindex(columns=schemas.ROUNDS).to_csv(folder / "rounds.csv", index=False)
    pd.DataFrame(columns=schemas.CURVES).to_csv(folder / "curves.csv", index=False)
    settings = {"rounds": 3, "iterations": 6000, "precision": "bfloat16"}
    record = {
        "run_key": "conv2",
        "settings": settings,
        "n": trials,
        "n_test": 1000,
        "n_validation": 5000,
        "complete": True,
    }
    (folder / "run.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("trials", "dense", "gain"), [(3, "70.00 [67.52, 72.48]", "+1.50 [+1.50, +1.50]"), (1, "69.00", "+1.50")]
)
def test_ours_are_the_gains_of_the_table(tmp_path, trials, dense, gain):
    write(tmp_path, trials)
    table = reproductions(tmp_path).set_index("network").loc["Conv-2 on CIFAR-10"]
    assert (table["of"], table["n"], table["dense network (%)"]) == ("**this lab**, `cpu`", trials, dense)
    assert table["largest gain (points)"] == "+1.50 at 26.5%"
    gains = table["gains at % of weights remaining (points)"].split("; ")
    assert [part.split(":")[0] for part in gains] == ["64.2%", "26.5%", "4.6%"]  # the run has no round near 11.0%
    assert gains[1] == f"26.5%: {gain}"
    assert table["note"] == (
        "6,000 iterations, bfloat16, 1,000 test images; on 5,000 validation images the largest gain is +3.00 at 26.5%"
    )


def test_the_sentences_of_a_single_trial_say_how_little_it_tells(tmp_path):
    write(tmp_path, 1)
    text = found_in("convolutional", tmp_path)
    first, _, second = text.splitlines()[:3]
    assert "1 trial, 3 rounds of pruning down to 4.6% of weights. An accuracy on 1,000 test images" in first
    assert "a standard error of 1.5 points" in first
    assert second.startswith("* In a single trial, tickets stop no later") and "down to 26.5% of the weights" in second
    assert "[" not in text and found_in("convolutional", tmp_path / "empty") == "* Not run yet."


def test_the_training_images_that_the_least_fitted_tickets_have_right_stand_beside_the_dense_networks(tmp_path):
    write(tmp_path, 3)
    path = tmp_path / "cpu" / "iterative_pruning" / "conv2_cifar10" / "rounds.csv"
    rounds = pd.read_csv(path)
    rounds.assign(final_train_accuracy=0.9 - 0.1 * rounds["round"]).to_csv(path, index=False)
    left, last = rounds.groupby("round")["percent_left"].mean(), rounds["round"].max()
    lines = found_in("convolutional", tmp_path).splitlines()
    line = next(line for line in lines if "training accuracy" in line)
    assert "the dense network has a training accuracy of 90.00% [90.00%, 90.00%]." in line
    assert f"lowest at {left[last]:.1f}% of weights remaining: {90 - 10 * last:.2f}% [" in line


def test_what_has_not_been_run_is_said(tmp_path):
    ours = reproductions(tmp_path).query("of == '**this lab**'")
    assert len(ours) and set(ours["note"]) == {"no whole trial yet"}


def test_the_first_rounds_of_a_search_have_no_largest_gain(tmp_path):
    write(tmp_path, 1)
    path = tmp_path / "cpu" / "iterative_pruning" / "conv2_cifar10" / "rounds.csv"
    pd.read_csv(path).query("round < 3").to_csv(path, index=False)
    assert set(reproductions(tmp_path).query("n > 0 and of.str.startswith('**this lab')")["of"]) == set()
    assert found_in("convolutional", tmp_path) == "* Not run yet."


def test_the_file_names_runs_that_are_defined_and_largest_gains_that_are_largest():
    file = module.read_yaml(paths.project_root() / "params" / "reproductions.yaml", "reproductions")
    defined = {e.name.partition("/")[2] for path in params_files() for e in load_experiments(path)}
    for table in file["tables"]:
        assert table["run"] in defined
        for found in table["found"]:
            assert found.get("best", 99) >= max(found.get("gains", {}).values(), default=-99)
    assert all(source["address"].startswith("https://") for source in file["by"].values())


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("network: N, run: r, found: [{by: b, n: 1}]", "by = 'b': allowed are a"),
        ("network: N, run: r, measure: es_test_acuracy, found: []", "measure = 'es_test_acuracy'"),
        ("network: N, run: r, arm: tickett, found: []", "arms = 'tickett'"),
        ("network: N, run: r, found: [{by: a, n: 1, gains: {about 51: 1}}]", "about 51"),
    ],
)
def test_what_the_file_says_wrongly_is_one_line(table, said, tmp_path, monkeypatch):
    (tmp_path / "params").mkdir()
    text = f"by: {{a: {{of: a, address: 'https://a'}}}}\ntables: [{{{table}}}]\n"
    (tmp_path / "params" / "reproductions.yaml").write_text(text)
    monkeypatch.setattr(module, "project_root", lambda: tmp_path)
    with pytest.raises(LabError, match=said):
        reproductions(tmp_path)
