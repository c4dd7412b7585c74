"""Orphans: worker processes end when the process that started them does, and what it left is removed by the next run.

A process that is killed outright (kill -9, or the system that is out of memory) can tell its workers nothing, and they
would train on beside a run begun anew.
"""

import os
import re
import shutil
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil

EVERY = 0.2  # seconds between a worker's looks at its parent
SHARED_MEMORY = Path("/dev/shm")
# What joblib shares with its workers, named after the process that made it: copies of arrays, and semaphores.
NAMES = re.compile(r"(?:joblib_memmapping_folder_|sem\.loky-)(\d{1,9})[_-].*")


def end_with(parent: int) -> None:
    """Let this worker process end soon after process `parent`, which it works for, however that ended."""

    def watch() -> None:
        while True:
            end_if_orphan(parent)
            time.sleep(EVERY)

    threading.Thread(target=watch, name="parent watch", daemon=True).start()


def end_if_orphan(parent: int) -> None:
    """End this worker process at once if process `parent`, which it works for, has ended."""
    if not _is_alive(parent):
        os._exit(1)


def temporary_folder() -> Path:
    """Where joblib puts copies of arrays if not into shared memory."""
    return Path(os.environ.get("JOBLIB_TEMP_FOLDER") or tempfile.gettempdir())


def remove_leftovers() -> None:
    """Remove what processes of this user that were killed have left in shared memory and among the temporary files.

    The semaphores and copies of arrays that joblib shares with its workers: gigabytes, that only a restart of the
    machine would free otherwise. What belongs to a process that still runs stays.
    """
    if os.name != "posix":
        return
    for folder in {SHARED_MEMORY, temporary_folder()}:
        for path in folder.glob("*"):
            found = NAMES.fullmatch(path.name)
            if found and _is_mine(path) and not _is_alive(int(found[1])):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    with suppress(OSError):
                        path.unlink()


def _is_mine(path: Path) -> bool:
    try:
        return path.lstat().st_uid == os.getuid()
    except FileNotFoundError:  # its owner has just removed it
        return False


def _is_alive(process: int) -> bool:
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE  # dead, and nobody has asked how it ended
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:  # it is another user's
        return True
