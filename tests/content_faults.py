"""Faults that damage the content of saved files: the cases of tests/runs/test_damage.py, for `make faults`."""

import itertools
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "runs"))
import test_damage as damage

TABLES = list(itertools.product(damage.TABLES, ("rounds.csv", "curves.csv")))
ARCHIVES = list(itertools.product(damage.ARCHIVES, (True, False)))


@cache
def whole() -> Path:
    """Return a results root with undamaged runs, which is made once per process."""
    return damage.make_root(Path(tempfile.mkdtemp()))


def counted(test: Callable, *arguments: object) -> int:
    """Run a test and return 1. Raises AssertionError if it fails, which counts as a lost result."""
    try:
        test(*arguments)
    except pytest.fail.Exception as failure:
        raise AssertionError(str(failure)) from None
    return 1


def copy_of_run(place: Path) -> Path:
    """Return a copy of the undamaged run, to be damaged."""
    return Path(shutil.copytree(whole() / damage.NAME, place / "run"))


def damage_a_ticket(place: Path, seed: int) -> int:
    """Change the content of a ticket: a run must notice it, and make the ticket again once it is deleted.

    Most kinds of damage are done twice: with the old digest, and with a digest that matches the new content.
    """
    kind = list(damage.TICKETS)[seed]
    return counted(damage.test_a_damaged_ticket_is_noticed_and_made_again, kind, copy_of_run(place), whole())


def damage_a_table(place: Path, seed: int) -> int:
    """Change the content of a table: readers and runs must notice it, and make the table again once it is deleted."""
    kind, name = TABLES[seed]
    return counted(damage.test_a_damaged_table_is_noticed_and_made_again, kind, name, copy_of_run(place), whole())


def damage_an_archive(place: Path, seed: int) -> int:
    """Unpack an archive with damaged content: nothing may be unpacked, and existing files must stay as they are."""
    kind, digests = ARCHIVES[seed]
    return counted(damage.test_an_archive_that_is_not_whole_changes_nothing, kind, digests, whole(), place)


CONTENT_FAULTS = {
    "a ticket's content damaged": (damage_a_ticket, len(damage.TICKETS)),
    "a table's content damaged": (damage_a_table, len(TABLES)),
    "an archive's content damaged": (damage_an_archive, len(ARCHIVES)),
}
