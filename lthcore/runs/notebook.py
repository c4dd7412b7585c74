"""Control of notebook kernels started by papermill: they receive the signals sent to `lth`, and end when it ends."""

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


def unwatched() -> list[str]:
    """Return arguments for a kernel that nobody watches: it shows no progress, and ends when this process ends.

    It ends even if this process is killed. ipykernel also watches its parent process, but not if the parent died while
    the kernel was starting. The log level keeps the kernel quiet: when interrupted, it would print an error to stderr
    in addition to the one line of `lth`.
    """
    plain = "__import__('os').environ.update(LTH_PLAIN='summary')"
    ending = f"__import__('lthcore.training.orphans').training.orphans.end_with({os.getpid()})"
    return [f"--IPKernelApp.log_level={logging.CRITICAL}", f"--IPKernelApp.exec_lines={plain}; {ending}"]


@contextmanager
def passing_on_signals() -> Iterator[type]:
    """Yield a kernel class; on SIGTERM or Ctrl-C, send SIGTERM to its kernels.

    A run in progress in a kernel saves its state and stops; a kernel that does anything else ends. Afterwards TimeLimit
    (after SIGTERM) or KeyboardInterrupt is raised, whether or not the notebook failed. Only the main thread can handle
    signals; in other threads they are not passed on.
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
        logging.getLogger("papermill").setLevel(logging.CRITICAL)  # it would report that the kernel died
        running = [kernel for kernel in kernels if kernel.has_kernel]
        if not running:
            _stop(number)
        for kernel in running:
            kernel.provisioner.process.terminate()  # SIGTERM also for Ctrl-C: kernels ignore SIGINT between cells

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
    from lthcore.errors import TimeLimit  # slow to import, and only needed here

    raise TimeLimit("asked to stop while the notebook was executed; run the same command again to resume")
