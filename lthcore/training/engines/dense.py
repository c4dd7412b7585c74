"""Engines: what takes the steps of a training. All have the interface of `Dense`, and agree to rounding.

An engine holds K replicates of one network that train in step. `Dense` holds one, as it stands in `models`; `Chain` one
chain of dense layers on a CPU, its gradients by hand; `Stack` any number of chains, as batched products over a leading
replicate dimension; `sparse.SparseChain` one chain, by the weights it has left; `conv.ConvolutionalNetwork` one of
convolutions on a CPU, its gradients by hand. On a GPU a step is captured as a CUDA graph and replayed, so that it costs
no launches.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lthcore import masks
from lthcore.data.augment import augment
from lthcore.data.datasets import Data, Split
from lthcore.models import Dropout, Weights
from lthcore.seeds import seed_for
from lthcore.settings import Recipe
from lthcore.training.engines.cuda_graph import Replay
from lthcore.training.state import TrainState

# images evaluated at once: on a core as many as its cache holds the activations of
EVALUATION_BATCH, CONVOLUTIONAL_BATCH = {"cpu": 2500, "cuda": 15_000}, {"cpu": 100, "cuda": 15_000}
IN_PLACE = ("cuda",)  # devices on which a mask is changed in place; on a CPU a new engine may be a sparse one
COMPILED = ("cuda",)  # devices on which convolutions are compiled; on a CPU it gains nothing
SplitResults = list[tuple[float, float]]  # mean cross-entropy (nats) and accuracy, of each split


class Dense:
    """One network under a mask with its optimizer, as dense tensors on any device."""

    def __init__(self, settings: Recipe, model: nn.Module, device: torch.device, states: list[TrainState]) -> None:
        """Take `model` and the one replicate it is to be."""
        (state,) = states
        self.settings = settings
        planes = all(tensor.ndim != 5 for tensor in model.state_dict().values())  # no convolution over volumes
        layout = torch.channels_last if planes else torch.preserve_format  # of convolutions: faster, on CPUs too
        self.model = model.to(device, memory_format=layout)
        self.model.load_state_dict(masks.apply(state.mask, state.weights) if settings.masks_weights else state.weights)
        self.forward = torch.compile(self.model) if _pays_to_compile(settings, model, device) else self.model
        self.parameters, self.tensors = dict(self.model.named_parameters()), list(self.model.state_dict().values())
        pruned = {name: m for name, m in state.mask.items() if not m.all()}
        self.kept = {name: _like(self.parameters[name], m) for name, m in pruned.items()}
        self.optimizer = make_optimizer(settings, self.parameters, state.optimizer)
        self.noise = [noise_of(state, device)]
        for module in self.model.modules():
            if isinstance(module, Dropout):
                module.generator = self.noise[0]
        self.replay: Replay | None = None

    def steps(self, data: Data, batches: Tensor, rates: list[float]) -> None:
        """Train on batches (K, steps, batch) of image indices at these learning rates.

        Pruned weights are zero after every step: gradients are masked before the optimizer and weights after it, so
        that neither momentum nor weight decay can move them, and their optimizer state stays zero too.
        """
        if self.replay is None:
            self.replay = Replay(self, data, batches[:, 0])
        for i, rate in enumerate(rates):
            self.replay(batches[:, i], rate)

    def loss(self, data: Data, batch: Tensor) -> Tensor:
        """The training loss on a batch (K, batch) of image indices, summed over replicates."""
        s, x, y = self.settings, data.train.images[batch[0]], data.train.labels[batch[0]]
        x = augment(x, s, self.noise[0]) if s.augment else x
        with torch.autocast(x.device.type, torch.bfloat16, enabled=s.precision == "bfloat16"):
            return F.cross_entropy(self.forward(x), y, label_smoothing=s.label_smoothing)

    def gradients(self, data: Data, batch: Tensor) -> None:
        """Set the gradient of the mean loss on a batch (K, batch) of image indices in every parameter."""
        self.optimizer.zero_grad()
        self.loss(data, batch).backward()

    def clip(self, norm: float) -> None:
        """Scale the gradient of each replicate down to a norm."""
        nn.utils.clip_grad_norm_(self.parameters.values(), norm)

    def evaluate(self, *splits: Split) -> list[SplitResults]:
        """Each replicate's loss and accuracy on each split, waiting for the device once."""
        return [evaluate(self.model, *splits, precision=self.settings.precision)]

    def set_weights(self, weights: list[Weights]) -> None:
        """Put other weights into each replicate, to evaluate them."""
        self.model.load_state_dict(weights[0])

    def sync_from(self, states: list[TrainState]) -> bool:
        """Go on from states that were changed from outside; False where that takes another engine.

        In place, as a captured graph needs it: it saves capturing one for each change of a mask.
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
        """Put each replicate as it is into its state: views of what training goes on to change."""
        (state,) = states
        state.weights = {name: tensor.detach() for name, tensor in self.model.state_dict().items()}
        state.optimizer, state.noise = optimizer_tensors(self.optimizer, self.parameters), self.noise[0].get_state()


@torch.no_grad()
def evaluate(model: nn.Module, *splits: Split, precision: str = "float32") -> SplitResults:
    """Mean cross-entropy (nats) and accuracy of `model` on each split, in evaluation mode, never augmented.

    `precision` is that of the training: bfloat16 takes a fraction of the time where a processor has units for it.
    """
    training = [module for module in model.modules() if module.training]
    model.eval()
    device = splits[0].labels.device
    totals = torch.zeros(len(splits), 2, dtype=torch.float64, device=device)
    convolutional = any(isinstance(layer, nn.Conv2d) for layer in model.modules())
    size = (CONVOLUTIONAL_BATCH if convolutional else EVALUATION_BATCH)[device.type]
    for total, (images, labels) in zip(totals, splits, strict=True):
        for x, y in zip(images.split(size), labels.split(size), strict=True):
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
                logits = model(x).float()
            total += torch.stack([F.cross_entropy(logits, y, reduction="sum"), (logits.argmax(1) == y).sum()])
        total /= len(labels)
    for module in training:  # not all: a part of a network of one's own may never train
        module.training = True
    return [tuple(total) for total in totals.tolist()]


def smoothed_targets(settings: Recipe, classes: int) -> Tensor:
    """What the softmax should be for each label, with label smoothing: (classes, classes), rows that sum to 1."""
    return torch.eye(classes) * (1 - settings.label_smoothing) + settings.label_smoothing / classes


def loss_gradient(logits: Tensor, targets: Tensor) -> Tensor:
    """The gradient of the mean cross-entropy by the logits (batch, classes)."""
    return (logits.softmax(1) - targets) / len(logits)


def noise_of(state: TrainState, device: torch.device) -> torch.Generator:
    """The generator of a replicate's dropout and augmentation, where it was left or at its beginning.

    What a generator of another kind of device was left at says nothing here: then the seed and the iteration do.
    """
    generator = torch.Generator(device).manual_seed(seed_for(state.seed, "noise"))
    if state.noise is None:
        return generator
    if len(state.noise) != len(generator.get_state()):
        return generator.manual_seed(seed_for(state.seed, "noise", state.iteration))
    generator.set_state(state.noise.cpu())
    return generator


def make_optimizer(settings: Recipe, parameters: Weights, saved: dict[str, Tensor]) -> torch.optim.Optimizer:
    """The optimizer of the settings, going on from `saved` tensors (`<parameter>/<slot>`) unless that is empty."""
    norms = {name for name in parameters if _is_norm(name, parameters)} if not settings.decay_norms else set()
    order = sorted(parameters, key=lambda name: name in norms)  # as groups, and in each as they stand
    groups = [
        {"params": [parameters[name] for name in order if (name in norms) == exempt], "weight_decay": decay}
        for exempt, decay in ((False, settings.weight_decay), (True, 0.0))
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
    """The tensors of an optimizer as `<parameter>/<slot>`."""
    return {
        f"{name}/{slot}": tensor
        for name, parameter in parameters.items()
        for slot, tensor in optimizer.state.get(parameter, {}).items()
        if isinstance(tensor, Tensor)
    }


def _is_norm(name: str, parameters: Weights) -> bool:
    """Whether a parameter is a norm's scale or shift: the scale is a vector, and so is no other weight."""
    scale = parameters.get(f"{name.rpartition('.')[0]}.weight")
    return scale is not None and scale.ndim == 1


def _pays_to_compile(settings: Recipe, model: nn.Module, device: torch.device) -> bool:
    """Whether `torch.compile` pays: for convolutions on a GPU (it fuses norms with what surrounds them)."""
    convolutions = any(isinstance(layer, nn.Conv2d) for layer in model.modules())
    return settings.engine == "auto" and convolutions and device.type in COMPILED


def _like(parameter: Tensor, tensor: Tensor) -> Tensor:
    """A copy of `tensor` on a parameter's device, and in its dtype and memory layout where it has its shape."""
    if tensor.shape != parameter.shape:
        return tensor.clone()  # an optimizer's step count
    return torch.empty_like(parameter, requires_grad=False).copy_(tensor)
