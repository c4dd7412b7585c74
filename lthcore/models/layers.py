"""Layers that the networks of this package add to PyTorch's, and questions to layers in general."""

import torch
from torch import Tensor, nn

CONVOLUTIONS = nn.Conv1d | nn.Conv2d | nn.Conv3d
NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


class Dropout(nn.Module):
    """Dropout with a random generator of its own, so that a replicate's noise does not depend on other replicates."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.generator: torch.Generator | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Set a share `rate` of x to zero and scale up the rest in training; return x unchanged in evaluation."""
        if not self.training or self.rate == 0:
            return x
        keep = 1 - self.rate
        return x * torch.empty_like(x).bernoulli_(keep, generator=self.generator) / keep


class Residual(nn.Module):
    """Two 3x3 convolutions with batch norms, and a shortcut: the identity, or a 1x1 projection where sizes change."""

    def __init__(self, inputs: int, filters: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, filters, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(filters)
        self.conv2 = nn.Conv2d(filters, filters, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(filters)
        self.shortcut = self.shortcut_norm = None
        if stride != 1 or inputs != filters:
            self.shortcut = nn.Conv2d(inputs, filters, 1, stride, bias=False)
            self.shortcut_norm = nn.BatchNorm2d(filters)

    def forward(self, x: Tensor) -> Tensor:
        """x (N, inputs, H, W) -> (N, filters, H / stride, W / stride)."""
        y = self.norm2(self.conv2(self.norm1(self.conv1(x)).relu()))
        return (y + (x if self.shortcut is None else self.shortcut_norm(self.shortcut(x)))).relu()


def flattens_images(layer: nn.Module) -> bool:
    """Return whether a layer turns each image into one row of values, in the order of channels and positions."""
    return isinstance(layer, nn.Flatten) and (layer.start_dim, layer.end_dim) == (1, -1)


def in_a_row(model: nn.Module) -> list[nn.Module] | None:
    """Return the layers of a network if it is a plain nn.Sequential without repeated layers and hooks, else None.

    A hook may change what a layer computes, and hooks hold the weights of layers under the older `weight_norm`.
    """
    plain = type(model) is nn.Sequential and len(list(model.children())) == len(model)
    hooked = any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    return list(model) if plain and not hooked else None
