"""`lth run`: run experiments and their notebooks."""

import argparse
import sys
import time
from pathlib import Path

from lthcore.analysis.ticket_tables import write_ticket_tables
from lthcore.commands.errors import say_failed
from lthcore.commands.notebook import has_jupyter, notebook_of, run_notebook
from lthcore.commands.parameters import values_of
from lthcore.errors import LabError, TimeLimit, counted
from lthcore.lottery.methods import planned
from lthcore.paths import folder_of, short
from lthcore.runs.experiments import Experiment, load_experiments
from lthcore.runs.files import read_record
from lthcore.runs.plan import ask_whether_to_begin, print_plan
from lthcore.runs.runner import run
from lthcore.runs.status import status_of


def run_command(options: argparse.Namespace) -> None:
    """Run experiments one after the other: first the training, then the notebook over its tables."""
    overrides = values_of(options.parameter)
    experiments = [
        e for path in options.params for e in load_experiments(path, options.profile, overrides, options.only)
    ]
    if len(experiments) > 1 or options.ask:
        print_plan(experiments, options.force)
        if options.ask and not options.yes:
            ask_whether_to_begin()
    with_notebook = not options.no_notebook and has_jupyter()
    if not options.no_notebook and not with_notebook:
        print("lth: Jupyter and papermill are not installed here, so the engine runs alone", file=sys.stderr)
    for name in dict.fromkeys(e.notebook for e in experiments if with_notebook and notebook_of(e) is None):
        print(
            f"lth: no notebooks/{name}.ipynb that takes parameters is here, so the engine runs alone", file=sys.stderr
        )
    folders = {experiment.name: folder_of(experiment.name) for experiment in experiments}
    deadline, failures = time.monotonic() + options.time_limit, []
    for index, experiment in enumerate(experiments):
        folder = folders[experiment.name]
        try:
            run(experiment.settings, folder, deadline - time.monotonic(), options.force)
            write_ticket_tables(folder, deadline - time.monotonic())
            complete = f"{experiment.settings.key} is complete{_besides(experiment, folder)}"
            print(f"{experiment.name}: {complete}; tables in {short(folder)}")
            if with_notebook and (executed := run_notebook(experiment, folder)):
                print(f"{experiment.name}: notebook in {short(executed)}")
        except TimeLimit as stopped:
            if options.force and (later := [e.name for e in experiments[index + 1 :]]):
                raise TimeLimit(f"{stopped}; --force has not reached {', '.join(later)}") from None
            raise
        except Exception as error:  # say so, and let the others run
            if len(experiments) == 1:
                raise
            say_failed(experiment, error, options.debug)
            failures.append(experiment.name)
    if failures:
        raise LabError(f"{len(failures)} of {len(experiments)} experiments failed: {', '.join(failures)}")


def _besides(experiment: Experiment, folder: Path) -> str:
    """Return what to add about a complete run: trainings that diverged, and trainings beyond those asked for."""
    record, asked, done = read_record(folder), len(planned(experiment.settings)), len(status_of(experiment).done)
    said = ""
    if lost := record.get("trainings_diverged", 0):  # which older runs did not note
        said += f", but {lost} of its trainings diverged"
        said += f", and {asked - done} could not start from them" if asked > done else ""  # as nothing is missing
    if more := record.get("trainings_done", done) - done:
        said += f"; its tables also have {counted(more, 'training')} that these settings do not ask for"
    return said
