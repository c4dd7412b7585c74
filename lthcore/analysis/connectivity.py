"""Linear mode connectivity: whether two trained networks lie in one valley, by the error on the line between them.

arXiv 1912.05671: a network is *stable* at an iteration if there is no error barrier between copies of it that are
trained from there on different orders of the data. Tickets win if they are rewound to a stable point.
"""

import math
from dataclasses import replace

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lthcore.data.datasets import Data, Split
from lthcore.models.build import build
from lthcore.models.weights import Weights
from lthcore.recipe import Recipe
from lthcore.seeds import seed_for
from lthcore.training.engines.dense import evaluate
from lthcore.training.loop import train
from lthcore.training.state import TrainState

POINTS = 30  # on the line, including both ends, as in section 2
NORM_BATCH, NORM_IMAGES = 500, 10_000  # images used to renew the statistics of batch norms


def path(
    model: nn.Module, a: Weights, b: Weights, split: Split, points: int = POINTS, norms: Split | None = None
) -> list[tuple[float, float]]:
    """Return (loss, error) of the networks at equally spaced points on the line from weights a to weights b.

    Floating-point buffers are interpolated in the same way. If `norms` is given, the statistics of batch norms are
    instead computed from its images at each point, as is necessary between networks (arXiv 1912.05671, section 2).
    """
    found = []
    for alpha in torch.linspace(0, 1, points).tolist():
        mixed = {n: torch.lerp(w, b[n], alpha) if w.is_floating_point() else w for n, w in a.items()}
        model.load_state_dict(mixed)
        if norms is not None:
            renew_norms(model, norms)
        loss, accuracy = evaluate(model, split)[0]
        found.append((loss, 1 - accuracy))
    return found


@torch.no_grad()
def renew_norms(model: nn.Module, split: Split) -> None:
    """Set the statistics of a network's batch norms, if it has any, to their means over batches of images.

    Uses the first NORM_IMAGES images, in batches of NORM_BATCH. All other layers evaluate, so that dropout is off; this
    is what `torch.optim.swa_utils.update_bn` does not do.
    """
    model.eval()
    norms = {layer: layer.momentum for layer in model.modules() if isinstance(layer, _BatchNorm)}
    for norm in norms:
        norm.train()
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over all batches
    for images in split.images[:NORM_IMAGES].split(NORM_BATCH) if norms else ():
        if len(images) > 1:  # a single image has no variance
            model(images)
    for norm, momentum in norms.items():
        norm.momentum = momentum
    model.eval()


def barrier(values: list[float]) -> float:
    """Return how far the highest point of a path lies above the mean of its ends, or 0 if it does not (section 2).

    It is unknown (nan) if a value is not finite.
    """
    if not all(map(math.isfinite, values)):
        return math.nan
    return max(0.0, max(values) - (values[0] + values[-1]) / 2)


def copies(settings: Recipe, data: Data, state: TrainState) -> list[TrainState]:
    """Train two copies of `state` to the end, each with its own order of the data (and noise), and return them."""
    found = []
    for copy in range(2):
        own = replace(
            state, seed=seed_for(state.seed, "copy", copy), generator_state=None, early_stop=None, curve=[],
            rewind=None, weights=dict(state.weights), optimizer={k: t.clone() for k, t in state.optimizer.items()},
        )  # fmt: skip
        for _ in train(settings, data, own):
            pass
        found.append(own)
    return found


def instability(settings: Recipe, data: Data, state: TrainState) -> dict[str, float]:
    """Return the barriers of test error and training loss between two copies of a training run.

    `error` is the mean test error of the two copies. All three are unknown (nan) if a copy diverged.
    """
    a, b = copies(settings, data, state)
    if a.diverged or b.diverged:
        return dict.fromkeys(("error_barrier", "loss_barrier", "error"), math.nan)
    model = build(settings, data.shape, data.classes).to(data.test.images.device)
    test = [error for _, error in path(model, a.weights, b.weights, data.test, norms=data.train)]
    loss = [value for value, _ in path(model, a.weights, b.weights, data.train, norms=data.train)]
    return {"error_barrier": barrier(test), "loss_barrier": barrier(loss), "error": (test[0] + test[-1]) / 2}
