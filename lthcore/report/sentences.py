"""Differences and levels of accuracies in words, with their intervals and without trials stuck at chance."""

import pandas as pd

from lthcore.analysis.statistics import difference, learned_anything, mean_accuracy


def gap(a: pd.Series, b: pd.Series, classes: float, bare: bool = False) -> str:
    """Describe the mean difference of two series of accuracies (index: trial), in points, with its interval.

    The series must share trials (`share_trials`): they come from one run, or from runs with the same seed and network.
    Draws of a trial are averaged. Trials in which either series is stuck at chance, which depends on the number of
    classes, are left out and counted. `bare` leaves out the unit and the number of trials, for a table that gives them
    once.
    """
    return gaps({"": a}, b, classes, bare).strip()


def gaps(
    others: dict[str, pd.Series], base: pd.Series | dict[str, pd.Series], classes: float, bare: bool = False
) -> str:
    """Describe the gaps of several named series to one baseline, or each to its own, as `gap` does for one.

    The number of trials n is given for the first series, and again only if it changes.
    """
    parts, said = [], ""
    for name, other in others.items():
        a, b = of_same_trials(other, base[name] if isinstance(base, dict) else base)
        learned = learned_anything(a, classes) & learned_anything(b, classes)
        stuck = f"{(~learned).sum()} of {len(a)} trials excluded: stuck at chance"
        if not learned.any():
            parts.append(f"{name} an unknown amount ({stuck})")
            continue
        excluded = "" if learned.all() else f"; {stuck}"
        found = difference(a[learned], b[learned], paired=True).times(100)
        interval = f" [{found.low:+.2f}, {found.high:+.2f}]" if found.n > 1 else ""
        count = excluded if bare else f" (n = {found.n}{'' if interval else ': no interval'}{excluded})"
        unit = "" if said or bare else " points"
        parts.append(f"{name} {found.value:+z.2f}{unit}{interval}{'' if count == said else count}")
        said = count
    return "; ".join(parts)


def of_same_trials(a: pd.Series, b: pd.Series) -> tuple[pd.Series, pd.Series]:
    """Return two series of accuracies (index: trial), averaged over draws, for the trials that both have."""
    a, b = (values.groupby(level=0).mean() for values in (a, b))
    return a.align(b, join="inner")


def levels_and_gap(a: pd.Series, b: pd.Series, classes: float) -> str:
    """Describe two mean accuracies and their difference (`gap`), all over the trials that both have and learned in."""
    a, b = of_same_trials(a, b)
    learned = learned_anything(a, classes) & learned_anything(b, classes)
    both = " and ".join(level(values[learned] if learned.any() else values, classes) for values in (a, b))
    return f"{both}, a difference of {gap(a, b, classes)}"


def compared(
    base_name: str, what: str, others: dict[str, pd.Series], base: pd.Series | dict[str, pd.Series], classes: float
) -> str:
    """Return a sentence on how `what` differs from that of a baseline, for each of several named series (`gaps`).

    Without any series, the text is empty.
    """
    if not others:
        return ""
    return f"Compared with {base_name}, {what} differs by: {gaps(others, base, classes)}."


def level(accuracies: pd.Series, classes: float, interval: bool = False) -> str:
    """Describe the mean accuracy, in percent, of the training runs that learned anything, and count those that did not.

    With `interval`, the 95% interval is added.
    """
    learned = learned_anything(accuracies, classes)
    if not learned.any():
        return "stuck at chance"
    excluded = f" ({(~learned).sum()} of {len(accuracies)} trials excluded: stuck at chance)"
    found = mean_accuracy(accuracies[learned]).times(100)
    return f"{found.text('{:.2f}%') if interval else f'{found.value:.2f}%'}{'' if learned.all() else excluded}"


def spread(mean: float, std: float) -> str:
    """Format a mean with its standard deviation, if there is one."""
    return f"{mean:.2f}" if pd.isna(std) else f"{mean:.2f} ± {std:.2f}"
