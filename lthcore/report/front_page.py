"""Text of the front page: findings in plain English and the status of each study, from the committed tables."""

from operator import itemgetter
from pathlib import Path

import pandas as pd

from lthcore.errors import counted
from lthcore.report.claims import NOT_RUN, UNREADABLE, grades_of
from lthcore.report.scorecard import WORDS, shown
from lthcore.report.studies import STUDIES

# Claim -> a question (for LEAD a subject) and an answer that is true whatever the grade. {here} is the claim's measured
# value, {end} the same at the end of training, {paper} the published value, {C2} the measured value of another claim.
# Percentages are of weights remaining.
LEAD = (
    "L3",
    "LeNet's smallest winning tickets",
    "have {here}: by the means, they stop no later than the dense network, at no lower test accuracy (the paper: "
    "{paper}).",
)
SENTENCES = {
    "L1": (
        "Do tickets learn faster?",
        "At 21.1% LeNet's tickets stop {here} earlier than the dense network (the paper: {paper}).",
    ),
    "L2": (
        "Do tickets reach a higher test accuracy?",
        "At 13.5% LeNet's tickets gain {here} over the dense network (the paper: {paper}).",
    ),
    "C1": (
        "How much earlier do Conv-2's tickets stop?",
        "Up to {here} times earlier than the dense network (the paper: {paper}).",
    ),
    "C2p": (
        "How much do Conv-2's tickets gain?",
        "At 4.6% they gain {here} (the paper: {paper}), and {C2} where validation accuracy is best (C2).",
    ),
    "C4": (
        "Do Conv-2's tickets fit their images?",
        "Down to 1.9%, they end with {here} or more right ({paper} in the paper's 20,000 iterations).",
    ),
    "B1": (
        "Does LeNet reach the accuracies of earlier systems?",
        "Its tickets reach {here} or more down to 21.1% (published: {paper}).",
    ),
    "B6": (
        "And if it is pruned while it trains?",
        "At 21.1% it ends with {here} (published: {paper}).",
    ),
    "L7": (
        "Do tickets need their own initial weights?",
        "At 21.1% LeNet's tickets gain {here} over reinitialised ones (the paper: {paper}).",
    ),
    "L10e": (
        "How small may one-shot tickets be?",
        "They gain test accuracy over dense and random networks down to {here} (the paper: {paper}).",
    ),
    "X4c": (
        "Do tickets survive 3 sigma of noise?",
        "Their gain over reinitialised ones is {here} at 21.1% (the paper: above 0), {X4b} at 7.0%, {X4d} at 1.5%.",
    ),
    "F6": (
        "Can a mask by SNIP be shuffled in its layers?",
        "LeNet's final accuracy changes by {here} at 1.56% (arXiv 2009.08576: no loss).",
    ),
}
# Claim -> its answer if its place is 100% of weights: nothing wins
NOWHERE = {
    "L3": "do not exist: by the means, no tickets stop no later than the dense network, at no lower test accuracy (the "
    "paper: {paper}).",
    "L10e": "They gain test accuracy over dense and random networks at no size (the paper: {paper}).",
}
ORDER = ("differs", "undecided", "reproduced")  # deviations from the papers come first
RUNS = {"lenet_mnist_standardised": "on standardised pixels"}  # run -> how it differs from the first run of its claims


def findings(card: pd.DataFrame) -> list[str]:
    """Return questions with their answers: claims with a part that differs first, then undecided, then reproduced ones.

    Each answer is about the first run and profile in which the claim was measured. Claims that were not measured are
    left out.
    """
    found = []
    for name, (question, sentence) in SENTENCES.items():
        said, grades = _said(card, name, question, sentence)
        if said:
            found.append((min(ORDER.index(grade) for grade in grades), said))
    return [line for _, line in sorted(found, key=itemgetter(0))]


def lead(card: pd.DataFrame) -> str:
    """Return the first finding: how small winning tickets are. Empty if it was not measured."""
    return _said(card, *LEAD)[0]


def _said(card: pd.DataFrame, name: str, head: str, sentence: str) -> tuple[str, list[str]]:
    """Return the sentence about a claim with its grades, and the list of grades; both empty if not measured."""
    rows = card[(card["id"] == name) & card["value"].notna()]
    if rows.empty:
        return "", []
    run = rows[(rows["run"] == rows["run"].iloc[0]) & (rows["profile"] == rows["profile"].iloc[0])]
    grades = {row.part: row.grade.split(" ")[0] for row in run.itertuples()}
    size = _size_of(run)
    if size["part"] == "place" and size["value"] == 100:
        sentence = NOWHERE.get(name, sentence)
    said = sentence.format_map(
        _numbers(card)
        | {
            "here": shown(size, "value", "low", "high"),
            "end": shown(size, "end_value", "end_low", "end_high"),
            "paper": _number_of(size["paper"]),
        }
    )
    alike = {grade: [part for part in grades if grades[part] == grade] for grade in grades.values()}
    graded = ", ".join(f"{_and(parts)} {grade}" for grade, parts in alike.items()).capitalize()
    other = f", {RUNS[size['run']]}" if size["run"] in RUNS else ""
    fixed = size["tolerance_fixed"]
    late = "" if fixed == "before the run" else f"; set {fixed}"
    count = f"(n = {size['n']:.0f}, {size['training']}{other}{late})"
    return f"**{head}** ({name}) {said} *{graded}* {count}{_elsewhere(rows, run.iloc[0])}.", list(grades.values())


def _number_of(published: str) -> str:
    """Return a published value without the words around it that the sentences of this page have, too."""
    value = published.split(" (")[0].removeprefix("down to ")
    return value.removesuffix(" earlier").removesuffix(" of weights remaining")


def _numbers(card: pd.DataFrame) -> dict[str, str]:
    """Return claim -> its formatted value in the first run in which it was measured, or `not measured`."""
    measured = card[card["value"].notna() & card["run"].notna()]
    first = measured.drop_duplicates(["id", "part"])
    found = {name: shown(_size_of(parts), "value", "low", "high") for name, parts in first.groupby("id")}
    return dict.fromkeys(card["id"], "not measured") | found


def _size_of(parts: pd.DataFrame) -> pd.Series:
    """Return the row of the size of a claim, else of its place, else of its direction."""
    return min((row for _, row in parts.iterrows()), key=lambda row: ("size", "place", "direction").index(row["part"]))


def _and(words: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _elsewhere(rows: pd.DataFrame, first: pd.Series) -> str:
    """Describe the other runs of a claim in which its first part has another grade, each at its largest profile."""
    others = rows[(rows["run"] != first["run"]) & (rows["part"] == first["part"])].drop_duplicates("run")
    unlike = [o for o in others.itertuples() if o.grade.split(" ")[0] != first["grade"].split(" ")[0]]
    length = {o.run: "" if o.profile == first["profile"] else f" ({o.training})" for o in unlike}
    return "".join(f"; {o.part} {o.grade} {RUNS.get(o.run, f'in `{o.run}`')}{length[o.run]}" for o in unlike)


def questions() -> str:
    """Return a Markdown list of the questions of all studies, each with a link to the notebook."""
    return "\n".join(f"* [{study.question}](notebooks/{name}.ipynb)" for name, study in STUDIES.items())


def status_of_studies(card: pd.DataFrame, root: Path) -> str:
    """Return a Markdown table of all studies: the notebook, the question with its answer, and the grades of its claims.

    The answers come from the tables below a results root, beside which the table stands (in its README.md).
    """
    lines = ["| study | question, and what its tables say | parts of claims |", "|---|---|---|"]
    for name, study in STUDIES.items():
        link = f"[{name.replace('_', ' ')}](../notebooks/{name}.ipynb)"
        said = " ".join(filter(None, (f"*{study.question}*", study.answer(root))))
        lines.append(f"| {link} | {said} | {_status(card, name)} |")
    return "\n".join(lines)


def _status(card: pd.DataFrame, study: str) -> str:
    """Describe how many parts of a study's claims got which grade, each in the first run in which it was graded.

    Claims that were not run are counted whole.
    """
    mine = card[card["run"].map(_study_of) == study]
    graded = mine[mine["grade"] != NOT_RUN].drop_duplicates(["id", "part"])
    grades = grades_of(graded["grade"]).value_counts()
    said = [f"{grades[grade]} {word}" for grade, word in WORDS.items() if grade in grades]
    waiting = mine[mine["grade"] == NOT_RUN]["id"].nunique()
    if waiting:
        said.append(f"{counted(waiting, 'claim')} not run")
    if (mine["grade"] == UNREADABLE).any():
        said.append(UNREADABLE)
    return ", ".join(said) or "none"


def _study_of(run: object) -> str:
    """Return the study of a run in the scorecard: iterative pruning if its name has no prefix; empty for arithmetic."""
    if not isinstance(run, str):
        return ""
    study, slash, _ = run.partition("/")
    return study if slash else "iterative_pruning"
