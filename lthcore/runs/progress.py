"""Run progress: what a run shows as it goes. In a terminal and a notebook a bar, in a pipe lines, which say the same:
round, % of weights remaining, accuracy, iterations a second, and the time that is left.

Trainings tell how far they are from the processes that they are in, by datagrams to a port of this machine: one that is
lost is made up for by the next, and nobody waits for an answer or looks whether there is one.
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

from lthcore.runs.plan import duration
from lthcore.settings import Recipe
from lthcore.training.state import Replicate, TrainState

SAID_EVERY = 0.2  # seconds between what a training says of itself
LINE_EVERY = 60.0  # seconds between lines within a round, where nobody watches a bar
HERE = "127.0.0.1"


@dataclass
class Report:
    """Called after every evaluation, in whatever process trains: says where the training is, now and then."""

    port: int
    token: str
    said: dict[Replicate, float] = field(default_factory=dict)

    def __call__(self, replicate: Replicate, state: TrainState) -> None:
        """Say where a training is."""
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
    """Where the trainings of a run are, and what is shown of it while they go. A context."""

    def __init__(self, settings: Recipe, missing: Iterable[Replicate], rounds: int, quiet: bool = False) -> None:
        """Of these trainings, none of which has begun; `quiet` shows nothing."""
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
        """Begin to listen."""
        if not self.quiet:
            with suppress(OSError):  # without a network device only trainings that end are seen
                self.line = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                self.line.bind((HERE, 0))
                self.report = Report(self.line.getsockname()[1], secrets.token_hex(8))
                self.listener = threading.Thread(target=self._listen, daemon=True)
                self.listener.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Show where it ended, and listen no more."""
        if self.report is not None:
            with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
                line.sendto(json.dumps([self.report.token]).encode(), (HERE, self.report.port))
                self.listener.join(timeout=1.0)
            self.line.close()
        self.bar.close()

    def ended(self, replicate: Replicate, percent: float, accuracy: float) -> None:
        """A training has ended, at this percentage of weights left and this test accuracy."""
        with self.lock:
            self._is_at(replicate, self.iterations, percent, accuracy, ended=True)
            self.over.add(replicate)

    def round_line(self, k: int, percent: float, arm: str, accuracy: float) -> str:
        """What is said of a round, as `round  3/20:  51.3% of weights remaining, ticket test accuracy 98.10%, ...`.

        Where there are no rounds, it says how many iterations are left instead.
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
        """Take what trainings say, until the run itself says that it has ended."""
        while True:
            try:
                token, *told = json.loads(self.line.recv(1000))
            except OSError:
                return
            except (ValueError, TypeError):  # not ours
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
        if not self.at:  # what comes before, loading data and starting processes, says nothing of the pace
            self.began = time.perf_counter()
        before = self.at.get(replicate)
        if before is None and replicate not in self.missing:  # done again, for its weights
            self.total += self.iterations
        if before is None and not ended:  # where it begins: what is behind it is not this run's work
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
            place = f"round {replicate.round}/{self.rounds}: " if self.rounds else ""  # the bar counts iterations
            at = f"{place}{percent:.1f}% of weights remaining, {replicate.arm} {accuracy:.2%}"
            self.bar.set_postfix_str(at, refresh=False)
            self.bar.update(steps)
        elif not (self.quiet or ended) and time.perf_counter() - self.printed > LINE_EVERY:
            self.printed = time.perf_counter()
            print(self.round_line(replicate.round, percent, replicate.arm, accuracy), flush=True)
