"""Damage of content among the faults: what tests/runs/test_damage.py does to saved files, each kind once, counted."""

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
    """A results root with runs that nothing has happened to."""
    return damage.make_root(Path(tempfile.mkdtemp()))


def counted(test: Callable, *arguments: object) -> int:
    """Do a test; a failure is a lost result."""
    try:
        test(*arguments)
    except pytest.fail.Exception as failure:
        raise AssertionError(str(failure)) from None
    return 1


def copy_of_run(place: Path) -> Path:
    """A run of its own, to be damaged."""
    return Path(shutil.copytree(whole() / damage.NAME, place / "run"))


def damage_a_ticket(place: Path, seed: int) -> int:
    """A ticket's content changed, with and without a digest that fits: noticed; deleted, it is made anew."""
    kind = list(damage.TICKETS)[seed]
    return counted(damage.test_a_damaged_ticket_is_noticed_and_made_again, kind, copy_of_run(place), whole())


def damage_a_table(place: Path, seed: int) -> int:
    """A table's content changed: noticed by who reads it and by the run; deleted, it is made anew."""
    kind, name = TABLES[seed]
    return counted(damage.test_a_damaged_table_is_noticed_and_made_again, kind, name, copy_of_run(place), whole())


def damage_an_archive(place: Path, seed: int) -> int:
    """An archive whose content is not whole: nothing of it is unpacked, and what was there stays."""
    kind, digests = ARCHIVES[seed]
    return counted(damage.test_an_archive_that_is_not_whole_changes_nothing, kind, digests, whole(), place)


CONTENT_FAULTS = {
    "a ticket's content damaged": (damage_a_ticket, len(damage.TICKETS)),
    "a table's content damaged": (damage_a_table, len(TABLES)),
    "an archive's content damaged": (damage_an_archive, len(ARCHIVES)),
}
