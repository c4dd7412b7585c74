"""Timing of a training step and of the evaluation of an image on this machine, at a given share of weights left.

The times are kept in the user's cache, by processor and package versions, because timing all networks of params/ takes
a minute or two.
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
from lthcore.models.build import build, outline
from lthcore.models.weights import initial_weights
from lthcore.paths import cache_root
from lthcore.recipe import Recipe
from lthcore.runs.files import digest, write_json
from lthcore.runs.provenance import hardware, versions
from lthcore.settings import Settings
from lthcore.training.engines.chain import is_plain_chain
from lthcore.training.loop import engine_for, one_thread

# the settings that a step's time depends on
COSTLY = (
    "dataset", "image_size", "architecture", "widths", "padding", "augment", "dropout", "optimizer", "momentum",
    "nesterov", "batch_size", "clip_norm", "precision", "device", "engine",
)  # fmt: skip
SMALL_BATCH = 32  # batch size at which networks other than plain chains are timed
MASKED = 0.5  # share of weights left at which these networks are timed, so that masks are included


def timed(s: Recipe, density: float = 1.0) -> tuple[float, float]:
    """Return the seconds of a training step and of evaluating an image, at a share of weights left, on one thread.

    For networks other than plain chains, the time of a step is the optimizer's update plus a part proportional to the
    batch size. A small batch is timed and scaled, since timing the batch size of every experiment would take minutes.
    """
    step, image, update = _seconds(*_as_timed(s, density))
    if depends_on_density(s):
        return step, image
    return update + (step - update) * s.batch_size / SMALL_BATCH, image


def is_timed(s: Recipe, density: float = 1.0) -> bool:
    """Return whether the result of `timed` is already in the cache."""
    return _name(*_as_timed(s, density)) in _kept()


def depends_on_density(s: Recipe) -> bool:
    """Return whether a step is faster with fewer weights: in plain chains of dense layers, which skip pruned ones."""
    settings = _alike(s)
    known = _kept().get(_name(settings), {}).get("chain")
    if known is None:
        model = outline(settings, image_shape(settings), classes_of(settings))
        known = is_plain_chain(settings, model, pick_device(settings.device))
        _keep(_name(settings), {"chain": known})
    return known


def _as_timed(s: Recipe, density: float) -> tuple[Settings, float]:
    """Return the settings and the share of weights left that are timed in place of these."""
    alike = _alike(s)
    return (alike, density) if depends_on_density(s) else (alike.changed(batch_size=SMALL_BATCH), MASKED)


@cache
def _alike(s: Recipe) -> Settings:
    """Return settings with only the values of COSTLY, else defaults, so that many experiments share one timing."""
    return Settings(**{name: getattr(s, name) for name in COSTLY})


def _seconds(settings: Settings, density: float) -> tuple[float, float, float]:
    """Return the seconds of a step, of evaluating an image, and of the optimizer's update; cached or measured now."""
    name = _name(settings, density)
    seconds = _kept().get(name, {}).get("seconds")
    if not seconds:
        seconds = _measure(settings, density)
        _keep(name, {"seconds": seconds})
    return tuple(seconds)


def _measure(settings: Settings, density: float) -> tuple[float, float, float]:
    """Measure the three times of `_seconds` on random images and one thread."""
    shape, classes, chain = image_shape(settings), classes_of(settings), depends_on_density(settings)
    n, steps = (max(500, settings.batch_size), 5) if chain else (100, 1)
    device = pick_device(settings.device)
    images = torch.rand(n, *shape, device=device)
    split = Split(images, torch.randint(0, classes, (n,), device=device))
    data = Data(split, None, split, "", classes=classes)
    model = build(settings, shape, classes)
    weights = initial_weights(model, settings, 0)
    mask = {name: torch.rand(m.shape) < density for name, m in full_mask(model).items()}
    with one_thread():
        engine = engine_for(settings, data, [begin(settings, 0, 0, weights, mask)])
        batches = torch.randint(0, n, (1, steps, settings.batch_size), device=device)
        step = _best(lambda: engine.steps(data, batches, [0.0] * steps), device) / steps
        optimizer = getattr(engine, "optimizer", None)  # SparseChain has no optimizer object
        update = _best(optimizer.step, device) if optimizer is not None and device.type == "cpu" else 0.0
        return step, _best(lambda: engine.evaluate(split), device) / n, update


def _best(work: Callable[[], None], device: torch.device) -> float:
    """Return the shortest of three times, or of two if they are long. The first may include loading of code."""
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
    """Return the name of a network in the cache. Engine and device are added, since a run's key does not have them."""
    at = "" if density is None else f" at {density:g}"
    return f"{settings.key} {settings.engine} {settings.device}{at}"


def _kept() -> dict[str, dict]:
    """Return what is cached for this machine."""
    return _read_kept(_cache_file())


@cache
def _read_kept(path: Path) -> dict[str, dict]:
    with suppress(OSError, ValueError):
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, dict) and all(isinstance(value, dict) for value in found.values()):
            return found
    return {}


def _keep(name: str, known: dict) -> None:
    """Cache a result for later commands. If the file cannot be written, they measure again."""
    path = _cache_file()
    _read_kept(path)[name] = known
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, _read_kept(path))


def _cache_file() -> Path:
    return cache_root() / f"times-{_machine()}.json"


@cache
def _machine() -> str:
    """Return a digest of this processor, its GPU and the versions that times depend on."""
    here = hardware(pick_device("auto")) | versions()
    return digest(json.dumps(here, sort_keys=True).encode())
