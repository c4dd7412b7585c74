"""Training of cohorts: replicates in parallel on the cores of a CPU, or in step on one GPU."""

import os
import re
import signal
import sys
from collections.abc import Hashable, Iterator
from dataclasses import replace
from itertools import groupby
from pickle import PicklingError
from typing import Protocol

import torch
from joblib import Parallel, cpu_count, delayed
from joblib.externals.loky.process_executor import TerminatedWorkerError

from lthcore.data.datasets import Data
from lthcore.errors import LabError
from lthcore.models.build import build
from lthcore.plugins import extensions, register_received
from lthcore.recipe import Recipe
from lthcore.training.engines.chain import is_chain
from lthcore.training.loop import Trainer, train_in_step
from lthcore.training.orphans import SHARED_MEMORY, end_if_orphan, end_with, temporary_folder
from lthcore.training.state import TrainState

States = dict[Hashable, TrainState]  # of a cohort, by keys that the caller chooses, such as Replicate


class GoOn(Protocol):
    """Callback in the training process, called before a training run begins and whenever its trainer yields."""

    def __call__(self, key: Hashable, state: TrainState) -> bool:
        """Return whether to continue training. May save the state, which is up to date."""


def always(key: Hashable, state: TrainState) -> bool:
    """Always continue training."""
    return True


def train_cohort(
    settings: Recipe,
    data: Data,
    cohort: States,
    go_on: GoOn = always,
    workers: int | None = None,
    trainer: Trainer = train_in_step,
) -> Iterator[tuple[Hashable, TrainState]]:
    """Train the replicates of a cohort; yield (key, outcome) as each finishes.

    A replicate trained alone has the same outcome (up to rounding if it is trained in step here). A training run ends
    early if `go_on` returns False; replicates that train in step then end together. On a CPU the replicates are
    distributed over `workers` single-threaded processes (default: `LTH_WORKERS`, else one per core) that share the
    data. On a GPU, chains of dense layers train in step, as many at once as fit in its memory, and other networks one
    after another. The setting `engine: stack` trains chains in step on a CPU, too. `trainer` does the training:
    `train_in_step`, or a study's own function that acts at its pauses.
    """
    device = data.train.images.device
    chain = is_chain(build(settings, data.shape, data.classes))
    if chain and (settings.engine == "stack" or (settings.engine == "auto" and device.type == "cuda")):
        yield from _train_stacks(settings, data, cohort, go_on, trainer)
        return
    workers = min(len(cohort), workers or worker_count()) if device.type == "cpu" else 1
    if workers > 1:
        yield from _train_in_processes(settings, data, cohort, go_on, workers, trainer)
        return
    for key, state in cohort.items():
        _train(settings, data, {key: state}, go_on, trainer)
        yield key, state


def _train(settings: Recipe, data: Data, cohort: States, go_on: GoOn, trainer: Trainer) -> None:
    """Train replicates in step to the end, or until `go_on` returns False for one of them."""

    def all_go_on() -> bool:
        stopping = [not go_on(key, state) for key, state in cohort.items()]
        if any(stopping):  # between two answers the deadline may pass; asked again, all replicates are saved
            for key, state in cohort.items():
                go_on(key, state)
        return not any(stopping)

    if all_go_on():
        for _ in trainer(settings, data, list(cohort.values())):
            if not all_go_on():
                break


def _train_in_processes(
    settings: Recipe, data: Data, cohort: States, go_on: GoOn, workers: int, trainer: Trainer
) -> Iterator[tuple[Hashable, TrainState]]:
    arrays = data.to_arrays()  # joblib memory-maps large arrays into every worker instead of copying them
    pool = Parallel(
        workers, return_as="generator_unordered", batch_size=1, mmap_mode="r", max_nbytes="1M", backend="loky",
        initializer=_begin_worker, initargs=(os.getpid(),),
    )  # fmt: skip
    work, parent, carried = delayed(_train_mapped), os.getpid(), extensions()
    try:
        outcomes = pool(
            work(parent, carried, settings, arrays, key, state, go_on, trainer) for key, state in cohort.items()
        )
    except OSError as error:
        raise _no_room(error) from None
    try:
        yield from outcomes
    except TerminatedWorkerError:
        raise LabError("a worker process was killed (out of memory?); run the same command again to resume") from None
    except PicklingError as error:  # joblib raises this if it could not write a copy of the data
        reason = re.search(r"\[Errno.*", str(error.__cause__))
        if reason is None:
            raise
        raise _no_room(reason[0]) from None


def _no_room(reason: object) -> LabError:
    return LabError(
        f"worker processes cannot be given the data ({reason}); free some room in {SHARED_MEMORY} or "
        f"{temporary_folder()}, point JOBLIB_TEMP_FOLDER to a folder that has some, or set LTH_WORKERS=1"
    )


def _train_stacks(
    settings: Recipe, data: Data, cohort: States, go_on: GoOn, trainer: Trainer
) -> Iterator[tuple[Hashable, TrainState]]:
    """Train replicates at the same iteration in step, as many at once as fit in memory."""

    def position(key: Hashable) -> tuple[int, bool, float, bool]:
        """Return a sort key that is equal for replicates that can train in step.

        It consists of the iteration, whether there is no evaluation yet, the step count of the optimizer (-1 if it has
        no state), and whether the replicate is fine-tuned, which changes its learning rates.
        """
        state = cohort[key]
        clock = next((float(t) for slot, t in state.optimizer.items() if slot.endswith("/step")), 0.0)
        return state.iteration, not state.curve, clock if state.optimizer else -1.0, state.fine_tuned

    for _, group in groupby(sorted(cohort, key=position), key=position):
        waiting = list(group)
        size = stack_size(settings, data, cohort[waiting[0]])
        while waiting:
            part = waiting[:size]
            states = [replace(cohort[key], curve=list(cohort[key].curve)) for key in part]
            try:
                _train(settings, data, dict(zip(part, states, strict=True)), go_on, trainer)
            except torch.OutOfMemoryError:
                if len(part) == 1:
                    raise LabError("the GPU's memory does not hold one such network; lower batch_size") from None
                size = len(part) // 2
            else:
                del waiting[: len(part)]
                yield from zip(part, states, strict=True)
                continue
            # they start over, from copies of their states; the exception, which held the tensors, is gone by now
            print(f"note: {len(part)} networks do not fit the GPU's memory; {size} at a time now", file=sys.stderr)
            torch.cuda.empty_cache()


def stack_size(settings: Recipe, data: Data, state: TrainState) -> int:
    """Estimate how many replicates fit in half of the GPU's free memory (64 on other devices).

    The estimate includes weights, gradients, moments, snapshots and activations.
    """
    device = data.train.images.device
    if device.type != "cuda":
        return 64
    weights = sum(w.numel() for w in state.weights.values())
    units = sum(w.shape[0] for w in state.weights.values() if w.ndim == 2) + data.test.images[0].numel()
    each = 4 * (8 * weights + 4 * settings.batch_size * units + 15_000 * units)
    return max(1, int(torch.cuda.mem_get_info(device)[0] / 2 / each))


def worker_count() -> int:
    """Return how many processes train at once on a CPU: `LTH_WORKERS`, else one per core.

    Raises LabError if `LTH_WORKERS` is not a whole number from 1.
    """
    text = os.environ.get("LTH_WORKERS") or str(cpu_count())
    if not text.isdecimal() or int(text) == 0:
        raise LabError(f"LTH_WORKERS = {text!r}: must be a whole number from 1")
    return int(text)


def _begin_worker(parent: int) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a whole process group may get it: the parent stops workers
    end_with(parent)


def _train_mapped(
    parent: int,
    carried: bytes,
    settings: Recipe,
    arrays: dict,
    key: Hashable,
    state: TrainState,
    go_on: GoOn,
    trainer: Trainer,
) -> tuple[Hashable, TrainState]:
    register_received(carried)

    def go_on_here(key: Hashable, state: TrainState) -> bool:
        end_if_orphan(parent)  # before `go_on` saves: a restarted run may already have saved
        return go_on(key, state)

    _train(settings, Data.from_arrays(arrays), {key: state}, go_on_here, trainer)
    return key, state
