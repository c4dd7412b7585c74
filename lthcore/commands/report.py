"""`lth figures` and `lth scorecard`: redraw figures and grade claims from the tables."""

import argparse
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from lthcore.arms import arm_of, criterion_of
from lthcore.commands.errors import noted, raise_first
from lthcore.errors import LabError
from lthcore.paths import project_root, results_root, short
from lthcore.registry import CRITERIA
from lthcore.report import paper_figures
from lthcore.report.claims import NOT_RUN, UNREADABLE
from lthcore.report.figures_table import figures_table
from lthcore.report.layout import remove_old, save
from lthcore.report.readme import write_pages
from lthcore.report.run_figures import compared, figure_of_runs, figures_of
from lthcore.report.scorecard import as_markdown, count_of, write_scorecard
from lthcore.report.studies import STUDIES
from lthcore.runs.files import digest, read_table
from lthcore.runs.status import find_run, find_sweep

LONGEST = 100  # maximum number of characters in the name of a figure of several runs


def figures_command(options: argparse.Namespace) -> None:
    """Redraw every figure whose tables exist, or draw one run, or write the table of figures.

    The line of a figure that cannot be drawn shows the error. Raises LabError at the end if there was such an error.
    """
    if options.runs and options.table:
        raise LabError("figures: --table writes the table of all figures; leave out RUN, or --table")
    if len(options.runs) > 1:
        _draw_together(options.runs)
        return
    if options.runs:
        _draw_run(options.runs[0])
        return
    if options.table:
        path = project_root() / "params" / "FIGURES.md"
        path.write_text(figures_table(), encoding="utf-8")
        print(f"written: {short(path)}")
        return
    root, project, errors, kept = results_root(), project_root(), [], set()
    # the project's figures show the project's results: those of other results are drawn beside them
    folder = (project if root.resolve() == (project / "results").resolve() else root) / "figures"
    jobs = [  # title, file name, function that draws it, and what is printed if it returns None
        (paper_figures.title_of(n), f"fig{n:02}", partial(paper_figures.draw, n), paper_figures.lacking(n))
        for n in paper_figures.FIGURES
    ]
    jobs += [(name, name, draw, "no tables yet") for s in STUDIES.values() for name, draw in s.figures.items()]
    for title, name, draw, otherwise in jobs:
        try:
            if figure := draw(root):
                kept.add(name)
                save(figure, folder, name)
            print(f"{title}: {f'drawn as svg and png in {short(folder)}' if figure else otherwise}")
        except Exception as error:  # a damaged run must not hide the other figures
            kept.add(name)
            print(f"{title}: {noted(error, errors)}")
    for name in remove_old(folder, (name for _, name, _, _ in jobs), kept):
        print(f"{name}: removed, it is not drawn any more")
    raise_first(errors)


def _draw_run(run: str) -> None:
    """Draw the figures of any run, including the user's own, into `figures` in the folder of its tables.

    The runs of a sweep are drawn together if `run` names them all; the figure is saved in a folder beside theirs.
    """
    if len(sweep := find_sweep(run)) > 1:
        place = next(iter(sweep.values())).parent / "figures"
        figures = {Path(run).name: figure_of_runs(sweep)}
    else:
        folder = find_run(run)
        place, figures = folder / "figures", figures_of(folder)
        arms = read_table(folder, "rounds.csv")["arm"].unique()
        unknown = sorted({criterion_of(arm_of(arm).masks) for arm in arms} - {"", *CRITERIA})
        if unknown:
            print(
                f"note: figures: no criterion {', '.join(unknown)} is registered here, so that its arms have a plain "
                "label and a spare colour; give the plugin that registers it (--plugin FILE)"
            )
    _save(figures, place)


def _draw_together(runs: list[str]) -> None:
    """Draw the tickets of several runs into one figure, in a folder beside the first run."""
    folders = list(dict.fromkeys(map(find_run, runs)))
    if len(folders) == 1:
        _draw_run(runs[0])
        return
    names = "_and_".join(folder.name for folder in folders)
    cut = f"{folders[0].name}_and_{len(folders) - 1}_more-{digest(names.encode())}"
    together = names if len(names) <= LONGEST else cut
    _save({together: figure_of_runs(compared(folders))}, folders[0].parent / "figures")


def _save(figures: dict[str, Figure], folder: Path) -> None:
    """Save figures by name in a folder, and print their paths."""
    for name, figure in figures.items():
        print(f"{name}: {', '.join(short(path) for path in save(figure, folder, name))}")


def scorecard_command(options: argparse.Namespace) -> None:
    """Grade the paper's claims from the tables. With `--readme`, also render the pages that report the results."""
    card = write_scorecard(results_root())
    print(as_markdown(card))
    if options.readme:
        write_pages(project_root(), results_root(), card)
    missing = int((card["grade"] == NOT_RUN).sum())
    trained, counted = card[card["run"].notna()], card[card["run"].isna()]
    print(f"\nclaims of runs: {count_of(trained)}, {missing} not run; claims of arithmetic: {count_of(counted)}")
    print(f"written: {short(results_root() / 'claims.csv')}")
    unreadable = int((card["grade"] == UNREADABLE).sum())
    if unreadable:
        raise LabError(f"scorecard: {unreadable} parts could not be graded, as the notes above say")
