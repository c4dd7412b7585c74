"""Plan: which experiments there are, which are done, and how long the rest would take on this machine."""

from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from time import perf_counter

import torch

from lthcore.data.datasets import Data, Split, check_size, classes_of, image_shape, pick_device
from lthcore.lottery.methods import planned
from lthcore.lottery.start import begin
from lthcore.masks import full_mask
from lthcore.models import build, initial_weights, outline
from lthcore.paths import folder_of, project_root
from lthcore.runs.experiments import Experiment
from lthcore.runs.files import read_record, read_table, replicate_of, rows_of
from lthcore.settings import DynamicSettings, Recipe, Settings
from lthcore.sources.catalogue import dataset_of, test_images
from lthcore.training.engines.chain import is_plain_chain
from lthcore.training.loop import engine_for
from lthcore.training.parallel import worker_count
from lthcore.training.state import Replicate

# the settings that a step's time depends on
COSTLY = (
    "dataset", "image_size", "architecture", "widths", "padding", "augment", "dropout", "optimizer", "momentum",
    "nesterov", "batch_size", "clip_norm", "precision", "device", "engine",
)  # fmt: skip
SHARED = 1.1  # workers beside each other each take so much longer (benchmarks/scaling.py: two do 1.83 times one's work)
SMALL_BATCH = 32  # images that a step of convolutions is timed on
MASKED = 0.5  # share of weights left at which other networks than chains are timed: their masks cost something too
DENSITIES = (1.0, 0.5, 0.25, 0.12, 0.03)  # shares of weights left at which this machine is timed


def params_files(root: Path | None = None) -> list[Path]:
    """Every `params/<notebook>/<variant>.yaml`, in order."""
    return sorted(((root or project_root()) / "params").glob("*/*.yaml"))


def done_replicates(experiment: Experiment) -> set[Replicate]:
    """The trainings of an experiment whose rows are in its table."""
    folder = folder_of(experiment.name)
    if read_record(folder).get("run_key") != experiment.settings.key:
        return set()
    if not (folder / "rounds.csv").exists():
        return set()
    return {replicate_of(row) for row in rows_of(read_table(folder, "rounds.csv"))} & set(planned(experiment.settings))


def seconds_left(experiment: Experiment) -> float:
    """Estimated seconds to finish an experiment here."""
    done = done_replicates(experiment)
    return seconds_of(experiment.settings, [r for r in planned(experiment.settings) if r not in done])


def seconds_of(s: Recipe, replicates: Iterable[Replicate]) -> float:
    """Estimated seconds of these trainings here, from steps and evaluations timed just now on random images."""
    check_size(s)
    kept = s.train_examples or dataset_of(s.dataset).n_train - s.validation
    evaluated = (s.iterations / s.eval_every + 1) * (s.validation + test_images(s.dataset))
    evaluated += (2 if s.validation else 1) * kept  # training accuracies, at the end and at the early stop
    chain, seconds = _is_chain(_alike(s)), 0.0
    for replicate in replicates:
        density = density_of(s, replicate) if chain else 1.0  # other networks take the same for any mask
        step, image = timed(s, min(d for d in DENSITIES if d >= density * 0.999))
        seconds += s.iterations * step + evaluated * image
    return seconds if pick_device(s.device).type == "cuda" else seconds / worker_count() * SHARED


def density_of(s: Recipe, replicate: Replicate) -> float:
    """About what share of the weights is left as a training goes."""
    if isinstance(s, DynamicSettings):
        return 1 - s.sparsity / 2
    return (1 - s.prune_fc) ** replicate.round


def timed(s: Recipe, density: float = 1.0) -> tuple[float, float]:
    """Seconds of a training step, and of evaluating an image, at a share of weights left; on one thread.

    A convolutional network's step is its update, and the rest, which goes with its images: so a small batch stands for
    all sizes, since timing every experiment's own would take minutes.
    """
    alike = _alike(s)
    if _is_chain(alike):
        step, image, _ = _timed(alike, density)
        return step, image
    step, image, update = _timed(alike.changed(batch_size=SMALL_BATCH), MASKED)
    return update + (step - update) * s.batch_size / SMALL_BATCH, image


def _alike(s: Recipe) -> Settings:
    """Settings with what a step's time depends on, the rest at its default: alike for many experiments."""
    return Settings(**{name: getattr(s, name) for name in COSTLY})


@cache
def _is_chain(settings: Settings) -> bool:
    return is_plain_chain(
        settings, outline(settings, image_shape(settings), classes_of(settings)), pick_device(settings.device)
    )


@cache
def _timed(settings: Settings, density: float) -> tuple[float, float, float]:
    """Seconds of a step, of evaluating an image, and of the optimizer's part in the step."""
    shape, classes, chain = image_shape(settings), classes_of(settings), _is_chain(settings)
    n, steps = (max(500, settings.batch_size), 5) if chain else (100, 1)
    device = pick_device(settings.device)
    images = torch.rand(n, *shape, device=device)
    split = Split(images, torch.randint(0, classes, (n,), device=device))
    data = Data(split, None, split, "", classes=classes)
    model = build(settings, shape, classes)
    weights = initial_weights(model, settings, 0)
    mask = {name: torch.rand(m.shape) < density for name, m in full_mask(model).items()}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        engine = engine_for(settings, data, [begin(settings, 0, 0, weights, mask)])
        batches = torch.randint(0, n, (1, steps, settings.batch_size), device=device)
        step = _best(lambda: engine.steps(data, batches, [0.0] * steps), device) / steps
        optimizer = getattr(engine, "optimizer", None)  # a sparse chain's is no object of its own
        update = _best(optimizer.step, device) if optimizer is not None and device.type == "cpu" else 0.0
        return step, _best(lambda: engine.evaluate(split), device) / n, update
    finally:
        torch.set_num_threads(threads)


def _best(work: Callable[[], None], device: torch.device) -> float:
    """The least of three times, or of two where it takes long: the first may have code to load."""
    times = [_clock(work, device), _clock(work, device)]
    while len(times) < 3 and sum(times) < 0.5:
        times.append(_clock(work, device))
    return min(times)


def _clock(work: Callable[[], None], device: torch.device) -> float:
    started = perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return perf_counter() - started
