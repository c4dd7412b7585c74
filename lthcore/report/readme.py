"""Generated blocks of README.md and results/README.md, which stand between `<!-- NAME -->` and `<!-- end -->`.

`found: STUDY ...` contains the sentences of studies (`tickets` for LeNet's tickets, `convolutional` for the tickets of
convolutional networks), `scorecard` the grades, `convention` the meaning of numbers in brackets, `front` the findings
and `questions` the studies of the front page, `studies` a table of the questions with their answers, `provenance` the
hardware and versions of each run, `reproductions` the results of others, and `movement` the accuracies of Conv-4 by
criterion of movement pruning. Results without tables are left out.
"""

import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from lthcore.analysis.statistics import CONVENTION
from lthcore.errors import choose
from lthcore.paths import PROFILES
from lthcore.report import front_page
from lthcore.report.figure_specs import LENET
from lthcore.report.reproductions import reproductions
from lthcore.report.run_tables import whole_trials
from lthcore.report.scorecard import as_block
from lthcore.report.studies import STUDIES
from lthcore.report.studies.iterative_pruning import convolutional
from lthcore.report.studies.movement_pruning import levels_of_conv4
from lthcore.report.tables import described, table_of
from lthcore.runs.files import has_results, read_record, read_tables

PAGES = ("README.md", "results/README.md")
KINDS = ("convention", "scorecard", "front", "questions", "studies", "reproductions", "movement", "provenance")
BLOCK = re.compile(rf"(<!-- (found: [a-z_ ]+|{'|'.join(KINDS)}) -->\n).*?(<!-- end -->)", re.DOTALL)


def write_pages(project: Path, root: Path, card: pd.DataFrame) -> None:
    """Rewrite the blocks of the pages of a project, from the tables below a results root and their scorecard.

    Pages that do not exist are skipped. Other text stays, blocks of the user's own included.
    """
    blocks: dict[str, Callable[[], str]] = {
        "convention": lambda: CONVENTION,
        "scorecard": lambda: as_block(root, card),
        "front": lambda: "\n\n".join(filter(None, (front_page.lead(card), _list_of(front_page.findings(card))))),
        "questions": front_page.questions,
        "studies": lambda: front_page.status_of_studies(card, root),
        "reproductions": lambda: table_of(reproductions(root)),
        "movement": lambda: levels_of_conv4(root),
        "provenance": lambda: provenance(root),
    }

    def written(block: re.Match) -> str:
        kind, _, names = block[2].partition(": ")
        text = "\n".join(found_in(name, root) for name in names.split()) or blocks[kind]()
        return f"{block[1]}{text}\n{block[3]}"

    for page in PAGES:
        path = project / page
        if path.exists():
            path.write_text(BLOCK.sub(written, path.read_text(encoding="utf-8")), encoding="utf-8")


def found_in(name: str, root: Path) -> str:
    """Return the findings of a study in Markdown.

    `name` may also be `tickets` (LeNet's tickets at profile `paper`) or `convolutional` (convolutional networks).
    """
    if name == "convolutional":
        return convolutional(root) or _list_of([])
    if name != "tickets":
        return _list_of(STUDIES[choose("found in a page", name, STUDIES)].findings(root))
    folder = root / "paper" / LENET
    return described(read_tables(folder)[0]) if has_results(folder) else _list_of([])


def provenance(root: Path) -> str:
    """Return a Markdown table by study and profile: training runs, trials, core-hours, hardware, torch, commits."""
    rows = []
    for profile in reversed(PROFILES):
        for folder in sorted({path.parent for path in (root / profile).glob("*/*")}):
            runs = [path.parent for path in sorted(folder.glob("*/run.json"))]
            if runs:
                rows.append(_made_with(profile, folder.name, runs))
    return table_of(pd.DataFrame(rows)) if rows else "Nothing has run yet."


def _made_with(profile: str, study: str, runs: list[Path]) -> dict[str, object]:
    records, trials = [read_record(folder) for folder in runs], sorted({whole_trials(folder) for folder in runs})
    machines = sorted({(record.get("hardware") or {}).get("cpu", "unknown") for record in records})
    torches = sorted({record.get("versions", {}).get("torch", "unknown") for record in records})
    commits = {commit for record in records for commit in record.get("commits", []) if commit}
    return {
        "study": study, "profile": profile, "runs": len(records),
        "trainings": f"{sum(record['trainings_done'] for record in records):,}",
        "trials": f"{trials[0]} to {trials[-1]}" if len(trials) > 1 else trials[0],
        "core-hours": f"{sum(record['training_seconds'] for record in records) / 3600:.1f}",
        "processors": ", ".join(machines), "torch": ", ".join(torches), "commits": len(commits),
    }  # fmt: skip


def _list_of(sentences: list[str]) -> str:
    return "\n".join(f"* {line}" for line in sentences or ["Not run yet."])
