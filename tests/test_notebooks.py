"""Notebooks: parameters match settings and params files, outputs are complete and clean, the set-up cell works."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from base64 import b64decode, b64encode
from io import BytesIO
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import papermill
import pytest
from colab import fresh_environment
from PIL import Image

from lthcore.commands.notebook import shrink_images
from lthcore.errors import LabError
from lthcore.lottery.methods import settings_for
from lthcore.paths import PROFILES
from lthcore.report.studies import COURSE
from lthcore.runs.experiments import load_experiments
from lthcore.settings import Settings

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def cells(path: Path, kind: str = "code") -> list[dict]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == kind]


def source(cell: dict) -> str:
    return "".join(cell["source"])


def tags(cell: dict) -> list[str]:
    return cell["metadata"].get("tags", [])


def parameters(path: Path) -> dict:
    """Return the names that a notebook's parameters cell defines."""
    (cell,) = (cell for cell in cells(path) if "parameters" in tags(cell))
    names = {}
    exec(source(cell), names)
    return names


@pytest.mark.parametrize("path", sorted((ROOT / "params").glob("*/*.yaml")), ids=lambda p: p.stem)
def test_a_notebook_makes_of_its_parameters_the_settings_that_were_put_below_them(path):
    cell = parameters(ROOT / "notebooks" / f"{path.parent.name}.ipynb")
    for profile in PROFILES:
        for experiment in load_experiments(path, profile):
            below = experiment.settings.model_dump(mode="json")
            assert type(experiment.settings).of_parameters(cell | below) == experiment.settings


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_parameter_says_what_its_setting_is(path):
    kind, known = settings_for(path.stem), papermill.inspect_notebook(str(path))
    if any("of_parameters" in source(cell) for cell in cells(path)):
        assert set(known) <= {*kind.model_fields, "folder"}
        assert all(known[key]["help"] == kind.model_fields[key].description for key in known if key != "folder")


def test_a_parameter_that_is_no_setting_is_an_error():
    names = {}
    exec("learning_rte: float = 0.1; seed: int = 3; folder: str = 'x'", names)
    with pytest.raises(LabError, match="learning_rte"):
        Settings.of_parameters(names)
    del names["__annotations__"]["learning_rte"]
    assert Settings.of_parameters(names) == Settings(seed=3)


def test_most_of_a_notebook_is_not_its_set_up():
    """The cells for set-up, parameters and settings have fewer than 30 lines a notebook on average, without imports."""
    lines = 0
    for path in NOTEBOOKS:
        for cell in cells(path):
            text = source(cell)
            starts = text.startswith("# @title Set-up") or "parameters" in tags(cell)
            if starts or "Settings" in text.partition("print")[0]:
                lines += sum(
                    bool(line.strip()) for line in text.splitlines() if not line.startswith(("from", "import"))
                )
    assert lines < 30 * len(NOTEBOOKS)


def test_iterative_pruning_takes_every_setting():
    known = papermill.inspect_notebook(str(ROOT / "notebooks" / "iterative_pruning.ipynb"))
    assert set(known) == {*Settings.model_fields, "folder"}
    for name, field in Settings.model_fields.items():
        assert known[name]["help"] == field.description


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_one_cell_is_tagged_parameters_and_holds_literals_only(path):
    tagged = [cell for cell in cells(path) if "parameters" in tags(cell)]
    assert len(tagged) == 1
    for statement in ast.parse(source(tagged[0])).body:
        assert isinstance(statement, ast.AnnAssign)
        ast.literal_eval(statement.value)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_committed_notebooks_are_executed_small_and_free_of_errors_and_paths(path):
    assert path.stat().st_size < (1_000_000 if path.stem == "paper_figures" else 500_000)
    for cell in cells(path):
        assert cell["execution_count"] is not None
        assert not any(output["output_type"] == "error" for output in cell["outputs"])
        assert not any(p in json.dumps(cell["outputs"]) for p in (str(Path.home()), "ipykernel_"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_start_with_title_badge_and_set_up_and_define_functions_only_to_teach(path):
    if path.stem not in ("quickstart", "your_own_model"):  # these two teach how to write your own code
        trees = [ast.parse(source(cell)) for cell in cells(path) if "toy" not in tags(cell)]
        assert not any(isinstance(node, ast.FunctionDef | ast.ClassDef) for tree in trees for node in ast.walk(tree))
    assert source(cells(path, "markdown")[0]).startswith("# ")
    assert "colab-badge.svg" in source(cells(path, "markdown")[0])
    assert source(cells(path)[0]).startswith("# @title Set-up")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_chapter_shows_its_method_on_a_toy_and_what_would_change_our_mind(path):
    """Each chapter has its parts in order; its toys have at most 25 lines, so that a reader can follow them."""
    toys = [source(cell) for cell in cells(path) if "toy" in tags(cell)]
    assert toys and all(len(toy.splitlines()) <= 25 for toy in toys)
    text = "\n\n".join(source(cell) for cell in cells(path, "markdown"))
    parts = ["## Part 1: live, on digits"] if live(path) else []
    parts += ["## Part 2: the committed run"] if live(path) else ["## The committed runs"]
    parts += ["## What would change our mind", "## Exercises\n\n1. "]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)
    assert "What to look for" in text and "\n2. " in text[places[-1] :]


def test_notebooks_are_a_course_that_is_read_in_order():
    """Each chapter states its number and ends with a link to the next one; the last one links to the first."""
    assert sorted(COURSE) == [path.stem for path in NOTEBOOKS]
    chapters = [cells(ROOT / "notebooks" / f"{name}.ipynb", "markdown") for name in COURSE]
    titles = [source(cells_of[0]).splitlines()[0].removeprefix("# ").partition(":")[0] for cells_of in chapters]
    assert len(set(titles)) == len(titles)
    for i, cells_of in enumerate(chapters):
        assert f"*Chapter {i + 1}*" in source(cells_of[0])
        following = (i + 1) % len(COURSE)
        assert source(cells_of[-1]).endswith(f":** [{titles[following]}]({COURSE[following]}.ipynb)")


def live(path: Path) -> bool:
    """Return whether a notebook trains something, by calling `run`."""
    return any(re.search(r"= run\(", source(cell)) for cell in cells(path))


@pytest.mark.skipif(os.name == "nt", reason="lays out the environment as on Unix")
def test_set_up_cell_installs_the_project_on_colab(tmp_path):
    python = fresh_environment(tmp_path, stub=True)
    origin = tmp_path / "origin"
    shutil.copytree(ROOT / "lthcore", origin / "lthcore", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, origin)
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost", "-C", str(origin)]
    for command in (["init", "--quiet"], ["add", "-A"], ["commit", "--quiet", "-m", "test"]):
        subprocess.run([*git, *command], check=True)
    (tmp_path / "content").mkdir()
    setup = source(cells(ROOT / "notebooks" / "quickstart.ipynb")[0])
    script = f"{setup}\n{setup}\nimport lthcore.settings\nprint(lthcore.settings.__file__)"
    run = subprocess.run(
        [python, "-c", script], cwd=tmp_path / "content", text=True, capture_output=True,
        env=os.environ | {"LTH_REPOSITORY": f"file://{origin}"}, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert Path(run.stdout.split()[-1]).is_relative_to(tmp_path / "content" / "lottery-lab")


@pytest.mark.skipif("/OWNER/" not in (ROOT / "README.md").read_text(), reason="this copy has its address")
@pytest.mark.skipif(os.name == "nt", reason="lays out the environment as on Unix")
def test_set_up_cell_of_a_copy_without_an_address_says_what_to_do(tmp_path):
    setup = source(cells(ROOT / "notebooks" / "quickstart.ipynb")[0])
    run = subprocess.run(
        [fresh_environment(tmp_path, stub=True), "-c", setup], cwd=tmp_path, text=True, capture_output=True, check=False
    )
    assert run.returncode == 1 and "%env LTH_REPOSITORY=" in run.stderr.splitlines()[-1]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_set_up_cell_does_nothing_elsewhere(path, tmp_path):
    script = textwrap.dedent(source(cells(path)[0])) + "\nprint('quiet')"
    run = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, text=True, capture_output=True, check=True)
    assert run.stdout == "quiet\n"
    assert not list(tmp_path.iterdir())


def test_images_of_executed_notebooks_are_small_and_look_the_same():
    figure, axes = plt.subplots(figsize=(6, 4), dpi=76)
    for k in range(12):
        axes.plot(np.arange(20), k * np.arange(20) ** 0.5, marker="o", color=plt.cm.viridis(k / 12), label=f"line {k}")
    axes.legend()
    whole = BytesIO()
    figure.savefig(whole)
    plt.close(figure)
    executed = [{"outputs": [{"data": {"image/png": b64encode(whole.getvalue()).decode()}}, {"text": "no image"}]}, {}]
    shrink_images(executed)
    small = b64decode(executed[0]["outputs"][0]["data"]["image/png"])
    before, after = (np.asarray(Image.open(BytesIO(b)).convert("RGB"), float) for b in (whole.getvalue(), small))
    assert len(small) < len(whole.getvalue()) / 2
    assert abs(before - after).mean() < 2  # of 255
