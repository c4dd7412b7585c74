"""The README's blocks: what the studies found, in sentences, between `<!-- found: STUDY ... -->` and `<!-- end -->`.

`<!-- found: tickets -->` are the sentences of LeNet's tickets, and `<!-- convention -->` says what brackets are.
Sentences whose tables are not there are left out.
"""

import re
from pathlib import Path

from lthcore.analysis.statistics import CONVENTION
from lthcore.report.paper_figures import LENET
from lthcore.report.studies import STUDIES
from lthcore.report.tables import findings
from lthcore.runs.files import has_results, read_tables

BLOCK = re.compile(r"(<!-- found: ([a-z_ ]+) -->\n).*?(<!-- end -->)", re.DOTALL)
CONVENTION_BLOCK = re.compile(r"(<!-- convention -->\n).*?(<!-- end -->)", re.DOTALL)


def into_readme(readme: Path, root: Path) -> None:
    """Put the findings of the studies that each block names into it."""

    def written(block: re.Match) -> str:
        found = [line for name in block[2].split() for line in found_in(name, root)]
        return block[1] + "".join(f"* {line}\n" for line in found or ["Not run yet."]) + block[3]

    text = BLOCK.sub(written, readme.read_text(encoding="utf-8"))
    text = CONVENTION_BLOCK.sub(lambda block: f"{block[1]}{CONVENTION}\n{block[2]}", text)
    readme.write_text(text, encoding="utf-8")


def found_in(name: str, root: Path) -> list[str]:
    """The sentences of a study, or of LeNet's tickets at profile `paper`."""
    if name != "tickets":
        return STUDIES[name].findings(root)
    folder = root / "paper" / LENET
    return findings(read_tables(folder)[0]) if has_results(folder) else []
