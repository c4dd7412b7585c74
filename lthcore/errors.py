"""Errors that a user can mend, each told in one line."""

import difflib
import reprlib
from collections.abc import Iterable

LONGEST = 400  # characters of an error's line


class LabError(Exception):
    """An error a user can mend: one line that says what is wrong and what to do. The command line exits with 2."""

    def __str__(self) -> str:
        """The line, of at most LONGEST characters."""
        return one_line(super().__str__())


def one_line(error: BaseException | str) -> str:
    """What an error says, on one line of printable characters; cut in the middle where it is longer than LONGEST."""
    words = " ".join((str(error) or type(error).__name__).split())
    if not words.isprintable():
        words = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in words)
    if len(words) <= LONGEST:
        return words
    return f"{words[: LONGEST - 155]} ... {words[-150:]}"  # how it begins, and what to do, which comes last


def shown(value: object) -> str:
    """A value as an error shows it: its repr, cut where it is long, deep or cannot be written out."""
    brief = reprlib.Repr()
    brief.maxstring = brief.maxother = brief.maxlong = 80
    try:
        return brief.repr(value)
    except ValueError:  # a whole number of thousands of digits
        return f"a number of {value.bit_length():,} bits" if isinstance(value, int) else type(value).__name__


def choose(key: str, value: str, allowed: Iterable[str]) -> str:
    """Return `value` if it is one of `allowed`; else raise LabError naming the key, the value, the nearest and all."""
    allowed = list(allowed)
    if value in allowed:
        return value
    near = difflib.get_close_matches(str(value)[:100], allowed, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise LabError(f"{key} = {shown(value)}{hint}: allowed are {', '.join(allowed)}")


class TimeLimit(LabError):
    """The time limit was reached, or SIGTERM came; what was done is saved, and the same command goes on."""

    exit_code = 75  # EX_TEMPFAIL
