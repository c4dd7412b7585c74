"""Experiments: the YAML files of params/, each a study's settings under the profiles that say how much is run of it."""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from lthcore.settings import KINDS, LabError, Recipe, Settings, choose, one_line

PROFILES = ("smoke", "cpu", "paper")


class Experiment(NamedTuple):
    """One params file under one profile: what to run, and where its results go (`<profile>/<notebook>/<variant>`)."""

    notebook: str
    variant: str
    profile: str
    settings: Recipe

    @property
    def name(self) -> str:
        """The folder of the results, below the results root."""
        return f"{self.profile}/{self.notebook}/{self.variant}"


def load_experiments(
    path: str | Path, profile: str = "cpu", overrides: dict[str, Any] | None = None
) -> list[Experiment]:
    """Read `params/<notebook>/<variant>.yaml` under a profile: one experiment, or one for each label of its sweep.

    A sweep is a mapping `sweep:` of label -> settings; its variants are `<variant>-<label>`. Later wins: the file's
    own keys, the label's, the profile's, those of the label in a `sweep:` of the profile. `overrides` go on top and,
    where they change anything, mark the variant, so that a one-off run never mixes with the published one. Raises
    LabError for a file, profile, key or value that cannot be used.
    """
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LabError(f"params: cannot read {path} ({error.strerror}); `lth list` shows those there are") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise LabError(f"params: {path} is not YAML: {one_line(error)}") from None
    profiles = values.pop("profiles", None) if isinstance(values, dict) else None
    if not isinstance(profiles, dict):
        raise LabError(f"params: {path} needs flat keys and a mapping `profiles:` with {', '.join(PROFILES)}")
    sweep = values.pop("sweep", {"": {}})
    try:
        if not isinstance(sweep, dict) or not sweep or not all(isinstance(key, str) for key in sweep):
            raise LabError("sweep must map labels to settings")
        choose("profile", profile, profiles)
        overlay = profiles[profile] or {}
        scaled = overlay.pop("sweep", {}) if isinstance(overlay, dict) else {}
        for label in scaled if isinstance(scaled, dict) else ["sweep"]:
            choose(f"sweep of profile {profile}", label, sweep)
        return [
            _experiment(path, profile, f"{path.stem}-{label}" if label else path.stem, layers, overrides or {})
            for label, layer in sweep.items()
            for layers in [(values, layer or {}, overlay, scaled.get(label, {}))]
        ]
    except LabError as error:
        raise LabError(f"{path} ({profile}): {error}") from None


def load_experiment(path: str | Path, profile: str = "cpu", overrides: dict[str, Any] | None = None) -> Experiment:
    """The one experiment of a params file without a sweep; else as `load_experiments`."""
    experiments = load_experiments(path, profile, overrides)
    if len(experiments) > 1:
        raise LabError(f"params: {path} is a sweep of {len(experiments)} experiments")
    return experiments[0]


def _experiment(
    path: Path, profile: str, variant: str, layers: tuple[Any, ...], overrides: dict[str, Any]
) -> Experiment:
    if not all(isinstance(layer, dict) for layer in layers):
        raise LabError("a profile must be a mapping of settings")
    if unnamed := [key for layer in layers for key in layer if not isinstance(key, str)]:
        raise LabError(f"every key must be a name, and {unnamed[0]!r} is none")
    kind = KINDS.get(path.parent.name, Settings)
    published = kind(**{key: value for layer in layers for key, value in layer.items()})
    settings = published.changed(**overrides)
    before, now = published.model_dump(mode="json"), settings.model_dump(mode="json")
    changed = {k: v for k, v in now.items() if v != before[k] and k not in ("device", "engine")}
    if changed:
        variant += "-" + hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:8]
    return Experiment(path.parent.name, variant, profile, settings)
