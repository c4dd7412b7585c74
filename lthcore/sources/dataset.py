"""Dataset: what a data set is to an experiment, whoever published it, and the register of those that there are."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lthcore.errors import LabError


class Raw(NamedTuple):
    """A data set as published: uint8 images (N, C, H, W), labels (N,), and in words which files these are.

    `checked` says what of them was verified, beyond what `variant` says.
    """

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    variant: str
    checked: str = ""


@dataclass(frozen=True)
class Dataset:
    """A data set: how it is read, its channels' mean and standard deviation over training images in [0, 1], its sizes.

    `shape` is (C, H, W), `reader` gets the data root. `fetch` downloads it there. `test_here` says how many test
    images there are, where that need not be `n_test`. `mirrored` says whether a mirrored image is still one of its
    class.
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
    fetch: Callable[[Path], None] | None = None
    test_here: Callable[[Path], int] | None = None


DATASETS: dict[str, Dataset] = {}


def register_dataset(dataset: Dataset) -> Dataset:
    """Let experiments name a data set. One of the same name takes the place of the one before."""
    DATASETS[dataset.name] = dataset
    return dataset


def check_images(dataset: Dataset, raw: Raw) -> None:
    """Raise LabError where a reader's images are not what is said of the data set."""
    for which, images, labels in (
        ("training", raw.train_images, raw.train_labels),
        ("test", raw.test_images, raw.test_labels),
    ):
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


def download(folder: Path, mirrors: tuple[str, ...], file: str, md5: str, unpack: bool = False) -> None:
    """Download a file, whose MD5 is known, from the first mirror that has it. Raises LabError where none does."""
    from torchvision.datasets.utils import download_and_extract_archive, download_url

    failures = []
    for mirror in mirrors:
        try:
            if unpack:
                download_and_extract_archive(mirror + file, str(folder), md5=md5, remove_finished=True)
            else:
                download_url(mirror + file, str(folder), md5=md5)
            return
        except (OSError, RuntimeError) as error:  # no network, a refusal, or a file with another hash
            failures.append(f"{mirror}: {error}")
    raise LabError(f"data: could not download {file} into {folder} ({'; '.join(failures)}); put it there by hand")


def damaged(name: str, path: Path, what: str) -> LabError:
    """The error that says what is wrong with a file of a data set."""
    return LabError(f"data: {path} {what}; `lth data fetch {name}` gets the published files")


def missing(name: str, path: Path) -> LabError:
    """The error that says that a file of a data set is not there."""
    return LabError(
        f"data: {path} is missing; run `lth data fetch {name}`, or put the published files there, "
        "or point LTH_DATA to the folder that has them"
    )


@cache
def say_once(line: str) -> None:
    """Print a line on stderr, the first time that a process has to say it."""
    print(line, file=sys.stderr)
