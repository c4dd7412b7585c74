"""Estimates of `lth list` for convolutional networks, compared with the measured time of short runs.

    LTH_DATA=... python benchmarks/estimates.py

Each experiment runs at profile `cpu`, with fewer images and fewer steps, and with two trials on all cores. The measured
time includes loading, pruning and the start of the workers; the estimate does not.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

from bench import clock, keep, options_of, run_or_skip

from lthcore.runs.estimate import seconds_left
from lthcore.runs.experiments import load_experiments
from lthcore.runs.runner import run

FEW = {"train_examples": 6000, "validation": 1000, "trials": 2}
SEARCH = FEW | {"iterations": 150, "eval_every": 50, "rounds": 1, "arms": ["ticket"]}
SHORT = {
    "iterative_pruning/conv2_cifar10": SEARCH,
    "iterative_pruning/conv6_cifar10": SEARCH | {"iterations": 60, "eval_every": 30},
    "iterative_pruning/resnet20_cifar10": SEARCH | {"read_at": [], "milestones": [100], "warmup": 0},
    "dynamic_pruning/resnet18_cifar10": {"train_examples": 1280, "epochs": 2, "trials": 2},
}


def main() -> None:
    """Measure, print, write JSON."""
    options, ratios, rows = options_of(__doc__, "estimates", repeats=1), {}, []
    for name, changes in SHORT.items():
        experiment = load_experiments(f"params/{name}.yaml", "cpu", changes | {"device": str(options.device)})[0]
        predicted, measured = [], []
        for _ in range(options.repeats):
            predicted.append(seconds_left(experiment))
            with TemporaryDirectory() as folder:
                measured.append(clock(lambda e=experiment, f=folder: run(e.settings, Path(f) / "run", quiet=True)))
        print(f"{name}: predicted {min(predicted):.0f} s, measured {min(measured):.0f} s", flush=True)
        rows.append(
            {"experiment": name, "changes": changes, "predicted_seconds": predicted, "measured_seconds": measured}
        )
        ratios[f"{name}: measured against predicted"] = (min(measured) / min(predicted), "within 1.3")
    keep(options.json, options.device, options.repeats, ratios, rows=rows)


if __name__ == "__main__":
    run_or_skip(main)
