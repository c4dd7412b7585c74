"""Fault injection in short: one fault in a process of its own, and a soak test; `make faults` injects all faults.

How much memory the soak test takes depends on the machine: `make faults` measures it.
"""

import faults


def test_no_result_is_lost_by_files_that_cannot_grow(tmp_path):
    fault, _ = faults.FAULTS["files that cannot grow"]
    assert fault(faults.project(tmp_path / "lab"), 1) == 1


def test_short_runs_leave_no_open_files_behind(monkeypatch):
    monkeypatch.setenv("LTH_WORKERS", "1")
    assert faults.soak(30)["open_files_growth"] <= 0
