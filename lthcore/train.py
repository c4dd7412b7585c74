"""Training: replicates in step, as generators of their own states, and cohorts of them on all cores or one GPU.

Data are tensors on the device; there is no DataLoader, and the step loop never waits for the device. Everything
random follows from one seed and the position reached, so a training resumed from a checkpoint goes on bit for bit.
"""

import math
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Container, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby
from pickle import PicklingError

import torch
from joblib import Parallel, cpu_count, delayed
from joblib.externals.loky.process_executor import TerminatedWorkerError
from torch import Tensor

from lthcore import conv, masks, sparse
from lthcore.data.datasets import Data
from lthcore.engines import Chain, Dense, Stack, is_chain, is_plain_chain
from lthcore.errors import LabError
from lthcore.models import Weights, build
from lthcore.orphans import SHARED_MEMORY, end_if_orphan, end_with, temporary_folder
from lthcore.seeds import seed_for
from lthcore.settings import Recipe
from lthcore.sparse import SparseChain
from lthcore.state import Point, Training

Cohort = dict[Hashable, Training]
GoOn = Callable[[Hashable, Training], bool]
Trainer = Callable[[Recipe, Data, list[Training]], Iterator[None]]


def engine_for(settings: Recipe, data: Data, states: list[Training]) -> Dense | SparseChain:
    """What trains these states fastest here; all engines give the same numbers to rounding."""
    model, device = build(settings, data.shape, 10), data.train.images.device
    if is_chain(model) and (len(states) > 1 or settings.engine == "stack"):
        return Stack(settings, model, device, states)
    if sparse.applies(settings, model, device, states[0].mask):
        return SparseChain(settings, model, states)
    if is_plain_chain(settings, model, device):
        return Chain(settings, model, device, states)
    kind = conv.ConvolutionalNetwork if conv.applies(settings, model, device) else Dense
    return kind(settings, model, device, states)


def train(settings: Recipe, data: Data, state: Training) -> Iterator[Training]:
    """Train from `state.iteration` to `settings.iterations`; yield the same state after every evaluation.

    The last state yielded is the outcome. Raises AssertionError should a pruned weight not be zero then.
    """
    for _ in train_in_step(settings, data, [state]):
        yield state


def train_in_step(settings: Recipe, data: Data, states: list[Training], pauses: Container[int] = ()) -> Iterator[None]:
    """Train replicates that stand at one iteration together; yield after every evaluation, the states up to date.

    It yields at the iterations `pauses` too. Between yields a caller may replace masks, weights and optimizer
    tensors of the states (all of them at once): training goes on from what it finds.
    """
    with one_thread():
        engine = engine_for(settings, data, states)
        at, new = states[0].iteration, not states[0].curve
        if new:
            _record(settings, engine, data, states, at)
    known = [state.mask for state in states]
    if new:
        yield
    while at < settings.iterations:
        started = time.perf_counter()
        with one_thread():
            if any(state.mask is not mask for state, mask in zip(states, known, strict=True)):
                engine = engine if engine.take(states) else engine_for(settings, data, states)
                known = [state.mask for state in states]
            evaluated = min(settings.iterations, (at // settings.eval_every + 1) * settings.eval_every)
            stop = next((i for i in range(at + 1, evaluated) if i in pauses), evaluated)
            while at < stop:
                end = min(stop, settings.rewind_to) if at < settings.rewind_to else stop
                batches = torch.stack([epoch_batches(settings, data, state, at, end) for state in states])
                last = settings.iterations - 1 if states[0].fine_tuned else 0
                engine.steps(
                    data, batches, [learning_rate(settings, max(last, at + i)) for i in range(batches.shape[1])]
                )
                at += batches.shape[1]
                if at == settings.rewind_to:
                    engine.export(states)
                    for state in states:
                        state.rewind = _copy(state.weights)
            if at == evaluated:
                _record(settings, engine, data, states, at)
            else:
                _export(engine, states, at)
            if at == settings.iterations:
                _finish(settings, engine, data, states)
        for state in states:
            state.seconds += (time.perf_counter() - started) / len(states)
        yield


def epoch_batches(settings: Recipe, data: Data, state: Training, start: int, stop: int) -> Tensor:
    """The batches (steps, batch) of image indices from iteration `start` to `stop` or the end of its epoch.

    Every epoch is a permutation of its own, which follows from the training's seed and the epoch's number.
    """
    n = len(data.train.labels)
    epoch, step = divmod(start, n // settings.batch_size)
    generator = torch.Generator().manual_seed(seed_for(state.seed, "order", epoch))
    order = torch.randperm(n, generator=generator)[: n - n % settings.batch_size]
    return order.view(-1, settings.batch_size)[step : step + stop - start].to(data.train.labels.device)


def learning_rate(settings: Recipe, iteration: int) -> float:
    """The learning rate of the step after `iteration` steps: warm-up x schedule."""
    rate = settings.learning_rate
    if settings.schedule == "step":
        rate *= settings.gamma ** sum(iteration >= milestone for milestone in settings.milestones)
    elif settings.schedule == "cosine":
        rate *= (1 + math.cos(math.pi * iteration / settings.iterations)) / 2
    return rate * min(1.0, (iteration + 1) / settings.warmup) if settings.warmup else rate


def train_cohort(
    settings: Recipe,
    data: Data,
    cohort: Cohort,
    go_on: GoOn = lambda key, state: True,
    workers: int | None = None,
    trainer: Trainer = train_in_step,
) -> Iterator[tuple[Hashable, Training]]:
    """Train the replicates of a cohort; yield (key, outcome) as each ends. Each equals the same replicate alone.

    `go_on(key, state)` is called before a training and after each of its evaluations, in the process that trains: it
    may save the state, and ends the training early by returning False. On a CPU the replicates are spread over
    `workers` processes of one thread (default: `LTH_WORKERS`, else every core) that share the data. On a GPU chains
    of dense layers train in step, as many as its memory holds, and other networks in turn. `trainer` is what trains:
    `train_in_step`, or a study's own that does something at its pauses.
    """
    device = data.train.images.device
    chain = is_chain(build(settings, data.shape, 10))
    if chain and (settings.engine == "stack" or device.type == "cuda"):
        yield from _train_stacks(settings, data, cohort, go_on, trainer)
        return
    workers = min(len(cohort), workers or worker_count()) if device.type == "cpu" else 1
    if workers <= 1:
        for key, state in cohort.items():
            yield _train_one(settings, data, key, state, go_on, trainer)
        return
    arrays = data.to_arrays()  # joblib maps arrays of this size into every worker instead of copying them
    pool = Parallel(
        workers, return_as="generator_unordered", batch_size=1, mmap_mode="r", max_nbytes="1M", backend="loky",
        initializer=_begin_worker, initargs=(os.getpid(),),
    )  # fmt: skip
    work, parent = delayed(_train_mapped), os.getpid()
    try:
        outcomes = pool(work(parent, settings, arrays, key, state, go_on, trainer) for key, state in cohort.items())
    except OSError as error:
        raise _no_room(error) from None
    try:
        yield from outcomes
    except TerminatedWorkerError:
        raise LabError("a worker process was killed (out of memory?); the same command goes on where it was") from None
    except PicklingError as error:  # what joblib makes of a copy of the data that could not be written
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
    settings: Recipe, data: Data, cohort: Cohort, go_on: GoOn, trainer: Trainer
) -> Iterator[tuple[Hashable, Training]]:
    """Train in step those that stand at the same iteration, as many at once as fit."""

    def position(key: Hashable) -> tuple[int, bool, float, bool]:
        """What replicates must share: iteration, whether it is evaluated, clock of the optimizer, learning rates."""
        state = cohort[key]
        clock = next((float(t) for slot, t in state.optimizer.items() if slot.endswith("/step")), 0.0)
        return state.iteration, not state.curve, clock if state.optimizer else -1.0, state.fine_tuned

    for _, group in groupby(sorted(cohort, key=position), key=position):
        keys = list(group)
        size = stack_size(settings, data, cohort[keys[0]])
        parts = [keys[i : i + size] for i in range(0, len(keys), size)]
        while parts:
            part = parts.pop(0)
            states = [replace(cohort[key], curve=list(cohort[key].curve)) for key in part]
            try:
                _train_stack(settings, data, dict(zip(part, states, strict=True)), go_on, trainer)
            except torch.OutOfMemoryError:
                if len(part) == 1:
                    raise LabError("the GPU's memory does not hold one such network; lower batch_size") from None
                half = len(part) // 2
                parts[:0] = [part[:half], part[half:]]  # from where they began: what ran out of memory is thrown away
                print(f"note: {len(part)} networks do not fit the GPU's memory; {half} at a time now", file=sys.stderr)
                torch.cuda.empty_cache()
                continue
            yield from zip(part, states, strict=True)


def _train_stack(settings: Recipe, data: Data, cohort: Cohort, go_on: GoOn, trainer: Trainer) -> None:
    """Train in step until one of them is told to stop, or to the end."""
    answers = [go_on(key, state) for key, state in cohort.items()]
    steps = trainer(settings, data, list(cohort.values()))
    while all(answers) and next(steps, "done") != "done":
        answers = [go_on(key, state) for key, state in cohort.items()]


def stack_size(settings: Recipe, data: Data, state: Training) -> int:
    """How many replicates fit in half of the GPU's free memory: weights, gradients, moments, snapshots, activations."""
    device = data.train.images.device
    if device.type != "cuda":
        return 64
    weights = sum(w.numel() for w in state.weights.values())
    units = sum(w.shape[0] for w in state.weights.values() if w.ndim == 2) + data.test.images[0].numel()
    each = 4 * (8 * weights + 4 * settings.batch_size * units + 15_000 * units)
    return max(1, int(torch.cuda.mem_get_info(device)[0] / 2 / each))


def worker_count() -> int:
    """How many processes train at once on a CPU: `LTH_WORKERS`, else one for each core."""
    text = os.environ.get("LTH_WORKERS") or str(cpu_count())
    if not text.isdecimal() or int(text) == 0:
        raise LabError(f"LTH_WORKERS = {text!r}: must be a whole number from 1")
    return int(text)


def _begin_worker(parent: int) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # sent to a whole group, it is the parent that stops the workers
    end_with(parent)


def _train_mapped(
    parent: int, settings: Recipe, arrays: dict, key: Hashable, state: Training, go_on: GoOn, trainer: Trainer
) -> tuple[Hashable, Training]:
    def go_on_here(key: Hashable, state: Training) -> bool:
        end_if_orphan(parent)  # before anything is saved, where a run begun anew may have saved already
        return go_on(key, state)

    return _train_one(settings, Data.from_arrays(arrays), key, state, go_on_here, trainer)


def _train_one(
    settings: Recipe, data: Data, key: Hashable, state: Training, go_on: GoOn, trainer: Trainer
) -> tuple[Hashable, Training]:
    if go_on(key, state):
        all(go_on(key, state) for _ in trainer(settings, data, [state]))  # until it says no
    return key, state


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread: their number changes rounding, so that with one a training is the same anywhere."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def weights_left(settings: Recipe, state: Training) -> int:
    """How many weights are left: those of the mask, and where it does not hold (`masking: gradients`) all but zeros."""
    return masks.nonzero(state.weights, state.mask) if settings.counts_zeros else masks.weights_left(state.mask)


def _record(settings: Recipe, engine: Dense | SparseChain, data: Data, states: list[Training], iteration: int) -> None:
    """Evaluate, and note in each state where it stands and whether it is the best so far."""
    _export(engine, states, iteration)
    held = [] if data.validation is None else [data.validation]
    for state, results in zip(states, engine.evaluate(*held, data.test), strict=True):
        *validation, test = results
        percent = 100 * weights_left(settings, state) / sum(m.numel() for m in state.mask.values())
        validation = validation[0] if held else (float("nan"),) * 2
        state.curve.append(Point(iteration, *validation, *test, percent_left=percent))
        if state.early_stop_point is state.curve[-1]:
            state.early_stop = _copy(state.weights)


def _export(engine: Dense | SparseChain, states: list[Training], iteration: int) -> None:
    engine.export(states)
    for state in states:
        state.iteration = iteration


def _finish(settings: Recipe, engine: Dense | SparseChain, data: Data, states: list[Training]) -> None:
    """Read the training accuracy at the end and at the early stop, and check that what is pruned is zero."""
    for state, results in zip(states, engine.evaluate(data.train), strict=True):
        state.weights = _copy(state.weights, "cpu")  # no longer the engine's own
        state.mask, state.optimizer = ({k: t.cpu() for k, t in old.items()} for old in (state.mask, state.optimizer))
        state.rewind = state.rewind and _copy(state.rewind, "cpu")
        if not state.diverged and settings.masks_weights and not masks.is_masked(state.weights, state.mask):
            raise AssertionError("a pruned weight is not zero at the end of training")
        state.final_train_accuracy = results[0][1]
    if all(state.early_stop is not None for state in states):
        engine.load([state.early_stop for state in states])
        for state, results in zip(states, engine.evaluate(data.train), strict=True):
            state.early_stop = _copy(state.early_stop, "cpu")
            state.early_stop_train_accuracy = results[0][1]


def _copy(weights: Weights, device: str | None = None) -> Weights:
    return {name: tensor.detach().to(device or tensor.device, copy=True) for name, tensor in weights.items()}
