"""The front page: five findings in plain English, and where each study stands, from the committed tables."""

from pathlib import Path

import pandas as pd

from lthcore.report.claims import NOT_RUN
from lthcore.report.comparisons import runs_of
from lthcore.report.scorecard import shown
from lthcore.report.studies import STUDIES
from lthcore.runs.files import read_record

# Claim -> what it is about, and the sentence that says what was found.
SENTENCES = {
    "L1": (
        "whether tickets learn faster",
        "At 21.1% LeNet's tickets stop learning {here} earlier than the dense network (the paper: {paper}).",
    ),
    "L2": (
        "whether tickets reach a higher test accuracy",
        "At 13.5% LeNet's gain {here} at the early stop (the paper: {paper}), and {end} at the end of training.",
    ),
    "L7": (
        "whether tickets need their own initial weights",
        "At 21.1% LeNet's differ by {here} from the same masks with other initial weights, at the end by {end}.",
    ),
    "F6": (
        "whether SNIP's mask may be shuffled within its layers",
        "At 1.56% LeNet's test accuracy changes by {here} (arXiv 2009.08576: no loss).",
    ),
}
HEADINGS = {"differs": "Differs from what was published", "undecided": "Not settled", "reproduced": "Reproduced"}
MOVEMENT = "**High-movement pruning, which was published without controls, is worse than pruning at random.** {first}"


def findings(root: Path, card: pd.DataFrame) -> list[str]:
    """Five sentences: what differs from what was published first, then what is not settled, then what was reproduced.

    Each is of the first run of its claim that is graded; those whose tables are not there are left out.
    """
    found = []
    for name, (subject, sentence) in SENTENCES.items():
        rows = card[(card["id"] == name) & card["value"].notna()]
        if rows.empty:
            continue
        run = rows[rows["run"] == rows["run"].iloc[0]]
        run = run[run["profile"] == run["profile"].iloc[0]]
        row = run[run["part"] == "size"].iloc[0]
        grade = str(run["grade"].iloc[0]).partition(" ")[0]  # of the direction, where it has one
        here, end = shown(row, "value", "low", "high"), shown(row, "end_value", "end_low", "end_high")
        said = sentence.format(here=here, end=end, paper=row["paper"].removesuffix(" earlier"))
        said += f" (n = {row['n']:.0f}{_elsewhere(rows, row, grade)})"
        found.append((list(HEADINGS).index(grade), f"**{HEADINGS[grade]}: {subject}.** {said}"))
    movement = STUDIES["movement_pruning"].findings(root)
    return [line for _, line in sorted(found)] + ([MOVEMENT.format(first=movement[0])] if movement else [])


def _elsewhere(rows: pd.DataFrame, row: pd.Series, grade: str) -> str:
    """The other runs of a claim in which its direction is graded otherwise."""
    others = rows[((rows["run"] != row["run"]) | (rows["profile"] != row["profile"])) & (rows["part"] == "direction")]
    unlike = others[others["grade"].str.split(" ").str[0] != grade]
    return "".join(f"; {other.grade} in `{other.run}`, `{other.profile}`" for other in unlike.itertuples())


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
    return f"{', '.join(said) or 'nothing published to grade'} ({', '.join(networks) or 'not run'})"


def _study_of(run: object) -> str:
    """The study of a run in the scorecard, which leaves that of iterative pruning out; empty for arithmetic."""
    if not isinstance(run, str):
        return ""
    study, slash, _ = run.partition("/")
    return study if slash else "iterative_pruning"
