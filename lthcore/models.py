"""Models: the paper's networks as plain `nn.Module`s, and how their weights are initialised.

A model is a function of (settings, image shape, number of classes) that returns any module. `prunable` and `kind_of`
determine from its tree of modules which weights are prunable and of what kind each layer is.
"""

import math
import threading
from collections import OrderedDict
from functools import partial
from typing import get_args

import torch
from torch import Tensor, nn

from lthcore.data.datasets import classes_of, image_shape
from lthcore.errors import LabError, choose, choose_registered, one_line, shown
from lthcore.onednn import Linear
from lthcore.recipe import Recipe
from lthcore.registry import MODELS, Kind, is_user_defined, register_model

Weights = dict[str, Tensor]
CONVOLUTIONS = nn.Conv1d | nn.Conv2d | nn.Conv3d
NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
BUILDING = threading.RLock()
LARGEST = 200_000_000  # weights in a network: a training run holds about eight copies of them, 6.4 GB in all


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


@register_model
def mlp(settings: Recipe, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """A small fully-connected network (64-32) for digits."""
    return nn.Sequential(_dense(math.prod(shape), settings.widths or (64, 32), classes, settings.dropout))


@register_model
def lenet(settings: Recipe, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """LeNet-300-100, the fully-connected network of the paper's section 2 (266,200 weights on MNIST)."""
    return nn.Sequential(_dense(math.prod(shape), settings.widths or (300, 100), classes, settings.dropout))


def _conv(settings: Recipe, shape: tuple[int, int, int], classes: int, blocks: tuple[int, ...]) -> nn.Module:
    channels, height, width = shape
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for block, filters in enumerate(blocks):
        for i in (2 * block + 1, 2 * block + 2):
            layers[f"conv{i}"] = nn.Conv2d(channels, filters, kernel_size=3, padding=settings.padding)
            height, width = (height, width) if settings.padding == "same" else (height - 2, width - 2)
            layers[f"conv{i}_relu"] = nn.ReLU()
            channels = filters
        layers[f"pool{block + 1}"] = nn.MaxPool2d(2)
        height, width = height // 2, width // 2
    if min(height, width) < 1:
        raise LabError(f"architecture = {settings.architecture!r}: too many poolings for images of {shape}")
    layers |= _dense(channels * height * width, settings.widths or (256, 256), classes, settings.dropout)
    return nn.Sequential(layers)


@register_model
def conv2(settings: Recipe, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Conv-2 of the paper's section 3 (4,300,992 weights on CIFAR-10)."""
    return _conv(settings, shape, classes, (64,))


@register_model
def conv4(settings: Recipe, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Conv-4 of the paper's section 3 (2,425,024 weights on CIFAR-10)."""
    return _conv(settings, shape, classes, (64, 128))


@register_model
def conv6(settings: Recipe, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Conv-6 of the paper's section 3 (2,261,184 weights on CIFAR-10; the paper prints 1.7M for the same layers)."""
    return _conv(settings, shape, classes, (64, 128, 256))


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


def _head(inputs: int, classes: int) -> dict[str, nn.Module]:
    return {"average": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten(), "output": nn.Linear(inputs, classes)}


def _resnet(shape: tuple[int, int, int], classes: int, widths: tuple[int, ...], blocks: tuple[int, ...]) -> nn.Module:
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv=nn.Conv2d(shape[0], widths[0], 3, padding=1, bias=False),
        norm=nn.BatchNorm2d(widths[0]),
        relu=nn.ReLU(),
    )
    inputs = widths[0]
    for stage, (width, depth) in enumerate(zip(widths, blocks, strict=True), start=1):
        for block in range(1, depth + 1):
            stride = 2 if stage > 1 and block == 1 else 1
            layers[f"stage{stage}_block{block}"] = Residual(inputs, width, stride)
            inputs = width
    return nn.Sequential(layers | _head(inputs, classes))


@register_model
def resnet20(settings: Recipe, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The 20-layer ResNet for CIFAR-10 that the paper's section 4 calls ResNet-18 (270,896 weights)."""
    return _resnet(shape, classes, (16, 32, 64), (3, 3, 3))


@register_model
def resnet18(settings: Recipe, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """ResNet-18 of 11 million weights for small images: a 3x3 stem and no max-pooling (11,164,352 on CIFAR-10)."""
    return _resnet(shape, classes, (64, 128, 256, 512), (2, 2, 2, 2))


@register_model
def resnet34(settings: Recipe, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """ResNet-34 for small images: a 3x3 stem and no max-pooling (21,265,088 weights on CIFAR-10)."""
    return _resnet(shape, classes, (64, 128, 256, 512), (3, 4, 6, 3))


def _vgg(name: str, shape: tuple[int, int, int], blocks: tuple[tuple[int, int], ...]) -> OrderedDict[str, nn.Module]:
    if min(shape[1:]) < 16:
        raise LabError(f"architecture = {name!r}: too many poolings for images of {shape}")
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    channels, number = shape[0], 0
    for block, (filters, depth) in enumerate(blocks, start=1):
        for _ in range(depth):
            number += 1
            layers[f"conv{number}"] = nn.Conv2d(channels, filters, kernel_size=3, padding=1, bias=False)
            layers[f"norm{number}"], layers[f"relu{number}"] = nn.BatchNorm2d(filters), nn.ReLU()
            channels = filters
        if block < len(blocks):
            layers[f"pool{block}"] = nn.MaxPool2d(2)
    return layers


@register_model
def vgg19(settings: Recipe, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """VGG-19 with batch norms and one dense layer, of the paper's section 4 (20,024,000 weights on CIFAR-10)."""
    layers = _vgg("vgg19", shape, ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4)))
    return nn.Sequential(layers | _head(512, classes))


@register_model
def vgg_like(settings: Recipe, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """VGG-like, the 16-layer VGG of CIFAR with batch norms and a hidden dense layer of 512 (14,977,728 weights)."""
    layers = _vgg("vgg_like", shape, ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)))
    layers["average"] = nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(layers | _dense(512, (512,), classes, settings.dropout))


def build(settings: Recipe, shape: tuple[int, int, int], classes: int, seed: int = 0) -> nn.Module:
    """Build the network that `settings.architecture` names, for images of `shape` (C, H, W).

    Its weights are placeholders, to be replaced by `initial_weights`; torch draws them by `seed`. Raises LabError for
    an unknown name, and if a user-defined function fails or does not return an nn.Module.
    """
    name = choose_registered("architecture", settings.architecture, MODELS)
    # Layers draw weights when they are created: the seed makes them reproducible, and torch's own state is kept. One
    # network at a time: with --engine ray, experiments are threads of one process, which share this state.
    with BUILDING, torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        try:
            model = MODELS[name](settings, shape, classes)
        except Exception as error:
            if isinstance(error, LabError) or not is_user_defined(MODELS[name]):
                raise
            raise LabError(f"models: {name} failed ({type(error).__name__}: {one_line(error)})") from error
    if not isinstance(model, nn.Module):
        raise LabError(f"models: {name} returned {type(model).__name__}, not an nn.Module (a forgotten `return`?)")
    return model


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


def outline(settings: Recipe, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Build the network as `build` does, but on the device meta, without memory for its weights.

    A network that cannot be built there is built with memory. Raises LabError if the network has more than LARGEST
    weights, shares weights between layers, or has nothing that is prunable.
    """
    try:
        with torch.device("meta"):
            model = build(settings, shape, classes)
    except (NotImplementedError, RuntimeError, LabError):
        # its code may read values of tensors, which do not exist on meta; any other reason to fail is met again here
        model = build(settings, shape, classes)
    kinds_of(model)
    own = {name for name, _ in model.named_parameters()}
    if shared := [name for name, _ in model.named_parameters(remove_duplicate=False) if name not in own]:
        raise LabError(
            f"models: {settings.architecture} has {shared[0]} under two names; give each layer its own weights"
        )
    weights = sum(weight.numel() for weight in model.parameters())
    if weights > LARGEST:
        raise LabError(
            f"settings: {settings.architecture} with widths = {shown(settings.widths)} has {weights:,} weights for "
            f"images of {shape}, and at most {LARGEST:,} are allowed; make widths or image_size smaller"
        )
    return model


def prunable(layer: nn.Module, name: str) -> bool:
    """Return whether a parameter has a mask. `layer` is the module that holds it, `name` its name in the network.

    Weights of dense layers and convolutions have a mask, and so do the projections of attention. Embeddings, bare
    parameters, norms and biases have none. A model overrides this by an attribute `prunable`, a method or a function.
    """
    own = name.rpartition(".")[2]
    if isinstance(layer, nn.MultiheadAttention):
        return own.endswith("proj_weight")
    return isinstance(layer, nn.Linear | CONVOLUTIONS) and own == "weight"


def kind_of(layer: nn.Module, name: str, output: str = "output.weight") -> Kind:
    """Return the kind of a weight's layer: a convolution, a shortcut's projection, a dense layer or the output layer.

    `output` is the name of the output layer's weight. A model overrides this by an attribute `kind_of`, which is called
    with `layer` and `name` only.
    """
    if name == output:
        return "output"
    if name.endswith("shortcut.weight"):
        return "shortcut"
    return "conv" if isinstance(layer, CONVOLUTIONS) else "fc"


def kinds_of(model: nn.Module) -> dict[str, Kind]:
    """Return the prunable weights of a network by name, in the network's order, with the kind of their layers.

    The output layer is the dense layer or convolution that is called `output`, else the last dense layer. Frozen
    weights (`requires_grad` is False) have no mask. Raises LabError for an unknown kind, and if nothing is prunable.
    """
    layers, found = dict(model.named_modules()), {}
    dense = [name for name, layer in layers.items() if isinstance(layer, nn.Linear) and not name.endswith("out_proj")]
    output = "output" if isinstance(layers.get("output"), nn.Linear | CONVOLUTIONS) else (dense or [""])[-1]
    has_mask = getattr(model, "prunable", prunable)
    kind = getattr(model, "kind_of", partial(kind_of, output=f"{output}.weight"))
    for name, parameter in model.named_parameters():
        layer = layers[name.rpartition(".")[0]]
        if parameter.ndim >= 2 and parameter.requires_grad and has_mask(layer, name):
            found[name] = choose(f"kind of {name}", kind(layer, name), get_args(Kind))
    if not found:
        raise LabError(
            f"models: nothing in {type(model).__name__} is prunable: it has no dense layer, convolution or attention; "
            "a method `prunable(layer, name)` of the model says what else is"
        )
    return found


def without_mask(settings: Recipe) -> str:
    """Return a note on parameters of two or more dimensions in a user-defined network that have no mask.

    It is empty if there are none, and for the networks of this package.
    """
    if not is_user_defined(MODELS[settings.architecture]):
        return ""
    model = outline(settings, image_shape(settings), classes_of(settings))
    parameters, masked = dict(model.named_parameters()), kinds_of(model)
    bare = [name for name, parameter in parameters.items() if parameter.ndim >= 2 and name not in masked]
    pruned, total = (sum(parameters[name].numel() for name in names) for names in (masked, parameters))
    more = f" and {len(bare) - 4:,} more" if len(bare) > 4 else ""
    note = f"{pruned:,} of {total:,} parameters have a mask; without one: {', '.join(bare[:4])}{more}"
    return note if bare else ""


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
