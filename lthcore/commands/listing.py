"""`lth list`: show the state of every study, or of every experiment of some studies."""

import argparse
from pathlib import Path

from lthcore.commands.errors import noted, raise_first
from lthcore.errors import LabError, counted, one_line, shown
from lthcore.paths import PROFILES, short
from lthcore.plugins import PluginNeeded
from lthcore.runs.experiments import Experiment, NoSuchProfile, load_experiments, params_files
from lthcore.runs.plan import StudyRow, state_line, summary_of
from lthcore.runs.status import changed_runs


def list_command(options: argparse.Namespace) -> None:
    """Print the state of every study under each profile, or of every experiment if a name or `--all` is given.

    The row of anything that cannot be read shows the error. Raises LabError at the end if there was an error, and for a
    name that no params file has.
    """
    errors: list[str] = []
    detailed = bool(options.name or options.all)
    found: dict[Path, dict[str, list[Experiment]]] = {}
    for path in (path for path in params_files() if options.name in f"params/{path.parent.name}/{path.name}"):
        found[path] = {}
        for profile in PROFILES:
            try:
                found[path][profile] = load_experiments(path, profile)
            except NoSuchProfile:  # not an error: files need not have all profiles
                continue
            except PluginNeeded as needed:  # not an error either
                print(one_line(needed))
                break
            except Exception as error:  # an invalid file must not hide the others
                print(f"{one_line(short(path))} ({profile}): {noted(error, errors)}")
    if options.name and not found:
        raise LabError(f"list: no params file has {shown(options.name)} in its name; `lth list` shows all studies")
    known = {e.name: e for profiles in found.values() for experiments in profiles.values() for e in experiments}
    changed = changed_runs(known)
    if detailed:
        _list_all(found, changed, errors)
    else:
        _list_studies(found, len(changed), errors)
    raise_first(errors)


def _list_all(
    found: dict[Path, dict[str, list[Experiment]]], changed: list[tuple[Experiment, dict]], errors: list[str]
) -> None:
    """Print every experiment in a line, and below those of a file the runs made from them with changed settings."""

    def state(experiment: Experiment) -> str:
        try:
            return state_line(experiment)
        except Exception as error:  # a damaged run must not hide the others
            return noted(error, errors)

    for path, profiles in found.items():
        print(one_line(short(path)))
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
    """Print a line for each study: how many of its experiments are done, and how long the rest would take here."""
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
                print(f"{study} ({profile}): {noted(error, errors)}")
        print(f"{study:28}" + "".join(f"{cells.get(profile, '')!s:26}" for profile in PROFILES).rstrip())
    if changed:
        print(f"\n{counted(changed, 'run')} with changed settings (lth run -p)")
    if untimed:
        print(f"\n{untimed} experiments are of networks not timed on this machine yet, and not in the times above")
    print(
        "\n`lth list NAME` lists single experiments of a study or file, `lth list --all` lists all; both time networks"
    )
