"""Status: what of a run is done. The list, `lth show`, the figures and the runner itself all ask here."""

from collections.abc import Container
from pathlib import Path
from typing import Any, NamedTuple

from lthcore.arms import arm_of
from lthcore.errors import LabError
from lthcore.lottery.methods import planned, settings_for
from lthcore.paths import folder_of, project_root, results_root
from lthcore.runs.experiments import PROFILES, Experiment, changes
from lthcore.runs.files import read_file, read_record, read_table, replicate_of, rows_of
from lthcore.settings import Recipe
from lthcore.training.state import Replicate


class Status(NamedTuple):
    """The trainings of an experiment that are done, and those that are not.

    `asked` says whether its last run did all that it was asked for, be that less than the params file asks for.
    """

    done: set[Replicate]
    missing: list[Replicate]
    asked: bool = False

    @property
    def is_drawn(self) -> bool:
        """Whether figures and tables of the study show it."""
        return bool(self.done) and (self.asked or not self.missing)


def missing(settings: Recipe, done: Container[Replicate], diverged: list[Replicate]) -> list[Replicate]:
    """The trainings still to do: not those that would grow from one that diverged."""
    ended = {(r.arm, r.trial): r.round for r in diverged if arm_of(r.arm).is_pruned_itself}

    def reachable(r: Replicate) -> bool:
        return all(r.round <= ended.get((arm, r.trial), r.round) for arm in ("ticket", arm_of(r.arm).grows_from))

    return [r for r in planned(settings) if r not in done and reachable(r)]


def status_of(experiment: Experiment, root: Path | None = None) -> Status:
    """What of an experiment is done. Raises LabError where its record or table is damaged."""
    folder = folder_of(experiment.name, root)
    record = read_record(folder)
    if record.get("run_key") != experiment.settings.key or not (folder / "rounds.csv").exists():
        return Status(set(), planned(experiment.settings))
    if _is_whole(folder, record, experiment.settings):
        return Status(set(planned(experiment.settings)), [], True)
    rows = {replicate_of(row): row for row in rows_of(read_table(folder, "rounds.csv"))}
    diverged = [replicate for replicate, row in rows.items() if row.get("diverged")]
    left = missing(experiment.settings, rows, diverged)
    return Status(set(rows) & set(planned(experiment.settings)), left, bool(record.get("complete")))


def _is_whole(folder: Path, record: dict, settings: Recipe) -> bool:
    """Whether the record of a run says that it has all of this, and its table is as it was written.

    So the trainings of a finished run need not be looked up one by one.
    """
    if not record.get("complete") or record.get("trainings_diverged") or "writing" in record:
        return False
    try:
        asked = type(settings)(**record["settings"])
        read_file(folder / "rounds.csv")
    except (KeyError, LabError, ValueError):
        return False  # the table is read, and what is wrong is said
    return set(planned(settings)) <= set(planned(asked))


def changed_runs(known: dict[str, Experiment], root: Path | None = None) -> list[tuple[Experiment, dict[str, Any]]]:
    """The runs below a results root that are of no params file as it stands, but of one with changed settings.

    `known` are the experiments of the params files by name. With each run comes what it changes, as `changes` says it.
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
            settings = settings_for(notebook)(**read_record(path.parent).get("settings", {}))
        except LabError:
            continue
        found.append((Experiment(notebook, variant, profile, settings), changes(published.settings, settings)))
    return found


def find_run(run: str | Path, with_file: str = "run.json") -> Path:
    """The folder of a run: as named, or of that variant at its largest profile; one's own before a committed one.

    Raises LabError where no such run has a file of the name `with_file`.
    """
    if (Path(run) / with_file).exists():
        return Path(run).resolve()
    roots, parts = dict.fromkeys([results_root(), project_root() / "results"]), Path(run).parts
    patterns = [f"{profile}/*/*/{with_file}" for profile in reversed(PROFILES)]
    folders = [path.parent for root in roots for pattern in patterns for path in sorted(root.glob(pattern))]
    named = [folder for folder in folders if folder.parts[-len(parts) :] == parts]
    if not named:
        below = " or ".join(map(str, roots))
        there = ", ".join([*dict.fromkeys(folder.name for folder in folders)][:20]) or "none"
        raise LabError(f"results: no run {str(run)!r} with {with_file} below {below} (there are: {there})")
    return named[0]
