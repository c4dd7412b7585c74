"""Data: digits, MNIST, Fashion-MNIST, CIFAR-10 and CIFAR-100 as scaled tensors; downloading is apart.

Files lie under the data root (`LTH_DATA`, default data/ of the project) in the publishers' own formats. MNIST and
Fashion-MNIST are read only when their MD5 is the published one. No pickle is ever read: CIFAR-10 and CIFAR-100 are the official
binary versions, their archives checked by MD5 when fetched, the images of CIFAR-10 by digests, and the hash of their
files noted in run.json. Images of which no digest is known are said to be unverified.
"""

import gzip
import hashlib
import math
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lthcore.errors import LabError, choose
from lthcore.paths import data_root
from lthcore.seeds import seed_for
from lthcore.settings import TRAINING_IMAGES, Recipe

# name -> (MD5 of NAME.gz, MD5 of NAME unpacked where it is published)
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
CIFAR10_ARCHIVE = ("cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530")
CIFAR10_MIRRORS = (
    "https://mindspore-website.obs.cn-north-4.myhuaweicloud.com/notebook/datasets/",
    "https://www.cs.toronto.edu/~kriz/",
    "https://cave.cs.toronto.edu/kriz/",
)
CIFAR10_RECORD = 1 + 3 * 32 * 32  # a label byte, then the red, green and blue planes
CIFAR10_FILES = (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin")
# Digests of CIFAR-10, taken of the files that results/ was made with. `_set_digest`, whatever the order of the records:
# of all training images, and of those in each file, which only serve to say where damage is.
CIFAR10_TRAIN = "a55778b0d048efc98f4bf405cfdd88f2b63f7ba684b529ccb6e6ac0ae9980047"
CIFAR10_BATCHES = ("ea833b77029bf800", "94e2c772edc11a88", "953b0fc42ea19a76", "8604aca57ea12a2e", "d327e2446e842db3")
# SHA-256 of each 100 of the first 1,000 test records, in their order. Of the others no digest is known.
CIFAR10_TEST = (
    "440e5480f4f4a460", "862621c1f311c2da", "99e7027159b21acc", "146cf9503a4cc10c", "fae71d3bcea42497",
    "5e77a5bb2f09bee8", "f1e8bcd46093fc5f", "9bd811a8a78d8a8b", "305bc4b2e231caa1", "2db946328d7e0a0c",
)  # fmt: skip
CIFAR10_BLOCK = 100
CIFAR100_ARCHIVE = ("cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8")
CIFAR100_MIRRORS = CIFAR10_MIRRORS[1:]
CIFAR100_RECORD = 2 + 3 * 32 * 32  # a byte for the label among 20, one for that among 100, then the planes
LARGEST = 4_000_000_000  # values of all images of an experiment: 16 GB
DIGITS_TEST = 360
DATA_SETTINGS = (  # those that `load` looks at
    "dataset", "image_size", "input_scaling", "train_examples", "validation", "batch_size", "seed", "device",
)  # fmt: skip


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


class Split(NamedTuple):
    """Images (N, C, H, W) float32, scaled, and labels (N,) int64, on one device."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True, eq=False)
class Data:
    """What an experiment trains, chooses and tests on. `validation` is None where the settings hold nothing out.

    `digest` is that of the splits as `load` drew them (`content_digest`): the same on every machine and device.
    """

    train: Split
    validation: Split | None
    test: Split
    variant: str
    digest: str = ""
    classes: int = field(kw_only=True)  # of the data set: labels are 0 to classes - 1, be each of them here or not

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (C, H, W) of an image."""
        return tuple(self.test.images.shape[1:])

    @property
    def splits(self) -> dict[str, Split]:
        """The splits there are, by name."""
        return {name: s for name in ("train", "validation", "test") if (s := getattr(self, name)) is not None}

    def to_arrays(self) -> dict[str, tuple]:
        """The splits as NumPy arrays, without a copy, and what is said of them (`about`)."""
        arrays = {name: (s.images.numpy(), s.labels.numpy()) for name, s in self.splits.items()}
        return arrays | {"about": (self.variant, self.digest, self.classes)}

    @classmethod
    def from_arrays(cls, arrays: dict[str, tuple]) -> "Data":
        """The inverse of `to_arrays`, without a copy: also of read-only arrays, which nothing here writes to."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            splits = {name: Split(*map(torch.from_numpy, pair)) for name, pair in arrays.items() if name != "about"}
        *about, classes = arrays["about"]
        return cls(splits["train"], splits.get("validation"), splits["test"], *about, classes=classes)


def _digits(root: Path) -> Raw:
    from sklearn.datasets import load_digits  # slow to import, and only this needs it

    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 1, 8, 8) * 255 / 16).round().astype(np.uint8)
    order = np.random.RandomState(0).permutation(len(labels))  # the sets' writers sit in order: test must mix them
    test, train = order[:DIGITS_TEST], order[DIGITS_TEST:]
    variant = "digits of scikit-learn: 1,437 train, 360 test"
    return Raw(images[train], labels[train], images[test], labels[test], variant)


def _idx(root: Path, folder: str, files: dict[str, tuple[str, str | None]], name: str) -> Raw:
    def read(file: str, header: int) -> np.ndarray:
        packed, plain = (root / folder / "raw" / f"{file}{suffix}" for suffix in (".gz", ""))
        packed_md5, plain_md5 = files[file]
        if plain_md5 and plain.exists():
            content = _checked(plain, plain_md5, name)
        elif packed.exists():
            content = gzip.decompress(_checked(packed, packed_md5, name))
        else:
            raise _missing(name, plain if plain_md5 else packed)
        return np.frombuffer(content, np.uint8, offset=header)

    images, labels = ("images-idx3-ubyte", 16), ("labels-idx1-ubyte", 8)
    return Raw(
        read(f"train-{images[0]}", images[1]).reshape(-1, 1, 28, 28),
        read(f"train-{labels[0]}", labels[1]),
        read(f"t10k-{images[0]}", images[1]).reshape(-1, 1, 28, 28),
        read(f"t10k-{labels[0]}", labels[1]),
        f"{name} as published (MD5 checked): 60,000 train, 10,000 test",
    )


def _mnist(root: Path) -> Raw:
    return _idx(root, "MNIST", MNIST_FILES, "mnist")


def _fashion_mnist(root: Path) -> Raw:
    return _idx(root, "FashionMNIST", FASHION_FILES, "fashion_mnist")


def _cifar10(root: Path) -> Raw:
    folder, digest = root / "cifar-10-batches-bin", hashlib.sha256()

    def read(file: str) -> np.ndarray:
        path = folder / file
        if not path.exists():
            raise _missing("cifar10", path)
        content = path.read_bytes()
        digest.update(content)
        if not content or len(content) % CIFAR10_RECORD:
            raise _damaged(path, f"is not a whole number of {CIFAR10_RECORD:,}-byte records: it is cut short")
        records = np.frombuffer(content, np.uint8).reshape(-1, CIFAR10_RECORD)
        if records[:, 0].max() >= DATASETS["cifar10"].classes:
            raise _damaged(path, f"has a label {records[:, 0].max()}: allowed are 0 to 9")
        return records

    *batches, test = map(read, CIFAR10_FILES)
    n, expected, n_test = sum(map(len, batches)), TRAINING_IMAGES["cifar10"], DATASETS["cifar10"].n_test
    if n != expected:
        raise _damaged(folder, f"holds {n:,} training images instead of {expected:,}")
    _check_cifar10(folder, batches, test)
    unknown = _unknown_test_records(folder / CIFAR10_FILES[-1], test)
    variant = f"cifar10 binary version: {n:,} train, {len(test):,} of {n_test:,} test, sha256 {digest.hexdigest()[:12]}"
    if len(unknown):
        words = f"{len(unknown):,} test images unverified (sha256 {hashlib.sha256(unknown).hexdigest()[:12]})"
        variant += f", {words}"
        _say_once(f"note: data: {words}: no digest of these in {folder / CIFAR10_FILES[-1]} is known")
    train = np.concatenate(batches)
    return Raw(
        train[:, 1:].reshape(-1, 3, 32, 32),
        train[:, 0],
        test[:, 1:].reshape(-1, 3, 32, 32),
        test[:, 0],
        variant,
        f"digests agree of all training and {len(test) - len(unknown):,} test images, and no image is there twice",
    )


def _cifar100(root: Path) -> Raw:
    """The images with their labels among 100; those among 20, which group them, are left aside."""
    folder, digest, images, labels = root / "cifar-100-binary", hashlib.sha256(), [], []
    for file, expected in (("train.bin", TRAINING_IMAGES["cifar100"]), ("test.bin", DATASETS["cifar100"].n_test)):
        path = folder / file
        if not path.exists():
            raise _missing("cifar100", path)
        content = path.read_bytes()
        digest.update(content)
        if len(content) != expected * CIFAR100_RECORD:
            what = f"has {len(content):,} bytes instead of the {CIFAR100_RECORD:,} of each of {expected:,} images"
            raise _damaged(path, what, "cifar100")
        records = np.frombuffer(content, np.uint8).reshape(-1, CIFAR100_RECORD)
        images.append(records[:, 2:].reshape(-1, 3, 32, 32))
        labels.append(records[:, 1])
    words = f"images unverified (sha256 {digest.hexdigest()[:12]})"
    _say_once(f"note: data: {words}: no digest of what {folder} holds is known, but of the archive that it comes in")
    variant = f"cifar100 binary version: {len(labels[0]):,} train, {len(labels[1]):,} test, {words}"
    return Raw(images[0], labels[0], images[1], labels[1], variant)


def _check_cifar10(folder: Path, batches: list[np.ndarray], test: np.ndarray) -> None:
    """Check the training records by their digest, and that no image is there twice, whatever its label.

    CIFAR-10 has no exact duplicates, though similar images (arXiv 1902.00423). Raises LabError for other records.
    """
    keys = [[record[:1].tobytes() + hashlib.sha256(record[1:]).digest() for record in records] for records in batches]
    images = {key[1:] for batch in keys for key in batch}
    if _set_digest([key for batch in keys for key in batch]) != CIFAR10_TRAIN:
        known = zip(CIFAR10_FILES, keys, CIFAR10_BATCHES, strict=False)
        where = ", ".join(file for file, batch, digest in known if not _set_digest(batch).startswith(digest))
        again = sum(map(len, batches)) - len(images)
        what = f"{again:,} images are there again" if again else "an image or a label is another"
        raise _damaged(folder, f"does not hold the training images of CIFAR-10 ({what}; look at {where})")
    held = [hashlib.sha256(record[1:]).digest() for record in test]
    if shared := images.intersection(held):
        raise _damaged(folder / CIFAR10_FILES[-1], f"holds {len(shared):,} of the training images")
    if again := len(held) - len(set(held)):
        raise _damaged(folder / CIFAR10_FILES[-1], f"holds {again:,} images twice")


def _set_digest(keys: list[bytes]) -> str:
    """SHA-256 of sorted keys of records (label and hash of the image): their order is left out, repetitions are not."""
    return hashlib.sha256(b"".join(sorted(keys))).hexdigest()


def _unknown_test_records(path: Path, records: np.ndarray) -> np.ndarray:
    """Those test records of which no digest is known.

    Raises LabError where some of the first 1,000 are known and others are not: then these were changed.
    """
    n = min(len(records) // CIFAR10_BLOCK, len(CIFAR10_TEST))
    blocks = records[: n * CIFAR10_BLOCK].reshape(n, CIFAR10_BLOCK, CIFAR10_RECORD)
    same = [hashlib.sha256(block).hexdigest()[:16] == CIFAR10_TEST[i] for i, block in enumerate(blocks)]
    if not any(same):
        return records
    if not all(same):
        first = same.index(False) * CIFAR10_BLOCK
        where = f"records {first + 1:,} to {first + CIFAR10_BLOCK:,}"
        raise _damaged(path, f"has an image or a label that is not the published one in {where}")
    return records[n * CIFAR10_BLOCK :]


@cache
def _say_once(line: str) -> None:
    """Print a line on stderr, the first time that a process has to say it."""
    print(line, file=sys.stderr)


class Dataset(NamedTuple):
    """How a data set is read, its channels' mean and standard deviation over training images in [0, 1], its sizes."""

    reader: Callable[[Path], Raw]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    shape: tuple[int, int, int]
    n_test: int
    classes: int


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


DATASETS = {
    "digits": Dataset(_digits, (0.305,), (0.376,), (1, 8, 8), DIGITS_TEST, 10),
    "mnist": Dataset(_mnist, (0.1307,), (0.3081,), (1, 28, 28), 10_000, 10),
    "fashion_mnist": Dataset(_fashion_mnist, (0.2860,), (0.3530,), (1, 28, 28), 10_000, 10),
    "cifar10": Dataset(_cifar10, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), (3, 32, 32), 10_000, 10),
    "cifar100": Dataset(_cifar100, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762), (3, 32, 32), 10_000, 100),
}
for _name in ("digits", "mnist", "fashion_mnist"):
    DATASETS[f"{_name}_permuted"] = DATASETS[_name]._replace(reader=_permuted(DATASETS[_name].reader))


def load(settings: Recipe, root: Path | None = None) -> Data:
    """The data set of the settings, split by their seed and moved to their device.

    The validation images are a random draw from the training images (5,000 in the paper's section 2), the same in all
    trials; the test images are the publisher's. Raises LabError for files that are missing or not as published.
    """
    check_size(settings)
    raw = read(settings.dataset, root)
    total = len(raw.train_labels)
    wanted = settings.train_examples or total - settings.validation
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed_for(settings.seed, "split"))).numpy()
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


def content_digest(splits: dict[str, tuple[np.ndarray, np.ndarray]]) -> str:
    """A digest (16 hex digits) of splits by name: images (N, C, H, W) of bytes, not scaled yet, and labels (N,).

    Scaling is left out because its rounding is not the same on every processor; it follows from the settings.
    """
    digest = hashlib.blake2b(digest_size=8)
    for name, (images, labels) in splits.items():
        digest.update(f"{name} {images.shape}".encode())
        digest.update(np.ascontiguousarray(images, np.uint8))
        few = labels.max(initial=0) < 256
        digest.update(np.ascontiguousarray(labels, np.uint8 if few else np.int64))
    return digest.hexdigest()


def read(name: str, root: Path | None = None) -> Raw:
    """The raw data set `name`, checked. Raises LabError for a label that is none of its classes."""
    known = DATASETS[choose("dataset", name, DATASETS)]
    raw = known.reader(Path(root) if root else data_root())
    for which, labels in (("training", raw.train_labels), ("test", raw.test_labels)):
        outside = [int(label) for label in np.unique(labels) if not 0 <= label < known.classes]
        if outside:
            raise LabError(
                f"data: {name} has {known.classes} classes, and a label {outside[0]} among its {which} images: allowed "
                f"are 0 to {known.classes - 1}; mend the labels, or the number of classes of the data set"
            )
    return raw


def verified(name: str, root: Path | None = None) -> str:
    """In words which files of a data set are there, and what of them was checked. Raises LabError as `read` does."""
    raw = read(name, root)
    return f"{raw.variant}; {raw.checked}" if raw.checked else raw.variant


def scaled(images: np.ndarray, dataset: str, input_scaling: str) -> Tensor:
    """Images (N, C, H, W) of bytes as float32, in the scale that networks see them in (`settings.input_scaling`)."""
    mean, std = (torch.tensor(v, dtype=torch.float32).view(1, -1, 1, 1) for v in pixel_scale(dataset, input_scaling))
    pixels = (torch.from_numpy(images.astype(np.float32, order="C")) / 255 - mean) / std
    if input_scaling == "unit_norm":
        pixels /= pixels.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, 1, 1, 1)
    return pixels


def pixel_scale(dataset: str, input_scaling: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """What is subtracted from each channel of images in [0, 1], and what the rest is divided by."""
    known = DATASETS[choose("dataset", dataset, DATASETS)]
    if input_scaling == "standardised":
        return known.mean, known.std
    return (0.0,) * len(known.mean), (1.0,) * len(known.std)


def fetch(name: str, root: Path | None = None) -> str:
    """Download a data set into the data root unless it is there, verify it, and say what is there now (`verified`).

    Mirrors are tried in turn. Raises LabError where none answers or what came is not as published.
    """
    root = Path(root) if root else data_root()
    choose("dataset", name, DATASETS)
    try:
        return verified(name, root)
    except LabError:
        pass  # not there, or not whole: fetched below
    if name == "cifar10":
        _download(root, CIFAR10_MIRRORS, *CIFAR10_ARCHIVE, unpack=True)
    elif name == "cifar100":
        _download(root, CIFAR100_MIRRORS, *CIFAR100_ARCHIVE, unpack=True)
    elif name.endswith("_permuted"):
        return fetch(name.removesuffix("_permuted"), root)
    elif name not in ("mnist", "fashion_mnist"):
        raise LabError(f"data: nothing is known of where to fetch {name} from; put its files under {root}")
    else:
        folder, files, mirrors = {
            "mnist": ("MNIST", MNIST_FILES, MNIST_MIRRORS),
            "fashion_mnist": ("FashionMNIST", FASHION_FILES, FASHION_MIRRORS),
        }[name]
        for file, (md5, _) in files.items():
            (root / folder / "raw" / file).unlink(missing_ok=True)
            _download(root / folder / "raw", mirrors, f"{file}.gz", md5)
    return verified(name, root)


def _download(folder: Path, mirrors: tuple[str, ...], file: str, md5: str, unpack: bool = False) -> None:
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


def test_images(name: str, root: Path | None = None) -> int:
    """How many test images a data set has here: as published, or as many as its file of CIFAR-10 has records."""
    path = (Path(root) if root else data_root()) / "cifar-10-batches-bin" / "test_batch.bin"
    if name == "cifar10" and path.exists():
        return path.stat().st_size // CIFAR10_RECORD
    return DATASETS[choose("dataset", name, DATASETS)].n_test


def image_shape(settings: Recipe) -> tuple[int, int, int]:
    """Shape (C, H, W) of the images that a network of these settings sees."""
    channels, height, width = DATASETS[choose("dataset", settings.dataset, DATASETS)].shape
    return (channels, settings.image_size or height, settings.image_size or width)


def classes_of(settings: Recipe) -> int:
    """How many classes the images of these settings have: the number of outputs of a network for them."""
    return DATASETS[choose("dataset", settings.dataset, DATASETS)].classes


def check_size(settings: Recipe) -> None:
    """Raise LabError for images that are fewer than a batch, or that together hold more than LARGEST values."""
    total = TRAINING_IMAGES[choose("dataset", settings.dataset, TRAINING_IMAGES)]
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
    """Images (N, C, H, W) at (N, C, size, size), bilinearly, without aliasing where they shrink."""
    return F.interpolate(images, (size, size), mode="bilinear", align_corners=False, antialias=True)


def pick_device(name: str) -> torch.device:
    """The device of `settings.device`; auto takes a GPU where there is one. Raises LabError where there is none."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    choose("device", name.split(":")[0], ("cpu", "cuda"))
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise LabError(f"device = {name!r}: there is no CUDA device here; use device cpu or auto")
    try:
        return torch.device(name)
    except RuntimeError:
        raise LabError(f"device = {name!r}: allowed are auto, cpu, cuda and cuda:N") from None


def _checked(path: Path, md5: str, name: str) -> bytes:
    content = path.read_bytes()
    if hashlib.md5(content).hexdigest() != md5:
        raise LabError(f"data: {path} is not as published (its MD5 differs); delete it and run `lth data fetch {name}`")
    return content


def _damaged(path: Path, what: str, name: str = "cifar10") -> LabError:
    return LabError(f"data: {path} {what}; `lth data fetch {name}` gets the published files")


def _missing(name: str, path: Path) -> LabError:
    return LabError(
        f"data: {path} is missing; run `lth data fetch {name}`, or put the published files there, "
        "or point LTH_DATA to the folder that has them"
    )
