"""The front page: five findings in plain English, and where each study stands, from the committed tables."""

from pathlib import Path

import pandas as pd

from lthcore.report.claims import NOT_RUN
from lthcore.report.comparisons import runs_of
from lthcore.report.scorecard import shown
from lthcore.report.studies import STUDIES
from lthcore.runs.files import read_record

# What is said first is what is not settled, or differs from what was published: claim, sentence.
SENTENCES = {
    "L1": "**Not settled: whether tickets learn faster.** LeNet's tickets with 21.1% of weights remaining stop "
    "learning {here} earlier than the dense network (the paper: {paper}); with {n} trials this could be chance.",
    "F6": "**Differs from the literature: where SNIP places its weights matters.** Its mask shuffled in each layer, "
    "LeNet with 1.56% of weights remaining loses: {here} (no loss in arXiv 2009.08576).",
    "L2": "**Tickets reach a higher test accuracy than the dense network, at the early stop.** With 13.5% of weights "
    "remaining LeNet gains {here} there ({paper} in the paper); at the end of training the gain is {end}.",
    "L7": "**Tickets need their own initial weights.** With 21.1% of weights remaining LeNet's tickets differ by "
    "{here} from the same masks with other initial weights at the early stop, by {end} at the end of training.",
}
MOVEMENT = "**High-movement pruning, which was published without controls, is worse than pruning at random.** {first}"
QUESTIONS = {
    "iterative_pruning": "Are there small subnetworks that train as well from their own initial weights?",
    "rewinding_and_connectivity": "To which iteration should weights be rewound, and when is training stable?",
    "deconstructing": "What of a ticket matters: its mask, its signs, or its values?",
    "pruning_at_init": "Can tickets be found before any training?",
    "movement_pruning": "Should the weights that move most be kept, or pruned?",
    "dynamic_pruning": "Can a network be pruned within one training?",
    "structured_pruning": "Are there tickets of whole neurons and filters?",
    "robust_training": "Do regularising habits make tickets smaller?",
    "ticket_structure": "What do tickets look like?",
    "ticket_similarity": "Do different seeds find the same ticket?",
    "mask_transfer": "Does a mask found on one data set serve another?",
    "mask_prediction": "Can it be foretold which weights will be pruned?",
}


def findings(root: Path, card: pd.DataFrame) -> list[str]:
    """Five sentences, those that differ from what was published first; without those whose tables are not there."""
    found = []
    for name, sentence in SENTENCES.items():
        rows = card[(card["id"] == name) & (card["part"] == "size") & card["value"].notna()]
        if len(rows):
            row = rows.iloc[0]
            here, end = shown(row, "value", "low", "high"), shown(row, "end_value", "end_low", "end_high")
            paper, n = row["paper"].removesuffix(" earlier"), f"{row['n']:.0f}"
            found.append(sentence.format(here=here, end=end, paper=paper, n=n))
    movement = STUDIES["movement_pruning"].findings(root)
    return found + ([MOVEMENT.format(first=movement[0])] if movement else [])


def status_of_studies(root: Path, card: pd.DataFrame) -> str:
    """A table in Markdown: each study, its question, its notebook, and how its claims were graded."""
    lines = ["| study | question | status |", "|---|---|---|"]
    for name in STUDIES:
        link = f"[{name.replace('_', ' ')}](notebooks/{name}.ipynb)"
        lines.append(f"| {link} | {QUESTIONS[name]} | {_status(root, card, name)} |")
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
