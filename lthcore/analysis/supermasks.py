"""Supermasks: masks under which an untrained network is accurate, learned by gradient descent or evolved.

No weights are trained here. Only the choice of weights to keep is optimised.
"""

import math

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from lthcore.analysis.cache import TicketStore
from lthcore.data.datasets import Data, Split
from lthcore.errors import LabError
from lthcore.lottery.start import signed
from lthcore.masks import Mask, apply, full_mask, percent_left, shuffled
from lthcore.models.build import build
from lthcore.models.prunable import kinds_of
from lthcore.models.weights import Weights
from lthcore.recipe import Recipe
from lthcore.seeds import seed_for
from lthcore.training.engines.dense import evaluate

DENSITIES = (0.7, 0.5, 0.3, 0.15, 0.05)
LEARNING_RATE = 1.0  # of the scores (SGD with momentum, cosine to zero); LeNet learns as well with 3, worse with 0.1
MOMENTUM = 0.9
POPULATION, GENERATIONS = 60, 300
FLIPPED = 0.002  # share of a mask's bits that a mutation flips


class Top(torch.autograd.Function):
    """Mask of the k highest scores, and of all others that equal the k-th highest.

    Its gradient is passed on to the scores unchanged (straight-through).
    """

    @staticmethod
    def forward(ctx, scores: Tensor, k: int) -> Tensor:
        """Return 1.0 for each score that is at least the k-th highest and 0.0 for the others (for all if k is 0)."""
        n = scores.numel()
        threshold = scores.flatten().kthvalue(n - k + 1).values if k else scores.max() + 1
        return (scores >= threshold).to(scores.dtype)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        """Return the gradient unchanged."""
        return gradient, None


def learned_mask(settings: Recipe, data: Data, weights: Weights, density: float, seed: int, steps: int) -> Mask:
    """Return a mask that keeps `density` of each layer, found by edge-popup (arXiv 1911.13299).

    The weights do not change. Each weight has a score, the highest scores of a layer form its mask, and gradients of
    the loss on `steps` batches update the scores. The network is in evaluation mode, without dropout and with the batch
    norm statistics in `weights`.
    """
    model = build(settings, data.shape, data.classes).to(data.train.images.device).eval()
    generator = torch.Generator().manual_seed(seed)
    bounds = {name: math.sqrt(6 / weights[name][0].numel()) for name in kinds_of(model)}
    scores = {
        name: (torch.rand(weights[name].shape, generator=generator) * bound)
        .to(data.train.images.device)
        .requires_grad_()
        for name, bound in bounds.items()
    }
    kept = {name: round(density * score.numel()) for name, score in scores.items()}
    weights = {name: w.to(data.train.images.device) for name, w in weights.items()}
    optimizer = torch.optim.SGD(scores.values(), LEARNING_RATE, MOMENTUM)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        batch = torch.randint(len(data.train.labels), (settings.batch_size,), generator=generator)
        masked = {name: w * Top.apply(scores[name], kept[name]) if name in scores else w for name, w in weights.items()}
        logits = functional_call(model, masked, (data.train.images[batch],))
        loss = F.cross_entropy(logits, data.train.labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return {name: Top.apply(score.detach(), kept[name]).bool().cpu() for name, score in scores.items()}


def evolved_masks(data: Data, weights: Weights, seed: int, generations: int = GENERATIONS) -> list[Mask]:
    """Evolve masks with NSGA-II; return their Pareto front by validation error and weights left.

    Works for small chains of dense layers only. Without a validation set, the training error is used. Needs pymoo
    (`pip install 'lthcore[evolution]'`); raises LabError if it is not installed.
    """
    try:
        from pymoo.algorithms.moo.nsga2 import NSGA2
        from pymoo.core.problem import Problem
        from pymoo.operators.crossover.ux import UniformCrossover
        from pymoo.operators.mutation.bitflip import BitflipMutation
        from pymoo.optimize import minimize
    except ImportError:
        raise LabError("evolved masks need pymoo: pip install 'lthcore[evolution]'") from None
    names = list(full_mask(weights))
    shapes = [weights[name].shape for name in names]
    sizes = [shape.numel() for shape in shapes]
    split = data.validation or data.train

    class Masks(Problem):
        """Minimise the error and the share of weights left, over masks written as bits."""

        def _evaluate(self, x: np.ndarray, out: dict, *_, **__) -> None:
            bits = torch.from_numpy(x.astype(np.float32))
            out["F"] = np.stack([_errors(bits, names, shapes, weights, split), bits.mean(1).numpy()], axis=1)

    generator = np.random.default_rng(seed)
    densities = generator.uniform(0.05, 0.95, (POPULATION, 1))
    start = generator.random((POPULATION, sum(sizes))) < densities
    algorithm = NSGA2(
        POPULATION, sampling=start, crossover=UniformCrossover(), mutation=BitflipMutation(prob_var=FLIPPED)
    )
    problem = Masks(n_var=sum(sizes), n_obj=2, xl=0, xu=1, vtype=bool)
    found = minimize(problem, algorithm, ("n_gen", generations), seed=seed % 2**32)
    front = torch.from_numpy(np.atleast_2d(found.X).astype(bool))
    parts = [bits.split(sizes) for bits in front]
    return [{n: p.view(shape) for n, p, shape in zip(names, part, shapes, strict=True)} for part in parts]


def _errors(bits: Tensor, names: list[str], shapes: list, weights: Weights, split: Split) -> np.ndarray:
    """Return the error on a split of a chain of dense layers under each mask in `bits` (population, bits)."""
    device = split.images.device
    x, bits = split.images.flatten(1).expand(len(bits), -1, -1), bits.to(device)
    weights = {name: w.to(device) for name, w in weights.items()}
    parts = bits.split([shape.numel() for shape in shapes], dim=1)
    for i, (name, shape, part) in enumerate(zip(names, shapes, parts, strict=True), start=1):
        masked = weights[name] * part.view(-1, *shape)
        x = torch.baddbmm(weights[name.replace("weight", "bias")].view(1, 1, -1), x, masked.transpose(1, 2))
        x = x.relu() if i < len(names) else x
    return (x.argmax(2) != split.labels).float().mean(1).cpu().numpy()


def learned(tickets: TicketStore) -> pd.DataFrame:
    """Learn supermasks of each trial's initial weights, and of their signs alone; return accuracy without training."""
    s, data, rows = tickets.settings, tickets.data, []
    for trial in range(s.trials):
        dense = tickets(trial, 0)
        for kind, weights in (("as drawn", dense.start), ("signed", signed(dense.start, dense.mask))):
            for density in DENSITIES:
                mask = learned_mask(s, data, weights, density, seed_for(s.seed, "supermask", trial), s.iterations)
                rows.append(_row(s, data, weights, mask, trial, f"learned, weights {kind}"))
    return pd.DataFrame(rows)


def evolved(tickets: TicketStore) -> pd.DataFrame:
    """Evolve masks of each trial's initial weights with NSGA-II; return their accuracy without training.

    Learned masks, the tickets' masks and random masks are evaluated in the same way, for comparison.
    """
    s, data, rows = tickets.settings, tickets.data, []
    for trial in range(s.trials):
        initial = tickets(trial, 0).start
        for mask in evolved_masks(data, initial, seed_for(s.seed, "evolution", trial)):
            rows.append(_row(s, data, initial, mask, trial, "evolved (NSGA-II)"))
        for density in DENSITIES:
            mask = learned_mask(s, data, initial, density, seed_for(s.seed, "supermask", trial), s.iterations)
            rows.append(_row(s, data, initial, mask, trial, "learned (edge-popup)"))
        for k in range(1, s.rounds + 1):
            mask = tickets(trial, k).mask
            rows.append(_row(s, data, initial, mask, trial, "ticket's mask"))
            rows.append(_row(s, data, initial, shuffled(mask, seed_for(s.seed, trial, k)), trial, "random mask"))
    return pd.DataFrame(rows)


def _row(settings: Recipe, data: Data, weights: Weights, mask: Mask, trial: int, method: str) -> dict:
    model = build(settings, data.shape, data.classes).to(data.test.images.device)
    model.load_state_dict(apply(mask, weights))
    held = data.validation or data.train
    (_, validation), (_, test) = evaluate(model, held, data.test)
    return {
        "method": method, "trial": trial, "percent_left": round(percent_left(mask), 4),
        "val_accuracy": validation, "test_accuracy": test,
    }  # fmt: skip
