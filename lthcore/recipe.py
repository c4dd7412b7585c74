"""Recipe: the settings that the experiments of all studies share, how a network is trained and how often."""

import difflib
import hashlib
import json
from pathlib import PurePath
from typing import Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from lthcore.errors import LabError, counted, shown
from lthcore.plugins import load_plugins
from lthcore.sources.catalogue import dataset_of
from lthcore.sources.dataset import Dataset

Augmentation = Literal["crop", "flip", "rotation", "jitter", "erasing"]
Initialisation = Literal[
    "glorot_normal", "glorot_uniform", "kaiming_normal", "kaiming_uniform", "kaiming_fan_out", "gaussian", "own"
]  # fmt: skip
Optimizer = Literal["adam", "adamw", "sgd"]
Schedule = Literal["constant", "step", "cosine"]
Padding = Literal["same", "valid"]
EngineName = Literal["auto", "dense", "stack"]

# Settings for how much of an experiment is run, and where. None of them changes what a single training run is (device
# and engine change its rounding, and a GPU draws other dropout and augmentation), so they are not part of the run key,
# and raising one of them extends a run.
EXTENT = ("arms", "trials", "reinit_draws", "random_draws", "rounds", "device", "engine")

LARGEST_PLAN = 100_000  # training runs of an experiment: a hundred times those of the largest published one
WIDEST, DEEPEST = 1_000_000, 100  # largest number of neurons in a hidden layer, and of hidden layers


def listed(kind: Any) -> str:
    """Return the values of a Literal as a list for a sentence: "a, b or c"."""
    *others, final = get_args(kind)
    return f"{', '.join(others)} or {final}"


class Recipe(BaseModel):
    """Settings that all studies share: how a network is trained, and how often. Each study adds its own settings."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    dataset: str = Field("mnist", description="data set, as digits, mnist, fashion_mnist or cifar10")
    train_examples: int = Field(0, ge=0, description="training images used, 0 for all that validation leaves")
    validation: int = Field(5000, ge=0, description="images held out to choose the early-stop point, 0 for none")
    image_size: int = Field(0, ge=0, le=256, description="pixels a side that images are resized to, 0 for as published")
    input_scaling: Literal["standardised", "unit", "unit_norm"] = Field(
        "standardised", description="standardised, unit for pixels from 0 to 1, unit_norm for images of norm 1"
    )
    augment: tuple[Augmentation, ...] = Field((), description=f"any of {listed(Augmentation)}")

    architecture: str = Field("lenet", description="network, as mlp, lenet, conv2, resnet20 or vgg19")
    widths: tuple[int, ...] = Field((), description="hidden dense layers, empty for the architecture's own")
    padding: Padding = Field("same", description=f"{listed(Padding)}, in conv2, conv4 and conv6")
    initialisation: Initialisation = Field(
        "glorot_normal", description="how the weights start, with biases at zero; own: as the network is built"
    )
    init_std: float = Field(0.1, gt=0, description="standard deviation of the gaussian initialisation")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout rate after each hidden dense layer")

    optimizer: Optimizer = Field("adam", description=listed(Optimizer))
    learning_rate: float = Field(1.2e-3, gt=0, description="peak learning rate")
    momentum: float = Field(0.0, ge=0, lt=1, description="momentum of sgd")
    nesterov: bool = Field(False, description="Nesterov momentum, sgd only")
    weight_decay: float = Field(0.0, ge=0, description="weight decay, decoupled under adamw and L2 otherwise")
    decay_norms: bool = Field(False, description="weight decay also on the scales and shifts of norms")
    schedule: Schedule = Field("constant", description=listed(Schedule))
    milestones: tuple[int, ...] = Field((), description="iterations at which the step schedule multiplies by gamma")
    gamma: float = Field(0.1, gt=0, le=1, description="factor of the step schedule")
    warmup: int = Field(0, ge=0, description="iterations of linear warm-up, the first at 1/warmup of the rate")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="label smoothing of the training loss")
    clip_norm: float = Field(0.0, ge=0, description="largest gradient norm, 0 for no clipping")
    precision: Literal["float32", "bfloat16"] = Field("float32", description="of products, weights stay in float32")
    batch_size: int = Field(60, gt=0, description="images a step, the partial last batch of an epoch is dropped")
    epochs: int = Field(0, ge=0, description="passes over the training images, in place of iterations; 0 for those")
    iterations: int = Field(50_000, gt=0, le=10**9, description="steps of every training")
    eval_every: int = Field(100, gt=0, description="steps between evaluations, an epoch if epochs are given")
    rewind_to: int = Field(0, ge=0, description="iteration whose weights tickets restart from, 0 for the initial")
    read_at: tuple[int, ...] = Field((), description="up to three iterations whose test accuracy rounds.csv has")

    trials: int = Field(5, gt=0, description="independent repetitions of the whole experiment")
    seed: int = Field(0, ge=0, description="the one seed that every random number follows from")
    device: str = Field("auto", description="auto, cpu or cuda")
    engine: EngineName = Field("auto", description=f"{listed(EngineName)}; auto takes what is fastest here")

    @model_validator(mode="before")
    @classmethod
    def _from_epochs(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Derive `iterations` from `epochs`, and `eval_every` as well unless it is given.

        Raises ValueError if `iterations` is given too and does not agree.
        """
        fields = {name: values.get(name, field.default) for name, field in cls.model_fields.items()}
        counts = [fields[name] for name in ("epochs", "train_examples", "validation", "batch_size")]
        if not all(isinstance(n, int) for n in counts) or fields["epochs"] <= 0 or fields["batch_size"] <= 0:
            return values
        if _known(fields["dataset"]) is None:
            return values  # `check_settings` raises the error that explains this
        steps = _steps_per_epoch(*(fields[name] for name in ("dataset", "train_examples", "validation", "batch_size")))
        total = fields["epochs"] * steps
        if values.get("iterations", total) != total:
            raise ValueError(
                f"iterations = {values['iterations']}: epochs = {fields['epochs']} means {total}; give one"
            )
        return {"eval_every": max(1, steps)} | values | {"iterations": max(1, total)}

    @field_validator("*", mode="before")
    @classmethod
    def _no_number_from_bool(cls, value: Any, info: Any) -> Any:
        items = value if isinstance(value, list | tuple) else [value]
        if any(isinstance(v, bool) for v in items) and cls.model_fields[info.field_name].annotation is not bool:
            raise ValueError("true and false are not allowed here")
        return value

    @field_validator("augment")
    @classmethod
    def _as_applied(cls, augment: tuple[Augmentation, ...]) -> tuple[Augmentation, ...]:
        """Return the augmentations in the order in which they are applied, whichever they are written in."""
        return tuple(sorted(augment, key=get_args(Augmentation).index))

    @model_validator(mode="after")
    def _recipe(self) -> Self:
        self._check_optimizer()
        self._check_length()
        self._check_network_and_images()
        if self.trainings > LARGEST_PLAN:
            names = [name for name in ("trials", "rounds", "reinit_draws", "random_draws") if hasattr(self, name)]
            values = ", ".join(f"{name} = {shown(getattr(self, name))}" for name in names)
            raise ValueError(
                f"{values}: that would be {_count(self.trainings)} trainings, and {LARGEST_PLAN:,} are allowed"
            )
        return self

    def _check_optimizer(self) -> None:
        if self.momentum > 0 and self.optimizer != "sgd":
            raise self._wrong("momentum", "allowed with optimizer sgd only")
        if self.nesterov and self.momentum == 0:
            raise self._wrong("nesterov", "allowed with momentum > 0 only")
        if self.optimizer == "adam" and self.weight_decay >= 1:
            raise self._wrong("weight_decay", "allowed below 1")
        if bool(self.milestones) != (self.schedule == "step"):
            raise self._wrong("milestones", "required with schedule step, and allowed with it only")
        if list(self.milestones) != sorted(set(self.milestones)):
            raise self._wrong("milestones", "must rise")
        if self.schedule != "step" and self.gamma != type(self).model_fields["gamma"].default:
            raise self._wrong("gamma", "allowed with schedule step only")
        if any(not 0 <= milestone < self.iterations for milestone in self.milestones):
            raise self._wrong("milestones", f"allowed from 0 to below iterations = {self.iterations}")

    def _check_length(self) -> None:
        """Check epochs against batches, and the iterations at which something happens against those of training."""
        if self.epochs and _known(self.dataset):
            batches = _steps_per_epoch(self.dataset, self.train_examples, self.validation, self.batch_size)
            if batches < 1:
                raise self._wrong("batch_size", "allowed are no more than the training images without validation")
            if self.iterations != self.epochs * batches:
                raise self._wrong("epochs", "epochs, images and batch_size must be whole numbers")
        if self.warmup > self.iterations:
            raise self._wrong("warmup", f"allowed up to iterations = {self.iterations}")
        if self.rewind_to >= self.iterations:
            raise self._wrong("rewind_to", f"allowed below iterations = {self.iterations}")
        last = self.iterations  # evaluated whatever `eval_every` is
        evaluated = all(i == last or (0 <= i <= last and i % self.eval_every == 0) for i in self.read_at)
        if len(self.read_at) > 3 or not evaluated:
            raise self._wrong("read_at", "up to three iterations that are evaluated")
        if any(i < self.rewind_to for i in self.read_at):
            raise self._wrong("read_at", f"allowed from rewind_to = {self.rewind_to} on, where tickets begin")

    def _check_network_and_images(self) -> None:
        if self.initialisation != "gaussian" and self.init_std != type(self).model_fields["init_std"].default:
            raise self._wrong("init_std", "allowed with initialisation gaussian only")
        if any(width < 1 for width in self.widths):
            raise self._wrong("widths", "must be positive")
        if len(self.widths) > DEEPEST or any(width > WIDEST for width in self.widths):
            raise self._wrong("widths", f"allowed are up to {DEEPEST} layers of up to {WIDEST:,} neurons")
        if len(set(self.augment)) < len(self.augment):
            raise self._wrong("augment", "each augmentation once")
        known = _known(self.dataset)
        if "flip" in self.augment and known is not None and not known.mirrored:
            raise self._wrong("augment", "no flip for this data set, since a mirrored image is not of the same class")
        for key, changes in (("augment", bool(self.augment)), ("image_size", self.image_size > 0)):
            if changes and self.input_scaling == "unit_norm":
                raise self._wrong("input_scaling", f"no unit_norm with {key}, which would change the norms again")

    def _wrong(self, key: str, allowed: str) -> ValueError:
        """Return the error for a setting with a value that is not allowed; `allowed` says what is."""
        return ValueError(f"{key} = {shown(getattr(self, key))}: {allowed}")

    def __init__(self, /, **values: Any) -> None:
        """Check the values. Raises LabError with one line that names invalid keys, their values and what is allowed."""
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise LabError(f"settings: {_explained(type(self), error)}") from None
        except LabError as error:  # an unknown arm
            raise LabError(f"settings: {error}") from None

    @classmethod
    def of_parameters(cls, names: dict[str, Any]) -> Self:
        """Return the settings among the `globals()` of a notebook, from its parameters cell or injected by papermill.

        Raises LabError for an annotated name that is not a setting, except `folder`, the folder for the tables.
        """
        load_plugins()
        unknown = names.get("__annotations__", {}).keys() - cls.model_fields.keys() - {"folder"}
        return cls(**{name: names[name] for name in [*cls.model_fields, *sorted(unknown)] if name in names})

    def changed(self, /, **values: Any) -> Self:
        """Return a checked copy with some values changed.

        New epochs replace iterations, and new iterations epochs. With `epochs` 0, the number of iterations stays.
        """
        mine = self.given()
        if values.get("epochs"):
            mine.pop("iterations", None)
            if not self.epochs and self.eval_every == type(self).model_fields["eval_every"].default:
                del mine["eval_every"]
        elif self.epochs and ("iterations" in values or "epochs" in values):
            mine |= {"epochs": 0, "iterations": self.iterations, "eval_every": self.eval_every}
        return type(self)(**{**mine, **values})

    def given(self, mode: str = "python") -> dict[str, Any]:
        """Return the settings as a dict, without values that follow from other settings.

        `mode` is pydantic's: "python", or "json" for values that JSON can represent.
        """
        values = self.model_dump(mode=mode)
        if self.epochs:
            del values["iterations"]
            if self.eval_every == self.steps_per_epoch:
                del values["eval_every"]
        return values

    @property
    def steps_per_epoch(self) -> int:
        """Number of iterations in one epoch."""
        return max(1, _steps_per_epoch(self.dataset, self.train_examples, self.validation, self.batch_size))

    @property
    def trainings(self) -> int:
        """Number of planned training runs, computed without listing them: one for each trial."""
        return self.trials

    @property
    def masks_weights(self) -> bool:
        """Whether pruned weights are zero. Studies with exceptions override this."""
        return True

    @property
    def counts_nonzero(self) -> bool:
        """Whether remaining weights are counted as nonzero weights, because the mask does not give their number."""
        return False

    @property
    def key(self) -> str:
        """Run key: a readable prefix, and a hash of the settings that differ from their defaults.

        Settings with their default value are not hashed, so that old keys stay valid if a setting is added. Settings
        in EXTENT are not hashed either. A golden test pins the keys.
        """
        identity = {
            name: value
            for name, value in self.given("json").items()
            if name not in EXTENT
            and (getattr(self, name) != type(self).model_fields[name].default or (name == "eval_every" and self.epochs))
        }
        if (study := type(self).__name__) != "Settings":  # keys of a search for tickets name none
            identity["study"] = study
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
        return f"{self.architecture}-{PurePath(self.dataset).stem}-{digest}"


def _known(dataset: object) -> Dataset | None:
    """Return the data set of this name, or None if there is none: loading it raises the error that explains this."""
    try:
        return dataset_of(dataset) if isinstance(dataset, str) else None
    except LabError:
        return None


def _steps_per_epoch(dataset: str, train_examples: int, validation: int, batch_size: int) -> int:
    known = _known(dataset)
    images = known.n_train if known else 0
    return (train_examples or images - validation) // batch_size


def _count(n: int) -> str:
    return f"{n:,}" if n < 10**18 else f"more than {10**18:,}"


def _explained(kind: type[Recipe], error: ValidationError) -> str:
    """Describe invalid settings: at most three wrong values and three unknown keys, and the numbers of further ones."""
    errors = error.errors(include_url=False, include_context=False)
    unknown = [e for e in errors if e["type"] == "extra_forbidden"]
    wrong = [e for e in errors if e["type"] != "extra_forbidden"]
    parts = [_explain(kind, e) for e in (*wrong[:3], *unknown[:3])]
    parts += [
        counted(len(some) - 3, f"more {what}")
        for some, what in ((wrong, "wrong value"), (unknown, "unknown key"))
        if some[3:]
    ]
    return "; ".join(parts)


def _explain(kind: type[Recipe], error: dict[str, Any]) -> str:
    key, value, message = ".".join(map(str, error["loc"])), shown(error["input"]), error["msg"]
    if error["type"] == "extra_forbidden":
        initials = [name for name in kind.model_fields if "".join(w[:1] for w in name.split("_")) == key]  # lr
        near = initials or difflib.get_close_matches(key[:100], kind.model_fields, n=1, cutoff=0.1)
        return f"unknown key {shown(key)} = {value}" + (f" (did you mean {near[0]!r}?)" if near else "")
    message = message.removeprefix("Value error, ").replace("Input should be", "must be")
    message = message.replace("a valid tuple", "a list, as [one, two]")
    return f"{key} = {value}: {message}" if key else message
