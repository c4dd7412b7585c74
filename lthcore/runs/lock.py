"""Lock of a results folder, so that one process at a time works in it, and clean stopping on SIGTERM."""

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TextIO

from lthcore.errors import LabError

try:
    import fcntl
except ImportError:  # the module does not exist on Windows
    fcntl = None

LOCK = "checkpoints/lock.json"  # file in a run's folder that is locked while a process works there
PATIENCE = 0.5  # seconds in which a lock is asked for again: `holder` has it for an instant, to see whether it is free


@contextmanager
def locked(path: Path, wait: bool = False) -> Iterator[None]:
    """Hold a lock on the file `path` within the context.

    If another process holds the lock, raises LabError naming that process, or waits for it if `wait` is true. Where
    locks are not supported, continues without one. The system releases the lock when the process ends for any reason,
    so that no stale lock remains. The file is not removed: a process that had just opened it would then lock a file
    that no other process can see.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        if fcntl:
            try:
                _lock_soon(file)
            except BlockingIOError:
                if not wait:
                    raise LabError(
                        f"results: {path.parents[1]} is in use by {_owner(path)}; wait for it, or stop it"
                    ) from None
                print(f"note: waiting for {_owner(path)}, which uses {path.parents[1]}", file=sys.stderr)
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:  # some network file systems do not support locks
                note = f"note: no locks here ({error.strerror}): do not run an experiment twice at once"
                print(note, file=sys.stderr)
        file.truncate(0)
        json.dump({"process": os.getpid(), "host": socket.gethostname(), "since": time.time()}, file)
        file.flush()
        yield


def _lock_soon(file: TextIO) -> None:
    """Lock an open file. Raises BlockingIOError if another process holds its lock for longer than PATIENCE."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise
            time.sleep(PATIENCE / 50)
        else:
            return


def holder(path: Path) -> str | None:
    """Return which process holds the lock on the file `path`, in words; None if no process does, or none can tell."""
    if fcntl is None or not path.exists():
        return None
    with path.open(encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _owner(path)
        except OSError:
            return None
    return None


def _owner(path: Path) -> str:
    """Return in words which process last held the lock on the file `path`."""
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
        age = timedelta(seconds=round(time.time() - owner["since"]))
        return f"process {owner['process']} on {owner['host']}, for {age}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


@contextmanager
def stopped_by_sigterm(stop: Path) -> Iterator[threading.Event]:
    """On SIGTERM, create the file `stop`: trainings check for it at each evaluation, save their state and end cleanly.

    Clusters send SIGTERM before they kill a process. The yielded event is set once the signal has arrived. Only the
    main thread can handle signals; in other threads this does nothing but remove an old file `stop`.
    """
    asked = threading.Event()
    stop.unlink(missing_ok=True)
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def ask(*_: object) -> None:
        asked.set()
        stop.touch()

    before = signal.signal(signal.SIGTERM, ask)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)
        stop.unlink(missing_ok=True)
