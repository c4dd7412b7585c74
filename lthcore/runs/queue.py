"""The queue: experiments in the order of params/QUEUE.yaml."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Required

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from lthcore.errors import LabError, choose, shown
from lthcore.paths import project_root
from lthcore.runs.experiments import Experiment, check_name, load_experiments
from lthcore.runs.yaml_files import check_shape, read_yaml


class Less(TypedDict, total=False):
    """Settings that a queue entry may reduce to run only a part of an experiment. No other setting is allowed."""

    __pydantic_config__ = ConfigDict(extra="forbid")
    arms: list[str]
    trials: int
    reinit_draws: int
    random_draws: int
    rounds: int


class Entry(TypedDict, total=False):
    """An entry of params/QUEUE.yaml: a params file, and optionally the part of it to run.

    `only` reduces settings of its experiments, `labels` selects labels of its sweep.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")
    params: Required[str]
    only: Less | None
    labels: Annotated[list[str | int | float], Field(min_length=1)]


def queued(profile: str, path: Path | None = None, errors: list[LabError] | None = None) -> Iterator[Experiment]:
    """Yield the experiments of params/QUEUE.yaml in their order, under a profile.

    Raises LabError if the file or the form of an entry is invalid. Raises LabError also for an entry whose experiments
    cannot be loaded or reduced; if a list `errors` is given, the error is appended to it and the next entry follows.
    """
    path = path or project_root() / "params" / "QUEUE.yaml"
    entries = read_yaml(path, "queue")
    check_shape(entries, list[Entry], f"queue: {path}, by entries from 0")
    for entry in entries:
        try:
            yield from list(_of_entry(entry, profile, path))
        except LabError as error:
            if errors is None:
                raise
            errors.append(error)


def _of_entry(entry: Entry, profile: str, path: Path) -> Iterator[Experiment]:
    only = entry.get("only") or {}
    folder, _, stem = entry["params"].partition("/")
    for part in (folder, stem):
        check_name(f"queue: {path}: params = {shown(entry['params'])} must be <notebook>/<variant>;", part)
    experiments = load_experiments(path.parent / folder / f"{stem}.yaml", profile)
    if "labels" in entry:
        by_label = {e.variant.removeprefix(f"{stem}-"): e for e in experiments}
        experiments = [by_label[choose(f"queue: {path}: labels", str(label), by_label)] for label in entry["labels"]]
    for experiment in experiments:
        asked = experiment.settings.model_dump()
        if only.keys() - asked.keys():
            missing = ", ".join(sorted(only.keys() - asked.keys()))
            raise LabError(f"queue: {path}: {entry['params']}: this study has no {missing}")
        try:
            experiment.settings.changed(**only)
        except LabError as error:  # e.g. an unknown arm, which would be dropped silently below
            raise LabError(f"queue: {path}: {entry['params']}: only: {error}") from None
        less = {  # never more than the profile asks for
            k: [arm for arm in v if arm in asked[k]] if k == "arms" else min(v, asked[k]) for k, v in only.items()
        }
        yield experiment._replace(settings=experiment.settings.changed(**less))
