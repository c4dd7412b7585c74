"""Checks of an experiment's settings against criteria, networks, data sets and devices, before anything is computed."""

import torch
from torch import nn

from lthcore.arms import arm_of, criterion_of
from lthcore.data.datasets import check_size, classes_of, image_shape, pick_device
from lthcore.errors import LabError, choose, choose_registered, one_line, shown
from lthcore.models.build import build, outline
from lthcore.models.prunable import kinds_of
from lthcore.pruning.allocation import layer_rates
from lthcore.pruning.streams import streams_of
from lthcore.recipe import Recipe
from lthcore.registry import CRITERIA, MODELS, is_user_defined
from lthcore.settings import DynamicSettings, Settings
from lthcore.sources.catalogue import dataset_of


def check_settings(settings: Recipe) -> None:
    """Raise LabError if settings do not fit together in a way that their class cannot check itself."""
    if isinstance(settings, Settings):
        _check_criteria(settings)
    choose_registered("architecture", settings.architecture, MODELS)
    dataset_of(settings.dataset)
    pick_device(settings.device)
    check_size(settings)
    shape, classes = image_shape(settings), classes_of(settings)
    model = outline(settings, shape, classes)
    _check_outputs(settings, shape, classes)
    _check_takes(settings, shape, classes)
    if isinstance(settings, Settings):
        _check_pruning(settings, model)
    if isinstance(settings, DynamicSettings) and not set(settings.prunable) & set(kinds_of(model).values()):
        raise LabError(f"prunable = {list(settings.prunable)}: {settings.architecture} has no layer of these kinds")


def _check_takes(settings: Recipe, shape: tuple[int, int, int], classes: int) -> None:
    """Raise LabError if a setting of the network (widths, dropout, padding) has no effect on a network of this package.

    Otherwise two runs with different names and keys could train the same network.
    """
    if is_user_defined(MODELS[settings.architecture]):
        return  # it may use the setting where this check cannot see it, as in its `forward`
    for name, others in (("widths", ((2,), (3,))), ("dropout", (0.0, 0.5)), ("padding", ("same", "valid"))):
        value = getattr(settings, name)
        if value == type(settings).model_fields[name].default:
            continue
        with torch.device("meta"):
            one, another = (str(build(settings.changed(**{name: v}), shape, classes)) for v in others)
        if one == another:
            raise LabError(f"{name} = {shown(value)}: the network {settings.architecture} has no use for it")


def _check_outputs(settings: Recipe, shape: tuple[int, int, int], classes: int) -> None:
    """Raise LabError unless a user-defined network maps images of `shape` to one number for each class.

    The networks of this package are known to do so and are not checked.
    """
    name = settings.architecture
    if not is_user_defined(MODELS[name]):
        return
    model = build(settings, shape, classes).eval()
    try:
        with torch.no_grad():
            outputs = model(torch.zeros(2, *shape))
    except Exception as error:
        raise LabError(
            f"models: {name} does not take images of shape {shape} ({type(error).__name__}: {one_line(error)})"
        ) from error
    if not isinstance(outputs, torch.Tensor) or outputs.shape != (2, classes):
        given = f"a tensor of {tuple(outputs.shape)}" if isinstance(outputs, torch.Tensor) else type(outputs).__name__
        raise LabError(f"models: {name} turns 2 images into {given}, not into (2, {classes}), a number for each class")


def _check_criteria(settings: Settings) -> None:
    """Check the criterion of a search, and those of its arms."""
    fitting = [c.name for c in CRITERIA.values() if c.prunes == settings.granularity and not c.once]
    of_weights = [c.name for c in CRITERIA.values() if c.prunes == "weights"]
    choose_registered("criterion", settings.criterion, CRITERIA)
    choose("criterion", settings.criterion, fitting)
    for criterion in _criteria_of_arms(settings):
        choose_registered("criterion of an arm", criterion, CRITERIA)
        choose("criterion of an arm", criterion, of_weights)
    if settings.validation == 0:
        for criterion in (settings.criterion, *_criteria_of_arms(settings)):
            if CRITERIA[criterion].uses_best:
                needs = f"criterion {criterion} needs a validation set, whose best point it looks at"
                raise LabError(f"validation = 0: {needs}")


def _criteria_of_arms(settings: Settings) -> list[str]:
    """Return the criteria by which arms of a search find masks of their own."""
    return [criterion for arm in settings.arms if (criterion := criterion_of(arm_of(arm).masks))]


def _check_pruning(settings: Settings, model: nn.Module) -> None:
    """Check whether the network of a search can be pruned as its settings ask for."""
    rates = {rate for rate in layer_rates(settings, model).values() if rate > 0}
    if len(rates) > 1 and settings.scope == "global" and "synflow" in _criteria_of_arms(settings):
        raise LabError("scope = 'global': by_synflow then needs the same pruning rate in all layers that are pruned")
    if settings.granularity == "units":
        try:
            streams_of(model)
        except LabError as error:
            raise LabError(f"{error}; take granularity = weights") from None
