"""Convolutions by minimal filtering are those of PyTorch in float64, up to the rounding of float32."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lthcore.training.engines import conv_layers, winograd

SHAPES = {  # images, padding
    "whole tiles": ((3, 8, 12), (1, 1)),
    "cut tiles": ((3, 9, 7), (1, 1)),
    "no padding": ((2, 14, 11), (0, 0)),
    "unequal padding": ((5, 6, 13), (2, 0)),
    "several parts": ((40, 8, 8), (1, 1)),  # 160 tiles, of which 128 are transformed at once
    "large images": ((2, 48, 48), (1, 1)),  # 144 tiles in each: an image at a time
}

MODULE = nn.Conv2d(48, 64, 3)  # its padding is given apart


def case(n, height, width, channels=48, outputs=64):
    """Return images, a weight and a bias, all random."""
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (
        torch.randn(s, generator=generator)
        for s in ((n, channels, height, width), (outputs, channels, 3, 3), (outputs,))
    )
    return x.contiguous(memory_format=torch.channels_last), weight, bias


def exact(x, weight, bias, padding, gradient=None):
    """Return the convolution in float64, and the gradients of x, the weight and the bias if `gradient` is given."""
    leaves = [tensor.double().requires_grad_() for tensor in (x, weight, bias)]
    out = F.conv2d(*leaves, padding=padding)
    return out.detach(), () if gradient is None else torch.autograd.grad(out, leaves, gradient.double())


def error(found, expected):
    return float((found.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize(("images", "padding"), SHAPES.values(), ids=SHAPES)
def test_convolution_and_its_gradients_are_those_of_float64(images, padding):
    x, weight, bias = case(*images)
    out = winograd.convolve(x, weight, bias, MODULE, padding)
    gradient = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    gradient = gradient.contiguous(memory_format=torch.channels_last)
    expected, of_leaves = exact(x, weight, bias, padding, gradient)
    found = winograd.gradients(gradient, x, weight, MODULE, padding)
    assert out.shape == expected.shape and out.is_contiguous(memory_format=torch.channels_last)
    assert [tensor.shape for tensor in found] == [tensor.shape for tensor in of_leaves]
    assert error(out, expected) < 1e-5
    assert all(error(*pair) < 1e-5 for pair in zip(found, of_leaves, strict=True))
    without = winograd.gradients(gradient, x, weight, MODULE, padding, of_images=False)
    assert without[0] is None and torch.equal(without[1], found[1])


def test_rectifier_bias_and_missing_bias():
    x, weight, bias = case(2, 8, 8)
    plain, shifted = (winograd.convolve(x, weight, b, MODULE, [1, 1]) for b in (None, bias))
    assert torch.allclose(shifted, plain + bias.view(1, -1, 1, 1), atol=1e-5)
    assert torch.equal(winograd.convolve(x, weight, bias, MODULE, [1, 1], relu=True), shifted.relu())
    assert winograd.gradients(plain, x, weight, nn.Conv2d(48, 64, 3, bias=False), [1, 1])[2] is None


def test_bfloat16_is_rounded_once_at_the_end():
    x, weight, bias = (tensor.bfloat16() for tensor in case(4, 8, 8))
    out = winograd.convolve(x, weight, bias, MODULE, [1, 1])
    expected, _ = exact(x, weight, bias, [1, 1])
    assert out.dtype == torch.bfloat16
    assert ((out.double() - expected).abs() <= 2**-8 * expected.abs() + 1e-4).all()


def test_no_images_give_no_output():
    x, weight, bias = case(0, 8, 8)
    assert winograd.convolve(x, weight, bias, MODULE, [1, 1]).shape == (0, 64, 8, 8)


def test_nan_shows():
    x, weight, bias = case(1, 8, 8)
    x[0, 0, 0, 0] = float("nan")
    assert winograd.convolve(x, weight, bias, MODULE, [1, 1]).isnan().any()


@pytest.mark.parametrize(
    ("module", "size", "possible"),
    [
        (nn.Conv2d(64, 64, 3, padding=1), 32, True),
        (nn.Conv2d(64, 64, 3), 14, True),
        (nn.Conv2d(64, 64, 3, padding=1), 2, False),  # a tile of 4x4 for 2x2 pixels saves no multiplication
        (nn.Conv2d(64, 64, 3), 2, False),  # nothing is left of the images
        (nn.Conv2d(3, 64, 3, padding=1), 32, False),
        (nn.Conv2d(64, 72, 3, padding=1), 32, False),  # channels are transformed 16 at a time
        (nn.Conv2d(64, 64, 3, padding=1, stride=2), 32, False),
        (nn.Conv2d(64, 64, 3, padding=2, dilation=2), 32, False),
        (nn.Conv2d(64, 64, 3, padding=1, groups=2), 32, False),
        (nn.Conv2d(64, 64, 1), 32, False),
    ],
)
def test_convolutions_to_which_it_applies(module, size, possible):
    x = torch.zeros(1, module.in_channels, size, size)
    assert winograd.applies(module, x, list(module.padding)) is possible


@pytest.mark.parametrize(("dtype", "has_bfloat16", "used"), [
    (torch.float32, True, True), (torch.bfloat16, False, True), (torch.bfloat16, True, False),
])  # fmt: skip
def test_it_is_used_where_products_are_float32(monkeypatch, dtype, has_bfloat16, used):
    monkeypatch.setattr(conv_layers, "HAS_BFLOAT16", has_bfloat16)
    calls, convolve = [], winograd.convolve
    monkeypatch.setattr(winograd, "convolve", lambda *a: calls.append(a) or convolve(*a))
    layer = conv_layers.ConvolutionLayer(nn.Conv2d(64, 64, 3, padding=1), None, True, dtype)
    x = torch.randn(2, 64, 8, 8).to(dtype).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        layer.forward(x)
    assert bool(calls) is used
