"""Statistics: estimates and their intervals. All intervals of this project are computed here, by one convention.

Trials are the independent unit: draws within a trial are averaged before they are passed to this module. The argument
`as_if` asks for the interval that the same mean and spread would have with another number of trials.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from lthcore.recipe import Recipe

BRACKETS = (
    "Numbers in brackets are 95% confidence intervals over trials. If the interval of a difference contains 0, the "
    "trials cannot tell the two apart."
)
CONVENTION = (
    f"{BRACKETS} The intervals are Student's t for means (paired by trial if both sides share "
    "initial weights or the order of the images, otherwise Welch's), Fieller's for ratios of means, and the "
    "jackknife's over pairs of trials. The interval of a place holds the places that the intervals of the differences "
    "allow. All trials share one test set and one validation set, whose choice no interval accounts for. Intervals "
    "over held-out seeds ignore that the classifiers share most of their training seeds, and so may be too narrow. "
    "Each interval stands for itself: among many, about one in twenty misses the true value."
)
# accuracy below which nothing is learned, in units of that of guessing: always predicting one of ten classes is right
# for 9 to 11.4% of the test images used here
AT_CHANCE = 1.2
MOST_TRIALS = 1000  # more trials than this are never recommended

# settings that must be equal for two runs to start trial t from the same weights, or show it images in the same order
SAME_WEIGHTS = ("seed", "dataset", "image_size", "architecture", "widths", "padding", "initialisation", "init_std")
SAME_ORDER = ("seed", "dataset", "train_examples", "validation", "batch_size")


@dataclass(frozen=True)
class Estimate:
    """A value, the ends of its 95% interval, and the number of trials. With too few trials, the ends are nan."""

    value: float
    low: float
    high: float
    n: int

    def times(self, factor: float) -> "Estimate":
        """Return this estimate multiplied by a factor. A negative factor swaps the ends."""
        ends = sorted((factor * self.low, factor * self.high))
        return Estimate(factor * self.value, *ends, self.n)

    def plus(self, shift: float) -> "Estimate":
        """Return this estimate shifted by a constant."""
        return Estimate(self.value + shift, self.low + shift, self.high + shift, self.n)

    def text(self, form: str = "{:.2f}", note: bool = True) -> str:
        """Return `value [low, high]`, each formatted by `form`, or a note if the interval is infinite.

        If it is missing, there is a note, too, unless `note` is False.
        """
        value = _unsigned_zero(form.format(self.value), form)
        low, high = (form.format(end + 0.0) for end in (self.low, self.high))  # a sign there tells on which side of 0
        if np.isnan(self.low):
            return f"{value} (n = {self.n}: no interval)" if note else value
        return f"{value} (no bounds)" if np.isinf(self.low) else f"{value} [{low}, {high}]"

    def in_points(self, form: str = "{:+.2f}") -> str:
        """Return `value points [low, high] (n = 5)` for an estimate in points, or a note if it has no interval."""
        value, _, interval = self.text(form, note=False).partition(" ")
        return (
            f"{value} points {interval} (n = {self.n})" if interval else f"{value} points (n = {self.n}: no interval)"
        )


def _unsigned_zero(text: str, form: str) -> str:
    """Return a formatted number without the minus of a zero, as in -0%."""
    is_zero = not any(digit in text for digit in "123456789") and "0" in text
    return text.replace("-", "+" if "+" in form else "") if is_zero else text


def half_widths(values: np.ndarray, as_if: int | None = None) -> np.ndarray:
    """Return half the width of the 95% interval (Student's t) of the mean over the first axis; nan for one trial."""
    n = as_if or len(values)
    if len(values) < 2:
        return np.full(np.shape(values)[1:], np.nan)
    return stats.t.ppf(0.975, n - 1) * np.std(values, axis=0, ddof=1) / np.sqrt(n)


def mean_of(values: Iterable[float], as_if: int | None = None) -> Estimate:
    """Return the mean over trials, with Student's t interval. Ignores nan; raises ValueError if nothing is left."""
    x = np.asarray(list(values), dtype=float)
    x = x[~np.isnan(x)]
    if not len(x):
        raise ValueError("no trials to take a mean of")
    half = float(half_widths(x, as_if))
    return Estimate(float(x.mean()), float(x.mean()) - half, float(x.mean()) + half, len(x))


def mean_accuracy(values: Iterable[float], as_if: int | None = None) -> Estimate:
    """Return the mean of accuracies in [0, 1]. Its interval is clipped to [0, 1]."""
    found = mean_of(values, as_if)
    return replace(found, low=max(found.low, 0.0), high=min(found.high, 1.0))


def difference(a: pd.Series, b: pd.Series, paired: bool, as_if: int | None = None) -> Estimate:
    """Return the mean of `a` minus the mean of `b`, both indexed by trial.

    If `paired`, it is the mean difference over the trials that both have, else the interval is Welch's t. Raises
    ValueError if these trials, or those of one side, are none.
    """
    if paired:
        return mean_of(a - b, as_if)
    a, b = a.dropna(), b.dropna()
    if a.empty or b.empty:
        raise ValueError("no trials to compare")
    value, n = float(a.mean() - b.mean()), min(len(a), len(b))
    if n < 2:
        return Estimate(value, np.nan, np.nan, n)
    of_a, of_b = a.var() / (as_if or len(a)), b.var() / (as_if or len(b))
    if of_a + of_b == 0:
        return Estimate(value, value, value, n)
    freedom = (of_a + of_b) ** 2 / (of_a**2 / ((as_if or len(a)) - 1) + of_b**2 / ((as_if or len(b)) - 1))
    half = float(stats.t.ppf(0.975, freedom) * np.sqrt(of_a + of_b))
    return Estimate(value, value - half, value + half, n)


def ratio(a: pd.Series, b: pd.Series, as_if: int | None = None) -> Estimate:
    """Return the mean of `a` divided by the mean of `b`, both indexed by trial, with Fieller's interval.

    Only trials that both have are used. The ends are infinite if the mean of `b` cannot be distinguished from zero: any
    ratio then fits the trials. Raises ValueError if both have no trial in common.
    """
    both = pd.concat([a, b], axis=1).dropna().to_numpy()
    if not len(both):
        raise ValueError("no trials to compare")
    top, bottom = both.mean(0)
    value, n = float(top / bottom), as_if or len(both)
    if len(both) < 2:
        return Estimate(value, np.nan, np.nan, len(both))
    (aa, ab), (_, bb) = np.cov(both.T) / n
    t2 = stats.t.ppf(0.975, n - 1) ** 2
    # the values r for which the mean of a - r b is within its interval of zero: roots of a quadratic in r
    square, middle, constant = bottom**2 - t2 * bb, top * bottom - t2 * ab, top**2 - t2 * aa
    if square <= 0:
        return Estimate(value, -np.inf, np.inf, len(both))
    root = np.sqrt(max(0.0, middle**2 - square * constant))
    return Estimate(value, float((middle - root) / square), float((middle + root) / square), len(both))


def mean_of_pairs(values: pd.Series, first: pd.Series, second: pd.Series) -> Estimate:
    """Return the mean over pairs of trials, with an interval by the jackknife, which leaves out one trial at a time.

    Pairs are not independent, because they share trials. `first` and `second` hold the trials of each pair. In the
    estimate, n is the number of trials.
    """
    trials, mean = sorted(set(first) | set(second)), float(values.mean())
    if len(trials) < 3:
        return Estimate(mean, np.nan, np.nan, len(trials))
    without = np.array([values[(first != trial) & (second != trial)].mean() for trial in trials])
    half = float(half_widths(len(trials) * mean - (len(trials) - 1) * without))
    return Estimate(mean, mean - half, mean + half, len(trials))


def share_trials(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether trial t of two runs has the same initial weights or order of images in both: they are paired then.

    The runs are given by the settings of their run.json.
    """
    defaults = Recipe().model_dump(mode="json")  # of settings that older runs did not record
    a, b = defaults | dict(one), defaults | dict(other)
    return any(all(a[k] == b[k] for k in fields) for fields in (SAME_WEIGHTS, SAME_ORDER))


def trials_needed(settled: Callable[[int], bool], n: int) -> int | None:
    """Return the smallest number of trials above n for which `settled` is true, or None if it exceeds MOST_TRIALS.

    `settled` takes the number of trials as `as_if`. This assumes that mean and spread stay the same, which holds only
    approximately.
    """
    if not settled(MOST_TRIALS):
        return None
    low, high = n, MOST_TRIALS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if settled(middle) else (middle, high)
    return high


def learned_anything(accuracies: pd.Series, classes: float | pd.Series) -> pd.Series:
    """Return which training runs are above chance. Training runs stuck at chance are counted separately.

    With infinitely many classes, as of a data set that is not known here, none is stuck at chance.
    """
    return accuracies >= AT_CHANCE / classes
