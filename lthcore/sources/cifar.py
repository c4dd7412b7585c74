"""CIFAR-10 and CIFAR-100 in their official binary versions. No pickle is ever read.

Archives are checked by MD5 when they are downloaded, the images of CIFAR-10 by digests, and the hash of the files is
recorded in run.json. Images without a known digest are reported as unverified.
"""

import hashlib
from pathlib import Path

import numpy as np

from lthcore.sources.dataset import Dataset, Raw, damaged, download, missing, say_once

CIFAR10_ARCHIVE = ("cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530")
CIFAR10_MIRRORS = (
    "https://mindspore-website.obs.cn-north-4.myhuaweicloud.com/notebook/datasets/",
    "https://www.cs.toronto.edu/~kriz/",
    "https://cave.cs.toronto.edu/kriz/",
)
CIFAR10_RECORD = 1 + 3 * 32 * 32  # a label byte, then the red, green and blue planes
CIFAR10_FILES = (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin")
# Digests of CIFAR-10, computed from the files that results/ was made with. These two do not depend on the order of the
# records (`_set_digest`): of all training images, and of each file, which is only used to locate damage.
CIFAR10_TRAIN = "a55778b0d048efc98f4bf405cfdd88f2b63f7ba684b529ccb6e6ac0ae9980047"
CIFAR10_BATCHES = ("ea833b77029bf800", "94e2c772edc11a88", "953b0fc42ea19a76", "8604aca57ea12a2e", "d327e2446e842db3")
# SHA-256 of each block of 100 records among the first 1,000 test records, in order. The others have no known digest.
CIFAR10_TEST = (
    "440e5480f4f4a460", "862621c1f311c2da", "99e7027159b21acc", "146cf9503a4cc10c", "fae71d3bcea42497",
    "5e77a5bb2f09bee8", "f1e8bcd46093fc5f", "9bd811a8a78d8a8b", "305bc4b2e231caa1", "2db946328d7e0a0c",
)  # fmt: skip
CIFAR10_BLOCK = 100
CIFAR100_ARCHIVE = ("cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8")
CIFAR100_MIRRORS = CIFAR10_MIRRORS[1:]
CIFAR100_RECORD = 2 + 3 * 32 * 32  # a byte for the coarse label (20), one for the fine label (100), the planes


def _cifar10(root: Path) -> Raw:
    folder, digest = root / "cifar-10-batches-bin", hashlib.sha256()

    def read(file: str) -> np.ndarray:
        path = folder / file
        if not path.exists():
            raise missing("cifar10", path)
        content = path.read_bytes()
        digest.update(content)
        if not content or len(content) % CIFAR10_RECORD:
            raise damaged("cifar10", path, f"is not a whole number of {CIFAR10_RECORD:,}-byte records: it is cut short")
        records = np.frombuffer(content, np.uint8).reshape(-1, CIFAR10_RECORD)
        if records[:, 0].max() >= CIFAR10.classes:
            raise damaged("cifar10", path, f"has a label {records[:, 0].max()}: allowed are 0 to 9")
        return records

    *batches, test = map(read, CIFAR10_FILES)
    n, expected, n_test = sum(map(len, batches)), CIFAR10.n_train, CIFAR10.n_test
    if n != expected:
        raise damaged("cifar10", folder, f"holds {n:,} training images instead of {expected:,}")
    _check_cifar10(folder, batches, test)
    unknown = _unknown_test_records(folder / CIFAR10_FILES[-1], test)
    variant = f"cifar10 binary version: {n:,} train, {len(test):,} of {n_test:,} test, sha256 {digest.hexdigest()[:12]}"
    if len(unknown):
        words = f"{len(unknown):,} test images unverified (sha256 {hashlib.sha256(unknown).hexdigest()[:12]})"
        variant += f", {words}"
        say_once(f"note: data: {words}: no digest of these in {folder / CIFAR10_FILES[-1]} is known")
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
    """Read the images with their fine labels (100 classes). The coarse labels (20 groups) are not used."""
    folder, digest, images, labels = root / "cifar-100-binary", hashlib.sha256(), [], []
    for file, expected in (("train.bin", CIFAR100.n_train), ("test.bin", CIFAR100.n_test)):
        path = folder / file
        if not path.exists():
            raise missing("cifar100", path)
        content = path.read_bytes()
        digest.update(content)
        if len(content) != expected * CIFAR100_RECORD:
            what = f"has {len(content):,} bytes instead of the {CIFAR100_RECORD:,} of each of {expected:,} images"
            raise damaged("cifar100", path, what)
        records = np.frombuffer(content, np.uint8).reshape(-1, CIFAR100_RECORD)
        images.append(records[:, 2:].reshape(-1, 3, 32, 32))
        labels.append(records[:, 1])
    words = f"images unverified (sha256 {digest.hexdigest()[:12]})"
    say_once(f"note: data: {words}: no digest of what {folder} holds is known, but of the archive that it comes in")
    variant = f"cifar100 binary version: {len(labels[0]):,} train, {len(labels[1]):,} test, {words}"
    return Raw(images[0], labels[0], images[1], labels[1], variant)


def _check_cifar10(folder: Path, batches: list[np.ndarray], test: np.ndarray) -> None:
    """Check the digest of the training records, and that no image occurs twice with the same or with another label.

    CIFAR-10 has similar images, but no exact duplicates (arXiv 1902.00423). Raises LabError if a check fails.
    """
    keys = [[record[:1].tobytes() + hashlib.sha256(record[1:]).digest() for record in records] for records in batches]
    images = {key[1:] for batch in keys for key in batch}
    if _set_digest([key for batch in keys for key in batch]) != CIFAR10_TRAIN:
        known = zip(CIFAR10_FILES, keys, CIFAR10_BATCHES, strict=False)
        where = ", ".join(file for file, batch, digest in known if not _set_digest(batch).startswith(digest))
        again = sum(map(len, batches)) - len(images)
        what = f"{again:,} images are there again" if again else "an image or a label is another"
        raise damaged("cifar10", folder, f"does not hold the training images of CIFAR-10 ({what}; look at {where})")
    held = [hashlib.sha256(record[1:]).digest() for record in test]
    if shared := images.intersection(held):
        raise damaged("cifar10", folder / CIFAR10_FILES[-1], f"holds {len(shared):,} of the training images")
    if again := len(held) - len(set(held)):
        raise damaged("cifar10", folder / CIFAR10_FILES[-1], f"holds {again:,} images twice")


def _set_digest(keys: list[bytes]) -> str:
    """Return the SHA-256 of the keys (label and image hash) of records. It depends on repetitions, not on order."""
    return hashlib.sha256(b"".join(sorted(keys))).hexdigest()


def _unknown_test_records(path: Path, records: np.ndarray) -> np.ndarray:
    """Return the test records without a known digest: those after the first 1,000, or all if no digest matches.

    Raises LabError if only some blocks of the first 1,000 records match, since the others were changed.
    """
    n = min(len(records) // CIFAR10_BLOCK, len(CIFAR10_TEST))
    blocks = records[: n * CIFAR10_BLOCK].reshape(n, CIFAR10_BLOCK, CIFAR10_RECORD)
    same = [hashlib.sha256(block).hexdigest()[:16] == CIFAR10_TEST[i] for i, block in enumerate(blocks)]
    if not any(same):
        return records
    if not all(same):
        first = same.index(False) * CIFAR10_BLOCK
        where = f"records {first + 1:,} to {first + CIFAR10_BLOCK:,}"
        raise damaged("cifar10", path, f"has an image or a label that is not the published one in {where}")
    return records[n * CIFAR10_BLOCK :]


def _test_here(root: Path) -> int:
    """Return the number of records in the file of test images, since some copies have only the first of them."""
    path = root / "cifar-10-batches-bin" / "test_batch.bin"
    return path.stat().st_size // CIFAR10_RECORD if path.exists() else CIFAR10.n_test


def _fetch_cifar10(root: Path) -> None:
    download(root, CIFAR10_MIRRORS, *CIFAR10_ARCHIVE, unpack=True)


def _fetch_cifar100(root: Path) -> None:
    download(root, CIFAR100_MIRRORS, *CIFAR100_ARCHIVE, unpack=True)


CIFAR10 = Dataset(
    "cifar10", _cifar10, shape=(3, 32, 32), classes=10, n_train=50_000, n_test=10_000,
    mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616), test_here=_test_here,
    fetch=_fetch_cifar10,
)  # fmt: skip
CIFAR100 = Dataset(
    "cifar100", _cifar100, shape=(3, 32, 32), classes=100, n_train=50_000, n_test=10_000,
    mean=(0.5071, 0.4865, 0.4409), std=(0.2673, 0.2564, 0.2762),
    fetch=_fetch_cifar100,
)  # fmt: skip
