"""Layers of convolutional networks on a CPU, with gradients computed by hand, for the engine in `conv`.

Convolutions run in oneDNN, fused with a rectifier that follows directly; those that oneDNN would compute in float32
take fewer multiplications by minimal filtering (`winograd`). Norms, rectifiers, residual additions and poolings would
take as long as the convolutions if each were a separate operation, so they run as compiled loops over memory
(`conv_kernels`). Images are channels last throughout.
"""

from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor, nn

from lthcore.errors import LabError
from lthcore.models.layers import Dropout, Residual
from lthcore.onednn import (
    HAS_BFLOAT16,
    convolution_gradients,
    convolve,
    convolve_and_add,
    times,
    times_transposed,
)
from lthcore.training.engines import conv_kernels as kernels
from lthcore.training.engines import winograd
from lthcore.training.engines.images import across, by_channel, channels_last, integers, rows_of


class Layer(ABC):
    """Part of a network: `forward` and `backward` for training; `prepare`, then `infer` for evaluation.

    By default it has no weights to prepare, and infers like it trains.
    """

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Return the output, and keep the tensors that `backward` needs."""

    @abstractmethod
    def backward(self, gradient: Tensor) -> Tensor | None:
        """Return the gradient of the input (None in the first layer), given the gradient of the output.

        Stores the gradients of the parameters in them. May overwrite `gradient`.
        """

    def prepare(self) -> None:  # noqa: B027 - nothing, unless a layer has weights
        """Read the current weights, for `infer` to use."""

    def infer(self, x: Tensor) -> Tensor:
        """Return the output in evaluation mode. May overwrite x."""
        return self.forward(x)


class Cast:
    """A parameter, or None, and its value in the dtype of products."""

    def __init__(self, parameter: nn.Parameter | None, dtype: torch.dtype) -> None:
        self.parameter, self.tensor = parameter, None
        if parameter is not None:
            exact = dtype == parameter.dtype
            self.tensor = parameter.detach() if exact else torch.empty_like(parameter, dtype=dtype, requires_grad=False)

    def refresh(self) -> Tensor | None:
        """Return the current value of the parameter in the dtype of products."""
        if self.parameter is not None and self.tensor.dtype != self.parameter.dtype:
            self.tensor.copy_(self.parameter.detach())
        return self.tensor

    def learn(self, gradient: Tensor | None) -> None:
        """Store the gradient of the loss in the parameter."""
        if self.parameter is None:
            return
        if self.parameter.grad is None:
            self.parameter.grad = torch.empty_like(self.parameter)
        self.parameter.grad.copy_(gradient)


class ConvolutionLayer(Layer):
    """A convolution with the norm and the rectifier that follow it, both optional."""

    def __init__(self, module: nn.Conv2d, norm: nn.BatchNorm2d | None, rectified: bool, dtype: torch.dtype) -> None:
        self.module, self.rectified = module, rectified
        self.weight, self.bias = Cast(module.weight, dtype), Cast(module.bias, dtype)
        self.norm = Norm(norm) if norm is not None else None
        sizes = zip(module.kernel_size, module.dilation, strict=True)
        self.padding = [d * (k - 1) // 2 if module.padding == "same" else 0 for k, d in sizes]
        if not isinstance(module.padding, str):
            self.padding = list(module.padding)
        self.in_float32 = dtype == torch.float32 or not HAS_BFLOAT16
        self.first = False  # True for the network's first layer: images need no gradient
        self.pooled = False  # True if pooling follows: it computes the rectifier's gradient, too

    def forward(self, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
        """Return rectified(norm(convolution(x)) + shortcut) for x (N, C, H, W)."""
        self.x, weight, bias = x, self.weight.refresh(), self.bias.refresh()
        y = self._convolve(x, weight, bias, self.rectified and self.norm is None)
        self.y = y if self.norm is None else self.norm.forward(y, self.rectified, shortcut)
        return self.y

    def backward(self, gradient: Tensor) -> Tensor | None:
        """See `Layer`. If a shortcut was added, `gradient` holds the gradient of the shortcut afterwards."""
        gradient = channels_last(gradient)
        if self.rectified and not self.pooled:
            kernels.rectify_gradient(integers(gradient).reshape(-1), integers(self.y).reshape(-1))
        if self.norm is not None:
            gradient = self.norm.backward(gradient)
        compute = winograd.gradients if self._filtered(self.x) else convolution_gradients
        back, weight, bias = compute(
            gradient, self.x, self.weight.tensor, self.module, self.padding, of_images=not self.first
        )
        self.weight.learn(weight)
        self.bias.learn(bias)
        return back

    def prepare(self) -> None:
        """Fold the norm, with its running statistics, into the weight and bias for `infer`."""
        weight, bias = self.module.weight.detach(), self.module.bias
        if self.norm is not None:
            n = self.norm.module
            scale = n.weight.detach() / (n.running_var + n.eps).sqrt()
            bias = n.bias.detach() + (-n.running_mean if bias is None else bias.detach() - n.running_mean) * scale
            weight = weight * scale.view(-1, 1, 1, 1)
        self.folded = tuple(None if t is None else t.detach().to(self.weight.tensor.dtype) for t in (weight, bias))

    def infer(self, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
        """Like `forward`, but normalises with the running statistics. May overwrite `shortcut`."""
        if shortcut is None:
            return self._convolve(x, *self.folded, self.rectified)
        if self._filtered(x):
            out = self._convolve(x, *self.folded, False).add_(shortcut)
            return out.relu_() if self.rectified else out
        return convolve_and_add(x, *self.folded, shortcut, self.module, self.padding, self.rectified)

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None, rectified: bool) -> Tensor:
        compute = winograd.convolve if self._filtered(x) else convolve
        return channels_last(compute(x, weight, bias, self.module, self.padding, rectified))

    def _filtered(self, x: Tensor) -> bool:
        """Whether minimal filtering computes the convolution of x (N, C, H, W)."""
        return self.in_float32 and winograd.applies(self.module, x, self.padding)


class Norm:
    """A batch norm with the addition of a shortcut and the rectifier that follow it, both optional."""

    def __init__(self, module: nn.BatchNorm2d) -> None:
        self.module = module

    def forward(self, x: Tensor, rectified: bool, shortcut: Tensor | None) -> Tensor:
        """Return rectified(norm(x) + shortcut) for x (N, C, H, W), and update the running statistics.

        Normalises with the statistics of the batch. With a shortcut, the sum is always rectified.
        """
        m, rows = self.module, rows_of(x)
        total, squares = np.zeros((2, rows.shape[1]))
        near = m.running_mean.numpy().astype(np.float64)  # a mean far from 0 would cost the variance its digits
        kernels.moments(rows, across(near, rows), total, squares)
        self.x, self.n = x, x.numel() // m.num_features
        if self.n == 1:
            raise LabError("a batch norm needs more than one value for each channel; make batch_size larger")
        offset = by_channel(total, m.num_features) / self.n
        variance = np.maximum(by_channel(squares, m.num_features) / self.n - offset**2, 0)
        self.mean = near + offset
        self.inverse = 1 / np.sqrt(variance + m.eps)
        for running, batch in ((m.running_mean, self.mean), (m.running_var, variance * (self.n / (self.n - 1)))):
            running.lerp_(torch.from_numpy(batch.astype(np.float32)), m.momentum)
        m.num_batches_tracked += 1
        scale = m.weight.detach().numpy() * self.inverse
        scale, shift = (across(values, rows) for values in (scale, m.bias.detach().numpy() - self.mean * scale))
        out = torch.empty_like(x)
        if shortcut is None:
            kernels.normalise(rows, scale, shift, rectified, rows_of(out))
        else:
            kernels.normalise_and_add(rows, scale, shift, rows_of(shortcut), rows_of(out))
        return out

    def backward(self, gradient: Tensor) -> Tensor:
        """Return the gradient of x, given the gradient of the normalised images before the rectifier."""
        m, rows, g = self.module, rows_of(self.x), rows_of(gradient)
        total, products = np.zeros((2, rows.shape[1]))
        kernels.gradient_sums(g, rows, across(self.mean, rows), total, products)
        total, products = by_channel(total, m.num_features), by_channel(products, m.num_features)
        for parameter, values in ((m.weight, products * self.inverse), (m.bias, total)):
            parameter.grad = torch.from_numpy(values.astype(np.float32))
        a = m.weight.detach().numpy() * self.inverse
        b = -a * self.inverse**2 * products / self.n
        c = -a * total / self.n - b * self.mean
        out = torch.empty_like(self.x)
        kernels.norm_gradient(g, rows, *(across(values, rows) for values in (a, b, c)), rows_of(out))
        return out


class ResidualLayer(Layer):
    """A residual block (`models.layers.Residual`)."""

    def __init__(self, module: Residual, dtype: torch.dtype) -> None:
        self.inner = ConvolutionLayer(module.conv1, module.norm1, True, dtype)
        self.outer = ConvolutionLayer(module.conv2, module.norm2, True, dtype)
        self.shortcut = module.shortcut and ConvolutionLayer(module.shortcut, module.shortcut_norm, False, dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer.forward(self.inner.forward(x), x if self.shortcut is None else self.shortcut.forward(x))

    def backward(self, gradient: Tensor) -> Tensor:
        gradient = channels_last(gradient)
        back = self.inner.backward(self.outer.backward(gradient))  # now `gradient` is the gradient of the shortcut
        return back.add_(gradient if self.shortcut is None else self.shortcut.backward(gradient))

    def prepare(self) -> None:
        for part in (self.inner, self.outer, self.shortcut):
            if part is not None:
                part.prepare()

    def infer(self, x: Tensor) -> Tensor:
        """See `Layer`. May overwrite x if x is the shortcut itself."""
        inner = self.inner.infer(x)
        return self.outer.infer(inner, x if self.shortcut is None else self.shortcut.infer(x))


class PoolLayer(Layer):
    """Max-pooling of 2x2 patches after a rectifier. Its `backward` includes the gradient of the rectifier."""

    def forward(self, x: Tensor) -> Tensor:
        n, channels, height, width = self.shape = x.shape
        self.out = torch.empty((n, channels, height // 2, width // 2), dtype=x.dtype, memory_format=torch.channels_last)
        self.where = np.empty((n, height // 2, width // 2, channels), np.uint8)
        kernels.pool(integers(x), integers(self.out), self.where)
        return self.out

    def backward(self, gradient: Tensor) -> Tensor:
        back = torch.empty(self.shape, dtype=gradient.dtype, memory_format=torch.channels_last)
        kernels.unpool(integers(channels_last(gradient)), integers(self.out), self.where, integers(back))
        return back


class FlattenLayer(Layer):
    """Flattening of images: (N, C, H, W) -> (N, C x H x W)."""

    def forward(self, x: Tensor) -> Tensor:
        self.shape = x.shape
        return x.flatten(1)

    def backward(self, gradient: Tensor) -> Tensor:
        back = gradient.view(self.shape)
        return channels_last(back) if back.ndim == 4 else back


class AverageLayer(Layer):
    """The mean over all pixels: (N, C, H, W) -> (N, C, 1, 1)."""

    def forward(self, x: Tensor) -> Tensor:
        self.shape = x.shape
        return x.mean((2, 3), keepdim=True)

    def backward(self, gradient: Tensor) -> Tensor:
        shared = gradient / (self.shape[2] * self.shape[3])
        return channels_last(shared.expand(self.shape))


class DenseLayer(Layer):
    """A dense layer and the rectifier after it, if there is one."""

    def __init__(self, module: nn.Linear, rectified: bool, dtype: torch.dtype) -> None:
        self.module, self.rectified = module, rectified
        self.weight, self.bias = Cast(module.weight, dtype), Cast(module.bias, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (N, outputs) for x (N, inputs)."""
        self.x = x
        self.y = times_transposed(x, self.weight.refresh(), self.bias.refresh(), self.rectified)
        return self.y

    def backward(self, gradient: Tensor) -> Tensor:
        if self.rectified:
            gradient = gradient.mul_(self.y > 0)
        self.weight.learn(times(gradient.t(), self.x))
        self.bias.learn(gradient.float().sum(0))
        return times(gradient, self.weight.tensor)

    def prepare(self) -> None:
        self.weight.refresh()
        self.bias.refresh()

    def infer(self, x: Tensor) -> Tensor:
        return times_transposed(x, self.weight.tensor, self.bias.tensor, self.rectified)


class DropoutLayer(Layer):
    """Dropout with noise drawn by the module (`models.layers.Dropout`)."""

    def __init__(self, module: Dropout) -> None:
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        self.kept = self.module(torch.ones_like(x))
        return x * self.kept

    def backward(self, gradient: Tensor) -> Tensor:
        return gradient * self.kept

    def infer(self, x: Tensor) -> Tensor:
        return x
