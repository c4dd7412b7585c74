"""Scorecard of the claims, as a table for results/README.md and as results/claims.csv."""

import json
from pathlib import Path

import pandas as pd

from lthcore.analysis.statistics import CONVENTION, MOST_TRIALS, mean_accuracy
from lthcore.errors import counted
from lthcore.report.claims import NOT_RUN, UNREADABLE, grades_of, scorecard
from lthcore.report.figure_specs import NOTEBOOK
from lthcore.report.measures import EARLY_STOP, END
from lthcore.report.published import published
from lthcore.report.run_tables import Absent, RunTables
from lthcore.report.tables import table_of
from lthcore.runs.files import read_record

HEAD = (
    "| claim | the paper | reproduced if | here | read at the end of training instead | grade | tolerance fixed | run |"
)
WORDS = {"reproduced": "reproduced", "undecided": "undecided", "differs": "differing"}  # grade -> word in counts
FORMS = {  # unit -> factor, digits, and what follows the number
    "points": (100, 2, " points"),
    "%": (100, 1, "%"),
    "accuracy": (100, 2, "%"),
    "% of weights": (1, 1, "% of weights"),
}


def as_markdown(card: pd.DataFrame) -> str:
    """Return a Markdown table with a row for each claim and run, and the parts of the claim side by side in it."""
    lines, said = [HEAD, "|---|---|---|---|---|---|---|---|"], set()
    for (name, _, _), parts in card.groupby(["id", "run", "profile"], sort=False, dropna=False):
        first = parts.iloc[0]
        tolerances = "; ".join(tolerance_of(row) for _, row in parts.iterrows())
        what = ("″",) * 3 if name in said else (f"{name}: {first['claim']}", first["paper"], tolerances)
        said.add(name)
        numbers = parts[parts["part"] != "direction"]
        numbers = numbers if len(numbers) else parts  # a direction repeats the sign of the size, if there is one
        cells = (
            *what,
            "; ".join(filter(None, (_here(row) for _, row in numbers.iterrows()))),
            "; ".join(filter(None, (*(_end(row) for _, row in numbers.iterrows()), _otherwise(parts)))),
            "; ".join(f"{row['part']} {row['grade']}{_why(row)}" for _, row in parts.iterrows())
            if pd.notna(first["value"])
            else first["grade"],
            first["tolerance_fixed"] if isinstance(first["tolerance_fixed"], str) else "",
            _run(first),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _here(row: pd.Series) -> str:
    predicted = shown(row, "predicted")
    if predicted and row["part"] == "direction":  # only the sign of a direction is predicted
        predicted = "more than 0" if row["predicted"] > 0 else "less than 0"
    return "; ".join(filter(None, (shown(row, "value", "low", "high"), f"predicted: {predicted}" if predicted else "")))


def _end(row: pd.Series) -> str:
    return shown(row, "end_value", "end_low", "end_high")


def _otherwise(parts: pd.DataFrame) -> str:
    """Describe the parts that would have another grade at the end of training."""
    return "; ".join(f"*{row.part} {row.end_grade}*" for row in parts[graded_otherwise(parts)].itertuples())


def graded_otherwise(card: pd.DataFrame) -> pd.Series:
    """Return for each row whether its grade would be another one at the end of training."""
    return card["end_grade"].notna() & (grades_of(card["end_grade"]) != grades_of(card["grade"]))


def what_would_tell(row: pd.Series) -> str:
    """Describe how many trials would decide an undecided part, if mean and spread stayed the same."""
    if row["n"] == 1:
        return "a single trial has no interval"
    needed = row["trials_needed"]
    return f"not even n = {MOST_TRIALS:,} would decide" if pd.isna(needed) else f"n = {needed:.0f} would decide"


def _why(row: pd.Series) -> str:
    return f" ({what_would_tell(row)})" if row["grade"] == "undecided" else ""


def _run(row: pd.Series) -> str:
    if not isinstance(row["profile"], str):
        return row["run"] if isinstance(row["run"], str) else "arithmetic"
    return f"{row['run']}, `{row['profile']}`, {row['training']}, n = {row['n']:.0f}"


def tolerance_of(row: pd.Series) -> str:
    """Describe which values are within the tolerance of a part of a claim, as in `size +0.15 to +0.6 points`."""
    if row["part"] == "direction":
        return f"direction {row['tolerance']}"
    factor, _, unit = _form_of(row["unit"], 0)
    sign = "+" if row["unit"] == "points" else ""
    ends = json.loads(row["tolerance"])
    said = [
        f"{factor * end:{sign if end else ''},.10g}" for end in ends if end is not None
    ]  # an end is null where there is none
    within = " to ".join(said) if None not in ends else f"at {'most' if ends[0] is None else 'least'} {said[0]}"
    return f"{row['part']} {within}{unit}"


def _form_of(unit: str, value: float) -> tuple[int, int, str]:
    """Return the factor and the number of digits to show a value with, and what follows the number."""
    return FORMS.get(unit, (1, 2 if abs(value) < 100 else 0, f" {unit}" if unit else ""))


def shown(row: pd.Series, value: str, low: str = "", high: str = "") -> str:
    """Format a value of a scorecard row in its unit, with its interval if `low` and `high` are given; empty if missing.

    `value`, `low` and `high` are names of columns.
    """
    if pd.isna(row[value]):
        return ""
    factor, digits, unit = _form_of(row["unit"], row[value])
    form = f"{'+' if row['unit'] == 'points' else ''},.{digits}f"
    text = f"{factor * row[value]:{form}}{unit}"
    if not low or pd.isna(row["n"]):  # arithmetic is exact
        return text
    if pd.isna(row[low]):
        return f"{text} ({'no interval' if row['n'] < 2 else 'no bounds'})"
    return f"{text} [{factor * row[low]:{form}}, {factor * row[high]:{form}}]"


def baselines(root: Path, card: pd.DataFrame) -> pd.DataFrame:
    """Return a table of the dense network of each run of iterative pruning in the scorecard, beside a published one.

    It has the test accuracies in percent at the early stop and at the end of training, with their intervals. What is
    published is of the paper's networks, trained by Adam.
    """
    rows, theirs = [], published("input_scaling")["dense"]
    for profile, name in card[["profile", "run"]].dropna().drop_duplicates().itertuples(index=False):
        if "/" in name:
            continue  # a run of another study
        folder = root / profile / NOTEBOOK / name
        run, settings = RunTables.read(folder), read_record(folder).get("settings", {})
        like_theirs = not settings.get("widths") and settings.get("optimizer") == "adam"
        network = settings.get("architecture") if like_theirs else None
        try:
            early, end = (mean_accuracy(run.by_trial(column)[0]).times(100) for column in (EARLY_STOP, END))
        except Absent:
            continue
        paper = f"{theirs[network]:g}" if network in theirs else ""
        rows.append({
            "run": f"{name}, `{profile}`, n = {early.n}", "dense network at the early stop (%)": early.text(),
            "published (%)": paper, "at the end of training (%)": end.text(),
        })  # fmt: skip
    return pd.DataFrame(rows)


def count_of(card: pd.DataFrame) -> str:
    """Describe how many parts of claims got which grade, each part counted once for each of its runs."""
    grades = grades_of(card[~card["grade"].isin((NOT_RUN, UNREADABLE))]["grade"]).value_counts()
    said = ", ".join(f"{n} {WORDS.get(name, name)}" for name, n in grades.items())
    return f"of {grades.sum()} graded parts {said or 'none'}"


def counts_in_full(card: pd.DataFrame) -> str:
    """Describe the grades in sentences: in all, by when the tolerance was fixed, and at the end of training."""
    said = [f"{count_of(card).capitalize()}."]
    for fixed in ("before the run", "during the run", "after the run"):
        rows = card[card["tolerance_fixed"] == fixed]
        if len(rows):
            said.append(f"Tolerance fixed {fixed}: {count_of(rows)}.")
    if changed := int(graded_otherwise(card).sum()):
        parts = counted(changed, "part")
        said.append(
            f"Read at the end of training instead, {parts} would have another grade, shown in italics in the table."
        )
    said.append(
        "A place is the percentage of weights remaining in a round of the run. Where an arm crosses another, the "
        "interval reaches to the next round, because the crossing may be anywhere between the two. The round of a "
        "largest gain is chosen by validation accuracy, and that of a largest speed-up or a lowest accuracy by the "
        "values themselves. Their intervals do not account for the choice. Parts are not independent: runs of one "
        "experiment share their seeds, some parts grade the same number, and for LeNet A1 is L3 with a wider tolerance."
    )
    return " ".join(said)


def as_block(root: Path, card: pd.DataFrame) -> str:
    """Return the scorecard block of results/README.md: the convention, grades, dense networks, and claims not run."""
    trained = card["run"].notna() & (card["grade"] != NOT_RUN)
    parts = [
        f"{CONVENTION}\n\nA part of a claim is *reproduced* if its whole interval lies within the tolerance (in "
        "the column *reproduced if*), and it *differs* if the whole interval lies outside. It is *undecided* if the "
        "interval has values inside and outside, or if a single trial has no interval. In the first case the table "
        "says how many trials would decide, if mean and spread stayed as they are.",
        counts_in_full(card[trained]),
        as_markdown(card[trained]),
    ]
    dense = baselines(root, card[trained])
    if len(dense):
        parts += ["The dense networks that these gains are measured against:", table_of(dense)]
    for summary, rows in (
        (
            "Claims that need no training: numbers of weights and percentages of weights remaining",
            card[card["run"].isna()],
        ),
        ("Not run yet", card[card["run"].notna() & ~trained]),
    ):
        if len(rows):
            parts.append(f"<details><summary>{summary}</summary>\n\n{as_markdown(rows)}\n\n</details>")
    return "\n\n".join(parts)


def write_scorecard(root: Path) -> pd.DataFrame:
    """Grade all claims, write claims.csv to the results root, and return the table."""
    card = scorecard(root)
    card.round(6).to_csv(root / "claims.csv", index=False, lineterminator="\n")
    return card
