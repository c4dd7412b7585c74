"""The weights of a network by name, and how they are drawn before training."""

from functools import partial

import torch
from torch import Tensor, nn

from lthcore.data.datasets import classes_of, image_shape
from lthcore.models.build import build
from lthcore.models.layers import NORMS
from lthcore.models.prunable import kinds_of
from lthcore.recipe import Recipe

Weights = dict[str, Tensor]

DRAWN = {  # initialisation -> function that draws a weight in place; a gaussian also has a setting of its own
    "glorot_normal": nn.init.xavier_normal_,
    "glorot_uniform": nn.init.xavier_uniform_,
    "kaiming_normal": partial(nn.init.kaiming_normal_, nonlinearity="relu"),
    "kaiming_fan_out": partial(nn.init.kaiming_normal_, mode="fan_out", nonlinearity="relu"),
    "kaiming_uniform": partial(nn.init.kaiming_uniform_, nonlinearity="relu"),
}


def initial_weights(model: nn.Module, settings: Recipe, seed: int) -> Weights:
    """Return initial values for every parameter and buffer of `model`, drawn on the CPU: the same for every device.

    Prunable weights are drawn by `settings.initialisation`; biases are 0, and a norm's scale is 1. Other parameters
    (embeddings, positions, scales) are drawn from a normal distribution with the mean and standard deviation that they
    were built with, or stay unchanged if all their values are equal. Frozen parameters and buffers stay as the model
    was built. With `initialisation: own`, all values are those of the network built anew by the seed.
    """
    if settings.initialisation == "own":
        model = build(settings, image_shape(settings), classes_of(settings), seed)
        return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
    generator = torch.Generator().manual_seed(seed)
    start = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
    layers, masked = dict(model.named_modules()), kinds_of(model)
    gaussian = partial(nn.init.normal_, std=settings.init_std)
    draw = gaussian if settings.initialisation == "gaussian" else DRAWN[settings.initialisation]
    for name, parameter in model.named_parameters():
        weight, (place, _, own) = start[name], name.rpartition(".")
        if not parameter.requires_grad:
            continue
        if name in masked:
            draw(weight, generator=generator)
        elif own.endswith("bias"):
            weight.fill_(0.0)
        elif isinstance(layers[place], NORMS):
            weight.fill_(1.0)
        elif weight.numel() and weight.min() != weight.max():
            std, mean = torch.std_mean(weight.double())  # rounded, as the last digits differ between processors
            weight.normal_(float(f"{mean:.2e}"), float(f"{std:.2e}"), generator=generator)
    return start
