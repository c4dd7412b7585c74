"""Loading of an experiment's data set: split, scaled and checked, as tensors on its device."""

import hashlib
import math
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lthcore.errors import LabError, choose
from lthcore.recipe import Recipe
from lthcore.seeds import seed_for
from lthcore.sources.catalogue import dataset_of, read, test_images

LARGEST = 4_000_000_000  # largest number of values in all images of an experiment (16 GB)
DATA_SETTINGS = (  # settings that `load` depends on
    "dataset", "image_size", "input_scaling", "train_examples", "validation", "batch_size", "seed", "device",
)  # fmt: skip


class Split(NamedTuple):
    """Scaled images (N, C, H, W) in float32 and labels (N,) in int64, on one device."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True, eq=False)
class Data:
    """Training, validation and test data of an experiment. `validation` is None if the settings hold nothing out.

    `digest` is the `content_digest` of the splits drawn by `load`. It is the same on every machine and device.
    """

    train: Split
    validation: Split | None
    test: Split
    variant: str
    digest: str = ""
    classes: int = field(kw_only=True)  # of the data set: labels are 0 to classes - 1, even if some do not occur

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of one image."""
        return tuple(self.test.images.shape[1:])

    @property
    def splits(self) -> dict[str, Split]:
        """The splits by name, without `validation` if it is None."""
        return {name: s for name in ("train", "validation", "test") if (s := getattr(self, name)) is not None}

    def to(self, device: torch.device | str) -> "Data":
        """Return the data on a device."""
        parts = {n: Split(s.images.to(device), s.labels.to(device)) for n, s in self.splits.items()}
        return replace(self, **parts)

    def to_arrays(self) -> dict[str, tuple]:
        """Return the splits as NumPy arrays without copying, and `about`: the variant, the digest and the classes."""
        arrays = {name: (s.images.numpy(), s.labels.numpy()) for name, s in self.splits.items()}
        return arrays | {"about": (self.variant, self.digest, self.classes)}

    @classmethod
    def from_arrays(cls, arrays: dict[str, tuple]) -> "Data":
        """Return the data from the result of `to_arrays`, without copying. Read-only arrays are allowed."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            splits = {name: Split(*map(torch.from_numpy, pair)) for name, pair in arrays.items() if name != "about"}
        *about, classes = arrays["about"]
        return cls(splits["train"], splits.get("validation"), splits["test"], *about, classes=classes)


def load(settings: Recipe, root: Path | None = None) -> Data:
    """Load the data set of the settings, split it by their seed, and move it to their device.

    `root` is the folder of the data sets (default: the data root). The validation images are a random draw from the
    training images (5,000 in the paper's section 2), the same in all trials. The test images are the publisher's.
    Raises LabError for files that are missing or not as published.
    """
    check_size(settings)
    raw = read(settings.dataset, root)
    total = len(raw.train_labels)
    wanted = settings.train_examples or total - settings.validation
    order = order_of_images(settings, total)
    held, kept = order[: settings.validation], order[settings.validation : settings.validation + wanted]
    device = pick_device(settings.device)

    drawn = {"train": (raw.train_images[kept], raw.train_labels[kept])}
    if settings.validation:
        drawn["validation"] = (raw.train_images[held], raw.train_labels[held])
    drawn["test"] = (raw.test_images, raw.test_labels)

    def split(images: np.ndarray, labels: np.ndarray) -> Split:
        tensor = scaled(images, settings.dataset, settings.input_scaling)
        if settings.image_size:
            tensor = resized(tensor, settings.image_size)
        return Split(tensor.to(device), torch.from_numpy(labels.astype(np.int64)).to(device))

    digest = content_digest(drawn)
    splits = {"validation": None} | {name: split(*pair) for name, pair in drawn.items()}
    return Data(**splits, variant=raw.variant, digest=digest, classes=classes_of(settings))


def order_of_images(settings: Recipe, total: int) -> np.ndarray:
    """Return the random order (int64) in which `total` training images are dealt out, the validation images first."""
    return torch.randperm(total, generator=torch.Generator().manual_seed(seed_for(settings.seed, "split"))).numpy()


def content_digest(splits: dict[str, tuple[np.ndarray, np.ndarray]]) -> str:
    """Return a digest (16 hex digits) of splits by name: images (N, C, H, W) as unscaled bytes, and labels (N,).

    Scaling is not part of the digest: its rounding differs between processors, and the settings determine it.
    """
    digest = hashlib.blake2b(digest_size=8)
    for name, (images, labels) in splits.items():
        digest.update(f"{name} {images.shape}".encode())
        digest.update(np.ascontiguousarray(images, np.uint8))
        few = labels.max(initial=0) < 256
        digest.update(np.ascontiguousarray(labels, np.uint8 if few else np.int64))
    return digest.hexdigest()


def scaled(images: np.ndarray, dataset: str, input_scaling: str) -> Tensor:
    """Convert images (N, C, H, W) from bytes to float32, scaled for networks as `settings.input_scaling` defines."""
    mean, std = (torch.tensor(v, dtype=torch.float32).view(1, -1, 1, 1) for v in pixel_scale(dataset, input_scaling))
    pixels = (torch.from_numpy(images.astype(np.float32, order="C")) / 255 - mean) / std
    if input_scaling == "unit_norm":
        pixels /= pixels.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, 1, 1, 1)
    return pixels


def pixel_scale(dataset: str, input_scaling: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and the standard deviation that standardise each channel of images in [0, 1].

    They are 0 and 1 for other input scalings.
    """
    known = dataset_of(dataset)
    if input_scaling == "standardised":
        return known.mean, known.std
    return (0.0,) * len(known.mean), (1.0,) * len(known.std)


def image_shape(settings: Recipe) -> tuple[int, int, int]:
    """Return the shape (C, H, W) of the images that a network with these settings is trained on."""
    channels, height, width = dataset_of(settings.dataset).shape
    return (channels, settings.image_size or height, settings.image_size or width)


def classes_of(settings: Recipe) -> int:
    """Return the number of classes of the settings' data set, which is the number of outputs of a network."""
    return dataset_of(settings.dataset).classes


def check_size(settings: Recipe) -> None:
    """Raise LabError if there are too few training images for the settings, or more than LARGEST values in all."""
    total = dataset_of(settings.dataset).n_train
    kept = settings.train_examples or total - settings.validation
    if kept + settings.validation > total or kept < settings.batch_size:
        raise LabError(
            f"settings: validation = {settings.validation} with train_examples = {settings.train_examples} and "
            f"batch_size = {settings.batch_size}: {settings.dataset} has {total:,} training images to share"
        )
    values = (kept + settings.validation + test_images(settings.dataset)) * math.prod(image_shape(settings))
    if values > LARGEST:
        raise LabError(
            f"settings: image_size = {settings.image_size} makes {values:,} values of {settings.dataset}, and at most "
            f"{LARGEST:,} (16 GB) are allowed; make image_size or train_examples smaller"
        )


def resized(images: Tensor, size: int) -> Tensor:
    """Resize images (N, C, H, W) to (N, C, size, size) by bilinear interpolation, with antialiasing."""
    return F.interpolate(images, (size, size), mode="bilinear", align_corners=False, antialias=True)


def pick_device(name: str) -> torch.device:
    """Return the device named by `settings.device`; auto selects a GPU if there is one.

    Raises LabError for other names, and for cuda if there is no CUDA device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    choose("device", name.split(":")[0], ("cpu", "cuda"))
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise LabError(f"device = {name!r}: there is no CUDA device here; use device cpu or auto")
    try:
        return torch.device(name)
    except RuntimeError:
        raise LabError(f"device = {name!r}: allowed are auto, cpu, cuda and cuda:N") from None
