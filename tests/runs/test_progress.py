"""Progress of a run: a bar in a terminal and lines in a pipe show the same values, also within a training run."""

import io
import re
import socket
import sys
import time
from types import SimpleNamespace

import pytest
import torch

from lthcore.runs import progress
from lthcore.runs.progress import Report, RunProgress
from lthcore.runs.runner import run
from lthcore.settings import DynamicSettings, Settings
from lthcore.training.state import Evaluation, Replicate, TrainState

SETTINGS = Settings(
    dataset="digits", architecture="mlp", validation=200, iterations=1000, eval_every=100, arms=("ticket",), trials=2,
    rounds=1,
)  # fmt: skip
FIRST, SECOND = Replicate("ticket", 0, 0, 0), Replicate("ticket", 1, 0, 0)
PACE = r"[\d.,]+ it/s, \d+ (s|min) left"


def at(iteration: int) -> TrainState:
    point = Evaluation(iteration, 0.5, 0.8, 0.5, 0.9, percent_left=51.3)
    return TrainState(iteration, {"w": torch.ones(1)}, {}, 0, curve=[point])


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def every_word(monkeypatch):
    """Report at every evaluation, with no minimum time between reports, and train in this process."""
    monkeypatch.setattr(progress, "SAID_EVERY", 0.0)
    monkeypatch.setenv("LTH_WORKERS", "1")


def told(progress: RunProgress, *words: tuple[Replicate, int]) -> None:
    """Report iterations of training runs in the given order, and wait until all reports are received."""
    with progress:
        for replicate, iteration in words:
            progress.report(replicate, at(iteration))


def test_a_summary_is_one_line_at_the_end(tmp_path, every_word, monkeypatch, capsys):
    monkeypatch.setenv("LTH_PLAIN", "summary")
    run(SETTINGS, tmp_path / "a")
    printed = capsys.readouterr()
    assert re.fullmatch(rf"{SETTINGS.key}: 4 trainings in \d+ s\n", printed.out) and not printed.err
    run(SETTINGS, tmp_path / "a")  # nothing is left to train
    run(SETTINGS, tmp_path / "b", quiet=True)
    assert capsys.readouterr().out == ""


def test_slow_trainings_without_rounds_say_how_far_they_are(every_word, monkeypatch):
    monkeypatch.setenv("LTH_PLAIN", "1")
    seconds = [0.0]
    monkeypatch.setattr(
        "lthcore.runs.progress.time", SimpleNamespace(perf_counter=lambda: seconds[0], monotonic=time.monotonic)
    )
    settings = DynamicSettings(dataset="digits", architecture="mlp", validation=200, iterations=1000, eval_every=100)
    replicate = Replicate("dynamic", 0, 0, 0)
    progress = RunProgress(settings, [replicate], 0)
    told(progress, (replicate, 0), (replicate, 100))
    seconds[0] = 200.0
    line = progress.round_line(0, 80.0, "dynamic", 0.5)
    assert re.fullmatch(
        r"900 iterations to go:  80\.0% of weights remaining, dynamic test accuracy 50\.00%, 0\.5 it/s, 30 min left",
        line,
    )


def test_a_bar_of_trainings_without_rounds_names_none(every_word, monkeypatch):
    monkeypatch.delenv("LTH_PLAIN", raising=False)
    screen, replicate = Terminal(), Replicate("dynamic", 0, 0, 0)
    monkeypatch.setattr(sys, "stderr", screen)
    settings = DynamicSettings(dataset="digits", architecture="mlp", validation=200, iterations=1000, eval_every=100)
    progress = RunProgress(settings, [replicate], 0)
    progress.bar.mininterval, progress.bar.ncols = 0, 150
    told(progress, (replicate, 0), (replicate, 100))
    assert (
        "100/1000" in screen.getvalue() and "dynamic 90.00%" in screen.getvalue() and "round" not in screen.getvalue()
    )


def test_steps_within_trainings_are_counted_and_those_before_a_checkpoint_are_not(every_word, monkeypatch):
    monkeypatch.setenv("LTH_PLAIN", "1")
    progress = RunProgress(SETTINGS, [FIRST, SECOND], 1)
    told(progress, (FIRST, 0), (SECOND, 600), (FIRST, 100), (SECOND, 700), (FIRST, 300))
    assert (progress.taken, progress.total) == (300 + 100, 1000 + 400)
    progress.ended(SECOND, 51.3, 0.9)
    progress.ended(FIRST, 51.3, 0.9)
    assert progress.taken == progress.total == 1400
    line = progress.round_line(1, 51.3, "ticket", 0.9)
    assert re.fullmatch(rf"round  1/1:  51\.3% of weights remaining, ticket test accuracy 90\.00%, {PACE}", line)


def test_a_training_that_is_done_again_is_work_too_and_one_too_short_to_say_anything_counts_whole(every_word):
    progress = RunProgress(SETTINGS, [FIRST], 1, quiet=True)
    progress.ended(FIRST, 100.0, 0.9)
    progress.ended(SECOND, 100.0, 0.9)
    assert progress.taken == progress.total == 2000


def test_what_others_send_to_the_port_is_not_heard_and_a_port_that_is_gone_stops_no_training(every_word, monkeypatch):
    monkeypatch.setenv("LTH_PLAIN", "1")
    progress = RunProgress(SETTINGS, [FIRST], 1)
    with progress:
        for words in (b"", b"{", b"[]", b"3", b'["guessed", ["ticket", 0, 0, 0], 900, 1.0, 0.5]', b'["guessed"]'):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
                line.sendto(words, ("127.0.0.1", progress.report.port))
        progress.report(FIRST, at(0))
        progress.report(FIRST, at(100))
    assert progress.taken == 100
    progress.report(FIRST, at(200))
    assert progress.taken == 100


def test_a_training_says_no_more_than_it_has_to(monkeypatch):
    sent = []

    class Line:
        def __init__(self, *_): ...
        def __enter__(self):
            return self

        def __exit__(self, *_): ...
        def sendto(self, message, _):
            sent.append(message)

    monkeypatch.setattr(progress.socket, "socket", Line)
    clock = iter([0.0, 0.1, 0.25])
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=clock.__next__))  # other threads keep their clock
    report = Report(1, "token")
    for iteration in (0, 100, 200):
        report(FIRST, at(iteration))
    assert [b" 0," in m or b" 200," in m for m in sent] == [True, True]


def test_a_bar_on_a_terminal_says_what_lines_say_and_moves_within_a_training(every_word, monkeypatch):
    monkeypatch.delenv("LTH_PLAIN", raising=False)
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    progress = RunProgress(SETTINGS, [FIRST, SECOND], 1)
    progress.bar.mininterval, progress.bar.ncols = 0, 150
    told(progress, (FIRST, 0), (FIRST, 100), (FIRST, 400))
    assert re.search(
        r"20%.* 400/2000 .*it/s, round 0/1: 51\.3% of weights remaining, ticket 90\.00%\]", screen.getvalue()
    )


def test_in_a_pipe_a_long_round_has_lines_of_its_own(every_word, monkeypatch, capsys):
    monkeypatch.setenv("LTH_PLAIN", "1")
    monkeypatch.setattr(progress, "LINE_EVERY", -1.0)
    told(RunProgress(SETTINGS, [FIRST], 1), (FIRST, 0), (FIRST, 100))
    assert re.search(
        rf"round  0/1:  51.3% of weights remaining, ticket test accuracy 90.00%, {PACE}", capsys.readouterr().out
    )


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_run_says_its_estimate_before_it_begins_and_then_each_round(workers, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LTH_PLAIN", "1")
    monkeypatch.setenv("LTH_WORKERS", workers)
    monkeypatch.setattr(progress, "SAID_EVERY", 0.0)
    settings = SETTINGS.changed(iterations=40, eval_every=20)
    run(settings, tmp_path)
    estimate, *rounds = capsys.readouterr().out.splitlines()
    assert re.fullmatch(rf"{settings.key}: 4 trainings, about \d+ s here", estimate)
    line = rf"round  {{}}/1: +[\d.]+% of weights remaining, ticket test accuracy [\d.]+%, {PACE}"
    assert len(rounds) == 2 and all(re.fullmatch(line.format(k), text) for k, text in enumerate(rounds))
    run(settings.changed(rounds=2), tmp_path, quiet=True)
    assert capsys.readouterr().out == ""
