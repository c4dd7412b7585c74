"""MNIST and Fashion-MNIST in the publishers' own format. Files are read only if their MD5 is the published one."""

import gzip
import hashlib
from pathlib import Path

import numpy as np

from lthcore.errors import LabError
from lthcore.sources.dataset import Dataset, Raw, download, missing

# name -> (MD5 of NAME.gz, MD5 of the unpacked file or None if it is not published)
MNIST_FILES = {
    "train-images-idx3-ubyte": ("f68b3c2dcbeaaa9fbdd348bbdeb94873", "6bbc9ace898e44ae57da46a324031adb"),
    "train-labels-idx1-ubyte": ("d53e105ee54ea40749a09fcbcd1e9432", "a25bea736e30d166cdddb491f175f624"),
    "t10k-images-idx3-ubyte": ("9fb629c4189551a2d022fa330f9573f3", "2646ac647ad5339dbf082846283269ea"),
    "t10k-labels-idx1-ubyte": ("ec29112dd5afa0611ce80d1b7f02629c", "27ae3e4e09519cfbb04c329615203637"),
}
FASHION_FILES = {
    "train-images-idx3-ubyte": ("8d4fb7e6c68d591d4c3dfef9ec88bf0d", None),
    "train-labels-idx1-ubyte": ("25c81989df183df01b3e8a0aad5dffbe", None),
    "t10k-images-idx3-ubyte": ("bef4ecab320f06d8554ea6380940ec79", None),
    "t10k-labels-idx1-ubyte": ("bb300cfdad3c16e7a12a480ee83cd310", None),
}
MNIST_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
FASHION_MIRRORS = ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",)


def _idx(root: Path, folder: str, files: dict[str, tuple[str, str | None]], name: str) -> Raw:
    def read(file: str, header: int) -> np.ndarray:
        packed, plain = (root / folder / "raw" / f"{file}{suffix}" for suffix in (".gz", ""))
        packed_md5, plain_md5 = files[file]
        if plain_md5 and plain.exists():
            content = _checked(plain, plain_md5, name)
        elif packed.exists():
            content = gzip.decompress(_checked(packed, packed_md5, name))
        else:
            raise missing(name, plain if plain_md5 else packed)
        return np.frombuffer(content, np.uint8, offset=header)

    images, labels = ("images-idx3-ubyte", 16), ("labels-idx1-ubyte", 8)
    return Raw(
        read(f"train-{images[0]}", images[1]).reshape(-1, 1, 28, 28),
        read(f"train-{labels[0]}", labels[1]),
        read(f"t10k-{images[0]}", images[1]).reshape(-1, 1, 28, 28),
        read(f"t10k-{labels[0]}", labels[1]),
        f"{name} as published (MD5 checked): 60,000 train, 10,000 test",
    )


def _checked(path: Path, md5: str, name: str) -> bytes:
    content = path.read_bytes()
    if hashlib.md5(content).hexdigest() != md5:
        raise LabError(f"data: {path} is not as published (its MD5 differs); delete it and run `lth data fetch {name}`")
    return content


def _fetch(root: Path, folder: str, files: dict[str, tuple[str, str | None]], mirrors: tuple[str, ...]) -> None:
    for file, (md5, _) in files.items():
        download(root / folder / "raw", mirrors, f"{file}.gz", md5)
        (root / folder / "raw" / file).unlink(missing_ok=True)  # it is read before the .gz file, and may be damaged


def _mnist(root: Path) -> Raw:
    return _idx(root, "MNIST", MNIST_FILES, "mnist")


def _fetch_mnist(root: Path) -> None:
    _fetch(root, "MNIST", MNIST_FILES, MNIST_MIRRORS)


def _fashion_mnist(root: Path) -> Raw:
    return _idx(root, "FashionMNIST", FASHION_FILES, "fashion_mnist")


def _fetch_fashion_mnist(root: Path) -> None:
    _fetch(root, "FashionMNIST", FASHION_FILES, FASHION_MIRRORS)


MNIST = Dataset(
    "mnist", _mnist, shape=(1, 28, 28), classes=10, n_train=60_000, n_test=10_000, mean=(0.1307,), std=(0.3081,),
    mirrored=False, fetch=_fetch_mnist,
)  # fmt: skip
FASHION_MNIST = Dataset(
    "fashion_mnist", _fashion_mnist, shape=(1, 28, 28), classes=10, n_train=60_000, n_test=10_000, mean=(0.2860,),
    std=(0.3530,), fetch=_fetch_fashion_mnist,
)  # fmt: skip
