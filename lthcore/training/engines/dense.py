"""The engine for any network on any device, and functions that the other engines share.

On a GPU a step is captured as a CUDA graph and replayed, which avoids the cost of kernel launches.
"""

from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lthcore import masks, onednn
from lthcore.data.augment import augment
from lthcore.data.datasets import Data, Split
from lthcore.models.layers import NORMS, Dropout
from lthcore.models.weights import Weights
from lthcore.recipe import Recipe
from lthcore.seeds import seed_for
from lthcore.training.engines.cuda_graph import Replay, set_rate
from lthcore.training.engines.engine import SplitResults
from lthcore.training.state import TrainState

# images evaluated at once: on a CPU, few enough for their activations to fit in the cache of a core
EVALUATION_BATCH, CONVOLUTIONAL_BATCH = {"cpu": 2500, "cuda": 15_000}, {"cpu": 100, "cuda": 15_000}
IN_PLACE = ("cuda",)  # devices where masks change in place; on a CPU a new engine is made, maybe a sparse one
COMPILED = ("cuda",)  # devices where convolutions are compiled; on a CPU this gains nothing


class Dense:
    """Engine of one network with its mask and optimizer, as dense tensors on any device."""

    def __init__(self, settings: Recipe, model: nn.Module, device: torch.device, states: list[TrainState]) -> None:
        """Load the one replicate in `states` into `model`."""
        (state,) = states
        self.settings = settings
        planes = all(tensor.ndim != 5 for tensor in model.state_dict().values())  # no 3D convolutions
        planes = planes and not (device.type == "cpu" and any(map(onednn.overruns, model.modules())))
        layout = torch.channels_last if planes else torch.preserve_format  # makes convolutions faster, on CPUs too
        self.model = model.to(device, memory_format=layout)
        self.model.load_state_dict(masks.apply(state.mask, state.weights) if settings.masks_weights else state.weights)
        self.forward = torch.compile(self.model) if _pays_to_compile(settings, model, device) else self.model
        self.parameters, self.tensors = dict(self.model.named_parameters()), list(self.model.state_dict().values())
        pruned = {name: m for name, m in state.mask.items() if not m.all()}
        self.kept = {name: _like(self.parameters[name], m) for name, m in pruned.items()}
        self.optimizer = make_optimizer(settings, self.parameters, state.optimizer, _norms_in(self.model))
        self.noise = [noise_of(state, device)]
        for module in self.model.modules():
            if isinstance(module, Dropout):
                module.generator = self.noise[0]
        self.replay: Replay | None = None

    def steps(self, data: Data, batches: Tensor, rates: list[float]) -> None:
        """Train on batches (K, steps, batch) of image indices at these learning rates."""
        if batches.device.type == "cuda":
            self.replay = self.replay or Replay(self, data, batches[:, 0])
            for i, rate in enumerate(rates):
                self.replay(batches[:, i], rate)
            return
        for i, rate in enumerate(rates):
            set_rate(self.optimizer, rate)
            self.step(data, batches[:, i])

    def step(self, data: Data, batch: Tensor) -> None:
        """Take one step on a batch (K, batch) of image indices.

        Gradients are masked before the step of the optimizer. If `settings.masks_weights`, weights are masked after it,
        so that pruned weights are always zero: neither momentum nor weight decay can move them, and their optimizer
        state stays zero, too.
        """
        self.gradients(data, batch)
        for name, mask in self.kept.items():
            if self.parameters[name].grad is not None:  # None if the loss does not depend on this parameter
                self.parameters[name].grad.mul_(mask)
        if self.settings.clip_norm:
            self.clip(self.settings.clip_norm)
        self.optimizer.step()
        if self.settings.masks_weights:
            with torch.no_grad():
                for name, mask in self.kept.items():
                    self.parameters[name].mul_(mask)

    def loss(self, data: Data, batch: Tensor) -> Tensor:
        """Return the training loss on a batch (K, batch) of image indices, summed over replicates."""
        s, x, y = self.settings, data.train.images[batch[0]], data.train.labels[batch[0]]
        x = augment(x, s, self.noise[0]) if s.augment else x
        with torch.autocast(x.device.type, torch.bfloat16, enabled=s.precision == "bfloat16"):
            return F.cross_entropy(self.forward(x), y, label_smoothing=s.label_smoothing)

    def gradients(self, data: Data, batch: Tensor) -> None:
        """Store the gradient of the mean loss on a batch (K, batch) of image indices in every parameter."""
        self.optimizer.zero_grad()
        self.loss(data, batch).backward()

    def clip(self, norm: float) -> None:
        """Scale down the gradients of each replicate to a total l2 norm of at most `norm`."""
        nn.utils.clip_grad_norm_(self.parameters.values(), norm)

    def evaluate(self, *splits: Split) -> list[SplitResults]:
        """Return the loss and accuracy of each replicate on each split, waiting for the device only once."""
        return [evaluate(self.model, *splits, precision=self.settings.precision)]

    def set_weights(self, weights: list[Weights]) -> None:
        """Load other weights into each replicate, in order to evaluate them."""
        self.model.load_state_dict(weights[0])

    def sync_from(self, states: list[TrainState]) -> bool:
        """Load states that were changed outside the engine; return False if they need a new engine.

        Changes tensors in place, so that a captured CUDA graph stays valid: no new capture for each change of a mask.
        """
        (state,) = states
        pruned = {name: m for name, m in state.mask.items() if not m.all()}
        if self.parameters[next(iter(state.mask))].device.type not in IN_PLACE or pruned.keys() != self.kept.keys():
            return False
        self.model.load_state_dict(state.weights)
        for name, m in pruned.items():
            self.kept[name].copy_(m)
        for name, tensor in optimizer_tensors(self.optimizer, self.parameters).items():
            tensor.copy_(state.optimizer[name])
        return True

    def sync_to(self, states: list[TrainState]) -> None:
        """Store the weights, optimizer tensors and noise of each replicate in its state.

        Weights and optimizer tensors share memory with the engine, so further training changes them.
        """
        (state,) = states
        state.weights = {name: tensor.detach() for name, tensor in self.model.state_dict().items()}
        state.optimizer = optimizer_tensors(self.optimizer, self.parameters)
        state.generator_state = self.noise[0].get_state()


@torch.no_grad()
def evaluate(model: nn.Module, *splits: Split, precision: str = "float32") -> SplitResults:
    """Return the mean cross-entropy (nats) and accuracy of `model` on each split, in evaluation mode, not augmented.

    `precision` is the precision of training. bfloat16 takes a fraction of the time on processors with units for it.
    """
    training = [module for module in model.modules() if module.training]
    model.eval()
    device = splits[0].labels.device
    convolutional = any(isinstance(layer, nn.Conv2d) for layer in model.modules())

    def logits_of(x: Tensor) -> Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            return model(x).float()

    results = mean_results(logits_of, splits, (CONVOLUTIONAL_BATCH if convolutional else EVALUATION_BATCH)[device.type])
    for module in training:  # not all: parts of a user's network may always be in evaluation mode
        module.training = True
    return results


def mean_results(logits_of: Callable[[Tensor], Tensor], splits: Sequence[Split], size: int) -> SplitResults:
    """Return the mean cross-entropy (nats) and accuracy on each split, waiting for the device only once.

    `logits_of` returns the logits (batch, classes) of images; it is given `size` images at once.
    """
    totals = torch.zeros(len(splits), 2, dtype=torch.float64, device=splits[0].labels.device)
    for total, (images, labels) in zip(totals, splits, strict=True):
        for x, y in zip(images.split(size), labels.split(size), strict=True):
            logits = logits_of(x)
            total += torch.stack([F.cross_entropy(logits, y, reduction="sum"), (logits.argmax(1) == y).sum()])
        total /= len(labels)
    return [tuple(total) for total in totals.tolist()]


def smoothed_targets(settings: Recipe, classes: int) -> Tensor:
    """Return the target probabilities for each label, with label smoothing: (classes, classes), rows sum to 1."""
    return torch.eye(classes) * (1 - settings.label_smoothing) + settings.label_smoothing / classes


def loss_gradient(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the gradient of the mean cross-entropy with respect to the logits (batch, classes)."""
    return (logits.softmax(1) - targets) / len(logits)


def noise_of(state: TrainState, device: torch.device) -> torch.Generator:
    """Return the generator for a replicate's dropout and augmentation, in its saved state or at its beginning.

    A state saved on another kind of device cannot be restored: the generator is then seeded anew, by the seed of the
    training run and the iteration.
    """
    generator = torch.Generator(device).manual_seed(seed_for(state.seed, "noise"))
    if state.generator_state is None:
        return generator
    if len(state.generator_state) != len(generator.get_state()):
        return generator.manual_seed(seed_for(state.seed, "noise", state.iteration))
    generator.set_state(state.generator_state.cpu())
    return generator


def make_optimizer(
    settings: Recipe, parameters: Weights, saved: dict[str, Tensor], norms: Collection[str] = ()
) -> torch.optim.Optimizer:
    """Return the optimizer of the settings, with its state loaded from `saved` unless that is empty.

    `saved` holds tensors by name, `<parameter>/<slot>`, as returned by `optimizer_tensors`. `norms` are the names of
    the parameters of norms, which do not decay unless `settings.decay_norms`.
    """
    exempt = () if settings.decay_norms else norms
    order = sorted(parameters, key=lambda name: name in exempt)  # in the order of the optimizer's groups
    groups = [
        {"params": [parameters[name] for name in order if (name in exempt) == is_exempt], "weight_decay": decay}
        for is_exempt, decay in ((False, settings.weight_decay), (True, 0.0))
    ]
    groups = [group for group in groups if group["params"]]
    common = {"lr": settings.learning_rate, "fused": True}
    if settings.optimizer == "sgd":
        optimizer = torch.optim.SGD(groups, **common, momentum=settings.momentum, nesterov=settings.nesterov)
    else:
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings.optimizer]
        on_gpu = next(iter(parameters.values())).device.type == "cuda"
        optimizer = kind(groups, **common, capturable=on_gpu)
    if saved:
        slots = {name: [key.split("/")[1] for key in saved if key.startswith(f"{name}/")] for name in parameters}
        state = {
            i: {slot: _like(parameters[n], saved[f"{n}/{slot}"]) for slot in slots[n]} for i, n in enumerate(order)
        }
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return optimizer


def optimizer_tensors(optimizer: torch.optim.Optimizer, parameters: Weights) -> dict[str, Tensor]:
    """Return the state tensors of an optimizer by name, `<parameter>/<slot>`."""
    return {
        f"{name}/{slot}": tensor
        for name, parameter in parameters.items()
        for slot, tensor in optimizer.state.get(parameter, {}).items()
        if isinstance(tensor, Tensor)
    }


def _norms_in(model: nn.Module) -> set[str]:
    """Return the names of the parameters that are the scale or shift of a norm."""
    layers = dict(model.named_modules())
    return {name for name, _ in model.named_parameters() if isinstance(layers[name.rpartition(".")[0]], NORMS)}


def _pays_to_compile(settings: Recipe, model: nn.Module, device: torch.device) -> bool:
    """Whether `torch.compile` pays off: for convolutions on a GPU, where it fuses norms with adjacent operations."""
    convolutions = any(isinstance(layer, nn.Conv2d) for layer in model.modules())
    return settings.engine != "dense" and convolutions and device.type in COMPILED


def _like(parameter: Tensor, tensor: Tensor) -> Tensor:
    """Return a copy of `tensor` with the device, dtype and memory layout of a parameter.

    A tensor of another shape is cloned as it is.
    """
    if tensor.shape != parameter.shape:
        return tensor.clone()  # an optimizer's step count
    return torch.empty_like(parameter, requires_grad=False).copy_(tensor)
