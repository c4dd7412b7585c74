"""The paper's figures (arXiv 1803.03635), drawn from the available tables: each run at its largest profile.

figure_specs.py lists the runs, arms and columns of each figure, and `params/FIGURES.md` also has the cost of the runs.
`make figures` draws all figures whose tables are available. Nothing is trained here.
"""

import re
from collections.abc import Iterable
from io import BytesIO
from itertools import cycle
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
import torch
from matplotlib.figure import Figure

from lthcore.errors import LabError
from lthcore.lottery.search import planned
from lthcore.paths import PROFILES, project_root
from lthcore.report import layout, plots
from lthcore.report.curves import figure3
from lthcore.report.figure_specs import (
    ADDED,
    FIGURES,
    INSTEAD,
    LENET,
    NAMES,
    NOTEBOOK,
    PAIR,
    TITLES,
    TRAINED,
    WORDS,
    FigureSpec,
)
from lthcore.report.finished_runs import profile_of
from lthcore.report.paper_words import HERE, PAPER
from lthcore.report.plots import Series
from lthcore.report.run_tables import has_whole_trial, read_whole_trials
from lthcore.runs.estimate import seconds_of
from lthcore.runs.experiments import load_experiments
from lthcore.runs.files import has_results, read_record, read_table
from lthcore.runs.provenance import hardware
from lthcore.runs.timing import timed
from lthcore.settings import EXTENT
from lthcore.training.parallel import worker_count

FEW = 3  # maximum number of settings in the label of a line
BARS, BANDS = "bars: range of trials", "bands: range of trials"


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


def describe(*folders: Path, size: str = "", spread: str = BARS) -> str:
    """Return a caption for runs: their `size` (default: `layout.size_of`), what shows the spread, and their place."""
    if not all(map(read_record, folders)):
        return "no run.json beside this table: settings unknown"
    return f"{size or layout.size_of(*folders)}; {spread}; tables: {layout.place_of(*folders)}"


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
        return figure3(rounds, curves, describe(folder, spread=BANDS), spec.columns[0])
    if spec.kind == "figure4":
        return plots.figure4(rounds, describe(folder))
    if spec.kind == "networks" and len(found) > 1:
        return _draw_networks(spec, found, missing)
    return _draw_panels(spec, found, missing)


def figures_of(folder: Path) -> dict[str, Figure]:
    """Return figures of any run, by name.

    `rounds` shows the early stop and the accuracies of all arms by weights remaining. `curves`, only for runs with
    tickets, shows the test accuracy during training. Raises LabError if no training run is done yet.
    """
    if not has_results(folder):
        raise LabError(f"figures: no training of {folder} is done yet; `lth run` goes on with it")
    rounds, curves = read_whole_trials(folder)
    columns = {column: TITLES[column] for column in (*PAIR, "final_test_accuracy") if rounds[column].notna().any()}
    record = read_record(folder)
    done, asked = record.get("trainings_done", 0), record.get("trainings_planned", 0)
    so_far = f"; {done} of {asked} trainings done" if done < asked else ""
    figures = {"rounds": plots.panels(plots.series_of(rounds), columns, describe(folder) + so_far)}
    if (rounds["arm"] == "ticket").any():
        figures["curves"] = figure3(rounds, curves, describe(folder, spread=BANDS) + so_far)
    return figures


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
        return plots.panels(plots.series_of(rounds, spec.arms), columns, describe(found[name]), spec.x, absent)
    series = _series_of(
        {_named(name): rounds for name, rounds in tables.items()}, spec.arms, _named(LENET) if LENET in tables else ""
    )
    return plots.panels(series, columns, _describe_all(found), spec.x, missing)


def _series_of(tables: dict[str, pd.DataFrame], arms: Iterable[str], with_arms_colours: str = "") -> list[Series]:
    """Return the lines of several runs (label -> rounds), with a colour for each run.

    The run labelled `with_arms_colours` has those of its arms.
    """
    colours = sns.color_palette("viridis" if len(tables) > plots.SWEEP else "deep", len(tables) + 1)
    if with_arms_colours:  # the first two would look the same
        colours = sns.color_palette("deep")[2:]
    series, markers = [], cycle("os^Dv<>P")
    for colour, (label, rounds) in zip(colours, tables.items(), strict=False):
        for one in plots.series_of(rounds, arms):
            arm = "" if one.arm == "ticket" else f", {one.label}"
            drawn = one.colour if label == with_arms_colours else colour
            marker = one.marker if len(tables) <= plots.SWEEP else next(markers)
            series.append(Series(rounds, one.arm, f"{label}{arm}", drawn, one.style, marker))
    return series


def figure_of_sweep(folders: dict[str, Path]) -> Figure:
    """Draw the tickets of several runs (label -> folder), such as those of a sweep, into the same panels."""
    tables = {label: read_whole_trials(folder)[0] for label, folder in folders.items()}
    columns = [c for c in (*PAIR, "final_test_accuracy") if any(rounds[c].notna().any() for rounds in tables.values())]
    return plots.panels(_series_of(tables, ("ticket",)), {c: TITLES[c] for c in columns}, describe(*folders.values()))


def compared(folders: Iterable[Path]) -> dict[str, Path]:
    """Return label -> folder for runs to be compared: the settings in which they differ, if these are few, or names.

    The number of trials and other settings that say how much of an experiment is run do not count. Raises LabError for
    runs on different data sets, whose accuracies have no axis in common.
    """
    folders = list(folders)
    settings = [{k: v for k, v in read_record(f).get("settings", {}).items() if k not in EXTENT} for f in folders]
    if len(data := sorted({str(s.get("dataset")) for s in settings})) > 1:
        raise LabError(f"figures: these runs are on {' and '.join(data)}; draw only runs on one data set together")
    differ = [key for key in settings[0] if any(s.get(key) != settings[0][key] for s in settings)]
    labels = [", ".join(f"{key.replace('_', ' ')} {s.get(key)}" for key in differ) for s in settings]
    if not 0 < len(differ) <= FEW or len(set(labels)) < len(labels):
        labels = ["/".join(folder.parts[-3:]) for folder in folders]
    return dict(zip(labels, folders, strict=True))


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
    return describe(*found.values(), size=said)


def _draw_distributions(spec: FigureSpec, folder: Path) -> Figure:
    table = read_table(folder, "distributions.csv")
    rounds, _ = read_whole_trials(folder)
    left = rounds[rounds["arm"] == "ticket"].groupby("round")["percent_left"].mean()
    shown = {k: left[k] for k in sorted(table["round"].unique())}
    if spec.kind == "together":  # only one level, halfway along the logarithmic axis
        level = min(shown, key=lambda k: abs(shown[k] - 16.9))
        shown = {level: shown[level]}
    caption = describe(folder, spread="summed over trials")
    if spec.kind == "together":
        caption = f"{shown[level]:.1f}% of weights remaining; {caption}"
    return plots.plot_distributions(table, spec.columns, shown, caption, spec.kind == "together")


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


def figures_table() -> str:
    """Return the text of params/FIGURES.md: runs and arms of each figure, and the estimated cost of each run here."""
    cpu, cores = hardware(torch.device("cpu"))["cpu"], worker_count()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    lines = [
        "# What feeds which figure",
        "",
        "Written by `lth figures --table`. Runs are files of `params/iterative_pruning`; a sweep is all its variants.",
        "",
        "| figure | shows | runs | arms |",
        "|---|---|---|---|",
    ]
    for number, spec in FIGURES.items():
        lines.append(f"| {number} | {spec.title} | {', '.join(spec.runs)} | {', '.join(spec.arms)} |")
    lines += [
        "",
        f"## What the runs cost at profile `paper`, on {gpu or f'{cores} cores ({cpu})'}",
        "",
        "Steps a second are those of the dense network, one training alone; hours count every arm, draw, round and",
        "evaluation, sparse rounds at their own speed, all cores at work.",
        "",
        "| run | figures | variants | trainings | iterations | steps a second | hours |",
        "|---|---|---|---|---|---|---|",
    ]
    for run in dict.fromkeys(run for spec in FIGURES.values() for run in spec.runs):
        settings = [experiment.settings for experiment in load_experiments(params_of(run), "paper")]
        trainings = sum(len(planned(s)) for s in settings)
        hours = sum(seconds_of(s, planned(s)) for s in settings) / 3600
        figures = ", ".join(str(number) for number, spec in FIGURES.items() if run in spec.runs)
        steps = {s.iterations for s in settings}
        speeds = {round(1 / timed(s)[0], 1) for s in settings}
        lines.append(
            f"| [{run}](iterative_pruning/{run}.yaml) | {figures} | {len(settings)} | {trainings:,} "
            f"| {layout.span(steps)} | {layout.span(speeds)} | {hours:,.1f} |"
        )
    return "\n".join(lines) + "\n"


def title_of(number: int) -> str:
    """Return the number and title of one of the paper's figures, for use in text."""
    return f"Figure {number}, {FIGURES[number].title}"


def words_of(number: int) -> str:
    """Describe one of the paper's figures in Markdown: title, what the paper shows with it, and what this lab found."""
    here = f"\n\n**Here.** {HERE[number]}" if number in HERE else ""
    return f"### Figure {number}: {FIGURES[number].title}\n\n**The paper.** {PAPER[number]}{here}"


def lacking(number: int) -> str:
    """Return a message that names the missing tables of one of the paper's figures."""
    spec = FIGURES[number]
    return f"no tables of {spec.subject or ', '.join(spec.runs)} yet"
