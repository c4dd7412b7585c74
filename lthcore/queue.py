"""Queue: the experiments in their written order (params/QUEUE.yaml)."""

from collections.abc import Iterator
from pathlib import Path

import yaml

from lthcore.experiments import Experiment, load_experiments
from lthcore.settings import EXTENT, LabError, choose, one_line, project_root


def queued(profile: str, path: Path | None = None) -> Iterator[Experiment]:
    """The experiments of params/QUEUE.yaml in their order, under a profile. Raises LabError for a bad entry."""
    path = path or project_root() / "params" / "QUEUE.yaml"
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise LabError(f"queue: cannot read {path} ({one_line(error)})") from None
    for entry in entries:
        if not isinstance(entry, dict) or "params" not in entry or entry.keys() - {"params", "only", "labels"}:
            raise LabError(f"queue: {path}: {entry!r} must have params: <notebook>/<variant>, may have only:, labels:")
        only = entry.get("only") or {}
        if only.keys() - set(EXTENT):
            raise LabError(f"queue: {path}: {entry['params']}: only may name {', '.join(EXTENT)}")
        experiments = load_experiments(path.parent / f"{entry['params']}.yaml", profile)
        if "labels" in entry:
            stem = entry["params"].partition("/")[2]
            by_label = {e.variant.removeprefix(f"{stem}-"): e for e in experiments}
            experiments = [
                by_label[choose(f"queue: {path}: labels", str(label), by_label)] for label in entry["labels"]
            ]
        for experiment in experiments:
            # never more than the profile asks for
            asked = experiment.settings.model_dump()
            if only.keys() - asked.keys():
                missing = ", ".join(sorted(only.keys() - asked.keys()))
                raise LabError(f"queue: {path}: {entry['params']}: this study has no {missing}")
            less = {
                k: [arm for arm in v if arm in asked[k]] if k == "arms" else min(v, asked[k]) for k, v in only.items()
            }
            yield experiment._replace(settings=experiment.settings.changed(**less))
