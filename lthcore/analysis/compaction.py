"""Compaction: conversion of a sparse network to a smaller dense one that computes the same function.

It removes inputs and units that no remaining unit reads, units that are zero for every input, and constant units whose
contribution can be added to the biases of the layers that read them. A convolution with zero padding cannot absorb a
constant, because at the border some of its inputs are padding: a constant unit that it reads stays. If no unit of a
stream remains, one is kept. A ticket with an empty layer thus becomes a small network with constant outputs, which is
what it computes.
"""

from copy import deepcopy
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from lthcore.costs import multiply_adds
from lthcore.data.datasets import load
from lthcore.errors import LabError
from lthcore.masks import weights_left
from lthcore.models.build import build
from lthcore.models.weights import Weights
from lthcore.onednn import Linear
from lthcore.pruning.streams import Stream, columns, streams_of
from lthcore.recipe import Recipe
from lthcore.runs.checkpoints import load_ticket_file, state_path
from lthcore.training.state import Replicate


class Select(nn.Module):
    """Layer that passes on the inputs that the network reads, and drops all others."""

    def __init__(self, index: Tensor) -> None:
        super().__init__()
        self.register_buffer("index", index)

    def forward(self, x: Tensor) -> Tensor:
        """Return the selected inputs: x (N, inputs, ...) -> (N, selected, ...)."""
        return x.index_select(1, self.index)


def compact(model: nn.Sequential, weights: Weights) -> nn.Sequential:
    """Return the network `model` with `weights` (pruned ones zero) as a dense one of the units that are needed.

    The result is a new network on the CPU, in evaluation mode. Its outputs equal those of `model` in evaluation mode up
    to rounding. Residual streams keep the channels that any of their blocks needs. Raises LabError for networks that
    `streams_of` does not know, and for a hidden layer that no ReLU follows directly or behind its batch norm: its
    negative outputs would not become zero.
    """
    model = deepcopy(model).cpu().eval()
    model.load_state_dict(weights)
    layers = dict(model.named_modules())
    streams = streams_of(model)
    _check_rectified(model)
    sizes = [_size(stream, layers) for stream in streams]
    alive = [torch.ones(n, dtype=torch.bool) for n in sizes]
    with torch.no_grad():
        while True:
            before = alive
            alive = _read_by_outputs(streams, layers, alive)
            for i, stream in enumerate(streams):
                if stream.producers:
                    _drop_constants(i, streams, layers, alive)
            if all(map(torch.equal, alive, before)):
                break
        index = [a.nonzero().squeeze(1) if a.any() else torch.tensor([0]) for a in alive]
        return _cut(model, layers, streams, index, sizes)


def _check_rectified(model: nn.Sequential) -> None:
    named = [(name, layer) for name, layer in model.named_children() if not isinstance(layer, nn.BatchNorm2d)]
    weighted = [i for i, (_, layer) in enumerate(named) if isinstance(layer, nn.Conv2d | nn.Linear)]
    for i in weighted[:-1]:  # the last layer needs no ReLU: its outputs are those of the network
        if not isinstance(named[i + 1][1], nn.ReLU):
            raise LabError(f"compact: {named[i][0]} is not followed by a ReLU, and only rectified units can be removed")


def sizes_of_tickets(folder: str | Path, settings: Recipe) -> pd.DataFrame:
    """Compact the tickets of a run's first trial; return their sizes before and after, by round.

    Sizes are the weights left, parameters and multiply-adds. Raises AssertionError unless outputs on 1,000 test images
    agree up to rounding, and LabError if the tickets are not on this machine.
    """
    rows, data = [], load(settings.changed(device="cpu"))
    images = data.test.images[:1000]
    paths = [state_path(Path(folder) / "tickets", Replicate("ticket", 0, 0, k)) for k in range(settings.rounds + 1)]
    for path in filter(Path.exists, paths):
        ticket = load_ticket_file(path)
        model = build(settings, data.shape, data.classes)
        small = compact(model, ticket.final)
        model.load_state_dict(ticket.final)
        with torch.no_grad():
            before, after = model.eval()(images), small(images)
        torch.testing.assert_close(after, before, atol=1e-4 * float(before.abs().max()), rtol=1e-3)
        rows.append({
            "round": ticket.replicate.round,
            "weights left": weights_left(ticket.mask),
            "parameters": sum(p.numel() for p in model.parameters()),
            "compacted": sum(p.numel() for p in small.parameters()),
            "multiply-adds": multiply_adds(model, data.shape),
            "multiply-adds, compacted": multiply_adds(small, data.shape),
        })  # fmt: skip
    if not rows:
        raise LabError(f"compact: no tickets in {folder}; they stay on the machine that made them")
    return pd.DataFrame(rows).set_index("round")


def export_onnx(model: nn.Module, shape: tuple[int, int, int], path: str | Path) -> None:
    """Export a network for batches of any size, of images of `shape` (C, H, W), to an ONNX file.

    Raises LabError if onnx or onnxscript is not installed, and for a network that fixes the size of a batch.
    """
    try:
        import onnx  # torch needs both, and names neither clearly
        import onnxscript  # noqa: F401
    except ImportError:
        raise LabError("onnx: not installed here; pip install 'lthcore[onnx]'") from None
    images, batch = torch.zeros(2, *shape), torch.export.Dim("batch")
    torch.onnx.export(
        _in_plain_layers(model), (images,), str(path), input_names=["images"], output_names=["logits"],
        dynamic_shapes=({0: batch},), dynamo=True, external_data=False, verbose=False,
    )  # fmt: skip
    if not onnx.load(path).graph.input[0].type.tensor_type.shape.dim[0].dim_param:
        Path(path).unlink()
        raise LabError(
            "onnx: this network fixes the number of images in a batch while it is exported, as `len(x)` does; take "
            "x.shape[0] in its forward"
        )


def _in_plain_layers(model: nn.Module) -> nn.Module:
    """Return a copy of a network with `nn.Linear`, which any exporter knows, in place of oneDNN's dense layers."""
    plain = deepcopy(model)
    for name, layer in list(plain.named_modules()):
        if isinstance(layer, Linear):
            own = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None)
            own.load_state_dict(layer.state_dict())
            _replace(plain, name, own)
    return plain.train(model.training)


def _size(stream: Stream, layers: dict[str, nn.Module]) -> int:
    if stream.producers:
        return len(layers[stream.producers[0]].weight)
    return layers[stream.consumers[0]].weight.shape[1]


def _stream_read_by(layer: str, streams: list[Stream]) -> int:
    return next(i for i, stream in enumerate(streams) if layer in stream.consumers)


def _rows_alive(layer: str, layers: dict[str, nn.Module], streams: list[Stream], alive: list[Tensor]) -> Tensor:
    """Return which outputs of a layer are alive. All outputs of the last layer are."""
    made = next((i for i, stream in enumerate(streams) if layer in stream.producers), None)
    return torch.ones(len(layers[layer].weight), dtype=torch.bool) if made is None else alive[made]


def _read_by_outputs(streams: list[Stream], layers: dict[str, nn.Module], alive: list[Tensor]) -> list[Tensor]:
    """Return which units of `alive` have a path to the outputs of the network.

    Paths are followed backwards from the outputs, because units of a residual stream may feed nothing but each other.
    """
    found = [torch.zeros_like(a) for a in alive]
    while True:
        before = found
        found = [
            alive[i]
            & torch.stack(
                [
                    _read(layers[name].weight, len(alive[i]), _rows_alive(name, layers, streams, before))
                    for name in stream.consumers
                ]
            ).any(0)
            for i, stream in enumerate(streams)
        ]
        if all(map(torch.equal, found, before)):
            return found


def _read(weight: Tensor, units: int, rows: Tensor) -> Tensor:
    """Return which of the `units` that a layer reads have a nonzero weight to any of its outputs `rows`."""
    return columns(weight, units)[rows].ne(0).any(2).any(0)


def _drop_constants(i: int, streams: list[Stream], layers: dict[str, nn.Module], alive: list[Tensor]) -> None:
    """Drop the units of a stream that are the same for every image, by changing `alive[i]` in place.

    Units that are zero are always dropped. Other constants are dropped, and added to the biases of the layers that read
    them, if the stream has a single producer and all of these layers can take constants.
    """
    stream, size = streams[i], len(alive[i])
    values, constant = [], alive[i].clone()
    for name, norm in zip(stream.producers, stream.norms, strict=True):
        layer, source = layers[name], _stream_read_by(name, streams)
        weight = columns(layer.weight, len(alive[source]))[:, alive[source]]
        constant &= ~weight.ne(0).any(2).any(1)
        values.append(_after_norm(torch.zeros(size) if layer.bias is None else layer.bias, layers.get(norm)))
    # a residual stream is rectified after each sum: a unit is zero throughout only if no summand is positive
    zero = constant & torch.stack([value <= 0 for value in values]).all(0)
    alive[i] &= ~zero
    readers = [layers[name] for name in stream.consumers]
    if len(values) == 1 and all(_takes_constants(reader) for reader in readers):
        folded = constant & ~zero
        for reader in readers:
            block = columns(reader.weight, size)
            reader.bias += (block[:, folded].sum(2) * values[0][folded]).sum(1)
            block[:, folded] = 0.0
        alive[i] &= ~folded


def _after_norm(value: Tensor, norm: nn.BatchNorm2d | None) -> Tensor:
    return value if norm is None else norm(value[None, :, None, None]).flatten()


def _takes_constants(layer: nn.Module) -> bool:
    unpadded = isinstance(layer, nn.Linear) or layer.padding in ("valid", 0, (0, 0))
    return unpadded and layer.bias is not None


def _cut(
    model: nn.Sequential, layers: dict[str, nn.Module], streams: list[Stream], index: list[Tensor], sizes: list[int]
) -> nn.Sequential:
    """Return the network with its layers cut down to the units `index` of each stream."""
    for name, layer in layers.items():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            source = _stream_read_by(name, streams)
            made = next((i for i, stream in enumerate(streams) if name in stream.producers), None)
            rows = torch.arange(len(layer.weight)) if made is None else index[made]
            weight = columns(layer.weight, sizes[source])[rows][:, index[source]]
            _replace(model, name, _smaller(layer, weight.reshape(len(rows), -1, *layer.weight.shape[2:]), rows))
    for stream, units in zip(streams, index, strict=True):
        for norm in filter(None, stream.norms):
            old = layers[norm]
            new = nn.BatchNorm2d(len(units), eps=old.eps, affine=old.affine)
            tensors = old.state_dict().items()
            new.load_state_dict({key: t[units] if t.ndim else t for key, t in tensors})
            _replace(model, norm, new)
    named = list(model.named_children())
    if len(index[0]) < sizes[0]:
        at = next(i for i, (name, _) in enumerate(named) if name == streams[0].consumers[0])
        named.insert(at, ("select", Select(index[0])))
    small = nn.Sequential()
    for name, layer in named:
        small.add_module(name, layer)
    return small.eval()


def _smaller(layer: nn.Conv2d | nn.Linear, weight: Tensor, rows: Tensor) -> nn.Conv2d | nn.Linear:
    bias = layer.bias is not None
    if isinstance(layer, nn.Linear):
        new = nn.Linear(weight.shape[1], weight.shape[0], bias)
    else:
        new = nn.Conv2d(weight.shape[1], len(weight), layer.kernel_size, layer.stride, layer.padding, bias=bias)
    new.weight.copy_(weight)
    if bias:
        new.bias.copy_(layer.bias[rows])
    return new


def _replace(model: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, layer)
