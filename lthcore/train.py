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

from lthcore import masks
from lthcore.data import Data, Split, augment
from lthcore.masks import Mask
from lthcore.models import Dropout, Weights, build
from lthcore.settings import Settings, seed_for

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


def train(settings: Settings, data: Data, state: Training) -> Iterator[Training]:
    """Train from `state.iteration` to `settings.iterations`; yield the same state after every evaluation.

    Pruned weights are zero at every step: gradients are masked before the optimizer and weights after it, so that
    neither momentum nor weight decay can move them and their optimizer state stays zero too.
    """
    device = data.train.images.device
    model = build(settings, data.shape, 10).to(device)
    model.load_state_dict(masks.apply(state.mask, state.weights))
    parameters = dict(model.named_parameters())
    kept = [(parameters[name], m.to(device, torch.float32)) for name, m in state.mask.items() if not m.all()]
    optimizer = _optimizer(settings, parameters, state.optimizer)
    noise = torch.Generator(device).manual_seed(seed_for(state.seed, "noise"))
    if state.noise is not None:
        noise.set_state(state.noise)
    for module in model.modules():
        if isinstance(module, Dropout):
            module.generator = noise

    images, labels = data.train
    steps_per_epoch = len(labels) // settings.batch_size
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bfloat16")
    started, before = time.perf_counter(), state.seconds

    def record() -> Training:
        state.weights = {name: tensor.detach() for name, tensor in model.state_dict().items()}
        state.curve.append(evaluate_point(model, data, state.iteration))
        if state.early_stop_point is state.curve[-1]:
            state.early_stop = _copy(state.weights)
        state.optimizer, state.noise = _optimizer_tensors(optimizer, parameters), noise.get_state()
        state.seconds = before + time.perf_counter() - started
        return state

    if not state.curve:
        yield record()
    order = None
    while state.iteration < settings.iterations:
        epoch, step = divmod(state.iteration, steps_per_epoch)
        if order is None or step == 0:
            generator = torch.Generator().manual_seed(seed_for(state.seed, "order", epoch))
            order = torch.randperm(len(labels), generator=generator).to(device)
        batch = order[step * settings.batch_size : (step + 1) * settings.batch_size]
        x, y = images[batch], labels[batch]
        if settings.augment:
            x = augment(x, noise)
        with autocast:
            loss = F.cross_entropy(model(x), y, label_smoothing=settings.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        for weight, mask in kept:
            weight.grad.mul_(mask)
        if settings.clip_norm:
            nn.utils.clip_grad_norm_(parameters.values(), settings.clip_norm)
        if settings.schedule != "constant" or settings.warmup:
            optimizer.param_groups[0]["lr"] = learning_rate(settings, state.iteration)
        optimizer.step()
        with torch.no_grad():
            for weight, mask in kept:
                weight.mul_(mask)
        state.iteration += 1
        if state.iteration == settings.rewind_to:
            state.rewind = _copy(model.state_dict())
        if state.iteration % settings.eval_every == 0 or state.iteration == settings.iterations:
            yield record()


def finish(settings: Settings, data: Data, state: Training) -> Training:
    """Read the training accuracy at the early stop and at the end, and assert that what is pruned is zero."""
    if not masks.is_masked(state.weights, {name: m.to(data.train.labels.device) for name, m in state.mask.items()}):
        raise AssertionError("a pruned weight is not zero at the end of training")
    started = time.perf_counter()
    model = build(settings, data.shape, 10).to(data.train.images.device)
    for name in ("final", "early_stop"):
        weights = state.weights if name == "final" else state.early_stop
        if weights is not None:
            model.load_state_dict(weights)
            setattr(state, f"{name}_train_accuracy", evaluate(model, data.train)[1])
    state.seconds += time.perf_counter() - started
    return state


@torch.no_grad()
def evaluate(model: nn.Module, split: Split) -> tuple[float, float]:
    """Mean cross-entropy (nats) and accuracy of `model` on a split, in evaluation mode and without augmentation."""
    return tuple(_totals(model, split).tolist())


def evaluate_point(model: nn.Module, data: Data, iteration: int) -> Point:
    """Evaluate on validation and test together, waiting for the device once."""
    nothing = torch.full((2,), float("nan"), dtype=torch.float64, device=data.test.labels.device)
    with torch.no_grad():
        validation = nothing if data.validation is None else _totals(model, data.validation)
        return Point(iteration, *torch.cat([validation, _totals(model, data.test)]).tolist())


def _totals(model: nn.Module, split: Split) -> Tensor:
    model.eval()
    totals = torch.zeros(2, dtype=torch.float64, device=split.labels.device)
    for x, y in zip(split.images.split(EVALUATION_BATCH), split.labels.split(EVALUATION_BATCH), strict=True):
        logits = model(x)
        loss = F.cross_entropy(logits, y, reduction="sum")
        totals += torch.stack([loss, (logits.argmax(1) == y).sum()])
    model.train()
    return totals / len(split.labels)


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
        if go_on(key, state) and all(go_on(key, state) for state in train(settings, data, state)):
            finish(settings, data, state)
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
    return {name: tensor.detach().clone() for name, tensor in weights.items()}
