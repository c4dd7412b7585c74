"""Sittings: runs in separate processes, which a test can hold, ask to stop and kill at points of its choice.

The processes are forked from one that has already imported PyTorch, because the import takes longer than such a run.
"""

import itertools
import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from joblib.externals.loky import get_reusable_executor

from lthcore.runs import runner
from lthcore.runs.checkpoints import file_stem
from lthcore.runs.executor import STOP, Checkpointer
from lthcore.runs.lock import locked
from lthcore.settings import Settings
from lthcore.training.state import Replicate, TrainState

PATIENCE = 600  # seconds after which a process counts as hung; many, because a busy machine is slow
FORKING = multiprocessing.get_context("forkserver" if hasattr(os, "killpg") else "spawn")  # Windows skips these tests


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Wait until a condition holds. Raises AssertionError, with `what` in its message, after PATIENCE seconds."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {PATIENCE} s"
        time.sleep(0.01)


@contextmanager
def sitting(work: Callable, *arguments) -> Iterator[multiprocessing.Process]:
    """Run `work(*arguments)` in its own process group; at the end, kill it and remove its shared memory."""
    FORKING.set_forkserver_preload(["lthcore.runs.runner"])
    process = FORKING.Process(target=_in_a_group, args=(work, *arguments))
    process.start()
    try:
        yield process
    finally:
        if process.is_alive():
            os.killpg(process.pid, signal.SIGKILL)
        process.join()
        for pattern in ("sem.loky-{}-*", "joblib_memmapping_folder_{}_*"):  # a killed joblib cannot remove them
            for path in Path("/dev/shm").glob(pattern.format(process.pid)):
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def ended(process: multiprocessing.Process) -> int:
    """Wait until a process ends, and return its exit status."""
    process.join(PATIENCE)
    assert process.exitcode is not None, f"the process does not end within {PATIENCE} s"
    return process.exitcode


def _in_a_group(work: Callable, *arguments) -> None:
    os.setsid()
    work(*arguments)


def run_until_killed(settings: Settings, folder: Path, workers: int, files: int) -> None:
    """Run with a checkpoint at every evaluation; kill all processes just before the main process renames its n-th file.

    n is `files`. Files are written in full under a temporary name, and then renamed.
    """
    left = itertools.count(files, -1)

    def kill(event: str, _: tuple) -> None:
        if event == "os.rename" and next(left) == 1:
            os.killpg(0, signal.SIGKILL)

    sys.addaudithook(kill)
    os.environ["LTH_WORKERS"] = str(workers)
    runner.Checkpointer = partial(Checkpointer, every=0.0)
    runner.run(settings, folder, quiet=True)


class Held(Checkpointer):
    """Checkpointer that holds a training run at iteration `eval_every` until the run is asked to stop.

    A file `<file stem>.held` beside the run's folder shows that it is held. Nothing is saved before.
    """

    def __call__(self, replicate: Replicate, state: TrainState) -> bool:
        """Like `Checkpointer`, but wait for the stop file."""
        go_on = super().__call__(replicate, state)
        if state.iteration == self.settings.eval_every:
            folder = self.folder.parent
            folder.with_name(f"{file_stem(replicate)}.held").touch()
            wait_for((folder / STOP).exists, "to be asked to stop")
        return go_on


class Fatal(Checkpointer):
    """Checkpointer that kills one worker of a run, when it first reaches iteration `eval_every`."""

    def __call__(self, replicate: Replicate, state: TrainState) -> bool:
        """Like `Checkpointer`, but kill this process if none was killed before."""
        killed = self.folder / "killed"
        if state.iteration == self.settings.eval_every and not killed.exists():
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(replicate, state)


def run_until_stopped(settings: Settings, folder: Path, workers: int) -> None:
    """Run with every training run held until SIGTERM comes; write the message to a file `said` beside the run."""
    os.environ["LTH_WORKERS"] = str(workers)
    runner.Checkpointer = partial(Held, every=float("inf"))
    try:
        runner.run(settings, folder, quiet=True)
    except runner.TimeLimit as error:
        folder.with_name("said").write_text(str(error))
        get_reusable_executor().shutdown()  # else a forked process waits until its idle workers time out
        sys.exit(error.exit_code)


def hold_the_lock(path: Path, held) -> None:
    """Take a lock, set the event `held`, and hold the lock until killed."""
    with locked(path):
        held.set()
        signal.pause()
