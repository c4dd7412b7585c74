"""Products in oneDNN are those of torch, on processors with instructions for bfloat16 and on others."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lthcore import onednn
from lthcore.lottery.start import begin
from lthcore.settings import Settings
from lthcore.training.engines.dense import Dense

able = pytest.mark.skipif(not onednn.HAS_BFLOAT16, reason="this processor has no instructions for bfloat16")
PROCESSORS = [pytest.param(True, marks=able, id="with bfloat16"), pytest.param(False, id="without bfloat16")]
ROUNDING = 2.0**-7  # a unit in the last place of bfloat16, relative
PADDING = [1, 1]


@pytest.fixture(params=PROCESSORS)
def operands(request, monkeypatch):
    """Return a convolution, and bfloat16 images and gradients of its output."""
    monkeypatch.setattr(onednn, "HAS_BFLOAT16", request.param)
    generator = torch.Generator().manual_seed(0)
    module = nn.Conv2d(6, 8, 3, stride=2, padding=1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator).bfloat16())  # exact in bfloat16
    x, gradient = torch.randn(4, 6, 9, 7, generator=generator), torch.randn(4, 8, 5, 4, generator=generator)
    return module, *(t.bfloat16().contiguous(memory_format=torch.channels_last) for t in (x, gradient))


def agree(ours, exact):
    """Whether a bfloat16 tensor is the exact one but for rounding; sums near zero may differ by the order of terms."""
    return ours.dtype == torch.bfloat16 and torch.allclose(ours.float(), exact, rtol=ROUNDING, atol=1e-4)


@pytest.mark.parametrize("relu", [False, True])
def test_a_convolution_in_bfloat16_is_the_exact_one_but_for_rounding(operands, relu):
    module, x, _ = operands
    weight, bias = module.weight.detach().bfloat16(), module.bias.detach().bfloat16()
    exact = module(x.float()).detach()
    assert agree(onednn.convolve(x, weight, bias, module, PADDING, relu), exact.relu() if relu else exact)
    shortcut = torch.ones_like(exact).bfloat16()
    added = onednn.convolve_and_add(x, weight, bias, shortcut, module, PADDING, relu)
    assert agree(added, (exact + 1).relu() if relu else exact + 1)


def test_gradients_of_a_convolution_in_bfloat16_are_those_of_autograd_but_for_rounding(operands):
    module, x, gradient = operands
    images = x.float().requires_grad_()
    module(images).backward(gradient.float())
    back, weight, bias = onednn.convolution_gradients(gradient, x, module.weight.detach().bfloat16(), module, PADDING)
    for ours, exact in ((back, images.grad), (weight, module.weight.grad), (bias, module.bias.grad)):
        assert agree(ours, exact)
    first = onednn.convolution_gradients(
        gradient, x, module.weight.detach().bfloat16(), module, PADDING, of_images=False
    )
    assert first[0] is None and torch.equal(first[1], weight)


@pytest.mark.parametrize("channels", [2, 3, 5])
def test_strided_convolutions_of_single_pixels_overwrite_no_memory(channels):
    """They equal convolutions of every second pixel. Channels last, oneDNN would overwrite memory, and crash."""
    module = nn.Conv2d(channels, 4, 1, stride=2, bias=False)
    for _ in range(10):
        x, gradient = torch.randn(60, channels, 16, 16), torch.randn(60, 4, 8, 8)
        exact = torch.einsum("nohw,nihw->oi", gradient.double(), x[:, :, ::2, ::2].double())
        last = (t.contiguous(memory_format=torch.channels_last) for t in (gradient, x, module.weight.detach()))
        found = onednn.convolution_gradients(*last, module, [0, 0])[1]
        assert torch.allclose(found[:, :, 0, 0].double(), exact, rtol=1e-4, atol=1e-3)


def test_networks_with_such_convolutions_keep_their_layout_on_a_cpu():
    settings, cpu = Settings(dataset="digits", architecture="mlp", validation=200), torch.device("cpu")
    for channels, last in ((3, False), (16, True)):
        model = nn.Sequential(nn.Conv2d(2, channels, 3), nn.Conv2d(channels, 4, 1, stride=2))
        state = begin(settings, 0, 0, dict(model.state_dict()), {})
        weight = Dense(settings, model, cpu, [state]).model[0].weight
        assert weight.is_contiguous(memory_format=torch.channels_last) == last


@pytest.mark.parametrize("relu", [False, True])
def test_a_product_of_matrices_in_bfloat16_is_the_exact_one_but_for_rounding(operands, relu):
    a, b = operands[1].flatten(1), operands[2].flatten(1)[:, :20].repeat(3, 1)
    a, b, bias = a[:, :20].contiguous(), b.contiguous(), torch.linspace(-1, 1, 12).bfloat16()
    exact = F.linear(a.float(), b.float(), bias.float())
    assert agree(onednn.times_transposed(a, b, bias, relu), exact.relu() if relu else exact)
    assert agree(onednn.times(a, b.t()), a.float() @ b.t().float())
