"""Sparse training equals masked-dense training up to rounding, and is chosen where it is faster."""

import copy
import math
import os
import subprocess
import sys

import pytest
import torch

from lthcore import masks
from lthcore.data.datasets import load
from lthcore.lottery.start import begin
from lthcore.models.build import build
from lthcore.models.weights import initial_weights
from lthcore.runs.checkpoints import load_state, save_state
from lthcore.settings import Settings
from lthcore.training.engines import sparse
from lthcore.training.loop import Dense, engine_for, train
from lthcore.training.state import Replicate

BASE = Settings(
    dataset="digits", architecture="lenet", widths=(40, 20), validation=200, iterations=20, eval_every=10,
    learning_rate=2e-3, device="cpu",
)  # fmt: skip
RECIPES = {
    "adam": {},
    "adam, L2": {"weight_decay": 1e-3},
    "adamw": {"optimizer": "adamw", "weight_decay": 0.05},
    "sgd": {"optimizer": "sgd", "learning_rate": 0.1},
    "sgd, momentum, decay, smoothing, schedule": {
        "optimizer": "sgd", "learning_rate": 0.1, "momentum": 0.9, "weight_decay": 1e-3, "label_smoothing": 0.1,
        "schedule": "cosine", "warmup": 5,
    },
    "batches of two tiles, the second not full": {"batch_size": 100},
}  # fmt: skip


def start_of(settings, density=0.1, seed=0):
    data = load(settings)
    weights = initial_weights(build(settings, data.shape, 10), settings, seed)
    generator = torch.Generator().manual_seed(seed)
    mask = {name: torch.rand(m.shape, generator=generator) < density for name, m in masks.full_mask(weights).items()}
    return data, begin(settings, 0, 0, weights, mask)


def outcome(settings, data, state):
    *_, last = train(settings, data, copy.deepcopy(state))
    return last


def close(a, b, tolerance=2e-6):
    assert a.keys() == b.keys()
    return all(torch.allclose(a[name], b[name], rtol=1e-4, atol=tolerance) for name in a)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_sparse_and_masked_dense_follow_the_same_trajectory(recipe):
    settings = BASE.changed(**recipe)
    data, state = start_of(settings)
    assert isinstance(engine_for(settings, data, [state]), sparse.SparseChain)
    a, b = outcome(settings, data, state), outcome(settings.changed(engine="dense"), data, state)
    assert close(a.weights, b.weights) and close(a.optimizer, b.optimizer) and close(a.early_stop, b.early_stop)
    assert not close(a.weights, state.weights, tolerance=1e-3)  # weights did change
    for p, q in zip(a.curve, b.curve, strict=True):
        assert p.test_accuracy == q.test_accuracy
        assert math.isclose(p.val_loss, q.val_loss, rel_tol=1e-5) and math.isclose(
            p.test_loss, q.test_loss, rel_tol=1e-5
        )
    assert a.final_train_accuracy == b.final_train_accuracy


def test_pruned_weights_stay_exactly_zero():
    settings = BASE.changed(optimizer="sgd", momentum=0.9, weight_decay=0.1, learning_rate=0.1)
    data, state = start_of(settings)
    last = outcome(settings, data, state)
    assert masks.is_masked(last.weights, state.mask)
    momenta = {name: last.optimizer[f"{name}/momentum_buffer"] for name in state.mask}
    assert masks.is_masked(momenta, state.mask)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_dense_checkpoint_goes_on_sparsely_and_back(recipe):
    settings = BASE.changed(**recipe)
    data, state = start_of(settings)
    dense = settings.changed(engine="dense")
    for first, second in ((settings, dense), (dense, settings)):
        half = copy.deepcopy(next(s for s in train(first, data, copy.deepcopy(state)) if s.iteration == 10))
        assert close(outcome(second, data, half).weights, outcome(settings, data, state).weights)


def test_resumed_from_its_checkpoint_equals_uninterrupted_bit_for_bit(tmp_path):
    data, state = start_of(BASE)
    half = next(s for s in train(BASE, data, copy.deepcopy(state)) if s.iteration == 10)
    save_state(tmp_path / "half.safetensors", BASE, Replicate("ticket", 0, 0, 1), half)
    half, _, _ = load_state(tmp_path / "half.safetensors")
    a, b = outcome(BASE, data, half), outcome(BASE, data, state)
    assert all(torch.equal(a.weights[name], b.weights[name]) for name in a.weights)
    assert a.curve == b.curve


def test_dead_layer_is_a_constant_network():
    settings = BASE.changed(optimizer="sgd", learning_rate=0.1)  # Adam would amplify gradients of pure rounding error
    data, state = start_of(settings)
    state.mask["fc2.weight"] = torch.zeros_like(state.mask["fc2.weight"])
    state.weights = state.start = masks.apply(state.mask, state.weights)
    a, b = outcome(settings, data, state), outcome(settings.changed(engine="dense"), data, state)
    assert close(a.weights, b.weights)
    assert not torch.equal(a.weights["output.bias"], state.weights["output.bias"])


def test_divergence_shows_as_nan():
    settings = BASE.changed(optimizer="sgd", learning_rate=1e30)
    data, state = start_of(settings)
    assert math.isnan(outcome(settings, data, state).curve[-1].test_loss)


@pytest.mark.parametrize(
    "values",
    [{"dropout": 0.5}, {"clip_norm": 1.0}, {"augment": ("crop",)}, {"precision": "bfloat16"}, {"engine": "dense"},
     {"architecture": "conv2", "widths": (16,)}, {"optimizer": "sgd", "momentum": 0.9, "nesterov": True}],
    ids=lambda values: next(iter(values)),
)  # fmt: skip
def test_what_the_sparse_engine_cannot_do_stays_dense(values):
    settings = BASE.changed(**values)
    data, state = start_of(settings)
    assert isinstance(engine_for(settings, data, [state]), Dense)


def test_freshly_compiled_kernels_round_as_those_from_the_cache(tmp_path):
    """Otherwise a run resumed by another process would not equal the uninterrupted run bit for bit."""
    script = """
import torch
from lthcore.data.datasets import load
from lthcore.lottery.start import begin
from lthcore.models.build import build
from lthcore.models.weights import initial_weights
from lthcore.settings import Settings
from lthcore.training.loop import train
settings = Settings(dataset="digits", architecture="mlp", validation=200, iterations=200, learning_rate=5e-3)
data = load(settings)
weights = initial_weights(build(settings, data.shape, 10), settings, 0)
mask = {name: w > 0 for name, w in weights.items() if w.ndim == 2}
*_, state = train(settings, data, begin(settings, 0, 1, weights, mask))
print([w.view(torch.int32).sum().item() for w in state.weights.values()])
"""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", script]
    fresh, cached = (subprocess.check_output(command, text=True, env=environment) for _ in range(2))
    assert list(tmp_path.rglob("*.nbc")) and fresh == cached


@pytest.mark.parametrize(
    ("density", "kind"), [(sparse.CROSSOVER + 0.1, Dense), (sparse.CROSSOVER / 2, sparse.SparseChain)]
)
def test_sparse_is_chosen_below_the_crossover(density, kind):
    data, state = start_of(BASE, density)
    assert isinstance(engine_for(BASE, data, [state]), kind)
