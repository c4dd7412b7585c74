"""Claims: reproduced by tables built to pass, differing in tables built to fail, and not run without tables."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lthcore.analysis.statistics import CONVENTION, Estimate, mean_of
from lthcore.errors import LabError
from lthcore.report import arithmetic, claims
from lthcore.report.claims import Absent, at_the_end, grade, load_claims, measure, scorecard, timing, when
from lthcore.report.readme import write_pages
from lthcore.report.run_tables import Bands, RunTables
from lthcore.report.scorecard import as_markdown, baselines, counts_in_full, shown, write_scorecard
from lthcore.runs import schemas
from lthcore.runs.experiments import load_experiments, params_files

LEFT = [100.0, 51.3, 21.1, 13.5, 7.0, 3.6, 1.9]
ROUNDS = len(LEFT) - 1
# test accuracy at the early stop, and the iteration of the early stop, by round
TICKET = ([0.97, 0.973, 0.975, 0.974, 0.972, 0.970, 0.961], [1000, 800, 600, 650, 700, 1000, 1500])
RECORD = {"finished": "2026-11-20T22:40:00+00:00", "wall_seconds": 3600.0, "hardware": {"cores": 2}}
VALIDATION: dict[int, float] = {}  # validation accuracy by round; in other rounds it equals test accuracy
REINIT = ([None, 0.971, 0.969, 0.968, 0.965, 0.960, 0.940], [None, 1000, 1500, 1600, 1700, 1800, 1900])


def table(arms: dict[str, tuple], trials: int = 3, spread: float = 0.0005, draws: int = 2) -> pd.DataFrame:
    """Return rounds.csv with these means: trials are `spread` apart, and the mean over draws is that of the trial."""
    rows = []
    for arm, (accuracies, stops) in arms.items():
        for trial in range(trials):
            for draw in range(1 if arm == "ticket" else draws):
                for k in range(0 if arm == "ticket" else 1, len(LEFT)):
                    off = spread * (trial - (trials - 1) / 2) + (0.0002 if draw else -0.0002) * (arm != "ticket")
                    values = {"arm": arm, "trial": trial, "draw": draw, "round": k, "percent_left": LEFT[k]}
                    values |= {
                        "es_iteration": stops[k],
                        "es_test_accuracy": accuracies[k] + off,
                        "final_test_accuracy": accuracies[k] + off + 0.001,
                        "iterations": 2000,
                        "seconds": 1.0,
                    }
                    values["es_val_accuracy"] = VALIDATION.get(k, values["es_test_accuracy"])
                    rows.append(values | {"weights_left": int(LEFT[k] * 1000), "final_train_accuracy": 1.0})
    return pd.DataFrame(rows).reindex(columns=schemas.ROUNDS)


def write(root, rounds: pd.DataFrame, profile: str = "cpu", variant: str = "lenet_mnist", settings=None):
    folder = root / profile / "iterative_pruning" / variant
    folder.mkdir(parents=True)
    rounds.to_csv(folder / "rounds.csv", index=False)
    pd.DataFrame(columns=schemas.CURVES).to_csv(folder / "curves.csv", index=False)
    settings = {"rounds": ROUNDS, "architecture": "lenet", "optimizer": "adam"} | (settings or {})
    record = {"run_key": f"key-{profile}", "settings": settings} | RECORD
    (folder / "run.json").write_text(json.dumps(record))
    return folder


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path, table({"ticket": TICKET, "reinit": REINIT}))


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"measure": "gain", "at": 21.1}, 0.005),
        ({"measure": "gain", "at": 21.1, "against": "reinit"}, 0.006),
        ({"measure": "earlier", "at": 21.1}, 0.4),
        ({"measure": "times", "at": 21.1, "arm": "reinit", "against": "ticket", "column": "es_iteration"}, 2.5),
        ({"measure": "largest_gain"}, 0.005),
        ({"measure": "place_of_largest_gain"}, 21.1),
        ({"measure": "largest_speedup"}, 1000 / 600),
        ({"measure": "place_of_largest_speedup"}, 21.1),
        ({"measure": "falls_below", "arm": "ticket"}, 1.9),
        ({"measure": "falls_below", "arm": "reinit"}, 21.1),
        ({"measure": "ahead_from"}, 51.3),
        ({"measure": "ahead_to"}, 7.0),
        ({"measure": "ahead_to", "column": "es_iteration", "lower": True}, 7.0),
        ({"measure": "smallest_winning"}, 3.6),
        ({"measure": "weights_back_at_dense"}, 3600),
        ({"measure": "within_a_point", "column": "es_test_accuracy"}, 1.9),
        ({"measure": "least", "column": "es_test_accuracy", "down_to": 2.0}, 0.97),
        ({"measure": "best", "column": "es_test_accuracy", "down_to": 3.0, "up_to": 8.0}, 0.972),
        ({"measure": "last", "column": "es_test_accuracy", "arm": "reinit"}, 0.940),
    ],
    ids=lambda value: value.get("measure") if isinstance(value, dict) else None,
)
def test_measures_find_what_is_in_the_table(spec, expected, folder):
    found = measure(RunTables.read(folder), spec)
    assert found.value == pytest.approx(expected) and found.n == 3
    assert found.low <= found.value + 1e-9 and found.value <= found.high + 1e-9


def test_within_a_point_is_within_one_percentage_point(tmp_path):
    falling = ([0.97, 0.972, 0.968, 0.964, 0.962, 0.955, 0.90], TICKET[1])
    view = RunTables.read(write(tmp_path, table({"ticket": falling})))
    assert measure(view, {"measure": "within_a_point", "column": "es_test_accuracy"}).value == 7.0


def ends(found: Estimate) -> tuple[float, float]:
    return found.low, found.high


def test_differences_are_paired_within_a_run(tmp_path):
    """If all trials have the same difference, its interval has no width, however far apart the trials are."""
    view = RunTables.read(write(tmp_path, table({"ticket": TICKET, "reinit": REINIT}, spread=0.01)))
    found = measure(view, {"measure": "gain", "at": 21.1})
    assert ends(found) == pytest.approx((found.value, found.value))
    level = measure(view, {"measure": "best", "column": "es_test_accuracy", "down_to": 21, "up_to": 22})
    assert ends(level) == pytest.approx(ends(mean_of([0.965, 0.975, 0.985])))


def test_an_accuracys_interval_ends_where_accuracies_do(tmp_path):
    rounds = table({"ticket": TICKET})
    rounds["final_train_accuracy"] = 0.9995 + 0.0005 * (rounds["trial"] - 1)
    view = RunTables.read(write(tmp_path, rounds))
    found = measure(view, {"measure": "least", "column": "final_train_accuracy", "down_to": 2.0})
    assert found.low < 0.9995 < found.high == 1.0


def test_places_reach_as_far_as_every_differences_interval_allows_and_to_the_next_round(tmp_path):
    """At 3.6% tickets equal the dense network on average, but one trial is far above it and one far below.

    If they win down to a round, their advantage may end anywhere before the next one; after the last, at any size.
    """
    rounds = table({"ticket": TICKET})
    at = rounds["round"] == 5
    rounds.loc[at, "es_test_accuracy"] += rounds.loc[at, "trial"].map({0: 0.0001, 1: 0.01, 2: -0.01})
    view = RunTables.read(write(tmp_path, rounds))
    falls = {"measure": "falls_below", "arm": "ticket"}
    found, wins = measure(view, falls), measure(view, {"measure": "smallest_winning"})
    assert (found.low, found.value, found.high) == pytest.approx((1.9, 1.9, 7.0))
    assert (wins.low, wins.value, wins.high) == pytest.approx((1.9, 3.6, 7.0))  # at 3.6% tickets may be worse
    assert ends(measure(view.with_trials(1_000_000), falls)) == pytest.approx((1.9, 3.6))
    never = RunTables.read(write(tmp_path / "never", table({"ticket": ([0.97] * 7, [1000] * 7)})))
    for name in ("falls_below", "smallest_winning", "ahead_from"):
        spec = {"measure": name} | ({"arm": "ticket"} if name == "falls_below" else {})
        assert ends(measure(never, spec)) == pytest.approx((0.0, 1.9))


def test_a_place_with_a_control_is_one_where_the_control_is_beaten_too(tmp_path):
    """With many weights left, random networks also stop earlier than the dense one: `control` excludes such places."""
    control = ([None, 0.972, 0.972, 0.975, 0.973, 0.971, 0.9], [None, 700, 700, 700, 1800, 1800, 1900])
    view = RunTables.read(write(tmp_path, table({"ticket": TICKET, "random": control}, spread=0)))
    stops = {"column": "es_iteration", "lower": True}
    specs = (
        ({"measure": "ahead_from"} | stops, 51.3),
        ({"measure": "ahead_from", "control": "random"} | stops, 21.1),
        ({"measure": "ahead_to", "control": "random"}, 21.1),
        ({"measure": "ahead_from", "arm": "random", "control": "random"}, 0.0),
    )
    for spec, place in specs:
        assert measure(view, spec).value == pytest.approx(place)


def test_how_much_further_a_run_stays_ahead_takes_both_places_into_account(tmp_path):
    slower = ([0.97] * 7, [1000, 800, 900, 1100, 1100, 1200, 1500])
    beside = write(tmp_path / "b", table({"ticket": slower}))
    view = RunTables.read(write(tmp_path / "a", table({"ticket": TICKET})), beside)
    found = measure(view, {"measure": "ahead_further", "column": "es_iteration", "lower": True})
    assert found.value == pytest.approx(21.1 - 7.0)
    assert ends(found) == pytest.approx((13.5 - 7.0, 21.1 - 3.6))  # both may stay ahead nearly to their next round


def test_how_much_further_a_run_stays_ahead_is_as_uncertain_as_both_places_together(tmp_path):
    """One trial is far ahead and one far behind, at 7.0% here and at 13.5% in the run beside it."""
    folders = []
    for name, stops, k in (("a", TICKET[1], 4), ("b", [1000, 800, 900, 950, 1100, 1200, 1500], 3)):
        rounds = table({"ticket": (TICKET[0], stops)})
        rounds.loc[rounds["round"] == k, "es_iteration"] += rounds["trial"].map({0: -400, 1: 0, 2: 400})
        folders.append(write(tmp_path / name, rounds))
    view = RunTables.read(*folders)
    spec = {"column": "es_iteration", "lower": True}
    ours, theirs = (measure(each, {"measure": "ahead_to"} | spec) for each in (view, view.beside))
    assert ends(ours) == (3.6, 13.5) and ends(theirs) == (7.0, 21.1)
    found = measure(view, {"measure": "ahead_further"} | spec)
    assert found.value == pytest.approx(13.5 - 7.0) and ends(found) == pytest.approx((7.0 - 13.5, 21.1 - 3.6))


@pytest.mark.parametrize(
    "spec",
    [
        {"measure": "gain", "at": 21.1, "against": "oneshot"},
        {"measure": "gain", "at": 30.0},
        {"measure": "least", "column": "es_test_accuracy", "down_to": 0.5},
        {"measure": "least", "column": "es_test_accuracy", "down_to": 1.5},
        {"measure": "least", "column": "es_test_accuracy", "down_to": 95.0},
        {"measure": "movement_less_one", "at": 21.1},
        {"measure": "dense_gain"},
        {"measure": "best", "column": "es_test_accuracy", "down_to": 60, "up_to": 70},
    ],
    ids=lambda spec: spec["measure"],
)
def test_what_is_not_in_the_table_is_absent(spec, folder):
    with pytest.raises(Absent):
        measure(RunTables.read(folder), spec)


def test_the_largest_gain_is_read_in_the_round_that_validates_best(tmp_path, monkeypatch):
    """If the round were chosen by test accuracy, noise alone would give a gain."""
    monkeypatch.setattr(__name__ + ".VALIDATION", {4: 0.99})
    view = RunTables.read(write(tmp_path, table({"ticket": TICKET})))
    assert measure(view, {"measure": "largest_gain"}).value == pytest.approx(0.002)
    assert measure(view, {"measure": "place_of_largest_gain"}).value == 7.0


def test_the_largest_gain_is_that_of_a_ticket_although_the_dense_network_validates_best(tmp_path, monkeypatch):
    monkeypatch.setattr(__name__ + ".VALIDATION", {0: 0.995, 4: 0.99})
    view = RunTables.read(write(tmp_path, table({"ticket": TICKET})))
    assert measure(view, {"measure": "largest_gain"}).value == pytest.approx(0.002)
    assert measure(view, {"measure": "place_of_largest_gain"}).value == 7.0


def test_the_largest_speedup_is_that_of_a_ticket_although_the_dense_network_stops_earliest(tmp_path):
    slower = (TICKET[0], [500, 800, 600, 650, 700, 1000, 1500])
    view = RunTables.read(write(tmp_path, table({"ticket": slower})))
    assert measure(view, {"measure": "largest_speedup"}).value == pytest.approx(500 / 600)
    assert measure(view, {"measure": "place_of_largest_speedup"}).value == 21.1


def test_the_best_accuracy_is_that_of_the_round_that_validates_best(tmp_path, monkeypatch):
    monkeypatch.setattr(__name__ + ".VALIDATION", {4: 0.99})
    view = RunTables.read(write(tmp_path, table({"ticket": TICKET})))
    spec = {"measure": "best", "column": "es_test_accuracy", "up_to": 60.0}
    assert measure(view, spec | {"down_to": 1.0}).value == pytest.approx(0.972)
    assert measure(view, spec | {"down_to": 50.0}).value == pytest.approx(0.973)  # the only round in this range


def test_the_best_accuracy_at_the_end_is_that_of_the_round_that_validates_best_at_the_end(tmp_path):
    rounds = table({"ticket": TICKET})
    rounds["es_val_accuracy"] = rounds["round"].map({4: 0.99}).fillna(0.9)
    rounds["final_val_accuracy"] = rounds["round"].map({5: 0.99}).fillna(0.9)
    view = RunTables.read(write(tmp_path, rounds))
    spec = {"measure": "best", "up_to": 60.0, "down_to": 1.0}
    assert measure(view, spec | {"column": "es_test_accuracy"}).value == pytest.approx(TICKET[0][4])
    assert measure(view, spec | {"column": "final_test_accuracy"}).value == pytest.approx(TICKET[0][5] + 0.001)


def test_gains_over_the_run_beside_are_paired_where_trials_are_the_same_draws(tmp_path):
    better = ([a + 0.01 for a in TICKET[0]], TICKET[1])
    folder = write(tmp_path, table({"ticket": better}, spread=0.01))
    view = RunTables.read(folder, write(tmp_path, table({"ticket": TICKET}, spread=0.01), variant="beside"))
    assert measure(view, {"measure": "dense_gain"}).low == pytest.approx(0.01)
    other = write(tmp_path, table({"ticket": TICKET}, spread=0.01), variant="other_seed", settings={"seed": 1})
    apart = measure(RunTables.read(folder, other), {"measure": "dense_gain"})
    assert apart.value == pytest.approx(0.01) and apart.low < 0


def test_an_arm_that_never_falls_is_graded_by_the_end_of_its_rounds(tmp_path):
    view = RunTables.read(write(tmp_path, table({"ticket": ([0.97] * 7, TICKET[1])})))
    assert measure(view, {"measure": "falls_below", "arm": "ticket"}).value == pytest.approx(1.9)


def test_one_trial_leaves_all_undecided(tmp_path):
    write(tmp_path, table({"ticket": TICKET, "reinit": REINIT}, trials=1))
    card = scorecard(tmp_path, one("P", **PASSING))
    assert set(card["grade"]) == {"undecided"} and card["value"].notna().all() and card["trials_needed"].isna().all()
    assert "undecided (a single trial has no interval)" in as_markdown(card)


def test_a_run_with_a_ticket_that_diverged_says_so_and_is_not_graded(tmp_path, capsys):
    rounds = table({"ticket": TICKET, "reinit": REINIT})
    ended = rounds[(rounds["trial"] == 0) & (rounds["round"] < 3)].assign(trial=7)
    write(tmp_path, pd.concat([rounds, ended.assign(diverged=ended["round"] == 2)]))
    assert set(scorecard(tmp_path, one("P", **PASSING))["grade"]) == {claims.UNREADABLE}
    assert "a ticket diverged" in capsys.readouterr().err


def test_movement_is_read_from_the_tickets_structure(folder):
    rows = [
        {"trial": t, "round": 2, "layer": layer, "movement_kept": 0.3 + 0.01 * t, "movement_pruned": 0.1}
        for t in range(3) for layer in ("fc1", "output")
    ]  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "structure.csv", index=False)
    found = measure(RunTables.read(folder), {"measure": "movement_less_one", "at": 21.1})
    assert found.value == pytest.approx(2.1) and 1.7 < found.low < 2.1 < found.high < 2.5


def exactly(value: float) -> Estimate:
    return Estimate(value, value, value, 5)


def test_grades_follow_from_the_whole_interval():
    for part, spec in (("direction", {"sign": 1}), ("size", {"within": [0, 1]})):
        assert grade(part, Estimate(0.2, 0.1, 0.3, 5), spec) == "reproduced"
        assert grade(part, Estimate(0.2, -0.1, 0.5, 5), spec) == "undecided"
        assert grade(part, Estimate(-0.2, -0.3, -0.1, 5), spec).startswith("differs")
    assert grade("direction", Estimate(-0.2, -0.3, -0.1, 5), {"sign": -1}) == "reproduced"
    assert grade("direction", exactly(0.0), {"sign": 1}) == "undecided"  # a tie has no sign
    assert grade("size", Estimate(1.5, -np.inf, np.inf, 5), {"within": [1, 2]}) == "undecided"


def test_what_differs_says_by_how_much():
    assert grade("direction", exactly(-0.1), {"sign": 1}) == "differs (sign -)"
    assert grade("size", exactly(0.2), {"within": [0.2, 0.5]}) == "reproduced"
    assert grade("size", exactly(0.19), {"within": [0.2, 0.5], "unit": "%"}) == "differs (by -1.00 points)"
    assert grade("size", exactly(0.008), {"within": [0.0015, 0.006], "unit": "points"}) == "differs (by +0.20 points)"
    assert grade("place", exactly(1.2), {"within": [1.8, 4.6]}) == "differs (by -0.60 points)"


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        ("2026-11-20T21:00Z", "before the run"),
        ("2026-11-20T22:26Z", "during the run"),
        ("2026-11-21T00:00Z", "after the run"),
    ],
)
def test_a_tolerance_was_fixed_before_during_or_after_a_run(moment, expected):
    assert timing(when(moment), RECORD) == expected
    unknown = {"finished": RECORD["finished"], "hardware": {"cores": 2}, "training_seconds": 7200.0}  # 1 h on 2 cores
    assert timing(when(moment), unknown) == expected
    told = RECORD | {"began": "2026-11-20T21:40:00+00:00", "wall_seconds": 60.0}
    assert timing(when(moment), told) == expected
    extended = {"first_complete": RECORD["finished"], "finished": "2026-11-29T00:00:00+00:00"}
    assert timing(when(moment), told | extended) == expected  # more trials do not make a tolerance older


def one(name: str, **parts) -> dict:
    claim = {"claim": "words", "paper": "40%", "run": "lenet_mnist", "fixed": "2026-11-20T22:26Z"}
    return {name: claim | parts}


EARLIER = {"measure": "earlier", "at": 21.1}
PASSING = {"direction": EARLIER | {"sign": 1}, "size": EARLIER | {"within": [0.2, 0.5]}}
FAILING = {
    "size": EARLIER | {"within": [0.45, 0.5]},
    "place": {"measure": "falls_below", "arm": "reinit", "within": [2, 5]},
}


def test_a_table_built_to_pass_passes(folder, tmp_path):
    card = scorecard(tmp_path, one("P", **PASSING))
    assert list(card["grade"]) == ["reproduced", "reproduced"] and card["trials_needed"].isna().all()
    assert set(card["n"]) == {3} and set(card["profile"]) == {"cpu"} and set(card["run_key"]) == {"key-cpu"}


def test_a_table_built_to_fail_fails_and_says_by_how_much(folder, tmp_path):
    card = scorecard(tmp_path, one("F", **FAILING))
    assert list(card["grade"]) == ["differs (by -0.05)", "differs (by +16.10 points)"]


@pytest.mark.parametrize(
    ("part", "ends", "spec", "expected"),
    [
        ("size", (0.2, 0.5), {"within": [0.2, 0.5]}, "reproduced"),  # a tolerance includes its ends
        ("size", (0.5, 0.9), {"within": [0.2, 0.5]}, "undecided"),
        ("size", (0.0, 0.2), {"within": [0.2, 0.5]}, "undecided"),
        ("size", (0.6, 0.9), {"within": [0.2, 0.5]}, "differs (by +0.25)"),
        ("size", (0.01, 0.03), {"within": [-0.5, 0.0], "unit": "points"}, "differs (by +2.00 points)"),
        ("size", (250, 350), {"within": [0, 100]}, "differs (by +200)"),
        ("size", (-np.inf, np.inf), {"within": [0, 100]}, "undecided"),
        ("size", (np.nan, np.nan), {"within": [0, 100]}, "undecided"),
        ("size", (-0.003, 9.0), {"within": [-0.003, None]}, "reproduced"),
        ("size", (-0.004, 9.0), {"within": [-0.003, None]}, "undecided"),
        ("size", (0.3, 0.5), {"within": [None, 0.2]}, "differs (by +0.20)"),
        ("direction", (0.1, 0.3), {"sign": -1}, "differs (sign +)"),
        ("direction", (-0.3, -0.1), {"sign": 1}, "differs (sign -)"),
        ("direction", (0.0, 0.3), {"sign": 1}, "undecided"),
    ],
)
def test_grades_go_by_the_whole_interval(part, ends, spec, expected):
    assert grade(part, Estimate(sum(ends) / 2 if np.isfinite(ends).all() else 50.0, *ends, 5), spec) == expected


def test_no_table_is_not_yet_run(tmp_path):
    card = scorecard(tmp_path, one("N", **PASSING))
    assert list(card["grade"]) == ["not run"] * 2 and card["value"].isna().all()
    assert set(card["run"]) == {"lenet_mnist"}
    assert set(scorecard(tmp_path, one("N", study="transfer", **PASSING))["run"]) == {"transfer/lenet_mnist"}


def test_smoke_runs_and_runs_on_their_way_down_are_not_graded(tmp_path):
    rounds = table({"ticket": TICKET, "reinit": REINIT})
    write(tmp_path, rounds, "smoke")
    assert set(scorecard(tmp_path, one("S", **PASSING))["grade"]) == {"not run"}
    write(tmp_path, rounds[rounds["round"] < 4], "paper")
    assert set(scorecard(tmp_path, one("S", **PASSING))["grade"]) == {"not run"}
    write(tmp_path, rounds, "cpu")
    assert set(scorecard(tmp_path, one("S", **PASSING))["profile"]) == {"cpu"}


def test_runs_of_one_experiment_stand_side_by_side(tmp_path):
    """All profiles of a run and of its `also` runs are graded, not only the best one, if they have the claim's arms."""
    write(tmp_path, table({"ticket": TICKET, "reinit": REINIT}), "cpu")
    write(tmp_path, table({"ticket": TICKET}), "paper")
    write(tmp_path, table({"ticket": TICKET}), "paper", variant="other_scaling")
    gain = {"measure": "gain", "at": 21.1}
    both = {"size": gain | {"within": [0, 1]}, "direction": gain | {"against": "reinit", "sign": 1}}

    def runs(**claim) -> list[tuple[str, str]]:
        card = scorecard(tmp_path, one("B", **claim))
        return list(card[["run", "profile"]].astype(object).fillna("").itertuples(index=False, name=None))

    assert runs(**both) == [("lenet_mnist", "cpu")] * 2  # both parts of a claim are graded on the same run
    assert runs(size=both["size"]) == [("lenet_mnist", "paper"), ("lenet_mnist", "cpu")]
    also = [("lenet_mnist", "paper"), ("lenet_mnist", "cpu"), ("other_scaling", "paper")]
    assert runs(size=both["size"], also=["other_scaling"]) == also
    assert runs(profiles=["paper"], **both) == [("lenet_mnist", "")] * 2


def test_rounds_not_done_in_all_trials_are_left_out(tmp_path):
    rounds = table({"ticket": TICKET, "reinit": REINIT})
    rounds = rounds[~((rounds["round"] == ROUNDS) & (rounds["trial"] == 2) & (rounds["arm"] == "reinit"))]
    view = RunTables.read(write(tmp_path, rounds))
    with pytest.raises(Absent):  # an unfinished arm is not measured
        measure(view, {"measure": "falls_below", "arm": "reinit"})
    assert measure(view, {"measure": "falls_below", "arm": "ticket"}).value == pytest.approx(1.9)


def test_the_committed_claims_can_be_measured_and_name_known_runs():
    loaded = load_claims()
    ids = {"L1", "L2", "L3", "L4", "L5", "L6", "L7", "L8", "L9", "L10", "L11", "X1", "X2", "X3", "X4", "X5", "X6"}
    assert ids <= set(loaded) and {"C1", "C2", "C3", "C4", "C5", "D1", "D2", "V1", "V2", "V3", "V4"} <= set(loaded)
    assert {"R1", "R2", "R3", "R4"} <= set(loaded)
    known = {e.name.partition("/")[2] for path in params_files() for e in load_experiments(path, "paper")}
    for claim in loaded.values():
        if "run" in claim:
            runs = {claim["run"], *claim.get("also", []), claim.get("beside", claim["run"])}
            assert {f"{claim.get('study', 'iterative_pruning')}/{run}" for run in runs} <= known


def test_the_papers_networks_and_percentages_are_graded_by_arithmetic_and_so_are_its_slips():
    """LeNet's weights after three rounds, by hand: in a round fc1 and fc2 lose a fifth, the output layer a tenth."""
    fc, output = 784 * 300 + 300 * 100, 100 * 10
    assert arithmetic.weights("lenet_mnist").value == fc + output == 266_200
    left = 100 * (fc * 0.8**3 + output * 0.9**3) / (fc + output)
    assert arithmetic.remaining("lenet_mnist", 3).value == pytest.approx(left)
    untrained = {name: claim for name, claim in load_claims().items() if "run" not in claim}
    card = scorecard(Path("nowhere"), untrained).set_index("id")
    assert card["grade"].str.match("reproduced|differs").all() and card["n"].isna().all()
    assert set(card.index[card["grade"] != "reproduced"]) == {"N4", "P10", "P11"}
    assert card.loc["N4", "value"] == 2_261_184 and card.loc["P11", "value"] == pytest.approx(15.29, abs=0.01)


def test_a_gain_over_the_run_beside_is_taken_where_both_have_as_many_weights_left(tmp_path):
    better = table({"ticket": TICKET, "reinit": REINIT})
    better["es_test_accuracy"] += 0.02
    beside = write(tmp_path / "a", table({"ticket": TICKET, "reinit": REINIT}))
    view = RunTables.read(write(tmp_path / "b", better), beside)
    spec = {"measure": "gain_beside", "column": "es_test_accuracy"}
    for at in ({}, {"at": view.left[2]}, {"at": view.left[2], "arm": "reinit"}):
        assert measure(view, spec | at).value == pytest.approx(0.02)
    with pytest.raises(Absent):
        measure(RunTables.read(beside), spec)


def test_a_prediction_is_of_a_part_that_is_graded(tmp_path):
    predicted = "predicted: {date: 2026-11-24T11:00Z, place: 3, why: d}"
    (tmp_path / "claims.yaml").write_text(SIZE.replace("run: c", f"run: c, {predicted}"))
    with pytest.raises(LabError, match="X: predicted = 'place': allowed are size"):
        load_claims(tmp_path / "claims.yaml")


SIZE = "X: {claim: a, paper: b, run: c, fixed: 2026-11-24T11:00Z, size: {measure: gain, at: 20, within: [0, 1]}}"


def test_a_claim_that_can_be_measured_is_loaded(tmp_path):
    (tmp_path / "claims.yaml").write_text(SIZE)
    assert load_claims(tmp_path / "claims.yaml")["X"]["size"] == {"measure": "gain", "at": 20, "within": [0, 1]}


@pytest.mark.parametrize("change", ["at: 0.5", "at: 20, arm: reinit, against: ''", "at: 20, unit: points"])
def test_what_a_measure_takes_is_taken(change, tmp_path):
    (tmp_path / "claims.yaml").write_text(SIZE.replace("at: 20", change).replace("[0, 1]", "[1, 1]"))
    assert load_claims(tmp_path / "claims.yaml")


@pytest.mark.parametrize(
    "text",
    [
        "X: {claim: a, paper: b, run: c}",
        "X: {claim: a, paper: b, run: c, size: {measure: gian}}",
        "X:",
        "X: a",
        "X: [a]",
        "X: {claim: a, run: c, size: {measure: gain, at: 20, within: [0, 1]}}",
        SIZE.replace("claim: a", "claim: [a]"),
        SIZE.replace("claim: a", "claims: a, claim: a"),
        SIZE.replace("run: c", "run: ../c"),
        SIZE.replace("run: c", "run: c, study: ../../etc"),
        SIZE.replace("run: c", "run: c, beside: /c"),
        SIZE.replace("run: c", "run: c, profiles: [huge]"),
        SIZE.replace("run: c", "run: c, profiles: cpu"),
        SIZE.replace("run: c", "run: c, predicted: 3"),
        SIZE.replace("run: c", "run: c, also: [../d]"),
        SIZE.replace("run: c", "run: c, predicted: {date: 2026-11-24, size: 1, why: d}"),
        SIZE.replace("run: c", "run: c, predicted: {date: 2026, size: 1, why: d}"),
        SIZE.replace("2026-11-24T11:00Z", "2026-11-24"),
        SIZE.replace("2026-11-24T11:00Z", "yesterday"),
        SIZE.replace("fixed: 2026-11-24T11:00Z, ", ""),
        SIZE.replace("run: c, ", ""),
        SIZE.replace("{measure", "[{measure").replace("]}}", "]}]}"),
        SIZE.replace("measure: gain", "measure: [gain]"),
        SIZE.replace("measure: gain, ", ""),
        SIZE.replace("[0, 1]", "1"),
        SIZE.replace("[0, 1]", "[1]"),
        SIZE.replace("[0, 1]", "[0, 1, 2]"),
        SIZE.replace("[0, 1]", "[0, one]"),
        SIZE.replace("[0, 1]", "[1, 0]"),
        SIZE.replace("[0, 1]", "[null, null]"),
        SIZE.replace(", within: [0, 1]", ""),
        SIZE.replace("at: 20", "at: twenty"),
        SIZE.replace("at: 20", "at: 0"),
        SIZE.replace("at: 20, ", ""),
        SIZE.replace("at: 20", "at: 20, ta: 20"),
        SIZE.replace("at: 20", "at: 20, run: 20"),
        SIZE.replace("at: 20", "at: 20, arm: 3"),
        SIZE.replace("at: 20", "at: 20, column: accuracy"),
        SIZE.replace("at: 20", "at: 20, unit: 3"),
        SIZE.replace("at: 20", "at: 20, arm: tickett"),
        SIZE.replace("at: 20", "at: 20, against: dens"),
        SIZE.replace("gain, at: 20", "ahead_from, arm: oneshot, control: randon"),
        SIZE.replace("run: c", "run: c, predicted: {date: 2026-11-24T11:00Z, size: about one, why: d}"),
        SIZE.replace("size", "direction"),
        SIZE.replace("size", "direction").replace("within: [0, 1]", "sign: 2"),
    ],
)
def test_claims_that_cannot_be_measured_are_one_line(tmp_path, text):
    (tmp_path / "claims.yaml").write_text(text)
    with pytest.raises(LabError) as caught:
        load_claims(tmp_path / "claims.yaml")
    assert "X" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "- X", "3", "X: {claim: a, claim: b}", "\0"])
def test_claims_that_are_no_mapping_are_one_line(tmp_path, text):
    (tmp_path / "claims.yaml").write_text(text)
    with pytest.raises(LabError, match=r"claims\.yaml") as caught:
        load_claims(tmp_path / "claims.yaml")
    assert "\n" not in str(caught.value)


def test_a_run_that_cannot_be_read_hides_no_other_grade(folder, tmp_path, capsys):
    (tmp_path / "cpu" / "iterative_pruning" / "broken").mkdir()
    (tmp_path / "cpu" / "iterative_pruning" / "broken" / "rounds.csv").write_text("no,table\n")
    broken = {"D": one("F", **FAILING)["F"] | {"run": "broken"}}
    card = scorecard(tmp_path, broken | one("P", **PASSING))
    assert set(card[card["id"] == "D"]["grade"]) == {claims.UNREADABLE}
    assert set(card[card["id"] == "P"]["grade"]) == {"reproduced"}
    assert capsys.readouterr().err.startswith("note: D: ")
    assert f"| {claims.UNREADABLE} |" in as_markdown(card)


def test_scorecard_is_written_to_the_table_and_between_the_pages_marks(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "load_claims", lambda: one("P", **PASSING) | one("F", **FAILING))
    (tmp_path / "results").mkdir()
    readme = tmp_path / "results" / "README.md"
    readme.write_text("above\n<!-- scorecard -->\nold\n<!-- end -->\nbelow\n")
    card = write_scorecard(tmp_path)
    write_pages(tmp_path, tmp_path, card)
    assert list(pd.read_csv(tmp_path / "claims.csv")["grade"]) == list(card["grade"])
    text = readme.read_text()
    assert text.startswith("above\n") and text.endswith("below\n") and "\nold\n" not in text
    row = "| P: words | 40% | direction above 0; size 0.2 to 0.5 | 0.40 [0.40, 0.40] |  | direction reproduced; size"
    assert row in text and CONVENTION in text
    assert "| lenet_mnist, `cpu`, n = 3 | 97.00 [96.88, 97.12] | 98.05 | 97.10 [96.98, 97.22] |" in text
    write_pages(tmp_path, tmp_path, card)
    assert readme.read_text() == text


def test_accuracies_without_training_are_read_where_they_validate_best(folder):
    start = [
        {"arm": arm, "trial": trial, "round": k, "iteration": i, "val_accuracy": val, "test_accuracy": test}
        for trial, more in enumerate((0.0, 0.02, 0.04))
        for arm, k, i, val, test in (
            ("ticket", 0, 0, 0.99, 0.99), ("ticket", 1, 0, 0.5 + more, 0.4), ("ticket", 2, 0, 0.4, 0.6),
            ("ticket", 3, 100, 0.9, 0.9), ("reinit", 1, 0, 0.8, 0.8),
        )
    ]  # fmt: skip
    curves = pd.DataFrame(start).assign(draw=0, percent_left=100.0, val_loss=1.0, test_loss=1.0)
    curves[schemas.CURVES].to_csv(folder / "curves.csv", index=False)
    assert measure(RunTables.read(folder), {"measure": "untrained", "arm": "ticket"}).value == pytest.approx(0.4)
    masks = [("a", 50.0, 0.7, 0.6), ("a", 20.0, 0.6, 0.9), ("b", 50.0, 1.0, 1.0)]
    rows = [(trial, *row) for trial in range(3) for row in masks]
    columns = ["trial", "method", "percent_left", "val_accuracy", "test_accuracy"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "learned.csv", index=False)
    gained = measure(RunTables.read(folder), {"measure": "learned_gain", "method": "a", "arm": "ticket"})
    assert (gained.low, gained.value, gained.high) == pytest.approx((0.2, 0.2, 0.2))


def test_a_barrier_is_the_mean_over_trials_and_absent_where_it_was_not_measured(folder):
    rows = [(trial, k, left, trial / 100) for trial in range(3) for k, left in ((0, 100.0), (7, 21.1))]
    columns = ["trial", "round", "percent_left", "error_barrier"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "stability.csv", index=False)
    assert measure(RunTables.read(folder), {"measure": "error_barrier", "at": 100}) == mean_of([0, 0.01, 0.02])
    with pytest.raises(Absent, match="no barrier at 50%"):
        measure(RunTables.read(folder), {"measure": "error_barrier", "at": 50})
    (folder / "stability.csv").unlink()
    with pytest.raises(Absent, match=r"stability\.csv is not there"):
        measure(RunTables.read(folder), {"measure": "error_barrier", "at": 100})


def test_what_is_read_at_the_early_stop_is_read_at_the_end_beside_it(folder, tmp_path):
    gain = {"measure": "gain", "at": 21.1}
    assert at_the_end(RunTables.read(folder), gain).value == pytest.approx(0.005)
    assert at_the_end(RunTables.read(folder), {"measure": "falls_below", "arm": "reinit"}).value == 21.1
    assert at_the_end(RunTables.read(folder), gain | {"column": "final_train_accuracy"}) is None
    assert at_the_end(RunTables.read(folder), EARLIER) is None
    card = scorecard(tmp_path, one("P", size=gain | {"within": [0, 1], "unit": "points"}))
    assert "| +0.50 points [+0.50, +0.50] | +0.50 points [+0.50, +0.50] |" in as_markdown(card)


@pytest.mark.parametrize(
    ("part", "spec", "said"),
    [
        ("direction", {"sign": 1}, "direction above 0"),
        ("direction", {"sign": -1, "unit": "points"}, "direction below 0"),
        ("size", {"within": [0.0015, 0.006], "unit": "points"}, "size +0.15 to +0.6 points"),
        ("size", {"within": [0.984, 1], "unit": "accuracy"}, "size 98.4 to 100%"),
        ("size", {"within": [6000, 20000]}, "size 6,000 to 20,000"),
        ("place", {"within": [2.25, 7]}, "place 2.25 to 7% of weights"),
        ("size", {"within": [-0.003, None], "unit": "points"}, "size at least -0.3 points"),
        ("size", {"within": [None, 0], "unit": "points"}, "size at most 0 points"),
    ],
)
def test_the_scorecard_says_what_counts_as_reproduced(tmp_path, part, spec, said):
    card = scorecard(tmp_path, one("T", **{part: {"measure": "gain", "at": 21.1} | spec}))
    assert as_markdown(card).splitlines()[2].split(" | ")[2] == said


def test_another_grade_at_the_end_of_training_is_said_beside_its_value(folder, tmp_path):
    rounds = table({"ticket": TICKET, "reinit": REINIT})
    tickets = (rounds["arm"] == "ticket") & (rounds["round"] > 0)
    rounds.loc[tickets, "final_test_accuracy"] -= 0.02
    rounds.to_csv(folder / "rounds.csv", index=False)
    card = scorecard(tmp_path, one("G", direction={"measure": "gain", "at": 21.1, "sign": 1, "unit": "points"}))
    assert list(card["end_grade"]) == ["differs (sign -)"] and list(card["grade"]) == ["reproduced"]
    assert "| +0.50 points [+0.50, +0.50] | -1.50 points [-1.50, -1.50]; *direction differs (sign -)* |" in as_markdown(
        card
    )
    assert "Read at the end of training instead, 1 part would have another grade" in counts_in_full(card)
    assert "Tolerance fixed during the run: of 1 graded parts 1 reproduced." in counts_in_full(card)


def test_the_dense_networks_stand_beside_the_papers(folder, tmp_path):
    """Both are shown, because a gain over a worse dense network cannot be compared with the paper's gain."""
    (row,) = baselines(tmp_path, scorecard(tmp_path, one("P", **PASSING))).to_dict("records")
    assert row["dense network at the early stop (%)"] == "97.00 [96.88, 97.12]" and row["published (%)"] == "98.05"


@pytest.mark.parametrize("settings", [{"widths": [100, 34], "optimizer": "adam"}, {"widths": [], "optimizer": "sgd"}])
def test_a_published_accuracy_stands_beside_the_published_network_and_optimizer_alone(settings, tmp_path):
    write(tmp_path, table({"ticket": TICKET, "reinit": REINIT}), settings=settings)
    (row,) = baselines(tmp_path, scorecard(tmp_path, one("P", **PASSING))).to_dict("records")
    assert row["published (%)"] == ""


def test_the_round_of_a_largest_gain_is_chosen_by_validation_whatever_is_read(tmp_path, monkeypatch):
    monkeypatch.setitem(VALIDATION, 4, 0.999)
    rounds = table({"ticket": TICKET})
    rounds["es_train_accuracy"] = 0.9 + 0.01 * (rounds["round"] == 1)
    rounds["final_val_accuracy"] = rounds["es_val_accuracy"]
    rounds["read_1_test_accuracy"] = rounds["es_test_accuracy"]
    view = RunTables.read(write(tmp_path, rounds))
    for column in ("es_train_accuracy", "read_1_test_accuracy"):
        found = measure(view, {"measure": "place_of_largest_gain", "column": column})
        assert found.value == LEFT[4]
        gain = measure(view, {"measure": "largest_gain", "column": column}).value
        assert gain == pytest.approx(rounds.groupby("round")[column].mean().diff(4)[4])


def test_numbers_of_thousands_are_separated_in_the_interval_and_in_the_distance_too():
    row = pd.Series({"unit": "iterations", "value": 12345.0, "low": 11000.0, "high": 13000.0, "n": 5})
    assert shown(row, "value", "low", "high") == "12,345 iterations [11,000, 13,000]"
    assert grade("size", Estimate(12345.0, 11000.0, 13000.0, 5), {"within": [0, 1000]}) == "differs (by +11,345)"


def test_undecided_says_how_many_trials_would_tell(folder, tmp_path):
    wide = table({"ticket": TICKET, "reinit": REINIT}, trials=3)
    wide.loc[wide["round"] == 2, "es_test_accuracy"] += 0.004 * (wide["trial"] - 1)
    write(tmp_path, wide, variant="wide")
    gain = {"measure": "gain", "at": 21.1}
    card = scorecard(tmp_path, one("U", run="wide", direction=gain | {"sign": 1}))
    assert card["grade"].tolist() == ["undecided"] and card["trials_needed"].tolist() == [5]
    assert "direction undecided (n = 5 would decide)" in as_markdown(card)
    view = RunTables.read(tmp_path / "cpu" / "iterative_pruning" / "wide")
    assert [measure(view.with_trials(n), gain).low > 0 for n in (4, 5)] == [False, True]


def test_the_prediction_of_a_sign_is_no_size(folder, tmp_path):
    predicted = {"date": "2026-11-20T21:00Z", "direction": 1, "why": "a guess"}
    card = scorecard(tmp_path, one("P", run="later", predicted=predicted, direction=PASSING["direction"]))
    assert "predicted: more than 0" in as_markdown(card) and "100" not in as_markdown(card)


def test_a_prediction_is_shown_beside_a_run_that_came_after_it(folder, tmp_path):
    predicted = {"date": "2026-11-20T21:00Z", "size": 0.3, "why": "a guess"}
    assert scorecard(tmp_path, one("P", predicted=predicted, **PASSING))["predicted"].tolist()[1] == 0.3
    predicted["date"] = "2026-11-20T22:00Z"  # during the run
    assert scorecard(tmp_path, one("P", predicted=predicted, **PASSING))["predicted"].isna().all()
    assert scorecard(tmp_path, one("P", run="later", predicted=predicted, **PASSING))["predicted"].tolist()[1] == 0.3


AS_IF = [
    {"measure": "gain", "at": 21.1}, {"measure": "earlier", "at": 21.1}, {"measure": "largest_gain"},
    {"measure": "largest_speedup"}, {"measure": "least", "column": "es_test_accuracy", "down_to": 2.0},
    {"measure": "best", "column": "es_test_accuracy", "down_to": 3.0, "up_to": 8.0},
    {"measure": "last", "column": "es_test_accuracy", "arm": "reinit"}, {"measure": "dense_gain"},
    {"measure": "gain_beside", "column": "es_test_accuracy"}, {"measure": "ahead_further"},
    {"measure": "place_of_largest_gain"}, {"measure": "place_of_largest_speedup"},
]  # fmt: skip


@pytest.mark.parametrize("spec", AS_IF, ids=lambda spec: spec["measure"])
def test_with_many_more_trials_every_measure_is_sure(spec, tmp_path):
    """How many trials would decide is found by asking each measure for its interval with that number."""
    folders = []
    for seed in (0, 1):
        rounds, noise = table({"ticket": TICKET, "reinit": REINIT}), np.random.default_rng(seed)
        rounds["es_test_accuracy"] += noise.normal(0, 0.002, len(rounds))
        rounds["es_val_accuracy"] += noise.normal(0, 0.002, len(rounds))
        rounds["es_iteration"] += noise.normal(0, 100, len(rounds)).round()
        folders.append(write(tmp_path / str(seed), rounds, settings={"seed": seed}))
    view = RunTables.read(*folders)
    few, many = measure(view, spec), measure(view.with_trials(10**9), spec)
    assert many.value == pytest.approx(few.value) and many.n == few.n
    if "place" in spec["measure"]:
        assert ends(many) == (few.value, few.value) and few.low < few.high
    elif spec["measure"] == "ahead_further":  # up to one round further, on each side
        assert few.low < many.low and many.high < few.high
    else:
        assert many.high - many.low < (few.high - few.low) / 1000


def test_the_place_of_a_best_round_spans_the_rounds_that_may_be_as_good(tmp_path):
    """All trials agree that round 2 is best, but of round 3 it is not sure that it is worse, and of round 1 it is."""
    rounds = table({"ticket": TICKET}, trials=5)
    spread = pd.Series([-0.004, -0.002, 0.0, 0.002, 0.004])
    at = rounds["round"] == 3
    rounds.loc[at, "es_val_accuracy"] += rounds.loc[at, "trial"].map(spread)
    rounds.loc[at, "es_iteration"] += 1e4 * rounds.loc[at, "trial"].map(spread) * 4
    view = RunTables.read(write(tmp_path, rounds))
    for name in ("place_of_largest_gain", "place_of_largest_speedup"):
        found = measure(view, {"measure": name})
        assert (found.low, found.value, found.high) == (13.5, 21.1, 21.1)


def test_a_round_that_one_trial_lacks_is_unknown():
    values = pd.DataFrame([[1.0, 2.0], [3.0, np.nan]])
    bands = Bands.of(values)
    assert bands.mean[0] == 2 and all(np.isnan(part[1]) for part in (bands.mean, bands.low, bands.high))


def test_an_arm_falls_below_where_its_known_rounds_do(tmp_path):
    """Where training diverged there is no accuracy, and that is not a round that is not below."""
    rounds = table({"ticket": TICKET, "reinit": REINIT})
    rounds.loc[(rounds["arm"] == "reinit") & (rounds["round"] == 6), "es_test_accuracy"] = np.nan
    view = RunTables.read(write(tmp_path, rounds))
    assert measure(view, {"measure": "falls_below", "arm": "reinit"}).value == LEFT[2]


def test_with_more_trials_the_run_beside_is_as_sure_as_the_run_itself(tmp_path):
    folders = []
    for seed in (0, 1):
        rounds = table({"ticket": TICKET})
        rounds["es_test_accuracy"] += np.random.default_rng(seed).normal(0, 0.002, len(rounds))
        folders.append(write(tmp_path / str(seed), rounds, settings={"seed": seed}))
    view = RunTables.read(*folders)
    places = [
        [measure(each.with_trials(n), {"measure": "ahead_to"}) for each in (view, view.beside)] for n in (3, 10**9)
    ]
    assert ends(places[0][1]) != ends(places[1][1])  # the place in the run beside it is less sure with few trials
    for n, (ours, theirs) in zip((3, 10**9), places, strict=True):
        found = measure(view.with_trials(n), {"measure": "ahead_further"})
        assert ends(found) == pytest.approx((theirs.low - ours.high, theirs.high - ours.low))
