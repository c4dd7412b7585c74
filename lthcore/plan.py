"""Plan: which experiments there are, which are done, and how long the rest would take on this machine."""

from functools import cache
from pathlib import Path
from time import perf_counter

import torch
from joblib import cpu_count

from lthcore.data import DATASETS, Data, Split, pick_device
from lthcore.lottery import begin, planned
from lthcore.models import build, initial_weights
from lthcore.results import project_root, read_record, results_root
from lthcore.settings import PROFILES, Experiment, Settings, load_experiment
from lthcore.train import evaluate_point, train


def params_files(root: Path | None = None) -> list[Path]:
    """Every `params/<notebook>/<variant>.yaml`, in order."""
    return sorted(((root or project_root()) / "params").glob("*/*.yaml"))


def state(experiment: Experiment) -> tuple[int, int]:
    """How many trainings of an experiment are done, and how many there are."""
    folder, total = results_root() / experiment.name, len(planned(experiment.settings))
    record = read_record(folder)
    if record.get("run_key") != experiment.settings.key or not (folder / "rounds.csv").exists():
        return 0, total
    done = {tuple(line.split(",")[:4]) for line in (folder / "rounds.csv").read_text().splitlines()[1:]}
    return sum(tuple(map(str, replicate)) in done for replicate in planned(experiment.settings)), total


def seconds_left(experiment: Experiment) -> float:
    """Estimated seconds to finish an experiment here, from steps and evaluations timed just now on random images."""
    done, total = state(experiment)
    if done == total:
        return 0.0
    s = experiment.settings
    dataset = DATASETS[s.dataset]
    short = {"iterations": 5, "eval_every": 5, "warmup": 0, "schedule": "constant", "milestones": (), "rewind_to": 0}
    step, image = _timed(s.changed(**short))
    kept = s.train_examples or dataset.n_train - s.validation
    evaluated = (s.iterations / s.eval_every + 1) * (s.validation + dataset.n_test) + 2 * kept
    workers = 1 if pick_device(s.device).type == "cuda" else cpu_count()
    return (total - done) * (s.iterations * step + evaluated * image) / workers


def all_experiments() -> dict[Path, dict[str, Experiment]]:
    """Params file -> profile -> experiment."""
    return {path: {profile: load_experiment(path, profile) for profile in PROFILES} for path in params_files()}


@cache
def _timed(settings: Settings) -> tuple[float, float]:
    """Seconds of a training step, and of evaluating an image: the best of three short goes each, on one thread."""
    shape, n = DATASETS[settings.dataset].shape, max(1000, settings.batch_size)
    device = pick_device(settings.device)
    images = torch.rand(n, *shape, device=device)
    split = Split(images, torch.randint(0, 10, (n,), device=device))
    data, model = Data(split, None, split, ""), build(settings, shape, 10)
    start = begin(settings, 0, 0, initial_weights(model, settings, 0))
    start.curve = [evaluate_point(model.to(device), data, 0)]  # else training begins with an evaluation
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        image = min(_clock(lambda: evaluate_point(model, data, 0), device) for _ in range(3)) / n

        def steps() -> None:
            start.iteration = 0
            next(train(settings, data, start))

        return max(min(_clock(steps, device) for _ in range(3)) - n * image, 0) / 5, image
    finally:
        torch.set_num_threads(threads)


def _clock(work, device: torch.device) -> float:
    started = perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return perf_counter() - started
