"""Speed by percentage of weights left, on a CPU: LeNet-300-100 dense, masked, sparse and compacted.

    pip install -r benchmarks/requirements.txt && LTH_DATA=... python benchmarks/sparse.py

dense       the unpruned network;  masked: the same products, with pruned weights set to zero after each step
sparse      only the weights that are left (lthcore/training/engines/sparse.py); its crossover is read off this table
compacted   the dense network without its dead units: what removing whole units would give
sparselab   a plain loop with layers of the package sparselab, which also trains only the weights that are left
Masks keep the largest initial weights of each layer, pruned round by round at the paper's rates. One thread.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # for sparselab; must be set before its import

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from bench import best, keep, mnist, options_of, side_by_side
from torch import Tensor, nn
from torch.nn import functional as F

from lthcore.data.datasets import Data
from lthcore.lottery.start import begin
from lthcore.masks import Mask, full_mask, percent_left
from lthcore.models.build import build
from lthcore.models.weights import Weights, initial_weights
from lthcore.pruning.allocation import layer_rates, prune
from lthcore.settings import Settings
from lthcore.training.engines import sparse
from lthcore.training.loop import engine_for, epoch_batches

try:
    import sparselab
except ImportError:
    sparselab = None  # optional: without it, its column is left out

STEPS, ROUNDS = 100, 17


def sparselab_steps(data: Data, batches: Tensor, theta_0: Weights, mask: Mask) -> Callable[[], None]:
    """Return a function that trains on `batches` as users of sparselab would: its layers, masked weights, Adam."""
    sparselab.ops._clear_transpose_cache()  # its keys are addresses, which new layers may share with deleted ones
    layers = []
    for name in ("fc1", "fc2", "output"):
        weight = theta_0[f"{name}.weight"] * mask[f"{name}.weight"]
        layer = sparselab.SparseLinear(weight.shape[1], weight.shape[0], sparsity=0.5)
        layer._csr = sparselab.layout.from_dense(weight)
        layer._values = nn.Parameter(torch.from_numpy(np.asarray(layer._csr.values)))
        layer.bias.data.zero_()
        layers += [layer, nn.ReLU()]
    model = nn.Sequential(nn.Flatten(), *layers[:-1])
    optimizer = torch.optim.Adam(model.parameters(), lr=1.2e-3)

    def steps() -> None:
        for batch in batches:
            optimizer.zero_grad()
            F.cross_entropy(model(data.train.images[batch]), data.train.labels[batch]).backward()
            optimizer.step()

    return steps


def live_units(mask: Mask, layers: tuple[str, ...]) -> tuple[int, ...]:
    """Return how many units of each hidden layer have both an incoming and an outgoing weight."""
    return tuple(int((mask[f"{a}.weight"].any(1) & mask[f"{b}.weight"].any(0)).sum()) for a, b in pairwise(layers))


def lenet(repeats: int) -> tuple[list[dict], str]:
    """Return a row for each round with microseconds of a step and milliseconds of an evaluation, and name the data."""
    settings = Settings(device="cpu")
    data, source = mnist(settings)
    theta_0 = initial_weights(build(settings, data.shape, 10), settings, 0)
    mask, held, rows = full_mask(theta_0), (data.validation, data.test), []
    shares = layer_rates(settings, build(settings, data.shape, data.classes))
    batches = epoch_batches(settings, data, begin(settings, 0, 0, theta_0), 0, STEPS)[None]
    rates = [settings.learning_rate] * STEPS
    print(f"{source}, LeNet-300-100, batch 60, n = {repeats}; us a step | ms an evaluation of 15,000 images")
    names = ("dense", "masked", "sparse", "compact", "sparselab")
    print(f"{'left %':>7}" + "".join(f"{n:>10}" for n in (*names, *names[:4])) + f"{'x step':>9}{'x eval':>8}")
    for k in range(ROUNDS):
        small = settings.changed(widths=live_units(mask, ("fc1", "fc2", "output")), engine="dense")
        compact = initial_weights(build(small, data.shape, 10), small, 0)
        engines = {
            "dense": engine_for(settings.changed(engine="dense"), data, [begin(settings, 0, 0, theta_0)]),
            "masked": engine_for(settings.changed(engine="dense"), data, [begin(settings, 0, k, theta_0, mask)]),
            "sparse": engine_for(settings, data, [begin(settings, 0, k, theta_0, mask)]),
            "compacted": engine_for(small, data, [begin(small, 0, 0, compact)]),
        }
        steps = {name: partial(engine.steps, data, batches, rates) for name, engine in engines.items()}
        if sparselab is not None:
            steps["sparselab"] = sparselab_steps(data, batches[0], theta_0, mask)
        evaluations = {name: partial(engine.evaluate, *held) for name, engine in engines.items()}
        side_by_side(steps, 1)  # compile and warm up before timing
        step, evaluation = (best(side_by_side(works, repeats)) for works in (steps, evaluations))
        row = {"percent_left": percent_left(mask), "widths": small.widths}
        row |= {"step_us": {n: t / STEPS * 1e6 for n, t in step.items()}}
        row |= {"evaluation_ms": {n: t * 1e3 for n, t in evaluation.items()}}
        row |= {"step_speedup": step["masked"] / step["sparse"]}
        row |= {"evaluation_speedup": evaluation["masked"] / evaluation["sparse"]}
        rows.append(row)
        print(
            f"{row['percent_left']:7.1f}" + "".join(f"{row['step_us'].get(n, float('nan')):10.0f}" for n in step)
            + "".join(f"{c:10.1f}" for c in row["evaluation_ms"].values())
            + f"{row['step_speedup']:9.2f}{row['evaluation_speedup']:8.2f}",
            flush=True,
        )  # fmt: skip
        mask = prune({n: theta_0[n].abs() for n in mask}, mask, shares)
    return rows, source


def main() -> None:
    """Measure, print, write JSON."""
    options = options_of(__doc__, "sparse")
    crossover, sparse.CROSSOVER = sparse.CROSSOVER, 2.0  # sparse at every sparsity, to see where it is faster
    rows, source = lenet(options.repeats)
    print(f"the crossover in use: {crossover:.0%} of the weights left")
    at = {round(row["percent_left"], 1): row for row in rows}
    both = {left: (r["step_us"], r["evaluation_ms"]) for left, r in at.items() if left < 100 * crossover}
    whole = [(s["masked"] + 10 * e["masked"]) / (s["sparse"] + 10 * e["sparse"]) for s, e in both.values()]
    ratios = {
        "sparse step against masked at 3.6% left": (at[3.6]["step_speedup"], ">= 3"),
        "sparse step against masked at 13.5% left": (at[13.5]["step_speedup"], ">= 1.5"),
        "least gain where it is used, an evaluation each 100 steps counted in": (min(whole), ">= 1"),
        "LeNet compacted against dense at 3.6% left": (
            at[3.6]["step_us"]["dense"] / at[3.6]["step_us"]["compacted"],
            "",
        ),
    }
    for left, target in ((13.5, ">= 8"), (3.6, ">= 10")) if sparselab is not None else ():
        step = at[left]["step_us"]
        ratios[f"sparse step against sparselab's at {left}% left"] = (step["sparselab"] / step["sparse"], target)
    fields = {"data": source, "crossover": crossover, "rows": rows}
    keep(options.json, options.device, options.repeats, ratios, **fields)


if __name__ == "__main__":
    main()
