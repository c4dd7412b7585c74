"""Errors of one experiment among several: said in a line, while the others go on."""

import os
import sys
import traceback

from lthcore.errors import LabError, one_line
from lthcore.runs.experiments import Experiment


def say_failed(experiment: Experiment, error: Exception, debug: bool) -> Exception:
    """Say that an experiment could not run, and return the error."""
    if debug or os.environ.get("LTH_DEBUG"):
        traceback.print_exception(error)
    known = isinstance(error, LabError | OSError)
    print(one_line(f"lth: {experiment.name}: {error if known else unexpected(error)}"), file=sys.stderr)
    return error


def unexpected(error: Exception) -> str:
    """What to say of an error that nobody foresaw: its kind, and its message in one line."""
    return f"unexpected {type(error).__name__}: {one_line(error)}"


def noted(error: Exception, errors: list[str]) -> str:
    """What a row says of an error, which is added to `errors`."""
    text = one_line(error if isinstance(error, LabError | OSError) else unexpected(error))
    errors.append(text)
    return f"cannot be read: {text}"


def raise_first(errors: list[str]) -> None:
    """Raise LabError that says the first of some errors and how many more there are, if any."""
    if errors:
        raise LabError(errors[0] + (f" (and {len(errors) - 1} more)" if errors[1:] else ""))
