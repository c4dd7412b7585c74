"""Speed-up by a second Ray worker: a part of the queue at profile smoke, on one and on two workers of a local Ray.

    LTH_DATA=... python benchmarks/queue_ray.py [--only NAME]

Whole commands `lth queue --engine ray` are timed, including the start of Ray (20 s) and the loading of the data. Each
begins with an empty results folder. The limit is a factor of two: workers share caches and memory, and `lth` itself
takes part of a core.
"""

import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec

from bench import best, keep, options_of, print_table, run_or_skip, side_by_side

from lthcore.data.datasets import load
from lthcore.errors import LabError
from lthcore.lottery.methods import planned
from lthcore.runs.queue import queued

WORKERS = (1, 2)


def main() -> None:
    """Measure, print, write JSON."""
    options = options_of(
        __doc__, "queue_ray", repeats=2, only=("_pruning/lenet_mnist", "part of the experiments' names")
    )
    experiments = [e for e in queued("smoke") if options.only in e.name]
    if find_spec("ray") is None:
        raise LabError("queue_ray: Ray is not installed: pip install -r requirements-cluster.txt")
    for dataset in {e.settings.dataset: e for e in experiments}.values():
        load(dataset.settings)  # raises LabError if its files are missing
    names = {e.name: len(planned(e.settings)) for e in experiments}

    def queue(workers: int) -> None:
        with tempfile.TemporaryDirectory() as results:
            command = [sys.executable, "-m", "lthcore", "queue", "--engine", "ray", "--profile", "smoke"]
            environment = os.environ | {"LTH_WORKERS": str(workers), "LTH_RESULTS": results, "LTH_PLAIN": "1"}
            subprocess.run([*command, "--only", options.only], env=environment, check=True, stdout=subprocess.DEVNULL)

    works = {f"{n} worker{'s' * (n > 1)}": lambda n=n: queue(n) for n in WORKERS}
    seconds = side_by_side(works, options.repeats)
    print(f"{len(names)} experiments of {options.only}, {sum(names.values())} trainings, n = {options.repeats}")
    print_table(seconds)
    one, two = best(seconds).values()
    ratios = {"2 Ray workers against one": (one / two, ">= 1.6")}
    keep(
        options.json, options.device, options.repeats, ratios, only=options.only, experiments=len(names),
        trainings=sum(names.values()), seconds=seconds,
    )  # fmt: skip


if __name__ == "__main__":
    run_or_skip(main)
