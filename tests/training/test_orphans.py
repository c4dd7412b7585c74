"""Orphans: the workers of a process that was killed end, and its shared memory is freed."""

import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import pytest

from lthcore.training import orphans, parallel
from lthcore.training.orphans import remove_leftovers

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and process groups are POSIX")

PATIENCE = 120  # seconds after which a process counts as hung; many, because a busy machine is slow
WORKER = (
    "import os, sys; from lthcore.training.orphans import end_with; end_with({parent}); "
    "print('begun', flush=True); {then}"
)
PARENT = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', sys.argv[1]], stdin=0).wait()"


def test_a_worker_ends_when_its_parent_is_killed():
    worker = WORKER.format(parent="os.getppid()", then="sys.stdin.read()")  # ends no earlier than this process
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, worker], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout.readline() == "begun\n"
    parent.send_signal(signal.SIGKILL)
    ended, _, _ = select.select([parent.stdout], [], [], PATIENCE)  # the worker holds the pipe open until it ends
    assert ended and parent.stdout.read() == ""
    parent.communicate()


@pytest.fixture
def dead() -> Iterator[int]:
    """ID of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    yield process.pid  # not waited for yet: a zombie, which keeps its ID
    process.wait()


def test_a_worker_whose_parent_died_before_it_began_ends_too(dead):
    worker = [sys.executable, "-c", WORKER.format(parent=dead, then="sys.stdin.read()")]
    ended = subprocess.Popen(worker, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert ended.wait(PATIENCE) == 1
    ended.communicate()


def test_a_worker_whose_parent_has_died_saves_nothing(dead, monkeypatch):
    def ended(status):
        raise SystemExit(status)

    monkeypatch.setattr(os, "_exit", ended)
    monkeypatch.setattr(
        parallel, "_train", lambda settings, data, cohort, go_on, trainer: go_on(*next(iter(cohort.items())))
    )
    monkeypatch.setattr(parallel.Data, "from_arrays", lambda arrays: None)
    saved = []

    def task(parent):
        parallel._train_mapped(parent, b"", None, {}, "a ticket", None, lambda *now: saved.append(parent), None)

    task(os.getppid())
    with pytest.raises(SystemExit):
        task(dead)
    assert saved == [os.getppid()]


SHARES = """
import sys, numpy
from joblib import Parallel, delayed
results = Parallel(2, return_as="generator_unordered", max_nbytes=1)(delayed(len)(numpy.zeros(9)) for _ in range(3))
next(results)
print("begun", flush=True)
sys.stdin.read()
"""


def test_what_joblib_shares_is_removed_once_its_process_was_killed_and_not_before(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    process = subprocess.Popen(
        [sys.executable, "-c", SHARES], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )

    def left() -> list:
        semaphores = orphans.SHARED_MEMORY.glob(f"sem.loky-{process.pid}-*")
        return sorted([*tmp_path.rglob("*"), *semaphores])

    assert process.stdout.readline() == b"begun\n"
    shared = left()
    remove_leftovers()
    assert left() == shared and len(shared) >= 2  # a folder, a copy in it, and on Linux semaphores
    os.killpg(process.pid, signal.SIGKILL)  # also kills the processes that would remove the files
    process.communicate()
    assert left()
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    remove_leftovers()
    assert left()  # files of other users are kept
    monkeypatch.undo()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    remove_leftovers()
    assert not left()


def test_files_that_are_not_joblibs_stay(dead, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("JOBLIB_TEMP_FOLDER", str(tmp_path / "shared"))  # perhaps with other machines
    of_another_machine = tmp_path / "shared" / f"joblib_memmapping_folder_{dead}_a_b"
    of_another_machine.mkdir(parents=True)
    (tmp_path / f"joblib_memmapping_folder_{dead}_a_b").mkdir()
    others = {f"joblib_{dead}_a", f"sem.{dead}", f"kept-sem.loky-{dead}-a", "sem.loky-x-a"}
    for name in others:
        (tmp_path / name).touch()
    remove_leftovers()
    assert {path.name for path in tmp_path.iterdir()} == others | {"shared"} and of_another_machine.exists()


def test_the_shared_folder_is_kept_even_if_it_is_the_temporary_one(dead, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("JOBLIB_TEMP_FOLDER", str(tmp_path))
    of_another_machine = tmp_path / f"joblib_memmapping_folder_{dead}_a_b"
    of_another_machine.mkdir()
    remove_leftovers()
    assert of_another_machine.exists()
