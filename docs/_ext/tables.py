"""Tables and sentences of the documentation, as Markdown, made at build time of what the project holds.

Every function of `PAGES` can be called in a page as `{{ name(...) }}`. None of them trains or draws anything.
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
from lthcore import arms, cli, models, settings
from lthcore.analysis.statistics import CONVENTION
from lthcore.pruning import criteria, saliency, units
from lthcore.registry import CRITERIA, MODELS
from lthcore.report import readme, scorecard
from lthcore.report.claims import NOT_RUN, load_claims
from lthcore.report.comparisons import runs_of
from lthcore.report.figure_specs import FIGURES, LENET_RUN, NOTEBOOK
from lthcore.report.paper_figures import describe, largest_run, variants
from lthcore.report.reproductions import reproductions
from lthcore.report.studies import COURSE, STUDIES
from lthcore.runs.experiments import PROFILES, load_experiments
from lthcore.runs.files import read_record, read_table
from lthcore.runs.schemas import CURVES, ROUNDS
from lthcore.sources.catalogue import DATASETS

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "results"
REGISTERED = (criteria, saliency, units, models)  # importing these fills the registries
GRADES = ("reproduced", "differs", "undecided", NOT_RUN)
REPOSITORY = re.search(r'^Repository = "(.+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)[1]


def first_line(docstring: str | None) -> str:
    """The first sentence or paragraph of a docstring, in one line."""
    return " ".join((docstring or "").strip().split("\n\n")[0].split())


def table(head: tuple[str, ...], rows: list[tuple]) -> str:
    """A Markdown table, whose cells may hold Markdown but no line breaks."""
    cells = [[str(cell).replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [list(head), ["---"] * len(head), *cells])


def file(path: str | Path, text: str = "") -> str:
    """A link to a file or folder of the repository. Raises ValueError for one that is not there."""
    path = Path(path)
    path = path.relative_to(ROOT) if path.is_absolute() else path
    if not (ROOT / path).exists():
        raise ValueError(f"documentation: there is no {path}")
    return f"[{text or f'`{path}`'}]({REPOSITORY}/{'tree' if (ROOT / path).is_dir() else 'blob'}/main/{path})"


def convention() -> str:
    """What brackets are."""
    return CONVENTION


def findings(*names: str) -> str:
    """The sentences of studies (`tickets`: LeNet's tickets, `convolutional`: those of convolutions), as a list."""
    found = [line for name in names for line in readme.found_in(name, RESULTS)]
    return "\n".join(f"* {line}" for line in found) or "Nothing has been run of this yet."


# the paper and the claims


@cache
def card() -> pd.DataFrame:
    """results/claims.csv as it is committed, with the word of each grade."""
    grades = pd.read_csv(RESULTS / "claims.csv").fillna({"unit": ""})
    return grades.assign(word=grades["grade"].astype(str).str.split(" (", regex=False).str[0])


def grade_counts() -> str:
    """How many parts of claims got which grade, of those that need a training."""
    words = Counter(card()[card()["run"].notna()]["word"])
    return ", ".join(f"{words[word]} {word}" for word in GRADES if words[word])


def _trained(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["run"].notna() & (rows["word"] != NOT_RUN)]


def graded_claims() -> str:
    """Every claim that has been measured: the paper's words, ours, the prediction and the grade."""
    return _claims(_trained(card()))


def arithmetic_claims() -> str:
    """What needs no training."""
    return _claims(card()[card()["run"].isna()], trained=False)


def bars(*names: str) -> str:
    """What an earlier system published, as claims: its words, ours and the grade; what has not run is named."""
    rows = card()[card()["id"].isin(names)]
    missing = sorted(set(names) - set(_trained(rows)["id"]))
    rest = f"\n\nNot run yet: {', '.join(missing)} ([the paper side by side](paper.md) has them)." if missing else ""
    return (_claims(_trained(rows), published="published") if len(_trained(rows)) else "") + rest


def claims_not_run() -> str:
    """What has not been run yet, with what is expected."""
    rows = card()[card()["run"].notna() & (card()["word"] == NOT_RUN)]
    lines, said = [], load_claims()
    for name, parts in rows.groupby("id", sort=False):
        first = parts.iloc[0]
        predicted = _predicted(said[name], parts) or "none written down"
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
        line = (f"**{name}** {first['claim']}", first["paper"], ours, grades)
        if trained:
            run = f"`{first['run']}`, `{first['profile']}`, n = {first['n']:.0f}"
            line += (_predicted(said[name], parts) or "none", first["tolerance_fixed"], run)
        lines.append(line)
    head = ("claim", published, "here", "status")
    return table(head + (("our prediction", "its tolerance was fixed", "run") if trained else ()), lines)


def _graded(row: pd.Series) -> str:
    if row["word"] != "undecided":
        return f"{row['part']} **{row['word']}**{str(row['grade']).removeprefix(row['word'])}"
    return f"{row['part']} **undecided** ({scorecard.what_would_tell(row)})"


def _predicted(claim: dict, parts: pd.DataFrame) -> str:
    """The prediction of a claim in its units, with its reason."""
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
    """This lab beside other reproductions."""
    return scorecard.table_of(reproductions(RESULTS))


def dense_networks() -> str:
    """The dense networks that gains are over."""
    return scorecard.table_of(scorecard.baselines(RESULTS, _trained(card())))


def paper_figures_status() -> str:
    """Every figure of the paper: what it is drawn of, and whether there are tables."""
    rows = []
    for number, spec in FIGURES.items():
        drawn = f"fig{number:02}"
        status = f"[drawn](gallery/figures.md#{drawn})" if (ROOT / "figures" / f"{drawn}.png").exists() else NOT_RUN
        runs = ", ".join(file(f"params/{NOTEBOOK}/{run}.yaml", run) for run in spec.runs)
        rows.append((number, spec.title, runs, ", ".join(spec.arms), status))
    return table(("figure", "shows", "runs", "arms", "status"), rows)


def runs_missing() -> str:
    """The params files of the paper's figures that have no table beyond profile `smoke`."""
    runs = dict.fromkeys(run for spec in FIGURES.values() for run in spec.runs)
    missing = [r for r in runs if not any(largest_run(RESULTS, name, (), PROFILES[1:]) for name in variants(r))]
    return ", ".join(f"`{run}`" for run in missing) or "none"


def published_numbers(study: str) -> str:
    """What was published beside params/published.yaml's study, in percent of test images."""
    published = yaml.safe_load((ROOT / "params" / "published.yaml").read_text(encoding="utf-8"))[study]
    words = {"first": "first published (%)", "later": "a later version (%)", "spread": "its spread", "n": "its runs"}
    rows = [(f"`{name}`", *(said.get(key, "") for key in words)) for name, said in published.items()]
    return table(("experiment", *words.values()), rows)


# figures and studies


def _run_line(folder: Path) -> str:
    rounds = read_table(folder, "rounds.csv")
    path = folder.relative_to(ROOT)
    return f"* {file(path / 'rounds.csv')}: {describe(folder, rounds)}; {file(path / 'run.json', 'run.json')}"


def _plain(docstring: str | None) -> str:
    return (first_line(docstring) or "").replace("*", "\\*").replace("_", "\\_")


def figures() -> str:
    """Every figure that is there, in the paper's order and then by study: picture, caption, and its tables."""
    parts = []
    for number, spec in FIGURES.items():
        folders = (largest_run(RESULTS, name, spec.arms, PROFILES[1:]) for run in spec.runs for name in variants(run))
        shown = [folder for folder in folders if folder]
        named = ", ".join(arms.arm_of(arm).label for arm in spec.arms)
        caption = f"{named.capitalize()}: {describe(shown[0], read_table(shown[0], 'rounds.csv'))}." if shown else ""
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
        f":::{{dropdown}} The tables behind it ({len(runs)} {'run' if len(runs) == 1 else 'runs'})",
        "\n".join(_run_line(folder) for folder in runs) or "They are made by its notebook.", ":::", "",
    ]  # fmt: skip


def title_of(notebook: str) -> str:
    """The title of a notebook."""
    return _prose(notebook)[0].removeprefix("# ").strip()


@cache
def _prose(notebook: str) -> list[str]:
    cells = json.loads((ROOT / "notebooks" / f"{notebook}.ipynb").read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(c["source"]) + "\n" for c in cells if c["cell_type"] == "markdown").splitlines()


def _question(notebook: str) -> str:
    """The first paragraph of a notebook that is neither its title nor its badge."""
    text = "\n".join(_prose(notebook)[1:])
    for paragraph in filter(None, map(str.strip, text.split("\n\n"))):
        if not paragraph.startswith(("[![", "![", "#", "*Chapter", "<", "[Open", "```", "$$", "|")):
            plain = re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", " ".join(paragraph.split()))
            return _first_sentences(re.sub(r"^\*\*The question\.?\*\*\s*", "", plain))
    return ""


def _first_sentences(text: str, enough: int = 140) -> str:
    """As many whole sentences as it takes to have said enough characters."""
    said = ""
    for sentence in re.split(r"(?<=[.?!])\s+(?=[A-Z*`])", text):
        said = f"{said} {sentence}".strip()
        if len(said) >= enough:
            break
    return said


PICTURES = {  # of notebooks that no study is named after, and where a study's first figure is not its best
    "quickstart": "fig03", "iterative_pruning": "fig04", "paper_figures": "fig12", "claims": "fig09",
    "your_own_model": "fig25", "dynamic_pruning": "dynamic_training", "dynamic_summary": "dynamic_sparsities",
    "take_home": "fig14", "movement_pruning": "movement_arms", "ticket_structure": "ticket_pixels",
}  # fmt: skip


def notebooks() -> list[str]:
    """The names of all notebooks in the order of the course."""
    return list(COURSE)


def picture_of(notebook: str) -> str:
    """The figure on a notebook's card; empty where there is none."""
    names = [PICTURES.get(notebook, ""), *(STUDIES[notebook].figures if notebook in STUDIES else ())]
    return next((name for name in names if name and (ROOT / "figures" / f"{name}.png").exists()), "")


def notebook_cards() -> str:
    """A card for each notebook, with a picture, its question and a link."""
    parts = ["::::{grid} 1 2 2 2", ":gutter: 3", ""]
    for number, name in enumerate(notebooks(), 1):
        picture = picture_of(name)
        parts += [f":::{{grid-item-card}} {number}. {title_of(name)}", f":link: ../notebooks/{name}", ":link-type: doc"]
        parts += [f":img-bottom: ../figures/{picture}.png"] if picture else []
        parts += ["", _question(name), ":::", ""]
    return "\n".join([*parts, "::::"])


def notebook_toctree() -> str:
    """The notebooks as a table of contents."""
    return "\n".join(["```{toctree}", ":hidden:", ""] + [f"../notebooks/{name}" for name in notebooks()] + ["```"])


def studies() -> str:
    """Every study: its question, its notebook, what is run of it at which profile, and what the scorecard says."""
    rows = []
    for name in STUDIES:
        done = Counter(folder.parents[1].name for folder in runs_of(RESULTS, name).values())
        planned = sum(len(load_experiments(path, "paper")) for path in (ROOT / "params" / name).glob("*.yaml"))
        said = ", ".join(f"{done[profile]} at `{profile}`" for profile in reversed(PROFILES) if done[profile])
        rows.append((f"[{title_of(name)}](notebooks/{name}.ipynb)", f"{said or 'none'}, of {planned}", _status(name)))
    return table(("study", "experiments that are run", "its claims in the scorecard"), rows)


def _status(study: str) -> str:
    runs = card()["run"].fillna("")
    mine = card()[runs.str.startswith(f"{study}/") if study != NOTEBOOK else (runs != "") & ~runs.str.contains("/")]
    words = Counter(mine["word"])
    return ", ".join(f"{words[word]} {word}" for word in GRADES if words[word]) or "no claim"


# settings, columns and what can be named


def settings_table(name: str, beside: str = "") -> str:
    """The settings of a class of lthcore.settings, without those of another that it adds to."""
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
    """The data sets that are known by name."""
    rows = [
        (f"`{d.name}`", f"{d.n_train:,}", f"{d.n_test:,}", " x ".join(map(str, d.shape)), d.classes)
        for d in DATASETS.values()
    ]
    return table(("name", "training images", "test images", "channels x height x width", "classes"), rows)


def architectures() -> str:
    """The networks that are known by name."""
    return table(("name", "what it is"), [(f"`{name}`", _plain(model.__doc__)) for name, model in MODELS.items()])


def criteria_table() -> str:
    """The criteria of pruning."""
    rows = [
        (f"`{c.name}`", c.label, c.prunes, f"`{first_line(c.score.__doc__)}`" if "|" in (c.score.__doc__ or "") else
         _plain(c.score.__doc__))
        for c in CRITERIA.values()
    ]  # fmt: skip
    return table(("name", "label in figures", "prunes", "what it is"), rows)


def arms_table() -> str:
    """The arms of a search."""
    rows = [
        (f"`{a.name}`", a.label, f"`{a.masks}`", f"`{a.weights}`", f"`{a.drawn}`" if a.drawn else "once")
        for a in arms.ARMS.values()
    ]
    return table(("arm", "label in figures", "its masks come from", "it starts from", "drawn in each trial"), rows)


@cache
def explained() -> dict[str, dict]:
    """docs/_ext/columns.yaml: table -> what a row is, and its columns with what they mean."""
    return yaml.safe_load((ROOT / "docs" / "_ext" / "columns.yaml").read_text(encoding="utf-8"))


def columns() -> str:
    """Every table that results/ may hold, with its columns. Raises ValueError where one is not explained."""
    if wrong := [name for name in explained() if list(explained()[name]["columns"]) != columns_there(name)]:
        raise ValueError(f"documentation: docs/_ext/columns.yaml does not have the columns of {', '.join(wrong)}")
    parts = []
    for name, about in explained().items():
        rows = [(f"`{column}`", meaning) for column, meaning in about["columns"].items()]
        row = about["row"][0].lower() + about["row"][1:]
        parts += [f"## {name}", f"One row: {row}", table(("column", "meaning"), rows)]
    return "\n\n".join(parts)


def columns_there(name: str) -> list[str]:
    """The columns that a table has in results/, or by its schema."""
    known = {"rounds.csv": ROUNDS, "curves.csv": CURVES}
    if name in known:
        return known[name]
    with next(RESULTS.glob(f"*/*/*/{name}")).open(encoding="utf-8") as lines:
        return next(lines).strip().split(",")


def module_docstring(name: str) -> str:
    """The docstring of a module as it stands there, in a box."""
    text = ast.get_docstring(ast.parse((ROOT / name).read_text(encoding="utf-8"))) or ""
    return f"```text\n{text}\n```"


def command_help(command: str = "") -> str:
    """What `lth --help`, or `lth COMMAND --help`, prints."""
    parser = cli._parser()
    if command:
        (choices,) = (a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction))
        parser = choices[command]
        parser.epilog = None  # the examples, which stand with the whole
    parser.formatter_class = lambda prog: argparse.RawDescriptionHelpFormatter(prog, width=88)
    return f"```text\n{parser.format_help().strip()}\n```"


def commands() -> list[str]:
    """The commands of `lth`."""
    return [name for a in cli._parser()._actions if isinstance(a, argparse._SubParsersAction) for name in a.choices]


# the house


def rooms() -> str:
    """CONTRIBUTING's table of rooms."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    return re.search(r"^\| room \| holds \|\n(?:\|.*\n)+", text, re.MULTILINE)[0]


def rooms_drawing() -> str:
    """What `make rooms` prints."""
    spec = importlib.util.spec_from_file_location("test_rooms", ROOT / "tests" / "test_rooms.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return f"```text\n{module.drawing()}\n```"


def sequence_diagram() -> str:
    """CONTRIBUTING's sequence diagram as a drawing."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    mermaid = re.search(r"^```mermaid\n(.*?)^```", text, re.MULTILINE | re.DOTALL)[1]
    return f'```{{raw}} html\n<div class="wide sequence" tabindex="0">{sequence.drawn(mermaid)}</div>\n```'


def section(heading: str, path: str = "CONTRIBUTING.md") -> str:
    """A section of a Markdown file of the repository, without its heading."""
    text = (ROOT / path).read_text(encoding="utf-8")
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    if not found:
        raise ValueError(f"documentation: {path} has no section {heading!r}")
    return found[1].strip()


def engines() -> str:
    """The modules of lthcore/training/engines and what each is."""
    folder = ROOT / "lthcore" / "training" / "engines"
    rows = []
    for path in sorted(folder.glob("[a-z]*.py")):
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        rows.append((file(path, path.name), _plain(text)))
    return table(("file", "what it is"), rows)


def parameter(study: str, name: str, profile: str, setting: str) -> str:
    """The value that a params file has for a setting at a profile, of its first experiment."""
    value = getattr(load_experiments(ROOT / "params" / study / f"{name}.yaml", profile)[0].settings, setting)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


# what it cost, and what was measured


def _records() -> list[tuple[Path, dict]]:
    return [(path.parent, read_record(path.parent)) for path in sorted(RESULTS.glob("*/*/*/run.json"))]


def cost() -> str:
    """What the committed runs took, by study and profile: trainings and core-hours."""
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
    return table(("study", "profile", "runs", "trainings", "core-hours"), rows)


def core_hours() -> str:
    """Core-hours of all committed runs."""
    return f"{sum(record.get('training_seconds', 0) for _, record in _records()) / 3600:,.0f}"


def count_trainings() -> str:
    """Trainings of all committed runs."""
    return f"{sum(record['trainings_done'] for _, record in _records()):,}"


def wall_hours() -> str:
    """Hours by the clock of the committed runs whose run.json has them, and of how many runs these are."""
    known = [record["wall_seconds"] for _, record in _records() if record.get("wall_seconds")]
    return f"{sum(known) / 3600:,.0f} hours by the clock ({len(known)} of {len(_records())} runs say theirs)"


def hardware() -> str:
    """The processors and GPUs that the committed runs name."""
    found = {(r["hardware"].get("cpu"), r["hardware"].get("gpu")) for _, r in _records() if r.get("hardware")}
    return " and ".join(sorted(f"{cpu} {f'with {gpu}' if gpu else 'without a GPU'}" for cpu, gpu in found))


def compaction() -> str:
    """What results/benchmarks/cpu/compaction.json measured."""
    rows = json.loads((RESULTS / "benchmarks" / "cpu" / "compaction.json").read_text(encoding="utf-8"))["rows"]
    return table(tuple(rows[0]), [tuple(f"{v:,}" if isinstance(v, int) else v for v in row.values()) for row in rows])


def faults() -> str:
    """How many faults results/faults.json tried, and how many lost results."""
    said = json.loads((RESULTS / "faults.json").read_text(encoding="utf-8"))
    return f"{said['tried']} faults tried, {said['lost']} with a loss"


def face() -> str:
    """The public face of lthcore: each name, where it is defined, and what it is."""
    rows = []
    for name, where in lthcore._FACE.items():
        role = "class" if isinstance(getattr(lthcore, name), type) else "func"
        docstring = getattr(lthcore, name).__doc__
        rows.append((f"{{py:{role}}}`{name} <lthcore.{where}>`", f"`lthcore.{where}`", _plain(docstring)))
    return table(("name", "defined as", "what it is"), rows)


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
