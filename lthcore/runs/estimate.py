"""Estimates of how long the remaining trainings of an experiment take on this machine."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from lthcore.data.datasets import check_size, pick_device
from lthcore.lottery.dynamic import sparsities
from lthcore.runs.experiments import Experiment
from lthcore.runs.status import status_of
from lthcore.runs.timing import depends_on_density, is_timed, timed
from lthcore.settings import DynamicSettings, Recipe
from lthcore.sources.catalogue import dataset_of, test_images
from lthcore.training.parallel import worker_count
from lthcore.training.state import Replicate

SHARED = 1.1  # slowdown when several workers run at once (benchmarks/scaling.py: two do 1.83 times the work of one)
DENSITIES = (1.0, 0.5, 0.25, 0.12, 0.03)  # shares of remaining weights at which training steps are timed


def seconds_left(experiment: Experiment, root: Path | None = None, force: bool = False) -> float:
    """Return the estimated seconds to finish an experiment on this machine, or to do it all again with `force`.

    A search for masks to transfer counts. What `lth run` would refuse does not.
    """
    status = status_of(experiment, root, force)
    if status.other or not status.missing:
        return 0.0
    before = seconds_left(experiment.search, root, force) if experiment.search else 0.0
    return before + seconds_of(experiment.settings, status.missing)


def seconds_of(s: Recipe, replicates: Iterable[Replicate]) -> float:
    """Return the estimated seconds of these trainings here, from steps and evaluations timed on random images."""
    check_size(s)
    kept = s.train_examples or dataset_of(s.dataset).n_train - s.validation
    evaluated = (s.iterations / s.eval_every + 1) * (s.validation + test_images(s.dataset))
    evaluated += (2 if s.validation else 1) * kept  # training accuracies, at the end and at early stopping
    seconds = 0.0
    for density, n in _densities(s, replicates).items():
        step, image = timed(s, density)
        seconds += n * (s.iterations * step + evaluated * image)
    return seconds if pick_device(s.device).type == "cuda" else seconds / worker_count() * SHARED


def needs_timing(s: Recipe, replicates: Iterable[Replicate]) -> bool:
    """Return whether `seconds_of` would have to time anything first, which takes seconds."""
    return not all(is_timed(s, density) for density in _densities(s, replicates))


def _densities(s: Recipe, replicates: Iterable[Replicate]) -> Counter[float]:
    """Count the trainings by share of remaining weights, rounded up to the shares in DENSITIES."""
    if not (replicates := list(replicates)):
        return Counter()
    if not depends_on_density(s):
        return Counter({1.0: len(replicates)})
    counted: Counter[float] = Counter()
    for density, n in Counter(density_of(s, replicate) for replicate in replicates).items():
        counted[min(d for d in DENSITIES if d >= density * 0.999)] += n
    return counted


def density_of(s: Recipe, replicate: Replicate) -> float:
    """Return the approximate share of weights that training steps compute with, averaged over a training run."""
    if not s.masks_weights:  # pruned weights keep their values, and steps compute with all
        return 1.0
    if not isinstance(s, DynamicSettings):
        return (1 - s.prune_fc) ** replicate.round
    due = sparsities(s)
    steps = np.diff([*due, s.iterations])  # after each update
    return 1 - float(np.dot(steps, list(due.values()))) / s.iterations
