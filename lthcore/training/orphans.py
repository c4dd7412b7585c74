"""Orphaned worker processes: end workers whose parent has ended, and remove files left by killed processes.

A process that is killed outright (by kill -9, or by the system when memory runs out) cannot notify its workers. They
would continue to train beside a restarted run.
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

EVERY = 0.2  # seconds between a worker's checks that its parent is alive
SHARED_MEMORY = Path("/dev/shm")
# Names of the array copies and semaphores that joblib shares with its workers. They contain the ID of their creator.
NAMES = re.compile(r"(?:joblib_memmapping_folder_|sem\.loky-)(\d{1,9})[_-].*")


def end_with(parent: int) -> None:
    """End this worker process soon after process `parent`, for which it works, has ended for any reason.

    Starts a thread that checks for this, and returns.
    """

    def watch() -> None:
        while True:
            end_if_orphan(parent)
            time.sleep(EVERY)

    threading.Thread(target=watch, name="parent watch", daemon=True).start()


def end_if_orphan(parent: int) -> None:
    """End this worker process at once if process `parent`, for which it works, has ended."""
    if not _is_alive(parent):
        os._exit(1)


def temporary_folder() -> Path:
    """Return the folder where joblib puts copies of arrays if it does not use shared memory."""
    return Path(os.environ.get("JOBLIB_TEMP_FOLDER") or tempfile.gettempdir())


def remove_leftovers() -> None:
    """Remove files that killed processes of this user have left in shared memory and in the temporary folder.

    These are the semaphores and array copies that joblib shares with its workers: gigabytes that only a restart of the
    machine would free otherwise. Files of running processes are kept, and so is all that lies in JOBLIB_TEMP_FOLDER:
    other machines may share it, whose processes have the same numbers. Does nothing on systems other than POSIX.
    """
    if os.name != "posix":
        return
    shared = {Path(folder) for folder in (os.environ.get("JOBLIB_TEMP_FOLDER"),) if folder}
    for folder in {SHARED_MEMORY, Path(tempfile.gettempdir())} - shared:
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
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE  # a zombie process has already ended
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:  # the process belongs to another user
        return True
