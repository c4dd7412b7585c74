"""The paper's networks, and those of later work, as plain `nn.Module`s.

A network is a function of (settings, image shape, number of classes) that returns any module.
"""

import math
from collections import OrderedDict

from torch import nn

from lthcore.errors import LabError
from lthcore.models.layers import Dropout, Residual
from lthcore.onednn import Linear
from lthcore.recipe import Recipe
from lthcore.registry import register_model


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
