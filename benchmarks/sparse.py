"""Speed against percent left, on a CPU: LeNet-300-100 dense, masked, sparse and compacted; then Conv-2.

    LTH_DATA=... python benchmarks/sparse.py

dense       the unpruned network;  masked: the same products, pruned weights set to zero after each step
sparse      only the weights that are left (lthcore/sparse.py); its crossover is read off this table
compacted   the dense network without its dead units: what dropping whole units would give
Masks keep the largest initial weights of each layer, round by round at the paper's rates. One thread.
"""

from functools import partial
from itertools import pairwise

import torch
from bench import best, keep, mnist, options_of, print_table, side_by_side

from lthcore import sparse
from lthcore.data import Data, Split
from lthcore.lottery import begin
from lthcore.masks import Mask, full_mask, percent_left
from lthcore.models import build, initial_weights
from lthcore.pruning import layer_rates, prune, scores
from lthcore.settings import Settings
from lthcore.train import engine_for, epoch_batches

STEPS, ROUNDS = 100, 17


def live_units(mask: Mask, layers: tuple[str, ...]) -> tuple[int, ...]:
    """How many units of each hidden layer have both an incoming and an outgoing weight."""
    return tuple(int((mask[f"{a}.weight"].any(1) & mask[f"{b}.weight"].any(0)).sum()) for a, b in pairwise(layers))


def lenet(repeats: int) -> tuple[list[dict], str]:
    """Microseconds of a step and milliseconds of an evaluation, by round."""
    settings = Settings(device="cpu")
    data, source = mnist(settings)
    theta_0 = initial_weights(build(settings, data.shape, 10), settings, 0)
    mask, held, rows = full_mask(theta_0), (data.validation, data.test), []
    batches = epoch_batches(settings, data, begin(settings, 0, 0, theta_0), 0, STEPS)[None]
    rates = [settings.learning_rate] * STEPS
    print(f"{source}, LeNet-300-100, batch 60, n = {repeats}; us a step | ms an evaluation of 15,000 images")
    print(
        f"{'left %':>7}" + f"{'dense':>9}{'masked':>9}{'sparse':>9}{'compact':>9}" * 2 + f"{'x step':>9}{'x eval':>8}"
    )
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
        evaluations = {name: partial(engine.evaluate, *held) for name, engine in engines.items()}
        side_by_side(steps, 1)  # compiled and warm before it is timed
        step, evaluation = (best(side_by_side(works, repeats)) for works in (steps, evaluations))
        row = {"percent_left": percent_left(mask), "widths": small.widths}
        row |= {"step_us": {n: t / STEPS * 1e6 for n, t in step.items()}}
        row |= {"evaluation_ms": {n: t * 1e3 for n, t in evaluation.items()}}
        row |= {"step_speedup": step["masked"] / step["sparse"]}
        row |= {"evaluation_speedup": evaluation["masked"] / evaluation["sparse"]}
        rows.append(row)
        cells = [*row["step_us"].values(), *row["evaluation_ms"].values()]
        print(
            f"{row['percent_left']:7.1f}" + "".join(f"{c:9.0f}" for c in cells[:4])
            + "".join(f"{c:9.1f}" for c in cells[4:]) + f"{row['step_speedup']:9.2f}{row['evaluation_speedup']:8.2f}",
            flush=True,
        )  # fmt: skip
        mask = prune(scores("magnitude", theta_0, theta_0, mask), mask, layer_rates(settings, mask))
    return rows, source


def conv2(repeats: int) -> dict[str, list[float]]:
    """Seconds of a step of Conv-2 on random images (time does not depend on them), and of its parts."""
    settings = Settings(architecture="conv2", learning_rate=2e-4, device="cpu", engine="dense")
    split = Split(torch.randn(600, 3, 32, 32), torch.randint(0, 10, (600,)))
    data = Data(split, None, split, "")
    theta_0 = initial_weights(build(settings, data.shape, 10), settings, 0)
    mask, works = full_mask(theta_0), {}
    for k in range(21):
        if k in (0, 11, 20):
            state = begin(settings, 0, k, theta_0, mask)
            engine = engine_for(settings, data, [state])
            batches = epoch_batches(settings, data, state, 0, 2)[None]
            name = f"{percent_left(mask):.1f}% left, live widths {live_units(mask, ('fc1', 'fc2', 'output'))}"
            works[name] = partial(engine.steps, data, batches, [2e-4] * 2)
            if k == 0:
                works["  of which the update (Adam)"] = lambda e=engine: [e.optimizer.step() for _ in range(2)]
                plain = engine_for(settings, data, [state])
                plain.model.to(memory_format=torch.contiguous_format)
                works["  the same, channels first"] = partial(plain.steps, data, batches, [2e-4] * 2)
        mask = prune(scores("magnitude", theta_0, theta_0, mask), mask, layer_rates(settings, mask))
    side_by_side(works, 1)
    print(f"Conv-2, batch 60, masked-dense and channels last, n = {repeats}")
    seconds = {name: [t / 2 for t in times] for name, times in side_by_side(works, repeats).items()}
    print_table(seconds, "ms a step", 1e3)
    return seconds


def main() -> None:
    """Measure, print, write JSON."""
    options = options_of(__doc__, "sparse")
    crossover, sparse.CROSSOVER = sparse.CROSSOVER, 2.0  # sparse at every sparsity, to see where it pays
    rows, source = lenet(options.repeats)
    convolutions = conv2(options.repeats)
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
    fields = {"data": source, "crossover": crossover, "rows": rows, "conv2_seconds": convolutions}
    keep(options.json, options.device, options.repeats, ratios, **fields)


if __name__ == "__main__":
    main()
