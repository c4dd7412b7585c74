"""The command line: `lth` = `python -m lthcore`."""

import argparse
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any, TextIO

from lthcore.commands.parser import parser_of_commands
from lthcore.errors import LabError, one_line, unexpected


def main(arguments: list[str] | None = None) -> None:
    """Run one command and exit. An error prints one line on stderr; `--debug` adds the traceback."""
    before = signal.signal(signal.SIGTERM, _asked_to_stop)  # a run in progress has its own handler, which saves first
    debug, code, options = bool(os.environ.get("LTH_DEBUG")), 0, argparse.Namespace()
    for name in filter(os.environ.get, ("LTH_RESULTS", "LTH_DATA")):  # notebooks run in a folder of their own
        os.environ[name] = str(Path(os.environ[name]).absolute())
    try:
        options = parser_of_commands().parse_args(arguments)
        debug = debug or options.debug
        _load_plugins(options.plugin)
        module, _, function = options.command.partition(".")
        command = getattr(import_module(f"lthcore.commands.{module}"), function)
        with _unheard(options.command):
            command(options)
            sys.stdout.flush()
    except (Exception, KeyboardInterrupt) as error:
        again = "run the same command again" + " without --force" * getattr(options, "force", False)
        line, code = _explained(error, again)
        with redirect_stderr(_Unheard(sys.stderr)):
            if debug:
                traceback.print_exc()
            print(one_line(line), file=sys.stderr)
    finally:
        signal.signal(signal.SIGTERM, before)
        try:
            sys.stdout.flush()
        except OSError:  # already reported; a second failure at exit would print a traceback
            _to_nowhere(sys.stdout)
    sys.exit(code)


def _explained(error: BaseException, again: str) -> tuple[str, int]:
    """Return the message for an error that ends a command, and the exit status; `again` says how to resume it."""
    if isinstance(error, LabError):
        return f"lth: {error}", error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return f"lth: interrupted; {again} to resume", 130
    if isinstance(error, OSError):  # e.g. a full disk or a folder without write permission
        return f"lth: {error}; what was done is kept: mend that, and give the same command again", 2
    return f"lth: {unexpected(error)}; --debug shows where, and what was done is kept", 70  # EX_SOFTWARE


class _Unheard:
    """Wrapper of standard output or error that discards all further output once its reader has closed the pipe."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write `text`, or discard it if the pipe is closed; return its length."""
        try:
            return self.stream.write(text)
        except BrokenPipeError:
            _to_nowhere(self.stream)
            return len(text)

    def flush(self) -> None:
        """Flush the stream, or discard its buffer if the pipe is closed."""
        try:
            self.stream.flush()
        except BrokenPipeError:
            _to_nowhere(self.stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def _unheard(command: str) -> Iterator[None]:
    """Let a closed pipe (`lth list | head`) quietly end a command that only prints. Other commands continue."""
    if command in ("listing.list_command", "settings.settings_command", "show.show_command"):
        try:
            yield
        except BrokenPipeError:
            _to_nowhere(sys.stdout)
        return
    with redirect_stdout(_Unheard(sys.stdout)), redirect_stderr(_Unheard(sys.stderr)):
        yield


def _to_nowhere(stream: TextIO) -> None:
    """Redirect a stream with a closed pipe to the null device, so that flushing its buffer at exit is no error."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _load_plugins(files: list[str]) -> None:
    """Load the user's plugins here, and name them in LTH_PLUGINS for notebooks and worker processes."""
    from lthcore.plugins import NAMED, load_plugins  # slow to import, and `lth --help` needs neither

    if files:
        named = [os.environ[NAMED]] if os.environ.get(NAMED) else []
        os.environ[NAMED] = os.pathsep.join([*named, *(str(Path(file).resolve()) for file in files)])
    load_plugins()


def _asked_to_stop(*_: object) -> None:
    """Handle SIGTERM while no run is in progress: there is nothing to save."""
    print("lth: asked to stop; run the same command again to resume", file=sys.stderr)
    sys.exit(75)
