"""Training: compared with plain PyTorch, with itself when resumed, and with the same replicate in other cohorts."""

import math
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import pytest
import torch
from joblib import cpu_count
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune as torch_prune

from lthcore import masks
from lthcore.data.datasets import Data, load
from lthcore.errors import LabError
from lthcore.lottery.start import begin
from lthcore.models.build import build
from lthcore.models.weights import initial_weights
from lthcore.registry import MODELS
from lthcore.runs.checkpoints import load_state, save_state
from lthcore.seeds import seed_for
from lthcore.settings import Settings
from lthcore.training.engines import conv, dense
from lthcore.training.engines.chain import Chain
from lthcore.training.engines.dense import Dense, evaluate, noise_of
from lthcore.training.engines.sparse import SparseChain
from lthcore.training.loop import engine_for, learning_rate, one_thread, train, train_in_step
from lthcore.training.parallel import _train_mapped, stack_size, train_cohort, worker_count
from lthcore.training.state import Evaluation, Replicate, TrainState

SMALL = Settings(
    dataset="digits", architecture="mlp", validation=200, iterations=60, eval_every=20, engine="dense"
)  # the sparse engine has tests of its own
SGD = {"optimizer": "sgd", "learning_rate": 0.05, "momentum": 0.9}
WHICH = Replicate("ticket", 0, 0, 1)


@pytest.fixture(scope="module")
def digits() -> Data:
    return load(SMALL)


def fresh(settings: Settings, trial: int = 0, left: float = 0.4) -> TrainState:
    """Return the start of a training run, under a random mask that keeps about a share `left` of each layer."""
    weights = initial_weights(build(settings, (1, 8, 8), 10), settings, seed_for(0, "init", trial))
    generator = torch.Generator().manual_seed(trial)
    mask = {name: torch.rand(weights[name].shape, generator=generator) < left for name in masks.full_mask(weights)}
    return begin(settings, trial, 1, weights, mask)


def trained(settings: Settings, data: Data, state: TrainState | None = None) -> TrainState:
    state = state or fresh(settings)
    for _ in train(settings, data, state):
        pass
    return state


def plain_network(weights: dict[str, torch.Tensor]) -> nn.Sequential:
    layers = [nn.Linear(64, 64), nn.Linear(64, 32), nn.Linear(32, 10)]
    with torch.no_grad():
        for layer, name in zip(layers, ("fc1", "fc2", "output"), strict=True):
            layer.weight.copy_(weights[f"{name}.weight"])
            layer.bias.copy_(weights[f"{name}.bias"])
    return nn.Sequential(nn.Flatten(), layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])


def batches(settings: Settings, data: Data, seed: int):
    """Yield all batches of a training run by the documented recipe: a permutation in each epoch, no partial batch."""
    images, labels = data.train
    per_epoch = len(labels) // settings.batch_size
    for i in range(settings.iterations):
        generator = torch.Generator().manual_seed(seed_for(seed, "order", i // per_epoch))
        order = torch.randperm(len(labels), generator=generator)
        batch = order[(i % per_epoch) * settings.batch_size :][: settings.batch_size]
        yield images[batch], labels[batch]


def assert_same(a: TrainState, b: TrainState) -> None:
    """Assert that two states are equal bit for bit (except `remembered` and the seconds they took)."""
    for name in ("iteration", "curve", "seed", "fine_tuned", "final_train_accuracy", "early_stop_train_accuracy"):
        assert repr(getattr(a, name)) == repr(getattr(b, name)), name  # as text, in which nan equals nan
    for name in ("weights", "mask", "start", "optimizer", "early_stop", "rewind"):
        mine, theirs = getattr(a, name) or {}, getattr(b, name) or {}
        assert mine.keys() == theirs.keys(), name
        assert all(torch.equal(mine[key], theirs[key]) for key in mine), name
    assert (a.generator_state is None) == (b.generator_state is None)
    assert a.generator_state is None or torch.equal(a.generator_state, b.generator_state)


OPTIMIZERS = {
    "adam": ({"optimizer": "adam"}, lambda p: torch.optim.Adam(p, lr=1.2e-3, foreach=False)),
    "adam_l2": (
        {"optimizer": "adam", "weight_decay": 0.1},
        lambda p: torch.optim.Adam(p, lr=1.2e-3, weight_decay=0.1, foreach=False),
    ),
    "adamw": (
        {"optimizer": "adamw", "weight_decay": 0.1},
        lambda p: torch.optim.AdamW(p, lr=1.2e-3, weight_decay=0.1, foreach=False),
    ),
    "sgd": (
        SGD | {"weight_decay": 1e-3},
        lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-3, foreach=False),
    ),
    "sgd_nesterov": (
        SGD | {"nesterov": True, "weight_decay": 1e-3},
        lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-3, foreach=False),
    ),
}


@pytest.mark.parametrize(
    ("kind", "engine", "left"), [(Dense, "dense", 0.4), (Chain, "auto", 1.0), (SparseChain, "auto", 0.4)]
)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_equals_a_plain_pytorch_loop(name, kind, engine, left, digits):
    values, make_optimizer = OPTIMIZERS[name]
    settings = SMALL.changed(engine=engine, **values)
    state = fresh(settings, left=left)
    if kind is SparseChain and settings.nesterov:
        kind = Chain  # the sparse engine has no Nesterov momentum
    assert type(engine_for(settings, digits, [state])) is kind
    model = plain_network(state.start)
    kept = [(layer.weight, mask) for layer, mask in zip(model[1::2], state.mask.values(), strict=True)]
    optimizer = make_optimizer(model.parameters())
    for x, y in batches(settings, digits, state.seed):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        with torch.no_grad():
            for weight, mask in kept:
                weight.mul_(mask)
    trained(settings, digits, state)
    for mine, plain in zip(state.weights.values(), model.parameters(), strict=True):
        torch.testing.assert_close(mine, plain.detach(), rtol=0, atol=1e-6)


def test_training_equals_torch_prune_under_sgd(digits):
    settings = SMALL.changed(**SGD, weight_decay=1e-3)
    state = fresh(settings)
    model = plain_network(state.start)
    for layer, mask in zip(model[1::2], state.mask.values(), strict=True):
        torch_prune.custom_from_mask(layer, "weight", mask)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    for x, y in batches(settings, digits, state.seed):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    model(digits.test.images)  # torch.nn.utils.prune applies the mask when the weight is used
    trained(settings, digits, state)
    for layer, name in zip(model[1::2], ("fc1", "fc2", "output"), strict=True):
        torch.testing.assert_close(state.weights[f"{name}.weight"], layer.weight.detach(), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "values",
    [SGD | {"weight_decay": 0.1}, {"optimizer": "adamw", "weight_decay": 0.5}, {"optimizer": "adam", "clip_norm": 1}],
    ids=["sgd momentum", "adamw", "adam clipped"],
)
@pytest.mark.parametrize("engine", ["dense", "auto"])
def test_zeros_stay_zero_and_so_does_their_optimizer_state(values, engine, digits):
    settings = SMALL.changed(engine=engine, **values)
    for state in train(settings, digits, fresh(settings)):
        assert masks.is_masked(state.weights, state.mask)
        slots = {key: t for key, t in state.optimizer.items() if key.split("/")[0] in state.mask and t.ndim}
        assert state.iteration == 0 or len(slots) == (3 if values["optimizer"] == "sgd" else 6)
        for key, t in slots.items():
            mask = state.mask[key.split("/")[0]]
            assert not t[~mask].any()
            assert t[mask].any() == (state.iteration > 0)


FEW = {"iterations": 6, "eval_every": 2}
CONVOLUTIONS = FEW | {"engine": "auto", "precision": "bfloat16"}  # engine and precision of the committed runs
RESUMED = {
    "adam, dropout": (0.4, {"dropout": 0.3}),
    "sgd momentum, dropout, augmentation": (0.4, SGD | {"dropout": 0.3, "augment": ("crop", "rotation")}),
    "adamw, schedule": (0.4, {"optimizer": "adamw", "weight_decay": 0.1, "schedule": "cosine", "warmup": 30}),
    "rewind point": (1.0, {"rewind_to": 15}),
    "bfloat16": (0.4, {"precision": "bfloat16", "label_smoothing": 0.1, "clip_norm": 1.0}),
    "few weights left": (0.1, {"engine": "auto"}),
    "few weights left, sgd momentum": (0.1, SGD | {"engine": "auto"}),
    "convolutions and batch norms": (0.4, FEW | {"architecture": "resnet20", "weight_decay": 1e-4}),
    "conv2, bfloat16": (1.0, CONVOLUTIONS | {"architecture": "conv2"}),
    "resnet20, bfloat16, crops": (0.4, CONVOLUTIONS | SGD | {"architecture": "resnet20", "augment": ("crop",)}),
}


@pytest.fixture(scope="module")
def uninterrupted(digits) -> Callable[[Settings, float], TrainState]:
    """Function that returns the outcome of a training run that was not stopped, trained once for all tests."""
    return cache(lambda settings, left: trained(settings, digits, fresh(settings, left=left)))


@pytest.mark.parametrize("name", RESUMED)
@pytest.mark.parametrize("evaluations", [0, 2])
def test_resumed_equals_uninterrupted_bit_for_bit(name, evaluations, digits, uninterrupted, tmp_path):
    left, values = RESUMED[name]
    settings = SMALL.changed(**values)
    at = evaluations * settings.eval_every
    engine = engine_for(settings, digits, [fresh(settings, left=left)])
    assert isinstance(engine, conv.ConvolutionalNetwork) == (values.items() >= CONVOLUTIONS.items())
    steps = train(settings, digits, fresh(settings, left=left))
    interrupted = next(state for state in steps if state.iteration == at)
    save_state(tmp_path / "checkpoint", settings, WHICH, interrupted)
    resumed, which, key = load_state(tmp_path / "checkpoint")
    assert (resumed.iteration, which, key) == (at, WHICH, settings.key)
    assert_same(trained(settings, digits, resumed), uninterrupted(settings, left))


def test_a_compiled_network_trains_to_the_same_weights(digits, monkeypatch):
    """On a GPU, convolutions are compiled. This test takes the same path, with a backend that generates no code."""
    calls = []

    def traced(model):
        calls.append(model)
        return torch._dynamo.optimize("aot_eager")(model)

    monkeypatch.setattr(dense, "COMPILED", ("cpu",))
    monkeypatch.setattr(conv, "applies", lambda *_: False)  # the engine of convolutions on a CPU
    monkeypatch.setattr(torch, "compile", traced)
    settings = SMALL.changed(architecture="resnet20", iterations=4, eval_every=2, engine="auto", **SGD)
    compiled, eager = trained(settings, digits), trained(settings.changed(engine="dense"), digits)
    assert len(calls) == 1
    for name, weight in eager.weights.items():
        torch.testing.assert_close(compiled.weights[name], weight, rtol=1e-3, atol=1e-4)


def test_resumed_in_every_evaluation_equals_uninterrupted(digits, tmp_path):
    settings = SMALL.changed(dropout=0.2, iterations=90, eval_every=7)  # 20 batches an epoch: stops lie inside epochs
    state = fresh(settings)
    while state.iteration < settings.iterations:
        steps = train(settings, digits, state)
        state = next(steps)
        save_state(tmp_path / "checkpoint", settings, WHICH, state)
        if state.iteration < settings.iterations:
            state = load_state(tmp_path / "checkpoint")[0]
    assert_same(state, trained(settings, digits))


def rates(iterations: list[int], **values) -> list[float]:
    return [learning_rate(SMALL.changed(iterations=100, learning_rate=1.0, **values), i) for i in iterations]


def test_learning_rate_schedules_at_known_points():
    assert rates([0, 50, 99]) == [1, 1, 1]
    step = rates([0, 29, 30, 59, 60, 99], schedule="step", milestones=[30, 60], gamma=0.1)
    assert step == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
    assert rates([0, 25, 50, 100], schedule="cosine") == pytest.approx([1, (1 + math.sqrt(0.5)) / 2, 0.5, 0])
    assert rates([0, 4, 9, 10, 99], warmup=10) == pytest.approx([0.1, 0.5, 1, 1, 1])
    both = rates([0, 9, 30], schedule="step", milestones=[30], gamma=0.1, warmup=10)
    assert both == pytest.approx([0.1, 1, 0.1])


def test_schedule_reaches_the_optimizer(digits):
    """Under plain SGD one step moves the weights by the learning rate times the gradient."""
    full = SMALL.changed(optimizer="sgd", learning_rate=0.1, iterations=1)
    warm = full.changed(iterations=1, warmup=1), full.changed(schedule="step", milestones=[0], gamma=0.5)
    reference, same, halved = (trained(s, digits) for s in (full, *warm))
    for name, start in reference.start.items():
        moved = reference.weights[name] - start
        torch.testing.assert_close(same.weights[name] - start, moved)
        torch.testing.assert_close(halved.weights[name] - start, moved / 2, rtol=1e-4, atol=1e-7)


def test_early_stop_is_the_first_minimum_of_the_validation_loss():
    state = fresh(SMALL)
    assert state.early_stop_point is None
    losses = [2.0, 1.0, 0.5, 0.7, 0.5, 0.9]
    state.curve = [Evaluation(10 * i, loss, 0.9, 1.0, 0.9, 100.0) for i, loss in enumerate(losses)]
    assert state.early_stop_point.iteration == 20
    state.curve.insert(0, Evaluation(0, math.nan, 0.9, 0.0, 1.0, 100.0))  # nan is no minimum
    assert state.early_stop_point.iteration == 20


def test_the_early_stop_of_a_network_that_becomes_sparser_has_no_more_weights_than_the_end():
    state = fresh(SMALL)
    points = [(0.3, 100.0), (0.4, 60.0), (0.6, 50.0), (0.7, 50.0)]  # validation loss, percentage of weights
    state.curve = [Evaluation(10 * i, loss, 0.9, 1.0, 0.9, percent) for i, (loss, percent) in enumerate(points)]
    assert state.early_stop_point.iteration == 20


def test_early_stop_weights_are_those_of_its_point(digits):
    settings = SMALL.changed(optimizer="sgd", learning_rate=0.5, momentum=0.9, iterations=200, eval_every=10)
    state = trained(settings, digits)
    stop = state.early_stop_point
    assert stop.iteration < settings.iterations  # otherwise the test would show nothing
    assert stop.val_loss == min(point.val_loss for point in state.curve)
    assert next(p.iteration for p in state.curve if p.val_loss == stop.val_loss) == stop.iteration
    validation, test = evaluate(plain_network(state.early_stop), digits.validation, digits.test)
    assert validation == (stop.val_loss, stop.val_accuracy)
    assert test == (stop.test_loss, stop.test_accuracy)


def test_of_two_equal_minima_the_early_stop_weights_are_those_of_the_first(digits, monkeypatch):
    state, losses = fresh(SMALL), {0: 1.0, 20: 0.5, 40: 0.5, 60: 0.9}
    monkeypatch.setattr(dense.Dense, "evaluate", lambda _, *splits: [[(losses[state.iteration], 0.5)] * len(splits)])
    first = trained(SMALL.changed(iterations=20), digits, state).early_stop
    assert trained(SMALL, digits, state).early_stop_point.iteration == 20
    assert all(torch.equal(state.early_stop[name], w) for name, w in first.items())


def test_without_validation_there_is_no_early_stop(digits):
    state = trained(SMALL, replace(digits, validation=None))
    assert state.early_stop is None
    assert state.early_stop_point is None
    assert all(math.isnan(p.val_loss) and math.isnan(p.val_accuracy) for p in state.curve)
    validated = trained(SMALL, digits)  # training does not use validation images
    assert [p.test_accuracy for p in state.curve] == [p.test_accuracy for p in validated.curve]


def test_evaluation_is_the_mean_over_all_images_without_noise(digits, monkeypatch):
    monkeypatch.setitem(dense.EVALUATION_BATCH, "cpu", 70)  # leaves a partial batch
    settings = SMALL.changed(dropout=0.5)
    state = fresh(settings)
    model = build(settings, digits.shape, 10)
    model.load_state_dict(state.start)
    [(loss, accuracy)] = evaluate(model, digits.test)
    with torch.no_grad():
        logits = plain_network(state.start)(digits.test.images)
    assert loss == pytest.approx(F.cross_entropy(logits, digits.test.labels).item(), abs=1e-6)
    assert accuracy == (logits.argmax(1) == digits.test.labels).double().mean().item()
    assert model.training  # evaluation restores training mode
    assert state.curve == []
    first = next(train(settings, digits, state)).curve[0]
    assert (first.iteration, first.test_loss, first.test_accuracy) == (0, loss, accuracy)


def test_replicate_in_a_cohort_of_processes_equals_the_same_alone(digits):
    def note(key: int, state: TrainState) -> bool:
        state.remembered = {"process": torch.tensor(os.getpid())}
        return True

    settings = SMALL.changed(dropout=0.2)
    together = dict(train_cohort(settings, digits, {t: fresh(settings, t) for t in range(3)}, note, workers=2))
    assert together.keys() == {0, 1, 2}
    for t, state in together.items():
        [(_, alone)] = train_cohort(settings, digits, {t: fresh(settings, t)}, note, workers=1)
        assert int(alone.remembered["process"]) == os.getpid() != int(state.remembered["process"])
        assert_same(state, alone)
        assert state.final_train_accuracy == alone.final_train_accuracy


def test_workers_watch_whether_the_process_that_they_work_for_is_there(digits):
    def watched(key, state):  # called in the worker; False ends its training run
        return "parent watch" in [thread.name for thread in threading.enumerate()]

    outcomes = train_cohort(SMALL, digits, {t: fresh(SMALL, t) for t in range(2)}, watched, workers=2)
    assert [state.iteration for _, state in outcomes] == [SMALL.iterations] * 2


def test_without_room_for_the_workers_copy_of_the_data_one_line_says_what_to_do(digits, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("JOBLIB_TEMP_FOLDER", str(tmp_path / "file"))  # a file: even root cannot write in it
    large = replace(digits, train=digits.train._replace(images=digits.train.images.repeat(4, 1, 1, 1)))
    with pytest.raises(LabError, match=r"cannot be given the data \(\[Errno .*file.*LTH_WORKERS=1$") as caught:
        list(train_cohort(SMALL, large, {t: fresh(SMALL, t) for t in range(2)}, workers=2))
    assert "\n" not in str(caught.value)


def test_cohort_ends_a_training_when_told_to(digits):
    stop = {20: 20, 0: 0, 60: 60}
    cohort = {at: fresh(SMALL) for at in stop}
    outcomes = dict(train_cohort(SMALL, digits, cohort, lambda key, state: state.iteration < stop[key], workers=1))
    assert {key: state.iteration for key, state in outcomes.items()} == stop
    assert outcomes[0].curve == []  # never started


def test_training_that_reached_its_end_has_its_training_accuracies_even_if_stopped_there(digits):
    """A deadline may pass in the last evaluation. Training is then complete, and must have its training accuracies."""
    [(_, state)] = train_cohort(SMALL, digits, {0: fresh(SMALL)}, lambda k, s: s.iteration < 60, workers=1)
    [(_, whole)] = train_cohort(SMALL, digits, {0: fresh(SMALL)}, workers=1)
    assert state.iteration == SMALL.iterations
    assert state.final_train_accuracy == whole.final_train_accuracy
    assert state.early_stop_train_accuracy == whole.early_stop_train_accuracy


def test_training_accuracies_are_those_of_the_final_and_the_early_stop_weights(digits):
    [(_, state)] = train_cohort(SMALL, digits, {0: fresh(SMALL)}, workers=1)
    for weights, accuracy in (
        (state.weights, state.final_train_accuracy),
        (state.early_stop, state.early_stop_train_accuracy),
    ):
        assert evaluate(plain_network(weights), digits.train)[0][1] == accuracy


def step_taken(settings: Settings, data: Data) -> tuple[TrainState, torch.Tensor]:
    state = trained(settings.changed(iterations=1), data)
    return state, torch.cat([(state.weights[name] - w).flatten() for name, w in state.start.items()])


def test_label_smoothing_trains_on_the_smoothed_loss(digits):
    settings = SMALL.changed(optimizer="sgd", learning_rate=0.1, label_smoothing=0.2, iterations=1)
    state, step = step_taken(settings, digits)
    model = plain_network(state.start)
    x, y = next(batches(settings, digits, state.seed))
    target = 0.8 * F.one_hot(y, 10) + 0.02
    (-(target * model(x).log_softmax(1)).sum(1).mean()).backward()
    for layer, mask in zip(model[1::2], state.mask.values(), strict=True):
        layer.weight.grad.mul_(mask)
    expected = torch.cat([-0.1 * p.grad.flatten() for p in model.parameters()])
    torch.testing.assert_close(step, expected, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(step, step_taken(settings.changed(label_smoothing=0), digits)[1], atol=1e-5)


def test_clip_norm_bounds_the_step_and_keeps_its_direction(digits):
    settings = SMALL.changed(optimizer="sgd", learning_rate=1.0)
    free, clipped = (step_taken(settings.changed(clip_norm=c), digits)[1] for c in (0, 0.01))
    assert free.norm() > 0.1
    assert clipped.norm().item() == pytest.approx(0.01, rel=1e-3)
    assert F.cosine_similarity(free, clipped, dim=0).item() == pytest.approx(1, abs=1e-3)


def test_bfloat16_trains_close_to_float32_and_keeps_float32_weights(digits):
    full, half = (trained(SMALL.changed(precision=p), digits) for p in ("float32", "bfloat16"))
    assert all(w.dtype == torch.float32 for w in half.weights.values())
    begun = (half.curve[0], full.curve[0])  # evaluation is in the precision of the training
    assert begun[0] != begun[1] and begun[0].val_loss == pytest.approx(begun[1].val_loss, rel=2e-3)
    difference = max((half.weights[n] - w).abs().max().item() for n, w in full.weights.items())
    assert 0 < difference < 0.05
    assert half.curve[-1].test_accuracy == pytest.approx(full.curve[-1].test_accuracy, abs=0.05)


def test_trains_for_the_iterations_asked_and_evaluates_at_0_every_so_often_and_at_the_end(digits):
    settings = SMALL.changed(iterations=50, eval_every=20)
    state = fresh(settings)
    seen = [s.iteration for s in train(settings, digits, state)]
    assert seen == [p.iteration for p in state.curve] == [0, 20, 40, 50]
    assert {t.item() for key, t in state.optimizer.items() if key.endswith("/step")} == {50}
    weights = {name: w.clone() for name, w in state.weights.items()}
    assert list(train(settings, digits, state)) == []  # training is complete
    assert all(torch.equal(state.weights[name], w) for name, w in weights.items())


def test_rewind_point_is_the_weights_at_that_iteration_though_no_evaluation_falls_on_it(digits):
    state = trained(SMALL.changed(rewind_to=33), digits)
    there = trained(SMALL.changed(iterations=33), digits)
    assert all(torch.equal(state.rewind[name], w) for name, w in there.weights.items())
    assert trained(SMALL, digits).rewind is None


@pytest.mark.parametrize(
    "values", [{"dropout": 0.5}, {"augment": ("crop", "rotation")}], ids=["dropout", "augmentation"]
)
def test_noise_comes_from_the_trainings_own_generator_and_not_the_global_one(values, digits):
    settings = SMALL.changed(**values)
    outcomes = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        outcomes.append(trained(settings, digits))
        assert torch.equal(torch.get_rng_state(), before)
    assert_same(*outcomes)
    clean, other = trained(SMALL, digits), trained(settings, digits, replace(fresh(settings), seed=1))
    for state in (clean, other):
        assert not torch.equal(state.weights["fc1.weight"], outcomes[0].weights["fc1.weight"])


def test_layers_that_draw_from_the_global_generator_draw_anew_in_every_epoch(digits, monkeypatch):
    class Noted(nn.Dropout):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.training:
                drawn.append(super().forward(torch.ones_like(x)))
            return x * drawn[-1] if self.training else x

    def noted(settings, shape, classes):
        return nn.Sequential(nn.Flatten(), Noted(0.5), nn.Linear(64, classes))

    monkeypatch.setitem(MODELS, "noted", noted)
    settings, outcomes = SMALL.changed(architecture="noted"), []
    weights = initial_weights(build(settings, digits.shape, 10), settings, 0)
    for _ in range(2):
        drawn: list[torch.Tensor] = []
        trained(settings, digits, begin(settings, 0, 0, weights, masks.full_mask(weights)))
        outcomes.append(drawn)
    assert all(torch.equal(a, b) for a, b in zip(*outcomes, strict=True))
    assert len(drawn) == len({tuple(mask.flatten().tolist()) for mask in drawn}) == 60  # 20 batches an epoch


def test_a_training_moves_to_another_kind_of_device_and_draws_its_noise_by_seed_and_iteration_there(digits):
    settings, outcomes = SMALL.changed(dropout=0.5), []
    for noise in (bytes(16), bytes(range(16))):  # the state of a CUDA generator has 16 bytes, of a CPU's 5,056
        moved = fresh(settings)
        for _ in train(settings.changed(iterations=20), digits, moved):
            pass
        moved.generator_state = torch.tensor(list(noise), dtype=torch.uint8)
        for _ in train(settings, digits, moved):
            pass
        outcomes.append(moved)
    assert_same(*outcomes)
    moved.generator_state = torch.zeros(16, dtype=torch.uint8)
    drawn = []
    for moved.iteration in (20, 40):
        drawn.append(noise_of(moved, torch.device("cpu")).get_state())
        expected = torch.Generator().manual_seed(seed_for(moved.seed, "noise", moved.iteration))
        assert torch.equal(drawn[-1], expected.get_state())
    assert not torch.equal(*drawn)


def test_another_seed_of_the_training_means_other_batches(digits):
    other = replace(fresh(SMALL), seed=1)
    assert not torch.equal(
        trained(SMALL, digits, other).weights["fc1.weight"], trained(SMALL, digits).weights["fc1.weight"]
    )


def test_divergence_under_a_mask_is_an_outcome_and_no_crash(digits):
    settings = SMALL.changed(optimizer="sgd", learning_rate=1e6, engine="dense")
    weights = initial_weights(build(settings, digits.shape, 10), settings, 0)
    mask = {name: m & (torch.arange(m.numel()).view_as(m) % 2 == 0) for name, m in masks.full_mask(weights).items()}
    *_, state = train(settings, digits, begin(settings, 0, 0, weights, mask))
    assert state.curve[-1].test_loss != state.curve[-1].test_loss  # nan


def test_a_fine_tuned_training_takes_every_step_at_the_rate_that_a_training_ends_with(digits):
    settings = SMALL.changed(**SGD, schedule="step", milestones=(20, 50), gamma=0.5)
    tuned = trained(settings, digits, replace(fresh(settings), fine_tuned=True))
    slow = SMALL.changed(**SGD | {"learning_rate": 0.05 / 4})
    assert all(torch.equal(tuned.weights[name], w) for name, w in trained(slow, digits).weights.items())


@pytest.mark.parametrize("pauses", [{1}, {20, 39}, {5, 6, 20, 41}, {60, 0}], ids=str)
def test_a_training_pauses_where_it_is_told_to_and_is_the_same_for_it(pauses, digits):
    state = fresh(SMALL)
    stops = [state.iteration for _ in train_in_step(SMALL, digits, [state], pauses)]
    assert stops == sorted({0, 20, 40, 60} | pauses)
    assert [point.iteration for point in state.curve] == [0, 20, 40, 60]
    assert_same(state, trained(SMALL, digits))


def test_changes_between_yields_are_what_training_goes_on_from(digits):
    state, other = fresh(SMALL), fresh(SMALL, trial=1)
    for _ in train_in_step(SMALL, digits, [state]):
        if state.iteration == 20:
            state.mask = other.mask
            state.weights = masks.apply(other.mask, other.weights)
            state.optimizer = {key: torch.zeros_like(t) for key, t in state.optimizer.items()}
    late = replace(other, iteration=20, seed=state.seed, curve=state.curve[:2])
    assert all(torch.equal(state.weights[name], w) for name, w in trained(SMALL, digits, late).weights.items())
    assert masks.is_masked(state.weights, other.mask)


def test_seconds_add_up_over_evaluations_and_are_shared_by_those_in_step(digits, monkeypatch):
    settings = SMALL.changed(engine="stack")
    states = [replace(fresh(settings, trial), seconds=7.0) for trial in range(2)]
    clock = SimpleNamespace(perf_counter=lambda: float(states[0].iteration))  # one second per iteration
    monkeypatch.setattr("lthcore.training.loop.time", clock)
    seen = [[state.seconds for state in states] for _ in train_in_step(settings, digits, states)]
    assert seen == [[7.0] * 2, [17.0] * 2, [27.0] * 2, [37.0] * 2]


def test_a_pruned_weight_that_is_not_zero_at_the_end_is_caught(digits, monkeypatch):
    store = dense.Dense.sync_to

    def store_one_wrong(engine: dense.Dense, states: list[TrainState]) -> None:
        store(engine, states)
        (state,) = states
        name, mask = next(iter(state.mask.items()))
        row, column = (~mask).nonzero()[0]
        state.weights[name][row, column] += 1e-3

    monkeypatch.setattr(dense.Dense, "sync_to", store_one_wrong)
    with pytest.raises(AssertionError, match="a pruned weight is not zero"):
        trained(SMALL, digits)
    trained(SMALL.changed(pruned_to="initial"), digits)  # where pruned weights need not be zero
    assert trained(SMALL.changed(**SGD | {"learning_rate": 1e6}), digits).diverged  # where they are nan


# Processes and memory


def test_a_worker_trains_from_arrays_as_its_parent_would(digits):
    go_on = lambda key, state: True  # noqa: E731
    key, state = _train_mapped(os.getpid(), b"", SMALL, digits.to_arrays(), 7, fresh(SMALL), go_on, train_in_step)
    assert key == 7
    assert_same(state, trained(SMALL, digits))


@pytest.mark.parametrize(("text", "count"), [("3", 3), ("1", 1), ("", cpu_count())])
def test_workers_are_as_many_as_asked_for_else_one_for_each_core(text, count, monkeypatch):
    monkeypatch.setenv("LTH_WORKERS", text)
    assert worker_count() == count
    monkeypatch.delenv("LTH_WORKERS")
    assert worker_count() == cpu_count()


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5"])
def test_a_number_of_workers_that_is_none_is_refused(text, monkeypatch):
    monkeypatch.setenv("LTH_WORKERS", text)
    with pytest.raises(LabError, match=f"LTH_WORKERS = '{text}': must be a whole number from 1"):
        worker_count()


def test_steps_are_taken_in_one_thread_and_the_number_of_before_comes_back():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(KeyError), one_thread():
            assert torch.get_num_threads() == 1
            raise KeyError
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_as_many_are_stacked_as_half_of_the_free_memory_holds(digits, monkeypatch):
    """A replicate needs eight copies of its weights (with moments and snapshots) and activations of its batches."""
    state = fresh(SMALL)
    weights, units = 64 * 64 + 64 + 64 * 32 + 32 + 32 * 10 + 10, 64 + 64 + 32 + 10
    each = 4 * (8 * weights + 4 * 60 * units + 15_000 * units)
    on_gpu = SimpleNamespace(
        train=SimpleNamespace(images=SimpleNamespace(device=torch.device("cuda"))), test=digits.test
    )
    for free, fit in ((20 * each, 10), (20 * each - 2, 9), (each, 1), (0, 1)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 10**12))
        assert stack_size(SMALL, on_gpu, state) == fit
    assert stack_size(SMALL, digits, state) == 64


def test_the_rate_that_a_cosine_ends_with_is_that_of_the_last_step(digits):
    """It is the rate of the step before the end: at the end itself the cosine is zero, and nothing would be trained."""
    settings = SMALL.changed(**SGD, schedule="cosine")
    tuned = trained(settings, digits, replace(fresh(settings), fine_tuned=True))
    rate = 0.05 * (1 + math.cos(math.pi * 59 / 60)) / 2
    slow = trained(SMALL.changed(**SGD | {"learning_rate": rate}), digits)
    for name, w in slow.weights.items():
        torch.testing.assert_close(tuned.weights[name], w, rtol=1e-5, atol=1e-8)
        assert not torch.equal(tuned.weights[name], tuned.start[name])
