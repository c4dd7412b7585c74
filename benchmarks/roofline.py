"""A step and an evaluation of LeNet-300-100, phase by phase, compared with a floor: the same work timed alone.

    LTH_DATA=... python benchmarks/roofline.py

products    the matrix products of a step, with its shapes, by the fastest function available here
adam        the fused update of all parameters;  gather: the selection of a batch
evaluation  15,000 images; its floor is the products with its shapes
The phases of the step are also timed inside it, by wrapping the calls it makes; `other` is the rest. CPU, one thread.
"""

import time
from functools import partial

import torch
from bench import BATCH, best, clock, keep, mnist, options_of, plain_lenet, print_table, side_by_side

from lthcore.data.datasets import Data, Split
from lthcore.lottery.start import begin
from lthcore.models.build import build
from lthcore.models.weights import initial_weights
from lthcore.onednn import times_transposed
from lthcore.settings import Settings
from lthcore.training.engines import dense
from lthcore.training.loop import engine_for, epoch_batches

STEPS, SIZES = 900, ((784, 300), (300, 100), (100, 10))


class Stopwatch:
    """Adds up the seconds that wrapped calls take."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def wrap(self, function):
        """Return the function, with its calls timed."""

        def timed(*arguments, **keywords):
            started = time.perf_counter()
            result = function(*arguments, **keywords)
            self.seconds += time.perf_counter() - started
            return result

        return timed


class TimedImages:
    """Images whose indexing is timed: the gather of a step."""

    def __init__(self, images: torch.Tensor, watch: Stopwatch) -> None:
        self.pick = watch.wrap(images.__getitem__)

    def __getitem__(self, index: torch.Tensor) -> torch.Tensor:
        return self.pick(index)


def products(batch: int, train: bool, times: int) -> None:
    """Compute the products of `times` steps (three forward, three for weights, two back) or evaluations (three)."""
    weights = [torch.randn(outputs, inputs) for inputs, outputs in SIZES]
    xs = [torch.randn(batch, inputs) for inputs, _ in SIZES]
    gs = [torch.randn(batch, outputs) for _, outputs in SIZES]
    for _ in range(times):
        for x, g, w in zip(xs, gs, weights, strict=True):
            times_transposed(x, w)
            if train:
                times_transposed(g.t(), x.t())
                if w is not weights[0]:
                    times_transposed(g, w.t())


def gather(split: Split, batches: torch.Tensor) -> None:
    """Select the images and labels of batches, and nothing else."""
    for batch in batches:
        split.images[batch], split.labels[batch]


def adam(times: int) -> None:
    """Do `times` fused updates, and nothing else."""
    model, _ = plain_lenet()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-9, fused=True)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    for _ in range(times):
        optimizer.step()


def phases(settings: Settings, data: Data, state, batches: torch.Tensor, rates: list[float]) -> dict[str, float]:
    """Return the seconds of each phase inside the steps on `batches`."""
    watches = {name: Stopwatch() for name in ("products", "adam", "gather")}
    engine = engine_for(settings, data, [state])
    engine.optimizer.step = watches["adam"].wrap(engine.optimizer.step)
    timed = Data(
        Split(TimedImages(data.train.images, watches["gather"]), data.train.labels), None, data.test, "", classes=10
    )
    plain, dense.times_transposed = dense.times_transposed, watches["products"].wrap(times_transposed)
    try:
        engine.steps(timed, batches, rates)
    finally:
        dense.times_transposed = plain
    return {name: watch.seconds for name, watch in watches.items()}


def main() -> None:
    """Measure, print, write JSON."""
    options = options_of(__doc__, "roofline")
    settings = Settings(iterations=STEPS, eval_every=STEPS, device="cpu", engine="dense")
    data, source = mnist(settings)
    start = begin(settings, 0, 0, initial_weights(build(settings, data.shape, 10), settings, 0))
    batches, rates = epoch_batches(settings, data, start, 0, STEPS)[None], [settings.learning_rate] * STEPS
    engine = engine_for(settings, data, [start])
    held, evaluations = (data.validation, data.test), 5
    size = torch.randn(1024, 1024)
    works = {
        "step": lambda: engine.steps(data, batches, rates),
        "floor: products": partial(products, BATCH, True, STEPS),
        "floor: adam": partial(adam, STEPS),
        "floor: gather": partial(gather, data.train, batches[0]),
        "evaluation": lambda: [engine.evaluate(*held) for _ in range(evaluations)],
        "floor: evaluation's products": partial(products, 2500, False, 6 * evaluations),
        "matrix peak": lambda: [times_transposed(size, size) for _ in range(20)],
    }
    clock(works["step"])
    seconds, inside = {name: [] for name in works}, []
    for _ in range(options.repeats):
        for name, times in side_by_side(works, 1).items():
            seconds[name] += times
        inside.append(phases(settings, data, start, batches, rates))
    per = dict.fromkeys(works, STEPS) | {"evaluation": evaluations, "floor: evaluation's products": evaluations}
    each = {name: [t / per[name] for t in times] for name, times in seconds.items() if name != "matrix peak"}
    for name in inside[0]:
        each[f"in the step: {name}"] = [phase[name] / STEPS for phase in inside]
    least = best(each)
    in_step = [least[f"in the step: {name}"] for name in inside[0]]
    each["in the step: other"] = [max(0.0, least["step"] - sum(in_step))]
    print(f"{source}, batch {BATCH}, {STEPS} steps, one thread, n = {options.repeats}")
    print_table(each, "us", 1e6)
    peak = 20 * 2 * 1024**3 / min(seconds["matrix peak"])
    flops = 2 * BATCH * (3 * 266_200 - 235_200)
    floor = least["floor: products"] + least["floor: adam"] + least["floor: gather"]
    ratios = {
        "share of the step that is its floor": (floor / least["step"], ">= 0.7"),
        "share of the evaluation that is its floor": (least["floor: evaluation's products"] / least["evaluation"], ""),
        "share of the matrix peak, step": (flops / least["step"] / peak, ""),
        "share of the matrix peak, evaluation": (2 * 15_000 * 266_200 / least["evaluation"] / peak, ""),
        "matrix peak, GFLOP/s": (peak / 1e9, ""),
    }
    keep(options.json, options.device, options.repeats, ratios, data=source, seconds=each)


if __name__ == "__main__":
    main()
