"""Dynamic pruning: training a network while its mask gets sparser, so that one training run gives a sparse network.

The network starts dense. Each update prunes by magnitude, or by RigL (`rewire`), to the target sparsity of the
schedule. Weights reported as pruned are exactly zero: the mask is applied to weights, gradients and optimizer state at
every update, and to gradients and weights at every step in between. This is asserted at the end of training.
`masking: gradients` masks the gradients only, as in the notebooks that this study is based on: momentum and weight
decay then keep changing the masked weights, and the true sparsity is 0%.
"""

import math
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.nn import functional as F

from lthcore import masks
from lthcore.data.augment import augment
from lthcore.data.datasets import Data
from lthcore.lottery.search import Cohort, TrainCohort, initial_weights_of
from lthcore.lottery.start import begin
from lthcore.masks import full_mask
from lthcore.models.build import build
from lthcore.models.layers import Dropout
from lthcore.models.prunable import kinds_of
from lthcore.models.weights import Weights
from lthcore.pruning.allocation import prune, prune_to
from lthcore.seeds import seed_for
from lthcore.settings import DynamicSettings
from lthcore.training.loop import epoch_batches, one_thread, seeded, train_in_step
from lthcore.training.state import Replicate, TrainState

# share of the final sparsity that is reached at a fraction p of the way from the first update to the last
SCHEDULES: dict[str, Callable[[float], float]] = {
    "linear": lambda p: p,
    "cubic": lambda p: 1 - (1 - p) ** 3,  # gradual magnitude pruning, arXiv 1710.01878
    "cosine": lambda p: (1 - math.cos(math.pi * p)) / 2,
    "constant": lambda p: 1.0,
}


def train_and_prune(settings: DynamicSettings, data: Data, states: list[TrainState]) -> Iterator[None]:
    """Train replicates in step and prune them at each update to the scheduled sparsity; yield like `train_in_step`."""
    due, counted = sparsities(settings), counted_in(settings, data)
    for _ in train_in_step(settings, data, states, pauses=due):
        for state in states:
            if state.iteration in due and settings.regrowth == "gradient":
                rewire(settings, data, state, due, counted)
            elif state.iteration in due:
                update(settings, state, due[state.iteration], counted)
        yield


def counted_in(settings: DynamicSettings, data: Data) -> list[str]:
    """Return the names of the weights that are pruned and counted: those in layers of the kinds in `prunable`."""
    kinds = kinds_of(build(settings, data.shape, data.classes))
    return [name for name, kind in kinds.items() if kind in settings.prunable]


def sparsities(settings: DynamicSettings) -> dict[int, float]:
    """Return the sparsity after each update of the mask, by iteration: an update precedes the step of its iteration.

    The last update reaches `settings.sparsity`. Without `reach_sparsity` the schedule stops one update short of it.
    """
    epoch, s = settings.steps_per_epoch, settings
    first, last = s.prune_from * epoch, (s.prune_until or (s.iterations - 1) // epoch) * epoch
    every = s.prune_every or epoch
    at = sorted({*range(first, last, every), last})
    way = last - first + (0 if s.reach_sparsity else every)
    return {i: s.sparsity * SCHEDULES[s.sparsity_schedule]((i - first) / way if way else 1.0) for i in at}


def update(settings: DynamicSettings, state: TrainState, sparsity: float, counted: list[str]) -> None:
    """Prune the layers `counted` of a training run to a sparsity: its mask, weights and optimizer state, in place.

    A run that diverged is left unchanged, so that it is recorded as diverged.
    """
    if state.diverged:
        return
    regrows = settings.regrowth == "magnitude" or not settings.masks_weights
    mask = {name: m.to(state.weights[name].device) for name, m in state.mask.items()}
    weights = _recalled(state, mask) if settings.regrowth == "magnitude" else state.weights
    candidates = _whole(mask) if regrows else mask
    scores = {name: weights[name].abs() for name in mask}
    mask = prune_to(scores, candidates, sparsity, counted, settings.scope)
    if settings.regrowth == "magnitude":
        state.remembered = {name: weights[name].clone() for name in mask}
    if settings.masks_weights:
        state.weights = masks.apply(mask, weights)
        state.optimizer = masks.apply_to_optimizer(mask, state.optimizer)
    state.mask = mask


def rewire(settings: DynamicSettings, data: Data, state: TrainState, due: dict[int, float], counted: list[str]) -> None:
    """Update a mask by RigL (arXiv 1911.11134): prune a share of the weights by magnitude, regrow as many by gradient.

    The first update draws the mask at random. The share falls from `rewired` to 0 at the last update, along a cosine.
    Regrown weights start at zero. A weight that is pruned and regrown in the same update keeps its value, and a layer
    without pruned weights is left alone. `due` maps the iteration of each update to its sparsity, and `counted` names
    the layers that are pruned.
    """
    if state.diverged:
        return
    before = {name: m.to(state.weights[name].device) for name, m in state.mask.items()}
    if state.iteration == min(due):
        generator = torch.Generator().manual_seed(seed_for(state.seed, "rigl"))
        drawn = {name: torch.rand(m.shape, generator=generator).to(m.device) for name, m in before.items()}
        mask = prune_to(drawn, before, due[state.iteration], counted, settings.scope)
    else:
        gradient = dense_gradient(settings, data, state)
        if not all(g.isfinite().all() for g in gradient.values()):
            return  # the next step makes the weights nan, and the run is then recorded as diverged
        kept = _without_smallest(settings, state, before, due, counted)
        # kept weights rank above all candidates for regrowth, so that none of them is pruned
        scores = {name: torch.where(kept[name], torch.inf, gradient[name].abs()) for name in before}
        mask = prune_to(scores, _whole(before), due[state.iteration], counted, settings.scope)
        regrown = {name: mask[name] & ~before[name] for name in mask}
        state.weights = {n: w.masked_fill(regrown[n], 0.0) if n in mask else w for n, w in state.weights.items()}
        state.optimizer = masks.apply_to_optimizer({name: ~m for name, m in regrown.items()}, state.optimizer)
    state.weights = masks.apply(mask, state.weights)
    state.optimizer = masks.apply_to_optimizer(mask, state.optimizer)
    state.mask = mask


def _without_smallest(
    settings: DynamicSettings, state: TrainState, mask: masks.Mask, due: dict[int, float], counted: list[str]
) -> masks.Mask:
    """Return a mask without the share of its smallest weights that RigL prunes at this iteration."""
    first, last = min(due), max(due)
    share = settings.rewired * (1 + math.cos(math.pi * (state.iteration - first) / (last - first))) / 2
    rates = {name: share if name in counted and not mask[name].all() else 0.0 for name in mask}
    return prune({name: state.weights[name].abs() for name in mask}, mask, rates, settings.scope)


def dense_gradient(settings: DynamicSettings, data: Data, state: TrainState) -> Weights:
    """Return the gradient of the training loss on the next batch, for pruned weights as well as for remaining ones.

    Images are augmented as in training, by other draws. The gradient is computed in float32 whatever the precision.
    """
    device, seed = data.train.images.device, seed_for(state.seed, "rigl", state.iteration)
    model = build(settings, data.shape, data.classes).to(device)
    model.load_state_dict(state.weights)
    for module in model.modules():
        if isinstance(module, Dropout | nn.Dropout | nn.Dropout1d | nn.Dropout2d | nn.Dropout3d | nn.AlphaDropout):
            module.eval()
    (batch,) = epoch_batches(settings, data, state, state.iteration, state.iteration + 1)
    parameters = dict(model.named_parameters())
    images, smoothing = data.train.images[batch], settings.label_smoothing
    with one_thread(), seeded(seed, device):  # reproducible on any machine, as in training
        if settings.augment:
            images = augment(images, settings, torch.Generator(device).manual_seed(seed))
        loss = F.cross_entropy(model(images), data.train.labels[batch], label_smoothing=smoothing)
        gradients = torch.autograd.grad(loss, [parameters[name] for name in state.mask], materialize_grads=True)
    return dict(zip(state.mask, gradients, strict=True))


def _whole(mask: masks.Mask) -> masks.Mask:
    return {name: torch.ones_like(m) for name, m in mask.items()}


def _recalled(state: TrainState, mask: masks.Mask) -> Weights:
    """Return the weights, where pruned ones have the values they had when they were pruned."""
    past = state.remembered or {}
    return {
        name: torch.where(mask[name], w, past[name].to(w.device)) if name in past else w
        for name, w in state.weights.items()
    }


def prune_dynamically(settings: DynamicSettings, data: Data, train: TrainCohort) -> Iterator[Cohort]:
    """Train every replicate of the study once, pruning it during training; yield the outcomes."""
    model = build(settings, data.shape, data.classes)
    cohort = {}
    for replicate in planned(settings):
        theta_0 = initial_weights_of(settings, replicate.trial)
        cohort[replicate] = begin(settings, replicate.trial, 0, theta_0, full_mask(model))
    yield train(cohort)


def planned(settings: DynamicSettings) -> list[Replicate]:
    """Return all planned training runs of the study: one for each trial."""
    return [Replicate("dynamic", trial, 0, 0) for trial in range(settings.trials)]
