"""Engine that trains replicates of a chain of dense layers in step, as one network."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lthcore import masks
from lthcore.data.augment import augment
from lthcore.data.datasets import Data, Split
from lthcore.models.weights import Weights
from lthcore.recipe import Recipe
from lthcore.training.engines.dense import (
    EVALUATION_BATCH,
    Dense,
    make_optimizer,
    noise_of,
    optimizer_tensors,
)
from lthcore.training.engines.engine import SplitResults
from lthcore.training.state import TrainState


class Stack(Dense):
    """K replicates of a chain of dense layers. Parameters have shape (K, ...), and products are batched over K."""

    def __init__(self, settings: Recipe, model: nn.Module, device: torch.device, states: list[TrainState]) -> None:
        """Take the layers of `model`, and load the replicates in `states`."""
        self.settings, self.layers = settings, list(model.named_children())
        # masks that change during training are on the device from their first update on
        on_device = [{name: m.to(s.weights[name].device) for name, m in s.mask.items()} for s in states]
        both = zip(on_device, states, strict=True)
        masked = [masks.apply(mask, s.weights) if settings.masks_weights else s.weights for mask, s in both]
        self.parameters = {name: _stacked(masked, name).to(device).requires_grad_() for name in masked[0]}
        self.tensors = [parameter.detach() for parameter in self.parameters.values()]
        kept = {name: _stacked(on_device, name) for name in states[0].mask}
        self.kept = {name: m.to(device, torch.float32) for name, m in kept.items() if not m.all()}
        saved = {name: _stacked([state.optimizer for state in states], name) for name in states[0].optimizer}
        saved = {name: t[0] if name.endswith("/step") else t for name, t in saved.items()}  # one step count for all
        self.optimizer = make_optimizer(settings, self.parameters, saved)
        self.noise = [noise_of(state, device) for state in states]
        self.replay = None

    def forward(self, x: Tensor, training: bool) -> Tensor:
        """Return the logits (K, batch, classes) of images (K, batch, ...)."""
        for name, layer in self.layers:
            if isinstance(layer, nn.Flatten):
                x = x.flatten(2)
            elif isinstance(layer, nn.Linear):
                weight, bias = self.parameters[f"{name}.weight"], self.parameters[f"{name}.bias"]
                x = torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))
            elif isinstance(layer, nn.ReLU):
                x = x.relu()
            elif training and layer.training and layer.rate:  # dropout: noise is as if each were trained alone
                keep = 1 - layer.rate
                x = x * torch.stack([torch.empty_like(x[0]).bernoulli_(keep, generator=g) for g in self.noise]) / keep
        return x

    def loss(self, data: Data, batch: Tensor) -> Tensor:
        """See `Dense.loss`. The sum gives each replicate the gradient of its own mean loss."""
        s, x, y = self.settings, data.train.images[batch], data.train.labels[batch]
        if s.augment:
            each = [augment(i, s, noise) for i, noise in zip(x, self.noise, strict=True)]
            x = torch.stack(each)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=s.precision == "bfloat16"):
            logits = self.forward(x, training=True)
            each = F.cross_entropy(
                logits.flatten(0, 1), y.flatten(), label_smoothing=s.label_smoothing, reduction="sum"
            )
        return each / batch.shape[1]

    def clip(self, norm: float) -> None:
        """See `Dense.clip`. Each replicate is scaled by the norm of its own gradients."""
        squares = [p.grad.flatten(1).square().sum(1) for p in self.parameters.values()]
        scale = (norm / (torch.stack(squares).sum(0).sqrt() + 1e-6)).clamp(max=1.0)
        for parameter in self.parameters.values():
            parameter.grad.mul_(scale.view(-1, *[1] * (parameter.ndim - 1)))

    @torch.no_grad()
    def evaluate(self, *splits: Split) -> list[SplitResults]:
        """See `Engine.evaluate`. All replicates are evaluated on the same images at once."""
        k, device = len(self.noise), splits[0].labels.device
        totals = torch.zeros(len(splits), 2, k, dtype=torch.float64, device=device)
        size = EVALUATION_BATCH[device.type]
        for total, (images, labels) in zip(totals, splits, strict=True):
            for x, y in zip(images.split(size), labels.split(size), strict=True):
                with torch.autocast(device.type, torch.bfloat16, enabled=self.settings.precision == "bfloat16"):
                    logits = self.forward(x.expand(k, *x.shape), training=False).float()
                losses = F.cross_entropy(logits.transpose(1, 2), y.expand(k, -1), reduction="none")
                total += torch.stack([losses.sum(1), (logits.argmax(2) == y).sum(1)])
            total /= len(labels)
        return [[tuple(pair) for pair in replicate] for replicate in totals.permute(2, 0, 1).tolist()]

    def set_weights(self, weights: list[Weights]) -> None:
        """Load other weights into each replicate, in order to evaluate them."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(_stacked(weights, name))

    def sync_from(self, states: list[TrainState]) -> bool:
        """Return False: a new engine is cheap, since capturing a CUDA graph of these small steps takes little time."""
        return False

    def sync_to(self, states: list[TrainState]) -> None:
        """Store the weights, optimizer tensors and noise of each replicate in its state.

        Weights and optimizer tensors share memory with the engine, so further training changes them.
        """
        optimizer = optimizer_tensors(self.optimizer, self.parameters)
        for k, state in enumerate(states):
            state.weights = {name: parameter.detach()[k] for name, parameter in self.parameters.items()}
            state.optimizer = {name: t if name.endswith("/step") else t[k] for name, t in optimizer.items()}
            state.generator_state = self.noise[k].get_state()


def _stacked(replicates: list[Weights], name: str) -> Tensor:
    return torch.stack([tensors[name] for tensors in replicates])
