"""Progress of a run: a bar in a terminal or notebook, printed lines elsewhere.

Both show the round, the percentage of weights remaining, the accuracy, the iterations per second and the time left.
Training runs report their iteration from their own processes, by datagrams to a port of this machine. A lost datagram
does no harm, since the next one has the current iteration. Senders do not wait for an answer.
"""

import json
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self

from tqdm.auto import tqdm

from lthcore.recipe import Recipe
from lthcore.runs.plan import duration
from lthcore.training.state import Replicate, TrainState

SAID_EVERY = 0.2  # minimum seconds between two reports of a training run
CLOSING = 10.0  # maximum seconds that the end of a run waits for reports that are on their way
LINE_EVERY = 60.0  # minimum seconds between lines within a round, if there is no bar
HERE = "127.0.0.1"


@dataclass
class Report:
    """Callback that reports the progress of training runs. Called after every evaluation in the training process."""

    port: int
    token: str
    said: dict[Replicate, float] = field(default_factory=dict)

    def __call__(self, replicate: Replicate, state: TrainState) -> None:
        """Send the iteration of a training run, unless its last report was less than SAID_EVERY seconds ago."""
        now = time.monotonic()
        if now - self.said.get(replicate, float("-inf")) < SAID_EVERY:
            return
        self.said[replicate] = now
        last = state.curve[-1] if state.curve else None
        percent, accuracy = (last.percent_left, last.test_accuracy) if last else (None, None)
        with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
            message = [self.token, list(replicate), state.iteration, percent, accuracy]
            line.sendto(json.dumps(message).encode(), (HERE, self.port))


class RunProgress:
    """Context manager that tracks the training runs of an experiment and shows their progress."""

    def __init__(self, settings: Recipe, missing: Iterable[Replicate], rounds: int, quiet: bool = False) -> None:
        """Track the `missing` training runs of an experiment with this many `rounds`; `quiet` suppresses all output."""
        self.iterations, self.missing, self.rounds, self.quiet = settings.iterations, set(missing), rounds, quiet
        watched = sys.stderr.isatty() or "ipykernel" in sys.modules
        self.plain = quiet or bool(os.environ.get("LTH_PLAIN")) or not watched
        self.total, self.taken = self.iterations * len(self.missing), 0  # steps
        self.at: dict[Replicate, int] = {}
        self.over: set[Replicate] = set()
        self.began = self.printed = time.perf_counter()
        self.lock = threading.RLock()
        self.bar = tqdm(total=self.total, desc=settings.key, unit="it", disable=self.plain)
        self.report: Report | None = None

    def __enter__(self) -> Self:
        """Start to receive reports."""
        if not self.quiet:
            with suppress(OSError):  # without a network device, only finished training runs are seen
                self.line = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                self.line.bind((HERE, 0))
                self.report = Report(self.line.getsockname()[1], secrets.token_hex(8))
                self.listener = threading.Thread(target=self._listen, daemon=True)
                self.listener.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop receiving reports and close the bar."""
        if self.report is not None:
            with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
                line.sendto(json.dumps([self.report.token]).encode(), (HERE, self.report.port))
                self.listener.join(timeout=CLOSING)
            self.line.close()
        self.bar.close()

    def ended(self, replicate: Replicate, percent: float, accuracy: float) -> None:
        """Record that a training run has ended, with its percentage of weights remaining and its test accuracy."""
        with self.lock:
            self._is_at(replicate, self.iterations, percent, accuracy, ended=True)
            self.over.add(replicate)

    def round_line(self, k: int, percent: float, arm: str, accuracy: float) -> str:
        """Return the line of a round: `round  3/20:  51.3% of weights remaining, ticket test accuracy 98.10%, ...`.

        In an experiment without rounds, the line begins with the number of iterations left.
        """
        place = f"round {k:2}/{self.rounds}" if self.rounds else f"{self.total - self.taken:,} iterations to go"
        return f"{place}: {percent:5.1f}% of weights remaining, {arm} test accuracy {accuracy:.2%}{self._pace()}"

    def _pace(self) -> str:
        seconds = time.perf_counter() - self.began
        if not self.taken or seconds <= 0:
            return ""
        rate = self.taken / seconds
        return (
            f", {rate:{',.0f' if rate >= 10 else '.2g'}} it/s, {duration(max(0, self.total - self.taken) / rate)} left"
        )

    def _listen(self) -> None:
        """Receive reports of training runs until `__exit__` sends the closing message."""
        while True:
            try:
                token, *told = json.loads(self.line.recv(1000))
            except OSError:
                return
            except (ValueError, TypeError):  # not a message of a training run
                continue
            if token != self.report.token:
                continue
            if not told:
                return
            replicate, iteration, percent, accuracy = told
            with self.lock:
                self._is_at(Replicate(*replicate), iteration, percent, accuracy)

    def _is_at(
        self, replicate: Replicate, iteration: int, percent: float | None, accuracy: float | None, ended: bool = False
    ) -> None:
        if replicate in self.over:
            return
        if not self.at:  # the pace excludes loading data and starting processes
            self.began = time.perf_counter()
        before = self.at.get(replicate)
        if before is None and replicate not in self.missing:  # trained again for its weights
            self.total += self.iterations
        if before is None and not ended:  # first report: earlier iterations are not trained by this command
            self.total -= iteration
            before = iteration
        self.at[replicate] = iteration
        steps = max(0, iteration - (before or 0))
        self.taken += steps
        self._show(steps, replicate, percent, accuracy, ended)

    def _show(
        self, steps: int, replicate: Replicate, percent: float | None, accuracy: float | None, ended: bool
    ) -> None:
        if percent is None or accuracy is None:
            return
        if not self.plain:
            self.bar.total = self.total
            place = f"round {replicate.round}/{self.rounds}: " if self.rounds else ""  # else the bar is enough
            at = f"{place}{percent:.1f}% of weights remaining, {replicate.arm} {accuracy:.2%}"
            self.bar.set_postfix_str(at, refresh=False)
            self.bar.update(steps)
        elif not (self.quiet or ended) and time.perf_counter() - self.printed > LINE_EVERY:
            self.printed = time.perf_counter()
            print(self.round_line(replicate.round, percent, replicate.arm, accuracy), flush=True)
