"""Runs: their tables and tickets, and that a run stopped at any point ends with the numbers of an uninterrupted run."""

import copy
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import time
import weakref
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from safetensors import safe_open
from sittings import (
    FORKING,
    PATIENCE,
    Fatal,
    ended,
    hold_the_lock,
    run_until_killed,
    run_until_stopped,
    sitting,
    wait_for,
)

from lthcore import masks
from lthcore.analysis.ticket_tables import write_ticket_tables
from lthcore.arms import arm_of
from lthcore.costs import Costs
from lthcore.errors import LabError, TimeLimit
from lthcore.lottery import search
from lthcore.lottery.search import planned
from lthcore.paths import results_root
from lthcore.runs import executor, provenance, rows, runner, schemas
from lthcore.runs.checkpoints import file_stem, load_and_evaluate, load_state, load_ticket_file, save_state
from lthcore.runs.files import read_record, read_table, read_tables
from lthcore.runs.runner import run
from lthcore.settings import Settings
from lthcore.training.state import Evaluation, Replicate, TrainState

SMALL = Settings(
    dataset="digits", architecture="mlp", validation=200, iterations=60, eval_every=20, learning_rate=5e-3,
    arms=["ticket", "reinit", "random", "continued"], trials=2, reinit_draws=2, random_draws=1, rounds=2,
)  # fmt: skip
ROUNDS = (
    "arm,trial,draw,round,weights_left,percent_left,es_iteration,es_val_loss,es_val_accuracy,es_test_accuracy,"
    "es_train_accuracy,final_val_accuracy,final_test_accuracy,final_train_accuracy,iterations,seconds,"
    "read_1_test_accuracy,read_2_test_accuracy,read_3_test_accuracy,diverged,skipped,emptied,multiply_adds"
)
CURVES = "arm,trial,draw,round,percent_left,iteration,val_loss,val_accuracy,test_loss,test_accuracy"


@pytest.fixture(autouse=True, scope="module")
def one_worker():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LTH_WORKERS", "1")
        patch.setenv("LTH_PLAIN", "1")
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """Folder of a complete run of SMALL that was never interrupted. Tests must not write to it."""
    folder = tmp_path_factory.mktemp("results") / "smoke" / "notebook" / "variant"
    run(SMALL, folder, quiet=True)
    return folder


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    """Copy of the finished run, with its tickets, which a test may change."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def no_training(monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError("nothing was to be trained, and no data to be read")

    monkeypatch.setattr(executor, "train_cohort", fail)
    monkeypatch.setattr(executor, "load", fail)


def count_trainings(monkeypatch) -> list[Replicate]:
    """Return a list to which every replicate passed to `train_cohort` is added from now on."""
    seen, train_cohort = [], executor.train_cohort
    monkeypatch.setattr(
        executor,
        "train_cohort",
        lambda s, d, cohort, *a, **k: seen.extend(cohort) or train_cohort(s, d, cohort, *a, **k),
    )
    return seen


def tick(monkeypatch) -> None:
    """Replace the clock of the deadline by one that advances by a second per reading: stops are then deterministic."""
    clock = SimpleNamespace(monotonic=itertools.count().__next__, perf_counter=time.perf_counter)
    for room in (executor, runner):
        monkeypatch.setattr(room, "time", clock)


def stop_in_mid_training(settings: Settings, folder: Path, monkeypatch) -> Path:
    """Stop a run just after the dense network's second evaluation; return the checkpoint that is left."""
    with monkeypatch.context() as patch:
        tick(patch)
        with pytest.raises(TimeLimit):
            run(settings, folder, time_limit=3, quiet=True)
    [checkpoint] = folder.glob("checkpoints/*.safetensors")
    return checkpoint


def assert_same_tables(folder: Path, other: Path) -> None:
    """Assert that the tables of two runs are equal, except for the column `seconds`."""
    for mine, theirs in zip(read_tables(folder), read_tables(other), strict=True):
        pd.testing.assert_frame_equal(
            mine.drop(columns="seconds", errors="ignore"),
            theirs.drop(columns="seconds", errors="ignore"),
            check_exact=True,
        )


def assert_one_line_naming(path: Path, error: pytest.ExceptionInfo) -> None:
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_run_writes_its_tables_with_these_columns(finished):
    assert (finished / "rounds.csv").read_text().splitlines()[0] == ROUNDS
    assert (finished / "curves.csv").read_text().splitlines()[0] == CURVES
    rounds, curves = read_tables(finished)
    plan = planned(SMALL)
    assert [Replicate(*row) for row in rounds[schemas.REPLICATE].itertuples(index=False)] == plan
    assert len(curves) == 4 * len(plan)  # evaluations at 0, 20, 40 and 60
    assert rounds.drop(columns=[*schemas.READ, "emptied"]).notna().all().all()
    assert curves.notna().all().all()


def test_rows_of_the_rounds_sum_up_their_curves(finished):
    rounds, curves = read_tables(finished)
    for row in rounds.itertuples():
        curve = curves[(curves[schemas.REPLICATE] == [row.arm, row.trial, row.draw, row.round]).all(axis=1)]
        assert list(curve["iteration"]) == [0, 20, 40, 60]
        stop, last = curve.loc[curve["val_loss"].idxmin()], curve.iloc[-1]
        assert (row.es_iteration, row.es_val_loss) == (stop["iteration"], stop["val_loss"])
        assert (row.es_val_accuracy, row.es_test_accuracy) == (stop["val_accuracy"], stop["test_accuracy"])
        assert (row.final_val_accuracy, row.final_test_accuracy) == (last["val_accuracy"], last["test_accuracy"])
        assert row.iterations == 60
        assert set(curve["percent_left"]) == {row.percent_left}


def test_long_curves_are_thinned_and_keep_their_early_stop_and_end(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "WHOLE", 4)
    settings = SMALL.changed(arms=["ticket"], trials=1, rounds=0, eval_every=2)
    rounds, curves = run(settings, tmp_path / "run", quiet=True)
    assert set(curves["iteration"]) == {0, 2, 4, 6, 20, 40, 60} | set(rounds["es_iteration"])


def test_a_thinned_curve_keeps_the_early_stop_where_rounding_makes_a_tie():
    """The early stop may lie between the evaluations that are kept, and no other row of curves.csv shows it."""
    weights = {"fc1.weight": torch.ones(2, 3)}
    losses = dict.fromkeys(range(0, 610, 10), 1.0) | {330: 0.2000000002, 470: 0.2}
    curve = [Evaluation(i, loss, 0.5, 1.0, 0.5, 100.0) for i, loss in losses.items()]
    state = TrainState(600, weights, masks.full_mask(weights), seed=0, curve=curve)
    points = rows.curve_rows(Replicate("oneshot", 0, 0, 1), state)
    whole, tenths = set(range(0, 210, 10)), set(range(0, 700, 100))
    stop = state.early_stop_point.iteration
    assert {p["iteration"] for p in rows.thinned(points, 10, stop)} == whole | tenths | {470, 600}
    assert {p["iteration"] for p in rows.thinned(points[:-1], 10, None)} == whole | tenths - {600} | {590}


def test_multiply_adds_count_a_filter_at_every_pixel(tmp_path):
    settings = SMALL.changed(
        architecture="conv2", widths=(8, 8), arms=["ticket"], trials=1, rounds=1, prune_conv=0.5, prune_fc=0.0,
        prune_output=0.0, iterations=1, eval_every=1, engine="dense",
    )  # fmt: skip
    rounds, _ = run(settings, tmp_path / "run", quiet=True)
    filters, dense = 9 * 64 + 64 * 9 * 64, 16 * 64 * 8 + 8 * 8 + 8 * 10
    assert list(rounds["multiply_adds"]) == [64 * filters + dense, 64 * filters // 2 + dense]  # images of 8 x 8


@pytest.mark.parametrize("other", ["seed", "mask", "settings"])
def test_a_dead_workers_checkpoint_is_taken_for_the_same_training_only(other, tmp_path):
    """A checkpoint that another run or round has left would continue to the wrong weights."""
    weights = {"fc1.weight": torch.ones(2, 3)}
    state = TrainState(0, weights, masks.full_mask(weights), seed=1, start=weights)
    curve = [Evaluation(0, 1.0, 0.1, 1.0, 0.1, 100.0), Evaluation(20, 0.5, 0.8, 0.5, 0.8, 100.0)]
    half = replace(state, iteration=20, curve=curve)
    key, keeper = Replicate("ticket", 0, 0, 1), executor.Checkpointer(tmp_path, SMALL)
    assert keeper.latest(key, state) is state  # there is no checkpoint yet
    save_state(tmp_path / f"{file_stem(key)}.safetensors", SMALL, key, half)
    assert keeper.latest(key, state).iteration == 20
    smaller = {"fc1.weight": torch.tensor([[True, True, False], [True, True, True]])}
    asked = {"seed": replace(state, seed=2), "mask": replace(state, mask=smaller)}.get(other, state)
    if other == "settings":
        keeper = executor.Checkpointer(tmp_path, SMALL.changed(learning_rate=1e-3))
    assert keeper.latest(key, asked) is asked


def test_readings_are_the_test_accuracies_at_their_iterations(tmp_path):
    settings = SMALL.changed(arms=["ticket"], trials=1, rounds=0, read_at=[40, 20])
    rounds, curves = run(settings, tmp_path / "run", quiet=True)
    at = curves.set_index("iteration")["test_accuracy"]
    assert list(rounds.loc[0, schemas.READ[:2]]) == [at[40], at[20]]
    assert rounds[schemas.READ[2]].isna().all()


def test_tables_of_a_version_without_readings_are_read(copied, no_training):
    old = pd.read_csv(copied / "rounds.csv").drop(columns=schemas.READ)
    old.to_csv(copied / "rounds.csv", index=False)
    record = read_record(copied)
    del record["digests"]  # that version did not store digests either
    (copied / "run.json").write_text(json.dumps(record))
    rounds, _ = run(SMALL.changed(trials=1), copied)
    assert list(rounds.columns) == schemas.ROUNDS and rounds[schemas.READ].isna().all(axis=None)


@pytest.mark.parametrize("name", ["structure.csv", "distributions.csv"])
def test_a_deleted_table_of_the_structure_of_tickets_is_written_again(name, copied, no_training):
    write_ticket_tables(copied)
    content = (copied / name).read_bytes()
    (copied / name).unlink()
    write_ticket_tables(copied)
    assert (copied / name).read_bytes() == content


def test_dense_networks_that_are_trained_again_for_a_table_obey_the_time_limit(copied):
    shutil.rmtree(copied / "tickets")
    (copied / "structure.csv").unlink(missing_ok=True)
    with pytest.raises(TimeLimit, match=r"before the dense networks of .* were trained again"):
        write_ticket_tables(copied, time_limit=0)
    assert not (copied / "structure.csv").exists()
    write_ticket_tables(copied)
    assert (copied / "structure.csv").exists()


def test_structure_is_of_the_tickets(copied):
    write_ticket_tables(copied)
    structure = read_table(copied, "structure.csv")
    assert len(structure) == SMALL.trials * SMALL.rounds * 3
    for row in structure.itertuples():
        stem = file_stem(Replicate("ticket", row.trial, 0, row.round))
        mask = load_ticket_file(copied / "tickets" / f"{stem}.safetensors").mask[f"{row.layer}.weight"]
        assert row.density == pytest.approx(float(mask.float().mean()), abs=1e-6)


def test_record_says_what_was_run_on_what(finished):
    record = read_record(finished)
    assert (record["run_key"], record["complete"], record["n"], record["seed"]) == (SMALL.key, True, 2, 0)
    assert record["trainings_done"] == record["trainings_planned"] == len(planned(SMALL))
    assert (record["n_train"], record["n_validation"], record["n_test"]) == (1237, 200, 360)
    assert record.keys() >= {"data", "hardware", "versions", "commits", "finished", "wall_seconds"}
    assert Settings(**record["settings"]) == SMALL


def test_every_training_leaves_a_ticket_and_nothing_else_is_left_behind(finished):
    files = {str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file()}
    tickets = {f"tickets/{file_stem(replicate)}.safetensors" for replicate in planned(SMALL)}
    tables = {"run.json", "rounds.csv", "curves.csv", "lineage.safetensors.gz"}
    assert files == tickets | tables | {"checkpoints/lock.json"}


def test_second_call_trains_nothing_and_needs_no_data(copied, no_training):
    before = {path: path.stat().st_mtime_ns for path in copied.rglob("*")}
    rounds, curves = run(SMALL, copied)
    assert len(rounds) == len(planned(SMALL))
    assert len(curves) == 4 * len(rounds)
    assert {path: path.stat().st_mtime_ns for path in copied.rglob("*")} == before


def test_fresh_clone_of_a_finished_run_has_tables_but_no_tickets_and_is_complete(copied, no_training):
    shutil.rmtree(copied / "tickets")
    rounds, _ = run(SMALL, copied)
    pd.testing.assert_frame_equal(rounds, pd.read_csv(copied / "rounds.csv"))


@pytest.mark.parametrize("limit", [3, 7])
def test_run_stopped_by_the_time_limit_and_resumed_equals_uninterrupted(limit, finished, tmp_path, monkeypatch):
    tick(monkeypatch)
    stops = 0
    for _ in range(200):
        try:
            run(SMALL, tmp_path, time_limit=limit, quiet=True)
            break
        except TimeLimit as error:
            stops += 1
            record = read_record(tmp_path)
            assert not record["complete"]
            assert f"{record['trainings_done']} of {len(planned(SMALL))} trainings done" in str(error)
            assert error.exit_code == 75
    assert stops > 3
    assert read_record(tmp_path)["complete"]
    assert_same_tables(tmp_path, finished)
    assert not list(tmp_path.glob("checkpoints/*.safetensors"))


def test_stopped_training_is_kept_and_read_again(finished, tmp_path, monkeypatch):
    checkpoint = stop_in_mid_training(SMALL, tmp_path, monkeypatch)
    assert checkpoint.name == "ticket-trial0-draw0-round00.safetensors"
    with pytest.raises(LabError, match="checkpoint at iteration 20, not a finished ticket"):
        load_ticket_file(checkpoint)
    run(SMALL, tmp_path, quiet=True)
    assert_same_tables(tmp_path, finished)


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="process groups are POSIX")
def test_run_killed_at_random_points_and_restarted_equals_uninterrupted(tmp_path):
    """Each kill is just before a file is renamed into place: a checkpoint, a ticket, a table or the record."""
    settings = SMALL.changed(eval_every=10, prune_fc=0.6, arms=["ticket", "reinit"], reinit_draws=1)
    killed, chance = tmp_path / "killed", random.Random(0)
    for workers in (1, 2, 1, 1):  # a whole run writes about 80 files
        with sitting(run_until_killed, settings, killed, workers, chance.randint(2, 16)) as process:
            assert ended(process) == -signal.SIGKILL
    assert not read_record(killed)["complete"]
    run(settings, killed, quiet=True)
    assert read_record(killed)["complete"]
    run(settings, tmp_path / "whole", quiet=True)
    assert_same_tables(killed, tmp_path / "whole")


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL here")
def test_a_killed_worker_is_one_line_and_the_same_command_goes_on(finished, tmp_path, monkeypatch):
    monkeypatch.setenv("LTH_WORKERS", "2")
    monkeypatch.setattr(runner, "Checkpointer", partial(Fatal, every=0.0))
    with pytest.raises(LabError, match=r"a worker process was killed .*; run the same command again to resume"):
        run(SMALL, tmp_path, quiet=True)
    assert not read_record(tmp_path)["complete"]
    run(SMALL, tmp_path, quiet=True)
    assert_same_tables(tmp_path, finished)


def test_a_trial_that_diverges_is_recorded_and_the_others_go_on(tmp_path, monkeypatch):
    original = executor.train_cohort

    def break_one(settings, data, cohort, *rest, **more):
        for replicate, state in original(settings, data, cohort, *rest, **more):
            if replicate[:2] in (("ticket", 0), ("continued", 1)) and replicate.round == 1:
                state.weights["fc1.weight"][0, 0] = float("nan")
            yield replicate, state

    monkeypatch.setattr(executor, "train_cohort", break_one)
    rounds, _ = run(SMALL, tmp_path, quiet=True)
    diverged = rounds[rounds["diverged"]]
    assert list(diverged[["arm", "trial", "round"]].itertuples(index=False, name=None)) == [
        ("ticket", 0, 1),
        ("continued", 1, 1),
    ]
    last = rounds[rounds["round"] == 2]
    assert set(last["trial"]) == {1} and set(last["arm"]) == {"ticket", "reinit", "random"}
    record = read_record(tmp_path)
    assert record["complete"] and record["trainings_diverged"] == 2
    monkeypatch.setattr(executor, "train_cohort", None)
    assert run(SMALL, tmp_path, quiet=True)[0].equals(rounds)  # nothing is left to do


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="process groups are POSIX")
@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_saves_and_ends_cleanly(workers, tmp_path):
    """A cluster sends SIGTERM before it kills a job; a scheduler or terminal may send it to the whole process group."""
    folder, settings = tmp_path / "run", SMALL.changed(arms=["ticket"], rounds=1)
    with sitting(run_until_stopped, settings, folder, workers) as process:
        wait_for(
            lambda: len(list(tmp_path.glob("*.held"))) == workers or not process.is_alive(),
            f"{workers} trainings that have begun",
        )
        os.killpg(process.pid, signal.SIGTERM)
        assert ended(process) == 75
    said = (tmp_path / "said").read_text()
    assert said == "asked to stop, with 0 of 4 trainings done; run the same command again to resume"
    saved = [load_state(path)[0].iteration for path in folder.glob("checkpoints/*.safetensors")]
    assert saved == [2 * settings.eval_every] * workers  # at the evaluation after the one at which they were held
    assert not (folder / "stop").exists()


def test_the_commit_of_a_checkout_that_does_not_track_lthcore_is_not_recorded(tmp_path, monkeypatch):
    """As where lthcore is installed into the environment, ignored by git, of another project."""
    code = tmp_path / ".venv/lib/lthcore/runs/provenance.py"
    code.parent.mkdir(parents=True)
    code.touch()
    (tmp_path / ".gitignore").write_text(".venv\n")
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost", "-C", str(tmp_path)]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "theirs"]):
        subprocess.run([*git, *command], check=True)
    monkeypatch.setattr(provenance, "__file__", str(code))
    assert provenance.git_commit() is None
    for command in (["add", "-f", str(code)], ["commit", "-qm", "ours"]):
        subprocess.run([*git, *command], check=True)
    commit = provenance.git_commit()
    assert len(commit) == 12
    code.write_text("# changed")
    assert provenance.git_commit() == f"{commit}-dirty"


def test_a_file_named_stop_ends_runs_and_an_experiment_of_that_name_does_not(tmp_path):
    go_on = executor.Checkpointer(tmp_path / "notebook" / "x" / "checkpoints", SMALL)
    untrained = SimpleNamespace(curve=[], iteration=0)
    (tmp_path / "notebook" / "stop").mkdir(parents=True)
    assert go_on("ticket", untrained)
    (tmp_path / "notebook" / "x").mkdir()
    (tmp_path / "notebook" / "x" / "stop").touch()
    assert not go_on("ticket", untrained)


def test_a_file_named_stop_in_the_folder_above_is_named_since_it_stops_later_runs_too(tmp_path):
    (tmp_path / "stop").touch()
    with pytest.raises(TimeLimit) as error:
        run(SMALL, tmp_path / "run", quiet=True)
    said = f"asked to stop by the file {tmp_path / 'stop'}, with 0 of {len(planned(SMALL))} trainings done; delete it"
    assert str(error.value) == f"{said}, then run the same command again to resume"
    (tmp_path / "stop").unlink()
    assert len(run(SMALL.changed(rounds=0), tmp_path / "run", quiet=True)[0]) == 2


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="process groups are POSIX")
def test_a_folder_in_use_is_refused_by_its_owner_and_free_when_that_dies(tmp_path):
    held = FORKING.Event()
    with sitting(hold_the_lock, tmp_path / "checkpoints/lock.json", held) as owner:
        assert held.wait(PATIENCE), "the lock is not held"
        with pytest.raises(LabError, match=rf"in use by process {owner.pid} on .*, for \d+:\d\d:\d\d;") as caught:
            run(SMALL, tmp_path, quiet=True)
        assert_one_line_naming(tmp_path, caught)
        owner.kill()
        owner.join()
        assert len(run(SMALL.changed(rounds=0), tmp_path, quiet=True)[0]) == 2


def test_more_trials_arms_and_rounds_extend_a_run(finished, tmp_path, monkeypatch):
    less = SMALL.changed(trials=1, rounds=1, arms=["ticket"])
    run(less, tmp_path, quiet=True)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "tickets").iterdir()}
    assert len(before) == 2
    trained = count_trainings(monkeypatch)
    run(SMALL, tmp_path, quiet=True)
    assert sorted(trained) == sorted(set(planned(SMALL)) - set(planned(less)))
    assert before.items() <= {path.name: path.stat().st_mtime_ns for path in (tmp_path / "tickets").iterdir()}.items()
    assert_same_tables(tmp_path, finished)


def test_less_of_a_run_is_there_already_and_throws_nothing_away(copied, no_training):
    rounds, _ = run(SMALL.changed(trials=1, rounds=1, arms=["ticket"]), copied)
    assert len(rounds) == len(planned(SMALL))


def test_fresh_clone_of_a_run_is_made_longer_under_the_masks_it_has(copied, tmp_path):
    shutil.rmtree(copied / "tickets")
    longer = SMALL.changed(rounds=3)
    run(longer, copied, quiet=True)
    run(longer, tmp_path / "whole", quiet=True)
    assert_same_tables(copied, tmp_path / "whole")


def test_other_settings_in_the_same_folder_are_refused_by_name(copied):
    other, before = SMALL.changed(learning_rate=0.01, batch_size=30), (copied / "rounds.csv").read_bytes()
    with pytest.raises(LabError, match=r"learning_rate 0\.005 -> 0\.01") as error:
        run(other, copied)
    assert "batch_size 60 -> 30" in str(error.value)
    assert "seed" not in str(error.value)  # the seed is the same
    assert_one_line_naming(copied, error)
    assert (copied / "rounds.csv").read_bytes() == before  # the old run is still there


def test_force_replaces_a_run(copied, tmp_path):
    other = SMALL.changed(learning_rate=0.01, trials=1, rounds=0, arms=["ticket"])
    rounds, _ = run(other, copied, force=True, quiet=True)
    assert len(rounds) == 1
    assert read_record(copied)["run_key"] == other.key
    assert [path.name for path in (copied / "tickets").iterdir()] == ["ticket-trial0-draw0-round00.safetensors"]
    run(other, tmp_path / "fresh", quiet=True)
    assert_same_tables(copied, tmp_path / "fresh")


def test_force_leaves_what_is_not_of_the_run(copied):
    for name in ("thesis.tex", "data.csv", ".gitignore"):
        (copied / name).write_text("mine")
    run(SMALL.changed(seed=7), copied, force=True, quiet=True)
    assert all((copied / name).read_text() == "mine" for name in ("thesis.tex", "data.csv", ".gitignore"))
    assert read_record(copied)["settings"]["seed"] == 7


def test_force_leaves_no_table_of_a_run_whose_record_is_gone(copied):
    (copied / "layers.csv").write_text("of,the,old,run\n")
    (copied / "derived.json").write_text("{}")
    (copied / "run.json").unlink()
    run(SMALL.changed(seed=7), copied, force=True, quiet=True)
    assert not (copied / "layers.csv").exists() and not (copied / "derived.json").exists()


def test_force_keeps_the_old_run_where_the_new_one_cannot_start(copied):
    """With settings that the data cannot meet, nothing may be deleted."""
    with pytest.raises(LabError, match="validation"):
        run(SMALL.changed(validation=1430), copied, force=True)
    assert (copied / "rounds.csv").exists()


@pytest.mark.parametrize("content", ["", "{", "{}", "[]", "null", '"text"'])
def test_damaged_record_is_an_error_that_names_it(content, copied):
    (copied / "run.json").write_text(content)
    with pytest.raises(LabError) as error:
        run(SMALL, copied)
    assert_one_line_naming(copied / "run.json", error)


@pytest.mark.parametrize("table", ["rounds.csv", "curves.csv"])
@pytest.mark.parametrize("content", ["", "arm,trial\n<<<<<<< HEAD\n1,2,3\n"], ids=["empty", "conflict of a merge"])
def test_damaged_table_is_an_error_that_names_it(table, content, copied):
    (copied / table).write_text(content)
    with pytest.raises(LabError) as error:
        run(SMALL, copied)
    assert_one_line_naming(copied / table, error)


def test_truncated_ticket_is_an_error_that_names_it(copied):
    ticket = copied / "tickets" / "ticket-trial0-draw0-round01.safetensors"
    damage(ticket)
    for read in (lambda: load_ticket_file(ticket), lambda: run(SMALL.changed(rounds=3), copied, quiet=True)):
        with pytest.raises(LabError) as error:
            read()
        assert_one_line_naming(ticket, error)
    assert len(read_tables(copied)[0]) == len(planned(SMALL))  # the tables are kept


def test_truncated_checkpoint_is_an_error_that_names_it(tmp_path, monkeypatch):
    checkpoint = stop_in_mid_training(SMALL, tmp_path, monkeypatch)
    damage(checkpoint)
    with pytest.raises(LabError) as error:
        run(SMALL, tmp_path, quiet=True)
    assert_one_line_naming(checkpoint, error)
    checkpoint.unlink()  # as the message advises
    run(SMALL.changed(trials=1, rounds=0, arms=["ticket"]), tmp_path, quiet=True)


def test_ticket_of_another_run_is_refused(copied, tmp_path):
    other = SMALL.changed(seed=1, trials=1, rounds=0, arms=["ticket"])
    name = "ticket-trial0-draw0-round00.safetensors"
    run(other, tmp_path / "other", quiet=True)
    shutil.copy(tmp_path / "other" / "tickets" / name, copied / "tickets" / name)
    with pytest.raises(LabError, match=f"belongs to run {other.key}") as error:
        run(SMALL.changed(rounds=3), copied, quiet=True)
    assert_one_line_naming(copied / "tickets" / name, error)


def test_tickets_have_the_accuracies_of_the_table(finished):
    rounds, _ = read_tables(finished)
    for row in rounds[rounds["trial"] == 1].itertuples():
        replicate = Replicate(row.arm, row.trial, row.draw, row.round)
        path = finished / "tickets" / f"{file_stem(replicate)}.safetensors"
        ticket = load_ticket_file(path)
        assert (ticket.replicate, ticket.settings) == (replicate, SMALL)
        assert masks.weights_left(ticket.mask) == row.weights_left
        for weights in (ticket.initial, ticket.early_stop, ticket.final):
            assert masks.is_masked(weights, ticket.mask)
        accuracies = [
            ("test", "final", row.final_test_accuracy), ("test", "early_stop", row.es_test_accuracy),
            ("train", "final", row.final_train_accuracy), ("validation", "early_stop", row.es_val_accuracy),
        ]  # fmt: skip
        for split, weights, accuracy in accuracies:
            assert load_and_evaluate(path, split, weights)[1] == pytest.approx(accuracy, abs=1e-6)
        assert load_and_evaluate(path, "validation", "early_stop")[0] == pytest.approx(row.es_val_loss, abs=1e-5)
    with pytest.raises(LabError, match=r"split = 'tset' .did you mean 'test'"):
        load_and_evaluate(path, "tset")


def test_initial_weights_of_a_ticket_have_the_accuracy_its_curve_starts_from(finished):
    _, curves = read_tables(finished)
    start = curves[(curves["arm"] == "ticket") & (curves["trial"] == 0) & (curves["iteration"] == 0)]
    for row in start.itertuples():
        path = finished / "tickets" / f"ticket-trial0-draw0-round{row.round:02}.safetensors"
        assert load_and_evaluate(path, weights="initial")[1] == pytest.approx(row.test_accuracy, abs=1e-6)


def test_tensors_on_disk_carry_a_replicate_dimension_of_1(finished, tmp_path, monkeypatch):
    checkpoint = stop_in_mid_training(SMALL, tmp_path, monkeypatch)
    groups = set()
    for path in (checkpoint, *(finished / "tickets").iterdir()):
        with safe_open(path, framework="pt") as file:
            shapes = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118 - not a dict
        assert all(shape[0] == 1 for shape in shapes.values())
        assert shapes["mask/fc1.weight"] == [1, 64, 64]
        assert shapes["final/fc1.bias"] == [1, 64]
        groups |= {key.split("/")[0] for key in shapes}
    assert groups == {"mask", "initial", "final", "early_stop", "optimizer", "noise"}


def test_run_without_validation_leaves_the_early_stop_empty(tmp_path):
    settings = SMALL.changed(validation=0, trials=1, rounds=1, arms=["ticket"])
    rounds, curves = run(settings, tmp_path, quiet=True)
    columns = ["es_iteration", "es_val_loss", "es_val_accuracy", "es_test_accuracy", "es_train_accuracy"]
    assert rounds[[*columns, "final_val_accuracy"]].isna().all().all()
    assert curves[["val_loss", "val_accuracy"]].isna().all().all()
    assert rounds["final_test_accuracy"].notna().all()
    text = (tmp_path / "rounds.csv").read_text()
    assert len(run(settings.changed(rounds=2), tmp_path, quiet=True)[0]) == 3
    assert (tmp_path / "rounds.csv").read_text().startswith(text)  # existing rows are written again without a change


def test_tables_of_nothing_are_an_error(tmp_path):
    with pytest.raises(LabError, match="no tables yet"):
        read_tables(tmp_path / "nowhere")
    assert read_record(tmp_path / "nowhere") == {}


def test_results_root_is_where_it_is_said_to_be(tmp_path, monkeypatch):
    monkeypatch.setenv("LTH_RESULTS", str(tmp_path / "elsewhere"))
    assert results_root() == tmp_path / "elsewhere"
    (tmp_path / "elsewhere").touch()
    with pytest.raises(LabError, match="elsewhere is a file, not a folder"):
        results_root()
    monkeypatch.delenv("LTH_RESULTS")
    for folder in ("params", "notebooks/deep"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "notebooks" / "deep")
    assert results_root() == tmp_path / "results"


def test_record_is_json_that_others_can_read(finished):
    json.loads((finished / "run.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


# Memory


class Watched(executor.LocalExecutor):
    """Executor that counts the tensors of a training run that are still in memory when the next run begins.

    With `copied`, outcomes are copies of the states, as if they came from another process or machine.
    """

    def __init__(self, copied: bool) -> None:
        self.copied, self.left = copied, {}

    def train(self, settings, data, cohort, go_on, trainer):
        for key, state in cohort.items():
            tensors = tensors_of(state)
            given = copy.deepcopy(state) if self.copied else state
            (done,) = super().train(settings, data, {key: given}, go_on, trainer)
            tensors += tensors_of(done[1])
            yield done
            self.left[key] = sum(tensor() is not None for tensor in tensors)


def tensors_of(state: TrainState) -> list[weakref.ref]:
    """Return weak references to the tensors of a training run. Its mask, which draws share, is left out."""
    groups = (state.weights, state.start, state.optimizer, state.early_stop, {"noise": state.generator_state})
    return [weakref.ref(tensor) for group in groups for tensor in (group or {}).values() if tensor is not None]


@pytest.mark.parametrize("copied", [False, True])
def test_a_training_that_is_done_leaves_no_tensors_in_memory(tmp_path, copied):
    """A round of the paper's Conv-2 has 40 training runs of 0.1 GB each, and later rounds do not need most of them."""
    watched = Watched(copied)
    run(SMALL.changed(arms=["ticket", "reinit"], trials=1, rounds=1), tmp_path, quiet=True, executor=watched)
    reinit = {key: left for key, left in watched.left.items() if key.arm == "reinit"}
    assert list(reinit.values()) == [0, 0]
    assert watched.left[Replicate("ticket", 0, 0, 1)] > 0  # which the next round would start from


def test_of_a_ticket_only_what_the_next_round_needs_is_left_in_memory(tmp_path, monkeypatch):
    """Outcomes that a later round may start from keep their weights, early-stop weights and mask; all others keep none.

    Dense networks also keep their start, which tickets rewind to. No optimizer state is kept.
    """
    outcomes = {}
    find = search.find_tickets

    def watched(*args, **more):
        for cohort in find(*args, **more):
            outcomes.update(cohort)
            yield cohort

    monkeypatch.setattr(search, "find_tickets", watched)
    run(SMALL.changed(trials=1), tmp_path, quiet=True)
    for replicate, state in outcomes.items():
        has_successors = arm_of(replicate.arm).is_pruned_itself
        assert not state.optimizer and state.generator_state is None and bool(state.start) == (replicate.round == 0)
        assert bool(state.weights) == bool(state.mask) == bool(state.early_stop) == has_successors, replicate


def test_the_record_says_what_the_run_is_complete_of_and_since_when(finished):
    record = read_record(finished)
    assert record["asked_for"] == f"2 trials of rounds 0 to 2, arms {', '.join(SMALL.arms)}"
    assert record["began"] <= record["finished"]
    assert isinstance(record["hardware"]["instruction_sets"], list)


def test_a_run_that_is_extended_keeps_when_it_began_and_was_first_complete(copied):
    before = read_record(copied)
    run(SMALL.changed(trials=3), copied, quiet=True)
    run(SMALL.changed(trials=4), copied, quiet=True)
    after = read_record(copied)
    assert "first_complete" not in before and after["began"] == before["began"]
    assert after["first_complete"] == before["finished"] and after["complete"]


def test_a_duration_that_was_once_unknown_stays_so(copied):
    """Runs of older versions may have no duration. A sum that leaves out their part would be taken for the whole."""
    record = read_record(copied)
    del record["wall_seconds"]
    (copied / "run.json").write_text(json.dumps(record))
    run(SMALL.changed(trials=3), copied, quiet=True)
    assert "wall_seconds" not in read_record(copied)


def test_steps_before_the_point_that_tickets_rewind_to_are_not_counted_again(tmp_path):
    settings = SMALL.changed(rewind_to=20, arms=("ticket",), trials=1, rounds=2)
    rounds, _ = run(settings, tmp_path, quiet=True)
    record, dense = read_record(tmp_path), rounds["multiply_adds"].max()
    steps = settings.iterations + 2 * (settings.iterations - 20)
    assert record["training_flops"] == 6 * dense * settings.batch_size * steps


@pytest.mark.parametrize("able", [True, False])
def test_a_run_in_bfloat16_says_if_the_processor_has_no_instructions_for_it(able, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("lthcore.runs.runner.HAS_BFLOAT16", able)
    short = SMALL.changed(precision="bfloat16", device="cpu", iterations=2, eval_every=2, rounds=0, trials=1)
    run(short.changed(arms=["ticket"]), tmp_path, quiet=True)
    assert ("without instructions for bfloat16" in capsys.readouterr().err) is not able


def overfitted() -> TrainState:
    """Return the outcome of a training whose best iteration is 20 of 60."""
    curve = [Evaluation(i, loss, 0.5 + i / 1000, 1.0, 0.6 + i / 1000, 100.0)
             for i, loss in ((0, 2.0), (20, 0.5), (40, 0.7), (60, 0.9))]  # fmt: skip
    end, best = ({"fc1.weight": torch.full((2, 3), value)} for value in (1.0, 2.0))
    return TrainState(60, end, masks.full_mask(end), 0, start=end, early_stop=best, curve=curve,
                      early_stop_train_accuracy=0.8, final_train_accuracy=0.9)  # fmt: skip


def test_a_row_tells_the_early_stop_from_the_end():
    settings = Settings(iterations=60, eval_every=20)
    row = rows.round_row(
        settings, Replicate("ticket", 0, 0, 0), overfitted(), None, Costs(6, {"fc1.weight": 1.0}, 0, ())
    )
    assert (row["es_iteration"], row["es_val_loss"], row["iterations"]) == (20, 0.5, 60)
    assert (row["es_val_accuracy"], row["es_test_accuracy"], row["es_train_accuracy"]) == (0.52, 0.62, 0.8)
    ends = row["final_val_accuracy"], row["final_test_accuracy"], row["final_train_accuracy"]
    assert ends == (0.56, 0.66, 0.9)


def test_a_ticket_file_has_the_weights_of_the_early_stop_beside_those_of_the_end(tmp_path):
    settings, state = Settings(iterations=60, eval_every=20), overfitted()
    save_state(tmp_path / "ticket", settings, Replicate("ticket", 0, 0, 0), state)
    ticket = load_ticket_file(tmp_path / "ticket")
    assert (ticket.final["fc1.weight"] == 1).all() and (ticket.early_stop["fc1.weight"] == 2).all()
