"""Record of a study: a folder of params, a notebook of the same name, and its part of the report."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.figure import Figure


def nothing_found(root: Path) -> list[str]:
    """Return an empty list, as the findings of a study without sentences."""
    return []


@dataclass(frozen=True)
class Study:
    """Figures and sentences of a study, whose files are `params/<name>/` and `notebooks/<name>.ipynb`.

    They are made only from the tables below a results root. If its tables are missing, a figure is None and a sentence
    is left out.
    """

    name: str
    question: str = ""
    figures: dict[str, Callable[[Path], Figure | None]] = field(default_factory=dict)
    findings: Callable[[Path], list[str]] = nothing_found
