"""Experiments, read from the YAML files of params/: settings of a study, with profiles that set how much is run."""

import hashlib
import itertools
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from lthcore.errors import LabError, choose, shown
from lthcore.lottery.methods import settings_for
from lthcore.paths import PROFILES, project_root
from lthcore.plugins import check_plugins
from lthcore.recipe import Recipe
from lthcore.runs.yaml_files import read_yaml
from lthcore.settings import TransferSettings

SOURCE = "source"  # subfolder of a run with the search that its masks are transferred from
STOP = "stop"  # a file of this name in a run's folder, or in the folder above it, ends the run cleanly
ONE_OFF = re.compile(r"-[a-z_]+[^/]*-[0-9a-f]{8}")  # what is appended to the variant of a run with changed settings
LONGEST = 60  # maximum length of the part of a folder name that lists changed settings
NAME = re.compile(r"[A-Za-z0-9_+-][A-Za-z0-9_+.-]{0,99}")  # names become folder names: no path such as `../x`


class NoSuchProfile(LabError):
    """Error: a params file does not have the requested profile."""


class Experiment(NamedTuple):
    """Settings of a params file under a profile, and the place of their results (`<profile>/<notebook>/<variant>`)."""

    notebook: str
    variant: str
    profile: str
    settings: Recipe

    @property
    def name(self) -> str:
        """Path of the results folder, relative to the results root."""
        return f"{self.profile}/{self.notebook}/{self.variant}"

    @property
    def search(self) -> "Experiment | None":
        """The search whose masks this experiment transfers, which runs before it in its folder, or None."""
        if not isinstance(self.settings, TransferSettings):
            return None
        return self._replace(variant=f"{self.variant}/{SOURCE}", settings=self.settings.source)


def params_files() -> list[Path]:
    """Return the paths of all `params/<notebook>/<variant>.yaml` files, sorted."""
    return sorted((project_root() / "params").glob("*/*.yaml"))


def load_experiments(
    path: str | Path, profile: str = "cpu", overrides: dict[str, Any] | None = None, only: str | None = None
) -> list[Experiment]:
    """Read `params/<notebook>/<variant>.yaml` under a profile; return one experiment, or one for each label of a sweep.

    `only` names one label of a sweep, of which the experiment is returned alone.

    A sweep is a mapping `sweep:` of label -> settings; its variants are `<variant>-<label>`. Settings are taken, each
    source overriding the previous ones, from the top level of the file, the label, the profile, the label in a `sweep:`
    of the profile, and `overrides`. If `overrides` change any setting, a suffix is added to the variant, so that a
    one-off run never mixes with the published one. `plugins:` names the plugins that the file needs. Raises LabError
    for a file, profile, key or value that cannot be used, and for overrides that make two labels the same experiment.
    """
    path = Path(path)
    values = read_yaml(path, "params", "; `lth list` shows those there are")
    profiles = values.pop("profiles", None) if isinstance(values, dict) else None
    if not isinstance(profiles, dict) or not profiles:
        raise LabError(f"params: {path} needs flat keys and a mapping `profiles:` with {', '.join(PROFILES)}")
    try:
        check_plugins(values.pop("plugins", None))
        sweep = _sweep(path, values, profiles)
        if only is not None and not sweep:
            raise LabError("there is no sweep, so no label of it to choose")
        layers_of = _layers(path, profile, values, profiles, sweep)
        if only is not None:
            variant = f"{path.stem}-{choose('label of the sweep', only, sweep)}"
            layers_of = {variant: layers_of[variant]}
        published = [_experiment(path, profile, variant, layers, {}) for variant, layers in layers_of.items()]
        if not overrides:
            return published
        changed = [_experiment(path, profile, variant, layers, overrides) for variant, layers in layers_of.items()]
        _check_different(published, changed)
        return changed
    except LabError as error:
        raise type(error)(f"{path} ({profile}): {error}") from None


def _sweep(path: Path, values: dict[str, Any], profiles: dict[str, Any]) -> dict[str, Any]:
    """Take the sweep (label -> settings) out of the values of a params file, {} if it has none, and check all names."""
    sweep = _mapping("sweep", values.get("sweep"))
    if "sweep" in values and not sweep:
        raise LabError("sweep must map labels to settings")
    values.pop("sweep", None)
    check_name("params folder", path.absolute().parent.name)
    if check_name("params file", path.stem) == STOP:
        raise LabError(f"a file of the name {STOP} ends the runs beside it; choose another name")
    for name in profiles:
        choose("profiles", name, PROFILES)  # other commands look for runs under these
    for label in sweep:
        check_name("label of the sweep", label)
    return sweep


def _layers(
    path: Path, profile: str, values: dict[str, Any], profiles: dict[str, Any], sweep: dict[str, Any]
) -> dict[str, tuple[dict[str, Any], ...]]:
    """Return variant -> the layers of its settings under a profile, of which each overrides those before it."""
    try:
        choose("profile", profile, profiles)
    except LabError as error:
        raise NoSuchProfile(error) from None
    overlay = _mapping(f"profile {profile}", profiles[profile])
    scaled = _mapping(f"sweep of profile {profile}", overlay.pop("sweep", None))
    for label in scaled:
        choose(f"sweep of profile {profile}", label, sweep)
    return {
        f"{path.stem}-{label}": (values, _mapping(label, layer), overlay, _mapping(label, scaled.get(label)))
        for label, layer in sweep.items()
    } or {path.stem: (values, overlay)}


def _mapping(what: str, value: object) -> dict[str, Any]:
    """Return `value`, settings of a params file, as a mapping; nothing written is an empty one. Raises LabError."""
    if value is not None and not isinstance(value, dict):
        raise LabError(f"{what} must be a mapping, with `key: value` pairs")
    return value or {}


def _check_different(published: list[Experiment], changed: list[Experiment]) -> None:
    """Raise LabError if overrides made two experiments of a sweep equal that were different."""
    for (one, now), (other, then) in itertools.combinations(zip(published, changed, strict=True), 2):
        if now.settings == then.settings and (lost := changes(one.settings, other.settings)):
            both = f"{one.variant} and {other.variant}"
            raise LabError(f"overriding {', '.join(lost)} makes {both} of the sweep the same experiment")


def check_name(what: str, name: str) -> str:
    """Return `name` if it can name a results folder, else raise LabError; `what` says in the error what is named."""
    if not NAME.fullmatch(name):
        allowed = "1 to 100 letters (a-z, A-Z), digits and _ + - . are allowed, the first no dot"
        raise LabError(f"{what} {shown(name)}: {allowed}")
    return name


def load_experiment(path: str | Path, profile: str = "cpu", overrides: dict[str, Any] | None = None) -> Experiment:
    """Like `load_experiments`, but return the only experiment. Raises LabError if the file has several, in a sweep."""
    experiments = load_experiments(path, profile, overrides)
    if len(experiments) > 1:
        raise LabError(f"params: {path} is a sweep of {len(experiments)} experiments")
    return experiments[0]


def _experiment(
    path: Path, profile: str, variant: str, layers: tuple[Any, ...], overrides: dict[str, Any]
) -> Experiment:
    notebook = path.absolute().parent.name
    values = {key: value for layer in layers for key, value in layer.items()}
    published = settings_for(notebook, values)(**values)
    if not overrides:
        return Experiment(notebook, variant, profile, published)
    settings = published.changed(**overrides)
    changed = changes(published, settings)
    if changed:
        words = named({key: changed[key] for key in overrides if key in changed})
        variant += f"-{words}-{hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:8]}"
    return Experiment(notebook, variant, profile, settings)


def changes(published: Recipe, settings: Recipe) -> dict[str, Any]:
    """Return the settings that differ from the published ones, as JSON values; `device` and `engine` are ignored."""
    before, now = published.model_dump(mode="json"), settings.model_dump(mode="json")
    return {k: v for k, v in now.items() if v != before.get(k) and k not in ("device", "engine")}


def named(changed: dict[str, Any]) -> str:
    """Return changed settings as part of a folder name, `batch_size32-widths20+10`, of at most LONGEST characters.

    Characters that are not allowed in names are left out. A longer name is cut, and ends with the number of changes.
    """
    words = []
    for key, value in changed.items():
        text = "+".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
        words.append(key + "".join(c for c in text if c.isascii() and (c.isalnum() or c in "_+-.")))
    whole = "-".join(words)
    return whole if len(whole) <= LONGEST else f"{whole[: LONGEST - 16]}..{len(words)}_changes"
