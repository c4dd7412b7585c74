"""Training loops, written as generators that pause after every evaluation.

Data are tensors on the device: there is no DataLoader, and the step loop never waits for the device. The order of the
images follows from one seed and the current iteration. Dropout and augmentation draw from a generator whose state is
saved in checkpoints. So a training run resumed from a checkpoint continues bit for bit.
"""

import math
import time
from collections.abc import Container, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor

from lthcore import masks
from lthcore.data.datasets import Data
from lthcore.models.build import build
from lthcore.models.prunable import kinds_of
from lthcore.models.weights import Weights
from lthcore.recipe import Recipe
from lthcore.seeds import seed_for
from lthcore.training.engines import conv, sparse
from lthcore.training.engines.chain import Chain, is_chain, is_plain_chain
from lthcore.training.engines.dense import Dense
from lthcore.training.engines.engine import Engine
from lthcore.training.engines.sparse import SparseChain
from lthcore.training.engines.stack import Stack
from lthcore.training.state import Evaluation, TrainState


class Trainer(Protocol):
    """Function that trains states at the same iteration together, up to `settings.iterations`."""

    def __call__(self, settings: Recipe, data: Data, states: list[TrainState]) -> Iterator[None]:
        """Train the states; yield after every evaluation, when the states are up to date."""


def engine_for(settings: Recipe, data: Data, states: list[TrainState]) -> Engine:
    """Return the engine that trains these states fastest here. All engines give the same numbers up to rounding.

    Raises LabError if a mask does not fit the network.
    """
    model, device = build(settings, data.shape, data.classes), data.train.images.device
    for state in states:
        masks.check(state.mask, state.weights, kinds_of(model))
    if is_chain(model) and (len(states) > 1 or settings.engine == "stack"):
        return Stack(settings, model, device, states)
    if sparse.applies(settings, model, device, states[0].mask):
        return SparseChain(settings, model, states)
    if settings.engine == "auto" and is_plain_chain(settings, model, device):
        return Chain(settings, model, device, states)
    kind = conv.ConvolutionalNetwork if conv.applies(settings, model, device) else Dense
    return kind(settings, model, device, states)


def train(settings: Recipe, data: Data, state: TrainState) -> Iterator[TrainState]:
    """Train from `state.iteration` to `settings.iterations`; yield the state after every evaluation.

    Every yield gives the same object, `state`, which is updated in place. After the last one it is the outcome.
    Raises AssertionError if `settings.masks_weights` and a pruned weight is not zero at the end.
    """
    for _ in train_in_step(settings, data, [state]):
        yield state


def train_in_step(
    settings: Recipe, data: Data, states: list[TrainState], pauses: Container[int] = ()
) -> Iterator[None]:
    """Train replicates at the same iteration together; yield after every evaluation, when the states are up to date.

    Also yields at the iterations in `pauses`. Between yields a caller may replace the masks of states, and their
    weights and optimizer tensors with them: training continues from the new values. New weights or optimizer tensors
    without a new mask are ignored.
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
                engine = engine if engine.sync_from(states) else engine_for(settings, data, states)
                known = [state.mask for state in states]
            evaluated = min(settings.iterations, (at // settings.eval_every + 1) * settings.eval_every)
            stop = next((i for i in range(at + 1, evaluated) if i in pauses), evaluated)
            at = _advance(settings, engine, data, states, at, stop)
            if at == evaluated:
                _record(settings, engine, data, states, at)
            else:
                _sync(engine, states, at)
            if at == settings.iterations:
                _finish(settings, engine, data, states)
        for state in states:
            state.seconds += (time.perf_counter() - started) / len(states)
        yield


def _advance(settings: Recipe, engine: Engine, data: Data, states: list[TrainState], at: int, stop: int) -> int:
    """Train from iteration `at` to `stop`, one epoch at a time, and return the iteration reached.

    Stores the weights that tickets rewind to in the states.
    """
    while at < stop:
        end = min(stop, settings.rewind_to) if at < settings.rewind_to else stop
        batches = torch.stack([epoch_batches(settings, data, state, at, end) for state in states])
        earliest = settings.iterations - 1 if states[0].fine_tuned else 0  # fine-tuning is at the final learning rate
        rates = [learning_rate(settings, max(earliest, at + i)) for i in range(batches.shape[1])]
        with seeded(seed_for(states[0].seed, "layers", at), batches.device):
            engine.steps(data, batches, rates)
        at += batches.shape[1]
        if at == settings.rewind_to:
            engine.sync_to(states)
            for state in states:
                state.rewind = _copy(state.weights)
    return at


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators, for layers that draw from them; restore their states afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.random.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def epoch_batches(settings: Recipe, data: Data, state: TrainState, start: int, stop: int) -> Tensor:
    """Return batches (steps, batch) of image indices from iteration `start` to `stop` or to the end of its epoch.

    Every epoch has its own permutation, which is derived from the seed of the training run and the epoch number.
    """
    n = len(data.train.labels)
    epoch, step = divmod(start, n // settings.batch_size)
    generator = torch.Generator().manual_seed(seed_for(state.seed, "order", epoch))
    order = torch.randperm(n, generator=generator)[: n - n % settings.batch_size]
    return order.view(-1, settings.batch_size)[step : step + stop - start].to(data.train.labels.device)


def learning_rate(settings: Recipe, iteration: int) -> float:
    """Return the learning rate of the step after `iteration` steps: warm-up factor times schedule."""
    rate = settings.learning_rate
    if settings.schedule == "step":
        rate *= settings.gamma ** sum(iteration >= milestone for milestone in settings.milestones)
    elif settings.schedule == "cosine":
        rate *= (1 + math.cos(math.pi * iteration / settings.iterations)) / 2
    return rate * min(1.0, (iteration + 1) / settings.warmup) if settings.warmup else rate


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch with one thread, and restore the number of threads afterwards.

    The number of threads changes rounding. With one thread, results do not depend on the number of cores.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def left_in(settings: Recipe, state: TrainState) -> int:
    """Return the number of weights left: those kept by the mask, or all nonzero ones under `masking: gradients`.

    There the mask applies to gradients only, so the weights that it prunes need not be zero.
    """
    return masks.nonzero(state.weights, state.mask) if settings.counts_nonzero else masks.weights_left(state.mask)


def percent_left_in(settings: Recipe, state: TrainState) -> float:
    """Return the percentage of prunable weights that a training run has left."""
    return 100 * left_in(settings, state) / sum(m.numel() for m in state.mask.values())


def _record(settings: Recipe, engine: Engine, data: Data, states: list[TrainState], iteration: int) -> None:
    """Add an evaluation to each replicate's curve, and copy its weights if its validation loss is the lowest so far."""
    _sync(engine, states, iteration)
    held = [] if data.validation is None else [data.validation]
    for state, results in zip(states, engine.evaluate(*held, data.test), strict=True):
        validation = results[0] if held else (float("nan"), float("nan"))
        test, percent = results[-1], percent_left_in(settings, state)
        state.curve.append(Evaluation(iteration, *validation, *test, percent_left=percent))
        if state.early_stop_point is state.curve[-1]:
            state.early_stop = _copy(state.weights)


def _sync(engine: Engine, states: list[TrainState], iteration: int) -> None:
    engine.sync_to(states)
    for state in states:
        state.iteration = iteration


def _finish(settings: Recipe, engine: Engine, data: Data, states: list[TrainState]) -> None:
    """Record the training accuracy at the end and at the early-stop point, and move the states to the CPU.

    Raises AssertionError if `settings.masks_weights` and a pruned weight is not zero, unless training diverged.
    """
    for state, results in zip(states, engine.evaluate(data.train), strict=True):
        state.weights = _copy(state.weights, "cpu")  # a copy, because the engine's weights change below
        state.mask, state.optimizer = ({k: t.cpu() for k, t in old.items()} for old in (state.mask, state.optimizer))
        state.rewind = state.rewind and _copy(state.rewind, "cpu")
        if not state.diverged and settings.masks_weights and not masks.is_masked(state.weights, state.mask):
            raise AssertionError("a pruned weight is not zero at the end of training")
        state.final_train_accuracy = results[0][1]
    stopped = [state.early_stop for state in states if state.early_stop]
    if (
        stopped
    ):  # a replicate whose validation loss was never finite has no early stop: another's weights fill its place
        engine.set_weights([state.early_stop or stopped[0] for state in states])
        for state, results in zip(states, engine.evaluate(data.train), strict=True):
            if state.early_stop:
                state.early_stop = _copy(state.early_stop, "cpu")
                state.early_stop_train_accuracy = results[0][1]


def _copy(weights: Weights, device: str | None = None) -> Weights:
    return {name: tensor.detach().to(device or tensor.device, copy=True) for name, tensor in weights.items()}
