"""Fixtures shared by all tests. No test needs the network; tests of real data are skipped if its files are missing."""

import itertools
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import hypothesis
import pandas as pd
import pytest
import torch

from lthcore import paths
from lthcore.errors import TimeLimit
from lthcore.recipe import Recipe
from lthcore.runs import executor, runner
from lthcore.runs.runner import run
from lthcore.sources import mnist

hypothesis.settings.register_profile("lab", deadline=None, derandomize=True, database=None, max_examples=50)
hypothesis.settings.load_profile("lab")

# The suite trains on the CPU, so that its outcome does not depend on the machine; CUDA_VISIBLE_DEVICES=0 shows a GPU.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

CIFAR10_PARTS = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
FILES = {
    "digits": [],  # part of scikit-learn
    "mnist": [f"MNIST/raw/{file}" for file in mnist.MNIST_FILES],
    "cifar10": [f"cifar-10-batches-bin/{part}.bin" for part in CIFAR10_PARTS],
}


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def same_draws() -> None:
    """Seed torch's generator for every test, so that what a test draws does not depend on the tests before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def own_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Use an empty cache folder, and of the shell's variables for `lth` only LTH_DATA, which says where images are.

    Otherwise tests would read what was timed on this machine before, and fail with LTH_DEBUG or LTH_PLUGINS set.
    """
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("LTH_") and name != "LTH_DATA"]:
            patch.delenv(name)
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of the real data files, which may be missing: LTH_DATA if set, else data/ of the project."""
    return paths.data_root()


@pytest.fixture(scope="session")
def committed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder like results/ with links to the committed files alone: experiments of one's own do not change the tests.

    Without git, as in an unpacked archive, it is results/ itself.
    """
    root = paths.project_root()
    try:
        names = subprocess.run(
            ["git", "ls-files", "-z", "results"], cwd=root, capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        names = ""
    if not names:
        return root / "results"
    place = tmp_path_factory.mktemp("committed")
    for name in names.rstrip("\0").split("\0"):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).symlink_to(root / name)
    return place / "results"


@pytest.fixture(scope="session")
def root_with(data_root: Path) -> Callable[[str], Path]:
    """Function that returns the data root if it has the real files of a named data set, and else skips the test."""

    def root(name: str) -> Path:
        for file in FILES[name]:
            path = data_root / file
            if not (path.exists() or path.with_name(f"{path.name}.gz").exists()):
                pytest.skip(f"real {name} is not here ({path} is missing): run `lth data fetch {name}` or set LTH_DATA")
        return data_root

    return root


@pytest.fixture
def in_parts(monkeypatch: pytest.MonkeyPatch) -> Callable[[Recipe, Path], pd.DataFrame]:
    """Function that runs settings in a folder, stopped several times by the time limit, and returns rounds.csv."""

    def stopped_again_and_again(settings: Recipe, folder: Path) -> pd.DataFrame:
        for stops in itertools.count():
            try:
                rounds, _ = run(settings, folder, time_limit=5, quiet=True)
            except TimeLimit:
                continue
            assert stops > 1
            return rounds

    monkeypatch.setenv("LTH_WORKERS", "1")
    clock = SimpleNamespace(monotonic=itertools.count().__next__, perf_counter=time.perf_counter)
    for room in (executor, runner):  # the clock advances a second per reading, so the stops do not depend on speed
        monkeypatch.setattr(room, "time", clock)
    return stopped_again_and_again
