"""Building the network that an experiment names, and checking it before anything is trained."""

import threading

import torch
from torch import nn

from lthcore.data.datasets import classes_of, image_shape
from lthcore.errors import LabError, choose_registered, one_line, shown
from lthcore.models.prunable import kinds_of
from lthcore.recipe import Recipe
from lthcore.registry import MODELS, is_user_defined

BUILDING = threading.RLock()
LARGEST = 200_000_000  # weights in a network: a training run holds about eight copies of them, 6.4 GB in all


def build(settings: Recipe, shape: tuple[int, int, int], classes: int, seed: int = 0) -> nn.Module:
    """Build the network that `settings.architecture` names, for images of `shape` (C, H, W).

    Its weights are placeholders, to be replaced by `initial_weights`; torch draws them by `seed`. Raises LabError for
    an unknown name, and if a user-defined function fails or does not return an nn.Module.
    """
    name = choose_registered("architecture", settings.architecture, MODELS)
    # Layers draw weights when they are created: the seed makes them reproducible, and torch's own state is kept. One
    # network at a time: with --engine ray, experiments are threads of one process, which share this state.
    with BUILDING, torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        try:
            model = MODELS[name](settings, shape, classes)
        except Exception as error:
            if isinstance(error, LabError) or not is_user_defined(MODELS[name]):
                raise
            raise LabError(f"models: {name} failed ({type(error).__name__}: {one_line(error)})") from error
    if not isinstance(model, nn.Module):
        raise LabError(f"models: {name} returned {type(model).__name__}, not an nn.Module (a forgotten `return`?)")
    return model


def outline(settings: Recipe, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Build the network as `build` does, but on the device meta, without memory for its weights.

    A network that cannot be built there is built with memory. Raises LabError if the network has more than LARGEST
    weights, shares weights between layers, or has nothing that is prunable.
    """
    try:
        with torch.device("meta"):
            model = build(settings, shape, classes)
    except (NotImplementedError, RuntimeError, LabError):
        # its code may read values of tensors, which do not exist on meta; any other reason to fail is met again here
        model = build(settings, shape, classes)
    kinds_of(model)
    own = {name for name, _ in model.named_parameters()}
    if shared := [name for name, _ in model.named_parameters(remove_duplicate=False) if name not in own]:
        raise LabError(
            f"models: {settings.architecture} has {shared[0]} under two names; give each layer its own weights"
        )
    weights = sum(weight.numel() for weight in model.parameters())
    if weights > LARGEST:
        raise LabError(
            f"settings: {settings.architecture} with widths = {shown(settings.widths)} has {weights:,} weights for "
            f"images of {shape}, and at most {LARGEST:,} are allowed; make widths or image_size smaller"
        )
    return model


def without_mask(settings: Recipe) -> str:
    """Return a note on parameters of two or more dimensions in a user-defined network that have no mask.

    It is empty if there are none, and for the networks of this package.
    """
    if not is_user_defined(MODELS[settings.architecture]):
        return ""
    model = outline(settings, image_shape(settings), classes_of(settings))
    parameters, masked = dict(model.named_parameters()), kinds_of(model)
    bare = [name for name, parameter in parameters.items() if parameter.ndim >= 2 and name not in masked]
    pruned, total = (sum(parameters[name].numel() for name in names) for names in (masked, parameters))
    more = f" and {len(bare) - 4:,} more" if len(bare) > 4 else ""
    note = f"{pruned:,} of {total:,} parameters have a mask; without one: {', '.join(bare[:4])}{more}"
    return note if bare else ""
