"""Notebook execution: the kernel that papermill starts stops when `lth` is asked to, and ends when `lth` does."""

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


def ending_with_this_process() -> list[str]:
    """Arguments for a kernel that ends when this process does, be it killed.

    ipykernel looks for its parent too, but not if that died while the kernel was starting. It says nothing of its own:
    that it was interrupted would be an error on stderr, beside the one line of `lth`.
    """
    quiet = f"--IPKernelApp.log_level={logging.CRITICAL}"
    return [
        quiet,
        f"--IPKernelApp.exec_lines=__import__('lthcore.training.orphans').training.orphans.end_with({os.getpid()})",
    ]


@contextmanager
def passing_on_signals() -> Iterator[type]:
    """Pass SIGTERM and Ctrl-C on to the kernels of the class that is yielded: a run in one saves and stops.

    A kernel that does anything else ends. Raises TimeLimit or KeyboardInterrupt then, whatever became of the notebook.
    Only the main thread can listen; others do without.
    """
    from jupyter_client import AsyncKernelManager

    asked: list[int] = []
    kernels: list[AsyncKernelManager] = []

    class Kernel(AsyncKernelManager):
        def __init__(self, **options) -> None:
            super().__init__(**options)
            kernels.append(self)

    def pass_on(number: int, _: object) -> None:
        asked.append(number)
        logging.getLogger("papermill").setLevel(logging.CRITICAL)  # that a kernel died is no news then
        running = [kernel for kernel in kernels if kernel.has_kernel]
        if not running:
            _stop(number)
        for kernel in running:
            kernel.provisioner.process.terminate()  # also for Ctrl-C, which a kernel ignores between two cells

    main = threading.current_thread() is threading.main_thread()
    before = {n: signal.signal(n, pass_on) for n in (signal.SIGTERM, signal.SIGINT)} if main else {}
    try:
        yield Kernel
    except Exception:
        if not asked:
            raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if asked:
        _stop(asked[0])


def _stop(number: int) -> None:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    from lthcore.errors import TimeLimit  # slow to import, and only this needs it

    raise TimeLimit("asked to stop while the notebook was executed; the same command goes on")
