"""Measures: what the tables of a run say about a claim, each a function of `RunTables` that gives an `Estimate`.

Gains, ratios and levels are read at one percentage of weights remaining. Places are where an arm crosses the dense
network; their ends are where it would cross if every difference were at the better, or at the worse, end of its
interval. A largest gain, speed-up or accuracy is that of one round; its interval says nothing of how that was chosen.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from lthcore.analysis.statistics import Estimate, difference, half_widths, mean_of, ratio, share_trials
from lthcore.runs.files import read_record, read_table, read_tables

EARLY_STOP, END = "es_test_accuracy", "final_test_accuracy"
NEAR = 0.06  # a round is at a percentage where it is within this share of it


class Absent(Exception):
    """What a measure needs is not in the tables yet."""


def without_trials_on_their_way(rounds: pd.DataFrame) -> pd.DataFrame:
    """A rounds.csv without the trials whose tickets have not come as far as those of others, but for diverged ones."""
    tickets = rounds[rounds["arm"].isin(["ticket", "dynamic"])]
    last = tickets.groupby("trial")["round"].max()
    diverged = set(rounds.loc[rounds["diverged"].eq(True), "trial"])
    on_their_way = {trial for trial, k in last.items() if k < last.max()} - diverged
    return rounds[~rounds["trial"].isin(on_their_way)]


@dataclass(frozen=True)
class RunTables:
    """A run's rounds.csv, trials on their way and rounds not done in all others left out, and the tables beside it.

    `beside` is another run that it is held against. `as_if`: with intervals as of so many trials.
    """

    rounds: pd.DataFrame
    folder: Path | None = None
    beside: "RunTables | None" = None
    as_if: int | None = None
    found: dict = field(default_factory=dict, repr=False)  # (column, arm) -> its table, and name -> a file: read once

    @classmethod
    def read(cls, folder: Path, beside: Path | None = None) -> "RunTables":
        """The tables of a run in its folder. Raises LabError where they cannot be read."""
        return replace(cls.of(read_tables(folder)[0]), folder=folder, beside=cls.read(beside) if beside else None)

    @classmethod
    def of(cls, rounds: pd.DataFrame) -> "RunTables":
        """A rounds.csv, whole or not."""
        rounds = without_trials_on_their_way(rounds)
        n = rounds.groupby(["arm", "round"]).size()
        draws = rounds.groupby("arm")["draw"].nunique().reindex(n.index, level="arm")
        whole = n[n == rounds["trial"].nunique() * draws].index
        return cls(rounds.set_index(["arm", "round"]).loc[lambda t: t.index.isin(whole)].reset_index())

    def with_trials(self, n: int) -> "RunTables":
        """The same, with the intervals that n trials of this spread would have."""
        return replace(self, as_if=n)

    @property
    def n(self) -> int:
        """How many trials there are."""
        return self.rounds["trial"].nunique()

    def has(self, column: str) -> bool:
        """Whether a column has any value."""
        return column in self.rounds and bool(self.rounds[column].notna().any())

    @cached_property
    def left(self) -> np.ndarray:
        """The percentage of weights remaining in each round."""
        return self.by_trial("percent_left").mean().to_numpy()

    def by_trial(self, column: str, arm: str = "ticket") -> pd.DataFrame:
        """A column by trial (rows) and round (columns), draws averaged; the dense network is round 0 of every arm.

        Raises Absent where the arm has not come down to the last round yet.
        """
        if (column, arm) not in self.found:
            rounds = self.rounds
            dense = (rounds["arm"] == "ticket") & (rounds["round"] == 0)
            last = int(rounds["round"].max())
            if last and not ((rounds["arm"] == arm) & (rounds["round"] == last)).any():
                raise Absent(f"arm {arm} is not done")
            part = rounds[(rounds["arm"] == arm) | dense]
            table = part.pivot_table(index="trial", columns="round", values=column, aggfunc="mean", dropna=False)
            if table.empty or table.isna().all(axis=None):
                raise Absent(f"{column} of {arm} has no values")
            self.found[column, arm] = table.reindex(columns=range(last + 1))
        return self.found[column, arm]

    def at(self, percent: float, column: str, arm: str) -> pd.Series:
        """A column by trial, of an arm (or "dense") at a percentage of weights remaining. Raises Absent."""
        k = self.round_at(percent)
        return self.by_trial(column)[0] if arm == "dense" else self.by_trial(column, arm)[k]

    def round_at(self, percent: float) -> int:
        """The round at a percentage of weights remaining. Raises Absent where there is none near it."""
        k = int(np.nanargmin(np.abs(np.log(self.left / percent))))
        if abs(self.left[k] / percent - 1) > NEAR:
            raise Absent(f"no round with {percent}% of weights remaining")
        return k

    def table(self, name: str) -> pd.DataFrame:
        """Another table of the run. Raises Absent where it is not there, or does not have all trials."""
        if name not in self.found:
            if self.folder is None or not (self.folder / f"{name}.csv").exists():
                raise Absent(f"{name}.csv is not there")
            self.found[name] = read_table(self.folder, f"{name}.csv")
        if not set(self.rounds["trial"]) <= set(self.found[name]["trial"]):
            raise Absent(f"{name}.csv has fewer trials")
        return self.found[name]

    def against_dense(self, column: str, arm: str) -> "Bands":
        """By round, how much higher a column is than the dense network's."""
        values = self.by_trial(column, arm)
        return Bands.of(values.sub(values[0], axis=0), self.as_if)


@dataclass(frozen=True)
class Bands:
    """Means by round, and the ends of their intervals."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of(cls, values: pd.DataFrame, as_if: int | None = None) -> "Bands":
        """The means of a table by trial and round."""
        mean, half = values.mean().to_numpy(), half_widths(values.to_numpy(), as_if)
        return cls(mean, mean - half, mean + half)

    def __neg__(self) -> "Bands":
        return Bands(-self.mean, -self.high, -self.low)

    def least_with(self, other: "Bands") -> "Bands":
        """By round the lesser of the two: positive where both are."""
        pairs = ((self.mean, other.mean), (self.low, other.low), (self.high, other.high))
        return Bands(*(np.minimum(a, b) for a, b in pairs))

    def place(self, where: Callable[[np.ndarray], float], n: int) -> Estimate:
        """Where something holds of these differences, and the places where it may, by the ends of their intervals.

        Of a single trial there are no such ends.
        """
        ends = sorted((where(self.low), where(self.high))) if n > 1 else (np.nan, np.nan)
        return Estimate(where(self.mean), *ends, n)


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
    """The round of the best validation accuracy: were it chosen by test, noise alone would make a gain."""
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


def _level(values: pd.Series, as_if: int | None) -> Estimate:
    """A mean accuracy. Its interval ends where accuracies do."""
    found = mean_of(values, as_if)
    return replace(found, low=max(found.low, 0.0), high=min(found.high, 1.0))


def least(run: RunTables, column: str, down_to: float, arm: str = "ticket") -> Estimate:
    """The least of an accuracy over the rounds of pruning down to a percentage of weights remaining."""
    if run.left[-1] > down_to * 1.1:
        raise Absent(f"rounds end above {down_to}%")
    values = run.by_trial(column, arm)
    rounds = [k for k in values.columns[1:] if run.left[k] >= down_to]
    return _level(values[values[rounds].mean().idxmin()], run.as_if)


def best(run: RunTables, column: str, down_to: float, up_to: float, arm: str = "ticket") -> Estimate:
    """The best of an accuracy over the rounds between two percentages of weights remaining."""
    values = run.by_trial(column, arm)
    rounds = [k for k in values.columns if down_to <= run.left[k] <= up_to]
    if not rounds:
        raise Absent(f"no round between {down_to}% and {up_to}%")
    return _level(values[values[rounds].mean().idxmax()], run.as_if)


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
    return _level(_without_training(run, arm), run.as_if)


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
        place_of_largest_speedup, least, best, ahead_from, ahead_to, ahead_further, falls_below, within_a_point,
        smallest_winning, weights_back_at_dense, dense_gain, gain_beside, movement_less_one, untrained, learned_gain,
        error_barrier,
    )
}  # fmt: skip
