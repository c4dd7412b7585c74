"""User-defined data sets: an `.npz` file of images and labels, which an experiment names as its data set.

The file has the arrays `images` (uint8; N x H x W, N x C x H x W, or N x H x W x C) and `labels` (N, whole numbers
from 0), and optionally `test_images` and `test_labels`. Without these, a random sixth of the images is the test set,
the same on every read. `layout`, "NCHW" or "NHWC", says where the channels are if the shape does not.
"""

import hashlib
import zipfile
import zlib
from pathlib import Path

import numpy as np

from lthcore.errors import LabError, choose, one_line
from lthcore.paths import data_root, project_root
from lthcore.sources.dataset import Dataset, Raw

TEST_SHARE = 6  # one image in six is for testing
MOST_CHANNELS = 4  # that are recognised as channels by their number


def find_npz(name: str) -> Path:
    """Find an .npz file as named, or below the project or the data root. Raises LabError if there is none."""
    places = [Path(name), project_root() / name, data_root() / name]
    for path in places:
        if path.is_file():
            return path.resolve()
    raise LabError(f"dataset = {name!r}: there is no such file here, in {project_root()}, or in {data_root()}")


def npz_dataset(name: str, path: Path) -> Dataset:
    """Return the data set in an .npz file, under the given name. Raises LabError for an invalid file."""
    raw = read_npz(path)
    with np.load(path) as file:
        whole = "test_images" not in file.files
    n, n_test = len(raw.train_labels) + len(raw.test_labels), len(raw.test_labels)
    values = raw.train_images.reshape(*raw.train_images.shape[:2], -1) / 255
    std = values.std((0, 2))
    return Dataset(
        name, lambda root: read_npz(path), shape=raw.train_images.shape[1:],
        classes=int(max(raw.train_labels.max(), raw.test_labels.max())) + 1, n_train=len(raw.train_labels),
        n_test=len(raw.test_labels), mean=tuple(map(float, values.mean((0, 2)))),
        std=tuple(float(s) if s > 0 else 1.0 for s in std), split=_split(n, n_test) if whole else "",
    )  # fmt: skip


def read_npz(path: Path) -> Raw:
    """Read the images and labels of an .npz file. Raises LabError if the file or its arrays are invalid."""
    if not zipfile.is_zipfile(path):  # np.load would take it for a file of pickled objects
        raise LabError(f"data: {path} is not an .npz file as numpy.savez writes it")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, RuntimeError, MemoryError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise LabError(f"data: {path} is not a readable .npz file ({one_line(error)})") from None
    images, labels = _checked(path, arrays, "images", "labels")
    if "test_images" in arrays:
        train, test = (images, labels), _checked(path, arrays, "test_images", "test_labels")
    else:
        order = np.random.RandomState(0).permutation(len(labels))
        held, kept = order[: len(order) // TEST_SHARE], order[len(order) // TEST_SHARE :]
        train, test = (images[kept], labels[kept]), (images[held], labels[held])
    if not len(train[1]) or not len(test[1]) or train[0].shape[1:] != test[0].shape[1:]:
        raise LabError(f"data: {path} needs training and test images, all of one shape")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    variant = f"{path.name}: {len(train[1]):,} train, {len(test[1]):,} test, sha256 {digest}"
    return Raw(*train, *test, variant)


def _split(n: int, n_test: int) -> str:
    """Describe how the images of a file without test images are divided."""
    order = f"with order = numpy.random.RandomState(0).permutation({n})"
    return f"{order}, test images are order[:{n_test}] and training images order[{n_test}:]"


def _checked(path: Path, arrays: dict[str, np.ndarray], *names: str) -> tuple[np.ndarray, np.ndarray]:
    if missing := [name for name in names if name not in arrays]:
        raise LabError(f"data: {path} has no array {missing[0]!r} (it has {', '.join(arrays) or 'none'})")
    images, labels = (arrays[name] for name in names)
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise LabError(f"data: {names[0]} of {path} are {images.dtype} of shape {images.shape}, not bytes (N, H, W)")
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu" or (len(labels) and labels.min() < 0):
        raise LabError(f"data: {names[1]} of {path} must be {len(images):,} whole numbers from 0")
    if images.ndim == 3:
        images = images[:, None]
    elif _layout(path, arrays, images.shape) == "NHWC":
        images = images.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(images), labels.astype(np.int64)


def _layout(path: Path, arrays: dict[str, np.ndarray], shape: tuple[int, ...]) -> str:
    """Return where the channels of images are: as the file says, else in the axis that is short enough for them.

    One channel is recognised beside a short axis of pixels. Where neither axis is short, channels are first. Raises
    LabError if both axes have two to MOST_CHANNELS entries.
    """
    if "layout" in arrays:
        return choose(f"data: layout in {path}", str(arrays["layout"]), ("NCHW", "NHWC"))
    first, last = shape[1], shape[3]
    if min(first, last) >= 2 and max(first, last) <= MOST_CHANNELS:
        raise LabError(
            f"data: images of shape {shape} in {path} may have {first} channels first or {last} channels last; store "
            'layout="NCHW" or layout="NHWC" in the file too'
        )
    return "NHWC" if last < first and last <= MOST_CHANNELS else "NCHW"
