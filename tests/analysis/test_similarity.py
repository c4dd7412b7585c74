"""Similarity: known answers for networks that are equal, permuted, rotated or unrelated."""

import math

import pytest
import torch
from torch import nn

from lthcore.analysis import similarity
from lthcore.analysis.similarity import align, chance_jaccard, jaccard, linear_cka, mean_cca
from lthcore.masks import full_mask
from lthcore.models.build import build
from lthcore.models.weights import initial_weights
from lthcore.pruning.streams import columns, streams_of
from lthcore.settings import Settings

NETWORKS = {"lenet": ({"widths": (40, 30)}, (1, 6, 6)), "conv2": ({"widths": (20, 16)}, (3, 8, 8))}


def random_mask(shape: tuple[int, ...], density: float) -> torch.Tensor:
    return torch.rand(shape) < density


def ticket(architecture: str, density: float = 0.2):
    values, shape = NETWORKS[architecture]
    settings = Settings(architecture=architecture, **values)
    model = build(settings, shape, 10)
    weights = initial_weights(model, settings, 0)
    mask = {name: random_mask(m.shape, density) for name, m in full_mask(weights).items()}
    return model, {n: w * mask[n] if n in mask else w for n, w in weights.items()}, mask, shape


def permuted(tensors: dict, model) -> dict:
    """Return the tensors of the same network with its hidden units in another order."""
    out = {name: t.clone() for name, t in tensors.items()}
    for stream in streams_of(model)[1:]:
        (layer,) = stream.producers
        order = torch.randperm(len(out[f"{layer}.weight"]))
        out[f"{layer}.weight"] = out[f"{layer}.weight"][order]
        if f"{layer}.bias" in out:
            out[f"{layer}.bias"] = out[f"{layer}.bias"][order]
        for reader in stream.consumers:
            w = out[f"{reader}.weight"]
            out[f"{reader}.weight"] = columns(w, len(order))[:, order].reshape(w.shape)
    return out


def test_jaccard_of_equal_disjoint_and_empty_masks():
    a = random_mask((30, 40), 0.3)
    assert jaccard(a, a) == 1 and jaccard(a, ~a) == 0 and math.isnan(jaccard(a & ~a, a & ~a))


@pytest.mark.parametrize(("p", "q"), [(0.5, 0.5), (0.1, 0.1), (0.02, 0.3)])
def test_jaccard_of_random_masks_is_chance(p, q):
    found = [jaccard(random_mask((300, 200), p), random_mask((300, 200), q)) for _ in range(5)]
    assert sum(found) / 5 == pytest.approx(chance_jaccard(p, q), rel=0.05)
    assert chance_jaccard(p, p) == pytest.approx(p / (2 - p))


@pytest.mark.parametrize("architecture", NETWORKS)
def test_a_permuted_network_is_recognised(architecture):
    model, _, mask, _ = ticket(architecture)
    other = permuted(mask, model)
    assert jaccard(mask["fc1.weight"], other["fc1.weight"]) < 0.2  # as by chance
    aligned = align(mask, other, streams_of(model))
    assert all(jaccard(mask[name], aligned[name]) == 1 for name in mask)


def test_aligning_random_masks_finds_little_more_than_chance():
    model, _, mask, _ = ticket("lenet", 0.1)
    _, _, other, _ = ticket("lenet", 0.1)
    aligned = align(mask, other, streams_of(model))
    found = [jaccard(mask["fc1.weight"], m["fc1.weight"]) for m in (other, aligned)]
    assert found[0] <= found[1] < 0.35  # even random masks gain a little by alignment
    assert {n: int(m.sum()) for n, m in aligned.items()} == {n: int(m.sum()) for n, m in other.items()}


def test_sign_agreement():
    a = torch.tensor([[1.0, -1.0, 2.0, -3.0]])
    keep = torch.tensor([[True, True, True, False]])
    assert similarity.sign_agreement(a, a, keep, keep) == 1 and similarity.sign_agreement(a, -a, keep, keep) == 0
    b = torch.tensor([[1.0, 1.0, 1.0, 1.0]])
    assert similarity.sign_agreement(a, b, keep, keep | True) == pytest.approx(2 / 3)
    assert math.isnan(similarity.sign_agreement(a, b, keep, ~keep))


def test_cosine_of_rows_ignores_scale_and_dead_units():
    a = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    b = torch.tensor([[5.0, 0.0], [1.0, -1.0], [1.0, 0.0]])
    assert similarity.cosine_of_rows(a, b) == pytest.approx(0.5)
    assert similarity.cosine_of_rows(a.T, b.T) == pytest.approx((6 / 54**0.5 - 1) / 2)


def test_cka_is_1_for_rotated_activations_and_small_for_unrelated_ones():
    x = torch.randn(2000, 20)
    rotation, _ = torch.linalg.qr(torch.randn(20, 20))
    assert linear_cka(x, 3 * x @ rotation + 5) == pytest.approx(1.0, abs=1e-6)
    assert linear_cka(x, torch.randn(2000, 20)) < 0.05
    assert linear_cka(x, x @ torch.randn(20, 20)) < 0.95  # stretching changes CKA


def test_cka_and_cca_of_one_unit_are_its_squared_and_its_plain_correlation():
    """Linear CKA sums squared correlations (arXiv 1905.00414), and mean CCA is of the correlations themselves."""
    columns, _ = torch.linalg.qr(torch.randn(2000, 2) - torch.randn(2000, 2).mean(0))
    x, other = (columns - columns.mean(0)).T
    other = other - (other @ x) / (x @ x) * x
    x, other = x / x.norm(), other / other.norm()
    y = 0.6 * x + 0.8 * other
    assert linear_cka(x[:, None], y[:, None]) == pytest.approx(0.36, abs=1e-4)
    assert mean_cca(x[:, None], y[:, None]) == pytest.approx(0.6, abs=1e-4)


def test_cca_is_1_for_any_invertible_map_and_leaves_out_what_does_not_vary():
    x = torch.randn(2000, 20)
    assert mean_cca(x, x @ torch.randn(20, 20)) == pytest.approx(1.0, abs=1e-6)
    assert mean_cca(x, torch.randn(2000, 20)) < 0.15
    dead = torch.cat([x, torch.zeros(2000, 5), torch.ones(2000, 1)], 1)
    assert mean_cca(dead, x) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("measure", [mean_cca, linear_cka])
def test_a_mean_that_two_have_in_common_is_no_likeness(measure):
    """Rectified units have means above zero: without centring, any two networks would look alike."""
    x, y = (torch.randn(2000, 3) + 50 for _ in range(2))
    assert measure(x, y) < 0.1


@pytest.mark.parametrize("architecture", NETWORKS)
def test_activations_of_a_permuted_network_are_permuted_so_cka_is_1(architecture):
    model, weights, _, shape = ticket(architecture, 0.5)
    images = torch.randn(300, *shape)
    here, there = (similarity.activations(model, w, images) for w in (weights, permuted(weights, model)))
    assert all((here[name] >= 0).all() for name in here if name != "output")
    torch.testing.assert_close(here["output"], there["output"], atol=1e-5, rtol=1e-4)
    assert all(linear_cka(here[name], there[name]) == pytest.approx(1.0, abs=1e-5) for name in here)


def test_hidden_layers_are_seen_behind_their_norms_and_only_the_last_layer_is_not_rectified():
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2))
    model[1].running_mean.fill_(0.5), model[1].weight.data.fill_(-2.0)
    images = torch.randn(50, 1, 4, 4)
    seen = similarity.activations(model, model.state_dict(), images)
    with torch.no_grad():
        torch.testing.assert_close(seen["0"], model.eval()[:3](images).mean((2, 3)))
        torch.testing.assert_close(seen["4"], model(images))


def test_residual_streams_keep_their_order():
    settings = Settings(architecture="resnet20")
    model = build(settings, (3, 8, 8), 10)
    full = full_mask(model)
    mask, other = ({name: torch.rand(m.shape) < 0.3 for name, m in full.items()} for _ in range(2))
    streams = streams_of(model)
    aligned = align(mask, other, streams)
    residual = [stream for stream in streams if len(stream.producers) > 1]
    inside = [stream.producers[0] for stream in streams if len(stream.producers) == 1]
    assert residual and any(not torch.equal(aligned[f"{n}.weight"], other[f"{n}.weight"]) for n in inside)
    first = residual[0].producers[0]  # it reads the inputs, which have an order
    assert torch.equal(aligned[f"{first}.weight"], other[f"{first}.weight"])
