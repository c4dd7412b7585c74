"""Findings, summaries and measures, on tables with known answers."""

import numpy as np
import pandas as pd
import pytest

from lthcore.report.measures import falls_below, gain, smallest_winning
from lthcore.report.run_tables import RunTables
from lthcore.report.tables import described, differences, findings, summary, with_dense

LEFT = {0: 100.0, 1: 51.3, 2: 21.1, 3: 3.6}


def table(stops: dict[str, list[float]], accuracies: dict[str, list[float]], trials: int = 2) -> pd.DataFrame:
    """Return a rounds.csv in which trial t stops t iterations later and is t hundredths of a point more accurate."""
    rows = [
        {"arm": arm, "trial": trial, "draw": 0, "round": k, "percent_left": LEFT[k],
         "iterations": 5000, "es_iteration": stops[arm][k] + trial,
         "es_test_accuracy": accuracies[arm][k] + trial * 1e-4,
         "diverged": False, "final_test_accuracy": 0.98 + 0.001 * (arm == "ticket" and k == 2) + trial * 1e-4}
        for arm in stops for trial in range(trials) for k in LEFT if k or arm == "ticket"
    ]  # fmt: skip
    return pd.DataFrame(rows)


@pytest.fixture
def rounds() -> pd.DataFrame:
    stops = {"ticket": [1000, 800, 600, 1200], "reinit": [0, 1100, 1500, 2000]}
    accuracies = {"ticket": [0.980, 0.982, 0.984, 0.970], "reinit": [0, 0.979, 0.975, 0.960]}
    return table(stops, accuracies)


def test_every_arm_starts_from_the_dense_network(rounds):
    every = with_dense(rounds)
    dense = every.query("round == 0")
    assert len(every) == len(rounds) + 2 and dense.groupby("arm").size().to_dict() == {"reinit": 2, "ticket": 2}
    for _, part in dense.groupby("arm"):
        assert part["es_iteration"].tolist() == [1000, 1001]
    alone = rounds[rounds["arm"] == "ticket"]
    assert with_dense(alone).equals(alone)


def test_a_ticket_wins_where_it_is_no_slower_and_no_worse(rounds):
    assert smallest_winning(RunTables(rounds)).value == 21.1
    slower = table({"ticket": [1000, 1001, 1001, 1001]}, {"ticket": [0.98] * 4})
    assert smallest_winning(RunTables(slower)).value == 100.0  # the dense network itself
    tied = table({"ticket": [1000, 1100, 1000, 1100]}, {"ticket": [0.98, 0.98, 0.98, 0.97]})
    assert smallest_winning(RunTables(tied)).value == 21.1  # as early and as accurate, with fewer weights


def test_differences_are_paired_by_trial_and_averaged_over_draws(rounds):
    found = gain(RunTables(rounds), 21.1)
    assert (found.low, found.high) == pytest.approx((0.004, 0.004))
    again = rounds[(rounds["arm"] == "reinit") & (rounds["round"] == 2)].assign(draw=1)
    again["es_test_accuracy"] += 0.002
    found = gain(RunTables(pd.concat([rounds, again])), 21.1, against="reinit")
    assert (found.low, found.high) == pytest.approx((0.009 - 0.001,) * 2)


def test_findings_state_the_numbers_their_n_and_their_spread(rounds):
    lines = findings(rounds)
    assert "21.1%" in lines[0] and "2 trials" in lines[0]
    assert dict(differences(rounds).loc["21.1%"]) == {
        "early stop": "-40% [-40%, -40%]",
        "test accuracy at the early stop": "+0.40 [+0.40, +0.40]",
        "test accuracy at the end": "+0.10 [+0.10, +0.10]",
        "against reinitialised, at the early stop": "+0.90 [+0.90, +0.90]",
    }
    assert described(rounds).splitlines()[-3].startswith("| 51.3% | ")


def test_differences_of_one_trial_have_no_interval_and_without_validation_no_early_stop(rounds):
    assert differences(rounds[rounds["trial"] == 0]).loc["21.1%", "test accuracy at the end"] == "+0.10"
    unheld = rounds.assign(es_iteration=np.nan, es_test_accuracy=np.nan)
    assert list(differences(unheld)) == ["test accuracy at the end", "against reinitialised, at the end"]
    assert differences(unheld).loc["21.1%", "test accuracy at the end"] == "+0.10 [+0.10, +0.10]"


def test_an_arm_falls_below_where_it_stays_below(rounds):
    assert falls_below(RunTables(rounds), "ticket").value == 3.6
    assert falls_below(RunTables(rounds), "reinit").value == 51.3
    recovering = table({"ticket": [1000] * 4}, {"ticket": [0.98, 0.97, 0.99, 0.98]})
    accuracy = "the mean test accuracy at the early stop of tickets"
    assert f"In the last round, {accuracy} is not below" in " ".join(findings(recovering))
    assert f"From 3.6% [3.6%, 21.1%] of weights remaining, the last round, {accuracy} is below" in " ".join(
        findings(rounds)
    )


def test_findings_count_training_runs_with_their_minimum_validation_loss_at_the_end(rounds):
    assert not any("minimum validation loss" in line for line in findings(rounds))
    rounds.loc[(rounds["arm"] == "reinit") & (rounds["round"] == 3), "es_iteration"] = 4800
    assert (
        "minimum validation loss is in the last twentieth of training: 2 of 6 (reinitialised tickets)."
        in findings(rounds)[-1]
    )


def test_findings_without_a_validation_set_speak_of_the_end_alone(rounds):
    rounds[[column for column in rounds if column.startswith("es_")]] = np.nan
    said = " ".join(findings(rounds))
    assert "all numbers are from the end of training" in said and "test accuracy at the end of" in said
    assert "stop no later" not in said and "at the early stop" not in said


def test_findings_leave_out_a_trial_that_has_begun(rounds):
    begun = rounds[(rounds["trial"] == 0) & (rounds["round"] < 2)].assign(trial=7)
    assert findings(pd.concat([rounds, begun])) == findings(rounds)


def test_findings_say_when_there_is_no_winning_ticket():
    lines = findings(table({"ticket": [1000, 2000, 2000, 2000]}, {"ticket": [0.98, 0.9, 0.9, 0.9]}))
    assert "there are no tickets that stop no later" in lines[0]


def test_a_last_round_that_a_trial_lacks_is_not_called_as_good_as_the_dense_network():
    rounds = table({"ticket": [1000, 900, 900, 900]}, {"ticket": [0.98, 0.97, 0.96, 0.9]})
    last = rounds["round"] == rounds["round"].max()
    rounds.loc[last & (rounds["trial"] == 0), "es_test_accuracy"] = float("nan")
    assert not any("is not below" in line for line in findings(rounds))
    assert any("is below the dense network's" in line for line in findings(rounds))


def test_a_place_in_the_last_round_is_said_to_be_there():
    lines = findings(table({"ticket": [1000, 900, 900, 900]}, {"ticket": [0.98, 0.98, 0.98, 0.9]}))
    assert any("of weights remaining, the last round, the mean test accuracy" in line for line in lines)


def test_summary_shows_mean_and_range_by_arm(rounds):
    cell = summary(rounds).loc["21.1%", "winning ticket"]
    assert cell == "98.41 (98.40 to 98.41)" or cell == "98.40 (98.40 to 98.41)"
    assert summary(rounds, "es_iteration").loc["51.3%", "reinitialised ticket"] == "1100 (1100 to 1101)"
    assert list(summary(rounds).index) == ["100.0%", "51.3%", "21.1%", "3.6%"]
    blind = rounds.assign(es_test_accuracy=float("nan"), es_iteration=pd.NA)
    assert summary(blind).equals(summary(rounds, "final_test_accuracy"))


def test_larger_tickets_that_do_not_win_are_named_beside_the_smallest_that_do(rounds):
    later = rounds.copy()
    later.loc[(later["arm"] == "ticket") & (later["round"] == 1), "es_iteration"] = 5000
    assert findings(later)[0].endswith("down to 21.1% [3.6%, 21.1%] of the weights (but not at 51.3%).")
    assert "but not" not in findings(rounds)[0]
