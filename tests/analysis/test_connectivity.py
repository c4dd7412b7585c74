"""Connectivity: barriers with known heights, and copies that differ only by the order of data and by noise."""

import math

import pytest
import torch

from lthcore.analysis import connectivity
from lthcore.analysis.connectivity import barrier, copies, instability, path, renew_norms
from lthcore.data.datasets import load
from lthcore.lottery.start import begin
from lthcore.models.build import build
from lthcore.models.weights import initial_weights
from lthcore.settings import Settings
from lthcore.training.engines.dense import evaluate
from lthcore.training.loop import train

SMALL = Settings(dataset="digits", architecture="mlp", validation=200, device="cpu", iterations=120, eval_every=40)


@pytest.fixture(scope="module")
def data():
    return load(SMALL)


def fresh(data):
    return begin(SMALL, 0, 0, initial_weights(build(SMALL, data.shape, 10), SMALL, 0))


def test_between_equal_networks_there_is_no_barrier(data):
    model, weights = build(SMALL, data.shape, 10), fresh(data).weights
    values = path(model, weights, weights, data.test)
    assert len(values) == 30 and len(set(values)) == 1
    assert barrier([error for _, error in values]) == 0


def test_the_ends_of_a_path_are_the_networks_themselves(data):
    model, a = build(SMALL, data.shape, 10), fresh(data).weights
    b = initial_weights(model, SMALL, 1)
    values = path(model, a, b, data.test, points=3)
    for weights, (loss, error) in ((a, values[0]), (b, values[2])):
        model.load_state_dict(weights)
        (expected,) = evaluate(model, data.test)
        assert (loss, error) == (pytest.approx(expected[0]), pytest.approx(1 - expected[1]))


def test_norms_on_the_line_have_the_statistics_of_the_images_they_see(data):
    settings = SMALL.changed(architecture="resnet20")
    model = build(settings, data.shape, 10)
    a, b = (initial_weights(model, settings, seed) for seed in (0, 1))
    mixed = path(model, a, b, data.test, points=3)
    renewed = path(model, a, b, data.test, points=3, norms=data.train)
    assert mixed != renewed  # the norms of new networks have default statistics
    first = next(name for name, m in model.named_modules() if isinstance(m, torch.nn.BatchNorm2d))
    model.load_state_dict(a)
    renew_norms(model, data.train)
    before = next(m for m in model.modules() if isinstance(m, torch.nn.Conv2d))
    outputs = [before(images) for images in data.train.images.split(500)]
    mean = torch.stack([out.mean((0, 2, 3)) for out in outputs]).mean(0)
    assert torch.allclose(model.get_submodule(first).running_mean, mean, atol=1e-5)
    assert not model.training and model.get_submodule(first).momentum == 0.1


def test_norms_are_renewed_without_dropout_and_without_a_batch_of_one_image(data, monkeypatch):
    """Dropout would make the statistics depend on chance, and a single image has no variance."""
    monkeypatch.setattr(connectivity, "NORM_IMAGES", 501)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.5), torch.nn.BatchNorm1d(64))
    renew_norms(model, data.train)
    mean = data.train.images[:500].flatten(1).mean(0)
    assert len(data.train.images) > 500 and torch.allclose(model[2].running_mean, mean, atol=1e-6)


def test_norms_are_renewed_at_every_point_of_both_lines(data, monkeypatch):
    """Between two networks the statistics of neither are right: without renewal, norms alone could cause a barrier."""
    renewed = []
    monkeypatch.setattr(connectivity, "renew_norms", lambda model, split: renewed.append(split))
    instability(SMALL.changed(iterations=1), data, fresh(data))
    assert len(renewed) == 2 * 30 and all(split is data.train for split in renewed)


def test_the_barrier_of_error_is_of_test_images_and_that_of_loss_of_training_images(data, monkeypatch):
    lines = {
        id(data.test): [(0.0, 0.1), (7.0, 0.5), (0.0, 0.3)],
        id(data.train): [(1.0, 0.0), (4.0, 0.9), (1.0, 0.0)],
    }  # (loss, error) at the ends and in the middle
    monkeypatch.setattr(connectivity, "path", lambda model, a, b, split, **_: lines[id(split)])
    found = instability(SMALL.changed(iterations=1), data, fresh(data))
    assert found == pytest.approx({"error_barrier": 0.3, "loss_barrier": 3.0, "error": 0.2})


def test_barrier_is_the_height_above_the_mean_of_the_ends():
    assert barrier([0.1, 0.5, 0.3]) == pytest.approx(0.3) and barrier([0.3, 0.1, 0.3]) == 0
    assert barrier([0.1, 0.5, 0.2, 0.2, 0.3]) == pytest.approx(0.3)  # the highest point, not that in the middle


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_barrier_of_values_that_are_not_finite_is_unknown(broken):
    assert math.isnan(barrier([0.1, broken, 0.3])) and math.isnan(barrier([0.1, 0.2, broken]))


def test_a_copy_that_diverges_has_no_barrier(data, monkeypatch):
    """Not 0: that would be the sign of a stable start."""
    broken = fresh(data)
    broken.weights["fc1.weight"] = torch.full_like(broken.weights["fc1.weight"], float("nan"))
    monkeypatch.setattr(connectivity, "copies", lambda *_: [fresh(data), broken])
    assert all(map(math.isnan, instability(SMALL, data, fresh(data)).values()))


def test_copies_start_alike_and_differ_by_the_order_of_the_data(data):
    state = fresh(data)
    before = {n: w.clone() for n, w in state.weights.items()}
    a, b = copies(SMALL, data, state)
    assert all(torch.equal(state.weights[n], w) for n, w in before.items()) and state.iteration == 0
    assert a.iteration == b.iteration == 120 and not torch.equal(a.weights["fc1.weight"], b.weights["fc1.weight"])
    again, _ = copies(SMALL, data, state)
    assert torch.equal(a.weights["fc1.weight"], again.weights["fc1.weight"])


def test_copies_have_noise_of_their_own(data):
    """If both copies had the same dropout, a part of the noise whose effect is measured would be missing."""
    settings = SMALL.changed(dropout=0.5, iterations=60, eval_every=20)
    state = next(now for now in train(settings, data, fresh(data)) if now.iteration == 20)
    noise = state.generator_state.clone()
    a, b = copies(settings, data, state)
    assert torch.equal(state.generator_state, noise)
    assert not torch.equal(
        a.generator_state, b.generator_state
    )  # both drew equally often, so equal generators would end equal


def test_copies_that_part_late_are_closer_than_copies_that_part_at_the_start(data):
    settings = SMALL.changed(learning_rate=0.05, iterations=200)  # too high for a stable start
    early = instability(settings, data, fresh(data))
    state = fresh(data)
    for now in train(settings, data, state):
        if now.iteration == 160:
            break
    late = instability(settings, data, state)
    assert late["loss_barrier"] < early["loss_barrier"] / 2 and late["error_barrier"] < early["error_barrier"] / 2
    assert 0 < early["error"] < 0.2


def test_a_copy_differs_from_the_training_it_parts_from_by_its_seed_alone(data, monkeypatch):
    """With the seed of the training, a copy goes on as it would have: its optimizer's state is taken along."""
    state = next(now for now in train(SMALL, data, fresh(data)) if now.iteration == 40)
    monkeypatch.setattr(connectivity, "seed_for", lambda *_: state.seed)
    copy, _ = copies(SMALL, data, state)
    assert [point.iteration for point in state.curve] == [0, 40]  # those of the training, still
    assert [point.iteration for point in copy.curve] == [40, 80, 120]
    *_, whole = train(SMALL, data, state)
    assert all(torch.equal(copy.weights[name], w) for name, w in whole.weights.items())
