"""Errors that a user can fix, each reported in one line, and what their sentences are made of."""

import difflib
import reprlib
from collections.abc import Iterable

LONGEST = 400  # maximum number of characters of an error message


class LabError(Exception):
    """An error that a user can fix. Its one line says what is wrong and what to do."""

    exit_code = 2  # of the command line

    def __str__(self) -> str:
        """Return the message in one line of at most LONGEST characters."""
        return one_line(super().__str__())


def one_line(error: BaseException | str) -> str:
    """Return an error's message in one line of printable characters, cut in the middle if longer than LONGEST."""
    words = " ".join((str(error) or type(error).__name__).split())
    if not words.isprintable():
        words = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in words)
    if len(words) <= LONGEST:
        return words
    return f"{words[: LONGEST - 155]} ... {words[-150:]}"  # the beginning, and the end, which says what to do


def unexpected(error: Exception) -> str:
    """Return the text for an unexpected error: its type, and its message in one line."""
    return f"unexpected {type(error).__name__}: {one_line(error)}"


def shown(value: object) -> str:
    """Return a value's repr for an error message, shortened if long or deep, or its type or size if repr fails."""
    brief = reprlib.Repr()
    brief.maxstring = brief.maxother = brief.maxlong = 80
    try:
        return brief.repr(value)
    except ValueError:  # e.g. an integer of thousands of digits, which Python does not convert
        return f"a number of {value.bit_length():,} bits" if isinstance(value, int) else type(value).__name__


def counted(n: int, noun: str) -> str:
    """Return a number with its noun, in the plural where due: `1 training`, `1,055 trainings`."""
    return f"{n:,} {noun}{'s' * (n != 1)}"


def choose(key: str, value: str, allowed: Iterable[str]) -> str:
    """Return `value` if it is in `allowed`; else raise LabError with key, value, closest match and allowed values."""
    allowed = list(allowed)
    if value in allowed:
        return value
    near = difflib.get_close_matches(str(value)[:100], allowed, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise LabError(f"{key} = {shown(value)}{hint}: allowed are {', '.join(allowed)}")


def choose_registered(key: str, value: str, registered: Iterable[str], also: str = "") -> str:
    """Like `choose`, for what users may add to: the error says how. `also` describes what is allowed besides."""
    try:
        return choose(key, value, registered)
    except LabError as error:
        raise LabError(
            f"{error}{also and f', {also}'}; register one of your own first, as in a plugin (--plugin FILE)"
        ) from None


class TimeLimit(LabError):
    """The time limit was reached or SIGTERM was received. Results are saved, and the same command resumes the work."""

    exit_code = 75  # EX_TEMPFAIL
