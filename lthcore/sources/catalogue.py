"""Catalogue: every data set by its name, its files read, verified and fetched.

Files lie under the data root (`LTH_DATA`, default data/ of the project) in the publishers' own formats.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from lthcore.errors import LabError, choose
from lthcore.paths import data_root
from lthcore.registry import is_own
from lthcore.sources.cifar import CIFAR10, CIFAR100
from lthcore.sources.dataset import DATASETS, Dataset, Raw, check_images, register_dataset, say_once
from lthcore.sources.digits import DIGITS
from lthcore.sources.mnist import FASHION_MNIST, MNIST
from lthcore.sources.npz import find_npz, npz_dataset

__all__ = ["DATASETS", "dataset_of", "fetch", "read", "test_images", "verified"]


def _permuted(reader: Callable[[Path], Raw]) -> Callable[[Path], Raw]:
    """The same images with all pixels in another order, one for all: what a dense network cannot tell apart."""

    def read(root: Path) -> Raw:
        raw = reader(root)
        order = np.random.RandomState(0).permutation(raw.train_images[0].size)
        train, test = (
            images.reshape(len(images), -1)[:, order].reshape(images.shape)
            for images in (raw.train_images, raw.test_images)
        )
        return Raw(train, raw.train_labels, test, raw.test_labels, f"{raw.variant}, pixels permuted")

    return read


for _dataset in (DIGITS, MNIST, FASHION_MNIST, CIFAR10, CIFAR100):
    register_dataset(_dataset)
for _dataset in (DIGITS, MNIST, FASHION_MNIST):
    _reader = _permuted(_dataset.reader)
    register_dataset(replace(_dataset, name=f"{_dataset.name}_permuted", reader=_reader, mirrored=False))


def dataset_of(name: str) -> Dataset:
    """The data set of a name, or in the .npz file of this name. Raises LabError where there is none."""
    known = DATASETS.get(name)
    if name.endswith(".npz") and (known is None or known.reader is not None):  # what `take_up` entered has no reader
        path = find_npz(name)
        register_dataset(_npz(name, path, path.stat().st_mtime_ns))
    return DATASETS[choose("dataset", name, DATASETS)]


@lru_cache(maxsize=16)
def _npz(name: str, path: Path, written: int) -> Dataset:
    return npz_dataset(name, path)


def read(name: str, root: Path | None = None) -> Raw:
    """The raw data set `name`, checked against what is said of it.

    Raises LabError for images that are no bytes or of another shape or number, and for a label that is none of its
    classes. Says so where classes have no training image: labels count from 0.
    """
    known = dataset_of(name)
    raw = known.reader(Path(root) if root else data_root())
    if is_own(known.reader):
        check_images(known, raw)
    for which, labels in (("training", raw.train_labels), ("test", raw.test_labels)):
        outside = [int(label) for label in np.unique(labels) if not 0 <= label < known.classes]
        if outside:
            raise LabError(
                f"data: {name} has {known.classes} classes, and a label {outside[0]} among its {which} images: allowed "
                f"are 0 to {known.classes - 1}; mend the labels, or the number of classes of the data set"
            )
    absent = np.setdiff1d(np.arange(known.classes), raw.train_labels)
    if len(absent):
        few = ", ".join(map(str, absent[:5])) + (" ..." if len(absent) > 5 else "")
        say_once(
            f"note: {name} has {known.classes:,} classes, of which {len(absent):,} have no training image ({few}); "
            "labels are to count from 0"
        )
    return raw


def verified(name: str, root: Path | None = None) -> str:
    """In words which files of a data set are there, and what of them was checked. Raises LabError as `read` does."""
    raw = read(name, root)
    return f"{raw.variant}; {raw.checked}" if raw.checked else raw.variant


def fetch(name: str, root: Path | None = None) -> str:
    """Download a data set into the data root unless it is there, verify it, and say what is there now (`verified`).

    Mirrors are tried in turn. Raises LabError where none answers or what came is not as published.
    """
    root, known = Path(root) if root else data_root(), dataset_of(name)
    try:
        return verified(name, root)
    except LabError:
        if known.fetch is None:
            raise
    known.fetch(root)
    return verified(name, root)


def test_images(name: str, root: Path | None = None) -> int:
    """How many test images a data set has here."""
    known = dataset_of(name)
    return known.test_here(Path(root) if root else data_root()) if known.test_here else known.n_test
