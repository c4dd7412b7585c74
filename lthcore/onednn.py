"""Dense layers and convolutions that run in oneDNN on a CPU.

The products are the same as torch's own, but a fused rectifier turns nan into 0. torch computes those of dense layers
with MKL, which uses only narrow vectors on processors not made by Intel. There, oneDNN was measured to be twice as
fast for LeNet. Convolutions are fused with the rectifier and the addition that follow them.

Products of bfloat16 work on all processors. oneDNN refuses them on those without instructions for it (AVX-512, or
AVX-NE-CONVERT). They are then computed in float32 and the outcome is rounded to bfloat16, which is what these
instructions do: a product of two bfloat16 numbers is exact in float32, and sums are float32.
"""

from collections.abc import Callable
from functools import wraps

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

# the operators that torch.compile uses for oneDNN; if a build of torch lacks them, torch's own products are used
_MKLDNN = torch.ops.mkldnn if torch.backends.mkldnn.is_available() else None
_LINEAR = getattr(_MKLDNN, "_linear_pointwise", None)
_CONVOLUTION = getattr(_MKLDNN, "_convolution_pointwise", None)
_ADDED_CONVOLUTION = getattr(_MKLDNN, "_convolution_pointwise_", None)
BLOCK = 16  # channels that oneDNN computes together, on processors with AVX-512; on others fewer
HAS_BFLOAT16: bool = _MKLDNN is not None and torch.ops.mkldnn._is_mkldnn_bf16_supported()  # has this processor


class Linear(nn.Linear):
    """Dense layer, equal to `nn.Linear` up to rounding: (batch, inputs) -> (batch, outputs)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x @ weight.T + bias."""
        plain = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        if _LINEAR is None or not plain or x.ndim != 2 or self.bias is None:
            return super().forward(x)
        return _Product.apply(x, self.weight, self.bias)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return times_transposed(x, weight, bias)

    @staticmethod
    @once_differentiable  # a second derivative raises an error, instead of being zero
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        back = times_transposed(gradient, weight.t()) if ctx.needs_input_grad[0] else None
        return back, times_transposed(gradient.t(), x.t()), gradient.sum(0)


def _on_any_processor(operation: Callable) -> Callable:
    """Compute an operation of bfloat16 tensors in float32, and round its outcome, where oneDNN refuses bfloat16."""

    @wraps(operation)
    def computed(*arguments, **options) -> Tensor | tuple[Tensor | None, ...]:
        if HAS_BFLOAT16 or arguments[0].dtype != torch.bfloat16:
            return operation(*arguments, **options)
        found = operation(*(_converted(a, torch.float32) for a in arguments), **options)
        if isinstance(found, Tensor):
            return found.bfloat16()
        return tuple(_converted(tensor, torch.bfloat16) for tensor in found)

    return computed


def _converted(argument: object, dtype: torch.dtype) -> object:
    """Return a tensor in another dtype, and anything else as it is."""
    return argument.to(dtype) if isinstance(argument, Tensor) else argument


@_on_any_processor
def times_transposed(a: Tensor, b: Tensor, bias: Tensor | None = None, relu: bool = False) -> Tensor:
    """Return a @ b.T + bias, clipped at 0 if `relu`. Not for use with autograd."""
    if _LINEAR is not None:
        return _LINEAR(a, b, bias, "relu" if relu else "none", [], "")
    out = F.linear(a, b, bias)
    return out.relu_() if relu else out


@_on_any_processor
def times(a: Tensor, b: Tensor) -> Tensor:
    """Return a @ b. Not for use with autograd."""
    return a @ b


@_on_any_processor
def convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, module: nn.Conv2d, padding: list[int], relu: bool = False
) -> Tensor:
    """Return the convolution of images x (N, C, H, W), clipped at 0 if `relu`. Not for use with autograd.

    Stride, dilation and groups are those of `module`. `padding` is the number of pixels on each side: (height, width).
    """
    if _CONVOLUTION is not None:
        how = (padding, module.stride, module.dilation, module.groups)
        return _CONVOLUTION(x, weight, bias, *how, "relu" if relu else "none", [], "")
    out = F.conv2d(x, weight, bias, module.stride, padding, module.dilation, module.groups)
    return out.relu_() if relu else out


@_on_any_processor
def convolve_and_add(
    x: Tensor, weight: Tensor, bias: Tensor | None, shortcut: Tensor, module: nn.Conv2d, padding: list[int], relu: bool
) -> Tensor:
    """Return convolution + shortcut, clipped at 0 if `relu`; see `convolve`. May overwrite `shortcut`."""
    if _ADDED_CONVOLUTION is not None:
        how = (padding, module.stride, module.dilation, module.groups)
        after = ("relu" if relu else None, [], None)
        return _ADDED_CONVOLUTION.binary(shortcut, x, weight, bias, *how, "add", 1.0, *after)
    out = convolve(x, weight, bias, module, padding).add_(shortcut)
    return out.relu_() if relu else out


def overruns(module: nn.Module) -> bool:
    """Whether oneDNN writes beyond its memory in the weight gradient of a layer on a CPU, if channels are last.

    It does in strided 1x1 convolutions with few input channels: the process crashes, or its numbers are wrong
    (github.com/uxlfoundation/oneDNN/issues/6035).
    """
    points = isinstance(module, nn.Conv2d) and max(module.kernel_size) == 1 < max(module.stride)
    return points and module.in_channels // module.groups < BLOCK


@_on_any_processor
def convolution_gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, module: nn.Conv2d, padding: list[int], of_images: bool = True
) -> tuple[Tensor | None, Tensor, Tensor | None]:
    """Return the gradients of x, the weight and the bias of a convolution, given the gradient of its output.

    See `convolve`. The gradient of x is None unless `of_images`, that of the bias is None if `module` has no bias.
    """
    if overruns(module):
        gradient, x, weight = (tensor.contiguous() for tensor in (gradient, x, weight))
    return torch.ops.aten.convolution_backward(
        gradient, x, weight, [len(weight)], module.stride, padding, module.dilation, False, [0, 0], module.groups,
        [of_images, True, module.bias is not None],
    )  # fmt: skip
