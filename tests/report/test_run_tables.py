"""Reports read whole trials only: an unfinished trial changes no number, and a diverged one is not left out."""

import json

import numpy as np
import pandas as pd
import pytest

from lthcore.report.figure_specs import LENET
from lthcore.report.layout import caption_of, describe, new_figure
from lthcore.report.plots import plot_rounds
from lthcore.report.run_tables import Absent, RunTables, read_whole_trials, whole_trials, without_trials_on_their_way
from lthcore.report.tables import differences
from lthcore.runs import schemas
from lthcore.runs.rows import nearest_round

WHOLE, LAST = 2, 3  # number of whole trials; the last round
BEGUN = 7  # the unfinished trial


def rows_of(trial: int, rounds: int) -> list[dict]:
    """Return the rows of the tickets of a trial. Trials differ in accuracy, rounds do not."""
    return [
        {"arm": "ticket", "trial": trial, "draw": 0, "round": k, "weights_left": 1000, "percent_left": 100 * 0.8**k,
         "es_test_accuracy": 0.9 + 0.01 * trial, "iterations": 100, "seconds": 1.0, "diverged": False, "skipped": False}
        for k in range(rounds)
    ]  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """Run with two whole trials, and one that has reached the round before the last."""
    folder = tmp_path / "cpu" / LENET
    folder.mkdir(parents=True)
    rows = [row for trial in range(WHOLE) for row in rows_of(trial, LAST + 1)] + rows_of(BEGUN, LAST)
    rounds = pd.DataFrame(rows).reindex(columns=schemas.ROUNDS)
    rounds.to_csv(folder / "rounds.csv", index=False)
    curves = rounds[["arm", "trial", "draw", "round", "percent_left"]].assign(iteration=100, test_accuracy=0.9)
    curves.reindex(columns=schemas.CURVES).to_csv(folder / "curves.csv", index=False)
    record = {"run_key": "k", "settings": {}, "n": 3, "trainings_done": len(rows), "trainings_planned": 12}
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def test_a_trial_on_its_way_is_left_out(folder):
    rounds, curves = read_whole_trials(folder)
    assert set(rounds["trial"]) == set(curves["trial"]) == set(range(WHOLE))
    assert len(rounds) == len(curves) == WHOLE * (LAST + 1)
    assert RunTables.read(folder).n == whole_trials(folder) == WHOLE


def test_a_round_of_an_arm_that_a_trial_lacks_is_left_out(folder):
    """Figures say n in their caption: a mean over fewer trials would be a mean over others."""
    for name in ("rounds", "curves"):
        table = pd.read_csv(folder / f"{name}.csv")
        control = table[table["round"] > 0].assign(arm="reinit")
        lacking = control[(control["round"] < LAST) | (control["trial"] == 0)]
        pd.concat([table, lacking]).to_csv(folder / f"{name}.csv", index=False)
    rounds, curves = read_whole_trials(folder)
    for table in (rounds, curves):
        assert set(table.loc[table["arm"] == "ticket", "round"]) == set(range(LAST + 1))
        assert set(table.loc[table["arm"] == "reinit", "round"]) == set(range(1, LAST))


def test_tables_beside_it_are_of_the_same_trials(folder):
    structure = pd.DataFrame({"trial": [0, 1, BEGUN], "movement_kept": [1.0, 2.0, 100.0]})
    structure.to_csv(folder / "structure.csv", index=False)
    assert RunTables.read(folder).table("structure")["movement_kept"].tolist() == [1.0, 2.0]


def test_captions_count_the_trials_that_are_drawn(folder):
    assert f"n = {WHOLE} trials" in caption_of("LeNet", folder)
    caption = describe(folder)
    assert f"n = {WHOLE} trials" in caption


def test_a_first_trial_on_its_way_is_all_there_is():
    rounds = pd.DataFrame(rows_of(0, LAST))
    assert len(without_trials_on_their_way(rounds)) == LAST


def test_a_trial_that_diverged_is_not_on_its_way():
    begun = pd.DataFrame(rows_of(BEGUN, LAST))
    begun.loc[begun.index[-1], "diverged"] = True
    rounds = pd.concat([pd.DataFrame(rows_of(0, LAST + 1)), begun])
    assert set(without_trials_on_their_way(rounds)["trial"]) == {0, BEGUN}


def test_a_control_that_diverged_makes_no_trial_whole():
    begun = pd.DataFrame(rows_of(BEGUN, LAST))
    control = begun.iloc[[-1]].assign(arm="reinit", diverged=True)
    rounds = pd.concat([pd.DataFrame(rows_of(0, LAST + 1)), begun, control])
    assert set(without_trials_on_their_way(rounds)["trial"]) == {0}


@pytest.fixture
def skipping() -> pd.DataFrame:
    """Tickets of two trials that skipped different rounds: a mean over one round is one of networks of two sizes."""
    left = {0: [100, 80, 64, 64, 51, 41], 1: [100, 100, 80, 64, 51, 51]}
    accuracy = {0: [0.99, 0.98, 0.97, 0.5, 0.96, 0.95], 1: [0.99, 0.4, 0.97, 0.96, 0.95, 0.3]}
    return pd.DataFrame([
        {"arm": "ticket", "trial": trial, "draw": 0, "round": k, "percent_left": left[trial][k], "diverged": False,
         "final_test_accuracy": accuracy[trial][k], "skipped": k > 0 and left[trial][k] == left[trial][k - 1],
         "es_test_accuracy": 0.9, "es_val_accuracy": 0.9, "es_iteration": 10, "iterations": 20}
        for trial in left for k in range(6)
    ])  # fmt: skip


def test_trials_that_skipped_rounds_are_read_each_in_its_own(skipping):
    run = RunTables.of(skipping)
    for percent, expected in ((64, [0.97, 0.96]), (80, [0.98, 0.97]), (51, [0.96, 0.95])):
        assert run.at(percent, "final_test_accuracy", "ticket").tolist() == expected
    assert run.at(51, "final_test_accuracy", "dense").tolist() == [0.99, 0.99]
    with pytest.raises(Absent, match="a trial has no round with 41%"):
        run.at(41, "final_test_accuracy", "ticket")
    axes = new_figure(1, 1)[1][0]
    plot_rounds(skipping, "final_test_accuracy", axes, "movement", "#222222")
    assert np.allclose(axes.lines[0].get_xydata(), [(100, 0.99), (80, 0.975), (64, 0.965), (51, 0.955)])


def test_an_arm_that_skipped_no_round_is_read_at_its_own_percentages(skipping):
    later = skipping[skipping["round"] > 0]
    own = {"percent_left": 100 * 0.8 ** later["round"], "final_test_accuracy": later["round"], "skipped": False}
    run = RunTables.of(pd.concat([skipping, later.assign(arm="oneshot", **own)]))
    assert run.at(64, "final_test_accuracy", "oneshot").tolist() == [2, 2]


def test_differences_leave_out_a_size_that_not_every_trial_has(skipping):
    assert list(differences(skipping, (51.0, 46.0)).index) == ["51.0%"]  # 46% is the mean of the last round


def test_the_nearest_round_is_nearest_by_ratio_and_within_the_tolerance():
    left = pd.Series({0: 100.0, 1: 51.3, 2: 21.1, 3: np.nan, 4: 3.6})
    assert nearest_round(left, 21.1, 0) == 2
    assert nearest_round(left, 51.3 * 1.05, 0.06) == nearest_round(left, 51.3 / 1.05, 0.06) == 1
    assert nearest_round(left, 51.3 * 1.07, 0.06) is nearest_round(left, 51.3 / 1.07, 0.06) is None
    assert nearest_round(left, 9, 2) == 2  # 9 is 2.3 times less than 21.1 and 2.5 times more than 3.6
    assert nearest_round(left.iloc[:0], 50, 0.5) is None
