"""Prose: paths, figures and numbers in READMEs, notebooks and comments of params files agree with the repository."""

import json
import re
from pathlib import Path

import pytest
import yaml

from lthcore.analysis.statistics import BRACKETS as WHAT_THEY_ARE
from lthcore.analysis.statistics import CONVENTION
from lthcore.report.figure_specs import FIGURES, LENET_RUN
from lthcore.report.paper_figures import sources, tables_of, words_of
from lthcore.report.paper_words import HERE, PAPER, WRITTEN_FOR
from lthcore.report.studies import STUDIES

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PARAMS = sorted((ROOT / "params").glob("*/*.yaml"))
GENERATED = re.compile(r"<!-- [a-z_: ]+ -->\n.*?<!-- end -->", re.DOTALL)
BRACKETS = re.compile(r"\[[-+]?\.?\d[\d.,]*%?, [-+]?\.?\d[\d.,]*%?\]")  # a confidence interval
PERCENT = re.compile(r"[-+]?\d[\d.]*(?:%(?! of (?:the )?weights)| points)")  # a result, not a share of weights
FOLDERS = "lthcore|tests|params|results|figures|notebooks|benchmarks|cluster"
PATH = re.compile(rf"(?:`|\]\()((?:{FOLDERS})/[^`)\s#]+)")
# percentages in notebooks that are not results of this lab
NO_RESULT = {
    "deconstructing": ["86%"],
    "dynamic_summary": ["100%", "0%", "98%"],
    "movement_pruning": ["10%"],
    "quickstart": ["10%"],
    "robust_training": ["97%"],
    "rewinding_and_connectivity": ["2 points"],
    "ticket_similarity": ["100%"],
}


def markdown(notebook: Path) -> str:
    cells = json.loads(notebook.read_text())["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def printed(notebook: Path) -> str:
    """Return the Markdown that a notebook's code displays."""
    cells = json.loads(notebook.read_text())["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return "\n\n".join("".join(output.get("data", {}).get("text/markdown", "")) for output in outputs)


def comments(path: Path) -> str:
    return "\n".join(line.partition("#")[2] for line in path.read_text().splitlines())


def prose() -> dict[str, str]:
    """Return the text of each file that is written by hand. Other tests compare generated blocks with the tables."""
    pages = ("README.md", "results/README.md", "CONTRIBUTING.md")
    said = {name: GENERATED.sub("", (ROOT / name).read_text()) for name in pages}
    said |= {str(path.relative_to(ROOT)): markdown(path) for path in NOTEBOOKS}
    files = (*PARAMS, *(ROOT / "params").glob("*.yaml"))
    return said | {str(path.relative_to(ROOT)): comments(path) for path in files}


def words(text: str) -> str:
    return " ".join(text.split())


def named(text: str) -> set[int]:
    """Return the numbers of the figures that a text names, as in "Figures 3, 11 and 18 to 21"."""
    found = set()
    for part in re.findall(r"Figures? (\d+(?:(?:, | and | to )\d+)*)", text):
        for first, last in re.findall(r"(\d+)(?: to (\d+))?", part):
            found |= set(range(int(first), int(last or first) + 1))
    return found


def drawn_of(run: str) -> set[int]:
    """Return the figures drawn from a params file of iterative pruning; both pixel scalings of LeNet count as one."""
    run = LENET_RUN if run == "lenet_mnist_standardised" else run
    return {number for number, spec in FIGURES.items() if run in spec.runs}


@pytest.mark.parametrize("name", prose())
def test_paths_in_prose_are_there(name):
    for path in PATH.findall(prose()[name]):
        if "<" not in path and "..." not in path and not path.startswith("params/lab"):
            places = (ROOT, (ROOT / name).parent)  # links are relative to their page
            there = any(any(place.glob(path.rstrip("/.,;:"))) for place in places)
            assert there or "notebook/" in path, f"{name}: {path}"


def test_the_numbers_of_figures_in_comments_are_those_of_the_figures():
    for path in (p for p in PARAMS if p.parent.name == "iterative_pruning" and p.stem != "input_scaling"):
        assert named(comments(path)) <= drawn_of(path.stem), path.name
    told = set()
    for line in (ROOT / "params" / "QUEUE.yaml").read_text().splitlines():
        if line.startswith("- ") and named(line.partition("#")[2]):
            ((study, run),) = [entry["params"].split("/") for entry in yaml.safe_load(line)]
            assert study == "iterative_pruning" and named(line.partition("#")[2]) <= drawn_of(run), line
            told |= named(line.partition("#")[2])
    assert told == set(FIGURES)  # each figure is named in the comment of an entry


def test_figures_are_called_by_their_numbers_and_titles(committed):
    """The notebook shows the figures that have data, each with its text; params/FIGURES.md lists all figures."""
    text = printed(ROOT / "notebooks" / "paper_figures.ipynb")
    shown = [int(number) for number in re.findall(r"^### Figure (\d+)", text, re.MULTILINE)]
    assert shown and shown == sorted(shown) and set(PAPER) == set(FIGURES)
    assert all(sources(number, committed) and words_of(number, committed) in text for number in shown)
    rows = re.findall(
        r"^\| (\d+) \| (.+?) \| (.+?) \| (.+?) \|$", (ROOT / "params/FIGURES.md").read_text(), re.MULTILINE
    )
    specs = {n: (spec.title, ", ".join(spec.runs), ", ".join(spec.arms)) for n, spec in FIGURES.items()}
    assert {int(number): tuple(row) for number, *row in rows} == specs


def test_figures_that_are_published_are_known_and_whole():
    known = {f"fig{number:02}" for number in FIGURES} | {name for study in STUDIES.values() for name in study.figures}
    files = {path.name for path in (ROOT / "figures").iterdir()}
    stems = {name.rpartition(".")[0] for name in files}
    assert stems <= known and files == {f"{stem}.{suffix}" for stem in stems for suffix in ("svg", "png")}


@pytest.mark.parametrize("name", [name for name in prose() if not name.startswith("params")])
def test_no_interval_is_typed_by_hand(name):
    assert not BRACKETS.findall(prose()[name])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_result_is_typed_into_a_notebook(path):
    """Results are printed from tables, so that they stay true. Numbers of papers are marked as such or in NO_RESULT."""
    for paragraph in re.split(r"\n\n|\n(?=\* )", markdown(path)):
        theirs = re.match(r"\*\*(?:The paper\.|What is known)|", paragraph)[0] or "ublished" in paragraph
        found = [] if theirs else PERCENT.findall(words(paragraph).replace(words(WHAT_THEY_ARE[1:]), ""))
        assert set(found) <= set(NO_RESULT.get(path.stem, [])), paragraph


@pytest.mark.parametrize("number", HERE)
def test_the_text_beside_a_figure_was_written_for_its_tables(number, committed, tmp_path):
    there = tables_of(number, committed)
    assert WRITTEN_FOR[number] == there, f"the tables of figure {number} changed: read its text, then note {there!r}"
    assert HERE[number] in words_of(number, committed) and HERE[number] not in words_of(number, tmp_path)


def test_no_result_is_typed_beside_a_figure():
    counted = r"\d+ of (?:the )?\d+|\d[\d.]* times"
    assert not [said for said in HERE.values() if PERCENT.findall(said) or re.findall(counted, said)]


def test_what_brackets_are_is_said_where_they_are_shown():
    results = words((ROOT / "results" / "README.md").read_text())
    assert results.count(words(CONVENTION)) == 2  # once with the tickets, once with the scorecard
    assert "[95% intervals over trials](results/README.md#what-was-found)" in (ROOT / "README.md").read_text()
    for path in NOTEBOOKS:
        cells = json.loads(path.read_text())["cells"]
        texts = "".join("".join(o.get("text", [])) for c in cells for o in c.get("outputs", []))
        if BRACKETS.search(texts + printed(path)):
            assert words(WHAT_THEY_ARE[1:]) in words(markdown(path)), path.name
