"""Streams: the units (neurons, filters) of a network, with the layers that compute them and the layers that read them.

The outputs of a dense layer are one stream: this layer computes them, and the next layer reads them. In a residual
network several layers compute the units of a stream (their outputs are added), and several layers read them.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lthcore.errors import LabError
from lthcore.models.layers import Dropout, Residual, flattens_images, in_a_row
from lthcore.onednn import Linear

KNOWN = (
    nn.Flatten, nn.Linear, Linear, nn.Conv2d, nn.BatchNorm2d, nn.ReLU, Dropout, nn.MaxPool2d, nn.AdaptiveAvgPool2d,
    Residual,
)  # fmt: skip
WEIGHTED = (nn.Conv2d, nn.Linear)


class Stream(NamedTuple):
    """A set of units: the layers that compute them, their batch norms (None for none), and the layers that read them.

    The stream of a network's inputs has no producer.
    """

    producers: list[str]
    norms: list[str | None]
    consumers: list[str]


def streams_of(model: nn.Sequential) -> list[Stream]:
    """Return the streams of a network, starting with its inputs. The outputs of the network are not a stream.

    Raises LabError if the network has a layer that `_is_known` does not know, is not a plain nn.Sequential, or has a
    layer twice: then it is unknown which layers read a unit. Also raises it for a batch norm that does not follow a
    convolution directly (behind a ReLU, for example, it would make a unit that is zero a constant), for a residual
    block that reads the inputs (they would be both given and computed), and for a dense layer that reads images which
    are not flattened (it would read their width and not their channels).
    """
    _check_layers(model)
    found: list[Stream] = []
    stream = Stream([], [], [])  # the current stream: further layers may compute or read its units
    for name, layer in model.named_children():
        if isinstance(layer, WEIGHTED):
            stream.consumers.append(name)
            found.append(stream)
            stream = Stream([name], [None], [])
        elif isinstance(layer, nn.BatchNorm2d):
            stream.norms[-1] = name
        elif isinstance(layer, Residual):
            stream.consumers.append(f"{name}.conv1")
            found.append(Stream([f"{name}.conv1"], [f"{name}.norm1"], [f"{name}.conv2"]))  # inside the block
            if layer.shortcut is None:  # the block's output is added to the stream that it reads
                stream.producers.append(f"{name}.conv2")
                stream.norms.append(f"{name}.norm2")
            else:  # a projection starts a new stream
                stream.consumers.append(f"{name}.shortcut")
                found.append(stream)
                stream = Stream([f"{name}.conv2", f"{name}.shortcut"], [f"{name}.norm2", f"{name}.shortcut_norm"], [])
    return found


def _check_layers(model: nn.Sequential) -> None:
    """Raise the errors of `streams_of`."""
    strangers = [name for name, layer in model.named_children() if not _is_known(layer)]
    if in_a_row(model) is None or strangers:
        what = (
            f"and {strangers[0]} is none of them" if strangers else "and here another module holds them, or one twice"
        )
        raise LabError(
            f"units: those of dense layers, convolutions and residual blocks in an nn.Sequential are known, {what}"
        )
    before: list[nn.Module] = []
    for name, layer in model.named_children():
        if isinstance(layer, nn.Linear) and not any(map(flattens_images, before)):
            raise LabError(
                f"units: {name} is a dense layer that reads images, and only behind nn.Flatten() are its inputs known"
            )
        if isinstance(layer, nn.BatchNorm2d) and not (before and isinstance(before[-1], nn.Conv2d)):
            raise LabError(
                f"units: {name} is a batch norm that does not follow a convolution directly, and only there batch "
                "norms are known"
            )
        if isinstance(layer, Residual) and not any(isinstance(of, WEIGHTED) for of in before):
            raise LabError(
                f"units: {name} is a residual block that reads the inputs of the network, and only behind another "
                "layer residual blocks are known"
            )
        before.append(layer)


def _is_known(layer: nn.Module) -> bool:
    """Return whether it is known which units a layer reads.

    A convolution must read all units and adjacent positions (no groups, no dilation), padded with zeros. A flatten
    layer must flatten whole images.
    """
    if isinstance(layer, nn.Conv2d):
        plain = (layer.groups, layer.dilation, layer.padding_mode) == (1, (1, 1), "zeros")
        return plain and type(layer) in KNOWN
    if isinstance(layer, nn.Flatten):
        return flattens_images(layer)
    return type(layer) in KNOWN


def outputs_of(model: nn.Sequential, images: Tensor, keep: Callable[[str, Tensor], Tensor]) -> dict[str, Tensor]:
    """Return what is to be kept of the outputs of each dense layer and convolution, in evaluation mode, by layer.

    Outputs of hidden layers are taken behind their batch norm, if there is one, and all of them without a ReLU.
    `keep(layer, outputs)` reduces them while the network runs. Raises LabError like `streams_of`.
    """
    layers, found = dict(model.named_modules()), {}
    pairs = (pair for stream in streams_of(model) for pair in zip(stream.producers, stream.norms, strict=True))
    norm_of = {layer: norm for layer, norm in pairs if norm}

    def note(name: str) -> Callable:
        def hook(_: nn.Module, __: tuple, out: Tensor) -> None:
            found[name] = keep(name, out)

        return hook

    weighted = [name for name, layer in layers.items() if isinstance(layer, WEIGHTED)]
    hooks = [layers[norm_of.get(name, name)].register_forward_hook(note(name)) for name in weighted]
    with torch.no_grad():
        model.eval()(images)
    for hook in hooks:
        hook.remove()
    return found


def columns(weight: Tensor, units: int) -> Tensor:
    """Return a view of a weight (outputs, inputs, ...), grouped by the units that it reads: (outputs, units, rest)."""
    return weight.view(len(weight), units, -1)
