"""Entry point of the command `lth`, also available as `python -m lthcore`."""

import os
import signal
from types import FrameType


def main() -> None:
    """Run the command line. Ctrl-C prints one line and exits with status 130, even while modules are being imported."""
    signal.signal(signal.SIGINT, _interrupted)
    from lthcore.cli import main as run

    run()


def _interrupted(_: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, or exit at once during an import, where an exception could leave a module half loaded.

    Results are kept in both cases, since a file is only replaced once its new content is complete.
    """
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            os.write(2, b"lth: interrupted; run the same command again to resume\n")
            os._exit(130)
        frame = frame.f_back
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
