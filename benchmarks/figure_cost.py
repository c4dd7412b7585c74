"""Time that Figures 1, 3 and 4 of LeNet take, as `lth list` predicts it, checked by measuring a short version.

    LTH_DATA=... python benchmarks/figure_cost.py

The short version has the arms of these figures and all rounds of params/iterative_pruning/lenet_mnist.yaml, but one
trial and fewer iterations, with the same number of steps between evaluations. If its estimate is right, so is that of
the whole experiment: all trials at 50,000 iterations.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

from bench import clock, keep, mnist, options_of, run_or_skip

from lthcore.errors import LabError
from lthcore.lottery.search import find_tickets, planned
from lthcore.paths import project_root, results_root
from lthcore.runs.estimate import seconds_left
from lthcore.runs.experiments import load_experiment
from lthcore.runs.runner import run

ITERATIONS = 2000


def main() -> None:
    """Measure, print, write JSON."""
    options = options_of(__doc__, "figure_cost", repeats=1)
    params = project_root() / "params/iterative_pruning/lenet_mnist.yaml"
    arms = ["ticket", "reinit", "random", "oneshot", "oneshot_reinit"]
    whole = load_experiment(params, "paper", {"device": str(options.device), "arms": arms})
    small = {
        "arms": arms,
        "iterations": ITERATIONS,
        "trials": 1,
        "reinit_draws": 1,
        "random_draws": 1,
        "device": str(options.device),
    }
    short = load_experiment(params, "paper", small)
    data, source = mnist(short.settings)
    if source != "MNIST":
        raise LabError("figure_cost: this one runs the experiment itself, and needs MNIST under LTH_DATA")
    list(find_tickets(short.settings.changed(iterations=1, eval_every=1, rounds=1), data))  # warm up
    predicted, measured = [], []
    for _ in range(options.repeats):
        predicted.append(seconds_left(short))
        with TemporaryDirectory() as folder:
            measured.append(clock(lambda f=folder: run(short.settings, Path(f) / "run", quiet=True)))
    trainings, hours = len(planned(whole.settings)), seconds_left(whole) / 3600
    print(f"short: {len(planned(short.settings))} trainings of {ITERATIONS:,} steps")
    print(f"    predicted {min(predicted):.0f} s, measured {min(measured):.0f} s")
    print(f"whole: {trainings:,} trainings of 50,000 steps, about {hours:.1f} h here (tables under {results_root()})")
    ratios = {
        "measured against predicted": (min(measured) / min(predicted), "within a third"),
        "hours of Figures 1, 3 and 4 whole, predicted": (hours, "<= 0.17 on an H200"),
    }
    fields = {"data": source, "predicted_seconds": predicted, "measured_seconds": measured, "trainings": trainings}
    keep(options.json, options.device, options.repeats, ratios, **fields)


if __name__ == "__main__":
    run_or_skip(main)
