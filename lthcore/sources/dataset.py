"""Description of a data set for experiments, and the registry of data sets that experiments can name."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lthcore.errors import LabError, one_line


class Raw(NamedTuple):
    """A data set as published: uint8 images (N, C, H, W) and labels (N,), with a description of its files in `variant`.

    `checked` describes which parts were verified, in addition to `variant`.
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    variant: str
    checked: str = ""


@dataclass(frozen=True)
class Dataset:
    """A data set: its reader, its sizes, and the mean and standard deviation of each channel.

    `shape` is (C, H, W). `mean` and `std` are taken over training images in [0, 1]. `reader` reads the data set from
    the data root, and `fetch` downloads it there. `test_here` returns the number of test images on this machine, if it
    may differ from `n_test`. `mirrored` tells whether a mirrored image still belongs to its class. `split` tells how
    the images are divided, where what is published does not say which are test images.
    """

    name: str
    reader: Callable[[Path], Raw]
    shape: tuple[int, int, int]
    classes: int
    n_train: int
    n_test: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    mirrored: bool = True
    split: str = ""
    fetch: Callable[[Path], None] | None = None
    test_here: Callable[[Path], int] | None = None


DATASETS: dict[str, Dataset] = {}


def register_dataset(dataset: Dataset) -> Dataset:
    """Register a data set, so that experiments can name it. Replaces an earlier data set of the same name."""
    DATASETS[dataset.name] = dataset
    return dataset


def read_own(dataset: Dataset, root: Path) -> Raw:
    """Read a data set by its user-defined reader. Raises LabError if the reader fails or `check_images` does."""
    try:
        raw = dataset.reader(root)
    except LabError:
        raise
    except Exception as error:
        raise LabError(
            f"data: the reader of {dataset.name} failed ({type(error).__name__}: {one_line(error)})"
        ) from error
    if not isinstance(raw, Raw):
        raise LabError(f"data: the reader of {dataset.name} returned {type(raw).__name__}, not Raw")
    check_images(dataset, raw)
    return raw


def check_images(dataset: Dataset, raw: Raw) -> None:
    """Raise LabError if images and labels from a reader do not agree with the description of the data set."""
    for which, images, labels in (
        ("training", raw.train_images, raw.train_labels),
        ("test", raw.test_images, raw.test_labels),
    ):
        if not isinstance(images, np.ndarray) or not isinstance(labels, np.ndarray):
            raise LabError(f"data: the {which} images and labels of {dataset.name} must be NumPy arrays")
        if images.dtype != np.uint8 or images.shape[1:] != dataset.shape:
            raise LabError(
                f"data: the {which} images of {dataset.name} are {images.dtype} of {images.shape[1:]}, not bytes "
                f"(uint8) of {dataset.shape} (C, H, W)"
            )
        if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
            raise LabError(f"data: the {which} labels of {dataset.name} must be {len(images):,} whole numbers")
    if len(raw.train_labels) != dataset.n_train:
        raise LabError(
            f"data: {dataset.name} has {len(raw.train_labels):,} training images, and n_train = {dataset.n_train:,}"
        )
    if not len(dataset.mean) == len(dataset.std) == dataset.shape[0]:
        raise LabError(f"data: {dataset.name} needs a mean and a std for each of its {dataset.shape[0]} channels")
    if not np.isfinite([*dataset.mean, *dataset.std]).all() or min(dataset.std) <= 0:
        raise LabError(
            f"data: {dataset.name} has mean = {dataset.mean} and std = {dataset.std}: they must be finite, and every "
            "std above 0, since pixels are divided by it"
        )


def download(folder: Path, mirrors: tuple[str, ...], file: str, md5: str, unpack: bool = False) -> None:
    """Download a file with a known MD5 from the first mirror that has it. Raises LabError if none of them does."""
    from torchvision.datasets.utils import download_and_extract_archive, download_url

    failures = []
    for mirror in mirrors:
        try:
            if unpack:
                download_and_extract_archive(mirror + file, str(folder), md5=md5, remove_finished=True)
            else:
                download_url(mirror + file, str(folder), md5=md5)
            return
        except (OSError, RuntimeError) as error:  # no network, a refused request, or a file with another hash
            failures.append(f"{mirror}: {error}")
    raise LabError(f"data: could not download {file} into {folder} ({'; '.join(failures)}); put it there by hand")


def damaged(name: str, path: Path, what: str) -> LabError:
    """Return the error for a file of a data set that is not as published; `what` describes the damage."""
    return LabError(f"data: {path} {what}; `lth data fetch {name}` gets the published files")


def missing(name: str, path: Path) -> LabError:
    """Return the error for a missing file of a data set."""
    return LabError(
        f"data: {path} is missing; run `lth data fetch {name}`, or put the published files there, "
        "or point LTH_DATA to the folder that has them"
    )


@cache
def say_once(line: str) -> None:
    """Print a line to stderr, but each line only once per process."""
    print(line, file=sys.stderr)
