"""Compiled functions: a truncated cache file of numba is replaced, and numba itself can read the new one."""

import numba
import pytest

from lthcore.training.engines.compiled import cached


def double(x):
    return 2 * x


@pytest.mark.parametrize("suffix", ["nbi", "nbc"])
@pytest.mark.parametrize("left", [0, 10, 0.5])  # remaining bytes of the file, or share of its bytes
def test_a_cache_cut_short_is_made_anew(suffix, left, tmp_path, monkeypatch):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    assert cached()(double)(3) == 6
    (file,) = tmp_path.rglob(f"*.{suffix}")
    whole = file.read_bytes()
    file.write_bytes(whole[: left if isinstance(left, int) else int(left * len(whole))])
    with pytest.raises(Exception):  # noqa: B017 whatever numba makes of it: else there would be nothing to mend
        numba.njit(cache=True)(double)(3)
    assert cached()(double)(3) == 6
    again = numba.njit(cache=True)(double)
    assert again(3) == 6 and sum(again.stats.cache_hits.values()) == 1
