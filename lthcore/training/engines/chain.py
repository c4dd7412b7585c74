"""The engine of networks of dense layers in a row, with gradients by hand."""

import torch
from torch import Tensor, nn

from lthcore.data.datasets import Data
from lthcore.models import Dropout, in_a_row, kinds_of
from lthcore.onednn import Linear, times_transposed
from lthcore.settings import Recipe
from lthcore.training.engines.dense import Dense, loss_gradient, smoothed_targets
from lthcore.training.state import TrainState

CHAIN = (nn.Flatten, (nn.Linear, Linear), nn.ReLU, Dropout)  # kinds, and no classes made of them


class Chain(Dense):
    """A chain of dense layers on a CPU, its gradients by hand: autograd's bookkeeping is a third of so small a step."""

    def __init__(self, settings: Recipe, model: nn.Module, device: torch.device, states: list[TrainState]) -> None:
        """Take `model` and the one replicate it is to be."""
        super().__init__(settings, model, device, states)
        self.layers = [(layer.weight, layer.bias) for layer in model if isinstance(layer, nn.Linear)]
        self.targets = smoothed_targets(settings, len(self.layers[-1][1]))

    def gradients(self, data: Data, batch: Tensor) -> None:
        """Set the gradient of the mean loss on a batch (1, batch) of image indices in every parameter."""
        with torch.no_grad():
            x, inputs = data.train.images[batch[0]].flatten(1), []
            for i, (weight, bias) in enumerate(self.layers, start=1):
                inputs.append(x)
                x = times_transposed(x, weight, bias, relu=i < len(self.layers))
            back = loss_gradient(x, self.targets[data.train.labels[batch[0]]])
            for (weight, bias), x in zip(reversed(self.layers), reversed(inputs), strict=True):
                weight.grad, bias.grad = times_transposed(back.t(), x.t()), back.sum(0)
                if weight is not self.layers[0][0]:
                    back = times_transposed(back, weight.t()).mul_(x > 0)


def is_chain(model: nn.Module) -> bool:
    """Whether a network is a chain of dense layers with biases, which `Stack` can hold.

    One of layers of other classes is not, be they made of these: what they compute is not known. Nor is one of which
    something is frozen: every layer here learns.
    """
    layers = in_a_row(model) or []
    biased = all(layer.bias is not None for layer in layers if isinstance(layer, nn.Linear))
    flat = all((layer.start_dim, layer.end_dim) == (1, -1) for layer in layers if isinstance(layer, nn.Flatten))
    learns = all(parameter.requires_grad for parameter in model.parameters())
    return (
        bool(layers)
        and biased
        and flat
        and learns
        and None not in map(_link, layers)
        and set(kinds_of(model)) == _weights_of(model)
    )


def is_plain_chain(settings: Recipe, model: nn.Module, device: torch.device) -> bool:
    """Whether a training is of dense layers and nothing else, on a CPU: no dropout, augmentation or autocast."""
    kinds = [_link(layer) for layer in model.children()]
    hidden = (len(kinds) - 2) // 2
    layers = is_chain(model) and kinds == [0, *[1, 2] * hidden, 1]  # flatten, (linear, relu) ..., linear
    return layers and device.type == "cpu" and settings.precision == "float32" and not settings.augment


def _link(layer: nn.Module) -> int | None:
    """Which of CHAIN a layer is, by its number; None for another."""
    return next(
        (i for i, kind in enumerate(CHAIN) if type(layer) in (kind if isinstance(kind, tuple) else (kind,))), None
    )


def _weights_of(model: nn.Module) -> set[str]:
    return {f"{name}.weight" for name, layer in model.named_children() if isinstance(layer, nn.Linear)}
