"""Status of a run: `lth list`, `lth show`, the figures and the runner agree on what is complete."""

import json
import os

import pandas as pd
import pytest

from lthcore.errors import LabError
from lthcore.report.finished_runs import runs_of
from lthcore.runs.estimate import seconds_left
from lthcore.runs.experiments import LONGEST, NAME, Experiment, changes, named
from lthcore.runs.files import read_record, read_tables
from lthcore.runs.folder import RunFolder
from lthcore.runs.lock import LOCK, locked
from lthcore.runs.plan import state_line
from lthcore.runs.runner import run
from lthcore.runs.saved_states import SavedStates
from lthcore.runs.status import changed_runs, status_of
from lthcore.settings import Settings
from lthcore.training.state import Replicate

SETTINGS = Settings(
    dataset="digits", architecture="mlp", validation=200, iterations=20, eval_every=10, arms=("ticket", "random"),
    random_draws=1, trials=2, rounds=2,
)  # fmt: skip


@pytest.fixture
def experiment(tmp_path, monkeypatch) -> Experiment:
    monkeypatch.setenv("LTH_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("LTH_WORKERS", "1")
    (tmp_path / "params/lab").mkdir(parents=True)
    (tmp_path / "notebooks").mkdir()
    values = SETTINGS.model_dump(mode="json")
    (tmp_path / "params/lab/a.yaml").write_text(json.dumps(values | {"profiles": {"smoke": {}, "cpu": {}}}))
    monkeypatch.chdir(tmp_path)
    return Experiment("lab", "a", "cpu", SETTINGS)


def agreed(experiment: Experiment, tmp_path) -> tuple[bool, bool, int]:
    """Return whether an experiment is complete, whether figures include it, and how many training runs are missing.

    Asserts that all parts of the package agree on this.
    """
    folder = tmp_path / "results" / experiment.name
    status = status_of(experiment)
    assert RunFolder(folder, experiment.settings).missing == status.missing
    assert state_line(experiment).startswith("done (") == (not status.missing)
    assert ("a" in runs_of(tmp_path / "results", "lab")) == status.is_drawn
    return not status.missing, status.is_drawn, len(status.missing)


def test_of_a_run_with_nothing_some_and_all_of_it_done(experiment, tmp_path):
    assert agreed(experiment, tmp_path) == (False, False, 2 * 5)
    folder = tmp_path / "results" / experiment.name
    run(SETTINGS.changed(rounds=1), folder, quiet=True)  # a part of the experiment, as a queue entry may ask for
    assert agreed(experiment, tmp_path) == (False, True, 2 * 2)
    assert "6 of 10 trainings done, all that was asked for, the rest about" in state_line(experiment)
    run(SETTINGS, folder, quiet=True)
    assert agreed(experiment, tmp_path) == (True, True, 0)


def test_a_run_that_is_at_work_is_said_to_be(experiment, tmp_path):
    """A training run that has been begun has a checkpoint; what remains of it counts as a whole one."""
    folder = tmp_path / "results" / experiment.name
    run(SETTINGS.changed(rounds=0), folder, quiet=True)
    SavedStates(folder / "checkpoints", SETTINGS).path(Replicate("ticket", 0, 0, 1)).touch()
    stopped = state_line(experiment)
    assert stopped.startswith("2 of 10 trainings done, 1 begun, all that was asked for, the rest about ")
    assert stopped.endswith(" here")
    with locked(folder / LOCK):
        assert f"here; in use by process {os.getpid()} on " in state_line(experiment)
    assert state_line(experiment) == stopped


def test_of_a_run_with_other_settings_in_its_folder(experiment, tmp_path):
    """`lth run` refuses to train there, so that there is no time to estimate."""
    folder = tmp_path / "results" / experiment.name
    run(SETTINGS.changed(rounds=0, learning_rate=0.5), folder, quiet=True)
    other = read_record(folder)["run_key"]
    assert state_line(experiment).startswith(f"its folder holds another run ({other}); ")
    assert seconds_left(experiment) == 0.0 < seconds_left(experiment, force=True)
    with pytest.raises(LabError, match=r"holds run .* \(learning_rate 0.5 -> [\d.]+\)"):
        RunFolder(folder, SETTINGS)


def test_a_run_that_was_asked_for_more_once_and_has_all_of_its_params_file_is_done(experiment, tmp_path):
    folder = tmp_path / "results" / experiment.name
    run(SETTINGS, folder, quiet=True)
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(record | {"complete": False, "trainings_planned": 100}))
    assert agreed(experiment, tmp_path) == (True, True, 0)


@pytest.mark.parametrize("name", ["rounds.csv", "curves.csv"])
def test_a_run_without_one_of_its_tables_is_not_done_until_its_command_is_given_again(name, experiment, tmp_path):
    folder = tmp_path / "results" / experiment.name
    run(SETTINGS, folder, quiet=True)
    content = (folder / name).read_bytes()
    (folder / name).unlink()
    assert status_of(experiment).missing == RunFolder(folder, SETTINGS).missing != []
    with pytest.raises(LabError, match="has no tables yet"):
        read_tables(folder)
    run(SETTINGS, folder, quiet=True)  # from the tickets: with the same digest as before
    assert (folder / name).read_bytes() == content and agreed(experiment, tmp_path) == (True, True, 0)


def test_trainings_that_would_grow_from_one_that_diverged_are_not_missing(experiment, tmp_path):
    folder = tmp_path / "results" / experiment.name
    run(SETTINGS.changed(rounds=1), folder, quiet=True)
    rounds = pd.read_csv(folder / "rounds.csv")
    rounds["diverged"] = (rounds["arm"] == "ticket") & (rounds["round"] == 1) & (rounds["trial"] == 0)
    rounds.to_csv(folder / "rounds.csv", index=False)
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({k: v for k, v in record.items() if k != "digests"}))
    assert [r for r in status_of(experiment).missing if r.trial == 0] == []
    assert Replicate("random", 1, 0, 2) in status_of(experiment).missing


def test_a_folder_of_changed_settings_says_what_was_changed_in_letters_that_names_may_have():
    assert named({"batch_size": 32}) == "batch_size32"
    assert (
        named({"learning_rate": 2e-05, "arms": ["ticket", "by_snip-fresh"]})
        == "learning_rate2e-05-armsticket+by_snip-fresh"
    )
    assert named({"widths": [], "nesterov": True}) == "widthsnone-nesterovTrue"
    assert named({"dataset": "../\u00e9tc passwd"}) == "dataset..tcpasswd"
    many = named({f"setting_{i}": i for i in range(30)})
    assert many.endswith("..30_changes") and len(many) <= LONGEST
    assert all(NAME.fullmatch(f"a-{name}-01234567") for name in (many, named({"dataset": "../x"})))


def test_changed_runs_are_those_below_a_published_name_with_what_they_change(experiment, tmp_path):
    changed = SETTINGS.changed(learning_rate=1e-3, device="cpu")
    run(changed, tmp_path / "results/cpu/lab/a-learning_rate0.001-01234567", quiet=True)
    run(SETTINGS, tmp_path / "results/cpu/lab/other", quiet=True)  # it belongs to no params file
    [(found, values)] = changed_runs({experiment.name: experiment})
    assert values == changes(SETTINGS, changed) == {"learning_rate": 1e-3}
    assert found.settings == changed and not status_of(found).missing


def test_a_damaged_table_is_one_line(tmp_path):
    experiment = Experiment("study", "variant", "cpu", Settings())
    folder = tmp_path / experiment.name
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(f'{{"run_key": "{experiment.settings.key}"}}')
    assert status_of(experiment, tmp_path).done == set()
    (folder / "curves.csv").touch()
    (folder / "rounds.csv").write_text("<<<<<<< HEAD\n")
    with pytest.raises(LabError, match=r"rounds\.csv is damaged"):
        status_of(experiment, tmp_path)


def test_what_force_will_delete_is_neither_done_nor_begun(experiment, tmp_path):
    path = SavedStates(tmp_path / "results" / experiment.name / "checkpoints", SETTINGS).path(
        Replicate("ticket", 0, 0, 0)
    )
    path.parent.mkdir(parents=True)
    path.touch()
    assert ", 1 begun" in state_line(experiment) and "begun" not in state_line(experiment, force=True)
