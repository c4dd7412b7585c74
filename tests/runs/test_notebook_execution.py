"""Notebooks: their execution stops when `lth` is asked to stop, and no kernel is left running."""

import os
import signal
import subprocess
import sys
import time

import pytest
from faults import command, finish, project

from lthcore.cli import main
from lthcore.commands.notebook import _execute, is_executed
from lthcore.errors import LabError
from lthcore.runs.experiments import Experiment
from lthcore.runs.notebook import unwatched
from lthcore.settings import Settings
from lthcore.training import orphans

nbformat = pytest.importorskip("nbformat", reason="Jupyter is not installed")
pytest.importorskip("papermill", reason="papermill is not installed")

PATIENCE = 300  # seconds that a kernel may take to start, and to end
NUMBER = "import os; from pathlib import Path; Path('kernel').write_text(str(os.getpid()));"
WAITS = f"{NUMBER} Path('begun').touch(); import threading; threading.Event().wait()"
TRAINS = f"""
{NUMBER}
from functools import partial
from lthcore.runs import runner
from lthcore.settings import Settings
runner.Checkpointer = partial(runner.Checkpointer, every=0.0)  # which is how the test sees that it has begun
settings = Settings(dataset="digits", architecture="mlp", validation=200, iterations=10**6, eval_every=10, trials=1)
runner.run(settings, ".", quiet=True)
"""


@pytest.mark.parametrize(
    ("cell", "begun", "number", "status", "says", "notebook_says"),
    [
        (TRAINS, "checkpoints/*.safetensors", signal.SIGTERM, 75, "asked to stop", "asked to stop, with 0 of"),
        (WAITS, "begun", signal.SIGINT, 130, "interrupted", ""),
    ],
)
def test_a_signal_stops_the_run_in_a_notebook_and_the_kernel(
    cell, begun, number, status, says, notebook_says, tmp_path, monkeypatch
):
    monkeypatch.setenv("LTH_WORKERS", "1")
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": kernel}, cells=[nbformat.v4.new_code_cell(cell)])
    nbformat.write(notebook, tmp_path / "in.ipynb")
    process = subprocess.Popen(
        [sys.executable, "-m", "lthcore", "notebook", tmp_path / "in.ipynb", "--to", tmp_path / "out.ipynb"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        end = time.monotonic() + PATIENCE
        while not list(tmp_path.glob(begun)):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < end, "it has not begun"
            time.sleep(0.01)  # between two checks
        process.send_signal(number)
        _, said = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode == status
    assert said.startswith("lth: ") and says in said and said.strip().count("\n") == 0
    assert notebook_says in (tmp_path / "out.ipynb").read_text()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "kernel").read_text()), 0)


@pytest.mark.parametrize("metadata", [{}, {"kernelspec": {"name": "python3", "display_name": "Python 3"}}])
def test_a_notebook_that_names_no_kernel_or_language_is_one_of_python(metadata, tmp_path):
    parameters = nbformat.v4.new_code_cell("n = 1", metadata={"tags": ["parameters"]})
    cells = [parameters, nbformat.v4.new_code_cell("print(6 * n)")]
    nbformat.write(nbformat.v4.new_notebook(metadata=metadata, cells=cells), tmp_path / "in.ipynb")
    assert _execute(tmp_path / "in.ipynb", tmp_path / "out.ipynb", {"n": 7}).cells[-1].outputs[0].text == "42\n"


def test_a_kernel_that_is_not_installed_is_one_line(tmp_path):
    kernel = {"name": "conda-env-lab", "display_name": "lab", "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(metadata={"kernelspec": kernel}), tmp_path / "in.ipynb")
    with pytest.raises(LabError, match="asks for the kernel 'conda-env-lab', which is not installed here"):
        _execute(tmp_path / "in.ipynb", tmp_path / "out.ipynb", {})


def test_the_name_of_the_home_folder_may_be_long(tmp_path, monkeypatch):
    """The path of a socket has at most about a hundred characters."""
    (tmp_path / ("a" * 100)).mkdir()
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / ("a" * 100)))
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("print(42)")]), tmp_path / "in.ipynb")
    assert _execute(tmp_path / "in.ipynb", tmp_path / "out.ipynb", {}).cells[-1].outputs[0].text == "42\n"


def test_a_notebook_that_was_cut_short_counts_as_not_executed(tmp_path):
    experiment = Experiment("study", "variant", "cpu", Settings())
    for name in ("rounds.csv", "variant.ipynb"):
        (tmp_path / name).write_text('{"cells": [')
    assert not is_executed(experiment, tmp_path)


def test_only_the_kernel_is_told_to_show_no_progress(tmp_path, monkeypatch):
    monkeypatch.setenv("LTH_PLAIN", "1")
    cell = nbformat.v4.new_code_cell("import os; print(os.environ['LTH_PLAIN'])")
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "in.ipynb")
    assert _execute(tmp_path / "in.ipynb", tmp_path / "out.ipynb", {}).cells[-1].outputs[0].text == "summary\n"
    assert os.environ["LTH_PLAIN"] == "1"


def test_the_notebook_of_a_run_needs_no_other_tables_in_the_project(tmp_path):
    """A user's project has none of the committed tables: its run and its notebook must complete without them."""
    done = finish(command(project(tmp_path / "lab"), notebook=True))
    assert done[0] == 0, done[1]
    (executed,) = (tmp_path / "lab" / "results" / "smoke" / "iterative_pruning" / "faulty").glob("*.ipynb")
    assert "No tables of iterative_pruning/lenet_mnist are here yet" in executed.read_text()


def test_a_kernel_is_told_whom_to_end_with_by_a_line_that_it_can_execute(monkeypatch):
    """The kernel only logs a startup line that fails. It would then outlive its parent."""
    told = []
    monkeypatch.setattr(orphans, "end_with", told.append)
    *_, argument = unwatched()
    exec(argument.partition("=")[2], {})
    assert told == [os.getpid()]


@pytest.fixture
def sum_notebook(tmp_path):
    """Notebook with the parameters a = 1 and b = 2 that prints their sum."""
    of_parameters = nbformat.v4.new_code_cell("a: int = 1\nb: int = 2", metadata={"tags": ["parameters"]})
    cells = [of_parameters, nbformat.v4.new_code_cell("print('the sum is', a + b)")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "sum.ipynb")
    return tmp_path / "sum.ipynb"


def lth(*arguments, capsys):
    """Run a command here; return its exit status and what it printed."""
    with pytest.raises(SystemExit) as exit_:
        main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return exit_.value.code, printed.out + printed.err


def test_a_notebook_takes_other_values_of_its_parameters(sum_notebook, capsys):
    to = ("--to", sum_notebook.with_name("out.ipynb"))
    assert "the sum is 42\n" in lth("notebook", sum_notebook, "-p", "a", "40", *to, capsys=capsys)[1]
    status, said = lth("notebook", sum_notebook, "-p", "c", "40", *to, capsys=capsys)
    assert status == 2 and "allowed are a, b" in said and said.count("\n") == 1


def test_a_notebook_without_parameters_takes_no_values(tmp_path, capsys):
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")]), tmp_path / "none.ipynb")
    status, said = lth("notebook", tmp_path / "none.ipynb", "-p", "a", "1", capsys=capsys)
    assert status == 2 and "takes no parameters" in said and said.count("\n") == 1
