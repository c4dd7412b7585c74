"""Tables: what rounds.csv says, in numbers and in sentences. Pure functions over the tables of a run."""

from collections.abc import Iterator

import pandas as pd


def with_dense(rounds: pd.DataFrame) -> pd.DataFrame:
    """rounds.csv with the dense network (the ticket's round 0) as the first point of every arm."""
    dense = rounds[(rounds["arm"] == "ticket") & (rounds["round"] == 0)]
    others = [arm for arm in rounds["arm"].unique() if arm != "ticket"]
    return pd.concat([rounds, *(dense.assign(arm=arm) for arm in others)], ignore_index=True)


def round_nearest(rounds: pd.DataFrame, percent: float, tolerance: float = 0.05) -> int | None:
    """The round that leaves `percent` of the weights, within a share `tolerance` of it; None where there is none."""
    left = rounds[rounds["arm"] == "ticket"].groupby("round")["percent_left"].mean()
    distance = (left / percent - 1).abs()
    return int(distance.idxmin()) if len(left) and distance.min() < tolerance else None


def summary(rounds: pd.DataFrame, column: str = "es_test_accuracy") -> pd.DataFrame:
    """One column of rounds.csv by weights left (rows) and arm (columns): "mean [min, max]" over trials and draws.

    Accuracies are in percent.
    """
    table = with_dense(rounds)
    scale, digits = (100, 2) if "accuracy" in column else (1, 0 if column == "es_iteration" else 4)
    cells = (table[column] * scale).groupby([table["round"], table["arm"]]).agg(["mean", "min", "max"])
    text = cells.apply(lambda c: f"{c['mean']:.{digits}f} [{c['min']:.{digits}f}, {c['max']:.{digits}f}]", axis=1)
    wide = text.unstack("arm")[list(rounds["arm"].unique())]
    left = table.groupby("round")["percent_left"].mean()
    return wide.set_axis([f"{left[k]:.1f}%" for k in wide.index], axis="index").rename_axis("weights left")


def paired(rounds: pd.DataFrame, column: str, k: int, arm: str = "ticket", against: str = "dense") -> pd.Series:
    """`column` of `arm` at round k minus that of another arm (or of the dense network), trial by trial.

    Draws are averaged within their trial. The index is the trial.
    """

    def by_trial(name: str) -> pd.Series:
        name, at = ("ticket", 0) if name == "dense" else (name, k)
        part = rounds[(rounds["arm"] == name) & (rounds["round"] == at)]
        return part.groupby("trial")[column].mean()

    return (by_trial(arm) - by_trial(against)).dropna()


def smallest_winning(rounds: pd.DataFrame) -> float | None:
    """Fewest weights left (%) at which tickets, on average, stop no later and test no worse than the dense network.

    The definition of a winning ticket (section 1), read at the early stop; None where no round has one.
    """
    means = rounds[rounds["arm"] == "ticket"].groupby("round").mean(numeric_only=True)
    dense, pruned = means.loc[0], means.loc[1:]
    wins = pruned[
        (pruned["es_iteration"] <= dense["es_iteration"]) & (pruned["es_test_accuracy"] >= dense["es_test_accuracy"])
    ]
    return float(wins["percent_left"].min()) if len(wins) else None


def falls_below(rounds: pd.DataFrame, arm: str, column: str = "es_test_accuracy") -> float | None:
    """Weights left (%) from which on the mean of `arm` stays below the dense network's; None where it does not."""
    table = with_dense(rounds)
    means = table[table["arm"] == arm].groupby("round")[["percent_left", column]].mean()
    below = (means[column] < means.loc[0, column])[::-1].cummin()  # from the sparsest round backwards
    return float(means["percent_left"][below[below].index].max()) if below.any() else None


def findings(rounds: pd.DataFrame, percents: tuple[float, ...] = (51.3, 21.1, 13.5, 3.6)) -> list[str]:
    """Sentences with the numbers that the paper's section 2 speaks of, each with its n and its spread over trials."""
    lines = []
    if rounds["es_test_accuracy"].isna().all():  # no validation set, so no early stop: its end is all there is
        rounds = rounds.assign(es_test_accuracy=rounds["final_test_accuracy"], es_iteration=rounds["iterations"])
        lines.append("Without a validation set there is no early stop: what follows is read at the end of training.")
    n = rounds["trial"].nunique()
    whole = rounds[rounds["arm"] == "ticket"].groupby("round")["trial"].nunique() == n
    rounds = rounds[rounds["round"].isin(whole[whole].index)]  # a round that is not done in all trials is left out
    smallest = smallest_winning(rounds)
    lines.append(
        f"Winning tickets down to {smallest:.1f}% of the weights (mean of {n} trials: stop no later, test no worse)."
        if smallest
        else f"At no round do tickets (mean of {n} trials) both stop no later and test no worse than the dense network."
    )
    left = rounds.groupby("round")["percent_left"].mean()
    levels = [round_nearest(rounds, percent, tolerance=0.1) for percent in percents]
    for k in dict.fromkeys(k for k in levels if k):
        stop = paired(rounds, "es_iteration", k)
        dense = rounds[(rounds["arm"] == "ticket") & (rounds["round"] == 0)]["es_iteration"].mean()
        parts = [
            f"early stop {stop.mean() / dense:+.0%}",
            _gain(paired(rounds, "es_test_accuracy", k), "the dense network"),
        ]
        if "reinit" in set(rounds["arm"]):
            parts.append(_gain(paired(rounds, "es_test_accuracy", k, against="reinit"), "its reinitialisation"))
        lines.append(f"At {left[k]:.1f}% left: " + ", ".join(parts) + f" (n = {len(stop)}).")
    labels = {"ticket": "Tickets", "reinit": "Reinitialised tickets", "random": "Random sparse networks"}
    for arm in (arm for arm in labels if arm in set(rounds["arm"])):
        below = falls_below(rounds, arm)
        fall = "do not fall" if below is None else f"fall, at {below:.1f}% left and for good,"
        lines.append(f"{labels[arm]} {fall} below the dense network's mean test accuracy at the early stop.")
    return lines


def _gain(difference: pd.Series, other: str) -> str:
    points = difference * 100
    return f"test accuracy {points.mean():+.2f} points [{points.min():+.2f}, {points.max():+.2f}] against {other}"


def untrained(curves: pd.DataFrame) -> pd.DataFrame:
    """The accuracies before any training: what a mask alone knows."""
    return curves[curves["iteration"] == 0]


NAMES = {"oneshot": "large final", "by_snip": "SNIP", "by_grasp": "GraSP", "by_synflow": "SynFlow"}


def name_of(arm: str) -> str:
    """What an arm is called in a sentence."""
    return NAMES.get(arm, arm.removeprefix("by_").replace("_", " "))


def middle_and_last(rounds: pd.DataFrame) -> Iterator[tuple[int, float, dict[str, pd.Series]]]:
    """Two of the rounds: its number, percent of weights left, and arm -> test accuracy at the end by trial."""
    left = rounds[rounds["arm"] == "oneshot"].groupby("round")["percent_left"].mean()
    for k in (sorted(left.index)[len(left) // 2], left.index.max()):
        at = rounds[rounds["round"] == k].set_index("trial")
        yield k, left[k], dict(iter(at.groupby("arm")["final_test_accuracy"]))
