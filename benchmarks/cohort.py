"""Replicates as a tensor dimension: time of a step per replicate when K of them train in step, K = 1 ... 64.

    LTH_DATA=... python benchmarks/cohort.py [--device cuda]

LeNet-300-100, batch 60, Adam. The time includes an evaluation of 15,000 images after every 100 steps. On a GPU, cohorts
train in this way. On a CPU (here up to K = 32) they do so only with `engine: stack`, and the table shows why: one by
one is faster there.
"""

from functools import partial

import torch
from bench import best, keep, mnist, options_of, print_table, side_by_side

from lthcore.lottery.start import begin
from lthcore.models.build import build
from lthcore.models.weights import initial_weights
from lthcore.settings import Settings
from lthcore.training.loop import engine_for, epoch_batches

SIZES = (1, 2, 4, 8, 15, 32, 64)


def main() -> None:
    """Measure, print, write JSON."""
    options = options_of(__doc__, "cohort", repeats=3)
    cuda = options.device.type == "cuda"
    steps = 100 if cuda else 10
    settings = Settings(device=str(options.device), engine="stack")
    data, source = mnist(settings)
    start = begin(settings, 0, 0, initial_weights(build(settings, data.shape, 10), settings, 0))
    order = epoch_batches(settings, data, start, 0, steps)

    def interval(engine, k: int) -> None:
        engine.steps(data, order.expand(k, *order.shape), [settings.learning_rate] * steps)

    def measured(kind: str, k: int) -> list[float]:
        engine = engine_for(settings.changed(engine=kind), data, [start] * k)
        works = {
            "steps": partial(interval, engine, k),
            "evaluation": partial(engine.evaluate, data.validation, data.test),
        }
        side_by_side(works, 1)  # capture CUDA graphs and warm up before timing
        times = side_by_side(works, options.repeats)
        return [(s / steps + e / 100) / k for s, e in zip(*times.values(), strict=True)]

    seconds = {f"K = {k}": measured("stack", k) for k in (SIZES if cuda else SIZES[:-1])}
    seconds["one by one"] = measured("auto", 1)
    print(f"{source}, {torch.cuda.get_device_name() if cuda else 'CPU, one thread'}, n = {options.repeats}")
    print_table(seconds, "us a step and replicate", 1e6)
    least = best(seconds)
    top = f"K = {15 if cuda else 8}"
    ratios = {f"{top} against one by one": (least["one by one"] / least[top], "")}
    if cuda:
        ratios["us a step of a cohort of 15"] = (least["K = 15"] * 15 * 1e6, "<= 150")
    keep(options.json, options.device, options.repeats, ratios, data=source, seconds=seconds)


if __name__ == "__main__":
    main()
