"""`python -m lthcore` is the command `lth`."""

import os
import signal
from types import FrameType


def main() -> None:
    """Run the command line. Ctrl-C is one line and exit status 130, also while modules are still being imported."""
    signal.signal(signal.SIGINT, _interrupted)
    from lthcore.cli import main as run

    run()


def _interrupted(_: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt; within an import, end at once: an exception there can leave a module half made.

    What was done is kept then too, since files are written whole.
    """
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            os.write(2, b"lth: interrupted; the same command goes on where this one was\n")
            os._exit(130)
        frame = frame.f_back
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
