"""Status of a run: which training runs are complete. Used by `lth list`, `lth show`, the figures and the runner."""

import difflib
from collections.abc import Container
from pathlib import Path
from typing import Any, NamedTuple

from lthcore.arms import arm_of
from lthcore.errors import LabError
from lthcore.lottery.methods import planned, settings_for
from lthcore.paths import PROFILES, folder_of, project_root, results_root
from lthcore.recipe import Recipe
from lthcore.runs.experiments import ONE_OFF, Experiment, changes
from lthcore.runs.files import read_file, read_record, read_table, replicate_of, rows_of
from lthcore.runs.schemas import COLUMNS
from lthcore.training.state import Replicate


class Status(NamedTuple):
    """Complete and missing training runs of an experiment.

    `asked` tells whether its last run completed all that it was asked for, even if the params file asks for more.
    `other` is the key of another run that is in the experiment's folder, where `lth run` refuses to train.
    """

    done: set[Replicate]
    missing: list[Replicate]
    asked: bool = False
    other: str = ""

    @property
    def is_drawn(self) -> bool:
        """Whether the figures and tables of the study include this experiment."""
        return bool(self.done) and (self.asked or not self.missing)


def missing(settings: Recipe, done: Container[Replicate], diverged: list[Replicate]) -> list[Replicate]:
    """Return the training runs still to do, without those that would start from one that diverged."""
    ended = {(r.arm, r.trial): r.round for r in diverged if arm_of(r.arm).is_pruned_itself}

    def reachable(r: Replicate) -> bool:
        return all(r.round <= ended.get((arm, r.trial), r.round) for arm in ("ticket", arm_of(r.arm).follows))

    return [r for r in planned(settings) if r not in done and reachable(r)]


def status_of(experiment: Experiment, root: Path | None = None, force: bool = False) -> Status:
    """Return the status of an experiment, with `force` that after its files have been deleted.

    Raises LabError if its record or table is damaged.
    """
    folder = folder_of(experiment.name, root)
    record = {} if force else read_record(folder)
    there = all((folder / name).exists() for name in COLUMNS)
    key = record.get("run_key", experiment.settings.key)
    if not record or not there or key != experiment.settings.key:
        return Status(set(), planned(experiment.settings), other=key if key != experiment.settings.key else "")
    if _is_whole(folder, record, experiment.settings):
        return Status(set(planned(experiment.settings)), [], True)
    rows = {replicate_of(row): row for row in rows_of(read_table(folder, "rounds.csv"))}
    diverged = [replicate for replicate, row in rows.items() if row.get("diverged")]
    left = missing(experiment.settings, rows, diverged)
    return Status(set(rows) & set(planned(experiment.settings)), left, bool(record.get("complete")))


def _is_whole(folder: Path, record: dict, settings: Recipe) -> bool:
    """Return whether a run is complete for these settings by its record, and its table has the recorded digest.

    The training runs of a complete run then need not be looked up one by one.
    """
    if not record.get("complete") or record.get("trainings_diverged") or "writing" in record:
        return False
    try:
        asked = type(settings)(**record["settings"])
        read_file(folder / "rounds.csv")
    except (KeyError, LabError, ValueError):
        return False  # `status_of` then reads the table and reports the error
    return set(planned(settings)) <= set(planned(asked))


def changed_runs(known: dict[str, Experiment], root: Path | None = None) -> list[tuple[Experiment, dict[str, Any]]]:
    """Return the runs below a results root that were made from a params file with changed settings.

    `known` has the experiments of the params files by name. Each run comes with its changed settings, as `changes`
    returns them.
    """
    found, root = [], root or results_root()
    for path in sorted(path for profile in PROFILES for path in root.glob(f"{profile}/*/*/run.json")):
        profile, notebook, variant = path.parent.relative_to(root).parts
        if (name := f"{profile}/{notebook}/{variant}") in known:
            continue
        base = [e for e in known.values() if name.startswith(f"{e.name}-")]
        if not base:
            continue
        published = max(base, key=lambda e: len(e.name))
        try:
            values = read_record(path.parent).get("settings", {})
            settings = settings_for(notebook, values)(**values)
        except LabError:
            continue
        found.append((Experiment(notebook, variant, profile, settings), changes(published.settings, settings)))
    return found


def find_run(run: str | Path, with_file: str = "run.json") -> Path:
    """Return the folder of a run, given as a path, as `<profile>/<notebook>/<variant>` or as its variant.

    Runs below `results_root()` are preferred to runs in results/ of the project, and larger profiles to smaller ones.
    Raises LabError if no such run has a file named `with_file`, and if runs of several notebooks have this name.
    """
    if (Path(run) / with_file).exists():
        return Path(run).resolve()
    roots, parts, others = dict.fromkeys([results_root(), project_root() / "results"]), Path(run).parts, []
    for root in roots:
        folders = [path.parent for p in reversed(PROFILES) for path in sorted(root.glob(f"{p}/*/*/{with_file}"))]
        named = [folder for folder in folders if folder.parts[-len(parts) :] == parts]
        if len({folder.parts[-2:] for folder in named}) > 1:
            several = ", ".join("/".join(folder.parts[-3:]) for folder in named)
            raise LabError(f"results: several runs are called {str(run)!r}, name one of them: {several}")
        if named:
            return named[0]
        others += folders
    below, names = " or ".join(map(str, roots)), list(dict.fromkeys(folder.name for folder in others))
    near = difflib.get_close_matches(parts[-1] if parts else "", names, n=3)
    there = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(names[:10]) or 'none'}"
    raise LabError(f"results: no run {str(run)!r} with {with_file} below {below} ({there})")


def find_sweep(name: str) -> dict[str, Path]:
    """Return the runs of a sweep (label -> folder), at the largest profile that has some.

    `name` is the name of the params file, or `<notebook>/<name>` or `<profile>/<notebook>/<name>`. Runs of the sweep
    with changed settings are no labels of it. Returns an empty dictionary if a run has this name itself, or if there
    are no runs. Raises LabError if sweeps of several notebooks have this name.
    """
    parts = Path(name).parts
    for root in dict.fromkeys([results_root(), project_root() / "results"]):
        folders = [path.parent for path in sorted(root.glob("*/*/*/rounds.csv"))]
        if not parts or any(folder.parts[-len(parts) :] == parts for folder in folders):  # no parts: this folder
            return {}
        for profile in reversed(PROFILES):
            named = {
                folder.name.removeprefix(f"{parts[-1]}-"): folder
                for folder in folders
                if folder.name.startswith(f"{parts[-1]}-")
                and not ONE_OFF.search(folder.name.removeprefix(parts[-1]))
                and folder.parts[-len(parts) : -1] == parts[:-1]
                and folder.parts[-3] == profile
            }
            if len({folder.parent for folder in named.values()}) > 1:
                several = ", ".join(sorted({f"{folder.parent.name}/{parts[-1]}" for folder in named.values()}))
                raise LabError(f"results: several sweeps are called {name!r}, name one of them: {several}")
            if named:
                return named
    return {}
