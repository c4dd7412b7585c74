"""Tickets per hour at the paper's protocol, compared with two plain loops, and the start-up time of `lth run`.

    LTH_DATA=... python benchmarks/protocol.py

LeNet-300-100, batch 60, Adam, two trials down to 3.6% of the weights (15 rounds), 15,000 images evaluated every 100
steps. Ours runs `find_tickets` on every core, including its one-time work (three passes over the training images at the
end of each training run). The plain loops train one network, apply the mask after each step and evaluate as often, with
a DataLoader that applies ToTensor and Normalize, or with tensors. They take the same time in every round, so one
training run with fewer steps is timed on one thread, and its time is scaled up to all steps.
"""

import os
import subprocess
import sys
import tempfile

from bench import best, clock, dataloader, keep, mnist, options_of, plain_training, print_table, tensor_batches
from torch import cat

from lthcore.data.datasets import Split
from lthcore.lottery.search import find_tickets
from lthcore.paths import project_root
from lthcore.settings import Settings

STEPS, PLAIN_STEPS, EVERY = 2000, 400, 100


def start_up() -> float:
    """Return the seconds that the command `lth run` takes for one step on digits, without its notebook."""
    params = project_root() / "params/iterative_pruning/mlp_digits.yaml"
    values = {"iterations": 1, "eval_every": 1, "trials": 1, "rounds": 0}
    changes = [text for name, value in values.items() for text in ("-p", name, str(value))]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "lthcore", "run", str(params), "--no-notebook", *changes]
        environment = os.environ | {"LTH_RESULTS": folder, "LTH_PLAIN": "1"}
        return clock(lambda: subprocess.run(command, check=True, capture_output=True, env=environment))


def main() -> None:
    """Measure, print, write JSON."""
    options = options_of(__doc__, "protocol", repeats=3)
    settings = Settings(iterations=STEPS, eval_every=EVERY, arms=("ticket",), trials=2, rounds=15)
    settings = settings.changed(device=str(options.device))
    data, source = mnist(settings)
    host, _ = mnist(settings.changed(device="cpu"))
    held = Split(*(cat(pair) for pair in zip(host.validation, host.test, strict=True)))
    train_loader, held_loader = dataloader(host.train, 60, True), dataloader(held, 1000, False)
    loops = {
        "dataloader": (lambda: train_loader, lambda: held_loader),
        "tensors": (
            lambda: tensor_batches(host.train),
            lambda: zip(held.images.split(1000), held.labels.split(1000), strict=True),
        ),
    }
    list(find_tickets(settings.changed(iterations=2, eval_every=2), data))  # start the workers and compile the kernels
    trainings = settings.trials * (settings.rounds + 1)
    seconds = {name: [] for name in ("ours", *loops, "start-up of lth run, one step")}
    for _ in range(options.repeats):
        seconds["ours"].append(clock(lambda: list(find_tickets(settings, data))) / trainings)
        for name, (batches, evaluations) in loops.items():
            once = clock(lambda b=batches, e=evaluations: plain_training(b, e, PLAIN_STEPS, EVERY))
            seconds[name].append(once * STEPS / PLAIN_STEPS)
        seconds["start-up of lth run, one step"].append(start_up())

    print(f"{source}; a training of {STEPS} steps and {STEPS // EVERY} evaluations; n = {options.repeats}")
    print_table(seconds)
    least = best(seconds)
    hourly = {name: 3600 / least[name] for name in ("ours", *loops)}
    print(", ".join(f"{name} {rate:.0f}" for name, rate in hourly.items()) + " such trainings an hour")
    ratios = {
        "ours against the DataLoader loop": (least["dataloader"] / least["ours"], ">= 12"),
        "ours against the tensor loop": (least["tensors"] / least["ours"], ">= 1.5"),
        "start-up, seconds": (least["start-up of lth run, one step"], "< 5"),
    }
    keep(options.json, options.device, options.repeats, ratios, data=source, seconds=seconds, trainings_per_hour=hourly)


if __name__ == "__main__":
    main()
