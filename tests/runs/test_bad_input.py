"""Bad input: damaged or foreign tickets, checkpoints and settings lead to errors of one line."""

import itertools
import shutil
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import hypothesis
import pandas as pd
import pytest
import torch
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from lthcore.errors import LabError
from lthcore.lottery.start import begin
from lthcore.models.build import build
from lthcore.models.weights import initial_weights
from lthcore.runs import checkpoints
from lthcore.runs.checkpoints import load_state, load_ticket_file, save_state
from lthcore.runs.executor import Checkpointer
from lthcore.runs.runner import run
from lthcore.settings import Settings
from lthcore.training.state import Evaluation, Replicate

RUN = Settings(
    dataset="digits", architecture="mlp", validation=200, iterations=40, eval_every=20, learning_rate=5e-3,
    arms=["ticket"], trials=1, rounds=1,
)  # fmt: skip
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("results") / "run"
    run(RUN, folder, quiet=True)
    return folder


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


@hypothesis.given(st.dictionaries(st.sampled_from(sorted(Settings.model_fields)), VALUES, max_size=4))
def test_settings_of_any_content_are_settings_or_one_line_that_names_a_key(values):
    try:
        Settings(**values)
    except LabError as error:
        assert "\n" not in str(error) and any(key in str(error) for key in Settings.model_fields)


def tampered(path: Path, change) -> None:
    """Apply `change(name, tensor)` to each tensor of a ticket file, and renew the digest of the file."""
    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    tensors = {key: change(key, tensor).contiguous() for key, tensor in tensors.items()}
    save_file(tensors, path, metadata | {"digest": checkpoints._digest(metadata, tensors.items())})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda key, t: torch.full_like(t, float("nan")) if t.is_floating_point() else t, "are not numbers"),
        (lambda key, t: ~t if t.dtype == torch.bool else 0 * t, "a mask that is not what pruning its"),
        (lambda key, t: torch.cat([t, t], dim=1) if "fc1." in key else t, "is of another network"),
        (lambda key, t: t[:, :5] if key.startswith("mask/fc1") else t, "mask does not fit"),
    ],
)
def test_a_ticket_that_this_run_cannot_have_made_is_one_line_that_names_it(change, said, copied):
    path = copied / "tickets" / "ticket-trial0-draw0-round01.safetensors"
    tampered(path, change)
    with pytest.raises(LabError, match=said) as caught:
        run(RUN.changed(rounds=RUN.rounds + 1), copied, quiet=True)
    assert "\n" not in str(caught.value)


def test_a_ticket_of_a_newer_format_is_refused_by_name(copied):
    path = copied / "tickets" / "ticket-trial0-draw0-round01.safetensors"
    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    save_file(tensors, path, metadata | {"format": "3"})
    with pytest.raises(LabError, match=r"round01.safetensors: not a ticket of format 2 \(found '3'\)"):
        load_ticket_file(path)


@hypothesis.given(st.binary(max_size=400), st.integers(0, 10_000))
def test_no_content_of_a_ticket_file_is_more_than_one_line(content, where):
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "ticket.safetensors"
        state = begin(RUN, 0, 0, initial_weights(build(RUN, (1, 8, 8), 10), RUN, 0))
        save_state(path, RUN, Replicate("ticket", 0, 0, 0), state)
        whole = path.read_bytes()
        at = where % len(whole)
        path.write_bytes(whole[:at] + content)
        with pytest.raises(LabError) as caught:
            load_state(path)
        assert "\n" not in str(caught.value) and "ticket.safetensors" in str(caught.value)


def test_a_clock_that_goes_backward_changes_nothing(finished, tmp_path, monkeypatch):
    clock = itertools.count(2e9, -3600)
    monkeypatch.setattr(time, "time", lambda: next(clock))
    rounds, _ = run(RUN, tmp_path / "run", quiet=True)
    monkeypatch.undo()
    assert rounds.drop(columns="seconds").equals(pd.read_csv(finished / "rounds.csv").drop(columns="seconds"))


def test_a_checkpoint_is_saved_every_20_seconds_and_holds_every_tensor_once(tmp_path, monkeypatch):
    """Saving must take little time, however often a training run is evaluated."""
    settings, key = Settings(), Replicate("ticket", 0, 0, 0)  # LeNet on MNIST
    state = begin(settings, 0, 0, initial_weights(build(settings, (1, 28, 28), 10), settings, 0))
    state.optimizer = {f"{n}/{slot}": w.clone() for n, w in state.weights.items() for slot in ("exp_avg", "exp_avg_sq")}
    state.curve = [Evaluation(0, *(0.0,) * 5)]
    sizes = []

    def save_and_weigh(path, *rest) -> None:
        save_state(path, *rest)
        sizes.append(path.stat().st_size)

    monkeypatch.setattr("lthcore.runs.executor.save_state", save_and_weigh)
    monkeypatch.setattr(
        "lthcore.runs.executor.time", SimpleNamespace(monotonic=itertools.count().__next__)
    )  # the clock advances by 1 s per reading
    keep = Checkpointer(tmp_path / "checkpoints", settings)
    assert all(keep(key, state) for _ in range(101))
    assert len(sizes) == 5
    groups = (state.mask, state.start, state.weights, state.optimizer)
    tensors = sum(t.numel() * t.element_size() for group in groups for t in group.values())
    assert tensors < sizes[-1] < tensors + 10_000  # the rest is the settings and the curve


def test_a_ticket_of_another_training_of_the_same_run_is_refused(tmp_path):
    settings = RUN.changed(trials=2, arms=["ticket", "reinit"], reinit_draws=1)
    run(settings, tmp_path, quiet=True)
    for name in ("rounds.csv", "curves.csv"):
        (tmp_path / name).unlink()
    ours = tmp_path / "tickets" / "reinit-trial1-draw0-round01.safetensors"
    shutil.copy(tmp_path / "tickets" / "reinit-trial0-draw0-round01.safetensors", ours)
    with pytest.raises(LabError, match=r"reinit-trial1.* is of another training \(reinit-trial0"):
        run(settings, tmp_path, quiet=True)


@pytest.mark.parametrize("key", ["run_key", "settings"])
def test_a_ticket_that_does_not_say_what_it_is_of_is_one_line(key, copied):
    path = copied / "tickets" / "ticket-trial0-draw0-round01.safetensors"
    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, path, {name: value for name, value in metadata.items() if name != key})
    with pytest.raises(LabError, match="delete it and run its command again"):
        load_ticket_file(path)


def test_where_files_cannot_be_locked_a_run_goes_on_with_a_note(tmp_path, monkeypatch, capsys):
    def no_locks(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", no_locks)
    assert len(run(RUN, tmp_path, quiet=True)[0]) == 2
    assert "no locks here" in capsys.readouterr().err


def test_a_gpu_without_room_is_one_line(tmp_path, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("lthcore.runs.executor.train_cohort", full)
    with pytest.raises(LabError, match="memory does not hold this; lower batch_size, or use device cpu"):
        run(RUN, tmp_path, quiet=True)
