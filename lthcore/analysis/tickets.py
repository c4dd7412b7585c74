"""Structure of tickets: pure functions of weights and masks.

In all functions, `initial` and `final` are the dense network's weights before and after its training, and the mask is
the ticket's, as in the paper's appendix on the structure of tickets.
"""

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from lthcore.masks import Mask
from lthcore.pruning.streams import columns, streams_of


def movement(initial: Tensor, final: Tensor) -> Tensor:
    """Return |w_T - w_0| of every weight (the paper's Figure 19)."""
    return (final - initial).abs()


def magnitude_change(initial: Tensor, final: Tensor) -> Tensor:
    """Return |w_T| - |w_0| of every weight (the paper's Figure 20)."""
    return final.abs() - initial.abs()


def incoming(mask: Tensor) -> Tensor:
    """Return the share of incoming connections that each unit keeps: (units, ...) -> (units,) (Figure 21)."""
    return mask.flatten(1).float().mean(1)


def outgoing(mask: Tensor) -> Tensor:
    """Return the share of outgoing connections that each input keeps: (units, inputs, ...) -> (inputs,) (Figure 22)."""
    return mask.transpose(0, 1).flatten(1).float().mean(1)


def mean_or_nan(values: Tensor) -> float:
    """Return the mean of the values, or nan if there are none."""
    return float(values.mean()) if values.numel() else float("nan")


def describe(initial: Tensor, final: Tensor, mask: Tensor) -> dict[str, float]:
    """Return statistics of a layer: its density, and the share of positive weights and the mean magnitude.

    The latter two are given for initial and final, kept and pruned weights. Pruned weights have final values too,
    because `final` holds the weights of the dense network. A statistic of no weights is nan.
    """
    found = {"density": float(mask.float().mean())}
    for when, w in (("initial", initial), ("final", final)):
        for which, m in (("kept", mask), ("pruned", ~mask)):
            found[f"positive_{when}_{which}"] = mean_or_nan((w[m] > 0).float())
            found[f"magnitude_{when}_{which}"] = mean_or_nan(w[m].abs())
    return found


def degrees(mask: Tensor, side: str = "in") -> pd.DataFrame:
    """Return how many units keep how many connections, and how many would in a random mask.

    Columns are degree, units and expected. With side "in", connections into each unit (row) are counted, with "out"
    connections out of each unit that the layer reads. In a random mask with the same number of weights, a unit's degree
    has a hypergeometric distribution: it is the number of kept weights among the unit's weights.
    """
    from scipy.stats import hypergeom  # slow to import, and a run needs it only here

    matrix = mask.flatten(1) if side == "in" else mask.transpose(0, 1).flatten(1)
    counts = matrix.sum(1)
    degree = np.arange(matrix.shape[1] + 1)
    chance = hypergeom(matrix.numel(), int(mask.sum()), matrix.shape[1]).pmf(degree)
    units = torch.bincount(counts, minlength=len(degree)).numpy()
    return pd.DataFrame({"degree": degree, "units": units, "expected": chance * len(matrix)})


def pixel_map(mask: Tensor, shape: tuple[int, int, int]) -> np.ndarray:
    """Return the share of a first dense layer's units that each input pixel is connected to, as (C, H, W)."""
    return outgoing(mask).view(shape).numpy()


def path_count(mask: Mask) -> tuple[float, float]:
    """Return the number of paths from inputs to outputs of a chain of dense layers, and its expected value.

    The expected value is for random masks of the same densities.
    """
    paths, expected, previous = None, 1.0, None
    for m in mask.values():
        matrix = m.double()
        paths = matrix.sum(1) if paths is None else matrix @ paths
        expected *= float(matrix.sum()) / (1 if previous is None else previous)
        previous = len(matrix)
    return float(paths.sum()), expected


def connected(model: nn.Sequential, mask: Mask) -> Mask:
    """Return a mask without its dead ends: only weights that lie on a path from an input to an output."""
    streams, kept = streams_of(model), {name: m.clone() for name, m in mask.items()}
    while True:
        before = {name: m.clone() for name, m in kept.items()}
        for stream in streams:
            if not stream.producers:
                continue
            units = len(kept[f"{stream.producers[0]}.weight"])
            fed = torch.stack([kept[f"{p}.weight"].flatten(1).any(1) for p in stream.producers]).any(0)
            read = torch.stack([columns(kept[f"{c}.weight"], units).any(2).any(0) for c in stream.consumers]).any(0)
            for producer in stream.producers:
                kept[f"{producer}.weight"][~read] = False
            for consumer in stream.consumers:
                columns(kept[f"{consumer}.weight"], units)[:, ~fed] = False
        if all(torch.equal(kept[name], before[name]) for name in kept):
            return kept
