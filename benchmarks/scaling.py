"""Speed-up by more worker processes: the same cohort of LeNets on 1, 2, 4 ... workers, up to the number of cores.

    LTH_DATA=... python benchmarks/scaling.py

Each worker trains on one thread, evaluations included. The data are shared, not copied. The limit is the speed of one
core times the number of cores, less what is lost because they share caches, memory and power.
"""

from bench import best, clock, keep, mnist, options_of, print_table, side_by_side
from joblib import cpu_count

from lthcore.lottery.start import begin
from lthcore.models.build import build
from lthcore.models.weights import initial_weights
from lthcore.settings import Settings
from lthcore.training.parallel import train_cohort

STEPS, EVERY = 6000, 100


def main() -> None:
    """Measure, print, write JSON."""
    options = options_of(__doc__, "scaling")
    settings = Settings(iterations=STEPS, eval_every=EVERY, device="cpu")
    data, source = mnist(settings)
    theta_0 = initial_weights(build(settings, data.shape, 10), settings, 0)
    counts = [n for n in (1, 2, 4, 8, 16, 32, 64) if n <= cpu_count()]
    size = counts[-1]

    def cohort(workers: int) -> None:
        list(train_cohort(settings, data, {i: begin(settings, i, 0, theta_0) for i in range(size)}, workers=workers))

    works = {f"{n} worker{'s' * (n > 1)}": lambda n=n: cohort(n) for n in counts}
    for work in works.values():
        clock(work)  # start the workers, which a run does only once for all its rounds
    seconds = side_by_side(works, options.repeats)
    print(f"{source}, {size} trainings of {STEPS} steps, {cpu_count()} cores, n = {options.repeats}")
    print_table(seconds)
    least = list(best(seconds).values())
    ratios = {
        f"{n} workers against one": (least[0] / t, ">= 1.7" if n == 2 else "")
        for n, t in zip(counts[1:], least[1:], strict=True)
    }
    keep(options.json, options.device, options.repeats, ratios, data=source, trainings=size, seconds=seconds)


if __name__ == "__main__":
    main()
