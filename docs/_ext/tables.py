"""Tables and sentences of the documentation, as Markdown, made at build time from the files of the project.

Pages can call every function of `PAGES` as `{{ name(...) }}`. None of them trains or draws anything.
"""

import argparse
import ast
import importlib.util
import json
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pandas as pd
import sequence
import yaml
from pydantic_core import PydanticUndefined

import lthcore
from lthcore import arms, settings
from lthcore.analysis.statistics import CONVENTION
from lthcore.commands.parser import parser_of_commands
from lthcore.models import architectures
from lthcore.paths import PROFILES
from lthcore.pruning import criteria, saliency, units
from lthcore.registry import CRITERIA, MODELS
from lthcore.report import readme, scorecard
from lthcore.report.claims import NOT_RUN, load_claims
from lthcore.report.figure_specs import FIGURES, LENET_RUN, NOTEBOOK
from lthcore.report.finished_runs import runs_of
from lthcore.report.layout import describe
from lthcore.report.paper_figures import largest_run, variants
from lthcore.report.reproductions import reproductions
from lthcore.report.studies import COURSE, STUDIES
from lthcore.runs.experiments import load_experiments
from lthcore.runs.files import read_record
from lthcore.runs.schemas import CURVES, ROUNDS
from lthcore.sources.catalogue import DATASETS

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "results"
REGISTERED = (criteria, saliency, units, architectures)  # importing these fills the registries
GRADES = ("reproduced", "differs", "undecided", NOT_RUN)
REPOSITORY = re.search(r'^Repository = "(.+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)[1]


def first_line(docstring: str | None) -> str:
    """Return the first paragraph of a docstring in one line."""
    return " ".join((docstring or "").strip().split("\n\n")[0].split())


def table(head: tuple[str, ...], rows: list[tuple]) -> str:
    """Return a Markdown table. Cells may contain Markdown; line breaks in them become spaces."""
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [list(head), ["---"] * len(head), *cells])


def file(path: str | Path, text: str = "") -> str:
    """Return a link to a file or folder of the repository. Raises ValueError if it does not exist."""
    path = Path(path)
    path = path.relative_to(ROOT) if path.is_absolute() else path
    if not (ROOT / path).exists():
        raise ValueError(f"documentation: there is no {path}")
    return f"[{text or f'`{path}`'}]({REPOSITORY}/{'tree' if (ROOT / path).is_dir() else 'blob'}/main/{path})"


def convention() -> str:
    """Return the explanation of numbers in brackets."""
    return CONVENTION


def findings(*names: str) -> str:
    """Return the findings of studies as a list (`tickets`: of LeNet, `convolutional`: of convolutional networks)."""
    found = [line for name in names for line in readme.found_in(name, RESULTS)]
    return "\n".join(f"* {line}" for line in found) or "There are no results for this yet."


# the paper and the claims


@cache
def card() -> pd.DataFrame:
    """Return the committed results/claims.csv, with a column for the first word of each grade."""
    grades = pd.read_csv(RESULTS / "claims.csv").fillna({"unit": ""})
    return grades.assign(word=grades["grade"].astype(str).str.split(" (", regex=False).str[0])


def grade_counts() -> str:
    """Return how many parts of claims have each grade, among those that need training."""
    words = Counter(card()[card()["run"].notna()]["word"])
    return ", ".join(f"{words[word]} {word}" for word in GRADES if words[word])


def _trained(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["run"].notna() & (rows["word"] != NOT_RUN)]


def graded_claims() -> str:
    """Return a table of all measured claims: the paper's value, ours, the prediction and the grade."""
    return _claims(_trained(card()))


def arithmetic_claims() -> str:
    """Return a table of the claims that need no training."""
    return _claims(card()[card()["run"].isna()], trained=False)


def bars(*names: str) -> str:
    """Return a table of numbers that an earlier system published, as claims, and name those that have not been run."""
    rows = card()[card()["id"].isin(names)]
    missing = sorted(set(names) - set(_trained(rows)["id"]))
    rest = f"\n\nNot run yet: {', '.join(missing)} (listed in [the paper side by side](paper.md))." if missing else ""
    return (_claims(_trained(rows), published="published") if len(_trained(rows)) else "") + rest


def claims_not_run() -> str:
    """Return a table of the claims that have not been run yet, with our predictions."""
    rows = card()[card()["run"].notna() & (card()["word"] == NOT_RUN)]
    lines, said = [], load_claims()
    for name, parts in rows.groupby("id", sort=False):
        first = parts.iloc[0]
        predicted = _predicted(said[name], parts) or "none recorded"
        lines.append((f"**{name}** {first['claim']}", first["paper"], predicted))
    return table(("claim", "the paper", "our prediction"), lines)


def _claims(rows: pd.DataFrame, trained: bool = True, published: str = "the paper") -> str:
    said, lines = load_claims(), []
    for (name, _, _), parts in rows.groupby(["id", "run", "profile"], sort=False, dropna=False):
        first = parts.iloc[0]
        numbers = parts[parts["part"] != "direction"]
        numbers = numbers if len(numbers) else parts
        ours = "; ".join(scorecard.shown(row, "value", "low", "high") for _, row in numbers.iterrows())
        grades = "; ".join(_graded(row) for _, row in parts.iterrows())
        tolerances = "; ".join(scorecard.tolerance_of(row) for _, row in parts.iterrows())
        line = (f"**{name}** {first['claim']}", first["paper"], tolerances, ours, grades)
        if trained:
            run = f"`{first['run']}`, `{first['profile']}`, n = {first['n']:.0f}"
            line += (_predicted(said[name], parts) or "none", first["tolerance_fixed"], run)
        lines.append(line)
    head = ("claim", published, "reproduced if", "this lab", "grade")
    return table(head + (("our prediction", "tolerance fixed", "run") if trained else ()), lines)


def _graded(row: pd.Series) -> str:
    if row["word"] != "undecided":
        return f"{row['part']} **{row['word']}**{str(row['grade']).removeprefix(row['word'])}"
    return f"{row['part']} **undecided** ({scorecard.what_would_tell(row)})"


def _predicted(claim: dict, parts: pd.DataFrame) -> str:
    """Return the prediction of a claim in its units, with the reason given for it."""
    given, units_of = claim.get("predicted", {}), dict(zip(parts["part"], parts["unit"], strict=True))
    words = []
    for part in ("direction", "size", "place"):
        if part in given and part in units_of:
            if part == "direction":
                words.append(f"direction {'more' if float(given[part]) > 0 else 'less'} than 0")
                continue
            row = pd.Series({"unit": units_of[part], "value": float(given[part]), "n": float("nan")})
            words.append(f"{part} {scorecard.shown(row, 'value')}")
    why = given.get("why", "")
    return f"{'; '.join(words)}{f' ({why})' if why and words else ''}"


def others() -> str:
    """Return a table of this lab beside other reproductions."""
    return scorecard.table_of(reproductions(RESULTS))


def dense_networks() -> str:
    """Return a table of the dense networks that gains are relative to."""
    return scorecard.table_of(scorecard.baselines(RESULTS, _trained(card())))


def paper_figures_status() -> str:
    """Return a table of the paper's figures: their runs and arms, and whether they are drawn."""
    rows = []
    for number, spec in FIGURES.items():
        drawn = f"fig{number:02}"
        status = f"[drawn](gallery/figures.md#{drawn})" if (ROOT / "figures" / f"{drawn}.png").exists() else NOT_RUN
        runs = ", ".join(file(f"params/{NOTEBOOK}/{run}.yaml", run) for run in spec.runs)
        rows.append((number, spec.title, runs, ", ".join(spec.arms), status))
    return table(("figure", "shows", "runs", "arms", "status"), rows)


def runs_missing() -> str:
    """Return the names of the params files of the paper's figures that have no table beyond profile `smoke`."""
    runs = dict.fromkeys(run for spec in FIGURES.values() for run in spec.runs)
    missing = [r for r in runs if not any(largest_run(RESULTS, name, (), PROFILES[1:]) for name in variants(r))]
    return ", ".join(f"`{run}`" for run in missing) or "none"


def published_numbers(study: str) -> str:
    """Return the published numbers of a study in params/published.yaml, in percent of test images."""
    published = yaml.safe_load((ROOT / "params" / "published.yaml").read_text(encoding="utf-8"))[study]
    words = {
        "first": "first version (%)",
        "later": "later version (%)",
        "spread": "spread of the later version",
        "n": "runs of the later version",
    }
    rows = [(f"`{name}`", *(said.get(key, "") for key in words)) for name, said in published.items()]
    return table(("experiment", *words.values()), rows)


# figures and studies


def _run_line(folder: Path) -> str:
    path = folder.relative_to(ROOT)
    return f"* {file(path / 'rounds.csv')}: {describe(folder)}; {file(path / 'run.json', 'run.json')}"


def _plain(docstring: str | None) -> str:
    return (first_line(docstring) or "").replace("*", "\\*").replace("_", "\\_")


def figures() -> str:
    """Return every figure that is drawn, in the paper's order and then by study: picture, caption, and tables."""
    parts = []
    for number, spec in FIGURES.items():
        folders = (largest_run(RESULTS, name, spec.arms, PROFILES[1:]) for run in spec.runs for name in variants(run))
        shown = [folder for folder in folders if folder]
        named = ", ".join(arms.arm_of(arm).label for arm in spec.arms)
        caption = f"{named.capitalize()}: {describe(shown[0])}." if shown else ""
        parts += _figure(f"fig{number:02}", f"Figure {number}: {spec.title}", caption, shown)
    for study in STUDIES.values():
        runs = list(runs_of(RESULTS, study.name).values())
        for name, draw in study.figures.items():
            title = name.replace("_", " ").capitalize()
            parts += _figure(name, title, _plain(draw.__doc__), runs, study.name)
    return "\n".join(parts)


def _figure(name: str, title: str, caption: str, runs: list[Path], study: str = "") -> list[str]:
    if not (ROOT / "figures" / f"{name}.png").exists():
        return []
    what = f"{caption} " if caption else ""
    notebook = study or "paper_figures"
    notebook = notebook if (ROOT / "notebooks" / f"{notebook}.ipynb").exists() else "paper_figures"
    return [
        f"({name})=", f"## {title}", "",
        f":::{{figure}} ../figures/{name}.png", f":alt: {title}", f":target: ../_images/{name}.png", "",
        f"{what}See [{title_of(notebook)}](../notebooks/{notebook}.ipynb).", ":::", "",
        f":::{{dropdown}} Source tables ({len(runs)} {'run' if len(runs) == 1 else 'runs'})",
        "\n".join(_run_line(folder) for folder in runs) or "The notebook computes them.", ":::", "",
    ]  # fmt: skip


def title_of(notebook: str) -> str:
    """Return the title of a notebook."""
    return _prose(notebook)[0].removeprefix("# ").strip()


@cache
def _prose(notebook: str) -> list[str]:
    cells = json.loads((ROOT / "notebooks" / f"{notebook}.ipynb").read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(c["source"]) + "\n" for c in cells if c["cell_type"] == "markdown").splitlines()


def _question(notebook: str) -> str:
    """Return the first sentences of a notebook's text, without title and badge."""
    text = "\n".join(_prose(notebook)[1:])
    for paragraph in filter(None, map(str.strip, text.split("\n\n"))):
        if not paragraph.startswith(("[![", "![", "#", "*Chapter", "<", "[Open", "```", "$$", "|")):
            plain = re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", " ".join(paragraph.split()))
            return _first_sentences(re.sub(r"^\*\*The question\.?\*\*\s*", "", plain))
    return ""


def _first_sentences(text: str, enough: int = 140) -> str:
    """Return the first whole sentences that together have at least `enough` characters."""
    said = ""
    for sentence in re.split(r"(?<=[.?!])\s+(?=[A-Z*`])", text):
        said = f"{said} {sentence}".strip()
        if len(said) >= enough:
            break
    return said


PICTURES = {  # for notebooks without a study of that name, and where another figure than the study's first suits better
    "quickstart": "fig03", "iterative_pruning": "fig04", "paper_figures": "fig12", "claims": "fig09",
    "your_own_model": "fig25", "dynamic_pruning": "dynamic_training", "dynamic_summary": "dynamic_sparsities",
    "take_home": "fig14", "movement_pruning": "movement_arms", "ticket_structure": "ticket_pixels",
}  # fmt: skip


def notebooks() -> list[str]:
    """Return the names of all notebooks in the order of the course."""
    return list(COURSE)


def picture_of(notebook: str) -> str:
    """Return the name of the figure on a notebook's card, or an empty string if there is none."""
    names = [PICTURES.get(notebook, ""), *(STUDIES[notebook].figures if notebook in STUDIES else ())]
    return next((name for name in names if name and (ROOT / "figures" / f"{name}.png").exists()), "")


def notebook_cards() -> str:
    """Return a card for each notebook, with a picture, its question and a link."""
    parts = ["::::{grid} 1 2 2 2", ":gutter: 3", ""]
    for number, name in enumerate(notebooks(), 1):
        picture = picture_of(name)
        parts += [f":::{{grid-item-card}} {number}. {title_of(name)}", f":link: ../notebooks/{name}", ":link-type: doc"]
        parts += [f":img-bottom: ../figures/{picture}.png"] if picture else []
        parts += ["", _question(name), ":::", ""]
    return "\n".join([*parts, "::::"])


def notebook_toctree() -> str:
    """Return a table of contents of the notebooks."""
    return "\n".join(["```{toctree}", ":hidden:", ""] + [f"../notebooks/{name}" for name in notebooks()] + ["```"])


def studies() -> str:
    """Return a table of the studies: their notebooks, the experiments run at each profile, and the grades of claims."""
    rows = []
    for name in STUDIES:
        done = Counter(folder.parents[1].name for folder in runs_of(RESULTS, name).values())
        planned = sum(len(load_experiments(path, "paper")) for path in (ROOT / "params" / name).glob("*.yaml"))
        said = ", ".join(f"{done[profile]} at `{profile}`" for profile in reversed(PROFILES) if done[profile])
        rows.append((f"[{title_of(name)}](notebooks/{name}.ipynb)", f"{said or 'none'}, of {planned}", _status(name)))
    return table(("study", "experiments run", "grades of its claims"), rows)


def _status(study: str) -> str:
    runs = card()["run"].fillna("")
    mine = card()[runs.str.startswith(f"{study}/") if study != NOTEBOOK else (runs != "") & ~runs.str.contains("/")]
    words = Counter(mine["word"])
    return ", ".join(f"{words[word]} {word}" for word in GRADES if words[word]) or "no claim"


# settings, columns and what can be named


def settings_table(name: str, beside: str = "") -> str:
    """Return a table of the settings of a class, such as Recipe, without those that its base class `beside` has."""
    fields = getattr(settings, name).model_fields
    known = getattr(settings, beside).model_fields if beside else {}
    rows = []
    for field, about in fields.items():
        if field not in known:
            default = "required" if about.default is PydanticUndefined else f"`{about.default!r}`"
            kind = str(about.annotation).replace("typing.", "")
            kind = about.annotation.__name__ if isinstance(about.annotation, type) else kind
            rows.append((f"`{field}`", f"`{kind}`", default, about.description or ""))
    return table(("setting", "type", "default", "meaning"), rows)


def datasets() -> str:
    """Return a table of the data sets that are known by name."""
    rows = [
        (f"`{d.name}`", f"{d.n_train:,}", f"{d.n_test:,}", " x ".join(map(str, d.shape)), d.classes)
        for d in DATASETS.values()
    ]
    return table(("name", "training images", "test images", "channels x height x width", "classes"), rows)


def architectures() -> str:
    """Return a table of the networks that are known by name."""
    return table(("name", "description"), [(f"`{name}`", _plain(model.__doc__)) for name, model in MODELS.items()])


def criteria_table() -> str:
    """Return a table of the pruning criteria."""
    rows = [
        (f"`{c.name}`", c.label, c.prunes, f"`{first_line(c.score.__doc__)}`" if "|" in (c.score.__doc__ or "") else
         _plain(c.score.__doc__))
        for c in CRITERIA.values()
    ]  # fmt: skip
    return table(("name", "label in figures", "prunes", "description"), rows)


def arms_table() -> str:
    """Return a table of the arms of a search."""
    rows = [
        (f"`{a.name}`", a.label, f"`{a.masks}`", f"`{a.weights}`", f"`{a.drawn}`" if a.drawn else "once")
        for a in arms.ARMS.values()
    ]
    return table(("arm", "label in figures", "source of masks", "starting weights", "draws in each trial"), rows)


@cache
def explained() -> dict[str, dict]:
    """Return docs/_ext/columns.yaml: for each table the meaning of a row and of each column."""
    return yaml.safe_load((ROOT / "docs" / "_ext" / "columns.yaml").read_text(encoding="utf-8"))


def columns() -> str:
    """Return a section for each table in results/ that explains its columns. Raises ValueError if one is missing."""
    if wrong := [name for name in explained() if list(explained()[name]["columns"]) != columns_there(name)]:
        raise ValueError(f"documentation: docs/_ext/columns.yaml does not have the columns of {', '.join(wrong)}")
    parts = []
    for name, about in explained().items():
        rows = [(f"`{column}`", meaning) for column, meaning in about["columns"].items()]
        row = about["row"][0].lower() + about["row"][1:]
        parts += [f"## {name}", f"One row: {row}", table(("column", "meaning"), rows)]
    return "\n\n".join(parts)


def columns_there(name: str) -> list[str]:
    """Return the columns of a table, according to its schema or to a file in results/."""
    known = {"rounds.csv": ROUNDS, "curves.csv": CURVES}
    if name in known:
        return known[name]
    with next(RESULTS.glob(f"*/*/*/{name}")).open(encoding="utf-8") as lines:
        return next(lines).strip().split(",")


def module_docstring(name: str) -> str:
    """Return the docstring of a module verbatim, in a box."""
    text = ast.get_docstring(ast.parse((ROOT / name).read_text(encoding="utf-8"))) or ""
    return f"```text\n{text}\n```"


def command_help(command: str = "") -> str:
    """Return the output of `lth --help` or `lth COMMAND --help`."""
    parser = parser_of_commands()
    if command:
        (choices,) = (a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction))
        parser = choices[command]
        parser.epilog = None  # the examples, which `lth --help` shows already
    parser.formatter_class = lambda prog: argparse.RawDescriptionHelpFormatter(prog, width=88)
    return f"```text\n{parser.format_help().strip()}\n```"


def commands() -> list[str]:
    """Return the commands of `lth`."""
    return [
        name for a in parser_of_commands()._actions if isinstance(a, argparse._SubParsersAction) for name in a.choices
    ]


# the house


def rooms() -> str:
    """Return CONTRIBUTING's table of rooms."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return re.search(r"^\| room \| holds \|\n(?:\|.*\n)+", text, re.MULTILINE)[0]


def rooms_drawing() -> str:
    """Return the output of `make rooms`."""
    spec = importlib.util.spec_from_file_location("test_rooms", ROOT / "tests" / "test_rooms.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return f"```text\n{module.drawing()}\n```"


def sequence_diagram() -> str:
    """Return CONTRIBUTING's sequence diagram as a drawing."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    mermaid = re.search(r"^```mermaid\n(.*?)^```", text, re.MULTILINE | re.DOTALL)[1]
    return f'```{{raw}} html\n<div class="wide sequence" tabindex="0">{sequence.drawn(mermaid)}</div>\n```'


def section(heading: str, path: str = "CONTRIBUTING.md") -> str:
    """Return a section of a Markdown file of the repository, without its heading."""
    text = (ROOT / path).read_text(encoding="utf-8")
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    if not found:
        raise ValueError(f"documentation: {path} has no section {heading!r}")
    return found[1].strip()


def engines() -> str:
    """Return a table of the modules of lthcore/training/engines with their descriptions."""
    folder = ROOT / "lthcore" / "training" / "engines"
    rows = []
    for path in sorted(folder.glob("[a-z]*.py")):
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        rows.append((file(path, path.name), _plain(text)))
    return table(("file", "description"), rows)


def parameter(study: str, name: str, profile: str, setting: str) -> str:
    """Return the value of a setting in the first experiment of a params file at a profile."""
    value = getattr(load_experiments(ROOT / "params" / study / f"{name}.yaml", profile)[0].settings, setting)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


# what it cost, and what was measured


def _records() -> list[tuple[Path, dict]]:
    return [(path.parent, read_record(path.parent)) for path in sorted(RESULTS.glob("*/*/*/run.json"))]


def cost() -> str:
    """Return a table of the cost of the committed runs, by study and profile: training runs and core-hours."""
    rows, whole = [], Counter()
    for profile in reversed(PROFILES):
        for study in STUDIES:
            mine = [r for folder, r in _records() if folder.parents[1].name == profile and folder.parent.name == study]
            if mine:
                seconds = sum(r.get("training_seconds", 0) for r in mine)
                trainings = sum(r["trainings_done"] for r in mine)
                whole.update(runs=len(mine), trainings=trainings, seconds=seconds)
                rows.append((f"`{study}`", f"`{profile}`", len(mine), f"{trainings:,}", f"{seconds / 3600:,.1f}"))
    rows.append(("all", "", whole["runs"], f"{whole['trainings']:,}", f"**{whole['seconds'] / 3600:,.1f}**"))
    return table(("study", "profile", "experiments", "training runs", "core-hours"), rows)


def core_hours() -> str:
    """Return the core-hours of all committed runs."""
    return f"{sum(record.get('training_seconds', 0) for _, record in _records()) / 3600:,.0f}"


def count_trainings() -> str:
    """Return the number of training runs in all committed runs."""
    return f"{sum(record['trainings_done'] for _, record in _records()):,}"


def wall_hours() -> str:
    """Return the wall-clock hours of the committed runs, and how many of these runs record them in run.json."""
    known = [record["wall_seconds"] for _, record in _records() if record.get("wall_seconds")]
    return f"{sum(known) / 3600:,.0f} hours of wall-clock time (recorded for {len(known)} of {len(_records())} runs)"


def hardware() -> str:
    """Return the processors and GPUs that the committed runs record."""
    found = {(r["hardware"].get("cpu"), r["hardware"].get("gpu")) for _, r in _records() if r.get("hardware")}
    return " and ".join(sorted(f"{cpu} {f'with {gpu}' if gpu else 'without a GPU'}" for cpu, gpu in found))


def compaction() -> str:
    """Return a table of the measurements in results/benchmarks/cpu/compaction.json."""
    rows = json.loads((RESULTS / "benchmarks" / "cpu" / "compaction.json").read_text(encoding="utf-8"))["rows"]
    return table(tuple(rows[0]), [tuple(f"{v:,}" if isinstance(v, int) else v for v in row.values()) for row in rows])


def faults() -> str:
    """Return how many faults were tried according to results/faults.json, and how many of them lost results."""
    said = json.loads((RESULTS / "faults.json").read_text(encoding="utf-8"))
    return f"{said['tried']} faults tried, {said['lost']} of which lost results"


def face() -> str:
    """Return a table of the public names of lthcore, with the place of their definition and a description."""
    rows = []
    for name, where in lthcore._FACE.items():
        role = "class" if isinstance(getattr(lthcore, name), type) else "func"
        docstring = getattr(lthcore, name).__doc__
        rows.append((f"{{py:{role}}}`{name} <lthcore.{where}>`", f"`lthcore.{where}`", _plain(docstring)))
    return table(("name", "defined as", "description"), rows)


PAGES = {"lenet_run": LENET_RUN} | {
    function.__name__: function
    for function in (
        bars, convention, findings, file, grade_counts, graded_claims, arithmetic_claims, claims_not_run,
        dense_networks, others,
        paper_figures_status, runs_missing, published_numbers, figures, notebook_cards, notebook_toctree,
        studies, settings_table, datasets, architectures, criteria_table, arms_table, columns, module_docstring,
        command_help, commands, rooms, rooms_drawing, sequence_diagram, section, engines, parameter, cost, core_hours,
        count_trainings, wall_hours, hardware, compaction, faults, face,
    )
}  # fmt: skip
