"""Lock: one process at a time works in a results folder, and can be asked to stop."""

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

from lthcore.errors import LabError

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None


@contextmanager
def locked(path: Path, wait: bool = False) -> Iterator[None]:
    """Hold the lock file `path`. Raises LabError naming the owner where another process holds it, unless told to wait.

    The system lets go of the lock when its process dies, however that happens: no stale lock is ever in the way. The
    file stays: were it removed, a process that had just opened it would hold a lock that nobody else sees.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        if fcntl:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not wait:
                    raise LabError(
                        f"results: {path.parents[1]} is in use by {_owner(path)}; wait for it, or stop it"
                    ) from None
                print(f"note: waiting for {_owner(path)}, which uses {path.parents[1]}", file=sys.stderr)
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:  # some network file systems
                note = f"note: no locks here ({error.strerror}): do not run an experiment twice at once"
                print(note, file=sys.stderr)
        file.truncate(0)
        json.dump({"process": os.getpid(), "host": socket.gethostname(), "since": time.time()}, file)
        file.flush()
        yield


def _owner(path: Path) -> str:
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
        age = timedelta(seconds=round(time.time() - owner["since"]))
        return f"process {owner['process']} on {owner['host']}, since {age}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


@contextmanager
def stopped_by_sigterm(stop: Path) -> Iterator[threading.Event]:
    """Turn SIGTERM into the file `stop`, which trainings look for at each evaluation: they save and end cleanly.

    That is what a cluster sends before it kills. The event says whether it came. Only the main thread can listen;
    others do without.
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
