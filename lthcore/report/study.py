"""Record of a study: a folder of params, a notebook of the same name, and its part of the report."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.figure import Figure


def nothing_found(root: Path) -> list[str]:
    """Return an empty list, as the findings of a study without sentences."""
    return []


def no_answer(root: Path) -> str:
    """Return an empty text, as the answer of a study that has none."""
    return ""


@dataclass(frozen=True)
class Study:
    """Figures and sentences of a study, whose files are `params/<name>/` and `notebooks/<name>.ipynb`.

    `findings` returns everything that was found, and `answer` one sentence on the question, for a table. All are
    made only from the tables below a results root. If its tables are missing, a figure is None, a sentence is left out,
    and the answer is empty.
    """

    name: str
    question: str = ""
    figures: dict[str, Callable[[Path], Figure | None]] = field(default_factory=dict)
    findings: Callable[[Path], list[str]] = nothing_found
    answer: Callable[[Path], str] = no_answer
