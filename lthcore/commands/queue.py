"""`lth queue` and `lth unpack`: run what is missing, here or on a cluster, and merge tables from other machines."""

import argparse
import sys
import time
from functools import partial
from pathlib import Path

from lthcore.analysis.ticket_tables import has_ticket_tables, write_ticket_tables
from lthcore.commands.errors import say_failed
from lthcore.commands.notebook import check_jupyter, is_executed, notebook_of, run_notebook
from lthcore.errors import LabError, TimeLimit, counted, one_line
from lthcore.paths import folder_of, results_root
from lthcore.runs.archives import check_archive, mirror, mirror_of, pack, unpack
from lthcore.runs.experiments import Experiment
from lthcore.runs.plan import ask_whether_to_begin, print_plan
from lthcore.runs.queue import queued
from lthcore.runs.runner import run
from lthcore.runs.status import status_of


def queue_command(options: argparse.Namespace) -> None:
    """Run what is not done yet, in the order of params/QUEUE.yaml."""
    bad: list[LabError] = []
    experiments = [e for e in queued(options.profile, errors=bad) if options.only in e.name]
    if not experiments:
        raise (
            bad[0] if bad else LabError(f"queue: no experiment has {options.only!r} in its name; `lth list` shows all")
        )
    for error in bad:  # say so, and let the others run
        print(f"lth: {error}", file=sys.stderr)
    if options.engine != "ray" and (options.address or options.gpus_per_run or options.cpus_per_run != 1):
        raise LabError("queue: --address, --cpus-per-run and --gpus-per-run are for a Ray cluster; add --engine ray")
    if options.notebooks:
        check_jupyter()
    if options.ask:
        print_plan(list({e.name: e for e in experiments}.values()))  # later entries of an experiment ask for more
        if not options.yes:
            ask_whether_to_begin()
    failures = []
    if options.pack:
        check_archive(Path(options.pack))
    if options.mirror:
        mirror_of(options.mirror)  # an unreachable mirror is reported before the training, not after it
        failures = _mirror_what_is_here(experiments, options)
    try:
        failures += (_queue_on_ray if options.engine == "ray" else _queue_here)(experiments, options)
    finally:
        failures += _pack(options)
    if failures:
        failed = list(dict.fromkeys(failures))
        raise LabError(f"{len(failed)} of the queue failed: {', '.join(failed)}")
    if bad:
        raise bad[0]
    print("the queue is done")


def _pack(options: argparse.Namespace) -> list[str]:
    """Pack the tables if that was asked for; return `--pack` as failed if they cannot be written.

    Raises no error, which would replace the one that says why the queue ended.
    """
    if not options.pack:
        return []
    try:
        packed = pack(results_root(), Path(options.pack), options.profile)
    except OSError as error:
        print(one_line(f"lth: --pack: {error}"), file=sys.stderr)
        return ["--pack"]
    print(f"{counted(packed, 'run')} packed into {options.pack}")
    return []


def _mirror_what_is_here(experiments: list[Experiment], options: argparse.Namespace) -> list[str]:
    """Mirror what experiments have before the queue starts; return the names of those that failed."""
    failures = []
    for experiment in {e.name: e for e in experiments}.values():
        try:
            mirror(folder_of(experiment.name), results_root(), options.mirror)
        except (LabError, OSError) as error:  # say so, and let the others be trained
            say_failed(experiment, error, options.debug)
            failures.append(experiment.name)
    return failures


def _is_done(experiment: Experiment, options: argparse.Namespace) -> bool:
    """Return whether nothing is left to do: no training, no table of tickets and, with --notebooks, no notebook."""
    folder = folder_of(experiment.name)
    trained = not status_of(experiment).missing and has_ticket_tables(folder)
    return trained and not (options.notebooks and notebook_of(experiment) and not is_executed(experiment, folder))


def _queue_here(experiments: list[Experiment], options: argparse.Namespace) -> list[str]:
    """Run the experiments of a queue one after the other; return the names of those that failed."""
    deadline, root, failures = time.monotonic() + options.time_limit, results_root(), {}
    for experiment in experiments:
        try:
            folder, left = folder_of(experiment.name), status_of(experiment).missing
            if _is_done(experiment, options):
                continue
            if left:
                print(f"{experiment.name}: {counted(len(left), 'training')} to do", flush=True)
        except Exception as error:  # say so, and let the others run
            failures[experiment.name] = say_failed(experiment, error, options.debug)
            continue
        try:
            if left:
                run(experiment.settings, folder, deadline - time.monotonic())
            write_ticket_tables(folder, deadline - time.monotonic())
            if options.notebooks:
                run_notebook(experiment, folder)
        except TimeLimit:
            raise
        except Exception as error:
            failures[experiment.name] = say_failed(experiment, error, options.debug)
        finally:
            if options.mirror:
                try:
                    mirror(folder, root, options.mirror)
                except LabError as error:
                    failures.setdefault(experiment.name, say_failed(experiment, error, options.debug))
    return list(failures)


def _queue_on_ray(experiments: list[Experiment], options: argparse.Namespace) -> list[str]:
    """Run the experiments of a queue on a Ray cluster with one progress view; return the names of those that failed."""
    from lthcore.runs.queue_view import queue_view
    from lthcore.runs.ray_cluster import Cluster
    from lthcore.runs.ray_queue import run_queue

    cluster = Cluster(options.address, options.cpus_per_run, options.gpus_per_run)
    try:
        with queue_view() as show:
            failures = run_queue(
                experiments, cluster, options.time_limit, show, options.mirror,
                run_notebook if options.notebooks else None, write_ticket_tables, partial(_is_done, options=options),
            )  # fmt: skip
    finally:
        cluster.close()
    for name, error in failures.items():
        print(one_line(f"lth: {name}: {error}"), file=sys.stderr)
    return list(failures)


def unpack_command(options: argparse.Namespace) -> None:
    """Merge an archive of tables into results/."""
    for line in unpack(Path(options.archive), results_root()):
        print(line)
