"""Units: the neurons and filters of a network, what computes them and what reads them, and pruning them whole."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lthcore.errors import LabError
from lthcore.masks import Mask
from lthcore.models import Dropout, Residual, build
from lthcore.onednn import Linear
from lthcore.pruning.criteria import PruningContext, Scores
from lthcore.registry import register_criterion
from lthcore.settings import Recipe, Settings

KNOWN = (
    nn.Flatten, nn.Linear, Linear, nn.Conv2d, nn.BatchNorm2d, nn.ReLU, Dropout, nn.MaxPool2d, nn.AdaptiveAvgPool2d,
    Residual,
)  # fmt: skip


class Stream(NamedTuple):
    """A set of units: the layers that compute them, those layers' norms, and the layers that read them.

    A network's inputs have no producer. The units of a residual stream have several, whose outputs are added up.
    """

    producers: tuple[str, ...]
    norms: tuple[str | None, ...]
    consumers: tuple[str, ...]


def streams_of(model: nn.Sequential) -> list[Stream]:
    """The streams of a network from its inputs on; the outputs are nobody's units.

    Raises LabError for a network of other layers than KNOWN, or that are not in a row: what reads its units is unknown.
    """
    strangers = [name for name, layer in model.named_children() if type(layer) not in KNOWN]
    if type(model) is not nn.Sequential or strangers:
        what = f"and {strangers[0]} is none of them" if strangers else f"and {type(model).__name__} is another module"
        raise LabError(
            f"units: those of dense layers, convolutions and residual blocks in an nn.Sequential are known, {what}; "
            "take granularity = weights"
        )
    found: list[Stream] = []
    producers: list[str] = []
    norms: list[str | None] = []
    consumers: list[str] = []

    def close(*names: str) -> None:
        """The units so far are read by a layer for the last time; what `names` compute comes next."""
        nonlocal producers, norms, consumers
        found.append(Stream(tuple(producers), tuple(norms), tuple(consumers)))
        producers, norms, consumers = list(names), [None] * len(names), []

    for name, layer in model.named_children():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            consumers.append(name)
            close(name)
        elif isinstance(layer, nn.BatchNorm2d):
            norms[-1] = name
        elif isinstance(layer, Residual):
            consumers.append(f"{name}.conv1")
            found.append(Stream((f"{name}.conv1",), (f"{name}.norm1",), (f"{name}.conv2",)))
            if layer.shortcut is None:
                producers.append(f"{name}.conv2")
                norms.append(f"{name}.norm2")
            else:
                consumers.append(f"{name}.shortcut")
                close(f"{name}.conv2", f"{name}.shortcut")
                norms = [f"{name}.norm2", f"{name}.shortcut_norm"]
    return found


def units_of(settings: Recipe, shape: tuple[int, int, int], classes: int) -> list[Stream]:
    """The streams of the network of these settings, for images of `shape`."""
    return streams_of(build(settings, shape, classes))


def prune_units(scores: Scores, mask: Mask, streams: list[Stream], settings: Settings) -> Mask:
    """Drop the lowest-scored units: everything that comes into them, and everything that goes out of them.

    scores: (units,) for each layer. Each layer loses floor(rate x units left), or with scope "global" those with a rate
    above zero together; one unit always stays. Residual streams, inputs and outputs are left whole. Returns a new mask,
    nested in `mask`.
    """
    rates = {"conv": settings.prune_conv, "fc": settings.prune_fc}
    alive_scores: dict[str, Tensor] = {}
    readers: dict[str, tuple[str, ...]] = {}
    for stream in streams:
        if len(stream.producers) == 1 and _rate(stream, mask, rates) > 0:
            name = f"{stream.producers[0]}.weight"
            readers[name] = tuple(f"{consumer}.weight" for consumer in stream.consumers)
            alive = mask[name].flatten(1).any(1) & _read(mask, readers[name], len(mask[name]))
            alive_scores[name] = torch.where(alive, scores[name].double(), torch.inf)
            if alive_scores[name].isnan().any():
                raise LabError(f"cannot prune: the scores of {name} are not numbers (did the training diverge?)")
    pruned = {name: m.clone() for name, m in mask.items()}
    for names in [[name] for name in alive_scores] if settings.scope == "layer" else [list(alive_scores)]:
        left = {name: int(alive_scores[name].isfinite().sum()) for name in names}
        quota = int(sum(rates[_kind(mask[name])] * left[name] for name in names) + 1e-9)
        ranked = sorted((float(v), i, k) for i, name in enumerate(names) for k, v in enumerate(alive_scores[name]))
        for _, i, k in ranked:
            name = names[i]
            if quota and left[name] > 1:
                quota, left[name] = quota - 1, left[name] - 1
                pruned[name][k] = False
                for reader in readers[name]:
                    columns(pruned[reader], len(pruned[name]))[:, k] = False
    return pruned


@register_criterion(prunes="units")
def unit_l1(seen: PruningContext) -> Scores:
    """The mean |w| of a unit's incoming weights, pruned ones counted as the zeros they are: its L1 norm by fan-in."""
    return {name: seen.final[name].flatten(1).abs().mean(1) for name in seen.mask}


@register_criterion(prunes="units")
def unit_l2(seen: PruningContext) -> Scores:
    """The root mean square of a unit's incoming weights: its L2 norm by fan-in."""
    return {name: seen.final[name].flatten(1).square().mean(1).sqrt() for name in seen.mask}


@register_criterion(prunes="units")
def unit_activation(seen: PruningContext) -> Scores:
    """The mean of a unit's rectified output over 1,000 training images (and over a filter's positions)."""
    model, means = build(seen.settings, seen.data.shape, seen.data.classes), {}
    model.load_state_dict(seen.final)
    norm_of = {
        layer: norm for stream in streams_of(model) for layer, norm in zip(stream.producers, stream.norms, strict=True)
    }
    layers = dict(model.named_modules())

    def note(name: str) -> Callable:
        def hook(_: nn.Module, __: tuple, out: Tensor) -> None:
            means[name] = out.relu().transpose(0, 1).flatten(1).mean(1)

        return hook

    made_by = {name: name.removesuffix(".weight") for name in seen.mask}
    hooks = [layers[norm_of.get(by) or by].register_forward_hook(note(name)) for name, by in made_by.items()]
    with torch.no_grad():
        model.eval()(seen.data.train.images[:1000].cpu())
    for hook in hooks:
        hook.remove()
    return means


def columns(weight: Tensor, units: int) -> Tensor:
    """A view of a weight (outputs, inputs, ...) by the units that it reads: (outputs, units, rest)."""
    return weight.view(len(weight), units, -1)


def _rate(stream: Stream, mask: Mask, rates: dict[str, float]) -> float:
    name = f"{stream.producers[0]}.weight"
    return rates[_kind(mask[name])]


def _kind(mask: Tensor) -> str:
    return "conv" if mask.ndim == 4 else "fc"


def _read(mask: Mask, readers: tuple[str, ...], units: int) -> Tensor:
    """Which units any reader has a connection from."""
    return torch.stack([columns(mask[reader], units).any(2).any(0) for reader in readers]).any(0)
