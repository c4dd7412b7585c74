"""Digits: 8 x 8 handwritten digits that are part of scikit-learn. No download is needed."""

from pathlib import Path

import numpy as np

from lthcore.sources.dataset import Dataset, Raw

DIGITS_TEST = 360


def _digits(root: Path) -> Raw:
    from sklearn.datasets import load_digits  # slow to import, and only this needs it

    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 1, 8, 8) * 255 / 16).round().astype(np.uint8)
    order = np.random.RandomState(0).permutation(len(labels))  # the images are sorted by writer: mix them
    test, train = order[:DIGITS_TEST], order[DIGITS_TEST:]
    variant = "digits of scikit-learn: 1,437 train, 360 test"
    return Raw(images[train], labels[train], images[test], labels[test], variant)


DIGITS = Dataset(
    "digits", _digits, shape=(1, 8, 8), classes=10, n_train=1437, n_test=DIGITS_TEST, mean=(0.305,), std=(0.376,),
    mirrored=False, fetch=lambda root: None,
    split="bytes are the published numbers times 255 / 16, rounded; with order = "
    "numpy.random.RandomState(0).permutation(1797), test images are order[:360] and training images order[360:]",
)  # fmt: skip
