"""Models: the paper's networks as plain `nn.Module`s, and how their weights start.

A model is a function of (settings, image shape, number of classes). Its layers are named: a weight of four
dimensions is a convolution's, `output.weight` the output layer's, and any other matrix a dense layer's.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from lthcore.linear import Linear
from lthcore.settings import LabError, Settings, choose

Weights = dict[str, Tensor]


class Dropout(nn.Module):
    """Dropout that draws from a generator of its own, so that a replicate's noise does not depend on its neighbours."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.generator: torch.Generator | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Zero a share `rate` of x while training, scaling up the rest; x itself in evaluation."""
        if not self.training or self.rate == 0:
            return x
        keep = 1 - self.rate
        return x * torch.empty_like(x).bernoulli_(keep, generator=self.generator) / keep


def _dense(inputs: int, widths: tuple[int, ...], classes: int, dropout: float) -> OrderedDict[str, nn.Module]:
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for i, width in enumerate(widths, start=1):
        layers[f"fc{i}"] = Linear(inputs, width)
        layers[f"fc{i}_relu"] = nn.ReLU()
        if dropout:
            layers[f"fc{i}_dropout"] = Dropout(dropout)
        inputs = width
    layers["output"] = Linear(inputs, classes)
    return layers


def mlp(settings: Settings, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """A small fully-connected network (64-32) for digits."""
    channels, height, width = shape
    return nn.Sequential(_dense(channels * height * width, settings.widths or (64, 32), classes, settings.dropout))


def lenet(settings: Settings, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """LeNet-300-100, the fully-connected network of the paper's section 2 (266,200 weights on MNIST)."""
    return mlp(settings.changed(widths=settings.widths or (300, 100)), shape, classes)


def _conv(settings: Settings, shape: tuple[int, int, int], classes: int, blocks: tuple[int, ...]) -> nn.Module:
    channels, height, width = shape
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for block, filters in enumerate(blocks):
        for i in (2 * block + 1, 2 * block + 2):
            layers[f"conv{i}"] = nn.Conv2d(channels, filters, kernel_size=3, padding=1)
            layers[f"conv{i}_relu"] = nn.ReLU()
            channels = filters
        layers[f"pool{block + 1}"] = nn.MaxPool2d(2)
        height, width = height // 2, width // 2
    if height * width == 0:
        raise LabError(f"architecture = {settings.architecture!r}: too many poolings for images of {shape}")
    layers |= _dense(channels * height * width, settings.widths or (256, 256), classes, settings.dropout)
    return nn.Sequential(layers)


def conv2(settings: Settings, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Conv-2 of the paper's section 3 (4,300,992 weights on CIFAR-10)."""
    return _conv(settings, shape, classes, (64,))


def conv4(settings: Settings, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Conv-4 of the paper's section 3 (2,425,024 weights on CIFAR-10)."""
    return _conv(settings, shape, classes, (64, 128))


def conv6(settings: Settings, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Conv-6 of the paper's section 3 (2,261,184 weights on CIFAR-10; the paper prints 1.7M for the same layers)."""
    return _conv(settings, shape, classes, (64, 128, 256))


MODELS = {"mlp": mlp, "lenet": lenet, "conv2": conv2, "conv4": conv4, "conv6": conv6}


def build(settings: Settings, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The network that `settings.architecture` names, for images of `shape` (C, H, W). Its weights are not set yet."""
    name = choose("architecture", settings.architecture, MODELS)
    with torch.random.fork_rng(devices=[]):  # layers draw weights when made: those are overwritten, and cost no state
        return MODELS[name](settings, shape, classes)


def initial_weights(model: nn.Module, settings: Settings, seed: int) -> Weights:
    """A fresh draw of every parameter and buffer of `model`, on the CPU: the same on every device.

    Matrices and filters follow `settings.initialisation`; biases are 0, a norm's scale is 1.
    """
    generator = torch.Generator().manual_seed(seed)
    start = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
    for name in dict(model.named_parameters()):
        weight = start[name]
        if weight.ndim < 2:
            weight.fill_(1.0 if name.endswith("weight") else 0.0)
        elif settings.initialisation == "glorot_normal":
            nn.init.xavier_normal_(weight, generator=generator)
        elif settings.initialisation == "kaiming_normal":
            nn.init.kaiming_normal_(weight, nonlinearity="relu", generator=generator)
        elif settings.initialisation == "kaiming_uniform":
            nn.init.kaiming_uniform_(weight, nonlinearity="relu", generator=generator)
        else:
            nn.init.normal_(weight, std=settings.init_std, generator=generator)
    return start
