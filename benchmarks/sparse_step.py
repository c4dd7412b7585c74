"""A step and an evaluation of LeNet-300-100 (batch 60, Adam), sparse beside masked-dense, as weights go.

    python benchmarks/sparse_step.py [--repeats 5] [--json benchmarks/sparse_step.json]

One thread, both in one process, in turn. The crossover in lthcore/sparse.py is read off this table.
"""

import argparse
import json
import statistics
from functools import partial
from pathlib import Path

import torch
from lenet_step import clock, images_of

from lthcore import sparse
from lthcore.lottery import begin
from lthcore.masks import full_mask, percent_left
from lthcore.models import build, initial_weights
from lthcore.pruning import layer_rates, prune, scores
from lthcore.results import hardware, versions
from lthcore.settings import Settings
from lthcore.train import engine_for, epoch_batches

STEPS = 100


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="times each is measured, in turn (default: 5)")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/sparse_step.json"), help="where the numbers go")
    options = parser.parse_args()
    torch.set_num_threads(1)

    settings = Settings(device="cpu")
    data, source = images_of(settings)
    theta_0 = initial_weights(build(settings, data.shape, 10), settings, 0)
    mask = full_mask(theta_0)
    crossover, sparse.CROSSOVER = sparse.CROSSOVER, 2.0  # both engines, at every sparsity
    print(f"{source}, batch 60, {STEPS} steps, n = {options.repeats}, {hardware(torch.device('cpu'))}")
    print(f"{'left %':>7}{'dense us/step':>15}{'sparse':>8}{'x':>6}{'dense ms/eval':>15}{'sparse':>8}{'x':>6}")
    rows = []
    for k in range(17):
        state = begin(settings, 0, k, theta_0, mask)
        engines = {name: engine_for(settings.changed(engine=name), data, [state]) for name in ("dense", "auto")}
        batches, rates = epoch_batches(settings, data, state, 0, STEPS)[None], [settings.learning_rate] * STEPS
        held = (data.validation, data.test)
        times = {(name, what): [] for name in engines for what in ("step", "evaluation")}
        for engine in engines.values():
            engine.steps(data, batches[:, :2], rates[:2])  # compiled before it is timed
        for _ in range(options.repeats):
            for name, engine in engines.items():
                times[name, "step"].append(clock(partial(engine.steps, data, batches, rates)) / STEPS)
                times[name, "evaluation"].append(clock(partial(engine.evaluate, *held)))
        medians = {key: statistics.median(seconds) for key, seconds in times.items()}
        row = {"percent_left": percent_left(mask)}
        for what in ("step", "evaluation"):
            dense, auto = medians["dense", what], medians["auto", what]
            row |= {f"{what}_dense_s": times["dense", what], f"{what}_sparse_s": times["auto", what]}
            row |= {f"{what}_speedup": dense / auto}
        rows.append(row)
        print(
            f"{row['percent_left']:7.1f}{medians['dense', 'step'] * 1e6:15.0f}{medians['auto', 'step'] * 1e6:8.0f}"
            f"{row['step_speedup']:6.2f}{medians['dense', 'evaluation'] * 1e3:15.1f}"
            f"{medians['auto', 'evaluation'] * 1e3:8.1f}{row['evaluation_speedup']:6.2f}",
            flush=True,
        )
        mask = prune(scores("magnitude", theta_0, theta_0, mask), mask, layer_rates(settings, mask))
    print(f"the crossover in use: {crossover:.0%} of the weights left")
    record = {"hardware": hardware(torch.device("cpu")), "versions": versions(), "data": source, "batch": 60}
    record |= {"n": options.repeats, "crossover": crossover, "rows": rows}
    options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
