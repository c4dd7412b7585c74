"""The front page: five findings in plain English, and where each study stands, from the committed tables."""

from pathlib import Path

import pandas as pd

from lthcore.report.claims import NOT_RUN
from lthcore.report.comparisons import runs_of
from lthcore.report.scorecard import shown
from lthcore.report.studies import STUDIES
from lthcore.runs.files import read_record

# Claim -> what was found of it, in a few words that hold for its grade, and the numbers. Percentages are of weights
# remaining.
SENTENCES = {
    "L1": (
        "Do tickets learn faster?",
        "At 21.1% LeNet's tickets have their early stop {here} earlier than the dense network (the paper: {paper}).",
    ),
    "L2": (
        "Do tickets reach a higher test accuracy?",
        "At 13.5% LeNet's tickets gain {here} at the early stop (the paper: {paper}), {end} at the end of training.",
    ),
    "L7": (
        "Do tickets need their own initial weights?",
        "At 21.1% they gain {here} on their masks with other initial weights (the paper: {paper}), {end} at the end.",
    ),
    "X4b": (
        "Do tickets survive noise of three standard deviations?",
        "At 7.0% they gain {here} on their masks with other initial weights; the paper's stay above.",
    ),
    "F6": (
        "May a mask found before training by SNIP be shuffled within its layers?",
        "At 1.56% LeNet's test accuracy changes by {here} (arXiv 2009.08576: no loss).",
    ),
}
ORDER = ("differs", "undecided", "reproduced")  # what is not as published is said first
MOVEMENT = "**Is pruning what moves most better than pruning at random?** {first}"


def findings(root: Path, card: pd.DataFrame) -> list[str]:
    """Questions and answers: those of which a part differs first, then those that are not settled, then the others.

    Each is of the first run of its claim that is graded, at profile `paper` unless it says so; those whose tables are
    not there are left out.
    """
    found = []
    for name, (claim, sentence) in SENTENCES.items():
        rows = card[(card["id"] == name) & card["value"].notna()]
        if rows.empty:
            continue
        run = rows[(rows["run"] == rows["run"].iloc[0]) & (rows["profile"] == rows["profile"].iloc[0])]
        grades = {row.part: row.grade.split(" ")[0] for row in run.itertuples()}
        size = run.sort_values("part", ascending=False).iloc[0]  # before its direction
        said = sentence.format(
            here=shown(size, "value", "low", "high"),
            end=shown(size, "end_value", "end_low", "end_high"),
            paper=size["paper"].removesuffix(" earlier"),
        )
        graded = ", ".join(f"{part} {grade}" for part, grade in grades.items()).capitalize()
        profile = "" if size["profile"] == "paper" else f", profile `{size['profile']}`"
        said = f"**{claim}** {said} *{graded}* (n = {size['n']:.0f}{profile}){_elsewhere(rows, size, grades)}."
        found.append((min(ORDER.index(grade) for grade in grades.values()), said))
    movement = STUDIES["movement_pruning"].findings(root)
    return [line for _, line in sorted(found)] + ([MOVEMENT.format(first=movement[0])] if movement else [])


def _elsewhere(rows: pd.DataFrame, shown_row: pd.Series, grades: dict[str, str]) -> str:
    """The other runs of a claim in which its direction is graded otherwise."""
    others = rows[(rows["run"] != shown_row["run"]) | (rows["profile"] != shown_row["profile"])]
    unlike = [o for o in others.itertuples() if o.part == "direction" and o.grade.split(" ")[0] != grades[o.part]]
    return "".join(f"; direction {other.grade} in `{other.run}`" for other in unlike)


def status_of_studies(root: Path, card: pd.DataFrame) -> str:
    """A table in Markdown: each study, its question, its notebook, and how its claims were graded."""
    lines = ["| study | question | status |", "|---|---|---|"]
    for name, study in STUDIES.items():
        link = f"[{name.replace('_', ' ')}](notebooks/{name}.ipynb)"
        lines.append(f"| {link} | {study.question} | {_status(root, card, name)} |")
    return "\n".join(lines)


def _status(root: Path, card: pd.DataFrame, study: str) -> str:
    mine = card["run"].map(_study_of) == study
    grades = card[mine & (card["grade"] != NOT_RUN)]["grade"].str.split(" (", regex=False).str[0].value_counts()
    said = [f"{grades[grade]} {grade}" for grade in ("reproduced", "undecided", "differs") if grade in grades]
    waiting = card[mine & (card["grade"] == NOT_RUN)]["id"].nunique()
    if waiting:
        said.append(f"{waiting} claims not run")
    networks = sorted({read_record(folder)["settings"]["architecture"] for folder in runs_of(root, study).values()})
    return f"{', '.join(said) or 'no claim to grade'} ({', '.join(networks) or 'not run'})"


def _study_of(run: object) -> str:
    """The study of a run in the scorecard, which leaves that of iterative pruning out; empty for arithmetic."""
    if not isinstance(run, str):
        return ""
    study, slash, _ = run.partition("/")
    return study if slash else "iterative_pruning"
