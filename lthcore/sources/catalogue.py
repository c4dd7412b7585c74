"""Catalogue of all data sets by name, and functions to read, verify and download them.

Their files are below the data root (`LTH_DATA`, default: the project's folder data/) in the publishers' own formats.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from itertools import islice
from pathlib import Path

import numpy as np

from lthcore.errors import LabError, choose_registered
from lthcore.paths import data_root
from lthcore.registry import is_user_defined
from lthcore.sources.cifar import CIFAR10, CIFAR100
from lthcore.sources.dataset import DATASETS, Dataset, Raw, read_own, register_dataset, say_once
from lthcore.sources.digits import DIGITS
from lthcore.sources.mnist import FASHION_MNIST, MNIST
from lthcore.sources.npz import find_npz, npz_dataset

__all__ = ["DATASETS", "dataset_of", "fetch", "read", "test_images", "verified"]


def _permuted(reader: Callable[[Path], Raw]) -> Callable[[Path], Raw]:
    """Return a reader of the same images with permuted pixels, which makes no difference to a dense network.

    All images have the same permutation.
    """

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
    """Return the data set of this name, or the one in the .npz file of this name. Raises LabError if there is none."""
    known = DATASETS.get(name)
    if name.endswith(".npz") and (known is None or known.reader is not None):  # none if it was received
        path = find_npz(name)
        register_dataset(_npz(name, path, path.stat().st_mtime_ns))
    return DATASETS[choose_registered("dataset", name, DATASETS)]


@lru_cache(maxsize=16)
def _npz(name: str, path: Path, written: int) -> Dataset:
    return npz_dataset(name, path)


def read(name: str, root: Path | None = None) -> Raw:
    """Read the data set `name` from `root` (default: the data root), and check it.

    Raises LabError for a label outside its classes and, for a user-defined reader, also if it fails, and for images
    that are not bytes or that do not have the shape or number in its Dataset. Prints a note if classes have no training
    image, since labels are to count from 0.
    """
    known, root = dataset_of(name), Path(root) if root else data_root()
    raw = read_own(known, root) if is_user_defined(known.reader) else known.reader(root)
    for which, labels in (("training", raw.train_labels), ("test", raw.test_labels)):
        outside = [int(label) for label in np.unique(labels) if not 0 <= label < known.classes]
        if outside:
            raise LabError(
                f"data: {name} has {known.classes} classes, and a label {outside[0]} among its {which} images: allowed "
                f"are 0 to {known.classes - 1}; mend the labels, or the number of classes of the data set"
            )
    present = set(raw.train_labels.tolist())
    absent = known.classes - len(present)
    if absent:
        first = islice((label for label in range(known.classes) if label not in present), 5)
        few = ", ".join(map(str, first)) + (" ..." if absent > 5 else "")
        say_once(
            f"note: {name} has {known.classes:,} classes, {absent:,} of them without a training image ({few}); "
            "labels are to count from 0"
        )
    return raw


def verified(name: str, root: Path | None = None) -> str:
    """Describe the files of a data set on this machine, and how they were checked. Raises LabError like `read`."""
    raw = read(name, root)
    return f"{raw.variant}; {raw.checked}" if raw.checked else raw.variant


def fetch(name: str, root: Path | None = None) -> str:
    """Download a data set into the data root unless it is valid there already, and return its description (`verified`).

    Mirrors are tried in turn. Raises LabError if none of them works or if the files are not as published.
    """
    root, known = Path(root) if root else data_root(), dataset_of(name)
    try:
        return verified(name, root)
    except LabError:
        if known.fetch is None:
            raise
    known.fetch(root)
    return verified(name, root)


def test_images(name: str) -> int:
    """Return the number of test images that a data set has on this machine."""
    known = dataset_of(name)
    return known.test_here(data_root()) if known.test_here else known.n_test
