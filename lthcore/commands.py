"""Commands: what each `lth <command>` does. How they are called, and what is said of errors, is in cli.py."""

import argparse
import json
import os
import sys
import time
import traceback
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lthcore.errors import LabError, one_line, shown
from lthcore.plugins import PluginNeeded
from lthcore.runs.experiments import PROFILES, Experiment, NoSuchProfile, load_experiments
from lthcore.runs.yaml_files import parse_yaml


def run_command(options: argparse.Namespace) -> None:
    """Run experiments one after the other: the engine first, then the notebook over its tables."""
    from lthcore.analysis.tickets import write_ticket_tables
    from lthcore.errors import TimeLimit
    from lthcore.paths import folder_of
    from lthcore.runs.runner import run

    overrides = dict(map(_parameter, options.parameter))
    experiments = [e for path in options.params for e in load_experiments(path, options.profile, overrides)]
    if len(experiments) > 1 or options.ask:
        from lthcore.runs.plan import ask_whether_to_begin, print_plan

        print_plan(experiments)
        if options.ask and not options.yes:
            ask_whether_to_begin()
    with_notebook = not options.no_notebook and all(map(find_spec, ("papermill", "ipykernel")))
    if not options.no_notebook and not with_notebook:
        print("lth: Jupyter and papermill are not installed here, so the engine runs alone", file=sys.stderr)
    for name in dict.fromkeys(e.notebook for e in experiments if with_notebook and notebook_of(e) is None):
        print(
            f"lth: no notebooks/{name}.ipynb that takes parameters is here, so the engine runs alone", file=sys.stderr
        )
    folders = {experiment.name: folder_of(experiment.name) for experiment in experiments}
    deadline, failures = time.monotonic() + options.time_limit, []
    for experiment in experiments:
        folder = folders[experiment.name]
        try:
            run(experiment.settings, folder, deadline - time.monotonic(), options.force)
            write_ticket_tables(folder)
            print(f"{experiment.name}: {experiment.settings.key} is complete; tables in {_short(folder)}")
            if with_notebook and (executed := run_notebook(experiment, folder)):
                print(f"{experiment.name}: notebook in {_short(executed)}")
        except TimeLimit:
            raise
        except Exception as error:  # say so, and let the others run
            if len(experiments) == 1:
                raise
            _failed(experiment, error, options.debug)
            failures.append(experiment.name)
    if failures:
        raise LabError(f"{len(failures)} of {len(experiments)} experiments did not run: {', '.join(failures)}")


def run_notebook(experiment: Experiment, folder: Path) -> Path | None:
    """Execute the experiment's notebook over its finished run by papermill; return the executed copy, if it has one.

    Its parameters cell need not name every setting: `Settings.of_parameters` takes those that are put below it too.
    """
    notebook, executed = notebook_of(experiment), folder / f"{experiment.variant}.ipynb"
    if notebook is None:
        return None
    values = experiment.settings.model_dump(mode="json")
    _execute(notebook, executed, values | {"folder": str(folder.resolve())})
    return executed


def notebook_of(experiment: Experiment) -> Path | None:
    """The notebook that the folder of a params file is named after; None without one that takes parameters."""
    from lthcore.paths import project_root

    source = project_root() / "notebooks" / f"{experiment.notebook}.ipynb"
    if not source.exists():
        return None
    cells = json.loads(source.read_text(encoding="utf-8")).get("cells", [])
    return source if any("parameters" in cell["metadata"].get("tags", []) for cell in cells) else None


def notebook_command(options: argparse.Namespace) -> None:
    """Execute a notebook headless with its defaults, and print what it prints."""
    source = Path(options.notebook)
    if not source.exists():
        raise LabError(f"notebook: there is no {source}")
    executed = Path(options.to or f"build/{source.name}")
    for cell in _execute(source, executed, {}).cells:
        for output in cell.get("outputs", []):
            text = output.get("text") or output.get("data", {}).get("text/plain", "")
            if not text.startswith("<Figure"):
                print(text.rstrip())
    print(f"executed notebook: {executed}")


def _execute(source: Path, executed: Path, values: dict):
    import logging

    import papermill
    from traitlets.config import Config

    from lthcore.runs.notebook import ending_with_this_process, passing_on_signals

    executed.parent.mkdir(parents=True, exist_ok=True)
    logging.getLogger("papermill").setLevel(logging.ERROR)  # it warns of parameters that a notebook does not list
    os.environ["LTH_PLAIN"] = "1"  # no progress widgets in a notebook that nobody watches
    where = {"cwd": str(source.parent), "config": Config({"KernelManager": {"transport": "ipc"}})}
    try:
        with passing_on_signals() as kernel:
            return papermill.execute_notebook(
                str(source), str(executed), values, progress_bar=sys.stderr.isatty(), kernel_manager_class=kernel,
                extra_arguments=ending_with_this_process(), **where,
            )  # fmt: skip
    except papermill.PapermillExecutionError as error:
        raise LabError(
            f"notebook: {source} failed in cell {error.exec_count} with {error.ename}: {error.evalue}"
        ) from error
    except RuntimeError as error:  # DeadKernelError: killed, often for memory
        raise LabError(f"notebook: the kernel of {source} died ({error}); give the command again") from None


def list_command(options: argparse.Namespace) -> None:
    """Print where every study stands under each profile; of those named, or of all if asked, every experiment.

    What cannot be read says so in its row. Raises LabError in the end where there was any such.
    """
    from lthcore.runs.experiments import params_files
    from lthcore.runs.status import changed_runs

    errors: list[str] = []
    detailed = bool(options.name or options.all)
    found: dict[Path, dict[str, list[Experiment]]] = {}
    for path in (path for path in params_files() if options.name in str(path)):
        found[path] = {}
        for profile in PROFILES:
            try:
                found[path][profile] = load_experiments(path, profile)
            except NoSuchProfile:  # nothing is wrong with it
                continue
            except PluginNeeded as needed:  # nor with this
                print(one_line(needed))
                break
            except Exception as error:  # a file of whatever content must not hide the others
                print(f"{one_line(_short(path))} ({profile}): {_noted(error, errors)}")
    known = {e.name: e for profiles in found.values() for experiments in profiles.values() for e in experiments}
    changed = changed_runs(known)
    if detailed:
        _list_all(found, changed, errors)
    else:
        _list_studies(found, len(changed), errors)
    _raise_first(errors)


def _list_all(
    found: dict[Path, dict[str, list[Experiment]]], changed: list[tuple[Experiment, dict]], errors: list[str]
) -> None:
    """Print every experiment in a line, and below it the runs that were made of it with changed settings."""
    from lthcore.runs.plan import state_line

    def state(experiment: Experiment) -> str:
        try:
            return state_line(experiment)
        except Exception as error:  # nor may a damaged run hide the others
            return _noted(error, errors)

    for path, profiles in found.items():
        print(one_line(_short(path)))
        for profile, experiments in profiles.items():
            for experiment in experiments:
                label = experiment.variant.removeprefix(path.stem).removeprefix("-")
                print(f"    {profile:6} {label:24} {state(experiment)}")
        names = {e.name for experiments in profiles.values() for e in experiments}
        for experiment, values in changed:
            if any(experiment.name.startswith(f"{name}-") for name in names):
                what = ", ".join(f"{key} = {value}" for key, value in values.items())
                print(f"    {experiment.profile:6} {experiment.variant}: {what}: {state(experiment)}")


def _list_studies(found: dict[Path, dict[str, list[Experiment]]], changed: int, errors: list[str]) -> None:
    """Print a line for each study: how many of its experiments are done, and what the rest would take here."""
    from lthcore.runs.plan import StudyRow, summary_of

    studies: dict[str, dict[str, list[Experiment]]] = {}
    for path, profiles in found.items():
        for profile, experiments in profiles.items():
            studies.setdefault(path.parent.name, {}).setdefault(profile, []).extend(experiments)
    print(f"{'study':28}" + "".join(f"{profile:26}" for profile in PROFILES).rstrip())
    untimed = 0
    for study, profiles in studies.items():
        cells: dict[str, StudyRow | str] = {}
        for profile, experiments in profiles.items():
            try:
                cells[profile] = summary_of(experiments)
                untimed += cells[profile].untimed
            except Exception as error:
                cells[profile] = "cannot be read"
                print(f"{study} ({profile}): {_noted(error, errors)}")
        print(f"{study:28}" + "".join(f"{cells.get(profile, '')!s:26}" for profile in PROFILES).rstrip())
    if changed:
        print(f"\n{changed} runs with changed settings (lth run -p)")
    if untimed:
        print(f"\n{untimed} experiments are of networks not timed on this machine yet, and not in the times above")
    print(
        "\n`lth list NAME` shows every experiment of a study or file, `lth list --all` those of all, all of them timed"
    )


def _noted(error: Exception, errors: list[str]) -> str:
    """What a row says of an error, which is added to `errors`."""
    text = one_line(error if isinstance(error, LabError | OSError) else unexpected(error))
    errors.append(text)
    return f"cannot be read: {text}"


def _raise_first(errors: list[str]) -> None:
    """Raise LabError that says the first of some errors and how many more there are, if any."""
    if errors:
        raise LabError(errors[0] + (f" (and {len(errors) - 1} more)" if errors[1:] else ""))


def show_command(options: argparse.Namespace) -> None:
    """Print a run: where it comes from, its settings, and its accuracies by arm and weights left."""
    from lthcore.runs.files import read_record, read_tables
    from lthcore.runs.status import find_run

    folder = find_run(options.run)
    rounds, _ = read_tables(folder)
    whole = read_record(folder)
    record = {key: value for key, value in whole.items() if key != "settings"}
    print(
        "\n".join(
            f"{key:18} {json.dumps(value) if isinstance(value, dict) else value}" for key, value in record.items()
        )
    )
    print(_standing(folder))
    _print_settings(folder, whole.get("settings", {}))
    columns = ["es_iteration", "es_test_accuracy", "final_test_accuracy", "final_train_accuracy"]
    table = rounds.groupby(["arm", "round"], sort=False)[["percent_left", *columns]].mean()
    table.insert(0, "n", rounds.groupby(["arm", "round"], sort=False).size())
    print("\nmeans over trials and draws\n" + table.round(4).to_string())


def export_command(options: argparse.Namespace) -> None:
    """Write a ticket of a run, mask and initial weights, to a file to take home."""
    from lthcore.analysis.hub import push_ticket
    from lthcore.analysis.take_home import export_ticket, load_ticket

    ticket = load_ticket(options.run, options.trial, options.remaining)
    path = export_ticket(ticket, options.to, options.compacted)
    print(f"{path}: round {ticket.round}, {ticket.remaining:.1f}% of weights remaining; {path.name}.md says what it is")
    if options.push:
        print(f"{push_ticket(path, options.push)}: uploaded")


def _standing(folder: Path) -> str:
    """What `lth list` says of a run, and which settings it changes of its params file, if it is of one."""
    from lthcore.paths import project_root
    from lthcore.runs.plan import state_line
    from lthcore.runs.status import changed_runs

    *_, profile, study, variant = folder.resolve().parts
    known: dict[str, Experiment] = {}
    for path in sorted((project_root() / "params" / study).glob("*.yaml")):
        try:
            known |= {e.name: e for e in load_experiments(path, profile)}
        except LabError:
            continue
    name = f"{profile}/{study}/{variant}"
    lines = []
    if name in known:
        lines = [f"{'state':18} {state_line(known[name])}"]
    for experiment, values in changed_runs(known, folder.resolve().parents[2]) if known else ():
        if experiment.name == name:
            what = ", ".join(f"{key} = {value}" for key, value in values.items())
            lines = [f"{'state':18} {state_line(experiment)}", f"{'changed':18} {what}"]
    return "\n".join(lines)


def _print_settings(folder: Path, values: dict[str, Any]) -> None:
    """Print the settings of a run, those that are not at their defaults first."""
    from lthcore.lottery.methods import settings_for

    fields = settings_for(folder.resolve().parent.name).model_fields
    default = {key: json.loads(json.dumps(field.default)) for key, field in fields.items()}
    own = {key: value for key, value in values.items() if value != default.get(key)}
    for title, part in (
        ("settings, other than the defaults", own),
        ("settings, at their defaults", {key: value for key, value in values.items() if key not in own}),
    ):
        print(f"\n{title}\n" + "\n".join(f"    {key:18} {value}" for key, value in part.items()))


def figures_command(options: argparse.Namespace) -> None:
    """Redraw every figure whose tables are there.

    One that cannot be drawn says so in its line. Raises LabError in the end where there was any such.
    """
    from lthcore.paths import project_root, results_root
    from lthcore.report import paper_figures
    from lthcore.report.plots import remove_old, save
    from lthcore.report.studies import STUDIES

    if options.run:
        _draw_run(options.run)
        return
    if options.table:
        path = project_root() / "params" / "FIGURES.md"
        path.write_text(paper_figures.figures_table(), encoding="utf-8")
        print(f"written: {_short(path)}")
        return
    root, folder, errors, kept = results_root(), project_root() / "figures", [], set()
    jobs = [  # what is said of a figure, its file, how it is drawn, and what is said where it is not
        (paper_figures.title_of(n), f"fig{n:02}", partial(paper_figures.draw, n), paper_figures.lacking(n))
        for n in paper_figures.FIGURES
    ]
    jobs += [(name, name, draw, "no tables yet") for s in STUDIES.values() for name, draw in s.figures.items()]
    for title, name, draw, otherwise in jobs:
        try:
            if figure := draw(root):
                kept.add(name)
                save(figure, folder, name)
            print(f"{title}: {'drawn as svg and png' if figure else otherwise}")
        except Exception as error:  # a damaged run must not hide the other figures
            kept.add(name)
            print(f"{title}: {_noted(error, errors)}")
    for name in remove_old(folder, (name for _, name, _, _ in jobs), kept):
        print(f"{name}: removed, it is not drawn any more")
    _raise_first(errors)


def _draw_run(run: str) -> None:
    """Draw any run, one's own too, with all its arms, into the folder of its tables."""
    from lthcore.report.paper_figures import figures_of
    from lthcore.report.plots import save
    from lthcore.runs.status import find_run

    folder = find_run(run)
    for name, figure in figures_of(folder).items():
        paths = save(figure, folder / "figures", name)
        print(f"{name}: {', '.join(_short(path) for path in paths)}")


def scorecard_command(options: argparse.Namespace) -> None:
    """Grade the paper's claims from the tables, and render the pages that say what was found."""
    from lthcore.paths import project_root, results_root
    from lthcore.report.claims import NOT_RUN, UNREADABLE
    from lthcore.report.readme import write_pages
    from lthcore.report.scorecard import as_markdown, count_of, write_scorecard

    card = write_scorecard(results_root())
    print(as_markdown(card))
    if options.readme:
        write_pages(project_root(), results_root(), card)
    missing = int((card["grade"] == NOT_RUN).sum())
    print(f"\n{count_of(card)}, {missing} not run: results/claims.csv")
    unreadable = int((card["grade"] == UNREADABLE).sum())
    if unreadable:
        raise LabError(f"scorecard: {unreadable} parts could not be graded, as the notes above say")


def queue_command(options: argparse.Namespace) -> None:
    """Run what is not done yet, in the order of params/QUEUE.yaml."""
    from lthcore.paths import results_root
    from lthcore.runs.archives import mirror_of, pack
    from lthcore.runs.queue import queued

    bad: list[LabError] = []
    experiments = [e for e in queued(options.profile, errors=bad) if options.only in e.name]
    for error in bad:  # say so, and let the others run
        print(f"lth: {error}", file=sys.stderr)
    if not experiments:
        raise LabError(f"queue: no experiment has {options.only!r} in its name; `lth list` shows all")
    if options.mirror:
        mirror_of(options.mirror)  # better known before the training than after it
    try:
        failures = (_queue_on_ray if options.engine == "ray" else _queue_here)(experiments, options)
    finally:
        if options.pack:
            print(f"{pack(results_root(), Path(options.pack), options.profile)} runs packed into {options.pack}")
    if failures:
        raise LabError(f"{len(failures)} of the queue did not run: {', '.join(failures)}")
    if bad:
        raise bad[0]
    print("the queue is done")


def _queue_here(experiments: list[Experiment], options: argparse.Namespace) -> list[str]:
    """Run a queue one after the other; return the names of those that could not run."""
    from lthcore.analysis.tickets import write_ticket_tables
    from lthcore.errors import TimeLimit
    from lthcore.paths import folder_of, results_root
    from lthcore.runs.archives import mirror
    from lthcore.runs.runner import run
    from lthcore.runs.status import status_of

    deadline, root, failures = time.monotonic() + options.time_limit, results_root(), {}
    for experiment in experiments:
        try:
            folder = folder_of(experiment.name)
            left = status_of(experiment).missing
            if not left:
                continue
            print(f"{experiment.name}: {len(left):,} trainings to do", flush=True)
        except Exception as error:  # say so, and let the others run
            failures[experiment.name] = _failed(experiment, error, options.debug)
            continue
        try:
            run(experiment.settings, folder, deadline - time.monotonic())
            write_ticket_tables(folder)
            if options.notebooks:
                run_notebook(experiment, folder)
        except TimeLimit:
            raise
        except Exception as error:
            failures[experiment.name] = _failed(experiment, error, options.debug)
        finally:
            if options.mirror:
                try:
                    mirror(folder, root, options.mirror)
                except LabError as error:
                    failures.setdefault(experiment.name, _failed(experiment, error, options.debug))
    return list(failures)


def _failed(experiment: Experiment, error: Exception, debug: bool) -> Exception:
    """Say that an experiment could not run, and return the error."""
    if debug or os.environ.get("LTH_DEBUG"):
        traceback.print_exception(error)
    known = isinstance(error, LabError | OSError)
    print(one_line(f"lth: {experiment.name}: {error if known else unexpected(error)}"), file=sys.stderr)
    return error


def _queue_on_ray(experiments: list[Experiment], options: argparse.Namespace) -> list[str]:
    """Run a queue on a Ray cluster, all of it in one view; return the names of those that could not run."""
    from lthcore.analysis.tickets import write_ticket_tables
    from lthcore.paths import results_root
    from lthcore.runs.queue_view import queue_view
    from lthcore.runs.ray_cluster import Cluster
    from lthcore.runs.ray_queue import run_queue

    cluster = Cluster(options.address, options.cpus_per_run, options.gpus_per_run)
    try:
        with queue_view() as show:
            failures = run_queue(
                experiments, results_root(), cluster, options.time_limit, show, options.mirror,
                run_notebook if options.notebooks else None, write_ticket_tables,
            )  # fmt: skip
    finally:
        cluster.close()
    for name, error in failures.items():
        print(one_line(f"lth: {name}: {error}"), file=sys.stderr)
    return list(failures)


def unpack_command(options: argparse.Namespace) -> None:
    """Merge an archive of tables into results/."""
    from lthcore.paths import results_root
    from lthcore.runs.archives import unpack

    for line in unpack(Path(options.archive), results_root()):
        print(line)


def data_command(options: argparse.Namespace) -> None:
    """Fetch or verify data sets."""
    from lthcore.paths import data_root
    from lthcore.sources.catalogue import fetch, verified

    look = fetch if options.action == "fetch" else verified
    for name in options.names:
        print(f"{name}: {look(name)} ({data_root()})")


def _short(path: Path) -> str:
    path = Path(path)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def unexpected(error: Exception) -> str:
    """What to say of an error that nobody foresaw: its kind, and its message in one line."""
    return f"unexpected {type(error).__name__}: {one_line(error)}"


def _parameter(pair: list[str]) -> tuple[str, object]:
    name, text = pair
    try:
        return name, parse_yaml(text)
    except LabError as error:
        said = f"the value is not YAML of plain values: {error} (quote a list: '[300, 100]')"
        raise LabError(f"run: -p {shown(name)} {shown(text)}: {said}") from None
