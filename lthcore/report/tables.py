"""Summaries of rounds.csv in numbers and sentences. All are pure functions of the tables of a run."""

from collections.abc import Iterator
from contextlib import suppress

import pandas as pd

from lthcore.arms import arm_of
from lthcore.report.measures import END, earlier, falls_below, gain, larger_losing, smallest_winning
from lthcore.report.run_tables import Absent, RunTables


def with_dense(rounds: pd.DataFrame) -> pd.DataFrame:
    """Return rounds.csv with the dense network (round 0 of the ticket) added to every other arm."""
    dense = rounds[(rounds["arm"] == "ticket") & (rounds["round"] == 0)]
    others = [arm for arm in rounds["arm"].unique() if arm != "ticket"]
    return pd.concat([rounds, *(dense.assign(arm=arm) for arm in others)], ignore_index=True)


def round_nearest(rounds: pd.DataFrame, percent: float, tolerance: float = 0.05) -> int | None:
    """Return the round nearest to `percent` of the weights, or None if it is not within the relative `tolerance`."""
    left = rounds[rounds["arm"] == "ticket"].groupby("round")["percent_left"].mean()
    distance = (left / percent - 1).abs()
    return int(distance.idxmin()) if len(left) and distance.min() < tolerance else None


def cut_off(rounds: pd.DataFrame) -> pd.Series:
    """Return which training runs ended at their least validation loss: trained on, they might stop later."""
    return rounds["es_iteration"].notna() & (rounds["es_iteration"] == rounds["iterations"])


def summary(rounds: pd.DataFrame, column: str = "es_test_accuracy") -> pd.DataFrame:
    """Return one column of rounds.csv by weights remaining (rows) and arm (columns): "mean (min to max)" over trials.

    Accuracies are in percent.
    """
    table = with_dense(rounds)
    scale, digits = (100, 2) if "accuracy" in column else (1, 0 if column == "es_iteration" else 4)
    cells = (table[column] * scale).groupby([table["round"], table["arm"]]).agg(["mean", "min", "max"])
    text = cells.apply(lambda c: f"{c['mean']:.{digits}f} ({c['min']:.{digits}f} to {c['max']:.{digits}f})", axis=1)
    wide = text.unstack("arm")[list(rounds["arm"].unique())]
    left = table.groupby("round")["percent_left"].mean()
    return wide.set_axis([f"{left[k]:.1f}%" for k in wide.index], axis="index").rename_axis("weights remaining")


PLURALS = {
    "dense": "dense networks",
    "ticket": "tickets",
    "reinit": "reinitialised tickets",
    "random": "random sparse networks",
}


def findings(rounds: pd.DataFrame, percents: tuple[float, ...] = (51.3, 21.1, 13.5, 3.6)) -> list[str]:
    """Return sentences with the numbers that the paper's section 2 discusses, with their intervals.

    `percents` are the percentages of weights remaining at which tickets are compared with the dense network.
    """
    lines, has_stops = [], rounds["es_test_accuracy"].notna().any()
    if not has_stops:  # for lack of a validation set: read at the end
        rounds = rounds.assign(es_test_accuracy=rounds["final_test_accuracy"], es_iteration=rounds["iterations"])
        lines.append("Without a validation set there is no early stop: all numbers are from the end of training.")
    run = RunTables.of(rounds)
    rounds, n = run.rounds, run.n
    lines.append(_winning(run))
    levels = [round_nearest(rounds, percent, tolerance=0.1) for percent in percents]
    for k in dict.fromkeys(k for k in levels if k and k < len(run.left)):
        with suppress(Absent):  # trials that skipped rounds may have no size in common
            lines.append(f"At {run.left[k]:.1f}% of weights remaining, {_at(run, run.left[k])} (n = {n}).")
    for arm in (arm for arm in PLURALS if arm in set(rounds["arm"])):
        try:
            lines.append(_fall(run, arm, PLURALS[arm].capitalize()))
        except Absent:
            continue  # the arm is unfinished
    if has_stops and (said := _cut_off(rounds)):
        lines.append(said)
    return [line.replace(" (n = 1: no interval)", "") for line in lines]  # the first sentence has the number of trials


def _winning(run: RunTables) -> str:
    """Describe the smallest winning tickets, and larger ones that do not win."""
    among = f"By the means of {run.n} trials," if run.n > 1 else "In a single trial,"
    smallest, others = smallest_winning(run), [f"{left:.1f}%" for left in larger_losing(run)]
    if smallest.value == 100:
        return f"{among} no tickets both stop no later than the dense network and reach no lower test accuracy."
    but = f" (but not at {', '.join(others)})" if others else ""
    return (
        f"{among} tickets stop no later than the dense network and reach no lower test accuracy down to "
        f"{smallest.text('{:.1f}%')} of the weights{but}."
    )


def _at(run: RunTables, percent: float) -> str:
    """Compare tickets at a percentage of weights remaining with the dense network and with their reinitialisations."""
    said = (
        f"the early stop of tickets differs by {earlier(run, percent).times(-100).text('{:+.0f}%')} from the dense "
        f"network's, and their test accuracy by {gain(run, percent).times(100).text('{:+.2f}')} points at the early "
        "stop"
    )
    if run.has("final_test_accuracy"):
        said += f" and by {gain(run, percent, column=END).times(100).text('{:+.2f}')} at the end of training"
    try:
        against = gain(run, percent, against="reinit").times(100)
        said += f"; from reinitialised tickets' it differs by {against.text('{:+.2f}')} points at the early stop"
    except Absent:
        pass
    return said


def _fall(run: RunTables, arm: str, label: str) -> str:
    below = falls_below(run, arm)
    values = run.against_dense("es_test_accuracy", arm).mean
    if not values[-1] < 0:
        return f"{label} do not fall below the dense network's mean test accuracy (at the early stop)."
    return (
        f"{label} stay below the dense network's mean test accuracy (at the early stop) from "
        f"{below.text('{:.1f}%')} of weights remaining on."
    )


def _cut_off(rounds: pd.DataFrame) -> str:
    """Say how many training runs of each arm ended at their least validation loss; empty if none did."""
    arms = rounds["arm"].where(rounds["round"] > 0, "dense")
    ended = cut_off(rounds).groupby(arms, sort=False).agg(["sum", "size"])
    arms = [f"{n} of {total} ({PLURALS.get(arm) or name_of(arm)})" for arm, (n, total) in ended.iterrows() if n]
    if not arms:
        return ""
    return (
        f"Training runs whose validation loss is least at their last iteration: {', '.join(arms)}. Trained on, they "
        "might stop later and reach a higher accuracy."
    )


def untrained(curves: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of curves.csv before any training, where an accuracy is due to the mask alone."""
    return curves[curves["iteration"] == 0]


NAMES = {"oneshot": "large final", "by_snip": "SNIP", "by_grasp": "GraSP", "by_synflow": "SynFlow"}


def name_of(arm: str) -> str:
    """Return the name of an arm in sentences, the same as in the figures."""
    return NAMES.get(arm) or arm_of(arm).label


def middle_and_last(rounds: pd.DataFrame) -> Iterator[tuple[int, float, dict[str, pd.Series]]]:
    """Yield the middle and the last round of one-shot pruning.

    Each comes as its number, its percentage of weights remaining, and arm -> test accuracy at the end by trial.
    """
    left = rounds[rounds["arm"] == "oneshot"].groupby("round")["percent_left"].mean()
    for k in (sorted(left.index)[len(left) // 2], left.index.max()):
        at = rounds[rounds["round"] == k].set_index("trial")
        yield k, left[k], dict(iter(at.groupby("arm")["final_test_accuracy"]))
