"""Pruning: the paper's schedule, exact counts, and the same result as PyTorch's own pruning and as a plain loop."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune as torch_prune

from lthcore import masks
from lthcore.data.datasets import Data, load
from lthcore.errors import LabError
from lthcore.lottery.checks import check_settings
from lthcore.models.build import build, outline
from lthcore.models.weights import Weights, initial_weights
from lthcore.pruning import allocation
from lthcore.pruning.allocation import erk_densities, layer_rates, prune, prune_to
from lthcore.pruning.criteria import PruningContext, scores_of
from lthcore.pruning.units import unit_activation
from lthcore.registry import CRITERIA
from lthcore.settings import Settings

MNIST, CIFAR10 = (1, 28, 28), (3, 32, 32)
PERCENT = st.integers(0, 99)
SEED = st.integers(0, 2**31)
SIZES = st.lists(st.integers(1, 60), min_size=1, max_size=4)
NAN, INF = float("nan"), float("inf")


def layers(sizes: list[int], seed: int, values: int = 10**6) -> tuple[dict[str, torch.Tensor], masks.Mask]:
    """Return random scores and a random mask for layers of these sizes; a small number of `values` leads to ties."""
    generator = torch.Generator().manual_seed(seed)
    worth = {f"w{i}": torch.randint(values, (n, 1), generator=generator).float() for i, n in enumerate(sizes)}
    return worth, {name: torch.rand(s.shape, generator=generator) < 0.7 for name, s in worth.items()}


def distinct(*shapes: tuple[int, int], seed: int) -> list[torch.Tensor]:
    """Return weights of these shapes, all of different magnitude, within and across layers."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [torch.Size(shape).numel() for shape in shapes]
    values = torch.randperm(sum(sizes), generator=generator) + 1.0
    values *= torch.randint(0, 2, values.shape, generator=generator) * 2 - 1
    return [part.view(shape) for part, shape in zip(values.split(sizes), shapes, strict=True)]


def lowest(worth: dict[str, torch.Tensor], mask: masks.Mask, names: list[str], count: int) -> masks.Mask:
    """Return the mask without the `count` lowest-scored remaining weights of these layers: the oracle, a plain loop.

    Of equal scores, the first one is pruned.
    """
    left = []
    for layer, name in enumerate(names):
        for index, score in enumerate(worth[name].flatten().tolist()):
            if mask[name][index]:
                left.append((score, layer, index))
    pruned = {name: m.clone() for name, m in mask.items()}
    for _, layer, index in sorted(left)[:count]:
        pruned[names[layer]][index] = False
    return pruned


# The paper's schedule


@pytest.mark.parametrize(
    ("architecture", "shape", "printed"),
    [
        ("lenet", MNIST, {3: 51.3, 7: 21.1, 9: 13.5, 15: 3.6, 16: 2.9}),
        ("conv2", CIFAR10, {11: 8.8, 14: 4.6}),
        ("conv4", CIFAR10, {11: 11.1, 12: 9.2}),
    ],
)
def test_rounds_leave_the_percentages_that_the_paper_prints(architecture, shape, printed):
    settings = Settings(architecture=architecture)
    mask = masks.full_mask(build(settings, shape, 10).state_dict())
    ties = {name: torch.zeros(m.shape, dtype=torch.uint8) for name, m in mask.items()}
    percents, rates = {}, layer_rates(settings, build(settings, shape, 10))
    for k in range(1, max(printed) + 1):
        mask = prune(ties, mask, rates)
        percents[k] = round(masks.percent_left(mask), 1)
    assert {k: percents[k] for k in printed} == printed


def test_global_rounds_leave_the_percentages_that_the_paper_prints():
    """The convolutions lose 20% in each round, ranked together; shortcuts and the output layer lose nothing."""
    printed = {4: 41.7, 6: 27.1, 7: 21.9, 10: 11.8}
    settings = Settings(architecture="resnet20", prune_conv=0.2, prune_output=0)
    mask = masks.full_mask(build(settings, CIFAR10, 10).state_dict())
    rates = layer_rates(settings, build(settings, CIFAR10, 10))
    whole = {name: m for name, m in mask.items() if "shortcut" in name or name == "output.weight"}
    ties = {name: torch.zeros(m.shape, dtype=torch.uint8) for name, m in mask.items()}
    percents = {}
    for k in range(1, max(printed) + 1):
        mask = prune(ties, mask, rates, scope="global")
        percents[k] = round(masks.percent_left(mask), 1)
    assert {k: percents[k] for k in printed} == printed
    assert all(mask[name].all() for name in whole)


def test_global_rounds_of_vgg19_leave_the_percentages_that_the_paper_prints():
    """Only counted: its twenty million weights take seconds to rank."""
    settings, printed = Settings(architecture="vgg19", prune_conv=0.2, prune_output=0), {12: 6.9, 15: 3.5, 19: 1.5}
    model = outline(settings, CIFAR10, 10)
    sizes, rates = {name: m.numel() for name, m in masks.full_mask(model).items()}, layer_rates(settings, model)
    assert {name: rates[name] for name in sizes} == {name: 0.0 if name == "output.weight" else 0.2 for name in sizes}
    left, percents = sum(sizes.values()) - sizes["output.weight"], {}
    for k in range(1, max(printed) + 1):
        left -= allocation.rounded_down(0.2 * left)
        percents[k] = round(100 * (left + sizes["output.weight"]) / sum(sizes.values()), 1)
    assert {k: percents[k] for k in printed} == printed


def test_rates_are_by_kind_of_layer():
    settings = Settings(architecture="conv2", prune_conv=0.15, prune_fc=0.25, prune_output=0.05, widths=(9, 8))
    rates = layer_rates(settings, build(settings, CIFAR10, 10))
    assert rates == {
        "conv1.weight": 0.15,
        "conv2.weight": 0.15,
        "fc1.weight": 0.25,
        "fc2.weight": 0.25,
        "output.weight": 0.05,
    }


def test_a_layer_may_have_a_rate_of_its_own():
    settings = Settings(architecture="conv2", prune_layers={"fc1": 0.5, "conv2": 0.0})
    rates, by_kind = (layer_rates(s, build(s, CIFAR10, 10)) for s in (settings, Settings(architecture="conv2")))
    assert rates == by_kind | {"fc1.weight": 0.5, "conv2.weight": 0.0}
    again = Settings(architecture="conv2", prune_layers=[["fc1", 0.5], ["conv2", 0.0]])  # pairs, as in run.json
    assert again == settings and again.key == settings.key != Settings(architecture="conv2").key
    with pytest.raises(LabError, match=r"prune_layers = 'fc9' .did you mean 'fc2'"):
        check_settings(settings.changed(prune_layers={"fc9": 0.5}))
    for wrong in (
        {"fc1": 1.0}, {"fc1": "x"}, {1: 0.2}, {"fc1": False}, "fc1", [["fc1", 0.2], ["fc1", 0.3]],
        [["fc1", 0.2], ["fc1", "x"]],
    ):  # fmt: skip
        with pytest.raises(LabError, match="prune_layers"):
            settings.changed(prune_layers=wrong)


@pytest.mark.parametrize("kept", [12_926_688, 1_358_431, 17_155_533, 19_575_053, 7_329_722])
def test_a_share_of_a_large_network_is_the_count_that_it_was_made_of(kept):
    """Converting a number of kept weights to a density and back, as SynFlow does, must be exact despite rounding."""
    model = outline(Settings(architecture="vgg19"), CIFAR10, 10)
    sizes = [m.numel() for m in masks.full_mask(model).values()]
    assert sum(sizes) == 20_024_000
    density = kept / sum(sizes)
    assert allocation.rounded_down(sum((1 - density) * size for size in sizes)) == sum(sizes) - kept


# Counts and order


@given(SIZES, PERCENT, SEED)
def test_prune_drops_exactly_the_floor_of_the_rate(sizes, percent, seed):
    worth, mask = layers(sizes, seed, values=5)
    pruned = prune(worth, mask, dict.fromkeys(mask, percent / 100))
    for name, m in mask.items():
        left = int(m.sum())
        assert int(pruned[name].sum()) == left - percent * left // 100


@pytest.mark.parametrize(("rate", "n", "dropped"), [(0.29, 100, 29), (0.57, 100, 57), (0.1, 30, 3), (0.2, 4, 0)])
def test_rounding_of_the_rate_costs_no_weight(rate, n, dropped):
    pruned = prune({"w": torch.zeros(n)}, {"w": torch.ones(n, dtype=torch.bool)}, {"w": rate})
    assert masks.weights_left(pruned) == n - dropped


@given(SIZES, PERCENT, SEED, st.sampled_from(["layer", "global"]))
def test_pruned_mask_is_new_and_nested(sizes, percent, seed, scope):
    worth, mask = layers(sizes, seed)
    before = {name: m.clone() for name, m in mask.items()}
    pruned = prune(worth, mask, dict.fromkeys(mask, percent / 100), scope)
    assert masks.is_nested(pruned, mask)
    assert masks.equal(mask, before)


@given(SIZES, PERCENT, SEED, st.sampled_from([2, 10**6]))
def test_layer_scope_drops_what_a_plain_loop_drops(sizes, percent, seed, values):
    worth, mask = layers(sizes, seed, values)
    expected = mask
    for name, m in mask.items():
        expected = lowest(worth, expected, [name], percent * int(m.sum()) // 100)
    assert masks.equal(prune(worth, mask, dict.fromkeys(mask, percent / 100)), expected)


@given(SIZES, st.lists(PERCENT, min_size=4, max_size=4), SEED, st.sampled_from([2, 10**6]))
def test_global_scope_drops_what_a_plain_loop_drops(sizes, percents, seed, values):
    worth, mask = layers(sizes, seed, values)
    percent = dict(zip(mask, percents, strict=False))
    pruned = prune(worth, mask, {name: p / 100 for name, p in percent.items()}, scope="global")
    names = [name for name in mask if percent[name]]
    dropped = masks.weights_left(mask) - masks.weights_left(pruned)
    exact = sum(percent[name] * int(mask[name].sum()) for name in names)
    assert dropped == exact // 100  # of all layers together: each rounded down alone would drop fewer
    assert masks.equal(pruned, lowest(worth, mask, names, dropped))


def test_global_scope_may_take_all_from_the_weakest_layer():
    worth = {"weak": torch.arange(10.0), "strong": torch.arange(100.0, 110.0)}
    mask = {name: torch.ones(10, dtype=torch.bool) for name in worth}
    pruned = prune(worth, mask, {"weak": 0.5, "strong": 0.5}, scope="global")
    assert masks.counts(pruned) == {"weak": 0, "strong": 10}


def test_erk_keeps_weights_in_proportion_to_a_layers_dimensions():
    """LeNet at 25%: the output layer would keep 4,592 of 1,000 weights, so it stays whole; others share the rest."""
    shapes = {"fc1": (300, 784), "fc2": (100, 300), "output": (10, 100)}
    kept = {name: d * shapes[name][0] * shapes[name][1] for name, d in erk_densities(shapes, 0.75).items()}
    each = (266_200 / 4 - 1000) / (300 + 784 + 100 + 300)
    assert kept == pytest.approx({"fc1": 1084 * each, "fc2": 400 * each, "output": 1000})
    kernels = erk_densities({"conv1": (64, 3, 3, 3), "conv2": (128, 64, 3, 3)}, 0.95)  # 73 and 198: sums of dimensions
    assert kernels["conv1"] == pytest.approx(0.05 * (1728 + 73_728) * 73 / (73 + 198) / 1728)


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=5), st.floats(0, 0.999))
def test_erk_densities_are_shares_that_add_up(shapes, sparsity):
    shapes = {f"w{i}": shape for i, shape in enumerate(shapes)}
    sizes = {name: a * b for name, (a, b) in shapes.items()}
    found = erk_densities(shapes, sparsity)
    assert all(0 < density <= 1 for density in found.values())
    assert sum(found[n] * sizes[n] for n in sizes) == pytest.approx((1 - sparsity) * sum(sizes.values()))
    thinned = [found[n] * sizes[n] / sum(shapes[n]) for n in sizes if found[n] < 1]
    assert thinned == pytest.approx([thinned[0]] * len(thinned)) if thinned else sparsity < 1e-6


def test_scores_that_are_no_numbers_are_refused_where_layers_are_guarded_too():
    worth, mask = {"w": torch.tensor([NAN, 1.0, 2.0, 3.0])}, {"w": torch.ones(4, dtype=torch.bool)}
    for guard in (0.0, 0.5):
        with pytest.raises(LabError, match="not numbers"):
            prune(worth, mask, {"w": 0.25}, keep_at_least=guard)


def test_ties_go_by_index():
    pruned = prune({"w": torch.ones(2, 5)}, {"w": torch.ones(2, 5, dtype=torch.bool)}, {"w": 0.6})
    assert pruned["w"].int().tolist() == [[0, 0, 0, 0, 0], [0, 1, 1, 1, 1]]


def test_lowest_scores_go_first_whatever_their_sign():
    worth = {"w": torch.tensor([INF, -1.0, 0.0, -INF, 3.0])}
    full = {"w": torch.ones(5, dtype=torch.bool)}
    assert prune(worth, full, {"w": 0.4})["w"].tolist() == [True, False, True, False, True]


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_a_layer_of_rate_zero_is_left_alone(scope):
    worth = {"kept": torch.zeros(10), "cut": torch.ones(10)}
    mask = {name: torch.ones(10, dtype=torch.bool) for name in worth}
    assert masks.counts(prune(worth, mask, {"kept": 0.0, "cut": 0.5}, scope)) == {"kept": 10, "cut": 5}
    assert masks.equal(prune(worth, mask, {"kept": 0.0, "cut": 0.0}, scope), mask)


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_nothing_is_left_to_prune_in_an_empty_layer(scope):
    mask = {"empty": torch.zeros(5, dtype=torch.bool), "full": torch.ones(5, dtype=torch.bool)}
    pruned = prune({name: torch.arange(5.0) for name in mask}, mask, {"empty": 0.2, "full": 0.2}, scope)
    assert masks.counts(pruned) == {"empty": 0, "full": 4}


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_scores_that_are_not_numbers_are_refused(scope):
    mask = {"w": torch.tensor([True, True, True, False])}
    with pytest.raises(LabError, match="scores of w are not numbers"):
        prune({"w": torch.tensor([1.0, NAN, 2.0, 3.0])}, mask, {"w": 0.5}, scope)
    pruned = prune({"w": torch.tensor([1.0, 3.0, 2.0, NAN])}, mask, {"w": 0.5}, scope)
    assert pruned["w"].tolist() == [False, True, True, False]


def test_unknown_scope_names_the_nearest():
    with pytest.raises(LabError, match=r"scope = 'layers' .*did you mean 'layer'"):
        prune({}, {}, {}, scope="layers")


@given(SIZES, st.lists(PERCENT, min_size=1, max_size=5), SEED)
def test_repeated_pruning_by_the_same_scores_is_one_shot(sizes, percents, seed):
    worth, start = layers(sizes, seed, values=20)
    mask = start
    for percent in percents:
        mask, before = prune(worth, mask, dict.fromkeys(mask, percent / 100)), mask
        assert masks.is_nested(mask, before)
    expected = start
    for name, m in start.items():
        expected = lowest(worth, expected, [name], int(m.sum() - mask[name].sum()))
    assert masks.equal(mask, expected)
    rates = {name: 1 - int(mask[name].sum()) / max(1, int(m.sum())) for name, m in start.items()}
    assert masks.equal(mask, prune(worth, start, rates))


# Pruning to a sparsity


@given(SIZES, PERCENT, SEED, st.sampled_from(["layer", "global"]))
def test_prune_to_leaves_a_sparsity_to_one_weight_and_drops_the_lowest(sizes, percent, seed, scope):
    worth, mask = layers(sizes, seed, values=20)
    names = list(mask)[:-1] or list(mask)  # the last of several layers is left alone
    expected = mask
    for group in [[name] for name in names] if scope == "layer" else [names]:
        size, left = (sum(int(count(mask[name])) for name in group) for count in (torch.numel, torch.sum))
        expected = lowest(worth, expected, group, max(0, percent * size // 100 - (size - left)))
    assert masks.equal(prune_to(worth, mask, percent / 100, names, scope), expected)


def test_a_sparsity_is_of_all_layers_together_unless_each_is_asked_for():
    worth = {"weak": torch.arange(10.0), "strong": torch.arange(100.0, 110.0)}
    mask = masks.full_mask({name: w.view(1, 10) for name, w in worth.items()})
    assert masks.counts(prune_to(worth, mask, 0.5, list(mask))) == {"weak": 0, "strong": 10}
    assert masks.counts(prune_to(worth, mask, 0.5, list(mask), "layer")) == {"weak": 5, "strong": 5}


# PyTorch's own pruning as the oracle


@given(SEED)
def test_three_rounds_keep_what_l1_unstructured_keeps(seed):
    (weight,) = distinct((20, 10), seed=seed)
    linear = nn.Linear(10, 20)
    linear.weight.data = weight.clone()
    mask = masks.full_mask({"weight": weight})
    for _ in range(3):
        torch_prune.l1_unstructured(linear, "weight", amount=0.3)
        mask = prune({"weight": weight.abs()}, mask, {"weight": 0.3})
        assert torch.equal(mask["weight"], linear.weight_mask.bool())


@given(SEED)
def test_global_scope_keeps_what_global_unstructured_keeps(seed):
    weights = dict(zip("abc", distinct((10, 4), (5, 10), (20, 10), seed=seed), strict=True))
    modules = {name: nn.Linear(*reversed(w.shape)) for name, w in weights.items()}
    for name, module in modules.items():
        module.weight.data = weights[name].clone()
    torch_prune.global_unstructured([(m, "weight") for m in modules.values()], torch_prune.L1Unstructured, amount=0.3)
    worth = {name: w.abs() for name, w in weights.items()}
    mask = prune(worth, masks.full_mask(weights), dict.fromkeys(weights, 0.3), scope="global")
    assert all(torch.equal(mask[name], module.weight_mask.bool()) for name, module in modules.items())


# Criteria

INITIAL, BEST, FINAL = (torch.tensor([row]) for row in ([1.0, -2.0, 3.0], [-1.0, -1.5, 2.0], [-3.0, -1.0, 0.0]))
NO_DATA = Data(None, None, None, "", classes=10)


def seen(
    initial: Weights, final: Weights, best: Weights | None = None, seed: int = 0, data: Data = NO_DATA
) -> PruningContext:
    return PruningContext(Settings(), data, masks.full_mask(initial), initial, best or final, final, seed)


@pytest.mark.parametrize(
    ("criterion", "worth"),
    [
        ("magnitude", [[3.0, 1.0, 0.0]]),
        ("magnitude_at_init", [[1.0, 2.0, 3.0]]),
        ("magnitude_increase", [[2.0, -1.0, -3.0]]),
        ("movement", [[4.0, 1.0, 3.0]]),
        ("magnitude_same_sign", [[0.0, 1.0, 0.0]]),
        ("small_magnitude", [[-3.0, -1.0, 0.0]]),
        ("small_magnitude_at_init", [[-1.0, -2.0, -3.0]]),
        ("large_init_large_final", [[1.0, 1.5, 0.0]]),  # min(1.5 |w_T|, |w_0|)
        ("late_movement", [[2.0, 0.5, 2.0]]),
        ("late_stillness", [[-2.0, -0.5, -2.0]]),
        ("unit_l1", [pytest.approx(4 / 3)]),
        ("unit_l2", [pytest.approx((10 / 3) ** 0.5)]),
    ],
)
def test_criterion_scores_what_its_definition_says(criterion, worth):
    what = seen({"fc1.weight": INITIAL}, {"fc1.weight": FINAL}, {"fc1.weight": BEST})
    assert scores_of(criterion, what)["fc1.weight"].tolist() == worth


@pytest.mark.parametrize(("scale", "worth"), [(0.01, [[1.0, 1.5, 0.0]]), (0.0, [[0.0, 0.0, 0.0]])])
def test_large_at_both_ends_is_a_matter_of_the_ratio_of_means(scale, worth):
    """Scores do not depend on the scale of the trained weights, and are not nan if all of these are zero."""
    what = seen({"fc1.weight": INITIAL}, {"fc1.weight": scale * FINAL})
    assert scores_of("large_init_large_final", what)["fc1.weight"].tolist() == [pytest.approx(worth[0])]


def test_a_weight_that_started_at_zero_has_no_sign_to_keep():
    what = seen({"fc1.weight": torch.tensor([[0.0, 0.0, 1.0]])}, {"fc1.weight": torch.tensor([[2.0, 0.0, 2.0]])})
    assert scores_of("magnitude_same_sign", what)["fc1.weight"].tolist() == [[0.0, 0.0, 2.0]]


@pytest.mark.parametrize("criterion", [name for name, c in CRITERIA.items() if c.prunes == "weights"])
def test_every_criterion_scores_every_prunable_weight(criterion):
    settings = Settings(dataset="digits", architecture="conv2", widths=(9, 8), validation=0, device="cpu")
    data = load(settings)
    start = build(settings, data.shape, 10).state_dict()
    before, mask = {name: w.clone() for name, w in start.items()}, masks.full_mask(start)
    final = {name: w + 1 for name, w in start.items()}
    worth = scores_of(criterion, PruningContext(settings, data, mask, start, final, final, 0))
    assert {name: s.shape for name, s in worth.items()} == {name: m.shape for name, m in mask.items()}
    assert all(torch.equal(start[name], w) for name, w in before.items())


def test_random_scores_follow_from_their_seed():
    start = {"fc1.weight": torch.zeros(20, 20)}
    once, again, other = (scores_of("random", seen(start, start, seed=s))["fc1.weight"] for s in (0, 0, 1))
    assert torch.equal(once, again) and not torch.equal(once, other)


def test_random_scores_of_equal_layers_differ():
    start = {"fc1.weight": torch.zeros(20, 20), "fc2.weight": torch.zeros(20, 20)}
    worth = scores_of("random", seen(start, start))
    assert not torch.equal(worth["fc1.weight"], worth["fc2.weight"])


def test_mean_activation_is_what_the_units_put_out():
    settings = Settings(dataset="digits", architecture="conv2", widths=(9, 8), validation=0, device="cpu")
    data = load(settings)
    model = build(settings, data.shape, 10)
    weights = initial_weights(model, settings, 0)
    model.load_state_dict(weights)
    worth = unit_activation(PruningContext(settings, data, masks.full_mask(weights), weights, weights, weights, 0))
    with torch.no_grad():
        first = model.conv1(data.train.images[:1000]).relu()
        dense = model[: list(dict(model.named_children())).index("fc1_relu") + 1](data.train.images[:1000])
    torch.testing.assert_close(worth["conv1.weight"], first.mean((0, 2, 3)))
    torch.testing.assert_close(worth["fc1.weight"], dense.mean(0))


def test_unknown_criterion_names_the_nearest():
    with pytest.raises(LabError, match=r"criterion = 'magnitud' .*did you mean 'magnitude'"):
        scores_of("magnitud", seen({}, {}))


# The guard against layers that collapse


def test_a_guarded_layer_keeps_its_share_and_others_lose_in_its_place():
    worth = {"a.weight": torch.arange(10.0).view(1, 10), "b.weight": torch.arange(10.0, 40.0).view(3, 10)}
    mask, rates = masks.full_mask(worth), {"a.weight": 0.5, "b.weight": 0.5}
    plain = prune(worth, mask, rates, "global")
    assert masks.counts(plain) == {"a.weight": 0, "b.weight": 20}  # collapsed
    guarded = prune(worth, mask, rates, "global", keep_at_least=0.3)
    assert masks.counts(guarded) == {"a.weight": 3, "b.weight": 17}  # the same number of weights in all
    assert guarded["a.weight"].flatten().nonzero().flatten().tolist() == [7, 8, 9]  # those with the highest scores
    once_more = prune(worth, guarded, {"a.weight": 0.99, "b.weight": 0.99}, "global", keep_at_least=0.3)
    assert masks.counts(once_more) == {"a.weight": 3, "b.weight": 9}  # nothing goes below the guard


@pytest.mark.parametrize(
    ("size", "share", "kept"), [(7, 0.3, 3), (10, 0.01, 1), (10, 0.3, 3), (100, 0.07, 7), (100, 0.28, 28)]
)
def test_the_guard_keeps_no_less_than_its_share(size, share, kept):
    """A fractional number of weights is rounded up, so that no guarded layer, however small, is emptied."""
    worth = {
        "small.weight": torch.arange(float(size)).view(1, size),
        "large.weight": torch.arange(50.0, 250).view(2, 100),
    }
    pruned = prune(worth, masks.full_mask(worth), dict.fromkeys(worth, 0.9), "global", keep_at_least=share)
    assert masks.counts(pruned)["small.weight"] == kept


def test_a_layer_that_has_less_left_than_the_guards_share_loses_nothing():
    worth = {"a.weight": torch.arange(10.0).view(1, 10), "b.weight": torch.arange(10.0, 40.0).view(3, 10)}
    mask = masks.full_mask(worth) | {"a.weight": torch.tensor([[True, True] + [False] * 8])}
    guarded = prune(worth, mask, {"a.weight": 0.5, "b.weight": 0.5}, "global", keep_at_least=0.5)
    assert masks.counts(guarded) == {"a.weight": 2, "b.weight": 15}  # 16 should be pruned, but only 15 may be
    assert masks.equal({"a": guarded["a.weight"]}, {"a": mask["a.weight"]})


def test_a_mask_of_transposed_memory_is_pruned_at_its_own_places():
    mask = {"w": torch.ones(5, 2, dtype=torch.bool).T}
    pruned = prune({"w": torch.arange(10.0).view(2, 5)}, mask, {"w": 0.3})
    assert pruned["w"].flatten().tolist() == [False] * 3 + [True] * 7 and pruned["w"].is_contiguous()


def test_of_equal_scores_the_first_go_under_a_guard_too():
    worth, mask = {"w": torch.zeros(4, 5)}, {"w": torch.ones(4, 5, dtype=torch.bool)}
    alone, guarded = (prune(worth, mask, {"w": 0.5}, keep_at_least=guard) for guard in (0.0, 0.2))
    assert alone["w"].flatten().tolist() == [False] * 10 + [True] * 10
    kept = guarded["w"].flatten().tolist()
    assert kept == [True] * 4 + [False] * 10 + [True] * 6  # the guard protects the first four, a fifth of the weights


def test_large_at_both_ends_weighs_the_ends_by_what_is_left():
    """Means are over remaining weights only. Pruned ones, zero at the end but not at the start, would distort them."""
    initial = {"fc1.weight": torch.tensor([[2.0, 4.0, 9.0, 9.0]])}
    final = {"fc1.weight": torch.tensor([[1.0, 0.5, 0.0, 0.0]])}
    left = {"fc1.weight": torch.tensor([[True, True, False, False]])}
    what = PruningContext(Settings(), None, left, initial, final, final, 0)
    scores = scores_of("large_init_large_final", what)["fc1.weight"]
    assert scores[0, :2].tolist() == [2.0, 2.0]  # min(4 |w_T|, |w_0|)
