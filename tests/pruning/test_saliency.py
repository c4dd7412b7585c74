"""Saliency criteria: SNIP and GraSP against finite differences, SynFlow against its conservation law and schedule."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from lthcore.data.datasets import load
from lthcore.errors import LabError
from lthcore.masks import apply, counts, equal, full_mask
from lthcore.models.build import build
from lthcore.models.weights import initial_weights
from lthcore.pruning import saliency
from lthcore.pruning.allocation import prune_to
from lthcore.pruning.criteria import PruningContext
from lthcore.pruning.saliency import grasp, snip, synflow, synflow_mask
from lthcore.settings import Settings

SMALL = Settings(dataset="digits", architecture="mlp", widths=(12, 8), validation=0, device="cpu")


@pytest.fixture(scope="module")
def data():
    return load(SMALL)


def seen(data, seed: int = 0, settings: Settings = SMALL, density: float = 1.0) -> PruningContext:
    weights = initial_weights(build(settings, data.shape, 10), settings, seed)
    generator = torch.Generator().manual_seed(seed)
    mask = {name: torch.rand(m.shape, generator=generator) < density for name, m in full_mask(weights).items()}
    return PruningContext(settings, data, mask, weights, weights, weights, seed)


def loss_and_gradient(what: PruningContext, weights: dict, temperature: float = 1.0) -> tuple[torch.Tensor, dict]:
    """Return loss and gradients on the batch of ten images per class, by a plain forward pass in double precision."""
    images, labels = what.data.train
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(what.seed))
    chosen = torch.cat([order[labels[order] == c][:10] for c in range(10)])
    w = {name: t.double().requires_grad_(name in what.mask) for name, t in weights.items()}
    x = images[chosen].flatten(1).double()
    x = F.relu(x @ w["fc1.weight"].T + w["fc1.bias"])
    x = F.relu(x @ w["fc2.weight"].T + w["fc2.bias"])
    loss = F.cross_entropy((x @ w["output.weight"].T + w["output.bias"]) / temperature, labels[chosen])
    names = list(what.mask)
    return loss.detach(), dict(zip(names, torch.autograd.grad(loss, [w[n] for n in names]), strict=True))


def test_snip_is_what_a_finite_difference_finds(data):
    what = seen(data, density=0.7)
    weights, worth = apply(what.mask, what.initial), snip(what)
    for name, index in (("fc1.weight", (3, 20)), ("fc2.weight", (2, 5)), ("output.weight", (9, 7))):
        step = 1e-4
        at = {sign: {n: t.double().clone() for n, t in weights.items()} for sign in (-1, 1)}
        for sign, w in at.items():
            w[name][index] += sign * step
        slope = (loss_and_gradient(what, at[1])[0] - loss_and_gradient(what, at[-1])[0]) / (2 * step)
        expected = abs(float(slope) * float(weights[name][index]))
        assert float(worth[name][index]) == pytest.approx(expected, rel=1e-3, abs=1e-8)
    assert all(not worth[name][~m].any() for name, m in what.mask.items())  # pruned weights score zero


def test_grasp_is_what_a_finite_difference_of_the_gradients_norm_finds(data):
    what = seen(data)
    weights, worth = what.initial, grasp(what)

    def half_norm(w: dict) -> float:
        """Return half the squared gradient norm, with the softmax at a temperature of 200 as in the published code."""
        return sum(float((g**2).sum()) for g in loss_and_gradient(what, w, 200.0)[1].values()) / 2

    for name, index in (("fc1.weight", (3, 20)), ("fc2.weight", (2, 5)), ("output.weight", (4, 6))):
        step = 1e-5
        up, down = ({n: t.double().clone() for n, t in weights.items()} for _ in range(2))
        up[name][index] += step
        down[name][index] -= step
        slope = (half_norm(up) - half_norm(down)) / (2 * step)
        negligible = 1e-4 * float(worth[name].abs().max())
        assert float(worth[name][index]) == pytest.approx(slope * float(weights[name][index]), rel=2e-2, abs=negligible)


def test_synflow_conserves_its_flow(data):
    """Scores into and out of a unit have equal sums, so all layers have equal totals (arXiv 2006.05467, section 4)."""
    what = seen(data, density=0.6)
    worth = synflow(what)
    incoming, outgoing = worth["fc1.weight"].sum(1), worth["fc2.weight"].sum(0)
    torch.testing.assert_close(incoming, outgoing)
    totals = [float(s.sum()) for s in worth.values()]
    assert totals == pytest.approx([totals[0]] * 3)


def test_synflow_prunes_by_equal_shares_of_what_is_left(data):
    """The schedule is exponential: (1 - s)^(k / n) of the weights are left after k of n rounds (arXiv 2006.05467)."""
    what, mask, left = seen(data), seen(data).mask, []
    for k in (1, 2, 3):
        mask = prune_to(synflow(what._replace(mask=mask)), mask, 1 - 0.1 ** (k / 3), list(mask))
        left.append(sum(counts(mask).values()) / sum(m.numel() for m in mask.values()))
    assert left == pytest.approx([0.4642, 0.2154, 0.1], abs=1e-3)
    found = synflow_mask(what, dict.fromkeys(mask, 0.1), rounds=3)
    assert all(torch.equal(found[name], m) for name, m in mask.items())


def test_synflow_in_rounds_empties_no_layer_where_one_round_does(data):
    settings = SMALL.changed(widths=(300, 100))
    what = seen(data, settings=settings)
    total = sum(m.numel() for m in what.mask.values())
    mask = synflow_mask(what, dict.fromkeys(what.mask, 0.001))
    assert sum(counts(mask).values()) == total - int(0.999 * total + 1e-9)
    assert min(counts(mask).values()) > 0
    at_once = prune_to(synflow(what), what.mask, 0.999, list(what.mask))
    assert sum(counts(at_once).values()) == sum(counts(mask).values()) and min(counts(at_once).values()) == 0
    by_snip = prune_to(snip(what), what.mask, 0.999, list(what.mask))
    assert sum(counts(by_snip).values()) == sum(counts(mask).values())


def test_synflow_needs_no_data_and_works_with_norms_and_convolutions(data):
    blank = replace(data, train=data.train._replace(images=torch.full_like(data.train.images, torch.nan)))
    for architecture in ("conv2", "resnet20"):
        settings = SMALL.changed(architecture=architecture, widths=())
        worth = synflow(seen(blank, settings=settings))
        assert all(torch.isfinite(s).all() and (s >= 0).all() and s.any() for s in worth.values())


@pytest.mark.parametrize("values", [{}, {"architecture": "resnet20", "widths": ()}], ids=["dense", "norms"])
def test_synflow_leaves_biases_and_the_shifts_of_norms_out_of_its_flow(values, data):
    """The networks of this lab start with zeros there, which would hide it."""
    what = seen(data, settings=SMALL.changed(**values))
    shifted = {name: torch.full_like(w, 0.3) if name.endswith("bias") else w for name, w in what.initial.items()}
    with_zeros, with_shifts = synflow(what), synflow(what._replace(initial=shifted))
    assert all(torch.equal(with_zeros[name], score) for name, score in with_shifts.items())


@pytest.mark.parametrize("criterion", [snip, grasp])
def test_dropout_does_not_change_the_scores(criterion, data):
    plain, dropped = (criterion(seen(data, settings=SMALL.changed(dropout=rate))) for rate in (0.0, 0.5))
    assert all(torch.equal(plain[name], score) for name, score in dropped.items())


def test_snip_takes_norms_by_their_running_statistics(data):
    what = seen(data, settings=SMALL.changed(architecture="resnet20", widths=()))
    model = build(what.settings, data.shape, 10).double().eval()
    model.load_state_dict(what.initial)
    images, labels = data.train
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(what.seed))
    chosen = torch.cat([order[labels[order] == c][:10] for c in range(10)])
    F.cross_entropy(model(images[chosen].double()), labels[chosen]).backward()
    for name, score in snip(what).items():
        weight = model.get_parameter(name)
        torch.testing.assert_close(score.double(), (weight * weight.grad).abs().detach(), rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("criterion", [snip, grasp, synflow])
def test_a_model_that_casts_its_images_is_one_line(criterion, data, monkeypatch):
    model = build(SMALL, data.shape, 10)
    model.register_forward_pre_hook(lambda _, images: images[0].float())
    monkeypatch.setattr(saliency, "build", lambda *_: model)
    with pytest.raises(LabError, match=r"^saliency: \w+ does not compute in double precision"):
        criterion(seen(data))


def test_synflow_has_the_hundred_rounds_of_its_paper_by_default(data):
    what = seen(data)
    densities = dict.fromkeys(what.mask, 0.05)
    assert equal(synflow_mask(what, densities), synflow_mask(what, densities, rounds=100))


def test_scores_follow_from_the_seed(data):
    a, b = snip(seen(data)), snip(seen(data))
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("criterion", [snip, grasp])
def test_every_trial_draws_its_own_batch(criterion, data):
    """Otherwise a spread over trials would leave out the part of it that comes from the choice of images."""
    a, b = (criterion(seen(data)._replace(seed=seed)) for seed in (0, 1))  # of the same weights
    assert all(not torch.equal(a[name], b[name]) for name in a)
