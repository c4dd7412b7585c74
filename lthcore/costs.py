"""Computational costs: the multiply-adds of a network, and the weights that they involve.

Matrix products and convolutions are counted, including the products in attention (queries with keys, and attention
weights with values), as by `torch.utils.flop_counter`. Additions, norms and activations are not counted.
"""

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from lthcore.models.prunable import kinds_of

COPIES = ("cat", "clone", "copy_", "_to_copy", "embedding", "detach", "index", "index_select", "repeat", "stack")


@dataclass(frozen=True)
class Costs:
    """Costs of the forward pass of a network for one image.

    `positions` is how often each weight is used: once in a dense layer, once per pixel in a convolution, once per token
    in a transformer. `without_weights` is the number of multiply-adds in products without a prunable weight.
    `uncounted` lists the parameters for which the number of products is unknown.
    """

    multiply_adds: int
    positions: dict[str, float]
    without_weights: int
    uncounted: tuple[str, ...]

    def of(self, left: dict[str, int]) -> int:
        """Return the multiply-adds of the network if each layer has the number of weights in `left`."""
        return self.without_weights + round(sum(n * self.positions[name] for name, n in left.items()))


def costs_of(model: nn.Module, shape: tuple[int, int, int]) -> Costs:
    """Return the costs of a network for images of `shape` (C, H, W), counted while it evaluates one."""
    parameters, training = dict(model.named_parameters()), model.training
    image = torch.zeros(1, *shape, device=next(iter(parameters.values())).device)
    # with gradients and the MATH backend, layers run as separate products, not as one fused operation that hides them
    with _Products(parameters) as seen, torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        model.eval()(image)
    model.train(training)
    masked = {name: seen.found[name] for name in kinds_of(model)}
    positions = {name: products / parameters[name].numel() for name, products in masked.items()}
    unseen = {name for name, products in masked.items() if products == 0}
    uncounted = [name for name in parameters if name in seen.unknown | unseen]
    return Costs(seen.found.total(), positions, seen.found.total() - sum(masked.values()), tuple(uncounted))


def multiply_adds(model: nn.Module, shape: tuple[int, int, int]) -> int:
    """Return the multiply-adds of the forward pass for one image, without pruning."""
    return costs_of(model, shape).multiply_adds


class _Products(TorchDispatchMode):
    """Counts the multiply-adds of all operations in its context, by the parameter in each product (`""` for none)."""

    def __init__(self, parameters: dict[str, nn.Parameter]) -> None:
        super().__init__()
        self.names = {_memory(parameter): name for name, parameter in parameters.items()}
        self.matrices = {name for name, parameter in parameters.items() if parameter.ndim >= 2}
        self.found: Counter[str] = Counter()
        self.unknown: set[str] = set()

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        options = options or {}
        name, count = function._overloadpacket.__name__, _COUNTED.get(function._overloadpacket)
        if count is None and function is not torch.ops.prim.device.default:
            with self:
                out = function.decompose(*arguments, **options)
            if out is not NotImplemented:
                return out
        out = function(*arguments, **options)
        names = [self.names[m] for a in arguments if isinstance(a, Tensor) and (m := _memory(a)) in self.names]
        matrices = [name for name in names if name in self.matrices]
        if count is not None:
            self.found[(matrices or [""])[0]] += count(*arguments, **options, out_val=out) // 2
        elif not function.is_view and torch.Tag.pointwise not in function.tags and name not in COPIES:
            self.unknown.update(matrices)
        return out


def _onednn_flops(x: Tensor, weight: Tensor, *_: object, out_val: Tensor) -> int:
    return 2 * x.numel() * len(weight)


_COUNTED = dict(flop_registry)
if hasattr(torch.ops.mkldnn, "_linear_pointwise"):  # lthcore/onednn.py
    _COUNTED[torch.ops.mkldnn._linear_pointwise] = _onednn_flops


def _memory(tensor: Tensor) -> int:
    """Return an identifier of a tensor's storage, which it shares with its views."""
    return tensor.untyped_storage()._cdata
