"""Engine for chains of dense layers on a CPU, with gradients computed by hand."""

import torch
from torch import Tensor, nn

from lthcore.data.datasets import Data
from lthcore.models.layers import Dropout, flattens_images, in_a_row
from lthcore.models.prunable import kinds_of
from lthcore.onednn import Linear, times_transposed
from lthcore.recipe import Recipe
from lthcore.training.engines.dense import Dense, loss_gradient, smoothed_targets
from lthcore.training.state import TrainState

CHAIN = (nn.Flatten, nn.Linear, Linear, nn.ReLU, Dropout)  # layer types of a chain; subclasses do not count


class Chain(Dense):
    """A chain of dense layers on a CPU.

    Gradients are computed by hand, because autograd's overhead is a third of the time of so small a step.
    """

    def __init__(self, settings: Recipe, model: nn.Module, device: torch.device, states: list[TrainState]) -> None:
        """Load the one replicate in `states` into `model`."""
        super().__init__(settings, model, device, states)
        self.layers = [(layer.weight, layer.bias) for layer in model if isinstance(layer, nn.Linear)]
        self.targets = smoothed_targets(settings, len(self.layers[-1][1]))

    def gradients(self, data: Data, batch: Tensor) -> None:
        """Store the gradient of the mean loss on a batch (1, batch) of image indices in every parameter."""
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
    """Whether a network is a chain that `Stack` can train: a flatten layer, then dense layers with biases.

    ReLUs, dropout and further flatten layers may stand anywhere behind the first layer. Layers of other classes are not
    accepted, including subclasses, because it is unknown what they compute. Nor are frozen parameters or dense layers
    that are not prunable: every layer is trained and pruned here.
    """
    layers = in_a_row(model) or []
    return (
        bool(layers)
        and isinstance(layers[0], nn.Flatten)
        and all(type(layer) in CHAIN for layer in layers)
        and all(flattens_images(layer) for layer in layers if isinstance(layer, nn.Flatten))
        and all(layer.bias is not None for layer in layers if isinstance(layer, nn.Linear))
        and all(parameter.requires_grad for parameter in model.parameters())
        and set(kinds_of(model)) == _weights_of(model)
    )


def is_plain_chain(settings: Recipe, model: nn.Module, device: torch.device) -> bool:
    """Whether a network is a chain without dropout that trains on a CPU, without augmentation or autocast.

    It must be a flatten layer, then dense layers with a ReLU between each two.
    """
    if not is_chain(model):
        return False
    _, *rest = model
    plain = (
        len(rest) % 2 == 1
        and all(isinstance(layer, nn.Linear) for layer in rest[::2])
        and all(isinstance(layer, nn.ReLU) for layer in rest[1::2])
    )
    return plain and device.type == "cpu" and settings.precision == "float32" and not settings.augment


def _weights_of(model: nn.Module) -> set[str]:
    return {f"{name}.weight" for name, layer in model.named_children() if isinstance(layer, nn.Linear)}
