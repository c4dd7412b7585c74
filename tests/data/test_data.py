"""Data: files are read only if they are as published, and splits are seeded and disjoint."""

import gzip
import hashlib
import os
import re
import struct
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torchvision.transforms.v2.functional import resize

from lthcore.data import datasets
from lthcore.errors import LabError
from lthcore.lottery.search import find_tickets
from lthcore.models.build import build
from lthcore.paths import data_root
from lthcore.settings import Settings
from lthcore.sources import catalogue, cifar
from lthcore.sources import mnist as mnist_files
from lthcore.sources.catalogue import dataset_of
from lthcore.sources.dataset import DATASETS, say_once

DIGITS = Settings(dataset="digits", architecture="mlp", validation=200, device="cpu")
SMALL = Settings(validation=50, batch_size=10, device="cpu")
ROOT = Path(__file__).parents[2]
RECORD = 3073


@pytest.fixture
def fake_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Function that writes 600 training and 20 test images in MNIST's format, and makes their hashes the known ones.

    The first two pixels of an image encode its index.
    """

    def write(packed: bool = False, folder: str = "MNIST", table: str = "MNIST_FILES") -> Path:
        (tmp_path / folder / "raw").mkdir(parents=True)
        hashes = {}
        for part, n in (("train", 600), ("t10k", 20)):
            images = np.zeros((n, 28, 28), np.uint8)
            images[:, 0, 0], images[:, 0, 1] = np.divmod(np.arange(n), 256)
            images[:, 27, 26] = 9
            for file, content in (
                (f"{part}-images-idx3-ubyte", struct.pack(">4i", 2051, n, 28, 28) + images.tobytes()),
                (f"{part}-labels-idx1-ubyte", struct.pack(">2i", 2049, n) + bytes(i % 10 for i in range(n))),
            ):
                archive = gzip.compress(content)
                plain_md5 = hashlib.md5(content).hexdigest() if getattr(mnist_files, table)[file][1] else None
                hashes[file] = (hashlib.md5(archive).hexdigest(), plain_md5)
                path = tmp_path / folder / "raw" / f"{file}{'.gz' * packed}"
                path.write_bytes(archive if packed else content)
        monkeypatch.setattr(mnist_files, table, hashes)
        return tmp_path

    return write


@pytest.fixture
def small_cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder with CIFAR-10's files, of 4 records in each training batch and 6 in the test batch, with known digests.

    Batch i starts with label i and pixel i. The digests are computed independently, as described in sources/cifar.py.
    """
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    records = np.random.RandomState(0).randint(0, 256, (26, RECORD)).astype(np.uint8)
    records[:, 0] = np.arange(26) % 10
    records[:20:4, 0] = records[:20:4, 1] = [1, 2, 3, 4, 5]
    for i, file in enumerate(cifar.CIFAR10_FILES):
        (folder / file).write_bytes(records[4 * i : 20 if i < 5 else 26][: 4 if i < 5 else 6].tobytes())

    def set_digest(some: np.ndarray) -> str:
        keys = sorted(bytes(r[:1]) + hashlib.sha256(bytes(r[1:])).digest() for r in some)
        return hashlib.sha256(b"".join(keys)).hexdigest()

    monkeypatch.setattr(cifar, "CIFAR10", replace(cifar.CIFAR10, n_train=20))
    monkeypatch.setitem(DATASETS, "cifar10", cifar.CIFAR10)
    monkeypatch.setattr(cifar, "CIFAR10_TRAIN", set_digest(records[:20]))
    monkeypatch.setattr(cifar, "CIFAR10_BATCHES", [set_digest(records[i : i + 4])[:16] for i in range(0, 20, 4)])
    monkeypatch.setattr(cifar, "CIFAR10_BLOCK", 2)
    blocks = [bytes(records[i : i + 2]) for i in (20, 22, 24)]
    monkeypatch.setattr(cifar, "CIFAR10_TEST", [hashlib.sha256(block).hexdigest()[:16] for block in blocks])
    return folder


@pytest.fixture
def copied_cifar10(root_with: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """Function that returns a folder of the real CIFAR-10 with a copy of the named file and links to the others."""

    def copied(name: str) -> Path:
        published, folder = root_with("cifar10") / "cifar-10-batches-bin", tmp_path / "cifar-10-batches-bin"
        folder.mkdir()
        for file in cifar.CIFAR10_FILES:
            (folder / file).symlink_to((published / file).resolve())
        (folder / name).unlink()
        (folder / name).write_bytes((published / name).read_bytes())
        return folder

    return copied


def flip_byte(path: Path, position: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def indices(split: datasets.Split) -> set[int]:
    """Return the indices that the first two pixels of the fake images encode."""
    dataset = DATASETS["mnist"]
    pixels = ((split.images[:, 0, 0, :2] * dataset.std[0] + dataset.mean[0]) * 255).round().long()
    return set((pixels[:, 0] * 256 + pixels[:, 1]).tolist())


def refusal(settings: Settings, root: Path | None = None) -> str:
    with pytest.raises(LabError) as caught:
        datasets.load(settings, root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Digits


def test_digits_come_with_scikit_learn_and_have_their_sizes():
    digits = datasets.load(DIGITS)
    assert digits.shape == (1, 8, 8)
    assert {name: len(s.labels) for name, s in digits.splits.items()} == {"train": 1237, "validation": 200, "test": 360}
    for images, labels in digits.splits.values():
        assert images.dtype == torch.float32 and labels.dtype == torch.int64 and len(images) == len(labels)
        assert set(labels.tolist()) == set(range(10))


@pytest.mark.parametrize("own", [False, True])
def test_a_stranger_can_divide_the_images_in_the_same_way(own, tmp_path):
    """Cards of exported tickets say how, where what is published does not say which images are for testing."""
    images, labels = load_digits(return_X_y=True)
    pixels = (images.reshape(-1, 1, 8, 8) * 255 / 16).round().astype(np.uint8)
    np.savez(tmp_path / "own.npz", images=pixels, labels=labels)
    known = dataset_of(str(tmp_path / "own.npz") if own else "digits")
    order = np.random.RandomState(0).permutation(1797)
    assert "with order = numpy.random.RandomState(0).permutation(1797), test images are order[:" in known.split
    n = int(re.search(r"order\[:(\d+)\] and training images order\[\1:\]", known.split)[1])
    test, train = order[:n], order[n:]
    raw = known.reader(tmp_path)
    assert np.array_equal(pixels[test], raw.test_images) and np.array_equal(labels[test], raw.test_labels)
    assert np.array_equal(pixels[train], raw.train_images) and np.array_equal(labels[train], raw.train_labels)
    np.savez(tmp_path / "own.npz", images=pixels, labels=labels, test_images=pixels[:9], test_labels=labels[:9])
    assert dataset_of(str(tmp_path / "own.npz")).split == ""


def test_digits_are_normalised_over_the_training_images():
    images = datasets.load(DIGITS.changed(validation=0)).train.images
    assert abs(float(images.mean())) < 0.01
    assert float(images.std()) == pytest.approx(1, abs=0.01)


def test_unit_scaling_keeps_pixels_between_0_and_1():
    images = datasets.load(DIGITS.changed(input_scaling="unit")).train.images
    assert float(images.min()) == 0 and float(images.max()) == 1


def test_unit_norm_scaling_gives_each_image_a_norm_of_1():
    digits = datasets.load(DIGITS.changed(input_scaling="unit_norm"))
    norms, plain = digits.test.images.flatten(1).norm(dim=1), datasets.load(DIGITS.changed(input_scaling="unit"))
    assert torch.allclose(norms, torch.ones(len(norms)))
    expected = plain.test.images / plain.test.images.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    assert torch.allclose(digits.test.images, expected)
    black = np.zeros((1, 1, 8, 8), np.uint8)
    assert datasets.scaled(black, "digits", "unit_norm").count_nonzero() == 0


def test_digits_are_labelled_right():
    """Nearly all images have the label of the nearest training image: images and labels were shuffled together."""
    digits = datasets.load(DIGITS)
    for split in (digits.validation, digits.test):
        nearest = torch.cdist(split.images.flatten(1), digits.train.images.flatten(1)).argmin(dim=1)
        assert (digits.train.labels[nearest] == split.labels).float().mean() > 0.96


def test_without_validation_there_is_no_such_split():
    digits = datasets.load(DIGITS.changed(validation=0))
    assert digits.validation is None and list(digits.splits) == ["train", "test"]
    assert len(digits.train.labels) == 1437


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("digits", [0.305], [0.376]),
        ("mnist", [0.1307], [0.3081]),
        ("fashion_mnist", [0.2860], [0.3530]),
        ("cifar10", [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]),
    ],
)
def test_images_are_standardised_by_the_published_constants(name, mean, std):
    """The constants are the channels' means and standard deviations over the training images, without test images."""
    black, white = (np.full((1, len(mean), 2, 2), value, np.uint8) for value in (0, 255))
    for images, pixel in ((black, 0.0), (white, 1.0)):
        found = datasets.scaled(images, name, "standardised")[0, :, 1, 1]
        assert found.tolist() == pytest.approx([(pixel - m) / s for m, s in zip(mean, std, strict=True)], rel=1e-5)


@pytest.mark.parametrize(("name", "rounding"), [("digits", 8e-4), ("mnist", 5e-5), ("cifar10", 5e-5)])
def test_the_constants_are_those_of_all_real_training_images(name, rounding, root_with):
    images, values = catalogue.read(name, root_with(name)).train_images, np.arange(256) / 255
    for channel, mean, std in zip(images.swapaxes(0, 1), *datasets.pixel_scale(name, "standardised"), strict=True):
        share = np.bincount(channel.ravel(), minlength=256) / channel.size
        expected = (share * values).sum()
        assert mean == pytest.approx(expected, abs=rounding)
        assert std == pytest.approx((share * (values - expected) ** 2).sum() ** 0.5, abs=rounding)


def test_real_mnist_is_normalised(root_with):
    raw = catalogue.read("mnist", root_with("mnist"))
    assert raw.train_images.shape == (60_000, 1, 28, 28) and raw.test_images.shape == (10_000, 1, 28, 28)
    assert np.bincount(raw.train_labels)[:2].tolist() == [5923, 6742]
    images = datasets.scaled(raw.train_images[:10_000], "mnist", "standardised")
    assert abs(float(images.mean())) < 0.02 and float(images.std()) == pytest.approx(1, abs=0.02)


def test_real_cifar10_is_normalised_by_channel(root_with):
    raw = catalogue.read("cifar10", root_with("cifar10"))
    assert raw.train_images.shape == (50_000, 3, 32, 32)
    assert np.bincount(raw.train_labels).tolist() == [5000] * 10
    images = datasets.scaled(raw.train_images[:5_000], "cifar10", "standardised")
    assert images.mean((0, 2, 3)).abs().max() < 0.05
    assert images.std((0, 2, 3)).tolist() == pytest.approx([1, 1, 1], abs=0.05)


def test_unknown_dataset_names_the_nearest():
    assert "dataset = 'digit' (did you mean 'digits'?)" in refusal(DIGITS.changed(dataset="digit"))


# Splits


def test_validation_is_held_out_of_training(fake_mnist):
    mnist = datasets.load(SMALL, fake_mnist())
    train, validation = indices(mnist.train), indices(mnist.validation)
    assert len(train) == 550 and len(validation) == 50
    assert train | validation == set(range(600))
    assert indices(mnist.test) == set(range(20))


def test_labels_stay_with_their_images(fake_mnist):
    mnist = datasets.load(SMALL, fake_mnist())
    for images, labels in mnist.splits.values():
        for image, label in zip(images, labels.tolist(), strict=True):
            assert indices(datasets.Split(image[None], labels)).pop() % 10 == label


def test_split_follows_from_the_seed(fake_mnist):
    root = fake_mnist()
    first, again, other = (datasets.load(SMALL.changed(seed=seed), root) for seed in (0, 0, 1))
    assert torch.equal(first.train.images, again.train.images)
    assert torch.equal(first.validation.labels, again.validation.labels)
    assert indices(first.validation) != indices(other.validation)
    assert indices(first.test) == indices(other.test)


def test_split_leaves_the_global_generator_alone(fake_mnist):
    root, before = fake_mnist(), torch.random.get_rng_state()
    datasets.load(SMALL, root)
    assert torch.equal(before, torch.random.get_rng_state())


def test_fewer_training_images_leave_the_validation_images_the_same(fake_mnist):
    root = fake_mnist()
    whole, part = datasets.load(SMALL, root), datasets.load(SMALL.changed(train_examples=100), root)
    assert len(indices(part.train)) == 100 and indices(part.train) < indices(whole.train)
    assert indices(part.validation) == indices(whole.validation)


@pytest.mark.parametrize(
    "values",
    [
        {"validation": 1437},
        {"validation": 5000},
        {"validation": 1400},  # leaves less than a batch
        {"validation": 437, "train_examples": 1001},
        {"validation": 0, "train_examples": 1438},
        {"validation": 0, "train_examples": 59},
    ],
)
def test_more_images_than_there_are_is_an_error(values):
    assert f"validation = {values['validation']} " in refusal(DIGITS.changed(**values))


def test_all_images_may_be_shared_out():
    digits = datasets.load(DIGITS.changed(validation=437, train_examples=1000))
    assert len(digits.train.labels) == 1000 and len(digits.validation.labels) == 437


# MNIST's files


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
def test_mnist_format_is_read(fake_mnist, packed):
    raw = catalogue.read("mnist", fake_mnist(packed))
    assert raw.train_images.shape == (600, 1, 28, 28) and raw.test_images.shape == (20, 1, 28, 28)
    assert raw.train_images[300, 0, 0, :3].tolist() == [1, 44, 0] and raw.train_images[300, 0, 27, 26] == 9
    assert raw.train_labels.tolist() == [i % 10 for i in range(600)]


def test_fashion_mnist_is_read_from_its_archives(fake_mnist):
    root = fake_mnist(packed=True, folder="FashionMNIST", table="FASHION_FILES")
    (root / "FashionMNIST" / "raw" / "t10k-labels-idx1-ubyte").write_bytes(b"unpacked, of which no hash is published")
    raw = catalogue.read("fashion_mnist", root)
    assert raw.test_labels.tolist() == [i % 10 for i in range(20)] and raw.variant.startswith("fashion_mnist")


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gz"])
@pytest.mark.parametrize("file", mnist_files.MNIST_FILES)
def test_one_flipped_bit_is_an_error_that_names_the_file(fake_mnist, file, packed):
    root = fake_mnist(packed)
    path = root / "MNIST" / "raw" / f"{file}{'.gz' * packed}"
    flip_byte(path)
    message = refusal(SMALL, root)
    assert str(path) in message and "not as published" in message and "lth data fetch mnist" in message


def test_one_flipped_bit_of_real_mnist_is_an_error(root_with, tmp_path):
    published, copy = root_with("mnist") / "MNIST" / "raw", tmp_path / "MNIST" / "raw"
    copy.mkdir(parents=True)
    for file in published.glob("*-ubyte*"):
        (copy / file.name).symlink_to(file.resolve())
    damaged = next(copy.glob("t10k-labels-idx1-ubyte*"))
    content = damaged.read_bytes()
    damaged.unlink()
    damaged.write_bytes(content)
    flip_byte(damaged, 5000)
    assert str(damaged) in refusal(SMALL, tmp_path)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100"])
def test_missing_files_are_one_line_that_says_what_to_do(tmp_path, monkeypatch, name):
    monkeypatch.setenv("LTH_DATA", str(tmp_path))
    message = refusal(Settings(dataset=name, device="cpu"))
    assert str(tmp_path) in message and f"`lth data fetch {name}`" in message and "LTH_DATA" in message


def test_the_data_root_is_lth_data_or_data(monkeypatch, tmp_path):
    monkeypatch.setenv("LTH_DATA", str(tmp_path))
    assert data_root() == tmp_path
    monkeypatch.delenv("LTH_DATA")
    assert data_root() == ROOT / "data"
    (tmp_path / "params").mkdir()
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    assert data_root() == tmp_path / "data"


# CIFAR-10's files


def cifar10_refusal(folder: Path) -> str:
    return refusal(Settings(dataset="cifar10", device="cpu", validation=5, batch_size=5), folder.parent)


def records_of(path: Path) -> np.ndarray:
    return np.fromfile(path, np.uint8).reshape(-1, RECORD)


def test_cifar10_record_is_a_label_and_three_planes(small_cifar10):
    red = np.arange(1024) % 251
    record = bytes([7]) + bytes(red.tolist()) + bytes([2] * 1024) + bytes([3] * 1024)
    (small_cifar10 / "test_batch.bin").write_bytes(record)
    raw = catalogue.read("cifar10", small_cifar10.parent)
    assert raw.train_images.shape == (20, 3, 32, 32) and raw.test_labels.tolist() == [7]
    assert raw.train_labels[::4].tolist() == raw.train_images[::4, 0, 0, 0].tolist() == [1, 2, 3, 4, 5]
    assert np.array_equal(raw.test_images[0, 0], red.reshape(32, 32))
    assert set(raw.test_images[0, 1].flat) == {2} and set(raw.test_images[0, 2].flat) == {3}


def test_known_cifar10_is_verified_and_nothing_is_said(small_cifar10, capsys):
    raw = catalogue.read("cifar10", small_cifar10.parent)
    whole = b"".join((small_cifar10 / file).read_bytes() for file in cifar.CIFAR10_FILES)
    words = "cifar10 binary version: 20 train, 6 of 10,000 test, sha256 "
    assert raw.variant == words + hashlib.sha256(whole).hexdigest()[:12]
    assert "all training and 6 test images" in catalogue.verified("cifar10", small_cifar10.parent)
    assert capsys.readouterr().err == ""


def test_the_order_of_training_records_does_not_matter(small_cifar10):
    """Copies of the binary version differ in the order."""
    files = [small_cifar10 / file for file in cifar.CIFAR10_FILES[:5]]
    shuffled = np.random.RandomState(1).permutation(np.concatenate([records_of(file) for file in files]))
    for file, records in zip(files, shuffled.reshape(5, 4, RECORD), strict=True):
        file.write_bytes(records.tobytes())
    assert "unverified" not in catalogue.read("cifar10", small_cifar10.parent).variant


@pytest.mark.parametrize("damage", ["a label", "a bit", "zeros", "a record twice", "a batch twice"])
def test_damaged_training_records_are_an_error_that_names_the_file(small_cifar10, damage):
    path = small_cifar10 / "data_batch_3.bin"
    records = records_of(path)
    match damage:
        case "a label":
            records[2, 0] = (records[2, 0] + 1) % 10
        case "a bit":
            records[2, 3000] ^= 64
        case "zeros":
            records[2:] = 0
        case "a record twice":
            records[1] = records[0]
        case "a batch twice":
            records = records_of(small_cifar10 / "data_batch_2.bin")
    path.write_bytes(records.tobytes())
    message = cifar10_refusal(small_cifar10)
    assert "look at data_batch_3.bin)" in message and "`lth data fetch cifar10`" in message
    again = {"zeros": "1 images", "a record twice": "1 images", "a batch twice": "4 images"}
    assert again.get(damage, "an image or a label is another") in message


def test_a_training_image_among_the_test_images_is_an_error_whatever_its_label(small_cifar10):
    path = small_cifar10 / "test_batch.bin"
    path.write_bytes((small_cifar10 / "data_batch_1.bin").read_bytes())
    assert f"{path} holds 4 of the training images" in cifar10_refusal(small_cifar10)
    records = records_of(small_cifar10 / "data_batch_1.bin")[:1]
    records[0, 0] = (records[0, 0] + 1) % 10
    path.write_bytes(records.tobytes())
    assert f"{path} holds 1 of the training images" in cifar10_refusal(small_cifar10)


def test_a_test_image_that_is_there_twice_is_an_error(small_cifar10):
    path = small_cifar10 / "test_batch.bin"
    path.write_bytes(bytes(3 * RECORD))
    assert f"{path} holds 2 images twice" in cifar10_refusal(small_cifar10)


@pytest.mark.parametrize("place", [0, 1234])
def test_a_change_in_known_test_records_is_an_error_that_says_where(small_cifar10, place):
    path = small_cifar10 / "test_batch.bin"
    records = records_of(path)
    records[3, place] ^= 1
    path.write_bytes(records.tobytes())
    assert f"{path} has an image or a label" in (message := cifar10_refusal(small_cifar10))
    assert "records 3 to 4" in message and "`lth data fetch cifar10`" in message


@pytest.mark.parametrize(("kept", "unknown"), [([0, 1, 2, 3], 0), ([0, 1, 2], 1), ([5, 4, 3, 2, 1, 0], 6), ([], 2)])
def test_test_images_of_no_known_digest_are_unverified_and_said_once_to_be_so(small_cifar10, capsys, kept, unknown):
    path, new = small_cifar10 / "test_batch.bin", np.full((2, RECORD), 9, np.uint8)
    new[1, 5] = 0
    records = records_of(path)[kept] if kept else new
    path.write_bytes(records.tobytes())
    first, again = (catalogue.read("cifar10", small_cifar10.parent) for _ in range(2))
    said = capsys.readouterr().err
    assert first.variant == again.variant
    if unknown == 0:
        assert "unverified" not in first.variant and said == ""
        return
    digest = hashlib.sha256(records[len(records) - unknown :].tobytes()).hexdigest()[:12]
    assert first.variant.endswith(f", {unknown} test images unverified (sha256 {digest})")
    assert said.count("\n") == 1 and digest in said and str(path) in said
    assert f"all training and {len(records) - unknown} test images" in first.checked


def test_more_test_images_than_are_known_are_verified_in_part(small_cifar10):
    path, more = small_cifar10 / "test_batch.bin", np.full((1, RECORD), 9, np.uint8)
    path.write_bytes(path.read_bytes() + more.tobytes())
    raw = catalogue.read("cifar10", small_cifar10.parent)
    assert "7 of 10,000 test" in raw.variant and ", 1 test images unverified (sha256 " in raw.variant


@pytest.mark.parametrize("file", ["data_batch_1.bin", "test_batch.bin"])
@pytest.mark.parametrize("size", [0, RECORD - 1, RECORD + 1])
def test_truncated_cifar10_is_an_error_that_names_the_file(small_cifar10, file, size):
    path = small_cifar10 / file
    path.write_bytes(bytes(size))
    message = cifar10_refusal(small_cifar10)
    assert str(path) in message and "cut short" in message and "`lth data fetch cifar10`" in message


@pytest.mark.parametrize("label", [10, 200])
def test_label_beyond_the_classes_is_an_error_that_names_the_file(small_cifar10, label):
    path = small_cifar10 / "data_batch_1.bin"
    path.write_bytes(bytes(RECORD) + bytes([label]) + bytes(RECORD - 1))
    message = cifar10_refusal(small_cifar10)
    assert str(path) in message and f"label {label}" in message and "`lth data fetch cifar10`" in message


def test_too_few_training_images_of_cifar10_is_an_error(small_cifar10):
    (small_cifar10 / "data_batch_5.bin").write_bytes(records_of(small_cifar10 / "data_batch_5.bin")[:1].tobytes())
    assert "17 training images instead of 20" in cifar10_refusal(small_cifar10)


def test_real_cifar10_is_verified_and_called_what_it_is_in_published_runs(root_with):
    raw = catalogue.read("cifar10", root_with("cifar10"))
    n = len(raw.test_labels)
    assert f"all training and {n:,} test images" in raw.checked
    if n != 1000:
        pytest.skip("the published runs have the first 1,000 test images")
    assert raw.variant == "cifar10 binary version: 50,000 train, 1,000 of 10,000 test, sha256 ed25fbc41dbf"


@pytest.mark.parametrize(("file", "position"), [("data_batch_4.bin", 5000 * RECORD), ("test_batch.bin", 1500)])
def test_one_flipped_bit_of_real_cifar10_is_an_error(copied_cifar10, file, position):
    folder = copied_cifar10(file)
    flip_byte(folder / file, position)
    message = cifar10_refusal(folder)
    assert file in message and "`lth data fetch cifar10`" in message


# CIFAR-100's files, and the number of classes


@pytest.fixture
def small_cifar100(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder with 12 training and 5 test records: the first pixel is the record's index, labels count down from 99."""
    folder = tmp_path / "cifar-100-binary"
    folder.mkdir()
    records = np.zeros((17, 2 + 3072), np.uint8)
    records[:, 0], records[:, 1], records[:, 2] = np.arange(17) % 20, 99 - np.arange(17), np.arange(17)
    (folder / "train.bin").write_bytes(records[:12].tobytes())
    (folder / "test.bin").write_bytes(records[12:].tobytes())
    monkeypatch.setattr(cifar, "CIFAR100", replace(cifar.CIFAR100, n_train=12, n_test=5))
    monkeypatch.setitem(DATASETS, "cifar100", cifar.CIFAR100)
    say_once.cache_clear()
    return folder


def test_a_record_of_cifar100_is_two_labels_of_which_the_second_counts_and_three_planes(small_cifar100, capsys):
    raw = catalogue.read("cifar100", small_cifar100.parent)
    assert raw.train_labels.tolist() == list(range(99, 87, -1)) and raw.test_labels.tolist() == list(range(87, 82, -1))
    assert raw.train_images.shape == (12, 3, 32, 32) and raw.train_images[:, 0, 0, 0].tolist() == list(range(12))
    assert raw.train_images.sum() == sum(range(12))
    content = (small_cifar100 / "train.bin").read_bytes() + (small_cifar100 / "test.bin").read_bytes()
    assert f"images unverified (sha256 {hashlib.sha256(content).hexdigest()[:12]})" in raw.variant
    catalogue.read("cifar100", small_cifar100.parent)
    assert capsys.readouterr().err.count("unverified") == 1


@pytest.mark.parametrize("file", ["train.bin", "test.bin"])
def test_cifar100_of_another_size_is_an_error_that_names_the_file(small_cifar100, file):
    (small_cifar100 / file).write_bytes((small_cifar100 / file).read_bytes()[:-1])
    message = refusal(Settings(dataset="cifar100", device="cpu", validation=2, batch_size=5), small_cifar100.parent)
    assert str(small_cifar100 / file) in message and "`lth data fetch cifar100`" in message


def test_the_network_has_an_output_for_each_class_of_the_data_set(small_cifar100):
    settings = Settings(dataset="cifar100", architecture="conv2", device="cpu", validation=2, batch_size=5)
    data = datasets.load(settings, small_cifar100.parent)
    assert (data.classes, datasets.classes_of(settings), datasets.classes_of(DIGITS)) == (100, 100, 10)
    assert build(settings, data.shape, data.classes)[-1].out_features == 100


@pytest.mark.parametrize("label", [12, 255])
@pytest.mark.parametrize("which", ["training", "test"])
def test_a_label_outside_the_classes_is_one_line(monkeypatch, which, label):
    raw = catalogue.read("digits")
    labels = {"training": raw.train_labels.copy(), "test": raw.test_labels.copy()}
    labels[which][7] = label
    raw = raw._replace(train_labels=labels["training"], test_labels=labels["test"])
    record = replace(DATASETS["digits"], reader=lambda root: raw, classes=12)
    monkeypatch.setitem(DATASETS, "digits", record)
    message = refusal(DIGITS)
    assert "12 classes" in message and f"label {label} among its {which} images" in message and "0 to 11" in message


def test_data_of_12_and_of_5_classes_are_trained_by_networks_of_as_many_outputs(monkeypatch):
    raw = catalogue.read("digits")
    for classes, labels in ((12, lambda y: y + 2 * (y > 7)), (5, lambda y: y % 5)):
        relabelled = raw._replace(train_labels=labels(raw.train_labels), test_labels=labels(raw.test_labels))
        record = replace(DATASETS["digits"], reader=lambda root, r=relabelled: r, classes=classes)
        monkeypatch.setitem(DATASETS, "digits", record)
        settings = DIGITS.changed(
            architecture="mlp", widths=(16,), iterations=60, eval_every=60, trials=1, rounds=1, learning_rate=5e-3
        )
        for cohort in find_tickets(settings, datasets.load(settings)):
            for outcome in cohort.values():
                assert len(outcome.weights["output.bias"]) == classes
                assert outcome.curve[-1].test_accuracy > 0.5


# Fetching, with no network


def no_network(*args, **kwargs):
    raise OSError("no network")


def test_fetch_downloads_nothing_that_is_there(fake_mnist, monkeypatch):
    monkeypatch.setattr(mnist_files, "download", no_network)
    assert catalogue.fetch("mnist", fake_mnist()).startswith("mnist as published")
    assert catalogue.fetch("digits").startswith("digits")


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "cifar100"])
def test_fetch_without_network_says_which_mirrors_failed(tmp_path, monkeypatch, name):
    monkeypatch.setattr("torchvision.datasets.utils.download_url", no_network)
    with pytest.raises(LabError, match="no network") as caught:
        catalogue.fetch(name, tmp_path)
    mirrors = {
        "mnist": mnist_files.MNIST_MIRRORS,
        "fashion_mnist": mnist_files.FASHION_MIRRORS,
        "cifar10": cifar.CIFAR10_MIRRORS,
        "cifar100": cifar.CIFAR100_MIRRORS,
    }
    assert all(mirror in str(caught.value) for mirror in mirrors[name]) and "\n" not in str(caught.value)


def test_fetch_replaces_a_damaged_file(fake_mnist, monkeypatch):
    root = fake_mnist()
    raw = root / "MNIST" / "raw"
    published = {file.name: gzip.compress(file.read_bytes(), mtime=0) for file in raw.iterdir()}
    known = mnist_files.MNIST_FILES.items()
    hashes = {name: (hashlib.md5(published[name]).hexdigest(), plain) for name, (_, plain) in known}
    monkeypatch.setattr(mnist_files, "MNIST_FILES", hashes)
    flip_byte(raw / "t10k-labels-idx1-ubyte")

    def download(folder, mirrors, file, md5):
        (folder / file).write_bytes(published[file.removesuffix(".gz")])

    monkeypatch.setattr(mnist_files, "download", download)
    catalogue.fetch("mnist", root)
    assert len(datasets.load(SMALL, root).test.labels) == 20


# Sizes


def test_images_are_resized_as_torchvision_resizes_them():
    settings = Settings(dataset="digits", image_size=12, validation=0, device="cpu")
    images, plain = datasets.load(settings).test.images, datasets.load(settings.changed(image_size=0)).test.images
    assert images.shape[1:] == (1, 12, 12) == datasets.image_shape(settings)
    torch.testing.assert_close(images, resize(plain, [12, 12], antialias=True))


# The digest


def digest_of(monkeypatch: pytest.MonkeyPatch, settings: Settings = DIGITS, **changed: np.ndarray) -> str:
    """Return the digest of digits with some arrays replaced."""
    raw = catalogue.read("digits")._replace(**changed)
    with monkeypatch.context() as patch:
        patch.setitem(DATASETS, "digits", replace(DATASETS["digits"], reader=lambda root: raw))
        return datasets.load(settings).digest


def test_the_digest_of_the_same_data_is_the_same(monkeypatch):
    digests = [datasets.load(DIGITS).digest, datasets.load(DIGITS).digest, digest_of(monkeypatch)]
    assert len(set(digests)) == 1 and len(digests[0]) == 16 and int(digests[0], 16)


def test_the_digest_follows_from_names_shapes_pixels_and_labels_of_the_splits_in_their_order():
    """The digest equals a plain hash of the bytes, so other machines and versions find the same one."""
    raw, settings = catalogue.read("digits"), DIGITS.changed(validation=0)
    train = datasets.load(settings).train
    order = [int((raw.train_images == image).all((1, 2, 3)).argmax()) for image in pixels_of(train)]
    expected = hashlib.blake2b(digest_size=8)
    for name, images, labels in (
        ("train", raw.train_images[order], raw.train_labels[order]),
        ("test", raw.test_images, raw.test_labels),
    ):
        expected.update(f"{name} {images.shape}".encode() + bytes(images) + bytes(labels.tolist()))
    assert datasets.load(settings).digest == expected.hexdigest()


def pixels_of(split: datasets.Split) -> np.ndarray:
    """Return the bytes from which standardised digits were made."""
    dataset = DATASETS["digits"]
    return ((split.images * dataset.std[0] + dataset.mean[0]) * 255).round().to(torch.uint8).numpy()


def test_other_pixels_labels_or_order_have_another_digest(monkeypatch):
    """All of these change results, and the digest is what keeps a run from resuming with other data."""
    raw = catalogue.read("digits")
    pixel, label = raw.train_images.copy(), raw.test_labels.copy()
    pixel[0, 0, 0, 0] ^= 1
    label[-1] = (label[-1] + 1) % 10
    digests = [
        digest_of(monkeypatch),
        digest_of(monkeypatch, train_images=pixel),
        digest_of(monkeypatch, test_labels=label),
        digest_of(monkeypatch, train_images=raw.train_images[::-1], train_labels=raw.train_labels[::-1]),
        digest_of(monkeypatch, test_images=raw.test_images[:-1], test_labels=raw.test_labels[:-1]),
        digest_of(monkeypatch, DIGITS.changed(seed=1)),
        digest_of(monkeypatch, DIGITS.changed(validation=0)),
        digest_of(monkeypatch, DIGITS.changed(train_examples=1000)),
    ]
    assert len(set(digests)) == len(digests)


def test_the_digest_is_of_bytes_before_they_are_scaled():
    """Scaling and resizing round differently on other processors, so the digest must not include them."""
    scaled = ({}, {"input_scaling": "unit_norm"}, {"image_size": 12})
    digests = {datasets.load(DIGITS.changed(**values)).digest for values in scaled}
    assert len(digests) == 1


# Arrays


@pytest.mark.parametrize("validation", [0, 200])
def test_arrays_share_the_memory_of_the_data(validation):
    digits = datasets.load(DIGITS.changed(validation=validation))
    arrays = digits.to_arrays()
    back = datasets.Data.from_arrays(arrays)
    assert list(back.splits) == list(digits.splits)
    assert (back.variant, back.digest, back.classes) == (digits.variant, digits.digest, digits.classes)
    for name, split in digits.splits.items():
        for before, array, after in zip(split, arrays[name], back.splits[name], strict=True):
            assert before.data_ptr() == array.ctypes.data == after.data_ptr()
            assert torch.equal(before, after) and before.dtype == after.dtype


def test_read_only_arrays_are_taken_without_a_warning():
    digits = datasets.load(DIGITS)
    arrays = digits.to_arrays()
    for array in (array for name in digits.splits for array in arrays[name]):
        array.setflags(write=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert datasets.Data.from_arrays(arrays).train.images.shape == (1237, 1, 8, 8)


# Devices


@pytest.mark.parametrize("name", ["gpu", "cuda0", ""])
def test_unknown_device_is_an_error(name):
    with pytest.raises(LabError, match="device = "):
        datasets.pick_device(name)


def test_device_with_a_bad_index_is_an_error():
    with pytest.raises(LabError):
        datasets.pick_device("cpu:first")


def test_cuda_where_there_is_none_is_an_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert datasets.pick_device("auto") == torch.device("cpu")
    with pytest.raises(LabError, match="no CUDA device"):
        datasets.pick_device("cuda")


def test_a_file_of_ones_own_that_is_written_anew_is_another_data_set(tmp_path):
    path = tmp_path / "own.npz"
    for classes in (3, 2):
        labels = np.arange(60) % classes
        np.savez(path, images=np.full((60, 4, 4), 50 * classes, np.uint8), labels=labels)
        os.utime(path, ns=(classes, classes))
        known = catalogue.dataset_of(str(path))
        assert known.classes == classes and known.mean[0] == pytest.approx(50 * classes / 255)


def test_what_a_worker_was_told_of_an_npz_holds_where_the_file_is_not(tmp_path, monkeypatch):
    path = tmp_path / "own.npz"
    np.savez(path, images=np.zeros((60, 4, 4), np.uint8), labels=np.arange(60) % 3)
    known = replace(catalogue.dataset_of(str(path)), reader=None)
    path.unlink()
    monkeypatch.setitem(DATASETS, str(path), known)
    assert catalogue.dataset_of(str(path)) is known
