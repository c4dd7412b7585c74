"""Statistics: intervals equal scipy's, have the stated coverage, and are missing or unbounded where they must be."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lthcore.analysis.statistics import (
    MOST_TRIALS,
    SAME_ORDER,
    SAME_WEIGHTS,
    Estimate,
    difference,
    half_widths,
    mean_accuracy,
    mean_of,
    mean_of_pairs,
    ratio,
    share_trials,
    trials_needed,
)
from lthcore.settings import Settings

A, B = pd.Series([3.1, 2.9, 3.6, 3.3, 2.7]), pd.Series([1.2, 1.1, 1.6, 1.2, 1.0])


def ends(estimate: Estimate) -> tuple[float, float]:
    return estimate.low, estimate.high


def test_means_and_differences_are_scipys():
    assert ends(mean_of(A)) == pytest.approx(stats.ttest_1samp(A, 0).confidence_interval())
    assert ends(difference(A, B, paired=True)) == pytest.approx(stats.ttest_rel(A, B).confidence_interval())
    welch = stats.ttest_ind(A, B[:4], equal_var=False).confidence_interval()
    assert ends(difference(A, B[:4], paired=False)) == pytest.approx(welch)
    assert difference(A, B[:4], paired=True).n == 4  # trials in both series


def coverage(n: int, repeats: int = 3000) -> tuple[float, float]:
    """Return how often the t interval and the percentile bootstrap interval of n draws contain the true mean."""
    generator = np.random.default_rng(0)
    x = generator.normal(1.0, 0.3, (n, repeats))
    by_t = abs(x.mean(0) - 1.0) <= half_widths(x)
    resampled = x[generator.integers(0, n, (n, 150))].mean(0)  # (resample, repeat)
    low, high = np.percentile(resampled, [2.5, 97.5], axis=0)
    return by_t.mean(), ((low <= 1.0) & (high >= 1.0)).mean()


def test_at_three_and_five_trials_t_covers_what_it_says_and_the_bootstrap_does_not():
    """Why intervals are Student's: a bootstrap of few trials only resamples their values, so it is too narrow."""
    t3, bootstrap3 = coverage(3)
    t5, bootstrap5 = coverage(5)
    assert t3 == pytest.approx(0.95, abs=0.015) and t5 == pytest.approx(0.95, abs=0.015)
    assert bootstrap3 < 0.80 and 0.80 < bootstrap5 < 0.87


def test_fiellers_interval_covers_the_ratio_of_the_means_of_what_is_paired():
    generator = np.random.default_rng(0)
    shared = generator.normal(0, 0.2, (5, 600))
    top, bottom = (m + shared + generator.normal(0, 0.1, shared.shape) for m in (3.0, 2.0))
    found = [ratio(pd.Series(a), pd.Series(b)) for a, b in zip(top.T, bottom.T, strict=True)]
    assert np.mean([e.low <= 1.5 <= e.high for e in found]) == pytest.approx(0.95, abs=0.03)


def test_a_ratio_is_of_means_and_unbounded_where_the_lower_one_may_be_zero():
    found = ratio(A, B)
    assert found.value == pytest.approx(A.mean() / B.mean()) and found.low < found.value < found.high
    assert ends(ratio(2 * B, B)) == pytest.approx((2, 2))  # every trial has the same ratio
    wide = ratio(A, pd.Series([1.0, -1.0, 2.0, -2.0, 0.5]))
    assert ends(wide) == (-np.inf, np.inf) and wide.n == 5
    # the interval has the ratios r for which the mean of a - r b may be zero: at its ends the t test gives p = 5%
    assert stats.ttest_1samp(A - found.high * B, 0).pvalue == pytest.approx(0.05)


@pytest.mark.parametrize(
    "of", [ratio, lambda a, b: difference(a, b, paired=True), lambda a, b: difference(a, b[7:], paired=False)]
)
def test_without_trials_in_common_there_is_no_estimate(of):
    with pytest.raises(ValueError, match="no trials"):
        of(A, B.set_axis(range(5, 10)))


def test_two_trials_have_an_interval_and_one_has_none():
    two, other = A[:2], B[:2]
    assert ends(mean_of(two)) == pytest.approx(stats.ttest_1samp(two, 0).confidence_interval())
    welch = stats.ttest_ind(two, other, equal_var=False).confidence_interval()
    found = difference(two, other, paired=False)
    assert ends(found) == pytest.approx(welch) and found.n == 2
    close = ratio(pd.Series([2.0, 2.02]), pd.Series([1.0, 1.02]))
    assert stats.ttest_1samp(np.array([2.0, 2.02]) - close.high * np.array([1.0, 1.02]), 0).pvalue == pytest.approx(
        0.05
    )
    one = difference(A[:1], B[:1], paired=False)
    assert one.value == pytest.approx(A[0] - B[0]) and np.isnan(ends(one)).all() and one.n == 1
    assert np.isnan(half_widths(np.ones((1, 3)))).tolist() == [True] * 3  # one for each column
    assert mean_of([True, True, False]).value == pytest.approx(2 / 3)


def test_one_trial_has_no_interval_and_says_so():
    assert mean_of([0.5]).text() == "0.50 (n = 1: no interval)"
    assert ratio(A, A - A.mean() + 0.01).text().endswith("(no bounds)")
    assert np.isnan(ratio(A[:1], B[:1]).low) and np.isnan(difference(A[:1], B, paired=False).low)
    assert mean_of([1.0, np.nan, 3.0]).n == 2
    with pytest.raises(ValueError, match="no trials"):
        mean_of([np.nan])


def test_trials_that_agree_leave_nothing_unsure():
    assert ends(mean_of([0.1, 0.1, 0.1])) == pytest.approx((0.1, 0.1))
    assert ends(difference(A * 0 + 1, A * 0, paired=False)) == (1, 1)


def test_units_change_with_the_ends_in_order():
    found = Estimate(2.0, 1.0, 4.0, 5)
    assert found.times(-1).plus(1) == Estimate(-1.0, -3.0, 0.0, 5)
    assert found.times(100).text("{:+.1f}") == "+200.0 [+100.0, +400.0]"


def test_pairs_of_trials_are_not_counted_as_so_many_trials():
    """Pairs that share a trial are correlated: an interval over ten pairs of five trials would be too narrow."""
    effect = pd.Series([0.0, 0.1, -0.1, 0.3, -0.2])
    pairs = pd.DataFrame(
        [(i, j, effect[i] + effect[j]) for i in range(5) for j in range(i)], columns=["a", "b", "value"]
    )
    found = mean_of_pairs(pairs["value"], pairs["a"], pairs["b"])
    assert found.value == pytest.approx(pairs["value"].mean()) and found.n == 5
    assert ends(found) == pytest.approx(ends(mean_of(effect).times(2)))  # each value is the sum of two trials' effects
    assert found.high - found.low > mean_of(pairs["value"]).high - mean_of(pairs["value"]).low
    three = pairs[(pairs["a"] < 3) & (pairs["b"] < 3)]
    found = mean_of_pairs(three["value"], three["a"], three["b"])
    assert ends(found) == pytest.approx(ends(mean_of(effect[:3]).times(2))) and found.n == 3
    two = mean_of_pairs(pairs["value"][:1], pairs["a"][:1], pairs["b"][:1])
    assert np.isnan(ends(two)).all()
    assert "(n = 2: no interval)" in mean_of_pairs(pairs["value"][:1], pairs["a"][:1], pairs["b"][:1]).text()


def test_the_mean_over_pairs_is_their_mean_where_one_was_not_measured():
    pairs = pd.DataFrame([(i, j, float(i * j)) for i in range(5) for j in range(i)], columns=["a", "b", "value"])
    pairs.loc[7, "value"] = float("nan")
    found = mean_of_pairs(pairs["value"], pairs["a"], pairs["b"])
    assert found.value == pairs["value"].mean() == pytest.approx((found.low + found.high) / 2)
    assert found.n == 5


def test_runs_are_paired_where_trials_share_weights_or_the_order_of_images():
    run = {"seed": 0, "dataset": "mnist", "architecture": "lenet", "validation": 5000, "batch_size": 60}
    assert share_trials(run, run | {"batch_size": 128})  # the same initial weights
    assert share_trials(run, run | {"architecture": "mlp"})  # the same order
    assert not share_trials(run, run | {"seed": 1})
    assert not share_trials(run, run | {"architecture": "mlp", "batch_size": 128})
    assert not share_trials(run, run | {"padding": "valid", "batch_size": 128})
    whole = Settings(**run).model_dump(mode="json")  # lists, as in run.json
    older = {key: value for key, value in whole.items() if key not in ("padding", "widths")}  # an older record
    assert share_trials(older, whole | {"batch_size": 128})


ARCHITECTURE = {"image_size": 16, "architecture": "mlp", "widths": (8,), "padding": "valid"}
OF_BOTH = {"seed": 1, "dataset": "digits"}
OF_WEIGHTS = ARCHITECTURE | {"initialisation": "kaiming_normal", "init_std": 0.2}
OF_ORDER = {"train_examples": 1000, "validation": 0, "batch_size": 128}


@pytest.mark.parametrize(("name", "value"), (OF_BOTH | OF_WEIGHTS | OF_ORDER).items())
def test_each_setting_that_changes_what_trials_start_from_or_see_unpairs_runs(name, value):
    """A run that shares neither weights nor order shares nothing by trial."""
    assert {*SAME_WEIGHTS, *SAME_ORDER} == (OF_BOTH | OF_WEIGHTS | OF_ORDER).keys()
    run = Settings().model_dump()
    assert value != run[name]
    other_weights, other_order = run | {"architecture": "conv6", "widths": (9,)}, run | {"batch_size": 90}
    assert share_trials(run, other_weights) and share_trials(run, other_order)
    unpaired = [other_order] if name in OF_WEIGHTS else [other_weights] if name in OF_ORDER else [run]
    assert not any(share_trials(run, other | {name: value}) for other in unpaired)


def test_the_trials_it_takes_are_those_that_bring_the_interval_inside():
    inside = [n for n in range(2, MOST_TRIALS) if mean_of(A, as_if=n).low > 3.0]
    assert trials_needed(lambda n: mean_of(A, as_if=n).low > 3.0, n=5) == inside[0] > 5
    assert difference(A, B, paired=False, as_if=50).low > difference(A, B, paired=False).low
    assert ratio(A, B, as_if=50).low > ratio(A, B).low
    assert trials_needed(lambda n: mean_of(A, as_if=n).low > A.mean(), n=5) is None


def test_a_mean_that_rounds_to_zero_has_no_minus_and_the_ends_of_its_interval_keep_theirs():
    """The sign of an end says on which side of zero it lies; negative zero, an exact tie, lies on none."""
    assert Estimate(-0.3, -8.0, -0.2, 3).text("{:+.0f}%") == "+0% [-8%, -0%]"
    assert Estimate(-0.0, -0.0, -0.0, 3).text("{:.1f}") == "0.0 [0.0, 0.0]"
    assert Estimate(-20.0, -30.0, -10.0, 3).text("{:.0f}") == "-20 [-30, -10]"


@pytest.mark.parametrize("n", [7, 50])
def test_intervals_for_another_number_of_trials_are_those_of_the_same_mean_and_spread(n):
    low, high = stats.t.interval(0.95, n - 1, A.mean(), A.std() / np.sqrt(n))
    assert ends(mean_of(A, as_if=n)) == pytest.approx((low, high))
    for end in ends(difference(A, B, paired=False, as_if=n)):
        test = stats.ttest_ind_from_stats(A.mean() - end, A.std(), n, B.mean(), B.std(), n, equal_var=False)
        assert test.pvalue == pytest.approx(0.05)
    for end in ends(ratio(A, B, as_if=n)):
        off = A - end * B
        assert 2 * stats.t.sf(abs(off.mean()) / (off.std() / np.sqrt(n)), n - 1) == pytest.approx(0.05)


def test_a_difference_of_runs_counts_the_trials_of_the_smaller():
    assert difference(A, B[:4], paired=False).n == difference(B[:4], A, paired=False).n == 4


def test_an_accuracys_interval_is_clipped_at_both_ends():
    assert ends(mean_accuracy([0.0, 0.001, 0.002]))[0] == 0.0 and ends(mean_accuracy([1.0, 0.999, 0.998]))[1] == 1.0
