"""Pruning: what each weight is worth (scores), and which weights go (prune). The two know nothing of each other."""

import math

import torch
from torch import Tensor

from lthcore.masks import Mask
from lthcore.models import Weights
from lthcore.settings import LabError, Settings, choose


def magnitude(initial: Weights, final: Weights, name: str) -> Tensor:
    """|w_T|: the paper's criterion (section 2)."""
    return final[name].abs()


def magnitude_at_init(initial: Weights, final: Weights, name: str) -> Tensor:
    """|w_0|: pruning before training (the paper's Figure 18)."""
    return initial[name].abs()


def magnitude_increase(initial: Weights, final: Weights, name: str) -> Tensor:
    """|w_T| - |w_0| (arXiv 1905.01067)."""
    return final[name].abs() - initial[name].abs()


def movement(initial: Weights, final: Weights, name: str) -> Tensor:
    """|w_T - w_0| (arXiv 1905.01067)."""
    return (final[name] - initial[name]).abs()


CRITERIA = {
    "magnitude": magnitude,
    "magnitude_at_init": magnitude_at_init,
    "magnitude_increase": magnitude_increase,
    "movement": movement,
}


def scores(criterion: str, initial: Weights, final: Weights, mask: Mask) -> dict[str, Tensor]:
    """The score of every prunable weight under `criterion`: the lowest are pruned first. Shapes as the weights'."""
    score = CRITERIA[choose("criterion", criterion, CRITERIA)]
    return {name: score(initial, final, name) for name in mask}


def layer_rates(settings: Settings, mask: Mask) -> dict[str, float]:
    """The share of its remaining weights that each layer loses in a round (the paper's Figure 2)."""

    def rate(name: str, m: Tensor) -> float:
        if name == "output.weight":
            return settings.prune_output
        if name.endswith("shortcut.weight"):
            return 0.0  # the paper's section 4 leaves them whole
        return settings.prune_conv if m.ndim == 4 else settings.prune_fc

    return {name: rate(name, m) for name, m in mask.items()}


def prune(scores: dict[str, Tensor], mask: Mask, rates: dict[str, float], scope: str = "layer") -> Mask:
    """Drop the lowest-scored of the weights that remain, exactly floor(rate x remaining) of them.

    scope "layer": each layer loses its own share. scope "global": the layers with a rate above zero are ranked
    together and lose the floor of what their rates add up to; a layer of rate 0 is left alone. Equal scores go by
    index, lower first. Returns a new mask, nested in `mask`. Raises LabError for scores that are not numbers.
    """
    choose("scope", scope, ("layer", "global"))
    remaining = {name: mask[name].flatten().nonzero().squeeze(1) for name in mask}
    worth = {name: scores[name].flatten()[remaining[name]] for name in mask}
    for name in mask:
        if worth[name].isnan().any():
            raise LabError(f"cannot prune: the scores of {name} are not numbers (did the training diverge?)")
    pruned = {name: m.clone(memory_format=torch.contiguous_format) for name, m in mask.items()}
    groups = [[name] for name in mask] if scope == "layer" else [[name for name in mask if rates[name] > 0]]
    for names in groups:
        if not names:
            continue
        # 1e-9 undoes the rounding of rates such as 0.29 x 100 = 28.999999999999996
        quota = math.floor(sum(rates[name] * len(remaining[name]) for name in names) + 1e-9)
        order = torch.cat([worth[name] for name in names]).argsort(stable=True)
        dropped = torch.zeros(len(order), dtype=torch.bool, device=order.device)
        dropped[order[:quota]] = True
        for name, drop in zip(names, dropped.split([len(remaining[name]) for name in names]), strict=True):
            pruned[name].view(-1)[remaining[name][drop]] = False
    return pruned
