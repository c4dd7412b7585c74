"""Measures of claims: functions that take the `RunTables` of a run and return an `Estimate`.

Gains, ratios and levels are read at one percentage of weights remaining. Places are the percentages at which an arm
crosses the dense network. The interval of a place ends where the arm would cross if every difference were at the upper,
or at the lower, end of its own interval, and one round further, because the rounds do not show where between two of
them it crosses. A largest gain, speed-up or accuracy is the value of one chosen round (of a gain, that with the best
validation accuracy); its interval does not account for this choice.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd

from lthcore.analysis.statistics import Estimate, difference, mean_accuracy, mean_of, ratio, share_trials
from lthcore.report.run_tables import NEAR, Absent, Bands, RunTables
from lthcore.runs.files import read_record
from lthcore.runs.rows import nearest_round

EARLY_STOP, END = "es_test_accuracy", "final_test_accuracy"


def gain(run: RunTables, at: float, arm: str = "ticket", against: str = "dense", column: str = EARLY_STOP) -> Estimate:
    """Return the difference of a column between two arms at a percentage of weights remaining.

    The difference is `arm` minus `against`, each an arm or "dense", and it is paired by trial.
    """
    return difference(run.at(at, column, arm), run.at(at, column, against), paired=True, as_if=run.as_if)


def times(run: RunTables, at: float, arm: str, against: str, column: str) -> Estimate:
    """Return the ratio of a column between two arms, `arm` over `against`, at a percentage of weights remaining."""
    return ratio(run.at(at, column, arm), run.at(at, column, against), run.as_if)


def times_less_one(run: RunTables, at: float, arm: str, against: str, column: str) -> Estimate:
    """Return `times` minus 1: positive if the column of `arm` is larger."""
    return times(run, at, arm, against, column).plus(-1)


def earlier(run: RunTables, at: float) -> Estimate:
    """Return the share by which tickets stop earlier than the dense network, at a percentage of weights remaining."""
    return times(run, at, "ticket", "dense", "es_iteration").times(-1).plus(1)


def _best_round(run: RunTables, column: str) -> int:
    """Return the pruned round of tickets with the best mean validation accuracy, for a column of accuracies.

    Choosing the round by the accuracy itself would produce a gain from noise alone.
    """
    return 1 + int(np.nanargmax(run.by_trial(validation_of(column)).mean().to_numpy()[1:]))


def validation_of(column: str) -> str:
    """Return the column of validation accuracy that chooses the round in which an accuracy is read."""
    return "es_val_accuracy" if column.startswith("es_") else "final_val_accuracy"


def largest_gain(run: RunTables, column: str = EARLY_STOP) -> Estimate:
    """Return the gain of tickets over the dense network in the round with the best validation accuracy."""
    values = run.by_trial(column)
    return difference(values[_best_round(run, column)], values[0], paired=True, as_if=run.as_if)


def place_of_largest_gain(run: RunTables, column: str = EARLY_STOP) -> Estimate:
    """Return the percentage of weights remaining in the round with the best validation accuracy.

    The interval spans the rounds whose validation accuracy is not significantly lower.
    """
    return _place_of_best(run, run.by_trial(validation_of(column)), _best_round(run, column))


def _place_of_best(run: RunTables, values: pd.DataFrame, k: int) -> Estimate:
    behind = Bands.of((-values).add(values[k], axis=0), run.as_if)
    among = run.left[1:][~(behind.low[1:] > 0)]
    ends = (among.min(), among.max()) if run.n > 1 else (np.nan, np.nan)
    return Estimate(run.left[k], *ends, run.n)


def _fastest_round(run: RunTables) -> int:
    return 1 + int(np.nanargmin(run.by_trial("es_iteration").mean().to_numpy()[1:]))


def largest_speedup(run: RunTables) -> Estimate:
    """Return how many times earlier tickets stop than the dense network, in the round in which they stop earliest."""
    stops = run.by_trial("es_iteration")
    return ratio(stops[0], stops[_fastest_round(run)], run.as_if)


def place_of_largest_speedup(run: RunTables) -> Estimate:
    """Return the percentage of weights remaining in the round in which tickets stop earliest.

    The interval spans the rounds that do not stop significantly later.
    """
    return _place_of_best(run, -run.by_trial("es_iteration"), _fastest_round(run))


def least(run: RunTables, column: str, down_to: float) -> Estimate:
    """Return the lowest mean accuracy of tickets in all pruned rounds down to a percentage of weights remaining.

    Raises Absent if the rounds end more than a tenth above this percentage, or if all pruned rounds are below it.
    """
    if run.left[-1] > down_to * 1.1:
        raise Absent(f"rounds end above {down_to}%")
    values = run.by_trial(column)
    rounds = [k for k in values.columns[1:] if run.left[k] >= down_to]
    if not rounds:
        raise Absent(f"no pruned round above {down_to}%")
    return mean_accuracy(values[values[rounds].mean().idxmin()], run.as_if)


def best(run: RunTables, column: str, down_to: float, up_to: float) -> Estimate:
    """Return an accuracy of tickets in the round that validates best between two percentages of weights remaining.

    Raises Absent if there is no round between them.
    """
    values = run.by_trial(column)
    rounds = [k for k in values.columns if down_to <= run.left[k] <= up_to]
    if not rounds:
        raise Absent(f"no round between {down_to}% and {up_to}%")
    if len(rounds) > 1:
        rounds = [run.by_trial(validation_of(column))[rounds].mean().idxmax()]
    return mean_accuracy(values[rounds[0]], run.as_if)


def last(run: RunTables, column: str, arm: str) -> Estimate:
    """Return an accuracy in the last round of an arm; dynamic pruning has a single round."""
    return mean_accuracy(run.by_trial(column, arm).iloc[:, -1], run.as_if)


def _begins(bands: Bands, left: np.ndarray, holds: Callable[[np.ndarray], np.ndarray], n: int) -> Estimate:
    """Return the weights left in the first round in which something holds; 0 if in none.

    `left` is by round, and so is what `holds` makes of the means, and of the low and the high ends of their intervals.
    It may begin to hold anywhere after the round before, so the interval reaches up to that. With a single trial
    (n = 1) there is no interval.
    """
    left = np.append(left, 0.0)
    mean, *ends = (int(np.argmax(np.append(holds(d), True))) for d in (bands.mean, bands.low, bands.high))
    interval = (left[max(ends)], left[max(0, min(ends) - 1)]) if n > 1 else (np.nan, np.nan)
    return Estimate(float(left[mean]), *map(float, interval), n)


def _ends(bands: Bands, left: np.ndarray, holds: Callable[[np.ndarray], np.ndarray], n: int) -> Estimate:
    """Return the weights left in the last round in which something holds; those of the dense network if in none.

    Arguments are those of `_begins`. It may hold further, but not to the next round, so the interval reaches down to
    that: to 0 after the last one.
    """
    mean, *ends = (int(np.flatnonzero([True, *holds(d)[1:]])[-1]) for d in (bands.mean, bands.low, bands.high))
    left = np.append(left, 0.0)
    interval = (left[max(ends) + 1], left[min(ends)]) if n > 1 else (np.nan, np.nan)
    return Estimate(float(left[mean]), *map(float, interval), n)


def _ahead(run: RunTables, arm: str, column: str, lower: bool, control: str) -> Bands:
    """Return the lead of an arm over the dense network by round; with `lower`, a lead is a smaller value.

    If `control` names an arm with as many weights, return the smaller of the leads over the dense network and over it.
    """
    values, sign = run.by_trial(column, arm), -1 if lower else 1
    ahead = Bands.of(sign * values.sub(values[0], axis=0), run.as_if)
    return ahead.least_with(Bands.of(sign * (values - run.by_trial(column, control)), run.as_if)) if control else ahead


def ahead_from(
    run: RunTables, arm: str = "ticket", column: str = EARLY_STOP, lower: bool = False, control: str = ""
) -> Estimate:
    """Return the highest percentage of weights remaining at which an arm is ahead of the dense network; 0 if nowhere.

    With `lower`, being ahead means a smaller value. With `control`, the arm must also be ahead of this arm, because
    many weights can be removed by any method without harm.
    """
    return _begins(_ahead(run, arm, column, lower, control), run.left, lambda d: d > 0, run.n)


def ahead_to(
    run: RunTables, arm: str = "ticket", column: str = EARLY_STOP, lower: bool = False, control: str = ""
) -> Estimate:
    """Return the lowest percentage of weights remaining at which an arm is ahead (see `ahead_from`); 100 if nowhere."""
    return _ends(_ahead(run, arm, column, lower, control), run.left, lambda d: d > 0, run.n)


def ahead_further(run: RunTables, column: str = EARLY_STOP, lower: bool = False) -> Estimate:
    """Return how many percentage points further down tickets stay ahead (`ahead_to`) than in the run beside it."""
    ours, theirs = (ahead_to(each, column=column, lower=lower) for each in (run, _beside(run)))
    return Estimate(theirs.value - ours.value, theirs.low - ours.high, theirs.high - ours.low, min(ours.n, theirs.n))


def falls_below(run: RunTables, arm: str, column: str = EARLY_STOP) -> Estimate:
    """Return the percentage of weights remaining from which on an arm stays below the dense network.

    If its last known round is not below, return the percentage of this round.
    """
    lead = run.against_dense(column, arm)
    known = np.isfinite(lead.mean)
    lead = Bands(lead.mean[known], lead.low[known], lead.high[known])

    def stays_below(differences: np.ndarray) -> np.ndarray:
        return np.logical_and.accumulate((differences < 0)[::-1])[::-1]

    found = _begins(lead, run.left[known], stays_below, run.n)
    return replace(found, value=max(found.value, float(run.left[known][-1])))


def within_a_point(run: RunTables, column: str) -> Estimate:
    """Return the lowest percentage of weights at which tickets are at most one point below the dense network."""
    return _ends(run.against_dense(column, "ticket"), run.left, lambda d: d >= -0.01, run.n)


def smallest_winning(run: RunTables, column: str = EARLY_STOP) -> Estimate:
    """Return the lowest percentage of weights remaining at which tickets win (section 1).

    They win if they stop no later than the dense network and their accuracy is no lower.
    """
    return _ends(_wins(run, column), run.left, lambda d: d >= 0, run.n)


def larger_losing(run: RunTables) -> list[float]:
    """Return the percentages above that of the smallest winning tickets at which tickets do not win, by the means."""
    smallest, means = smallest_winning(run).value, _wins(run, EARLY_STOP).mean
    return [left for left, mean in zip(run.left, means, strict=True) if left > smallest and mean < 0]


def _wins(run: RunTables, column: str) -> Bands:
    """Return by round what is at least 0 where tickets win: the smaller of their leads in early stop and accuracy."""
    return (-run.against_dense("es_iteration", "ticket")).least_with(run.against_dense(column, "ticket"))


def weights_back_at_dense(run: RunTables, column: str = EARLY_STOP) -> Estimate:
    """Return the smallest number of weights with which tickets reach the test accuracy of the dense network."""
    weights = run.by_trial("weights_left").mean().to_numpy()
    return _ends(run.against_dense(column, "ticket"), weights, lambda d: d >= 0, run.n)


def _beside(run: RunTables) -> RunTables:
    if run.beside is None:
        raise Absent("the run beside it is not there")
    return run.beside if run.as_if is None else run.beside.with_trials(run.as_if)


def _over_beside(run: RunTables, ours: pd.Series, theirs: pd.Series) -> Estimate:
    """Return `ours` minus `theirs`, paired by trial if trial t is the same draw in both runs (`share_trials`)."""
    settings = [read_record(one.folder).get("settings", {}) for one in (run, _beside(run))]
    return difference(ours, theirs, share_trials(*settings), run.as_if)


def dense_gain(run: RunTables, column: str = EARLY_STOP) -> Estimate:
    """Return the difference of a column between the dense networks of this run and of the run beside it."""
    return _over_beside(run, run.by_trial(column)[0], _beside(run).by_trial(column)[0])


def gain_beside(run: RunTables, column: str, arm: str = "ticket", at: float | None = None) -> Estimate:
    """Return the difference of a column between this run and the run beside it.

    It is read at a percentage of weights remaining in both, by default in the last round of each.
    """
    if at is None:
        return _over_beside(run, *(one.by_trial(column, arm).iloc[:, -1] for one in (run, _beside(run))))
    return _over_beside(run, *(one.at(at, column, arm) for one in (run, _beside(run))))


def movement_less_one(run: RunTables, at: float) -> Estimate:
    """Return how much more the weights in the ticket move than the pruned ones while the dense network is trained.

    It is the ratio of the mean movements (over layers) minus 1, at a percentage of weights remaining.
    """
    table = run.table("structure")
    means = table[table["round"] == run.round_at(at)].groupby("trial")[["movement_kept", "movement_pruned"]].mean()
    return ratio(means["movement_kept"], means["movement_pruned"], run.as_if).plus(-1)


def _without_training(run: RunTables, arm: str) -> pd.Series:
    """Return the test accuracy by trial of an arm before any training, in the round that then validates best."""
    curves = run.table("curves")
    start = curves[(curves["iteration"] == 0) & (curves["round"] > 0) & (curves["arm"] == arm)]
    return _where_best(start, "round")


def _under_learned(run: RunTables, method: str) -> pd.Series:
    """Return the test accuracy by trial of untrained networks with learned masks, at the best density by validation."""
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
    """Return the mean test accuracy of an arm before any training, in the round that then validates best."""
    return mean_accuracy(_without_training(run, arm), run.as_if)


def learned_gain(run: RunTables, method: str, arm: str) -> Estimate:
    """Return the difference of test accuracy of untrained networks between learned masks and an arm's masks.

    Each is read at the density or round that validates best.
    """
    return difference(_under_learned(run, method), _without_training(run, arm), paired=True, as_if=run.as_if)


def error_barrier(run: RunTables, at: float) -> Estimate:
    """Return the error barrier between two copies trained on from the rewinding point, at a percentage remaining.

    Raises Absent if the barrier was not measured near this percentage.
    """
    table = run.table("stability")
    k = nearest_round(table.groupby("round")["percent_left"].mean(), at, NEAR)
    if k is None:
        raise Absent(f"no barrier at {at}%")
    return mean_of(table[table["round"] == k].groupby("trial")["error_barrier"].mean(), run.as_if)


MEASURES = {
    f.__name__: f
    for f in (
        gain, times, times_less_one, earlier, largest_gain, place_of_largest_gain, largest_speedup,
        place_of_largest_speedup, least, best, last, ahead_from, ahead_to, ahead_further, falls_below, within_a_point,
        smallest_winning, weights_back_at_dense, dense_gain, gain_beside, movement_less_one, untrained, learned_gain,
        error_barrier,
    )
}  # fmt: skip
