"""Models: networks have the sizes stated in the papers, and their initial weights depend on the seed alone."""

import ast
import math
import threading
from collections import OrderedDict
from functools import partial
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from lthcore.errors import LabError
from lthcore.lottery.search import initial_weights_of
from lthcore.masks import counts, full_mask
from lthcore.models.build import build
from lthcore.models.layers import Dropout
from lthcore.models.prunable import kinds_of
from lthcore.models.weights import initial_weights
from lthcore.onednn import Linear
from lthcore.registry import MODELS
from lthcore.settings import Settings

MNIST, CIFAR10 = (1, 28, 28), (3, 32, 32)
ROOT = Path(__file__).parents[1]


def lenet(**values):
    settings = Settings(**values)
    return build(settings, MNIST, 10), settings


@pytest.mark.parametrize(
    ("architecture", "shape", "weights"),
    [
        ("lenet", MNIST, 266_200),
        ("conv2", CIFAR10, 4_300_992),
        ("conv4", CIFAR10, 2_425_024),
        ("conv6", CIFAR10, 2_261_184),
        ("resnet20", CIFAR10, 270_896),
        ("vgg19", CIFAR10, 20_024_000),
        ("vgg_like", CIFAR10, 14_977_728),
        ("resnet18", CIFAR10, 11_164_352),
        ("resnet34", CIFAR10, 21_265_088),
    ],
)
def test_networks_have_as_many_weights_as_the_papers(architecture, shape, weights):
    model = build(Settings(architecture=architecture), shape, 10)
    assert sum(counts(full_mask(model.state_dict())).values()) == weights


@pytest.mark.parametrize(
    ("architecture", "convolutions"),
    [("conv2", [64, 64]), ("conv4", [64, 64, 128, 128]), ("conv6", [64, 64, 128, 128, 256, 256])],
)
def test_conv_networks_pool_after_every_second_convolution(architecture, convolutions):
    model = build(Settings(architecture=architecture), CIFAR10, 10)
    kinds = [layer for layer in model if not isinstance(layer, nn.ReLU)]
    blocks, dense = kinds[: 3 * len(convolutions) // 2], kinds[3 * len(convolutions) // 2 :]
    assert [layer.out_channels for layer in blocks if isinstance(layer, nn.Conv2d)] == convolutions
    assert all(isinstance(layer, nn.MaxPool2d) == (i % 3 == 2) for i, layer in enumerate(blocks))
    assert [layer.out_features for layer in dense if isinstance(layer, nn.Linear)] == [256, 256, 10]
    assert isinstance(model[-1], nn.Linear)


@pytest.mark.parametrize("architecture", MODELS)
@pytest.mark.parametrize("shape", [MNIST, CIFAR10, (1, 8, 8)])
def test_every_network_takes_every_image_shape(architecture, shape):
    if architecture.startswith("vgg") and shape == (1, 8, 8):
        with pytest.raises(LabError, match="too many poolings"):
            build(Settings(architecture=architecture), shape, 7)
        return
    model = build(Settings(architecture=architecture, widths=(5,)), shape, 7)
    assert model(torch.zeros(2, *shape)).shape == (2, 7)


@pytest.mark.parametrize("architecture", ["resnet18", "resnet34"])
def test_residual_networks_have_the_layers_of_torchvisions(architecture):
    """The sorted shapes of all weights are equal, except in the stem (3x3 instead of 7x7) and the output layer."""

    def shapes(model):
        return sorted(tuple(w.shape) for w in model.state_dict().values() if w.ndim and w.shape[0] not in (7, 1000))

    ours = build(Settings(architecture=architecture), CIFAR10, 7)
    theirs = getattr(torchvision.models, architecture)(weights=None)
    stems = {(64, 3, 3, 3), (64, 3, 7, 7)}
    assert [s for s in shapes(ours) if s not in stems] == [s for s in shapes(theirs) if s not in stems]


@pytest.mark.parametrize(("architecture", "theirs"), [("vgg19", "vgg19_bn"), ("vgg_like", "vgg16_bn")])
def test_vgg_networks_have_the_convolutions_of_torchvisions(architecture, theirs):
    def shapes(model):
        return [tuple(w.shape) for w in model.state_dict().values() if w.ndim == 4]

    assert shapes(build(Settings(architecture=architecture), CIFAR10, 10)) == shapes(
        getattr(torchvision.models, theirs)()
    )


def test_the_output_layer_is_the_layer_called_output_else_the_last_dense_one():
    def kinds(**layers):
        return list(kinds_of(nn.Sequential(OrderedDict(layers))).values())

    dense, convolution = partial(nn.Linear, 4, 4), partial(nn.Conv2d, 1, 1, 1)
    assert kinds(output=dense(), later=dense()) == ["output", "fc"]
    assert kinds(first=convolution(), output=convolution()) == ["conv", "output"]
    assert kinds(first=dense(), later=dense()) == ["fc", "output"]
    assert kinds(output=nn.Sequential(dense(), nn.ReLU(), dense())) == ["fc", "output"]  # `output` is a container


def test_a_layer_is_a_shortcut_by_its_whole_name():
    block = nn.Sequential(OrderedDict(shortcut=nn.Linear(4, 4), my_shortcut=nn.Linear(4, 4), output=nn.Linear(4, 2)))
    assert list(kinds_of(nn.Sequential(OrderedDict(block=block))).values()) == ["shortcut", "fc", "output"]


def test_kaiming_fan_out_is_torchs():
    settings = Settings(architecture="resnet20", initialisation="kaiming_fan_out")
    start = initial_weights(build(settings, CIFAR10, 10), settings, 0)
    for name in ("conv.weight", "stage2_block1.shortcut.weight", "output.weight"):
        w = start[name]
        fan_out = w.shape[0] * (w[0, 0].numel() if w.ndim == 4 else 1)
        assert w.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.1)


def test_a_residual_block_adds_its_input():
    model = build(Settings(architecture="resnet20"), CIFAR10, 10).eval()
    block = model.stage1_block1
    nn.init.zeros_(block.norm2.weight)
    x = torch.rand(2, 16, 8, 8)
    assert torch.equal(block(x), x)
    assert block.shortcut is None and model.stage2_block1.shortcut.stride == (2, 2)


def test_norms_start_as_the_identity():
    settings = Settings(architecture="resnet20")
    start = initial_weights(build(settings, CIFAR10, 10), settings, 0)
    assert (start["norm.weight"] == 1).all() and not start["norm.bias"].any()
    assert not start["norm.running_mean"].any() and (start["norm.running_var"] == 1).all()


def test_lenet_is_two_rectified_layers_and_a_linear_one():
    model, settings = lenet()
    w = initial_weights(model, settings, 0)
    w = {name: t + 0.1 if name.endswith("bias") else t for name, t in w.items()}
    model.load_state_dict(w)
    x = torch.randn(4, *MNIST, generator=torch.Generator().manual_seed(0))
    h = F.relu(x.flatten(1) @ w["fc1.weight"].T + w["fc1.bias"])
    h = F.relu(h @ w["fc2.weight"].T + w["fc2.bias"])
    torch.testing.assert_close(model(x), h @ w["output.weight"].T + w["output.bias"])


def test_widths_replace_the_dense_layers():
    shapes = {name: tuple(t.shape) for name, t in lenet(widths=(30, 20, 10))[0].state_dict().items() if t.ndim == 2}
    assert shapes == {
        "fc1.weight": (30, 784),
        "fc2.weight": (20, 30),
        "fc3.weight": (10, 20),
        "output.weight": (10, 10),
    }


def test_unknown_architecture_names_the_nearest():
    with pytest.raises(LabError, match="did you mean 'lenet'"):
        build(Settings(architecture="lenett"), MNIST, 10)


# Initial weights


def test_biases_start_at_zero():
    start = initial_weights(*lenet(), 0)
    biases = [t for name, t in start.items() if name.endswith("bias")]
    assert len(biases) == 3 and not any(bias.any() for bias in biases)


@pytest.mark.parametrize(
    ("initialisation", "std"),
    [
        ("glorot_normal", lambda fan_in, fan_out: math.sqrt(2 / (fan_in + fan_out))),
        ("glorot_uniform", lambda fan_in, fan_out: math.sqrt(2 / (fan_in + fan_out))),
        ("kaiming_normal", lambda fan_in, fan_out: math.sqrt(2 / fan_in)),
        ("kaiming_uniform", lambda fan_in, fan_out: math.sqrt(2 / fan_in)),
        ("gaussian", lambda fan_in, fan_out: 0.1),
    ],
)
@pytest.mark.parametrize("architecture", ["lenet", "conv2"])
def test_weights_start_with_the_mean_and_spread_of_their_initialisation(architecture, initialisation, std):
    settings = Settings(architecture=architecture, initialisation=initialisation, widths=(40, 30))
    for name, w in initial_weights(build(settings, CIFAR10, 10), settings, 0).items():
        if w.ndim >= 2:
            field = w[0, 0].numel()
            expected = std(w.shape[1] * field, w.shape[0] * field)
            assert float(w.std()) == pytest.approx(expected, rel=4 / math.sqrt(w.numel())), name
            assert abs(float(w.mean())) < 4 * expected / math.sqrt(w.numel()), name
            if initialisation.endswith("uniform"):
                assert float(w.abs().max()) == pytest.approx(math.sqrt(3) * expected, rel=0.05), name


def test_glorot_weights_are_gaussian_and_not_truncated():
    w = initial_weights(*lenet(), 0)["fc1.weight"]
    z = (w / w.std()).abs()
    within = [float((z < k).float().mean()) for k in (1, 2, 3)]
    assert within == pytest.approx([0.6827, 0.9545, 0.9973], abs=0.004)
    assert z.max() > 4


def test_initial_weights_follow_from_the_seed_alone():
    model, settings = lenet()
    first = initial_weights(model, settings, 5)
    nn.init.ones_(model.fc1.weight)
    again = initial_weights(lenet()[0], settings, 5)
    assert first.keys() == again.keys() and all(torch.equal(first[name], again[name]) for name in first)
    assert all(torch.equal(first[name], t) for name, t in initial_weights(model, settings, 5).items())
    other = initial_weights(model, settings, 6)
    assert not any(torch.equal(first[name], other[name]) for name in first if first[name].ndim >= 2)


def test_initial_weights_are_no_view_of_the_model():
    model, settings = lenet()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    for tensor in initial_weights(model, settings, 0).values():
        tensor.fill_(7.0)
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


def test_a_network_may_start_at_values_of_its_own(monkeypatch):
    def own_values(settings, shape, classes):
        layers = nn.Conv2d(shape[0], 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 26 * 26, classes)
        nn.init.constant_(layers[0].weight, 0.123)
        nn.init.zeros_(layers[1].weight)
        nn.init.normal_(layers[3].weight, mean=5.0)
        nn.init.constant_(layers[3].bias, -4.0)
        layers[1].running_mean.fill_(2.0)
        return nn.Sequential(*layers)

    monkeypatch.setitem(MODELS, "own_values", own_values)
    settings = Settings(architecture="own_values", initialisation="own")
    model = build(settings, MNIST, 10)
    one, same, other = (initial_weights(model, settings, seed) for seed in (1, 1, 2))
    assert (one["0.weight"] == 0.123).all() and not one["1.weight"].any() and (one["1.running_mean"] == 2.0).all()
    assert (one["3.bias"] == -4.0).all() and one["3.weight"].mean().item() == pytest.approx(5.0, abs=0.1)
    assert all(torch.equal(one[name], w) for name, w in same.items())
    assert not torch.equal(one["3.weight"], other["3.weight"])
    replaced = initial_weights(model, settings.changed(initialisation="glorot_normal"), 1)
    assert not replaced["3.bias"].any() and (replaced["1.weight"] == 1).all()


def test_building_and_drawing_leave_the_global_generator_alone():
    before = torch.random.get_rng_state()
    for initialisation in ("glorot_normal", "kaiming_normal", "kaiming_uniform", "gaussian", "own"):
        model, settings = lenet(initialisation=initialisation, dropout=0.5)
        initial_weights(model, settings, 0)
    assert torch.equal(before, torch.random.get_rng_state())


# Dropout


def seeded(rate: float, seed: int = 0) -> Dropout:
    layer = Dropout(rate)
    layer.generator = torch.Generator().manual_seed(seed)
    return layer


def test_dropout_follows_each_hidden_dense_layer_only():
    names = [name for name, module in lenet(dropout=0.5)[0].named_modules() if isinstance(module, Dropout)]
    assert names == ["fc1_dropout", "fc2_dropout"]
    assert not any(isinstance(module, Dropout) for module in lenet()[0].modules())


def test_dropout_keeps_the_expectation():
    y = seeded(0.25)(torch.ones(100_000))
    assert set(y.unique().tolist()) == {0.0, float(torch.tensor(1.0) / 0.75)}
    assert float(y.mean()) == pytest.approx(1.0, abs=0.01)


def test_dropout_is_inactive_in_evaluation():
    model, settings = lenet(dropout=0.5)
    plain = lenet()[0]
    start = initial_weights(model, settings, 0)
    model.load_state_dict(start)
    plain.load_state_dict(start)
    x = torch.ones(3, *MNIST)
    assert torch.equal(model.eval()(x), plain(x))
    assert not torch.equal(model.train()(x), plain(x))


def test_dropout_draws_from_its_own_generator():
    x, before = torch.ones(1000), torch.random.get_rng_state()
    layer = seeded(0.5)
    first, second = layer(x), layer(x)
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(first, seeded(0.5)(x)) and not torch.equal(first, second)
    assert not torch.equal(first, seeded(0.5, seed=1)(x))


def test_the_number_of_classes_is_nowhere_written_into_the_code():
    """`build` and `outline` get the number of classes from the data set and are never called with a constant."""
    for path in (ROOT / "lthcore").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("build", "outline"):
                assert not isinstance(node.args[2], ast.Constant), f"{path}, line {node.lineno}"


def test_a_dense_layer_without_a_bias_is_trained_too():
    ours, theirs = Linear(5, 3, bias=False), nn.Linear(5, 3, bias=False)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(4, 5)
    for layer in (ours, theirs):
        layer(x).square().sum().backward()
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad)


def test_networks_of_experiments_in_other_threads_do_not_change_a_network_that_is_drawn():
    settings = Settings(dataset="digits", architecture="mlp", initialisation="own")
    alone = initial_weights_of(settings, 0)
    ended = threading.Event()

    def others() -> None:
        while not ended.is_set():
            build(settings.changed(architecture="lenet"), (1, 8, 8), 10)

    thread = threading.Thread(target=others)
    thread.start()
    try:
        drawn = [initial_weights_of(settings, 0) for _ in range(100)]
    finally:
        ended.set()
        thread.join()
    assert all(torch.equal(weights[name], w) for weights in drawn for name, w in alone.items())
