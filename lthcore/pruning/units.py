"""Units: pruning of whole neurons and filters, and the criteria that score them."""

import torch
from torch import Tensor

from lthcore.masks import Mask
from lthcore.models.build import build
from lthcore.pruning.allocation import prune
from lthcore.pruning.criteria import PruningContext, Scores
from lthcore.pruning.streams import Stream, columns, outputs_of
from lthcore.registry import register_criterion

ONE = 1e-9  # share of a layer's units that is always kept: rounded up, a single one


def prune_units(
    scores: Scores, mask: Mask, streams: list[Stream], rates: dict[str, float], scope: str = "layer"
) -> Mask:
    """Prune the lowest-scored units with all their incoming and outgoing weights, and return a new mask.

    scores: (units,) for each layer; rates: those of `layer_rates`. Each layer loses floor(rate x remaining units); with
    scope "global" the layers with a rate above zero are ranked together and lose floor(sum of rate x remaining units).
    Each layer keeps at least one unit. Residual streams, inputs and outputs are not pruned, nor are units that a layer
    without a mask (of frozen weights) computes or reads. The new mask is nested in `mask`. Raises LabError if a score
    is nan.
    """
    readers = {
        f"{stream.producers[0]}.weight": [f"{consumer}.weight" for consumer in stream.consumers]
        for stream in streams
        if len(stream.producers) == 1
        and all(f"{layer}.weight" in mask for layer in stream.producers + stream.consumers)
    }
    alive = {name: _alive(mask, name, of) for name, of in readers.items() if rates[name] > 0}
    kept = prune(scores, alive, rates, scope, keep_at_least=ONE)

    pruned = {name: m.clone() for name, m in mask.items()}
    for name, units in kept.items():
        pruned[name][~units] = False
        for reader in readers[name]:
            columns(pruned[reader], len(units))[:, ~units] = False
    return pruned


def _alive(mask: Mask, name: str, readers: list[str]) -> Tensor:
    """Return which units of a layer have an incoming connection and one to at least one reader: (units,), bool."""
    units = len(mask[name])
    is_read = torch.stack([columns(mask[reader], units).any(2).any(0) for reader in readers]).any(0)
    return mask[name].flatten(1).any(1) & is_read


@register_criterion(prunes="units")
def unit_l1(seen: PruningContext) -> Scores:
    """The mean |w| of a unit's incoming weights, where pruned weights count as zeros: its L1 norm divided by fan-in."""
    return {name: seen.final[name].flatten(1).abs().mean(1) for name in seen.mask}


@register_criterion(prunes="units")
def unit_l2(seen: PruningContext) -> Scores:
    """The root mean square of a unit's incoming weights: its L2 norm divided by the square root of its fan-in."""
    return {name: seen.final[name].flatten(1).square().mean(1).sqrt() for name in seen.mask}


@register_criterion(prunes="units")
def unit_activation(seen: PruningContext) -> Scores:
    """The mean of a unit's rectified output over 1,000 training images (and over a filter's positions)."""
    model = build(seen.settings, seen.data.shape, seen.data.classes)
    model.load_state_dict(seen.final)
    images = seen.data.train.images[:1000].cpu()
    means = outputs_of(model, images, lambda _, out: out.relu().transpose(0, 1).flatten(1).mean(1))
    return {name: means[name.removesuffix(".weight")] for name in seen.mask}
