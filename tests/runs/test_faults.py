"""Faults, in short: some of each kind, once; `make faults` does all of them, many times."""

import faults
import pytest

SHORT = ("a worker killed", "files that cannot grow", "a damaged file")


@pytest.mark.parametrize("name", SHORT)
def test_no_result_is_lost_by(name, tmp_path):
    fault, _ = faults.FAULTS[name]
    assert fault(faults.project(tmp_path / "lab"), 1) >= (0 if name == "a worker killed" else 1)


def test_short_runs_leave_no_memory_and_no_open_files_behind(monkeypatch):
    monkeypatch.setenv("LTH_WORKERS", "1")
    grown = faults.soak(40)
    assert grown["open_files_growth"] <= 0
    assert grown["memory_growth_mb"] < 40
