"""A study: a folder of params, a notebook of the same name, and what a report has of it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.figure import Figure


def nothing_found(root: Path) -> list[str]:
    """The sentences of a study that has none."""
    return []


@dataclass(frozen=True)
class Study:
    """What figures/ and the README have of a study, whose files are `params/<name>/` and `notebooks/<name>.ipynb`.

    Figures and sentences are made of the tables below a results root alone: each figure is None, and a sentence is left
    out, where its tables are not there.
    """

    name: str
    question: str = ""
    figures: dict[str, Callable[[Path], Figure | None]] = field(default_factory=dict)
    findings: Callable[[Path], list[str]] = nothing_found
