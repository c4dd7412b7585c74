"""The command line: `lth` = `python -m lthcore`."""

import argparse
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn, TextIO

from lthcore import __version__
from lthcore.errors import LabError, one_line, shown
from lthcore.plugins import NAMED, load_plugins
from lthcore.runs.experiments import PROFILES, Experiment, load_experiments
from lthcore.runs.yaml_files import parse_yaml

EXAMPLES = """examples:
  lth list                                                       every study: what is done, what the rest would take
  lth list dynamic_pruning/lenet                                 every experiment of some, and runs with -p
  lth run params/iterative_pruning/lenet_mnist.yaml              find winning tickets (profile cpu), or go on with it
  lth run params/iterative_pruning/lenet_mnist.yaml --profile smoke -p learning_rate 2e-4 -p trials 3
  lth run params/iterative_pruning/lenet_mnist.yaml --time-limit 600     stop cleanly after ten minutes
  lth show cpu/iterative_pruning/lenet_mnist                     a run's numbers
  lth export lenet_mnist --remaining 3.6 --to ticket.safetensors    a winning ticket to take home
  lth data verify mnist                                          is the data there, and is it as published?
  lth figures                                                    redraw figures/ from the tables
  lth scorecard                                                  which of the paper's claims hold here
  lth queue --profile paper --time-limit 600 --pack tables.tar.gz    ten minutes of what is missing, ready to carry
  lth queue --engine ray --gpus-per-run .25                      the queue on a Ray cluster, or on one started here

exit status: 0 done, 2 something to mend (one line says what), 70 an error in lth itself (--debug or LTH_DEBUG=1 shows
where), 75 stopped by --time-limit, 130 interrupted
"""
INTERRUPTED = "lth: interrupted; the same command goes on where this one was"


def main(arguments: list[str] | None = None) -> None:
    """Run one command and exit. Whatever goes wrong is one line on stderr; --debug adds the traceback."""
    before = signal.signal(signal.SIGTERM, _asked_to_stop)  # a run in progress has its own, which saves first
    debug, code = bool(os.environ.get("LTH_DEBUG")), 0
    try:
        options = _parser().parse_args(arguments)
        debug = debug or options.debug
        _take_plugins(options.plugin)
        with _unheard(options.command):
            options.command(options)
            sys.stdout.flush()
    except (Exception, KeyboardInterrupt) as error:
        line, code = _explained(error)
        with redirect_stderr(_Unheard(sys.stderr)):
            if debug:
                traceback.print_exc()
            print(one_line(line), file=sys.stderr)
    finally:
        signal.signal(signal.SIGTERM, before)
        try:
            sys.stdout.flush()
        except OSError:  # said already; once more as Python ends would be a traceback
            _to_nowhere(sys.stdout)
    sys.exit(code)


def _explained(error: BaseException) -> tuple[str, int]:
    """What to say of an error that ends a command, and the exit status it ends with."""
    if isinstance(error, LabError):
        return f"lth: {error}", getattr(error, "exit_code", 2)
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, 130
    if isinstance(error, OSError):  # a full disk, a folder that may not be written
        return f"lth: {error}; what was done is kept: mend that, and give the same command again", 2
    return f"lth: {_unexpected(error)}; --debug shows where, and what was done is kept", 70  # EX_SOFTWARE


def _unexpected(error: Exception) -> str:
    return f"unexpected {type(error).__name__}: {one_line(error)}"


class _Unheard:
    """Standard output or error, which may end before the command does: what nobody reads any more goes nowhere."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Write `text`, or nothing; return its length."""
        try:
            return self.stream.write(text)
        except BrokenPipeError:
            _to_nowhere(self.stream)
            return len(text)

    def flush(self) -> None:
        """Write out what is held back, or drop it."""
        try:
            self.stream.flush()
        except BrokenPipeError:
            _to_nowhere(self.stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def _unheard(command: Callable) -> Iterator[None]:
    """A closed pipe ends a command that only prints, quietly (`lth list | head`); the work of any other goes on."""
    if command in (list_command, show_command):
        try:
            yield
        except BrokenPipeError:
            _to_nowhere(sys.stdout)
        return
    with redirect_stdout(_Unheard(sys.stdout)), redirect_stderr(_Unheard(sys.stderr)):
        yield


def _to_nowhere(stream: TextIO) -> None:
    """Let a stream whose reader is gone end in the null device, so that what it still holds is no error at the end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def _take_plugins(files: list[str]) -> None:
    """Run the user's own code, here and in the notebooks and workers to come."""
    if files:
        named = [os.environ[NAMED]] if os.environ.get(NAMED) else []
        os.environ[NAMED] = os.pathsep.join([*named, *(str(Path(file).resolve()) for file in files)])
    load_plugins()


def _asked_to_stop(*_: object) -> None:
    """What SIGTERM does between trainings: there is nothing to save."""
    print("lth: asked to stop; the same command goes on where this one was", file=sys.stderr)
    sys.exit(75)


def run_command(options: argparse.Namespace) -> None:
    """Run experiments one after the other: the engine first, then the notebook over its tables."""
    from lthcore.analysis.tickets import write_ticket_tables
    from lthcore.errors import TimeLimit
    from lthcore.paths import folder_of
    from lthcore.runs.runner import run

    overrides = dict(map(_parameter, options.parameter))
    experiments = [e for path in options.params for e in load_experiments(path, options.profile, overrides)]
    if len(experiments) > 1 or options.ask:
        from lthcore.runs.progress import ask_whether_to_begin, print_plan

        print_plan(experiments)
        if options.ask and not options.yes:
            ask_whether_to_begin()
    with_notebook = not options.no_notebook and all(map(find_spec, ("papermill", "ipykernel")))
    if not options.no_notebook and not with_notebook:
        print("lth: Jupyter and papermill are not installed here, so the engine runs alone", file=sys.stderr)
    for experiment in experiments if with_notebook else ():
        notebook_of(experiment)  # better known before the training than after it
    folders = {experiment.name: folder_of(experiment.name) for experiment in experiments}
    deadline, failures = time.monotonic() + options.time_limit, []
    for experiment in experiments:
        folder = folders[experiment.name]
        try:
            run(experiment.settings, folder, deadline - time.monotonic(), options.force)
            write_ticket_tables(folder)
            print(f"{experiment.name}: {experiment.settings.key} is complete; tables in {_short(folder)}")
            if with_notebook:
                print(f"{experiment.name}: notebook in {_short(run_notebook(experiment, folder))}")
        except TimeLimit:
            raise
        except Exception as error:  # say so, and let the others run
            if len(experiments) == 1:
                raise
            _failed(experiment, error, options.debug)
            failures.append(experiment.name)
    if failures:
        raise LabError(f"{len(failures)} of {len(experiments)} experiments did not run: {', '.join(failures)}")


def run_notebook(experiment: Experiment, folder: Path) -> Path:
    """Execute the experiment's notebook over its finished run by papermill; return the executed copy.

    Its parameters cell need not name every setting: `Settings.of_parameters` takes those that are put below it too.
    """
    executed = folder / f"{experiment.variant}.ipynb"
    values = experiment.settings.model_dump(mode="json")
    _execute(notebook_of(experiment), executed, values | {"folder": str(folder.resolve())})
    return executed


def notebook_of(experiment: Experiment) -> Path:
    """The notebook of an experiment. Raises LabError where there is none."""
    from lthcore.paths import project_root

    source = project_root() / "notebooks" / f"{experiment.notebook}.ipynb"
    if not source.exists():
        raise LabError(f"run: there is no notebook {source.name}: a params folder is named after its notebook")
    return source


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
    from lthcore.runs.estimate import params_files
    from lthcore.runs.status import changed_runs

    errors: list[str] = []
    detailed = bool(options.name or options.all)
    found: dict[Path, dict[str, list[Experiment]]] = {}
    for path in (path for path in params_files() if options.name in str(path)):
        found[path] = {}
        for profile in PROFILES:
            try:
                found[path][profile] = load_experiments(path, profile)
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
    from lthcore.runs.progress import state_line

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
    from lthcore.runs.progress import StudyRow, summary_of

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
    text = one_line(error if isinstance(error, LabError | OSError) else _unexpected(error))
    errors.append(text)
    return f"cannot be read: {text}"


def _raise_first(errors: list[str]) -> None:
    """Raise LabError that says the first of some errors and how many more there are, if any."""
    if errors:
        raise LabError(errors[0] + (f" (and {len(errors) - 1} more)" if errors[1:] else ""))


def show_command(options: argparse.Namespace) -> None:
    """Print a run: where it comes from, its settings, and its accuracies by arm and weights left."""
    from lthcore.paths import folder_of
    from lthcore.runs.files import read_record, read_tables

    folder = Path(options.run) if Path(options.run).is_dir() else folder_of(options.run)
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
    from lthcore.analysis.take_home import export_ticket, load_ticket

    ticket = load_ticket(options.run, options.trial, options.remaining)
    path = export_ticket(ticket, options.to, options.compacted)
    card = path.with_suffix(".md").name
    print(f"{path}: round {ticket.round}, {ticket.remaining:.1f}% of weights remaining; {card} says what it is")


def _standing(folder: Path) -> str:
    """What `lth list` says of a run, and which settings it changes of its params file, if it is of one."""
    from lthcore.paths import project_root
    from lthcore.runs.progress import state_line
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
    print(one_line(f"lth: {experiment.name}: {error if known else _unexpected(error)}"), file=sys.stderr)
    return error


def _queue_on_ray(experiments: list[Experiment], options: argparse.Namespace) -> list[str]:
    """Run a queue on a Ray cluster, all of it in one view; return the names of those that could not run."""
    from lthcore.analysis.tickets import write_ticket_tables
    from lthcore.paths import results_root
    from lthcore.runs.progress import queue_view
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


class _Parser(argparse.ArgumentParser):
    """A parser that says in one line what is wrong with a command line, however long that is."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong, and exit with 2."""
        self.exit(2, one_line(f"lth: {message}; `{self.prog} --help` shows what there is") + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="lth",
        description="Find winning lottery tickets, and everything the claim needs to be believed.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"lth {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name, help=text, description=text, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        sub.set_defaults(command=function)
        sub.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        sub.add_argument("--plugin", action="append", default=[], metavar="FILE", help="run this code of yours first")
        return sub

    sub = command("list", list_command, "list every study: what is done of it per profile, and the time the rest takes")
    sub.add_argument("name", nargs="?", default="", metavar="NAME", help="every experiment of files with this in them")
    sub.add_argument("--all", action="store_true", help="every experiment of all files, each timed on this machine")
    sub = command("run", run_command, "run experiments, or go on with them")
    sub.add_argument("params", nargs="+", metavar="PARAMS", help="params/<notebook>/<variant>.yaml")
    sub.add_argument("--profile", default="cpu", metavar="P", help=f"{', '.join(PROFILES)} (default: cpu)")
    sub.add_argument(
        "-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"),
        help="change one setting; a run with changed settings is kept beside the published one",
    )  # fmt: skip
    sub.add_argument(
        "--time-limit", type=_positive, default=float("inf"), metavar="S", help="stop cleanly after S seconds"
    )
    sub.add_argument("--no-notebook", action="store_true", help="run the engine alone; needs no Jupyter")
    sub.add_argument("--ask", action="store_true", help="print the plan and its time, and ask before beginning")
    sub.add_argument("--yes", action="store_true", help="with --ask, begin without being asked")
    sub.add_argument("--force", action="store_true", help="throw the present results of these runs away first")
    sub = command("notebook", notebook_command, "execute a notebook headless and print what it prints")
    sub.add_argument("notebook", metavar="NOTEBOOK", help="notebooks/<name>.ipynb")
    sub.add_argument("--to", metavar="FILE", help="where the executed copy goes (default: build/<name>.ipynb)")
    sub = command("show", show_command, "show a run's provenance and numbers")
    sub.add_argument("run", metavar="RUN", help="<profile>/<notebook>/<variant>, or a folder")
    sub = command("export", export_command, "write a ticket of a committed run to a file: mask and initial weights")
    sub.add_argument("run", metavar="RUN", help="<profile>/<notebook>/<variant>, or the variant alone")
    sub.add_argument("--trial", type=int, default=0, metavar="N", help="of the run, from 0 (default: 0)")
    sub.add_argument("--remaining", type=_positive, metavar="P", help="about P%% of weights (default: the fewest)")
    sub.add_argument("--to", required=True, metavar="FILE", help="ticket.safetensors, .pt (a state dict) or .onnx")
    sub.add_argument("--compacted", action="store_true", help="without the neurons that nothing comes through")
    sub = command("figures", figures_command, "redraw figures/ from the tables; no training")
    sub.add_argument("--table", action="store_true", help="write params/FIGURES.md instead: what feeds which figure")
    sub = command("scorecard", scorecard_command, "grade the paper's claims from the tables")
    sub.add_argument("--readme", action="store_true", help="also render README.md and results/README.md anew")
    sub = command("queue", queue_command, "run what is not done yet, in the order of params/QUEUE.yaml")
    sub.add_argument("--profile", default="paper", metavar="P", help=f"{', '.join(PROFILES)} (default: paper)")
    sub.add_argument("--time-limit", type=_positive, default=float("inf"), metavar="S", help="stop cleanly after S s")
    sub.add_argument("--pack", metavar="FILE", help="in the end, pack the profile's tables into FILE (.tar.gz)")
    sub.add_argument("--only", default="", metavar="NAME", help="only experiments with this in their name")
    sub.add_argument("--notebooks", action="store_true", help="also execute each finished experiment's notebook")
    sub.add_argument("--mirror", metavar="URL", help="copy tables there too: a folder, s3://..., anything fsspec reads")
    sub.add_argument("--engine", choices=["local", "ray"], default="local", help="ray trains on a cluster")
    sub.add_argument("--address", metavar="A", help="of the Ray cluster; without it a local Ray is started")
    sub.add_argument("--cpus-per-run", type=_positive, default=1.0, metavar="N", help="CPUs of a training on Ray")
    sub.add_argument("--gpus-per-run", type=_share, default=0.0, metavar="N", help="GPUs of a trial on Ray, as .25")
    sub = command("unpack", unpack_command, "merge the tables of `lth queue --pack` into results/")
    sub.add_argument("archive", metavar="FILE")
    sub = command("data", data_command, "fetch or verify data sets")
    sub.add_argument("action", choices=["fetch", "verify"])
    sub.add_argument("names", nargs="+", metavar="NAME", help="as mnist or cifar10; any other word names all")
    return parser


def _parameter(pair: list[str]) -> tuple[str, object]:
    name, text = pair
    try:
        return name, parse_yaml(text)
    except LabError as error:
        said = f"the value is not YAML of plain values: {error} (quote a list: '[300, 100]')"
        raise LabError(f"run: -p {shown(name)} {shown(text)}: {said}") from None


def _share(text: str) -> float:
    value = float(text)
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0")
    return value


def _positive(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value
