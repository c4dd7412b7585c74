"""Summaries of rounds.csv in numbers and sentences. All are pure functions of the tables of a run."""

from collections.abc import Iterator
from contextlib import suppress

import numpy as np
import pandas as pd

from lthcore.arms import arm_of
from lthcore.report.measures import END, earlier, falls_below, gain, larger_losing, smallest_winning
from lthcore.report.run_tables import Absent, RunTables
from lthcore.runs.rows import nearest_round


def with_dense(rounds: pd.DataFrame) -> pd.DataFrame:
    """Return rounds.csv with the dense network (round 0 of the ticket) added to every other arm."""
    dense = rounds[(rounds["arm"] == "ticket") & (rounds["round"] == 0)]
    others = [arm for arm in rounds["arm"].unique() if arm != "ticket"]
    return pd.concat([rounds, *(dense.assign(arm=arm) for arm in others)], ignore_index=True)


LATE = 0.95  # an early stop in the rest of the training may be due to the end of training


def cut_off(rounds: pd.DataFrame) -> pd.Series:
    """Return which training runs have their minimum validation loss so late that longer training might move it."""
    return rounds["es_iteration"].notna() & (rounds["es_iteration"] >= LATE * rounds["iterations"])


def summary(rounds: pd.DataFrame, column: str = "es_test_accuracy") -> pd.DataFrame:
    """Return one column of rounds.csv by weights remaining (rows) and arm (columns), as "mean (min to max)".

    These are over trials and draws. Accuracies are in percent. Arms have the names of their labels in figures. Without
    a validation set, the end of training takes the place of the early stop.
    """
    table = with_dense(rounds if _has_stops(rounds) else _read_at_the_end(rounds))
    scale, digits = (100, 2) if "accuracy" in column else (1, 0 if column == "es_iteration" else 4)
    cells = (table[column] * scale).groupby([table["round"], table["arm"]]).agg(["mean", "min", "max"])
    text = cells.apply(lambda c: f"{c['mean']:.{digits}f} ({c['min']:.{digits}f} to {c['max']:.{digits}f})", axis=1)
    wide = text.unstack("arm")[list(rounds["arm"].unique())].rename(columns=lambda arm: arm_of(arm).label)
    left = table.groupby("round")["percent_left"].mean()
    return (
        wide.set_axis([f"{left[k]:.1f}%" for k in wide.index], axis="index")
        .rename_axis("weights remaining")
        .rename_axis(columns=None)
    )


NO_INTERVAL = " (n = 1: no interval)"
DIFFERENCES = (
    "How tickets differ from the dense network, and in the last column from reinitialised tickets (accuracies in "
    "points):"
)
PLURALS = {
    "dense": "dense networks",
    "ticket": "tickets",
    "reinit": "reinitialised tickets",
    "random": "random sparse networks",
    "oneshot": "one-shot tickets",
    "oneshot_reinit": "reinitialised one-shot tickets",
}


def findings(rounds: pd.DataFrame) -> list[str]:
    """Return sentences on the smallest winning tickets, and on where each arm falls below the dense network.

    They have the numbers that the paper's section 2 discusses, with their intervals.
    """
    lines, has_stops = [], _has_stops(rounds)
    if not has_stops:
        lines.append("Without a validation set there is no early stop: all numbers are from the end of training.")
    run = RunTables.of(rounds if has_stops else _read_at_the_end(rounds))
    rounds = run.rounds
    lines.append(_winning(run, "stop no later and reach" if has_stops else "reach"))
    for arm in (arm for arm in PLURALS if arm in set(rounds["arm"])):
        try:
            lines.append(_fall(run, arm, f"at the {'early stop' if has_stops else 'end'}"))
        except Absent:
            continue  # the arm is unfinished
    if has_stops and (said := _cut_off(rounds)):
        lines.append(said)
    return [line.replace(NO_INTERVAL, "") for line in lines]  # the first sentence has the number of trials


def _winning(run: RunTables, how: str) -> str:
    """Describe the smallest winning tickets, and larger ones that do not win; `how` says what winning takes."""
    among = f"By the means of {run.n} trials," if run.n > 1 else "In a single trial,"
    smallest, others = smallest_winning(run), [f"{left:.1f}%" for left in larger_losing(run)]
    if smallest.value == 100:
        return f"{among} there are no tickets that {how} no lower test accuracy than the dense network."
    but = f" (but not at {', '.join(others)})" if others else ""
    return (
        f"{among} tickets {how} no lower test accuracy than the dense network down to "
        f"{smallest.text('{:.1f}%')} of the weights{but}."
    )


def _has_stops(rounds: pd.DataFrame) -> bool:
    return rounds["es_test_accuracy"].notna().any()


def _read_at_the_end(rounds: pd.DataFrame) -> pd.DataFrame:
    """Return rounds.csv of a run without validation set, in which the end of training takes the early stop's place."""
    return rounds.assign(es_test_accuracy=rounds["final_test_accuracy"], es_iteration=rounds["iterations"])


def differences(rounds: pd.DataFrame, percents: tuple[float, ...] = (51.3, 21.1, 13.5, 3.6)) -> pd.DataFrame:
    """Return how tickets differ from the dense network, and from reinitialised tickets, with the intervals.

    There is a row for each of these percentages of weights remaining that the run has. The early stop is in percent of
    the dense network's, and test accuracies are in points.
    """
    has_stops = _has_stops(rounds)
    run = RunTables.of(rounds if has_stops else _read_at_the_end(rounds))
    levels = [nearest_round(pd.Series(run.left), percent, within=0.1) for percent in percents]
    rows = {}
    for k in dict.fromkeys(k for k in levels if k and k < len(run.left)):
        with suppress(Absent):  # trials that skipped rounds may have no size in common
            rows[f"{run.left[k]:.1f}%"] = _differences_at(run, run.left[k], has_stops)
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("weights remaining")


def _differences_at(run: RunTables, percent: float, has_stops: bool) -> dict[str, str]:
    found, when = {}, "at the early stop" if has_stops else "at the end"
    if has_stops:
        found["early stop"] = earlier(run, percent).times(-100).text("{:+.0f}%")
        found["test accuracy at the early stop"] = gain(run, percent).times(100).text("{:+.2f}")
    if run.has("final_test_accuracy"):
        found["test accuracy at the end"] = gain(run, percent, column=END).times(100).text("{:+.2f}")
    with suppress(Absent):
        found[f"against reinitialised, {when}"] = gain(run, percent, against="reinit").times(100).text("{:+.2f}")
    return {name: text.replace(NO_INTERVAL, "") for name, text in found.items()}


def table_of(frame: pd.DataFrame) -> str:
    """Format a table as Markdown, without its index."""
    rows = [frame.columns, ["---"] * len(frame.columns), *frame.itertuples(index=False)]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


def described(rounds: pd.DataFrame, percents: tuple[float, ...] = (51.3, 21.1, 13.5, 3.6)) -> str:
    """Return the findings of a run as a list in Markdown, with the table of differences under it."""
    lines, table = [f"* {line}" for line in findings(rounds)], differences(rounds, percents)
    if table.empty:
        return "\n".join(lines)
    shown = table.fillna("").reset_index()
    return "\n".join([*lines, "", DIFFERENCES, "", table_of(shown)])


def _fall(run: RunTables, arm: str, when: str) -> str:
    below, of = falls_below(run, arm), f"the mean test accuracy {when} of {PLURALS[arm]}"
    means = run.against_dense("es_test_accuracy", arm).mean
    known = np.flatnonzero(np.isfinite(means))  # a round is unknown if a trial diverged in it
    if not means[known[-1]] < 0:
        return f"In the last round, {of} is not below the dense network's."
    if below.value == run.left[known[-1]]:
        return f"From {below.text('{:.1f}%')} of weights remaining, the last round, {of} is below the dense network's."
    return f"From {below.text('{:.1f}%')} of weights remaining downwards, {of} is below the dense network's."


def _cut_off(rounds: pd.DataFrame) -> str:
    """Say how many training runs of each arm have their minimum validation loss at the end; empty if none has."""
    arms = rounds["arm"].where(rounds["round"] > 0, "dense")
    ended = cut_off(rounds).groupby(arms, sort=False).agg(["sum", "size"])
    arms = [f"{n} of {total} ({PLURALS.get(arm) or arm_of(arm).label})" for arm, (n, total) in ended.iterrows() if n]
    if not arms:
        return ""
    return (
        f"Training runs whose minimum validation loss is in the last twentieth of training: {', '.join(arms)}. With "
        "longer training, they might stop later and reach a higher accuracy."
    )


def before_training(curves: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of curves.csv before any training, where an accuracy is due to the mask alone."""
    return curves[curves["iteration"] == 0]


def name_of(arm: str) -> str:
    """Return the name of an arm in sentences, as in the figures; one-shot pruning goes by the name of its criterion."""
    return "large final" if arm == "oneshot" else arm_of(arm).label


def middle_and_last(rounds: pd.DataFrame) -> Iterator[tuple[int, float, dict[str, pd.Series]]]:
    """Yield the middle and the last round of one-shot pruning; nothing if this arm was not run.

    Each comes as its number, its percentage of weights remaining, and arm -> test accuracy at the end by trial.
    """
    left = rounds[rounds["arm"] == "oneshot"].groupby("round")["percent_left"].mean()
    if left.empty:
        return
    for k in (sorted(left.index)[len(left) // 2], left.index.max()):
        at = rounds[rounds["round"] == k].set_index("trial")
        yield k, left[k], dict(iter(at.groupby("arm")["final_test_accuracy"]))
