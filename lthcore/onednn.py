"""Dense layers by oneDNN on a CPU: the same products as torch's own, which go to MKL, and MKL keeps to narrow vectors
on processors that are not Intel's (benchmarks/lenet_step.py: twice the speed there).
"""

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# torch.compile's own route to oneDNN; where a build of torch lacks it, layers fall back to torch's products
_ONEDNN = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None


class Linear(nn.Linear):
    """`nn.Linear`, to rounding: (batch, inputs) -> (batch, outputs)."""

    def forward(self, x: Tensor) -> Tensor:
        """x @ weight.T + bias."""
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
    @once_differentiable  # second derivatives need another product: an error, instead of zeros
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        back = times_transposed(gradient, weight.t()) if ctx.needs_input_grad[0] else None
        return back, times_transposed(gradient.t(), x.t()), gradient.sum(0)


def times_transposed(a: Tensor, b: Tensor, bias: Tensor | None = None, relu: bool = False) -> Tensor:
    """a @ b.T + bias, clipped at 0 if asked, without a graph for autograd."""
    if _ONEDNN is not None:
        return _ONEDNN(a, b, bias, "relu" if relu else "none", [], "")
    out = nn.functional.linear(a, b, bias)
    return out.relu_() if relu else out
