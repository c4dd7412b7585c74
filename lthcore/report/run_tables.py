"""The tables of a run as a report reads them: of trials that are whole, so that all of it speaks of the same ones."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from lthcore.analysis.statistics import Estimate, half_widths
from lthcore.runs.files import read_table, read_tables

TICKETS = ("ticket", "dynamic")  # the arms that a trial is as far along as
NEAR = 0.06  # a round is at a percentage where it is within this share of it


class Absent(Exception):
    """What a measure needs is not in the tables yet."""


def read_whole_trials(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tables (rounds, curves) of a run without its trials on their way. Raises LabError as `read_tables`."""
    rounds, curves = read_tables(folder)
    whole = without_trials_on_their_way(rounds)
    return whole, curves[curves["trial"].isin(set(whole["trial"]))]


def whole_trials(folder: Path) -> int:
    """How many trials of a run are whole."""
    return without_trials_on_their_way(read_table(folder, "rounds.csv"))["trial"].nunique()


def without_trials_on_their_way(rounds: pd.DataFrame) -> pd.DataFrame:
    """A rounds.csv without the trials whose tickets have not come as far as those of others, but for diverged ones."""
    tickets = rounds[rounds["arm"].isin(TICKETS)]
    last = tickets.groupby("trial")["round"].max()
    diverged = set(tickets.loc[tickets["diverged"].eq(True), "trial"])
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
        table, trials = self.found[name], set(self.rounds["trial"])
        if not trials <= set(table["trial"]):
            raise Absent(f"{name}.csv has fewer trials")
        return table[table["trial"].isin(trials)]

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
