"""Sittings: runs in processes of their own, which a test holds, asks to stop and kills at points that it chooses.

They are forked from one process that has imported PyTorch already: the import takes longer than such a run.
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

PATIENCE = 600  # seconds after which a process that does not get on is taken to hang: a busy machine is slow
FORKING = multiprocessing.get_context("forkserver" if hasattr(os, "killpg") else "spawn")  # Windows runs none of this


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Return as soon as a condition holds. Raises AssertionError, which says `what`, where it does not in PATIENCE."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {PATIENCE} s"
        time.sleep(0.01)


@contextmanager
def sitting(work: Callable, *arguments) -> Iterator[multiprocessing.Process]:
    """`work(*arguments)` in a process group of its own, of which nothing is left at the end."""
    FORKING.set_forkserver_preload(["lthcore.runs.runner"])
    process = FORKING.Process(target=_in_a_group, args=(work, *arguments))
    process.start()
    try:
        yield process
    finally:
        if process.is_alive():
            os.killpg(process.pid, signal.SIGKILL)
        process.join()
        for pattern in ("sem.loky-{}-*", "joblib_memmapping_folder_{}_*"):  # joblib cannot tidy up when killed
            for path in Path("/dev/shm").glob(pattern.format(process.pid)):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def ended(process: multiprocessing.Process) -> int:
    """The exit status of a process, once it has ended."""
    process.join(PATIENCE)
    assert process.exitcode is not None, f"the process does not end within {PATIENCE} s"
    return process.exitcode


def _in_a_group(work: Callable, *arguments) -> None:
    os.setsid()
    work(*arguments)


def run_until_killed(settings: Settings, folder: Path, workers: int, files: int) -> None:
    """Run, saving a checkpoint at every evaluation, until the main process is about to put its n-th file in place."""
    left = itertools.count(files, -1)

    def kill(event: str, _: tuple) -> None:
        if event == "os.rename" and next(left) == 1:
            os.killpg(0, signal.SIGKILL)

    sys.addaudithook(kill)
    os.environ["LTH_WORKERS"] = str(workers)
    runner.Checkpointer = partial(Checkpointer, every=0.0)
    runner.run(settings, folder, quiet=True)


class Held(Checkpointer):
    """Holds a training at its first evaluation until the run is asked to stop; a file beside the run says that it is.

    Nothing is saved of it until then.
    """

    def __call__(self, replicate: Replicate, state: TrainState) -> bool:
        """As a Checkpointer."""
        go_on = super().__call__(replicate, state)
        if state.iteration == self.settings.eval_every:
            folder = self.folder.parent
            folder.with_name(f"{file_stem(replicate)}.held").touch()
            wait_for((folder / STOP).exists, "to be asked to stop")
        return go_on


class Fatal(Checkpointer):
    """Kills the worker that it is called in, once, when a training has come to its second evaluation."""

    def __call__(self, replicate: Replicate, state: TrainState) -> bool:
        """As a Checkpointer."""
        killed = self.folder / "killed"
        if state.iteration == self.settings.eval_every and not killed.exists():
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(replicate, state)


def run_until_stopped(settings: Settings, folder: Path, workers: int) -> None:
    """Run with every training held until SIGTERM comes. The message goes into a file beside the run."""
    os.environ["LTH_WORKERS"] = str(workers)
    runner.Checkpointer = partial(Held, every=float("inf"))
    try:
        runner.run(settings, folder, quiet=True)
    except runner.TimeLimit as error:
        folder.with_name("said").write_text(str(error))
        get_reusable_executor().shutdown()  # else a forked process waits for its workers to tire of waiting
        sys.exit(error.exit_code)


def hold_the_lock(path: Path, held) -> None:
    """Hold a lock file until killed, and set the event `held` then."""
    with locked(path):
        held.set()
        signal.pause()
