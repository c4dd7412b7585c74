"""Timing: the seconds of a training step and of evaluating an image on this machine, at a share of weights left.

What is timed is kept from one command to the next, in the user's cache and for this processor and these versions: to
time all networks of params/ takes a minute or two.
"""

import json
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from time import perf_counter

import torch

from lthcore.data.datasets import Data, Split, classes_of, image_shape, pick_device
from lthcore.lottery.start import begin
from lthcore.masks import full_mask
from lthcore.models import build, initial_weights, outline
from lthcore.paths import cache_root
from lthcore.runs.files import digest, write_json
from lthcore.runs.provenance import hardware, versions
from lthcore.settings import Recipe, Settings
from lthcore.training.engines.chain import is_plain_chain
from lthcore.training.loop import engine_for

# the settings that a step's time depends on
COSTLY = (
    "dataset", "image_size", "architecture", "widths", "padding", "augment", "dropout", "optimizer", "momentum",
    "nesterov", "batch_size", "clip_norm", "precision", "device", "engine",
)  # fmt: skip
SMALL_BATCH = 32  # images that a step of convolutions is timed on
MASKED = 0.5  # share of weights left at which other networks than chains are timed: their masks cost something too


def timed(s: Recipe, density: float = 1.0) -> tuple[float, float]:
    """Seconds of a training step, and of evaluating an image, at a share of weights left; on one thread.

    A convolutional network's step is its update, and the rest, which goes with its images: so a small batch stands for
    all sizes, since timing every experiment's own would take minutes.
    """
    step, image, update = _seconds(*_as_timed(s, density))
    if depends_on_density(s):
        return step, image
    return update + (step - update) * s.batch_size / SMALL_BATCH, image


def is_timed(s: Recipe, density: float = 1.0) -> bool:
    """Whether `timed` knows these seconds from an earlier command."""
    return _name(*_as_timed(s, density)) in _kept()


def depends_on_density(s: Recipe) -> bool:
    """Whether a step takes less time with fewer weights: in a chain of dense layers, which skips what is pruned."""
    settings = _alike(s)
    known = _kept().get(_name(settings), {}).get("chain")
    if known is None:
        model = outline(settings, image_shape(settings), classes_of(settings))
        known = is_plain_chain(settings, model, pick_device(settings.device))
        _keep(_name(settings), {"chain": known})
    return known


def _as_timed(s: Recipe, density: float) -> tuple[Settings, float]:
    """The settings and the share of weights left that are timed for these."""
    alike = _alike(s)
    return (alike, density) if depends_on_density(s) else (alike.changed(batch_size=SMALL_BATCH), MASKED)


@cache
def _alike(s: Recipe) -> Settings:
    """Settings with what a step's time depends on, the rest at its default: alike for many experiments."""
    return Settings(**{name: getattr(s, name) for name in COSTLY})


def _seconds(settings: Settings, density: float) -> tuple[float, float, float]:
    """Seconds of a step, of evaluating an image, and of the optimizer's part in the step: those known, or timed now."""
    name = _name(settings, density)
    seconds = _kept().get(name, {}).get("seconds")
    if not seconds:
        seconds = _measure(settings, density)
        _keep(name, {"seconds": seconds})
    return tuple(seconds)


def _measure(settings: Settings, density: float) -> tuple[float, float, float]:
    """The seconds of `_seconds`, on random images and one thread."""
    shape, classes, chain = image_shape(settings), classes_of(settings), depends_on_density(settings)
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
        torch.cuda.synchronize(device)
    return perf_counter() - started


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
