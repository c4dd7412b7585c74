"""The command line: its output, its exit statuses, and one-line messages for errors that a user can fix."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lthcore import cli
from lthcore.cli import main
from lthcore.errors import TimeLimit
from lthcore.paths import project_root, results_root
from lthcore.report import figure_specs, figures_table, paper_figures
from lthcore.report.study import Study
from lthcore.runs.experiments import load_experiment
from lthcore.runs.files import read_record, read_tables
from lthcore.runs.runner import run
from lthcore.settings import Settings

TINY = """
dataset: digits
architecture: mlp
validation: 200
iterations: 20
eval_every: 10
trials: 1
reinit_draws: 1
random_draws: 1
rounds: 1
profiles:
  smoke: {}
  cpu: {iterations: 40}
  paper: {iterations: 60, rounds: 2}
"""


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch) -> Path:
    """Project folder with one small params file, as the working directory; results are kept outside of it."""
    project = tmp_path / "project"
    for folder in ("params/lab", "notebooks"):
        (project / folder).mkdir(parents=True)
    (project / "params/lab/tiny.yaml").write_text(TINY)
    monkeypatch.chdir(project)
    monkeypatch.setenv("LTH_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("LTH_DATA", str(tmp_path / "no data"))
    monkeypatch.setenv("LTH_WORKERS", "1")
    monkeypatch.setenv("LTH_PLAIN", "1")  # pytest may have plugins that make it look like a notebook
    return project


def lth(*arguments: str | Path) -> int:
    """Run the command `lth` and return its exit status."""
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return end.value.code or 0


def run_tiny(*arguments: str) -> int:
    return lth("run", "params/lab/tiny.yaml", "--profile", "smoke", "--no-notebook", *arguments)


def test_a_project_needs_no_notebooks(project, monkeypatch):
    """Git keeps no empty folders, and results of one's own must not land beside lthcore for want of one."""
    (project / "notebooks").rmdir()
    monkeypatch.delenv("LTH_RESULTS")
    assert run_tiny() == 0
    assert (project / "results/smoke/lab/tiny/rounds.csv").exists()


def test_dynamic_pruning_in_a_folder_of_ones_own_is_known_by_its_keys(project, tmp_path, capsys):
    path = project / "params/lab/dyn.yaml"
    path.write_text(
        "dataset: digits\narchitecture: mlp\nvalidation: 200\niterations: 60\neval_every: 30\nsparsity: 0.5\n"
        "trials: 1\nprofiles: {smoke: {}}\n"
    )
    assert lth("run", path, "--profile", "smoke", "--no-notebook") == 0
    assert lth("run", path, "--profile", "smoke", "--no-notebook", "-p", "sparsity", "0.6") == 0
    capsys.readouterr()
    assert lth("list", "lab/dyn") == 0
    said = capsys.readouterr().out
    assert "done (1 training)" in said and "sparsity = 0.6: done (1 training)" in said
    assert lth("show", "dyn") == 0
    own, defaults = capsys.readouterr().out.split("settings, at their defaults")
    assert "sparsity           0.5" in own and "sparsity_schedule  linear" in defaults


def test_a_run_that_diverged_is_not_reported_as_if_it_were_whole(capsys):
    assert run_tiny("-p", "learning_rate", "1e30", "-p", "rounds", "2") == 0
    assert "is complete, but 1 of its trainings diverged, and " in capsys.readouterr().out
    assert lth("list", "lab") == 0
    assert re.search(r"done \(1 training; \d could not start from ones that diverged\)", capsys.readouterr().out)


def test_help_of_the_module_names_every_command_and_exit_status():
    command = [sys.executable, "-m", "lthcore", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(cli.__file__).parents[1])
    for word in ("list", "run", "show", "figures", "data", "exit status", "75 stopped by --time-limit"):
        assert word in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("command", ["list", "run", "notebook", "show", "settings", "unpack"])
def test_help_of_a_command_has_its_own_examples_only(command, capsys):
    assert lth(command, "--help") == 0
    examples = re.findall(r"^  lth (\w+) ", capsys.readouterr().out, re.MULTILINE)
    assert examples and set(examples) == {command}


def test_settings_of_a_misspelt_study_are_one_line(capsys):
    assert lth("settings", "dynamic_prunning") == 2
    assert "study = 'dynamic_prunning' (did you mean 'dynamic_pruning'?)" in capsys.readouterr().err


def test_settings_are_listed_with_what_they_may_be(capsys):
    assert lth("settings") == 0
    out = capsys.readouterr().out
    assert set(re.findall(r"^(\w+) = ", out, re.MULTILINE)) == set(Settings.model_fields)
    assert "padding = 'same'\n    same or valid, in conv2" in out
    assert re.search(r"^criterion: magnitude, ", out, re.MULTILINE) and "architecture: mlp, lenet" in out
    assert lth("settings", "dynamic_pruning") == 0
    assert "\nsparsity = " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-p", "learning_rat", "1e-3"], "unknown key 'learning_rat'|did you mean 'learning_rate'?"),
        (["-p", "trials", "1", "-p", "trials", "2"], "-p trials: given twice"),
        (["-p", "trials", "0"], "trials = 0: must be greater than 0"),
        (["-p", "batch_size", "many"], "batch_size = 'many'"),
        (["-p", "optimizer", "adm"], "optimizer = 'adm'"),
        (["-p", "dataset", "digit"], "dataset = 'digit' (did you mean 'digits'?)"),
        (["-p", "criterion", "magnitud"], "criterion = 'magnitud' (did you mean 'magnitude'?)"),
        (["-p", "momentum", "0.9"], "momentum = 0.9: allowed with optimizer sgd only"),
        (["-p", "validation", "1430"], "digits has 1,437 training images to share"),
        (["-p", "dataset", "mnist"], "run `lth data fetch mnist`"),
        (["-p", "widths", "[3"], "widths"),
        (["--profile", "smok"], "profile = 'smok' (did you mean 'smoke'?): allowed are smoke, cpu, paper"),
    ],
    ids=lambda value: " ".join(value[-2:]) if isinstance(value, list) else "",
)
def test_what_a_user_can_mend_is_one_line_and_exit_status_2(arguments, message, capsys):
    assert run_tiny(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"lth: .+\n", err)
    assert all(part in err for part in message.split("|"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read"),
        ("trials: [1", "is not YAML"),
        ("widths: [300, 100\nlearning_rate: 1.2e-3\nprofiles: {}", "line 2, column 14"),
        ("trials: 1", "needs flat keys and a mapping `profiles:`"),
        ("trials: 1\nprofiles: {cpuu: {}}", "profiles = 'cpuu' (did you mean 'cpu'?)"),
        ("just text", "needs flat keys and a mapping `profiles:`"),
        ("trails: 1\nprofiles: {cpu: }", "unknown key 'trails' = 1 (did you mean 'trials'?)"),
        ("profiles: {cpu: {trials: 1.5}}", "trials = 1.5"),
        ("profiles: {cpu: [1, 2]}", "(cpu): profile cpu must be a mapping, with `key: value` pairs"),
        ("profiles: {cpu: {sweep: [1, 2]}}\nsweep: {sweep: {}}", "(cpu): sweep of profile cpu must be a mapping"),
        ("profiles: {cpu: {}}\nsweep:", "(cpu): sweep must map labels to settings"),
        ("profiles: {cpu: {}}\nsweep: {a: 3}", "(cpu): a must be a mapping"),
        ("7: 1\nprofiles: {cpu: }", "every key must be a name, and 7 is none"),
        (b"\xff\xfe\x00", "is not YAML"),
    ],
)
def test_params_file_that_cannot_be_used_is_one_line_that_names_it(content, message, project, capsys):
    path = project / "params/lab/bad.yaml"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert lth("run", path, "--no-notebook") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"lth: .+\n", err)
    assert "bad.yaml" in err
    assert message in err


def test_debug_shows_where_an_error_comes_from(capsys):
    assert lth("--debug", "run", "nowhere.yaml") == 2
    *trace, line = capsys.readouterr().err.splitlines()
    assert trace[0].startswith("Traceback") and line.startswith("lth: params: cannot read nowhere.yaml")


@pytest.mark.parametrize("limit", ["0", "-1", "nan", "soon"])
def test_time_limit_must_be_a_positive_number(limit, capsys):
    assert run_tiny("--time-limit", limit) == 2
    assert "--time-limit" in capsys.readouterr().err


def test_time_limit_stops_with_exit_status_75_and_the_same_command_goes_on(tmp_path, capsys):
    assert run_tiny("--time-limit", "1e-9") == 75
    assert (
        capsys.readouterr().err
        == "lth: time limit reached with 0 of 4 trainings done; run the same command again to resume\n"
    )
    assert not read_record(tmp_path / "results/smoke/lab/tiny")["complete"]
    assert run_tiny() == 0
    assert read_record(tmp_path / "results/smoke/lab/tiny")["complete"]


def test_run_writes_the_tables_of_a_params_file_under_its_profile_notebook_and_name(tmp_path, capsys):
    assert run_tiny() == 0
    out = capsys.readouterr().out
    assert "round  1/1:" in out
    assert re.search(r"smoke/lab/tiny: mlp-digits-\w{8} is complete; tables in ", out)
    folder = tmp_path / "results/smoke/lab/tiny"
    rounds, curves = read_tables(folder)
    assert (len(rounds), len(curves)) == (4, 12)
    assert run_tiny() == 0
    assert "round" not in capsys.readouterr().out  # nothing is left to train
    assert [path.name for path in (tmp_path / "results/smoke/lab").iterdir()] == ["tiny"]


def test_changed_settings_are_kept_beside_the_published_run(tmp_path):
    assert run_tiny("-p", "device", "cpu") == 0  # the device does not change the run key
    assert run_tiny("-p", "learning_rate", "2e-3") == 0
    assert run_tiny("-p", "trials", "2") == 0
    tiny, *changed = sorted(path.name for path in (tmp_path / "results/smoke/lab").iterdir())
    assert tiny == "tiny"
    assert all(re.fullmatch(r"tiny-(learning_rate0\.002|trials2)-[0-9a-f]{8}", name) for name in changed)
    records = [read_record(tmp_path / "results/smoke/lab" / name)["settings"] for name in changed]
    assert sorted((r["learning_rate"], r["trials"]) for r in records) == [(1.2e-3, 2), (2e-3, 1)]


def test_a_run_whose_tables_have_more_than_is_asked_for_says_so(project, capsys):
    run_tiny("-p", "device", "cpu")
    (project / "params/lab/tiny.yaml").write_text(TINY.replace("rounds: 1", "rounds: 0"))
    assert run_tiny() == 0
    assert "its tables also have 3 trainings that these settings do not ask for" in capsys.readouterr().out


def test_a_name_that_runs_of_several_notebooks_have_is_ambiguous(project, capsys):
    run_tiny()
    shutil.copytree(project / "params/lab", project / "params/other")
    assert lth("run", "params/other/tiny.yaml", "--profile", "smoke", "--no-notebook") == 0
    capsys.readouterr()
    assert lth("show", "tiny") == 2
    assert (
        "several runs are called 'tiny', name one of them: smoke/lab/tiny, smoke/other/tiny" in capsys.readouterr().err
    )
    assert lth("show", "other/tiny") == 0


def test_overriding_what_alone_tells_the_labels_of_a_sweep_apart_is_refused(queue, capsys):
    asked = ("run", "params/lab/sweep.yaml", "--profile", "smoke", "--no-notebook")
    assert lth(*asked, "-p", "learning_rate", "1e-3") == 2
    assert (
        "overriding learning_rate makes sweep-slow and sweep-fast of the sweep the same experiment"
        in capsys.readouterr().err
    )
    assert lth(*asked, "-p", "trials", "2") == 0


def test_labels_that_were_equal_before_may_stay_equal_and_those_of_a_profile_count(project, capsys):
    path = project / "params/lab/scaled.yaml"
    asked = ("run", path, "--profile", "smoke", "--no-notebook", "-p", "trials", "1", "-p", "batch_size", "30")
    path.write_text(SWEEP.replace("smoke: {}", "smoke: {learning_rate: 1e-3}"))
    assert lth(*asked) == 0
    same = SWEEP.replace("fast: {learning_rate: 1e-2}", "fast: {learning_rate: 1e-4}")
    path.write_text(same.replace("smoke: {}", "smoke: {sweep: {slow: {trials: 2}}}"))
    assert lth(*asked) == 2 and "overriding trials makes" in capsys.readouterr().err


def test_one_experiment_of_a_sweep_runs_alone(queue, tmp_path, capsys):
    sweep = ("run", "params/lab/sweep.yaml", "--profile", "smoke", "--no-notebook", "--only")
    assert lth(*sweep, "fast") == 0
    assert [path.name for path in (tmp_path / "results/smoke/lab").iterdir()] == ["sweep-fast"]
    assert lth(*sweep, "faster") == 2
    assert "label of the sweep = 'faster' (did you mean 'fast'?): allowed are slow, fast" in capsys.readouterr().err
    assert lth("run", "params/lab/tiny.yaml", "--profile", "smoke", "--only", "fast") == 2
    assert "there is no sweep" in capsys.readouterr().err


def test_force_starts_afresh(tmp_path):
    run_tiny()
    ticket = tmp_path / "results/smoke/lab/tiny/tickets/ticket-trial0-draw0-round00.safetensors"
    before = ticket.stat().st_mtime_ns
    run_tiny()
    assert ticket.stat().st_mtime_ns == before
    run_tiny("--force")
    assert ticket.stat().st_mtime_ns > before


def test_a_forced_run_that_stops_says_how_to_go_on(project, capsys):
    """The same command again would begin at nothing again, and what it did not reach is not afresh."""
    (project / "params/lab/other.yaml").write_text(TINY)
    both = ("params/lab/tiny.yaml", "params/lab/other.yaml")
    asked = ("run", *both, "--profile", "smoke", "--no-notebook", "--force", "--time-limit", "1e-9")
    assert lth(*asked) == 75
    said = "run the same command again without --force to resume; --force has not reached smoke/lab/other"
    assert said in capsys.readouterr().err


def test_several_params_files_are_planned_and_then_run(project, capsys):
    (project / "params/lab/other.yaml").write_text(TINY.replace("rounds: 1", "rounds: 0"))
    both = ("params/lab/tiny.yaml", "params/lab/other.yaml")
    assert lth("run", *both, "--profile", "smoke", "--no-notebook") == 0
    out = capsys.readouterr().out
    noted = "timing networks"  # if these were not timed before
    first, *lines = [line for line in out.splitlines() if noted not in line]
    assert first == "plan, profile smoke:" and re.match(r" +lab/tiny +4 trainings, about \d+ s here", lines[0])
    assert re.match(r" +lab/other +1 training, about", lines[1])
    assert re.search(r"about \d+ s in all on this machine", out)
    assert out.count("is complete") == 2


def test_a_plan_is_asked_about_before_anything_begins(project, capsys, monkeypatch):
    """With `--ask`, nothing starts unconfirmed: by an answer in a terminal, or else by `--yes`."""
    ask = ("run", "params/lab/tiny.yaml", "--profile", "smoke", "--no-notebook", "--ask")
    monkeypatch.setattr("sys.stdin", Answering("n"))
    assert lth(*ask) == 2
    out, err = capsys.readouterr()
    assert "plan, profile smoke:" in out and "in all on this machine" in out and "nothing was begun" in err
    monkeypatch.setattr("sys.stdin", Answering("y", terminal=False))
    assert lth(*ask) == 2 and "--yes" in capsys.readouterr().err
    assert not list(results_root().glob("**/rounds.csv"))
    assert lth(*ask, "--yes") == 0
    capsys.readouterr()
    assert lth(*ask, "--force", "--yes") == 0
    out = capsys.readouterr().out
    assert "the present results of 1 experiment are deleted first (--force)" in out
    assert re.search(r"lab/tiny +4 trainings, about", out)
    monkeypatch.setattr("sys.stdin", Answering("y"))
    assert lth(*ask) == 0


class Answering(io.StringIO):
    """Standard input with one answer typed in, from a terminal or not."""

    def __init__(self, answer: str, terminal: bool = True) -> None:
        super().__init__(f"{answer}\n")
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


def test_a_plan_of_many_experiments_is_a_line_for_each_study(project, capsys):
    labels = ", ".join(f"l{i}: {{seed: {i}}}" for i in range(21))
    sweep = TINY.replace("profiles:", f"sweep: {{{labels}}}\nprofiles:")
    (project / "params/lab/many.yaml").write_text(sweep)
    assert lth("run", "params/lab/many.yaml", "--profile", "smoke", "--no-notebook", "--ask") == 2
    out = capsys.readouterr().out
    assert re.search(r"^    lab +0 of 21 done, \d+ s$", out, re.MULTILINE) and "many-l3" not in out


def test_damaged_record_is_one_line(tmp_path, capsys):
    run_tiny()
    capsys.readouterr()
    (tmp_path / "results/smoke/lab/tiny/run.json").write_text("{")
    running = ["run", "params/lab/tiny.yaml", "--profile", "smoke", "--no-notebook"]
    for command in (["list"], ["show", "smoke/lab/tiny"], running):
        assert lth(*command) == 2
        assert re.fullmatch(r"lth: .*run\.json.*\n", capsys.readouterr().err)


def test_interrupt_is_one_line_and_exit_status_130(monkeypatch, capsys):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("lthcore.commands.run.run", interrupt)
    assert run_tiny() == 130
    assert capsys.readouterr().err == "lth: interrupted; run the same command again to resume\n"


def test_without_jupyter_the_engine_runs_alone_and_says_so(project, monkeypatch, capsys):
    monkeypatch.setattr("lthcore.commands.notebook.find_spec", lambda name: None)
    assert lth("run", "params/lab/tiny.yaml", "--profile", "smoke") == 0
    out, err = capsys.readouterr()
    assert "so the engine runs alone" in err
    assert "is complete" in out
    (project / "notebooks/any.ipynb").write_text('{"cells": []}')
    (project / "params/QUEUE.yaml").write_text("[{params: lab/tiny}]")
    assert lth("notebook", "notebooks/any.ipynb") == 2 and lth("queue", "--profile", "smoke", "--notebooks") == 2
    assert capsys.readouterr().err.count("pip install 'lthcore[notebooks]'") == 2


@pytest.mark.parametrize("value", ["abc", "0", "-1", "nan", ""])
def test_a_time_limit_is_a_positive_number(value, capsys):
    assert lth("queue", "--time-limit", value) == 2
    assert f"{value} is not a" in capsys.readouterr().err


def test_a_queue_of_a_profile_that_no_file_has_is_one_line(project, capsys):
    (project / "params/QUEUE.yaml").write_text("[{params: lab/tiny}, {params: lab/tiny}]")
    assert lth("queue", "--profile", "typo") == 2
    err = capsys.readouterr().err
    assert "typo" in err and err.count("\n") == 1


@pytest.mark.parametrize("notebook", ["", '{"cells": []}'])
def test_a_params_folder_without_a_notebook_that_takes_parameters_runs_the_engine_alone(notebook, project, capsys):
    """A notebook with the folder's name that takes no parameters is not run: it cannot show this experiment."""
    pytest.importorskip("papermill")
    pytest.importorskip("ipykernel")
    if notebook:
        (project / "notebooks" / "lab.ipynb").write_text(notebook)
    assert lth("run", "params/lab/tiny.yaml", "--profile", "smoke") == 0
    out, err = capsys.readouterr()
    assert "no notebooks/lab.ipynb that takes parameters is here" in err and "is complete" in out
    assert not list(project.parent.glob("results/**/*.ipynb"))


def test_a_file_that_needs_a_plugin_says_so_in_the_list_and_nothing_is_wrong(project, capsys):
    path = project / "params/lab/tiny.yaml"
    path.write_text("plugins: mine.py\n" + path.read_text())
    assert lth("list", "tiny") == 0
    out = capsys.readouterr().out
    assert out.count("needs the plugin mine.py, which is code: run it by --plugin mine.py") == 1


def test_list_shows_every_experiment_with_its_state(capsys):
    run_tiny()
    less = load_experiment("params/lab/tiny.yaml", "cpu").settings.changed(rounds=0)
    run(less, results_root() / "cpu/lab/tiny", quiet=True)
    capsys.readouterr()
    assert lth("list", "--all") == 0
    name, smoke, cpu, paper = capsys.readouterr().out.splitlines()
    assert name == "params/lab/tiny.yaml"
    assert re.fullmatch(r" +smoke +done \(4 trainings\)", smoke)
    assert re.fullmatch(r" +cpu +1 of 4 trainings done, all that was asked for, the rest about \d+ s here", cpu)
    assert re.fullmatch(r" +paper +7 trainings, about \d+ s here", paper)


def test_list_is_a_line_for_each_study_and_times_nothing(project, capsys, monkeypatch):
    """Timing takes long, so the list of all studies only counts networks not timed yet; listing a name times them."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(project / "cache"))
    monkeypatch.setattr("lthcore.runs.timing._measure", failing(AssertionError("timed")))
    run(load_experiment("params/lab/tiny.yaml", "smoke").settings, results_root() / "smoke/lab/tiny", quiet=True)
    (project / "params/other").mkdir()
    (project / "params/other/a.yaml").write_text(SWEEP)
    assert lth("list") == 0
    title, lab, other, _, note, *_ = capsys.readouterr().out.splitlines()
    assert title.split() == ["study", "smoke", "cpu", "paper"]
    assert re.fullmatch(r"lab +all 1 done +0 of 1 done, \? +0 of 1 done, \?", lab)
    assert re.fullmatch(r"other +0 of 2 done, \? +0 of 2 done, \? +0 of 2 done, \?", other)
    assert note.startswith("8 experiments are of networks not timed on this machine yet")
    monkeypatch.setattr("lthcore.runs.timing._measure", lambda *_: (3600.0, 0.0, 0.0))
    assert lth("list", "lab/tiny") == 0
    capsys.readouterr()
    assert lth("list") == 0
    out = capsys.readouterr().out
    hours = 4 * 40  # training runs one after another x steps x one hour
    assert re.search(rf"lab +all 1 done +0 of 1 done, {hours:.1f} h", out) and "not timed" not in out


def test_runs_with_changed_settings_are_listed_and_shown_with_what_they_changed(capsys):
    assert run_tiny("-p", "batch_size", "32", "-p", "widths", "[20, 10]") == 0
    [name] = (path.name for path in (results_root() / "smoke/lab").iterdir())
    assert re.fullmatch(r"tiny-batch_size32-widths20\+10-[0-9a-f]{8}", name)
    capsys.readouterr()
    assert lth("list", "tiny") == 0
    assert f"smoke  {name}: widths = [20, 10], batch_size = 32: done (4 trainings)" in capsys.readouterr().out
    assert lth("list") == 0
    assert "1 run with changed settings" in capsys.readouterr().out
    assert lth("show", f"smoke/lab/{name}") == 0
    out = capsys.readouterr().out
    assert re.search(r"^state +done \(4 trainings\)\nchanged +widths = \[20, 10\], batch_size = 32$", out, re.MULTILINE)


@pytest.mark.parametrize("by", ["name", "folder"])
def test_show_prints_where_a_run_comes_from_and_its_means(by, tmp_path, capsys):
    run_tiny()
    capsys.readouterr()
    folder = tmp_path / "results/smoke/lab/tiny"
    assert lth("show", "smoke/lab/tiny" if by == "name" else folder) == 0
    out = capsys.readouterr().out
    record, (rounds, _) = read_record(folder), read_tables(folder)
    assert re.search(rf"^run_key +{record['run_key']}$", out, re.MULTILINE)
    assert json.dumps(record["versions"]) in out
    own, others = out.partition("settings, other than the defaults")[2].split("settings, at their defaults")
    assert re.search(r"^    iterations +20$", own, re.MULTILINE) and "learning_rate" not in own
    assert re.search(r"^    learning_rate +0\.0012$", others, re.MULTILINE) and "iterations" not in others
    assert re.search(r"^state +done \(4 trainings\)$", out, re.MULTILINE)
    ticket = rounds[(rounds["arm"] == "ticket") & (rounds["round"] == 1)]["final_test_accuracy"]
    [line] = re.findall(r"^ticket.*\n^ +1 .*$", out, re.MULTILINE)
    words = line.splitlines()[1].split()
    assert words[:2] == ["1", "1"]  # round 1, n = 1
    assert float(words[4 + 1]) == pytest.approx(ticket.mean(), abs=1e-4)


def test_show_counts_early_stops_that_the_end_of_training_cut_off(tmp_path, capsys):
    run_tiny()
    folder = tmp_path / "results/smoke/lab/tiny"
    rounds, _ = read_tables(folder)
    cut = (rounds["es_iteration"] == rounds["iterations"]).astype(int)
    capsys.readouterr()
    assert lth("show", folder) == 0
    table, _, note = capsys.readouterr().out.partition("means over trials")[2].partition("\ncut_off: ")
    assert "lower bound" in note and cut.any()
    assert [int(n) for n in re.findall(r" (\d)$", table, re.MULTILINE)] == list(cut)  # n = 1: a row for each training


def test_show_of_a_folder_elsewhere_tells_of_that_folder(tmp_path, monkeypatch, capsys):
    run_tiny()
    monkeypatch.setenv("LTH_RESULTS", str(tmp_path / "others"))
    assert lth("show", tmp_path / "results/smoke/lab/tiny") == 0
    assert re.search(r"^state +done \(4 trainings\)$", capsys.readouterr().out, re.MULTILINE)


def test_show_of_a_run_that_has_trained_nothing_yet_says_so(capsys):
    assert run_tiny("--time-limit", "1e-9") == 75
    capsys.readouterr()
    assert lth("show", "tiny") == 0
    out = capsys.readouterr().out
    assert out.endswith("no training is done yet\n") and "DataFrame" not in out


def test_show_of_a_run_that_is_not_there_is_one_line(capsys):
    assert lth("show", "cpu/lab/nothing") == 2
    assert re.fullmatch(r"lth: results: no run 'cpu/lab/nothing' with run\.json below .+\n", capsys.readouterr().err)


def test_any_run_is_drawn_beside_its_tables_and_shown_by_its_name_alone(capsys):
    """Curves are drawn at the percentages that the run has, which differ from those of the paper's Figure 3."""
    run_tiny()
    assert lth("figures", "tiny") == 0 and lth("show", "tiny") == 0
    folder = Path(os.environ["LTH_RESULTS"]) / "smoke" / "lab" / "tiny"
    drawn = sorted(path.name for path in (folder / "figures").iterdir())
    assert drawn == ["curves.png", "curves.svg", "rounds.png", "rounds.svg"]
    assert "not in the table" not in (folder / "figures" / "curves.svg").read_text()
    assert "is registered here" not in capsys.readouterr().out
    rounds = (folder / "rounds.csv").read_text()
    (folder / "rounds.csv").write_text(rounds.replace("reinit,", "by_mine,"))
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(record | {"digests": {}}))
    assert lth("figures", "tiny") == 0
    assert "note: figures: no criterion mine is registered here" in capsys.readouterr().out


def test_data_verify(capsys):
    assert lth("data", "verify", "digits") == 0
    assert capsys.readouterr().out.startswith("digits: digits of scikit-learn: 1,437 train, 360 test")
    assert lth("data", "verify", "mnist") == 2  # its files are missing
    assert "run `lth data fetch mnist`" in capsys.readouterr().err
    assert lth("data", "verify", "mnits") == 2
    assert "did you mean 'mnist'?" in capsys.readouterr().err


def test_figures_are_drawn_into_the_project_from_the_tables_that_there_are(project, tmp_path, monkeypatch, capsys):
    (project / "notebooks/deep").mkdir()
    monkeypatch.chdir(project / "notebooks/deep")
    monkeypatch.setattr(paper_figures, "FIGURES", {n: paper_figures.FIGURES[n] for n in (1, 4)})
    monkeypatch.delenv("LTH_RESULTS")
    assert project_root() == project
    assert lth("figures") == 0
    assert f"no tables of {figure_specs.LENET_RUN} yet" in capsys.readouterr().out
    assert not list(project.glob("figures/*"))
    run_tiny_as = project / f"params/{figure_specs.LENET}.yaml"
    run_tiny_as.parent.mkdir()
    run_tiny_as.write_text(TINY)
    assert lth("run", run_tiny_as, "--no-notebook") == 0
    assert lth("figures") == 0
    assert "Figure 4, LeNet: early stop and accuracy: drawn as svg and png" in capsys.readouterr().out
    figures = project / "figures"
    assert {"fig01.svg", "fig01.png", "fig04.svg"} <= {path.name for path in figures.iterdir()}
    # the first two are figures of ours that are not drawn here
    others = ("fig22.svg", "movement_arms.png", "mine.svg", "fig22.txt", "figure.png")
    for name in others:
        (figures / name).touch()
    drawn = (figures / "fig04.svg").read_bytes()
    shutil.copytree(project / "results", tmp_path / "others")
    monkeypatch.setenv("LTH_RESULTS", str(tmp_path / "others"))
    assert lth("figures") == 0
    assert "removed" not in capsys.readouterr().out
    assert (tmp_path / "others" / "figures" / "fig04.svg").exists()
    assert (figures / "fig04.svg").read_bytes() == drawn  # other results say nothing about the project's figures
    monkeypatch.delenv("LTH_RESULTS")
    assert lth("figures") == 0
    assert "fig22.svg: removed" in capsys.readouterr().out
    assert [name for name in others if (figures / name).exists()] == ["mine.svg", "fig22.txt", "figure.png"]
    assert (figures / "fig04.svg").exists()


QUEUE = "- {params: lab/tiny, only: {arms: [ticket]}}\n- {params: lab/sweep}\n- {params: lab/tiny}\n"
SWEEP = TINY.replace("profiles:", "sweep: {slow: {learning_rate: 1e-4}, fast: {learning_rate: 1e-2}}\nprofiles:")


@pytest.fixture
def queue(project):
    (project / "params/lab/sweep.yaml").write_text(SWEEP)
    (project / "params/QUEUE.yaml").write_text(QUEUE)


def test_the_queue_runs_what_is_missing_in_its_order_and_packs_it(queue, tmp_path, capsys):
    archive = tmp_path / "tables.tar.gz"
    assert lth("queue", "--profile", "smoke", "--pack", archive) == 0
    lines = capsys.readouterr().out.splitlines()
    begun = [line.split(":")[0] for line in lines if " trainings" in line and line.startswith("smoke/")]
    assert begun == [f"smoke/lab/{name}" for name in ("tiny", "sweep-slow", "sweep-fast", "tiny")]
    assert f"3 runs packed into {archive}" in lines and lines[-1] == "the queue is done"
    assert len(read_tables(tmp_path / "results/smoke/lab/tiny")[0]) == 4
    assert lth("queue", "--profile", "smoke") == 0
    assert capsys.readouterr().out == "the queue is done\n"
    assert lth("unpack", archive) == 0
    assert capsys.readouterr().out.count("left alone: as much is here") == 3


def test_the_plan_of_a_queue_has_each_experiment_once(queue, tmp_path, capsys, monkeypatch):
    """An experiment may be in it twice, first a part and then all of it."""
    monkeypatch.setattr("sys.stdin", Answering("n"))
    assert lth("queue", "--profile", "smoke", "--ask") == 2
    out, err = capsys.readouterr()
    experiments = re.findall(r"lab/(\S+) +4 trainings, about", out)
    assert experiments == ["tiny", "sweep-slow", "sweep-fast"]
    assert "nothing was begun" in err and not list((tmp_path / "results").glob("**/rounds.csv"))
    assert lth("queue", "--profile", "smoke", "--ask", "--yes") == 0


def test_a_queue_mirrors_what_was_complete_before(queue, tmp_path):
    assert lth("queue", "--profile", "smoke") == 0
    assert lth("queue", "--profile", "smoke", "--mirror", tmp_path / "mirror") == 0
    for name in ("tiny", "sweep-slow", "sweep-fast"):
        here, there = (tmp_path / of / "smoke/lab" / name for of in ("results", "mirror"))
        assert all((there / file).read_bytes() == (here / file).read_bytes() for file in ("run.json", "rounds.csv"))


def test_an_archive_that_cannot_be_written_is_reported_before_the_training(queue, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert lth("queue", "--profile", "smoke", "--pack", tmp_path / "file" / "tables.tar.gz") == 2
    assert "tables.tar.gz cannot be written" in capsys.readouterr().err
    assert lth("queue", "--profile", "smoke", "--pack", tmp_path) == 2
    assert "is a folder; name a file in it" in capsys.readouterr().err
    assert not (tmp_path / "results" / "smoke").exists()


def test_why_a_queue_stopped_is_not_hidden_by_an_archive_that_fails(queue, tmp_path, capsys, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lthcore.commands.queue.pack", full)
    limits = ("--time-limit", "1e-9", "--pack", tmp_path / "tables.tar.gz")
    assert lth("queue", "--profile", "smoke", *limits) == 75
    assert "--pack: [Errno 28] No space left on device" in capsys.readouterr().err


def test_options_of_a_cluster_need_the_cluster(queue, capsys):
    assert lth("queue", "--profile", "smoke", "--gpus-per-run", "1") == 2
    assert "add --engine ray" in capsys.readouterr().err


def test_a_queue_makes_up_for_what_a_stop_after_the_last_training_left_undone(queue, tmp_path, capsys, monkeypatch):
    """The tables of tickets and the notebook follow the training, and a stop there must not leave them out forever."""

    def stopped(folder, time_limit):
        raise TimeLimit("asked to stop")

    with monkeypatch.context() as patched:
        patched.setattr("lthcore.commands.queue.write_ticket_tables", stopped)
        assert lth("queue", "--profile", "smoke", "--only", "slow") == 75
    folder = tmp_path / "results/smoke/lab/sweep-slow"
    assert read_record(folder)["complete"] and not (folder / "structure.csv").exists()
    assert lth("queue", "--profile", "smoke", "--only", "slow") == 0
    assert (folder / "structure.csv").exists()
    capsys.readouterr()
    assert lth("queue", "--profile", "smoke", "--only", "slow") == 0
    assert capsys.readouterr().out == "the queue is done\n"


@pytest.mark.parametrize("text", ["# Title", "[]", '{"cells": 1}'])
@pytest.mark.parametrize("values", [(), ("-p", "trials", "2")], ids=["defaults", "values"])
def test_a_file_that_is_no_notebook_is_one_line(text, values, project, capsys):
    (project / "README.md").write_text(text)
    assert lth("notebook", "README.md", *values) == 2
    assert capsys.readouterr().err == "lth: notebook: README.md is no Jupyter notebook\n"


def test_what_a_notebook_prints_is_printed_and_pictures_are_not(project, capsys):
    pytest.importorskip("papermill", reason="papermill is not installed")
    draw = "import base64; from IPython.display import Image, display; display(Image(base64.b64decode(PNG)))"
    png = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
    cell = {"cell_type": "code", "id": "a", "metadata": {}, "outputs": [], "execution_count": None,
            "source": f"PNG = {png!r}\n{draw}\nprint('seen')"}  # fmt: skip
    notebook = {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    (project / "notebooks/picture.ipynb").write_text(json.dumps(notebook))
    assert lth("notebook", "notebooks/picture.ipynb") == 0
    assert capsys.readouterr().out == "seen\nexecuted notebook: build/picture.ipynb\n"


def test_a_notebook_is_executed_until_it_has_run_to_its_end(queue, project, tmp_path):
    pytest.importorskip("papermill", reason="papermill is not installed")
    cell = {"cell_type": "code", "id": "a", "metadata": {"tags": ["parameters"]}, "outputs": [],
            "execution_count": None, "source": "raise RuntimeError('once')"}  # fmt: skip
    notebook = {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    (project / "notebooks/lab.ipynb").write_text(json.dumps(notebook))
    asked = ("queue", "--profile", "smoke", "--only", "slow", "--notebooks")
    assert lth(*asked) == 2
    cell["source"] = "from pathlib import Path; Path('../counted').open('a').write('once ')"
    (project / "notebooks/lab.ipynb").write_text(json.dumps(notebook))
    assert [lth(*asked), lth(*asked)] == [0, 0]
    assert (project / "counted").read_text() == "once "


def test_a_queue_that_cannot_mirror_what_is_there_trains_the_rest(queue, tmp_path, capsys):
    assert run_tiny() == 0
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror/smoke").write_text("a file where the folder should be")
    assert lth("queue", "--profile", "smoke", "--mirror", tmp_path / "mirror") == 2
    assert "lth: smoke/lab/tiny: mirror: the tables could not be copied" in capsys.readouterr().err
    assert read_record(tmp_path / "results/smoke/lab/sweep-fast")["complete"]


def test_a_queue_stopped_by_its_time_limit_still_packs_and_goes_on(queue, tmp_path, capsys):
    archive = tmp_path / "tables.tar.gz"
    assert lth("queue", "--profile", "paper", "--time-limit", "1e-9", "--pack", archive) == 75
    out, err = capsys.readouterr()
    assert archive.exists() and "1 run packed" in out and "time limit reached" in err
    assert lth("queue", "--profile", "paper") == 0
    assert read_record(tmp_path / "results/paper/lab/tiny")["complete"]


def test_an_experiment_that_cannot_run_does_not_stop_the_queue(queue, project, tmp_path, capsys):
    (project / "params/lab/tiny.yaml").write_text(TINY.replace("digits", "mnist"))
    assert lth("queue", "--profile", "smoke") == 2
    err = capsys.readouterr().err
    assert (
        "lth: smoke/lab/tiny: data:" in err and "1 runs" not in err and "1 of the queue failed: smoke/lab/tiny" in err
    )
    assert read_record(tmp_path / "results/smoke/lab/sweep-fast")["complete"]


def test_an_error_that_nobody_foresaw_stops_no_other_experiment(project, capsys, monkeypatch):
    """Neither in a queue nor in one command: each error is reported, the others run, and the exit status is 2."""
    (project / "params/lab/odd.yaml").write_text(TINY.replace("trials: 1", "trials: 1\nseed: 666"))
    (project / "params/QUEUE.yaml").write_text("[{params: lab/odd}, {params: lab/none_such}, {params: lab/tiny}]")

    def odd(settings, *arguments, **more):
        if settings.seed == 666:
            raise KeyError("odd")
        return run(settings, *arguments, **more)

    monkeypatch.setattr("lthcore.commands.queue.run", odd)
    monkeypatch.setattr("lthcore.commands.run.run", odd)
    assert lth("queue", "--profile", "smoke") == 2
    err = capsys.readouterr().err
    assert "lth: smoke/lab/odd: unexpected KeyError: 'odd'" in err and "none_such" in err
    assert read_record(results_root() / "smoke/lab/tiny")["complete"]
    command = ("run", "params/lab/odd.yaml", "params/lab/tiny.yaml", "--no-notebook")
    assert lth(*command) == 2
    assert "1 of 2 experiments failed: cpu/lab/odd" in capsys.readouterr().err
    assert read_record(results_root() / "cpu/lab/tiny")["complete"]


def test_the_scorecard_of_no_tables_grades_nothing(project, tmp_path, capsys):
    claims = Path(cli.__file__).parents[1] / "params/claims.yaml"
    (project / "params/claims.yaml").write_text(claims.read_text())
    (tmp_path / "results").mkdir()
    assert lth("scorecard") == 0
    assert "\nclaims of runs: of 0 graded parts none, " in capsys.readouterr().out
    assert (tmp_path / "results/claims.csv").exists()


def test_the_table_of_figures_is_written_with_costs(project, capsys, monkeypatch):
    (project / "params/iterative_pruning").mkdir()
    (project / f"params/{figure_specs.LENET}.yaml").write_text(TINY)
    monkeypatch.setattr(figures_table, "FIGURES", {4: paper_figures.FIGURES[4]})
    assert lth("figures", "--table") == 0
    text = (project / "params/FIGURES.md").read_text()
    run = figure_specs.LENET_RUN
    assert f"| 4 | LeNet: early stop and accuracy | {run} |" in text
    assert re.search(run + r".yaml\) \| 4 \| 1 \| 7 \| 60 \| [\d,.]+ \| 0.0 \|", text)


def test_help_is_there_at_once():
    """It imports neither torch nor pandas, which take seconds."""
    code = (
        "import sys\nfrom lthcore import cli\ntry:\n    cli.main(['run', '--help'])\nfinally:\n    print(*sys.modules)"
    )
    said = subprocess.check_output([sys.executable, "-c", code], text=True, cwd=Path(cli.__file__).parents[1])
    assert "examples:" in said and not {"torch", "pandas", "numpy"} & set(said.split())


def test_core_imports_without_jupyter():
    code = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"jupyter", "jupyter_core", "IPython", "ipykernel", "ipywidgets", "papermill"}:
            raise ModuleNotFoundError(f"{name} is blocked", name=name)

sys.meta_path.insert(0, Blocker())
import lthcore, lthcore.runs.runner, lthcore.cli, lthcore.runs.estimate, lthcore.runs.queue
import lthcore.report.paper_figures, lthcore.report.scorecard
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(cli.__file__).parents[1], env=os.environ
    )
    assert done.returncode == 0, done.stderr


def test_list_of_some_names_no_others(capsys):
    assert lth("list", "nothing") == 2
    assert capsys.readouterr().err.startswith("lth: list: no params file has 'nothing' in its name")
    assert lth("list", "lab/ti") == 0 and "params/lab/tiny.yaml" in capsys.readouterr().out


def test_sigterm_while_nothing_trains_exits_with_75(monkeypatch, capsys):
    monkeypatch.setattr("lthcore.commands.listing.list_command", lambda _: signal.raise_signal(signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        cli.main(["list"])
    assert ended.value.code == 75 and "run the same command again" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(
    "value", ["*a", "!!int abc", "0x_", "{a: 1, a: 2}", "[" * 5000, "1e999", "9" * 5000, "\x00", "1:"]
)
def test_values_of_any_kind_on_the_command_line_are_one_line(value, capsys):
    assert run_tiny("-p", "widths", value) == 2
    assert re.fullmatch(r"lth: .{,396}\n", capsys.readouterr().err)


@pytest.mark.parametrize("name", ["self", "", "x" * 5000, "a\nb"])
def test_names_of_any_kind_on_the_command_line_are_unknown_keys(name, capsys):
    assert run_tiny("-p", name, "1") == 2
    assert re.fullmatch(r"lth: .*unknown key .*\n", capsys.readouterr().err)


@pytest.mark.parametrize("arguments", [["x" * 5000], ["run"], ["data", "fetch"], ["list", "a", "b"], ["--time"]])
def test_a_command_line_of_another_shape_is_one_line(arguments, capsys):
    assert lth(*arguments) == 2
    assert re.fullmatch(r"lth: .{,396}\n", capsys.readouterr().err)


def failing(error: BaseException):
    def command(_):
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (ValueError("a\nb"), 70, "lth: unexpected ValueError: a b; --debug shows where, and what was done is kept"),
        (KeyError("run_key"), 70, "lth: unexpected KeyError: 'run_key'; --debug shows where"),
        (RecursionError(), 70, "lth: unexpected RecursionError: RecursionError; --debug"),
        (MemoryError(), 70, "lth: unexpected MemoryError"),
        (ValueError("x" * 10**6), 70, "lth: unexpected ValueError: xxx"),
        (OSError(28, "No space left on device"), 2, "lth: [Errno 28] No space left on device; what was done is kept"),
        (cli.LabError("a\nb " + "x" * 10**6), 2, "lth: a b xxx"),
        (KeyboardInterrupt(), 130, "lth: interrupted"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_whatever_ends_a_command_is_one_line_and_its_exit_status(error, status, said, monkeypatch, capsys):
    for command, name in (("listing.list_command", "list"), ("report.scorecard_command", "scorecard")):
        monkeypatch.setattr(f"lthcore.commands.{command}", failing(error))
        assert lth(name) == status
        err = capsys.readouterr().err
        assert err.startswith(said) and err.endswith("\n") and err.count("\n") == 1 and len(err) <= 401


@pytest.mark.parametrize("how", ["before", "after", "environment"])
def test_the_traceback_of_an_unexpected_error_is_shown_where_asked_for(how, monkeypatch, capsys):
    monkeypatch.setattr("lthcore.commands.show.show_command", failing(ValueError("odd")))
    if how == "environment":
        monkeypatch.setenv("LTH_DEBUG", "1")
    flags = {"before": ["--debug", "show", "a"], "after": ["show", "a", "--debug"], "environment": ["show", "a"]}[how]
    assert lth(*flags) == 70
    err = capsys.readouterr().err
    assert err.startswith("Traceback") and "in command" in err and "\nlth: unexpected ValueError: odd" in err


def in_a_closed_pipe(command: str, *body: str) -> int:
    """Run `lth <command>` with the lines of `body` as its work and its output pipes closed; return its exit status."""
    module = {"list": "listing", "figures": "report", "scorecard": "report"}.get(command, command)
    lines = ["import sys", "from lthcore import cli", f"from lthcore.commands import {module}", "def work(options):"]
    lines += [f"    {line}" for line in body]
    code = "\n".join([*lines, f"{module}.{command}_command = work", f"cli.main([{command!r}])"])
    reading, writing = os.pipe()
    os.close(reading)
    try:
        here = Path(cli.__file__).parents[1]
        return subprocess.run([sys.executable, "-c", code], stdout=writing, stderr=writing, cwd=here).returncode
    finally:
        os.close(writing)


def test_work_whose_output_nobody_reads_goes_on_to_its_end_and_says_how_it_ended(tmp_path):
    said = ("print(1, flush=True)", "print(2, file=sys.stderr, flush=True)", f"open({str(tmp_path / 'done')!r}, 'x')")
    assert in_a_closed_pipe("scorecard", *said) == 0
    assert (tmp_path / "done").exists()
    assert in_a_closed_pipe("scorecard", "print(1)", "raise cli.LabError('mend this')") == 2
    assert in_a_closed_pipe("scorecard", "raise BrokenPipeError('a worker is gone')") == 2


def test_a_list_that_nobody_reads_any_more_ends(tmp_path):
    assert in_a_closed_pipe("list", "print(1, flush=True)", f"open({str(tmp_path / 'done')!r}, 'x')") == 0
    assert not (tmp_path / "done").exists()
    assert in_a_closed_pipe("list", "print(1)") == 0


def test_ctrl_c_while_modules_are_imported_is_one_line(tmp_path):
    (tmp_path / "yaml.py").write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n"
    )  # imported in place of PyYAML
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(cli.__file__).parents[1])])}
    done = subprocess.run([sys.executable, "-m", "lthcore", "list"], capture_output=True, text=True, env=environment)
    assert done.returncode == 130
    assert done.stderr == "lth: interrupted; run the same command again to resume\n"


def test_a_run_cannot_be_outside_of_the_results(project, tmp_path, capsys):
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim/run.json").write_text("{}")
    sweep = TINY.replace("profiles:", "sweep: {x/../../../../victim: {}}\nprofiles:")
    (project / "params/lab/out.yaml").write_text(sweep)
    assert lth("run", "params/lab/out.yaml", "--profile", "smoke", "--no-notebook", "--force") == 2
    assert (tmp_path / "victim/run.json").read_text() == "{}"
    (tmp_path / "results/smoke").mkdir(parents=True)
    (tmp_path / "results/smoke/lab").symlink_to(tmp_path / "victim")
    assert run_tiny("--force") == 2
    assert lth("show", "../victim") == 2
    assert [path.name for path in (tmp_path / "victim").iterdir()] == ["run.json"]
    assert all(re.fullmatch(r"lth: .+", line) for line in capsys.readouterr().err.splitlines())


def test_results_may_be_kept_behind_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "results").symlink_to(tmp_path / "disk")
    assert run_tiny() == 0
    assert read_record(tmp_path / "disk/smoke/lab/tiny")["complete"]


def test_one_bad_file_or_run_hides_nothing_else_in_the_list(project, tmp_path, capsys):
    run_tiny()
    (project / "params/lab/bad.yaml").write_text("trials: 1\ntrials: 2\nprofiles: {}")
    (project / "params/lab/worse.yaml").write_text(TINY)
    folder = tmp_path / "results/smoke/lab/worse"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("{")
    capsys.readouterr()
    assert lth("list") == 2
    out, err = capsys.readouterr()
    assert re.search(r"^lab .*1 of 2 done|^lab \(smoke\): cannot be read", out, re.MULTILINE)
    assert lth("list", "--all") == 2
    out, err = capsys.readouterr()
    assert re.search(r"lab/bad\.yaml \(smoke\): cannot be read: .*'trials' is there twice", out)
    assert re.search(r"smoke +done \(4 trainings\)", out) and re.search(r"smoke +cannot be read: .*run\.json", out)
    assert len(re.findall(r"cpu +4 trainings, about", out)) == 2
    assert re.fullmatch(r"lth: .*bad\.yaml.* \(and 3 more\)\n", err)


def test_one_bad_run_hides_no_other_figure(project, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(paper_figures, "FIGURES", {4: paper_figures.FIGURES[4], 9: paper_figures.FIGURES[9]})
    study = Study("a", figures={"one": failing(KeyError("arm")), "two": lambda _: None})
    monkeypatch.setattr("lthcore.commands.report.STUDIES", {"a": study})
    folder = tmp_path / "results/paper" / figure_specs.LENET
    folder.mkdir(parents=True)
    (folder / "rounds.csv").write_text("no,table\n1,2\n")
    assert lth("figures") == 2
    out, err = capsys.readouterr()
    assert [line.partition(":")[0] for line in out.splitlines()] == ["Figure 4, LeNet", "Figure 9, LeNet", "one", "two"]
    assert "one: cannot be read: unexpected KeyError: 'arm'" in out and "two: no tables yet" in out
    assert re.fullmatch(r"lth: .+ \(and 2 more\)\n", err)
