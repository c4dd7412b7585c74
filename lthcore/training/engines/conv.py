"""Engine for convolutional networks on a CPU: channels last throughout, with gradients computed by hand.

Operations between the convolutions are fused. In bfloat16, activations are 16 bits wide and weights are cast once per
step; the weights themselves, moments and all sums stay float32. Evaluations have the precision of training, and norms
are folded into the convolutions before them. The tests compare this engine with plain PyTorch.
"""

import torch
from torch import Tensor, nn

from lthcore.data.augment import augment
from lthcore.data.datasets import Data, Split
from lthcore.recipe import Recipe
from lthcore.training.engines.conv_layers import layers_of
from lthcore.training.engines.dense import (
    CONVOLUTIONAL_BATCH,
    Dense,
    loss_gradient,
    mean_results,
    smoothed_targets,
)
from lthcore.training.engines.engine import SplitResults
from lthcore.training.state import TrainState

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def applies(settings: Recipe, model: nn.Module, device: torch.device) -> bool:
    """Whether this engine can train a network here: on a CPU, with supported layers only."""
    able = device.type == "cpu" and settings.engine != "dense"
    return able and layers_of(model, DTYPES[settings.precision]) is not None


class ConvolutionalNetwork(Dense):
    """Engine of one convolutional network with its mask and optimizer."""

    def __init__(self, settings: Recipe, model: nn.Module, device: torch.device, states: list[TrainState]) -> None:
        """Load the one replicate in `states` into `model`."""
        super().__init__(settings, model, device, states)
        self.dtype = DTYPES[settings.precision]
        self.layers = layers_of(self.model, self.dtype)
        self.targets = smoothed_targets(settings, self.layers[-1].module.out_features)

    @torch.no_grad()
    def gradients(self, data: Data, batch: Tensor) -> None:
        """Store the gradient of the mean loss on a batch (1, batch) of image indices in every parameter."""
        x, labels = data.train.images[batch[0]], data.train.labels[batch[0]]
        x = augment(x, self.settings, self.noise[0]) if self.settings.augment else x
        x = x.to(self.dtype, memory_format=torch.channels_last)
        for layer in self.layers:
            x = layer.forward(x)
        back = loss_gradient(x.float(), self.targets[labels]).to(self.dtype)
        for layer in reversed(self.layers):
            back = layer.backward(back)

    @torch.no_grad()
    def evaluate(self, *splits: Split) -> list[SplitResults]:
        """See `Engine.evaluate`."""
        for layer in self.layers:
            layer.prepare()
        # oneDNN's rectifier turns nan into 0: a diverged network would look like one that guesses
        finite = all(tensor.isfinite().all() for tensor in self.model.state_dict().values())

        def logits_of(x: Tensor) -> Tensor:
            x = x.to(self.dtype, memory_format=torch.channels_last)
            for layer in self.layers:
                x = layer.infer(x)
            return x.float() if finite else torch.full_like(x, torch.nan, dtype=torch.float32)

        return [mean_results(logits_of, splits, CONVOLUTIONAL_BATCH["cpu"])]
