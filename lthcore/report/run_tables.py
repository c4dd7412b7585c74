"""Access to the tables of a run for reports, without unfinished trials: all numbers are about the same trials."""

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from lthcore.analysis.statistics import half_widths
from lthcore.runs.files import has_results, read_record, read_table, read_tables
from lthcore.runs.rows import nearest_round

TICKETS = ("ticket", "dynamic")  # the arms whose last round tells how far a trial is
NEAR = 0.06  # tolerance between a percentage that is asked for and that of the nearest round, as a share of the smaller


class Absent(Exception):
    """Raised if the tables do not have what a measure needs (yet)."""


def read_whole_trials(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the tables (rounds, curves) of a run without unfinished trials and incomplete rounds (`of_same_trials`).

    Raises LabError like `read_tables`.
    """
    rounds, curves = read_tables(folder)
    whole, keys = of_same_trials(rounds), ["trial", "arm", "round"]
    return whole, curves[curves.set_index(keys).index.isin(whole.set_index(keys).index)]


def whole_trials(folder: Path) -> int:
    """Return the number of trials of a run that `read_whole_trials` keeps."""
    return without_trials_on_their_way(read_table(folder, "rounds.csv"))["trial"].nunique()


def has_whole_trial(folder: Path) -> bool:
    """Return whether a run has a trial with all the rounds that were asked for, or one whose ticket diverged before."""
    if not has_results(folder):
        return False
    rounds, settings = read_table(folder, "rounds.csv"), read_record(folder).get("settings", {})
    tickets = rounds[rounds["arm"].isin(TICKETS)]
    return bool(tickets["round"].max() >= settings.get("rounds", 0) or tickets["diverged"].eq(True).any())


def without_trials_on_their_way(rounds: pd.DataFrame) -> pd.DataFrame:
    """Return rounds.csv without unfinished trials.

    A trial is unfinished if its tickets have fewer rounds than the tickets of another trial, unless it diverged.
    """
    tickets = rounds[rounds["arm"].isin(TICKETS)]
    last = tickets.groupby("trial")["round"].max()
    diverged = set(tickets.loc[tickets["diverged"].eq(True), "trial"])
    on_their_way = {trial for trial, k in last.items() if k < last.max()} - diverged
    return rounds[~rounds["trial"].isin(on_their_way)]


def of_same_trials(rounds: pd.DataFrame) -> pd.DataFrame:
    """Return rounds.csv without unfinished trials and incomplete rounds.

    A round of an arm is incomplete if some trial or draw lacks it: a mean over the others would be of other trials.
    """
    rounds = without_trials_on_their_way(rounds)
    n = rounds.groupby(["arm", "round"]).size()
    draws = rounds.groupby("arm")["draw"].nunique().reindex(n.index, level="arm")
    whole = n[n == rounds["trial"].nunique() * draws].index
    return rounds.set_index(["arm", "round"]).loc[lambda t: t.index.isin(whole)].reset_index()[list(rounds.columns)]


@dataclass(frozen=True)
class RunTables:
    """The tables of a run: rounds.csv as `of_same_trials` returns it, and others on request.

    `beside` is another run to compare with. `as_if`
    is the number of trials that intervals are computed for, by default the actual one.
    """

    rounds: pd.DataFrame
    folder: Path | None = None
    beside: "RunTables | None" = None
    as_if: int | None = None
    found: dict = field(default_factory=dict, repr=False)  # cache: (column, arm) -> table, file name -> table

    @classmethod
    def read(cls, folder: Path, beside: Path | None = None) -> "RunTables":
        """Read the tables of a run, and of the run `beside` it, from their folders.

        Raises LabError if they are missing or damaged.
        """
        return replace(cls.of(read_tables(folder)[0]), folder=folder, beside=cls.read(beside) if beside else None)

    @classmethod
    def of(cls, rounds: pd.DataFrame) -> "RunTables":
        """Create from a rounds.csv, which may be that of an unfinished run."""
        return cls(of_same_trials(rounds))

    def with_trials(self, n: int) -> "RunTables":
        """Return these tables with the intervals that n trials of the same mean and spread would have."""
        return replace(self, as_if=n)

    @property
    def n(self) -> int:
        """Number of trials."""
        return self.rounds["trial"].nunique()

    def has(self, column: str) -> bool:
        """Return whether a column exists and has any value."""
        return column in self.rounds and bool(self.rounds[column].notna().any())

    @cached_property
    def left(self) -> np.ndarray:
        """Percentage of weights remaining in each round, as the mean over trials."""
        return self.by_trial("percent_left").mean().to_numpy()

    def by_trial(self, column: str, arm: str = "ticket") -> pd.DataFrame:
        """Return a column by trial (rows) and round (columns), averaged over draws. Round 0 is the dense network.

        Raises Absent if the arm has not reached the last round yet, or if the column has no values.
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
        """Return a column by trial, of an arm (or "dense") at a percentage of weights remaining.

        It is read in the round whose mean percentage is nearest, or, if trials skipped rounds, in each trial's own: the
        first of those nearest to the percentage. Raises Absent if there is none near it, or if the arm has no values.
        """
        values = self.by_trial(column, "ticket" if arm == "dense" else arm)
        if arm == "dense":
            return values[0]
        if not ("skipped" in self.rounds and self.rounds["skipped"].eq(True).any()):
            return values[self.round_at(percent)]
        found = {}
        for trial, percent_left in self.by_trial("percent_left", arm).iterrows():
            k = nearest_round(percent_left, percent, NEAR)
            if k is None:
                raise Absent(f"a trial has no round with {percent}% of weights remaining")
            found[trial] = values.at[trial, k]
        return pd.Series(found).rename_axis("trial")

    def round_at(self, percent: float) -> int:
        """Return the round nearest to a percentage of weights remaining. Raises Absent if none is within NEAR."""
        k = nearest_round(pd.Series(self.left), percent, NEAR)
        if k is None:
            raise Absent(f"no round with {percent}% of weights remaining")
        return k

    def table(self, name: str) -> pd.DataFrame:
        """Return another table of the run, `<name>.csv`. Raises Absent if it is missing or does not have all trials."""
        if name not in self.found:
            if self.folder is None or not (self.folder / f"{name}.csv").exists():
                raise Absent(f"{name}.csv is not there")
            self.found[name] = read_table(self.folder, f"{name}.csv")
        table, trials = self.found[name], set(self.rounds["trial"])
        if not trials <= set(table["trial"]):
            raise Absent(f"{name}.csv has fewer trials")
        return table[table["trial"].isin(trials)]

    def against_dense(self, column: str, arm: str) -> "Bands":
        """Return by round the difference of a column between an arm and the dense network."""
        values = self.by_trial(column, arm)
        return Bands.of(values.sub(values[0], axis=0), self.as_if)


@dataclass(frozen=True)
class Bands:
    """Means by round, and the ends of their 95% intervals."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def of(cls, values: pd.DataFrame, as_if: int | None = None) -> "Bands":
        """Compute the means over trials of a table by trial (rows) and round (columns).

        A round is unknown (nan) if a trial has no value, since a mean over the others would be of other trials.
        """
        mean, half = values.mean(skipna=False).to_numpy(), half_widths(values.to_numpy(), as_if)
        return cls(mean, mean - half, mean + half)

    def __neg__(self) -> "Bands":
        return Bands(-self.mean, -self.high, -self.low)

    def least_with(self, other: "Bands") -> "Bands":
        """Return the smaller of the two by round, which is positive where both are."""
        pairs = ((self.mean, other.mean), (self.low, other.low), (self.high, other.high))
        return Bands(*(np.minimum(a, b) for a, b in pairs))
