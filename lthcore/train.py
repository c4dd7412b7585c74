"""Training: one masked training as a generator of its own states, and cohorts of them on all cores.

Data are tensors on the device; there is no DataLoader, and the step loop never waits for the device. Everything
random follows from one seed and the position reached, so a training resumed from a checkpoint goes on bit for bit.
"""

import math
import os
import time
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field

import torch
from joblib import Parallel, cpu_count, delayed
from torch import Tensor, nn
from torch.nn import functional as F

from lthcore import masks, sparse
from lthcore.data import Data, Split, augment
from lthcore.masks import Mask
from lthcore.models import Dropout, Weights, build
from lthcore.settings import Settings, seed_for
from lthcore.sparse import SparseChain

EVALUATION_BATCH = 2500  # large enough for full speed on one core, small enough for its cache


@dataclass(frozen=True)
class Point:
    """One evaluation of a training. Losses in nats, accuracies in [0, 1]; validation is nan where there is none."""

    iteration: int
    val_loss: float
    val_accuracy: float
    test_loss: float
    test_accuracy: float


@dataclass
class Training:
    """The state of a training: enough to go on from, bit for bit, and in the end its outcome.

    `start` keeps the weights it began with, `early_stop` those at the least validation loss so far (the first of
    equals), `rewind` those at iteration `settings.rewind_to` where training passed it. Without a validation set
    there is no early stop: choosing by test is not honest.
    """

    iteration: int
    weights: Weights
    mask: Mask
    seed: int
    start: Weights = field(default_factory=dict)
    optimizer: dict[str, Tensor] = field(default_factory=dict)
    noise: Tensor | None = None
    early_stop: Weights | None = None
    rewind: Weights | None = None
    curve: list[Point] = field(default_factory=list)
    seconds: float = 0.0
    early_stop_train_accuracy: float = float("nan")
    final_train_accuracy: float = float("nan")

    @property
    def early_stop_point(self) -> Point | None:
        """The evaluation with the least validation loss, the first of equals; None without a validation set."""
        return min((p for p in self.curve if p.val_loss == p.val_loss), key=lambda p: p.val_loss, default=None)


class Dense:
    """A network under a mask with its optimizer, as dense tensors on any device."""

    def __init__(self, settings: Settings, model: nn.Module, data: Data, state: Training) -> None:
        """Take `model`, and the weights, mask and optimizer state of a training."""
        device = data.train.images.device
        self.settings, self.model = settings, model.to(device)
        self.model.load_state_dict(masks.apply(state.mask, state.weights))
        self.parameters = dict(self.model.named_parameters())
        self.kept = [
            (self.parameters[name], m.to(device, torch.float32)) for name, m in state.mask.items() if not m.all()
        ]
        self.optimizer = _optimizer(settings, self.parameters, state.optimizer)
        self.noise = torch.Generator(device).manual_seed(seed_for(state.seed, "noise"))
        if state.noise is not None:
            self.noise.set_state(state.noise.cpu())
        for module in self.model.modules():
            if isinstance(module, Dropout):
                module.generator = self.noise

    def steps(self, data: Data, batches: Tensor, rates: list[float]) -> None:
        """Train on batches (steps, batch) of image indices at these learning rates.

        Pruned weights are zero after every step: gradients are masked before the optimizer and weights after it, so
        that neither momentum nor weight decay can move them, and their optimizer state stays zero too.
        """
        s, (images, labels) = self.settings, data.train
        autocast = torch.autocast(images.device.type, torch.bfloat16, enabled=s.precision == "bfloat16")
        for batch, rate in zip(batches, rates, strict=True):
            x, y = images[batch], labels[batch]
            if s.augment:
                x = augment(x, self.noise)
            with autocast:
                loss = F.cross_entropy(self.model(x), y, label_smoothing=s.label_smoothing)
            self.optimizer.zero_grad()
            loss.backward()
            for weight, mask in self.kept:
                weight.grad.mul_(mask)
            if s.clip_norm:
                nn.utils.clip_grad_norm_(self.parameters.values(), s.clip_norm)
            self.optimizer.param_groups[0]["lr"] = rate
            self.optimizer.step()
            with torch.no_grad():
                for weight, mask in self.kept:
                    weight.mul_(mask)

    def evaluate(self, *splits: Split) -> list[tuple[float, float]]:
        """Mean cross-entropy (nats) and accuracy on each split, waiting for the device once."""
        return evaluate(self.model, *splits)

    def load(self, weights: Weights) -> None:
        """Put other weights into the network, to evaluate them."""
        self.model.load_state_dict(weights)

    def export(self) -> tuple[Weights, dict[str, Tensor], Tensor]:
        """Weights, optimizer tensors and generator state, by name: views of what training goes on to change."""
        weights = {name: tensor.detach() for name, tensor in self.model.state_dict().items()}
        return weights, _optimizer_tensors(self.optimizer, self.parameters), self.noise.get_state()


def engine_for(settings: Settings, data: Data, state: Training) -> Dense | SparseChain:
    """What trains this state fastest here; both give the same numbers to rounding."""
    model = build(settings, data.shape, 10)
    if sparse.applies(settings, model, data, state.mask):
        return SparseChain(settings, model, state.weights, state.mask, state.optimizer)
    return Dense(settings, model, data, state)


def train(settings: Settings, data: Data, state: Training) -> Iterator[Training]:
    """Train from `state.iteration` to `settings.iterations`; yield the same state after every evaluation.

    The last state yielded is the outcome. Raises AssertionError should a pruned weight not be zero then.
    """
    engine = engine_for(settings, data, state)
    started, before = time.perf_counter(), state.seconds
    if not state.curve:
        _record(engine, data, state)
        yield state
    while state.iteration < settings.iterations:
        stop = min(settings.iterations, (state.iteration // settings.eval_every + 1) * settings.eval_every)
        while state.iteration < stop:
            batches = epoch_batches(settings, data, state, stop)
            if state.iteration < settings.rewind_to:
                batches = batches[: settings.rewind_to - state.iteration]
            rates = [learning_rate(settings, state.iteration + i) for i in range(len(batches))]
            engine.steps(data, batches, rates)
            state.iteration += len(batches)
            if state.iteration == settings.rewind_to:
                state.rewind = _copy(engine.export()[0])
        _record(engine, data, state)
        if state.iteration == settings.iterations:
            _finish(engine, data, state)
        state.seconds = before + time.perf_counter() - started
        yield state


def epoch_batches(settings: Settings, data: Data, state: Training, stop: int) -> Tensor:
    """The batches (steps, batch) of image indices from the state's iteration to `stop` or the end of its epoch.

    Every epoch is a permutation of its own, which follows from the training's seed and the epoch's number.
    """
    n = len(data.train.labels)
    epoch, step = divmod(state.iteration, n // settings.batch_size)
    generator = torch.Generator().manual_seed(seed_for(state.seed, "order", epoch))
    order = torch.randperm(n, generator=generator)[: n - n % settings.batch_size]
    rows = order.view(-1, settings.batch_size)[step : step + stop - state.iteration]
    return rows.to(data.train.labels.device)


def _record(engine: Dense | SparseChain, data: Data, state: Training) -> None:
    state.weights, state.optimizer, state.noise = engine.export()
    held = [] if data.validation is None else [data.validation]
    *validation, test = engine.evaluate(*held, data.test)
    state.curve.append(Point(state.iteration, *(validation[0] if held else (float("nan"),) * 2), *test))
    if state.early_stop_point is state.curve[-1]:
        state.early_stop = _copy(state.weights)


def _finish(engine: Dense | SparseChain, data: Data, state: Training) -> None:
    """Read the training accuracy at the end and at the early stop, and check that what is pruned is zero."""
    if not masks.is_masked(state.weights, {name: m.to(state.weights[name].device) for name, m in state.mask.items()}):
        raise AssertionError("a pruned weight is not zero at the end of training")
    state.final_train_accuracy = engine.evaluate(data.train)[0][1]
    state.weights = _copy(state.weights)  # on the CPU like all that is kept, and no longer the engine's own
    if state.early_stop is not None:
        engine.load(state.early_stop)
        state.early_stop_train_accuracy = engine.evaluate(data.train)[0][1]


@torch.no_grad()
def evaluate(model: nn.Module, *splits: Split) -> list[tuple[float, float]]:
    """Mean cross-entropy (nats) and accuracy of `model` on each split, in evaluation mode, never augmented."""
    model.eval()
    totals = torch.zeros(len(splits), 2, dtype=torch.float64, device=splits[0].labels.device)
    for total, (images, labels) in zip(totals, splits, strict=True):
        for x, y in zip(images.split(EVALUATION_BATCH), labels.split(EVALUATION_BATCH), strict=True):
            logits = model(x)
            total += torch.stack([F.cross_entropy(logits, y, reduction="sum"), (logits.argmax(1) == y).sum()])
        total /= len(labels)
    model.train()
    return [tuple(total) for total in totals.tolist()]


def learning_rate(settings: Settings, iteration: int) -> float:
    """The learning rate of the step after `iteration` steps: warm-up x schedule."""
    rate = settings.learning_rate
    if settings.schedule == "step":
        rate *= settings.gamma ** sum(iteration >= milestone for milestone in settings.milestones)
    elif settings.schedule == "cosine":
        rate *= (1 + math.cos(math.pi * iteration / settings.iterations)) / 2
    return rate * min(1.0, (iteration + 1) / settings.warmup) if settings.warmup else rate


def train_cohort(
    settings: Settings,
    data: Data,
    cohort: dict[Hashable, Training],
    go_on: Callable[[Hashable, Training], bool] = lambda key, state: True,
    workers: int | None = None,
) -> Iterator[tuple[Hashable, Training]]:
    """Train the replicates of a cohort; yield (key, outcome) as each ends. Each equals the same replicate alone.

    `go_on(key, state)` is called before a training and after each of its evaluations, in the process that trains: it
    may save the state, and ends the training early by returning False. On a CPU the replicates are spread over
    `workers` processes of one thread (default: `LTH_WORKERS`, else every core) that share the data; on a GPU they
    run in turn.
    """
    on_cpu = data.train.images.device.type == "cpu"
    workers = min(len(cohort), workers or int(os.environ.get("LTH_WORKERS", 0)) or cpu_count()) if on_cpu else 1
    if workers <= 1:
        for key, state in cohort.items():
            yield _train_one(settings, data, key, state, go_on)
        return
    arrays = data.to_arrays()  # joblib maps arrays of this size into every worker instead of copying them
    pool = Parallel(workers, return_as="generator_unordered", batch_size=1, mmap_mode="r", max_nbytes="1M")
    yield from pool(delayed(_train_mapped)(settings, arrays, key, state, go_on) for key, state in cohort.items())


def _train_mapped(settings: Settings, arrays: dict, *rest) -> tuple[Hashable, Training]:
    return _train_one(settings, Data.from_arrays(arrays), *rest)


def _train_one(settings: Settings, data: Data, key: Hashable, state: Training, go_on: Callable) -> tuple:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the number of threads changes rounding: with one, a replicate is the same anywhere
    try:
        if go_on(key, state):
            all(go_on(key, now) for now in train(settings, data, state))  # until one says no
        return key, state
    finally:
        torch.set_num_threads(threads)


def _optimizer(settings: Settings, parameters: Weights, saved: dict[str, Tensor]) -> torch.optim.Optimizer:
    common = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay, "fused": True}
    if settings.optimizer == "sgd":
        momentum = {"momentum": settings.momentum, "nesterov": settings.nesterov}
        optimizer = torch.optim.SGD(parameters.values(), **common, **momentum)
    else:
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings.optimizer]
        optimizer = kind(parameters.values(), **common)
    if saved:
        state = {i: {k: saved[f"{n}/{k}"] for k in _slots(saved, n)} for i, n in enumerate(parameters)}
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return optimizer


def _slots(saved: dict[str, Tensor], parameter: str) -> list[str]:
    return [key.split("/")[1] for key in saved if key.split("/")[0] == parameter]


def _optimizer_tensors(optimizer: torch.optim.Optimizer, parameters: Weights) -> dict[str, Tensor]:
    names = list(parameters)
    slots = optimizer.state_dict()["state"].items()
    return {f"{names[i]}/{key}": t for i, slot in slots for key, t in slot.items() if isinstance(t, Tensor)}


def _copy(weights: Weights) -> Weights:
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in weights.items()}
