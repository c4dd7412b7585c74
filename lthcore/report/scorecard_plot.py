"""The plot of the scorecard: how far sizes and places are from the middle of their tolerances."""

import json
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lthcore.report.claims import grades_of
from lthcore.report.layout import new_figure

GRADES = {"reproduced": "#1f5fa8", "undecided": "#999999", "differs": "#d1642a"}


def plot_scorecard(card: pd.DataFrame) -> Figure:
    """Plot the sizes and places of claims.csv that were measured in runs, each in half widths of its tolerance.

    The shaded band is the tolerance. Each part of a claim is shown in the first run that measured it, and those that
    differ are at the top. Arrows mark values and ends of intervals that are off the axis. Tolerances with one end have
    no width, and their claims are named below the panel.
    """
    rows = card[card["value"].notna() & card["profile"].notna() & (card["part"] != "direction")]
    rows = rows.drop_duplicates(["id", "part"])
    open_ended = rows["tolerance"].str.contains("null")
    left_out, rows = rows[open_ended]["id"], rows[~open_ended]
    order = grades_of(rows["grade"]).map(list(GRADES).index)
    rows = rows.iloc[np.argsort(-order, kind="stable")].iloc[::-1]
    low, high = (np.array([json.loads(t)[i] for t in rows["tolerance"]]) for i in (0, 1))
    middle, half = (low + high) / 2, (high - low) / 2
    figure, (axes,) = new_figure(1, 1, (10, 1 + 0.36 * len(rows)))
    grades = grades_of(rows["grade"])
    ends = [np.clip((rows[key].fillna(rows["value"]) - middle) / half, -4, 4) for key in ("low", "value", "high")]
    axes.axvspan(-1, 1, color="#e8eef5", zorder=0)
    beyond = np.sign(ends[1]) * (np.abs(ends[1]) == 4)
    for end, side, marker in ((ends[0], -4, "<"), (ends[2], 4, ">")):
        off = np.flatnonzero(((end == side) & (beyond == 0)).to_numpy())
        axes.scatter(end.iloc[off], off, c=[GRADES[grade] for grade in grades.iloc[off]], marker=marker, s=14, zorder=2)
    for grade, colour in GRADES.items():
        of = (grades == grade).to_numpy()
        axes.hlines(np.flatnonzero(of), ends[0][of], ends[2][of], color=colour, linewidth=1.6, label=grade)
        for side, marker in ((0, "o"), (1, ">"), (-1, "<")):  # an arrow if the value itself is off the axis
            at = np.flatnonzero(of & (beyond == side))
            filled = np.where(rows["low"].isna().iloc[at], "white", colour)
            axes.scatter(ends[1].iloc[at], at, c=filled, edgecolors=colour, marker=marker, s=22, zorder=3)
    axes.set_yticks(range(len(rows)), [fill(f"{row.id}, {row.part}: {row.claim}", 74) for row in rows.itertuples()])
    axes.tick_params(axis="y", labelsize=8)
    how = "shaded: within it; hollow: a single trial, no interval; arrows: beyond 4"
    what = "distance from the middle of the tolerance, in halves of its width"
    without = f"; not shown: {', '.join(left_out)}, whose tolerances have one end" if len(left_out) else ""
    axes.set(xlim=(-4.2, 4.2), xlabel=f"{what}\n({how}; of each claim its first run{without})")
    axes.set_ylim(-0.8, len(rows) - 0.2)
    axes.set_title("Sizes and places, with 95% intervals", loc="left")
    figure.legend(loc="outside lower center", ncols=len(GRADES))
    return figure
