"""Compiled: functions that numba compiles once and keeps in its cache, which may be damaged.

Importing this needs numba.
"""

from collections.abc import Callable

from numba import njit
from numba.core.caching import FunctionCache


class MendedCache(FunctionCache):
    """numba's cache of a function's compiled forms, begun anew where it cannot be read.

    A file cut short, by a full disk or a crash of the machine, would end every run that comes to need it.
    """

    def load_overload(self, sig: object, target_context: object) -> object:
        """The compiled form for these types; None where the cache does not have it."""
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # what a pickle cut short raises is open; whatever it is, compiling does without it
            self.flush()
            return None


def cached(**options: object) -> Callable:
    """A decorator: numba's `njit` with these options, and a cache."""

    def decorate(function: Callable) -> Callable:
        dispatcher = njit(cache=True, **options)(function)
        dispatcher._cache = MendedCache(function)  # numba has no other way to name a cache
        return dispatcher

    return decorate
