"""Measures: what the tables of a run say about a claim, each a function of `RunTables` that gives an `Estimate`.

Gains, ratios and levels are read at one percentage of weights remaining. Places are where an arm crosses the dense
network; their ends are where it would cross if every difference were at the better, or at the worse, end of its
interval. A largest gain, speed-up or accuracy is that of one round; its interval says nothing of how that was chosen.
"""

import numpy as np
import pandas as pd

from lthcore.analysis.statistics import Estimate, difference, mean_accuracy, mean_of, ratio, share_trials
from lthcore.report.run_tables import NEAR, Absent, Bands, RunTables
from lthcore.runs.files import read_record

EARLY_STOP, END = "es_test_accuracy", "final_test_accuracy"


def gain(
    run: RunTables, at: float, arm: str = "ticket", against: str = "dense", column: str = "es_test_accuracy"
) -> Estimate:
    """How much higher a column is in one arm than in another, at a percentage of weights remaining."""
    return difference(run.at(at, column, arm), run.at(at, column, against), paired=True, as_if=run.as_if)


def times(run: RunTables, at: float, arm: str, against: str, column: str) -> Estimate:
    """One arm's column divided by another's, at a percentage of weights remaining."""
    return ratio(run.at(at, column, arm), run.at(at, column, against), run.as_if)


def times_less_one(run: RunTables, at: float, arm: str, against: str, column: str) -> Estimate:
    """`times` - 1: positive where the first is larger."""
    return times(run, at, arm, against, column).plus(-1)


def earlier(run: RunTables, at: float) -> Estimate:
    """By which share tickets stop earlier than the dense network, at a percentage of weights remaining."""
    return times(run, at, "ticket", "dense", "es_iteration").times(-1).plus(1)


def _best_round(run: RunTables, column: str, arm: str) -> int:
    """The round that validates best: were it chosen by test, noise alone would make a gain."""
    return 1 + int(np.nanargmax(run.by_trial(column.replace("test", "val"), arm).mean().to_numpy()[1:]))


def largest_gain(run: RunTables, column: str = "es_test_accuracy", arm: str = "ticket") -> Estimate:
    """The gain over the dense network of the round that validates best."""
    values = run.by_trial(column, arm)
    return difference(values[_best_round(run, column, arm)], values[0], paired=True, as_if=run.as_if)


def place_of_largest_gain(run: RunTables, column: str = "es_test_accuracy", arm: str = "ticket") -> Estimate:
    """Where that round is. The ends are those of the rounds that do not validate worse for sure."""
    return _place_of_best(run, run.by_trial(column.replace("test", "val"), arm), _best_round(run, column, arm))


def _place_of_best(run: RunTables, values: pd.DataFrame, k: int) -> Estimate:
    behind = Bands.of((-values).add(values[k], axis=0), run.as_if)
    among = run.left[1:][~(behind.low[1:] > 0)]
    ends = (among.min(), among.max()) if run.n > 1 else (np.nan, np.nan)
    return Estimate(run.left[k], *ends, run.n)


def _fastest_round(run: RunTables) -> int:
    return 1 + int(np.nanargmin(run.by_trial("es_iteration").mean().to_numpy()[1:]))


def largest_speedup(run: RunTables) -> Estimate:
    """How many times earlier tickets stop than the dense network, in the round in which they stop first."""
    stops = run.by_trial("es_iteration")
    return ratio(stops[0], stops[_fastest_round(run)], run.as_if)


def place_of_largest_speedup(run: RunTables) -> Estimate:
    """Where that round is. The ends are those of the rounds that do not stop later for sure."""
    return _place_of_best(run, -run.by_trial("es_iteration"), _fastest_round(run))


def least(run: RunTables, column: str, down_to: float, arm: str = "ticket") -> Estimate:
    """The least of an accuracy over the rounds of pruning down to a percentage of weights remaining."""
    if run.left[-1] > down_to * 1.1:
        raise Absent(f"rounds end above {down_to}%")
    values = run.by_trial(column, arm)
    rounds = [k for k in values.columns[1:] if run.left[k] >= down_to]
    return mean_accuracy(values[values[rounds].mean().idxmin()], run.as_if)


def best(run: RunTables, column: str, down_to: float, up_to: float, arm: str = "ticket") -> Estimate:
    """An accuracy in the round that validates best between two percentages of weights remaining."""
    values = run.by_trial(column, arm)
    rounds = [k for k in values.columns if down_to <= run.left[k] <= up_to]
    if not rounds:
        raise Absent(f"no round between {down_to}% and {up_to}%")
    if len(rounds) > 1:
        validation = "es_val_accuracy" if column.startswith("es_") else "final_val_accuracy"
        rounds = [run.by_trial(validation, arm)[rounds].mean().idxmax()]
    return mean_accuracy(values[rounds[0]], run.as_if)


def last(run: RunTables, column: str, arm: str) -> Estimate:
    """An accuracy in an arm's last round; of dynamic pruning, which has one, the accuracy of its training."""
    return mean_accuracy(run.by_trial(column, arm).iloc[:, -1], run.as_if)


def _first(left: np.ndarray, holds: np.ndarray, nowhere: float) -> float:
    return float(left[np.argmax(holds)]) if holds.any() else nowhere


def _last(left: np.ndarray, holds: np.ndarray, nowhere: float) -> float:
    return float(left[np.flatnonzero(holds)[-1]]) if holds.any() else nowhere


def _ahead(run: RunTables, arm: str, column: str, lower: bool, control: str) -> Bands:
    """By round, how far an arm is ahead of the dense network, and of a control of as many weights if one is named."""
    values, sign = run.by_trial(column, arm), -1 if lower else 1
    ahead = Bands.of(sign * values.sub(values[0], axis=0), run.as_if)
    return ahead.least_with(Bands.of(sign * (values - run.by_trial(column, control)), run.as_if)) if control else ahead


def ahead_from(
    run: RunTables, arm: str = "ticket", column: str = "es_test_accuracy", lower: bool = False, control: str = ""
) -> Estimate:
    """Most weights remaining at which an arm is ahead of the dense network (with `lower`, its column is less).

    With a control, of that too: many weights may be spared by anything.
    """
    return _ahead(run, arm, column, lower, control).place(lambda d: _first(run.left, d > 0, 0.0), run.n)


def ahead_to(
    run: RunTables, arm: str = "ticket", column: str = "es_test_accuracy", lower: bool = False, control: str = ""
) -> Estimate:
    """Fewest weights remaining at which it still is."""
    return _ahead(run, arm, column, lower, control).place(lambda d: _last(run.left, d > 0, 100.0), run.n)


def ahead_further(run: RunTables, column: str = "es_test_accuracy", lower: bool = False) -> Estimate:
    """By how many percentage points fewer weights tickets stay ahead than those of the run beside it (`ahead_to`)."""
    ours, theirs = (ahead_to(each, column=column, lower=lower) for each in (run, _beside(run)))
    return Estimate(theirs.value - ours.value, theirs.low - ours.high, theirs.high - ours.low, min(ours.n, theirs.n))


def falls_below(run: RunTables, arm: str, column: str = "es_test_accuracy") -> Estimate:
    """Weights remaining from which on an arm stays below the dense network; the fewest there are where it does not."""
    known = np.isfinite(run.against_dense(column, arm).mean)
    left = run.left[known]

    def start(differences: np.ndarray) -> float:
        below = np.logical_and.accumulate((differences[known] < 0)[::-1])[::-1]
        return _first(left, below, float(left[-1]))

    return run.against_dense(column, arm).place(start, run.n)


def within_a_point(run: RunTables, column: str, arm: str = "ticket") -> Estimate:
    """Fewest weights remaining with a column within one percentage point of the dense network's."""
    return run.against_dense(column, arm).place(lambda d: _last(run.left, d >= -0.01, 100.0), run.n)


def smallest_winning(run: RunTables, column: str = "es_test_accuracy") -> Estimate:
    """Fewest weights remaining with which tickets stop no later and lose no accuracy to the dense one (section 1)."""
    wins = (-run.against_dense("es_iteration", "ticket")).least_with(run.against_dense(column, "ticket"))
    return wins.place(lambda d: _last(run.left, d >= 0, 100.0), run.n)  # round 0 is the dense network, and always wins


def weights_back_at_dense(run: RunTables, column: str = "es_test_accuracy") -> Estimate:
    """Fewest weights with which tickets reach the dense network's test accuracy."""
    weights = run.by_trial("weights_left").mean().to_numpy()
    return run.against_dense(column, "ticket").place(lambda d: _last(weights, d >= 0, weights[0]), run.n)


def _beside(run: RunTables) -> RunTables:
    if run.beside is None:
        raise Absent("the run beside it is not there")
    return run.beside if run.as_if is None else run.beside.with_trials(run.as_if)


def _over_beside(run: RunTables, ours: pd.Series, theirs: pd.Series) -> Estimate:
    """Paired where trial t is the same draw in both runs, as `share_trials` has it."""
    settings = [read_record(one.folder).get("settings", {}) for one in (run, _beside(run))]
    return difference(ours, theirs, share_trials(*settings), run.as_if)


def dense_gain(run: RunTables, column: str = "es_test_accuracy") -> Estimate:
    """How much better the dense network of this run is than that of the run beside it."""
    return _over_beside(run, run.by_trial(column)[0], _beside(run).by_trial(column)[0])


def gain_beside(run: RunTables, column: str, arm: str = "ticket", at: float | None = None) -> Estimate:
    """How much higher a column is than in the run beside it, at a percentage of weights remaining in both.

    Without a percentage, in the last rounds of both.
    """
    if at is None:
        return _over_beside(run, *(one.by_trial(column, arm).iloc[:, -1] for one in (run, _beside(run))))
    return _over_beside(run, *(one.at(at, column, arm) for one in (run, _beside(run))))


def movement_less_one(run: RunTables, at: float) -> Estimate:
    """How much more the ticket's weights move in the dense training than the rest: ratio of means over layers, - 1."""
    table = run.table("structure")
    means = table[table["round"] == run.round_at(at)].groupby("trial")[["movement_kept", "movement_pruned"]].mean()
    return ratio(means["movement_kept"], means["movement_pruned"], run.as_if).plus(-1)


def _without_training(run: RunTables, arm: str) -> pd.Series:
    """Test accuracy by trial of an arm's masks before any training, in the round that validates best then."""
    curves = run.table("curves")
    start = curves[(curves["iteration"] == 0) & (curves["round"] > 0) & (curves["arm"] == arm)]
    return _where_best(start, "round")


def _under_learned(run: RunTables, method: str) -> pd.Series:
    """Test accuracy by trial of untrained networks under learned masks, of the density that validates best."""
    table = run.table("learned")
    return _where_best(table[table["method"] == method].round({"percent_left": 1}), "percent_left")


def _where_best(table: pd.DataFrame, by: str) -> pd.Series:
    if table.empty:
        raise Absent("nothing of that kind was measured")
    validation, test = (
        table.pivot_table(index="trial", columns=by, values=f"{split}_accuracy") for split in ("val", "test")
    )
    return test[validation.mean().idxmax()]


def untrained(run: RunTables, arm: str) -> Estimate:
    """Test accuracy of an arm's masks before any training, in the round that validates best then."""
    return mean_accuracy(_without_training(run, arm), run.as_if)


def learned_gain(run: RunTables, method: str, arm: str) -> Estimate:
    """How much more an untrained network knows under learned masks than under an arm's, each at its best round."""
    return difference(_under_learned(run, method), _without_training(run, arm), paired=True, as_if=run.as_if)


def error_barrier(run: RunTables, at: float) -> Estimate:
    """The error barrier between two copies that part where tickets are rewound to, at a percentage remaining."""
    table = run.table("stability")
    near = table[(table["percent_left"] / at - 1).abs() < NEAR]
    if near.empty:
        raise Absent(f"no barrier at {at}%")
    return mean_of(near.groupby("trial")["error_barrier"].mean(), run.as_if)


MEASURES = {
    f.__name__: f
    for f in (
        gain, times, times_less_one, earlier, largest_gain, place_of_largest_gain, largest_speedup,
        place_of_largest_speedup, least, best, last, ahead_from, ahead_to, ahead_further, falls_below, within_a_point,
        smallest_winning, weights_back_at_dense, dense_gain, gain_beside, movement_less_one, untrained, learned_gain,
        error_barrier,
    )
}  # fmt: skip
