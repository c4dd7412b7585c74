"""Dense layers that run in oneDNN on a CPU.

The products are the same as torch's own. torch computes them with MKL, which uses only narrow vectors on processors not
made by Intel. There, oneDNN was measured to be twice as fast for LeNet.
"""

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# the operator that torch.compile uses for oneDNN; if a build of torch lacks it, layers use torch's own products
_ONEDNN = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None


class Linear(nn.Linear):
    """Dense layer, equal to `nn.Linear` up to rounding: (batch, inputs) -> (batch, outputs)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x @ weight.T + bias."""
        plain = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        if _ONEDNN is None or not plain or x.ndim != 2 or self.bias is None:
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


def times_transposed(a: Tensor, b: Tensor, bias: Tensor | None = None, relu: bool = False) -> Tensor:
    """Return a @ b.T + bias, clipped at 0 if `relu`. Not for use with autograd."""
    if _ONEDNN is not None:
        return _ONEDNN(a, b, bias, "relu" if relu else "none", [], "")
    out = nn.functional.linear(a, b, bias)
    return out.relu_() if relu else out
