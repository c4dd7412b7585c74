"""Estimates: how long the trainings of an experiment that are not done would take on this machine.

What is timed is kept from one command to the next, in the user's cache and for this processor and these versions: to
time all networks of params/ takes a minute or two.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from time import perf_counter

import torch

from lthcore.data.datasets import Data, Split, check_size, classes_of, image_shape, pick_device
from lthcore.lottery.start import begin
from lthcore.masks import full_mask
from lthcore.models import build, initial_weights, outline
from lthcore.paths import cache_root, project_root
from lthcore.runs.experiments import Experiment
from lthcore.runs.files import digest, write_json
from lthcore.runs.provenance import hardware, versions
from lthcore.runs.status import status_of
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
    return status_of(experiment).done


def seconds_left(experiment: Experiment) -> float:
    """Estimated seconds to finish an experiment here."""
    return seconds_of(experiment.settings, status_of(experiment).missing)


def seconds_of(s: Recipe, replicates: Iterable[Replicate]) -> float:
    """Estimated seconds of these trainings here, from steps and evaluations timed on random images."""
    check_size(s)
    kept = s.train_examples or dataset_of(s.dataset).n_train - s.validation
    evaluated = (s.iterations / s.eval_every + 1) * (s.validation + test_images(s.dataset))
    evaluated += (2 if s.validation else 1) * kept  # training accuracies, at the end and at the early stop
    seconds = 0.0
    for density, n in _densities(s, replicates).items():
        step, image = timed(s, density)
        seconds += n * (s.iterations * step + evaluated * image)
    return seconds if pick_device(s.device).type == "cuda" else seconds / worker_count() * SHARED


def is_timed(s: Recipe, replicates: Iterable[Replicate]) -> bool:
    """Whether `seconds_of` would have nothing to time, since it is known from before."""
    known, replicates = _kept(), list(replicates)
    chain = known.get(_name(_alike(s)), {}).get("chain")
    if not replicates or chain is None:
        return not replicates
    return all(_name(*_timed_as(s, density)) in known for density in _densities(s, replicates))


def _densities(s: Recipe, replicates: Iterable[Replicate]) -> Counter[float]:
    """How many trainings there are at each of the shares of weights left at which they are timed."""
    if not (replicates := list(replicates)):
        return Counter()
    if not _is_chain(_alike(s)):
        return Counter({1.0: len(replicates)})  # other networks take the same for any mask
    found = Counter(density_of(s, replicate) for replicate in replicates)
    counted: Counter[float] = Counter()
    for density, n in found.items():
        counted[min(d for d in DENSITIES if d >= density * 0.999)] += n
    return counted


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
    step, image, update = _timed(*_timed_as(s, density))
    if _is_chain(_alike(s)):
        return step, image
    return update + (step - update) * s.batch_size / SMALL_BATCH, image


def _timed_as(s: Recipe, density: float) -> tuple[Settings, float]:
    """The settings and the share of weights left that are timed for these."""
    alike = _alike(s)
    return (alike, density) if _is_chain(alike) else (alike.changed(batch_size=SMALL_BATCH), MASKED)


@cache
def _alike(s: Recipe) -> Settings:
    """Settings with what a step's time depends on, the rest at its default: alike for many experiments."""
    return Settings(**{name: getattr(s, name) for name in COSTLY})


def _is_chain(settings: Settings) -> bool:
    known = _kept().get(_name(settings), {}).get("chain")
    if known is None:
        known = _looks_like_a_chain(settings)
        _keep(_name(settings), {"chain": known})
    return known


def _looks_like_a_chain(settings: Settings) -> bool:
    return is_plain_chain(
        settings, outline(settings, image_shape(settings), classes_of(settings)), pick_device(settings.device)
    )


def _timed(settings: Settings, density: float) -> tuple[float, float, float]:
    """Seconds of a step, of evaluating an image, and of the optimizer's part in the step: those known, or timed now."""
    name = _name(settings, density)
    seconds = _kept().get(name, {}).get("seconds")
    if not seconds:
        seconds = _time(settings, density)
        _keep(name, {"seconds": seconds})
    return tuple(seconds)


@cache
def _name(settings: Settings, density: float | None = None) -> str:
    """What a network is called among what is kept: its engine and device are no part of a run's key."""
    at = "" if density is None else f" at {density:g}"
    return f"{settings.key} {settings.engine} {settings.device}{at}"


def _kept() -> dict[str, dict]:
    """What is known of this machine from earlier commands."""
    return _read_kept(_cache_file())


@cache
def _read_kept(path: Path) -> dict[str, dict]:
    with suppress(OSError, ValueError):
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, dict) and all(isinstance(value, dict) for value in found.values()):
            return found
    return {}


def _keep(name: str, known: dict) -> None:
    """Keep something for commands to come; where nothing can be written they find it out again."""
    path = _cache_file()
    _read_kept(path)[name] = known
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, _read_kept(path))


def _cache_file() -> Path:
    return cache_root() / f"times-{_machine()}.json"


@cache
def _machine() -> str:
    """A name of this processor, its GPU and the versions that times depend on."""
    here = hardware(pick_device("auto")) | versions()
    return digest(json.dumps(here, sort_keys=True).encode())


def _time(settings: Settings, density: float) -> tuple[float, float, float]:
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
