"""`lth settings`: list the settings of a study's params files, and the names that they may have as values."""

import argparse
import shutil
import textwrap
from typing import Any, get_args

from lthcore import arms
from lthcore.errors import choose
from lthcore.lottery.methods import METHODS, settings_for
from lthcore.registry import CRITERIA, MODELS
from lthcore.runs.experiments import params_files
from lthcore.sources.catalogue import DATASETS


def settings_command(options: argparse.Namespace) -> None:
    """Print each setting with its default, its allowed values and its meaning; then networks, criteria and the rest."""
    studies = {path.parent.name for path in params_files()} | {method.notebook for method in METHODS.values()}
    choose("settings: study", options.study, sorted(studies - {""} | {"iterative_pruning"}))
    width = shutil.get_terminal_size((110, 24)).columns
    for name, field in settings_for(options.study).model_fields.items():
        print(f"{name} = {field.default!r}")
        meaning = "; ".join(filter(None, (field.description, _allowed(field.annotation, field.description or ""))))
        print(textwrap.fill(meaning, width, initial_indent="    ", subsequent_indent="    "))
    for what, names in (
        ("architecture", MODELS), ("dataset", DATASETS), ("criterion", CRITERIA), ("arms", arms.ARMS),
    ):  # fmt: skip
        print()
        print(textwrap.fill(f"{what}: {', '.join(names)}, or registered by --plugin", width, subsequent_indent="    "))


def _allowed(annotation: Any, description: str) -> str:
    """Return the words that a setting may be, if its type lists them and its description does not name them all."""
    words = [value for value in get_args(annotation) if isinstance(value, str)]
    return "" if all(word in description for word in words) else f"one of {', '.join(words)}"
