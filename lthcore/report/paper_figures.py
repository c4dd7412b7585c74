"""The paper's figures (arXiv 1803.03635), drawn from the available tables: each run at its largest profile.

figure_specs.py lists the runs, arms and columns of each figure, and `params/FIGURES.md` also has the cost of the runs.
`make figures` draws all figures whose tables are available. Nothing is trained here.
"""

import re
from io import BytesIO
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from lthcore.errors import LabError
from lthcore.paths import PROFILES, project_root
from lthcore.report import layout, plots
from lthcore.report.curves import figure3
from lthcore.report.distributions import plot_distributions
from lthcore.report.figure_specs import (
    ADDED,
    FIGURES,
    INSTEAD,
    LENET,
    NAMES,
    NOTEBOOK,
    TITLES,
    TRAINED,
    WORDS,
    FigureSpec,
)
from lthcore.report.finished_runs import profile_of
from lthcore.report.paper_words import HERE, PAPER, WRITTEN_FOR
from lthcore.report.run_figures import series_of_runs
from lthcore.report.run_tables import has_whole_trial, read_whole_trials
from lthcore.runs.experiments import load_experiments
from lthcore.runs.files import digest, read_record, read_table


def params_of(run: str) -> Path:
    """Return the params file of a run in FIGURES."""
    return project_root() / "params" / NOTEBOOK / f"{run}.yaml"


def variants(run: str) -> list[str]:
    """Return `<notebook>/<variant>` for each experiment of a params file: one, or one for each label of its sweep."""
    if not params_of(run).exists():  # a user's project may lack this params file
        return [f"{NOTEBOOK}/{run}"]
    return [f"{NOTEBOOK}/{experiment.variant}" for experiment in load_experiments(params_of(run), "paper")]


def largest_run(root: Path, name: str, arms: tuple[str, ...] = (), profiles: tuple[str, ...] = PROFILES) -> Path | None:
    """Return the folder of `<notebook>/<variant>` at the largest profile that has tables of a whole trial, or None.

    With `arms`, the folder with most of these arms is preferred, even at a smaller profile. The run that INSTEAD names
    for this one is then a candidate too.
    """
    names = [name, INSTEAD[name]] if arms and name in INSTEAD else [name]
    folders = [Path(root) / profile / one for one in names for profile in reversed(profiles)]
    folders = [folder for folder in folders if has_whole_trial(folder)]
    return max(folders, key=lambda folder: len(set(arms) & _arms(folder)) if arms else 0, default=None)


def _arms(folder: Path) -> set[str]:
    """Return the arms of a run that have reached its last round."""
    rounds = read_table(folder, "rounds.csv")
    deepest = rounds.groupby("arm")["round"].max()
    return set(deepest[deepest == rounds["round"].max()].index)


def load_run(root: Path, name: str) -> tuple[dict, pd.DataFrame, pd.DataFrame]:
    """Return run.json, rounds and curves of `<notebook>/<variant>` at its largest profile.

    Raises LabError if it has no tables.
    """
    folder = largest_run(root, name)
    if folder is None:
        raise LabError(f"results: no tables of {name} under {root}; `lth run params/{name}.yaml` makes them")
    return read_record(folder), *read_whole_trials(folder)


def sources(number: int, root: Path) -> dict[str, Path]:
    """Return the runs (`<notebook>/<variant>` -> folder) that a figure is drawn from; {} if its subject has no tables.

    Smoke runs are ignored, because they only show that the code runs.
    """
    spec = FIGURES[number]
    names = _all_variants(spec)
    real = ("cpu", "paper")
    if spec.kind in ("distributions", "together"):
        name = f"{NOTEBOOK}/{spec.runs[0]}"
        places = [Path(root) / profile / name for profile in reversed(real)]
        return next(({name: place} for place in places if _has_distributions(place)), {})
    found = {name: folder for name in names if (folder := largest_run(root, name, spec.arms, real))}
    return found if found and _has_subject(spec, found) else {}


def _all_variants(spec: FigureSpec) -> list[str]:
    return [name for run in spec.runs for name in variants(run)]


def _has_distributions(folder: Path) -> bool:
    return (folder / "distributions.csv").exists() and not read_table(folder, "distributions.csv").empty


def tables_of(number: int, root: Path) -> str:
    """Return a digest of the tables that a figure is drawn from, which changes whenever one of them does."""
    names = ("rounds.csv", "curves.csv", "distributions.csv")
    folders = sources(number, root).items()
    contents = [(folder / name).read_bytes() for _, folder in folders for name in names if (folder / name).exists()]
    return digest("\n".join([run for run, _ in folders] + [digest(content) for content in contents]).encode())


def status(root: Path) -> pd.DataFrame:
    """Return a table of the paper's figures: the subject, how many of its runs have tables, and their profiles."""
    rows = []
    for number, spec in FIGURES.items():
        found = sources(number, root)
        names = spec.runs[:1] if spec.kind in ("distributions", "together") else _all_variants(spec)
        profiles = ", ".join(sorted({profile_of(folder) for folder in found.values()}))
        data = f"{len(found)} of {len(names)} runs" if found else "none"
        rows.append((f"Figure {number}", spec.title, data, profiles))
    return pd.DataFrame(rows, columns=["figure", "subject", "data", "profile"]).set_index("figure")


def draw(number: int, root: Path) -> Figure | None:
    """Draw one of the paper's figures; return None if there are no tables of its subject apart from smoke runs."""
    spec, found = FIGURES[number], sources(number, root)
    if not found:
        return None
    figure = _draw(spec, found)
    networks = {_network_of(folder) for folder in found.values()}
    is_titled = len(networks) == 1 and (spec.kind != "networks" or len(found) == 1)
    if not is_titled:
        return figure
    optimizers = {_optimizer_of(read_record(folder).get("settings", {})) for folder in found.values()}
    return layout.titled(figure, ", ".join([networks.pop(), *(optimizers if len(optimizers) == 1 else ())]))


def _optimizer_of(settings: dict) -> str:
    name = {"adam": "Adam", "sgd": "SGD", "adamw": "AdamW"}.get(settings.get("optimizer"), "unknown optimizer")
    return f"{name} with momentum {settings['momentum']:g}" if name == "SGD" and settings.get("momentum") else name


def _draw(spec: FigureSpec, found: dict[str, Path]) -> Figure:
    folder = next(iter(found.values()))
    if spec.kind in ("distributions", "together"):
        return _draw_distributions(spec, folder)
    name_of = _network_in if spec.kind == "networks" else _named
    missing = list(dict.fromkeys(name_of(name) for name in _all_variants(spec) if name not in found))
    rounds, curves = read_whole_trials(folder)
    if spec.kind == "curves":
        return figure3(rounds, curves, layout.describe(folder, spread=layout.BANDS), spec.columns[0])
    if spec.kind == "figure4":
        return plots.figure4(rounds, layout.describe(folder))
    if spec.kind == "networks" and len(found) > 1:
        return _draw_networks(spec, found, missing)
    return _draw_panels(spec, found, missing)


def _has_subject(spec: FigureSpec, found: dict[str, Path]) -> bool:
    if spec.subject in spec.runs:
        return any(name in found for name in variants(spec.subject))
    return not spec.subject or any(spec.subject in _arms(folder) for folder in found.values())


def _draw_panels(spec: FigureSpec, found: dict[str, Path], missing: list[str]) -> Figure:
    tables = {name: read_whole_trials(folder)[0] for name, folder in found.items()}
    columns = {column: TITLES[column] for column in spec.columns}
    if len(tables) == 1:
        ((name, rounds),) = tables.items()
        absent = missing + plots.absent(rounds, spec.arms)
        return plots.panels(plots.series_of(rounds, spec.arms), columns, layout.describe(found[name]), spec.x, absent)
    series = series_of_runs(
        {_named(name): rounds for name, rounds in tables.items()}, spec.arms, _named(LENET) if LENET in tables else ""
    )
    return plots.panels(series, columns, _describe_all(found), spec.x, missing)


def _draw_networks(spec: FigureSpec, found: dict[str, Path], missing: list[str]) -> Figure:
    """Draw a panel for each network and column, since networks on different data cannot share an axis."""
    across = len(spec.columns) if len(spec.columns) > 1 else min(len(found), 3)
    rows = -(-len(found) * len(spec.columns) // across)
    figure, panels = layout.new_figure(rows, across, (1.2 + 3.4 * across, 3.4 * rows))
    jobs = [(folder, column) for folder in found.values() for column in spec.columns]
    for axes, (folder, column) in zip(panels, jobs, strict=False):
        plots.plot_against_sparsity(read_whole_trials(folder)[0], column, spec.arms, axes)
        axes.set_title(_network_of(folder))
    for axes in panels[len(jobs) :]:
        axes.set_axis_off()
    layout.one_legend(figure)
    return layout.captioned(figure, _describe_all(found), missing)


def _named(name: str) -> str:
    """Return a run (`<notebook>/<variant>`) in words: its label, for a sweep, or what tells it from other runs."""
    run, _, label = name.split("/")[1].partition("-")
    if not label:
        return NAMES.get(run) or TRAINED.get(run.removesuffix("_cifar10"), run)
    for short, words in WORDS.items():
        label = re.sub(short, words, label)
    return label + ADDED.get(run, "")


def _network_in(name: str) -> str:
    """Return the network that a run of the paper (`<notebook>/<variant>`) is named after, with its data set."""
    run = name.split("/")[1].partition("-")[0]
    return TRAINED.get(run.split("_")[0], run)


def _network_of(folder: Path) -> str:
    """Return the title of a run's panel: its network and data set if known, else its folder's name."""
    network = TRAINED.get(read_record(folder).get("settings", {}).get("architecture"), folder.name)
    return f"{network}, standardised pixels" if folder.name.endswith("_standardised") else network


def _describe_all(found: dict[str, Path]) -> str:
    """Return one caption for several runs, with at most three of their captions."""
    captions = [layout.size_of(folder) for folder in found.values()]
    if len(set(captions)) == 1:
        said = captions[0]
    else:
        networks = list(map(_network_of, found.values()))
        who = networks if len(set(networks)) > 1 else map(_named, found)
        several = [f"{one}: {caption}" for one, caption in zip(who, captions, strict=True)]
        said = "; ".join(several[:3]) + ("; ..." if len(several) > 3 else "")
    return layout.describe(*found.values(), size=said)


def _draw_distributions(spec: FigureSpec, folder: Path) -> Figure:
    table = read_table(folder, "distributions.csv")
    rounds, _ = read_whole_trials(folder)
    left = rounds[rounds["arm"] == "ticket"].groupby("round")["percent_left"].mean()
    shown = {k: left[k] for k in sorted(table["round"].unique())}
    if spec.kind == "together":  # only one level, halfway along the logarithmic axis
        level = min(shown, key=lambda k: abs(shown[k] - 16.9))
        shown = {level: shown[level]}
    caption = layout.describe(folder, spread="summed over trials")
    if spec.kind == "together":
        caption = f"{shown[level]:.1f}% of weights remaining; {caption}"
    return plot_distributions(table, spec.columns, shown, caption, spec.kind == "together")


def show(number: int, root: Path) -> None:
    """Show one of the paper's figures in a notebook, or print which tables are missing.

    The image has a width of about 800 pixels and only 64 colours, so that a notebook can show every figure.
    """
    from IPython.display import Image, display  # only needed in a notebook

    figure = draw(number, root)
    if figure is None:
        print(f"{lacking(number)}: `lth run params/{NOTEBOOK}/<run>.yaml` makes them")
        return
    whole = BytesIO()
    figure.savefig(whole, dpi=85)
    plt.close(figure)
    display(Image(layout.with_colours(whole.getvalue(), 64)))


def title_of(number: int) -> str:
    """Return the number and title of one of the paper's figures, for use in text."""
    return f"Figure {number}, {FIGURES[number].title}"


def words_of(number: int, root: Path) -> str:
    """Describe one of the paper's figures in Markdown: title, what the paper shows with it, and what this lab found.

    The last part is left out if the tables below `root` are not those that it was written for.
    """
    here = f"\n\n**Here.** {HERE[number]}" if tables_of(number, root) == WRITTEN_FOR.get(number) else ""
    return f"### Figure {number}: {FIGURES[number].title}\n\n**The paper.** {PAPER[number]}{here}"


def lacking(number: int) -> str:
    """Return a message that names the missing tables of one of the paper's figures."""
    spec = FIGURES[number]
    return f"no tables of {spec.subject or ', '.join(spec.runs)} yet"
