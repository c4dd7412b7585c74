"""Settings: one frozen object that says everything about an experiment, and the YAML files it is read from."""

import difflib
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

PROFILES = ("smoke", "cpu", "paper")
Arm = Literal[
    "ticket", "reinit", "random", "oneshot", "oneshot_reinit", "continued", "continued_reset",
    "resampled",
    "noise_0.5", "noise_1", "noise_2", "noise_3",
]  # fmt: skip

# How much of an experiment is run, and where: none of these changes any single training, so they
# stay out of the run key, and raising one of them extends a run instead of starting another.
EXTENT = ("arms", "trials", "reinit_draws", "random_draws", "rounds", "device", "engine")


class LabError(Exception):
    """An error a user can mend: one line that says what is wrong and what to do. The command line exits with 2."""


class Settings(BaseModel):
    """Everything that defines an experiment. Defaults: the paper's LeNet on MNIST (arXiv 1803.03635, Figure 2)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    dataset: str = Field("mnist", description="digits, mnist, fashion_mnist or cifar10")
    train_examples: int = Field(0, ge=0, description="training images used, 0 for all that validation leaves")
    validation: int = Field(5000, ge=0, description="images held out to choose the early-stop point, 0 for none")
    augment: bool = Field(False, description="random flip and pad-and-crop by 4 pixels")

    architecture: str = Field(
        "lenet", description="mlp, lenet, conv2, conv4, conv6, resnet20, vgg19, resnet18 or resnet34"
    )
    widths: tuple[int, ...] = Field((), description="hidden dense layers, empty for the architecture's own")
    initialisation: Literal["glorot_normal", "kaiming_normal", "kaiming_uniform", "gaussian"] = Field(
        "glorot_normal", description="how the weights start, biases start at zero"
    )
    init_std: float = Field(0.1, gt=0, description="standard deviation of the gaussian initialisation")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout rate after each hidden dense layer")

    optimizer: Literal["adam", "adamw", "sgd"] = Field("adam", description="adam, adamw or sgd")
    learning_rate: float = Field(1.2e-3, gt=0, description="peak learning rate")
    momentum: float = Field(0.0, ge=0, lt=1, description="momentum of sgd")
    nesterov: bool = Field(False, description="Nesterov momentum, sgd only")
    weight_decay: float = Field(0.0, ge=0, description="weight decay, decoupled under adamw and L2 otherwise")
    schedule: Literal["constant", "step", "cosine"] = Field("constant", description="constant, step or cosine")
    milestones: tuple[int, ...] = Field((), description="iterations at which the step schedule multiplies by gamma")
    gamma: float = Field(0.1, gt=0, le=1, description="factor of the step schedule")
    warmup: int = Field(0, ge=0, description="iterations of linear warm-up from 0")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="label smoothing of the training loss")
    clip_norm: float = Field(0.0, ge=0, description="largest gradient norm, 0 for no clipping")
    precision: Literal["float32", "bfloat16"] = Field("float32", description="bfloat16 trains under autocast")
    batch_size: int = Field(60, gt=0, description="images a step, the partial last batch of an epoch is dropped")
    iterations: int = Field(50_000, gt=0, description="steps of every training")
    eval_every: int = Field(100, gt=0, description="steps between evaluations")
    read_at: tuple[int, ...] = Field((), description="up to three iterations whose test accuracy rounds.csv has")

    arms: tuple[Arm, ...] = Field(("ticket", "reinit", "random"), description="what is trained at each round")
    trials: int = Field(5, gt=0, description="independent repetitions of the whole experiment")
    reinit_draws: int = Field(3, gt=0, description="reinitialisations of each trial's mask")
    random_draws: int = Field(2, gt=0, description="random masks in each trial")
    rounds: int = Field(20, ge=0, description="rounds of pruning")
    criterion: str = Field("magnitude", description="which weights are worth keeping")
    scope: Literal["layer", "global"] = Field("layer", description="weights compete within their layer or all together")
    prune_fc: float = Field(0.2, ge=0, lt=1, description="share of the remaining dense weights pruned in a round")
    prune_conv: float = Field(0.1, ge=0, lt=1, description="share of the remaining convolution weights")
    prune_output: float = Field(0.1, ge=0, lt=1, description="share of the remaining weights of the output layer")
    rewind_to: int = Field(0, ge=0, description="iteration whose weights tickets restart from, 0 for the initial")

    seed: int = Field(0, ge=0, description="the one seed that every random number follows from")
    device: str = Field("auto", description="auto, cpu or cuda")
    engine: Literal["auto", "dense", "stack"] = Field("auto", description="auto takes what is fastest here")

    @field_validator("*", mode="before")
    @classmethod
    def _no_number_from_bool(cls, value: Any, info: Any) -> Any:
        items = value if isinstance(value, list | tuple) else [value]
        if any(isinstance(v, bool) for v in items) and cls.model_fields[info.field_name].annotation is not bool:
            raise ValueError("true and false are not allowed here")
        return value

    @model_validator(mode="after")
    def _combinations(self) -> "Settings":
        def forbid(wrong: bool, key: str, allowed: str) -> None:
            if wrong:
                raise ValueError(f"{key} = {getattr(self, key)!r}: {allowed}")

        sgd, adam = self.optimizer == "sgd", self.optimizer == "adam"
        forbid(self.momentum > 0 and not sgd, "momentum", "allowed with optimizer sgd only")
        forbid(self.nesterov and self.momentum == 0, "nesterov", "allowed with momentum > 0 only")
        forbid(bool(self.milestones) != (self.schedule == "step"), "milestones", "for schedule step, and for it only")
        forbid(list(self.milestones) != sorted(set(self.milestones)), "milestones", "must rise")
        forbid(self.warmup > self.iterations, "warmup", f"allowed up to iterations = {self.iterations}")
        forbid(self.rewind_to >= self.iterations, "rewind_to", f"allowed below iterations = {self.iterations}")
        evaluated = all(0 <= i <= self.iterations and i % self.eval_every == 0 for i in self.read_at)
        forbid(not evaluated or len(self.read_at) > 3, "read_at", "up to three iterations that are evaluated")
        forbid("ticket" not in self.arms, "arms", "must contain ticket, the arm the others are held against")
        forbid(len(set(self.arms)) < len(self.arms), "arms", "each arm once")
        grown = "continued_reset" not in self.arms or "continued" in self.arms
        forbid(not grown, "arms", "continued_reset needs continued, whose mask it has")
        forbid(any(width < 1 for width in self.widths), "widths", "must be positive")
        forbid(adam and self.weight_decay >= 1, "weight_decay", "allowed below 1")
        return self

    def __init__(self, **values: Any) -> None:
        """Check `values`; raise LabError with one line that names every bad key, its value and what is allowed."""
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise LabError("settings: " + "; ".join(_explain(e) for e in error.errors())) from None

    def changed(self, **values: Any) -> "Settings":
        """A checked copy with some values changed."""
        return Settings(**{**self.model_dump(), **values})

    @property
    def key(self) -> str:
        """Run key: readable prefix + hash of the settings that differ from their defaults.

        A setting left at its default is not hashed, so adding a setting leaves old keys valid; the EXTENT is not
        hashed either. Pinned by a golden test.
        """
        identity = {
            name: value
            for name, value in self.model_dump(mode="json").items()
            if name not in EXTENT and getattr(self, name) != type(self).model_fields[name].default
        }
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
        return f"{self.architecture}-{self.dataset}-{digest}"

    def draws(self, arm: str) -> int:
        """How many times `arm` is drawn in each trial and round."""
        if arm.endswith("reinit") or arm == "resampled":
            return self.reinit_draws
        return self.random_draws if arm == "random" else 1


class Experiment(NamedTuple):
    """One params file under one profile: what to run, and where its results go (`<profile>/<notebook>/<variant>`)."""

    notebook: str
    variant: str
    profile: str
    settings: Settings

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
        raise LabError(f"params: {path} is not YAML: {' '.join(str(error).split())}") from None
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
    if not all(isinstance(layer, dict) and all(isinstance(key, str) for key in layer) for layer in layers):
        raise LabError("a profile must be a mapping of settings, and every key a name")
    published = Settings(**{key: value for layer in layers for key, value in layer.items()})
    settings = published.changed(**overrides)
    before, now = published.model_dump(mode="json"), settings.model_dump(mode="json")
    changed = {k: v for k, v in now.items() if v != before[k] and k not in ("device", "engine")}
    if changed:
        variant += "-" + hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:8]
    return Experiment(path.parent.name, variant, profile, settings)


def project_root() -> Path:
    """The folder that holds params/ and results/: at or above the working directory, else where lthcore lies."""
    here = Path.cwd()
    places = (here, *here.parents, Path(__file__).resolve().parents[1])
    return next((p for p in places if (p / "params").is_dir() and (p / "notebooks").is_dir()), here)


def choose(key: str, value: str, allowed: Iterable[str]) -> str:
    """Return `value` if it is one of `allowed`; else raise LabError naming the key, the value, the nearest and all."""
    allowed = list(allowed)
    if value in allowed:
        return value
    near = difflib.get_close_matches(str(value), allowed, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise LabError(f"{key} = {value!r}{hint}: allowed are {', '.join(allowed)}")


def seed_for(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for one purpose: everything random here draws from a generator of its own, seeded so."""
    text = json.dumps([seed, *purpose])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def _explain(error: dict[str, Any]) -> str:
    key, value, message = ".".join(map(str, error["loc"])), error["input"], error["msg"]
    if error["type"] == "extra_forbidden":
        initials = [name for name in Settings.model_fields if "".join(w[0] for w in name.split("_")) == key]  # lr
        near = initials or difflib.get_close_matches(key, Settings.model_fields, n=1, cutoff=0.1)
        return f"unknown key {key!r} = {value!r}" + (f" (did you mean {near[0]!r}?)" if near else "")
    message = message.removeprefix("Value error, ").replace("Input should be", "must be")
    return f"{key} = {value!r}: {message}" if key else message
