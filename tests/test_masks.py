"""Masks: pruned weights are exactly zero, and a mask that does not fit the network is refused."""

import pytest
import torch

from lthcore import masks
from lthcore.errors import LabError

NAN, INF = float("nan"), float("inf")


def small() -> dict[str, torch.Tensor]:
    return {
        "conv1.weight": torch.arange(1.0, 13.0).view(2, 2, 3, 1),
        "fc1.weight": torch.arange(-4.0, 4.0).view(2, 4) + 0.5,
        "fc1.bias": torch.tensor([1.0, -1.0]),
    }


def half(seed: int = 0) -> masks.Mask:
    generator = torch.Generator().manual_seed(seed)
    full = masks.full_mask(small())
    return {name: torch.rand(m.shape, generator=generator) < 0.5 for name, m in full.items()}


def test_full_mask_covers_weights_and_no_biases():
    full = masks.full_mask(small())
    assert masks.counts(full) == {"conv1.weight": 12, "fc1.weight": 8}
    assert masks.weights_left(full) == 20
    assert masks.percent_left(full) == 100.0


def test_counts_and_percent_are_of_the_weights_left():
    mask = masks.full_mask(small())
    mask["fc1.weight"][0] = False
    mask["conv1.weight"][0, 0, 0, 0] = False
    assert masks.counts(mask) == {"conv1.weight": 11, "fc1.weight": 4}
    assert masks.percent_left(mask) == 75.0


def test_apply_zeroes_exactly_what_is_pruned_and_nothing_else():
    weights, mask = small(), half()
    masked = masks.apply(mask, weights)
    assert masked.keys() == weights.keys()
    for name, m in mask.items():
        assert torch.equal(masked[name][m], weights[name][m])
        assert torch.equal(masked[name][~m], torch.zeros(int((~m).sum())))
    assert torch.equal(masked["fc1.bias"], weights["fc1.bias"])


@pytest.mark.parametrize("value", [NAN, INF, -INF, -0.0])
def test_apply_zeroes_what_no_product_would(value):
    weights, mask = small(), half()
    for name, m in mask.items():
        weights[name][~m] = value
    masked = masks.apply(mask, weights)
    assert masks.is_masked(masked, mask)
    assert not any(torch.signbit(masked[name][~m]).any() for name, m in mask.items())


def test_apply_is_pure_and_keeps_the_type():
    weights = {name: w.bfloat16() for name, w in small().items()}
    before = {name: w.clone() for name, w in weights.items()}
    masked = masks.apply(half(), weights)
    for name, w in masked.items():
        assert w.dtype == torch.bfloat16
        w.fill_(9.0)
        assert torch.equal(weights[name], before[name])


def test_apply_of_the_full_mask_changes_nothing():
    weights = small()
    assert all(torch.equal(w, weights[name]) for name, w in masks.apply(masks.full_mask(weights), weights).items())


@pytest.mark.parametrize(
    ("misfit", "said"),
    [
        (lambda mask: mask.pop("fc1.weight"), r"fc1\.weight: mask None, network \(2, 4\)"),
        (lambda mask: mask.update({"fc2.weight": torch.ones(2, 2).bool()}), r"fc2\.weight: .*, network None"),
        (lambda mask: mask.clear(), r"conv1\.weight: mask None, network \(2, 2, 3, 1\), fc1\.weight: mask None"),
        (lambda mask: mask.update({"fc1.bias": torch.ones(2).bool()}), r"fc1\.bias"),
        (lambda mask: mask.update({"fc1.weight": torch.ones(4, 2).bool()}), r"fc1\.weight: mask \(4, 2\)"),
        (lambda mask: mask.update({"fc1.weight": torch.ones(1, 4).bool()}), r"fc1\.weight: mask \(1, 4\)"),
        (lambda mask: mask.update({"fc1.weight": torch.ones(2, 4)}), "bool"),
        (lambda mask: mask.update({"fc1.weight": torch.ones(2, 4, dtype=torch.uint8)}), "bool"),
    ],
)
def test_mask_that_does_not_fit_is_refused(misfit, said):
    mask = half()
    misfit(mask)
    with pytest.raises(LabError, match=said):
        masks.check(mask, small(), prunable=half())
    if mask.keys() >= half().keys():  # `apply` does not know what is prunable, so it cannot notice a missing mask
        with pytest.raises(LabError, match=said):
            masks.apply(mask, small())


def test_a_mask_of_some_of_the_weights_leaves_the_others_as_they_are():
    """Embeddings and bare parameters have two dimensions but no mask, so a mask need not cover all matrices."""
    mask, weights = {"fc1.weight": half()["fc1.weight"]}, small()
    masks.check(mask, weights)
    masks.check(mask, weights, prunable=["fc1.weight"])
    with pytest.raises(LabError, match="conv1"):
        masks.check(half(), weights, prunable=["fc1.weight"])
    assert torch.equal(masks.apply(mask, weights)["conv1.weight"], weights["conv1.weight"])


def test_an_optimizers_state_of_pruned_weights_is_zero_and_all_else_stays():
    """State tensors with the shape of a masked weight are masked; step counters and the state of biases are not."""
    mask = half()
    slots = {f"{name}/exp_avg": torch.full_like(w, NAN if name in mask else 2.0) for name, w in small().items()}
    slots |= {"fc1.weight/exp_avg": torch.full((2, 4), 3.0), "fc1.weight/step": torch.tensor(7.0)}
    masked = masks.apply_to_optimizer(mask, slots)
    assert masked.keys() == slots.keys()
    assert torch.equal(masked["fc1.weight/exp_avg"], mask["fc1.weight"] * 3.0)
    assert not masked["conv1.weight/exp_avg"][~mask["conv1.weight"]].any()
    assert masked["conv1.weight/exp_avg"][mask["conv1.weight"]].isnan().all()
    assert masked["fc1.bias/exp_avg"].tolist() == [2.0, 2.0] and float(masked["fc1.weight/step"]) == 7.0
    assert (slots["fc1.weight/exp_avg"] == 3.0).all()  # the argument is not changed


def test_nonzero_counts_the_weights_and_not_the_mask():
    """With `masking: gradients` masked weights are untrained but not zero: the mask does not give the nonzero count."""
    weights, mask = small(), half()
    assert masks.nonzero(weights, mask) == 20
    weights["fc1.weight"][0, :3] = 0.0
    weights["fc1.bias"][0] = 0.0  # biases are not counted
    assert masks.nonzero(weights, mask) == 17


@pytest.mark.parametrize("value", [1.0, 1e-45, NAN, INF])
def test_a_pruned_weight_that_is_not_zero_is_seen(value):
    mask = half()
    masked = masks.apply(mask, small())
    assert masks.is_masked(masked, mask)
    masked["fc1.weight"][tuple((~mask["fc1.weight"]).nonzero()[0])] = value
    assert not masks.is_masked(masked, mask)


def test_nesting_goes_one_way():
    outer, inner = masks.full_mask(small()), half()
    assert masks.is_nested(inner, outer) and not masks.is_nested(outer, inner)
    assert masks.is_nested(inner, inner)
    assert not masks.is_nested(half(1), inner)
    assert not masks.is_nested({"fc1.weight": inner["fc1.weight"]}, outer)


def test_equality_is_of_every_entry_and_layer():
    assert masks.equal(half(), half())
    assert not masks.equal(half(), half(1))
    flipped = half()
    flipped["conv1.weight"][0, 0, 0, 0] ^= True
    assert not masks.equal(half(), flipped)
    assert not masks.equal(half(), {"fc1.weight": half()["fc1.weight"]})


def test_shuffled_keeps_the_count_of_each_layer():
    mask = {"fc1.weight": torch.arange(600).view(20, 30) < 100, "output.weight": torch.arange(50).view(5, 10) < 20}
    random = masks.shuffled(mask, 0)
    assert masks.counts(random) == masks.counts(mask) == {"fc1.weight": 100, "output.weight": 20}
    assert {name: m.shape for name, m in random.items()} == {name: m.shape for name, m in mask.items()}
    assert not any(torch.equal(random[name], mask[name]) for name in mask)


def test_shuffled_is_seeded_and_leaves_its_input_and_the_global_generator():
    mask, before = half(), torch.random.get_rng_state()
    assert masks.equal(masks.shuffled(mask, 3), masks.shuffled(mask, 3))
    assert not masks.equal(masks.shuffled(mask, 3), masks.shuffled(mask, 4))
    assert masks.equal(mask, half()) and torch.equal(before, torch.random.get_rng_state())


def test_equal_layers_are_shuffled_apart():
    """If layers of one shape got the same permutation, their masks would be correlated, and no random control."""
    layer = torch.arange(100).view(10, 10) < 50
    random = masks.shuffled({"fc1.weight": layer, "fc2.weight": layer}, 0)
    assert not torch.equal(random["fc1.weight"], random["fc2.weight"])


def test_shuffled_is_uniform_over_the_places():
    mask = {"fc1.weight": torch.tensor([[True, True, False, False, False]])}
    hits = sum(masks.shuffled(mask, seed)["fc1.weight"].int() for seed in range(2000))
    assert (hits - 800).abs().max() < 100  # 4.5 standard deviations of 21.9
