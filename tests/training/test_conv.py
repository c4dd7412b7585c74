"""Hand-written convolutional networks match PyTorch: to rounding in float32, as closely as autocast in bfloat16."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lthcore import masks
from lthcore.data.datasets import Data, Split, load
from lthcore.errors import LabError
from lthcore.lottery.start import begin
from lthcore.models.build import build
from lthcore.models.layers import Residual
from lthcore.models.weights import initial_weights
from lthcore.settings import Settings
from lthcore.training.engines import conv, conv_layers
from lthcore.training.engines import conv_kernels as kernels
from lthcore.training.engines.dense import Dense
from lthcore.training.loop import engine_for, train

BASE = {"device": "cpu", "batch_size": 8, "learning_rate": 2e-3, "validation": 0, "iterations": 4, "eval_every": 2}
SGD = {"optimizer": "sgd", "learning_rate": 0.05, "momentum": 0.9, "weight_decay": 1e-3}
NETWORKS = {
    "conv2": ((3, 12, 10), {"architecture": "conv2", "widths": (24,)}),
    "conv4, valid": ((1, 22, 22), {"architecture": "conv4", "padding": "valid", "label_smoothing": 0.1}),
    "conv2, odd": ((3, 9, 7), {"architecture": "conv2", "widths": ()}),
    "resnet20": ((3, 16, 16), {"architecture": "resnet20", **SGD}),
    "resnet18": ((3, 8, 8), {"architecture": "resnet18", "batch_size": 4, **SGD}),
    "vgg_like": ((3, 16, 16), {"architecture": "vgg_like", "batch_size": 4, **SGD, "nesterov": True}),
    "dropout, clipped": ((3, 8, 8), {"architecture": "conv2", "widths": (24, 24), "dropout": 0.5, "clip_norm": 0.5}),
    "augmented": ((3, 12, 10), {"architecture": "conv2", "dataset": "cifar10", "augment": ("crop", "flip")}),
}  # fmt: skip
DEEP = ("resnet20", "resnet18", "vgg_like")


def start_of(shape, density=0.3, n=40, **values):
    """Return settings, random images and the start of a training run under a random mask."""
    settings, generator = Settings(**BASE | values), torch.Generator().manual_seed(0)
    images = torch.randn(n, *shape, generator=generator)
    split = Split(images, torch.randint(0, 10, (n,), generator=generator))
    weights = initial_weights(build(settings, shape, 10), settings, 0)
    for name, bias in weights.items():
        if name.endswith("bias"):  # with biases of zero, units of blank patches are at the kink of their rectifier
            bias.normal_(0, 0.1, generator=generator)
    mask = {name: torch.rand(m.shape, generator=generator) < density for name, m in masks.full_mask(weights).items()}
    return settings, Data(split, None, split, "", classes=10), begin(settings, 0, 0, weights, mask)


def gradients_of(settings, data, state, batch):
    engine = engine_for(settings, data, [copy.deepcopy(state)])
    engine.gradients(data, batch)
    return engine, {name: p.grad.clone() for name, p in engine.parameters.items()}


def distance(a, b):
    """Return the norm of the difference of two gradients, relative to the norm of the second."""
    return float(
        torch.cat([(a[n] - b[n]).flatten() for n in b]).norm() / torch.cat([g.flatten() for g in b.values()]).norm()
    )


@pytest.mark.parametrize("network", NETWORKS)
def test_gradients_are_those_of_autograd(network, monkeypatch):
    shape, values = NETWORKS[network]
    if network in DEEP:  # see the next test
        monkeypatch.setattr(conv_layers.winograd, "applies", lambda *about: False)
    settings, data, state = start_of(shape, **values)
    batch = torch.arange(settings.batch_size)[None]
    engine, ours = gradients_of(settings, data, state, batch)
    plain, expected = gradients_of(settings.changed(engine="dense"), data, state, batch)
    assert type(engine) is conv.ConvolutionalNetwork and type(plain) is Dense
    for name, gradient in expected.items():
        scale = float(gradient.abs().max()) + 1e-6
        assert torch.allclose(ours[name], gradient, rtol=1e-3, atol=2e-4 * scale), name
    for name, tensor in plain.model.state_dict().items():  # running statistics too
        assert torch.allclose(engine.model.state_dict()[name], tensor, rtol=1e-5, atol=1e-6), name


@pytest.mark.parametrize("network", DEEP)
def test_minimal_filtering_changes_gradients_of_deep_networks_by_rounding_alone(network):
    """Of their many rectifiers one may open by rounding: PyTorch's float32 gradients are up to 0.01 off its float64."""
    shape, values = NETWORKS[network]
    settings, data, state = start_of(shape, **values)
    batch = torch.arange(settings.batch_size)[None]
    _, ours = gradients_of(settings, data, state, batch)
    _, expected = gradients_of(settings.changed(engine="dense"), data, state, batch)
    assert distance(ours, expected) < 0.03


@pytest.mark.parametrize(("shape", "values"), NETWORKS.values(), ids=NETWORKS)
def test_evaluation_is_that_of_plain_pytorch(shape, values):
    settings, data, state = start_of(shape, **values)
    for name, tensor in state.weights.items():  # as if the norms had seen batches
        if name.endswith("running_mean"):
            tensor.normal_(generator=torch.Generator().manual_seed(1))
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 2, generator=torch.Generator().manual_seed(1))
    for precision, tolerance in (("float32", 1e-4), ("bfloat16", 0.05)):
        ours, plain = (
            engine_for(settings.changed(precision=precision, engine=engine), data, [copy.deepcopy(state)])
            for engine in ("auto", "dense")
        )
        [[(loss, accuracy)]], [[(expected, accuracy_there)]] = ours.evaluate(data.test), plain.evaluate(data.test)
        assert loss == pytest.approx(expected, rel=tolerance)
        assert accuracy == pytest.approx(accuracy_there, abs=0.001 if precision == "float32" else 0.1)


@pytest.mark.parametrize("name", ["conv2", "resnet20", "vgg_like"])
def test_bfloat16_is_as_near_to_float32_as_autocast_is(name):
    shape, values = NETWORKS[name]
    settings, data, state = start_of(shape, **values)
    batch = torch.arange(settings.batch_size)[None]
    _, exact = gradients_of(settings.changed(engine="dense"), data, state, batch)
    half = settings.changed(precision="bfloat16")
    _, ours = gradients_of(half, data, state, batch)
    _, autocast = gradients_of(half.changed(engine="dense"), data, state, batch)
    assert 0 < distance(ours, exact) < 1.25 * distance(autocast, exact)


def test_a_training_follows_that_of_plain_pytorch_and_keeps_pruned_weights_at_zero():
    settings, data, state = start_of((3, 8, 8), architecture="resnet20", **SGD)
    ours, plain = (
        list(train(settings.changed(engine=engine), data, copy.deepcopy(state)))[-1] for engine in ("auto", "dense")
    )
    assert masks.is_masked(ours.weights, ours.mask)
    assert ours.weights.keys() == plain.weights.keys() and ours.optimizer.keys() == plain.optimizer.keys()
    for name, w in plain.weights.items():
        assert torch.allclose(ours.weights[name], w, rtol=1e-2, atol=1e-3), name
    assert [p.test_loss for p in ours.curve] == pytest.approx([p.test_loss for p in plain.curve], rel=1e-3)


def test_early_stop_in_bfloat16_lies_within_the_spread_of_seeds():
    settings = Settings(
        dataset="digits", architecture="conv2", widths=(32,), validation=200, iterations=120, eval_every=10,
        learning_rate=2e-3, batch_size=30, device="cpu",
    )  # fmt: skip
    data, stops = load(settings), {}
    for precision in ("float32", "bfloat16"):
        s = settings.changed(precision=precision)
        starts = [initial_weights(build(s, data.shape, 10), s, seed) for seed in range(3)]
        ends = [list(train(s, data, begin(s, trial, 0, w)))[-1] for trial, w in enumerate(starts)]
        stops[precision] = [end.early_stop_point for end in ends]
    exact, half = stops["float32"], stops["bfloat16"]
    spread = max(p.val_loss for p in exact) - min(p.val_loss for p in exact)
    assert abs(np.mean([p.val_loss for p in half]) - np.mean([p.val_loss for p in exact])) < spread
    assert abs(np.mean([p.iteration for p in half]) - np.mean([p.iteration for p in exact])) <= 30


def test_networks_of_other_layers_are_left_to_plain_pytorch():
    odd = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.GELU(), torch.nn.Flatten(), torch.nn.Linear(144, 10))
    assert conv.layers_of(odd, torch.float32) is None
    pooled = [torch.nn.MaxPool2d(2), torch.nn.Flatten(), torch.nn.Linear(36, 10)]
    layers = [torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), *pooled]
    assert conv.layers_of(torch.nn.Sequential(*layers), torch.float32) is not None
    unrectified = torch.nn.Sequential(layers[0], *pooled)  # pooling compares numbers that must not be negative
    assert conv.layers_of(unrectified, torch.float32) is None
    settings = Settings(**BASE, architecture="lenet")
    assert not conv.applies(settings, build(settings, (1, 8, 8), 10), torch.device("cpu"))


@pytest.mark.parametrize("engine", ["auto", "stack"])
def test_a_convolutional_network_has_its_engine_unless_plain_pytorch_is_asked_for(engine):
    settings, device = Settings(**BASE, architecture="conv2"), torch.device("cpu")
    model = build(settings, (3, 8, 8), 10)
    assert conv.applies(settings.changed(engine=engine), model, device)
    assert not conv.applies(settings.changed(engine="dense"), model, device)


def changed(change):
    """Return a small network of supported layers, changed in place."""
    block = Residual(16, 16, 1)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        block,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )
    change(network)
    return network


@pytest.mark.parametrize("change", [
    lambda network: network[0].register_forward_hook(lambda module, x, y: 2 * y),
    lambda network: nn.utils.spectral_norm(network[6]),
    lambda network: network[1].eval(),
    lambda network: setattr(network[3], "conv2", nn.Conv2d(16, 16, 3, padding=1, padding_mode="circular", bias=False)),
    lambda network: setattr(network[3], "conv2", nn.Conv2d(16, 16, 4, padding="same", bias=False)),
])  # fmt: skip
def test_layers_that_compute_something_else_are_left_to_plain_pytorch(change):
    assert conv.layers_of(changed(lambda network: None), torch.float32) is not None
    assert conv.layers_of(changed(change), torch.float32) is None


def test_a_diverged_network_has_no_loss():
    settings, data, state = start_of((3, 8, 8), architecture="conv2", widths=(24,))
    state.weights["conv2.weight"][0] = float("nan")  # the rectifier behind it would turn it into 0
    [[(loss, _)]] = engine_for(settings, data, [state]).evaluate(data.test)
    assert np.isnan(loss)


def test_a_layer_may_be_flattened_twice():
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 8), nn.ReLU(), nn.Flatten(), nn.Linear(8, 10)
    )
    x, y = torch.randn(5, 3, 8, 8), torch.randint(0, 10, (5,))
    F.cross_entropy(network(x), y).backward()
    expected = [p.grad.clone() for p in network.parameters()]
    back = (network(x).softmax(1) - F.one_hot(y, 10)) / 5
    with torch.no_grad():
        layers = conv.layers_of(network, torch.float32)
        x = x.contiguous(memory_format=torch.channels_last)
        for layer in layers:
            x = layer.forward(x)
        for layer in reversed(layers):
            back = layer.backward(back)
    for parameter, gradient in zip(network.parameters(), expected, strict=True):
        assert torch.allclose(parameter.grad, gradient, atol=1e-5)


def test_a_norm_of_one_value_is_refused_as_by_pytorch():
    with pytest.raises(LabError, match="needs more than one value for each channel"):
        conv_layers.Norm(nn.BatchNorm2d(4)).forward(torch.randn(1, 4, 1, 1), False, None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_pooling_takes_the_first_of_equals_and_gives_its_gradient_to_it(dtype):
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-2, 3, (2, 3, 7, 6), generator=generator).to(dtype).to(memory_format=torch.channels_last)
    x.requires_grad_()
    pooled = F.max_pool2d(x.relu(), 2)
    gradient = torch.randn(pooled.shape, generator=generator).to(dtype).to(memory_format=torch.channels_last)
    pooled.backward(gradient)
    from lthcore.training.engines.conv_layers import PoolLayer

    layer = PoolLayer()
    with torch.no_grad():
        assert torch.equal(layer.forward(x.relu()), pooled)
        assert torch.equal(layer.backward(gradient), x.grad)


def test_numbers_are_rounded_to_bfloat16_as_torch_rounds_them():
    generator = torch.Generator().manual_seed(0)
    values = torch.cat([torch.randn(2000, generator=generator) * 10.0**k for k in range(-30, 30, 6)])
    ties = (torch.arange(256, dtype=torch.int32) * 2**8 + 0x3F800000).view(torch.float32)  # with half-way cases
    values = torch.cat([values, ties, torch.tensor([0.0, float("inf"), -float("inf"), 1e-40])]).numpy()
    bits = torch.from_numpy(values).bfloat16().view(torch.int16).numpy().view(np.uint16)[None]
    zeros, ones, out = np.zeros_like(bits), np.ones_like(values), np.empty_like(bits)
    kernels.normalise(zeros, ones, values, False, out)  # computes 0 x 1 + value
    assert np.array_equal(out, bits)
    kernels.normalise(bits, ones, np.zeros_like(values), False, out)  # to float32 and back
    assert np.array_equal(out, bits)


def test_column_sums_are_exact_to_single_precision_over_many_rows():
    x = np.random.RandomState(0).randn(100_000, 16).astype(np.float32) + 3
    total, squares = np.zeros((2, 16))
    kernels.moments(x, np.zeros(16, np.float32), total, squares)
    assert total == pytest.approx(x.astype(np.float64).sum(0), rel=1e-6)
    assert squares == pytest.approx((x.astype(np.float64) ** 2).sum(0), rel=1e-6)


def test_the_variance_of_a_norm_keeps_its_digits_where_the_mean_is_large():
    module = nn.BatchNorm2d(4)
    module.running_mean += 1000
    x = 1000 + torch.randn(16, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    ours = conv_layers.Norm(module).forward(x.contiguous(memory_format=torch.channels_last), False, None)
    assert torch.allclose(ours.double(), F.batch_norm(x.double(), None, None, training=True), atol=1e-3)
