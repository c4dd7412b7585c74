"""Fixtures of all tests. None needs the network; those that need real data say so and are skipped where it is not."""

import itertools
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
from lthcore.runs import executor, runner
from lthcore.runs.runner import run
from lthcore.settings import Recipe
from lthcore.sources import mnist

hypothesis.settings.register_profile("lab", deadline=None, derandomize=True, database=None, max_examples=50)
hypothesis.settings.load_profile("lab")

CIFAR10_PARTS = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
FILES = {
    "digits": [],  # which come with scikit-learn
    "mnist": [f"MNIST/raw/{file}" for file in mnist.MNIST_FILES],
    "cifar10": [f"cifar-10-batches-bin/{part}.bin" for part in CIFAR10_PARTS],
}


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test knows what another, or the user, has timed on this machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Where real data is, if anywhere: LTH_DATA, else ./data."""
    return paths.data_root()


@pytest.fixture(scope="session")
def root_with(data_root: Path) -> Callable[[str], Path]:
    """A function of a data set's name: the data root, if the real files are there; else the test is skipped."""

    def root(name: str) -> Path:
        for file in FILES[name]:
            path = data_root / file
            if not (path.exists() or path.with_name(f"{path.name}.gz").exists()):
                pytest.skip(f"real {name} is not here ({path} is missing): run `lth data fetch {name}` or set LTH_DATA")
        return data_root

    return root


@pytest.fixture
def in_parts(monkeypatch: pytest.MonkeyPatch) -> Callable[[Recipe, Path], pd.DataFrame]:
    """A function that runs settings in a folder, stopped again and again by its time limit, and returns rounds.csv."""

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
    for room in (executor, runner):  # a second later each time it is read: stops are no chance
        monkeypatch.setattr(room, "time", clock)
    return stopped_again_and_again
