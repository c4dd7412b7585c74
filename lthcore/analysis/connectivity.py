"""Connectivity: whether two trained networks lie in one valley, by the error on the straight line between them.

arXiv 1912.05671: networks trained from one point on different orders of the data are *stable* to that noise where no
barrier of error rises between them; tickets win where the point that they are rewound to is stable.
"""

from dataclasses import replace

import torch
from torch import nn

from lthcore.data.datasets import Data, Split
from lthcore.models import Weights, build
from lthcore.seeds import seed_for
from lthcore.settings import Recipe
from lthcore.training.engines.dense import evaluate
from lthcore.training.loop import train
from lthcore.training.state import TrainState

POINTS = 30  # on the line, its ends included, as in section 2
NORM_BATCH, NORM_IMAGES = 500, 10_000  # of which statistics of batch norms are taken


def path(
    model: nn.Module, a: Weights, b: Weights, split: Split, points: int = POINTS, norms: Split | None = None
) -> list[tuple[float, float]]:
    """(loss, error) of the networks at equal steps on the line from a to b.

    Floating-point buffers are mixed alike; with `norms`, statistics of batch norms are those of its images instead,
    anew at each point, as between networks they must be (arXiv 1912.05671, section 2).
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
    """Set the statistics of a network's batch norms, if it has any, to their means over batches of images."""
    layers = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not layers:
        return
    momenta = [layer.momentum for layer in layers]
    model.train()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # a plain mean over batches
    for images in split.images[:NORM_IMAGES].split(NORM_BATCH):
        model(images)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    model.eval()


def barrier(values: list[float]) -> float:
    """How far the highest point of a path is above the mean of its ends; 0 where it is not (section 2)."""
    return max(0.0, max(values) - (values[0] + values[-1]) / 2)


def copies(settings: Recipe, data: Data, state: TrainState) -> list[TrainState]:
    """Two trainings that go on from `state` to the end, each with an order of the data (and noise) of its own."""
    found = []
    for copy in range(2):
        own = replace(
            state, seed=seed_for(state.seed, "copy", copy), noise=None, early_stop=None, curve=[], rewind=None,
            weights=dict(state.weights), optimizer={k: t.clone() for k, t in state.optimizer.items()},
        )  # fmt: skip
        for _ in train(settings, data, own):
            pass
        found.append(own)
    return found


def instability(settings: Recipe, data: Data, state: TrainState) -> dict[str, float]:
    """The barrier of test error and of training loss between two copies of a training, and the copies' mean error."""
    a, b = copies(settings, data, state)
    model = build(settings, data.shape, data.classes).to(data.test.images.device)
    test = [error for _, error in path(model, a.weights, b.weights, data.test, norms=data.train)]
    loss = [value for value, _ in path(model, a.weights, b.weights, data.train, norms=data.train)]
    return {"error_barrier": barrier(test), "loss_barrier": barrier(loss), "error": (test[0] + test[-1]) / 2}
