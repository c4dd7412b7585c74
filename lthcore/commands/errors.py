"""Errors of one experiment among several: reported in one line, while the others continue."""

import os
import sys
import traceback

from lthcore.errors import LabError, one_line, unexpected
from lthcore.runs.experiments import Experiment


def say_failed(experiment: Experiment, error: Exception, debug: bool) -> Exception:
    """Print that an experiment failed, and return the error."""
    if debug or os.environ.get("LTH_DEBUG"):
        traceback.print_exception(error)
    known = isinstance(error, LabError | OSError)
    print(one_line(f"lth: {experiment.name}: {error if known else unexpected(error)}"), file=sys.stderr)
    return error


def noted(error: Exception, errors: list[str]) -> str:
    """Append an error's text to `errors`, and return what the row of the failed item shows."""
    text = one_line(error if isinstance(error, LabError | OSError) else unexpected(error))
    errors.append(text)
    return f"cannot be read: {text}"


def raise_first(errors: list[str]) -> None:
    """Raise LabError with the first of `errors` and the number of further ones. Does nothing if there are none."""
    if errors:
        raise LabError(errors[0] + (f" (and {len(errors) - 1} more)" if errors[1:] else ""))
