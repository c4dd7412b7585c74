"""Functions compiled by numba once and kept in its cache, which is rebuilt if it is damaged."""

from collections.abc import Callable

from numba import njit
from numba.core.caching import FunctionCache


class MendedCache(FunctionCache):
    """numba's cache of the compiled versions of a function, cleared if it cannot be read.

    Otherwise a file truncated by a full disk or a crash of the machine would end every run that needs it.
    """

    def load_overload(self, sig: object, target_context: object) -> object:
        """Return the compiled version for these types, or None if the cache has none that is readable."""
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # a truncated pickle may raise anything; the function can be compiled again
            self.flush()
            return None


def cached(**options: object) -> Callable:
    """Return a decorator that applies numba's `njit` with these options and a `MendedCache`."""

    def decorate(function: Callable) -> Callable:
        dispatcher = njit(cache=True, **options)(function)
        dispatcher._cache = MendedCache(function)  # numba has no other way to choose a cache
        return dispatcher

    return decorate
