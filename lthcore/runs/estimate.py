"""Estimates of how long the remaining trainings of an experiment take on this machine."""

import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from lthcore.data.datasets import check_size, pick_device
from lthcore.lottery.dynamic import sparsities
from lthcore.recipe import Recipe
from lthcore.runs.experiments import Experiment
from lthcore.runs.status import status_of
from lthcore.runs.timing import depends_on_density, is_timed, timed
from lthcore.settings import DynamicSettings
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
    workers = 1 if pick_device(s.device).type == "cuda" else worker_count()
    seconds = 0.0
    for density, n in _rounds(s, replicates):
        step, image = timed(s, density)
        at_once = min(n, workers)
        one_after_another = math.ceil(n / at_once) * (SHARED if at_once > 1 else 1)
        seconds += one_after_another * (s.iterations * step + evaluated * image)
    return seconds


def needs_timing(s: Recipe, replicates: Iterable[Replicate]) -> bool:
    """Return whether `seconds_of` would have to time anything first, which takes seconds."""
    return not all(is_timed(s, density) for density, _ in _rounds(s, replicates))


def _rounds(s: Recipe, replicates: Iterable[Replicate]) -> list[tuple[float, int]]:
    """Return the share of remaining weights (rounded up to one of DENSITIES) and the number of trainings of each round.

    The trainings of a round run at the same time, as far as there are workers; rounds follow each other.
    """
    rounds = Counter(replicate._replace(arm="", trial=0, draw=0) for replicate in replicates)
    if not depends_on_density(s):
        return [(1.0, n) for n in rounds.values()]
    densities = {one: density_of(s, one) for one in rounds}
    return [(min(d for d in DENSITIES if d >= densities[one] * 0.999), n) for one, n in rounds.items()]


def density_of(s: Recipe, replicate: Replicate) -> float:
    """Return the approximate share of weights that training steps compute with, averaged over a training run."""
    if not s.masks_weights:  # pruned weights keep their values, and steps compute with all
        return 1.0
    if not isinstance(s, DynamicSettings):
        return (1 - s.prune_fc) ** replicate.round
    due = sparsities(s)
    steps = np.diff([*due, s.iterations])  # after each update
    return 1 - float(np.dot(steps, list(due.values()))) / s.iterations
