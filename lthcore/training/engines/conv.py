"""Engine for convolutional networks on a CPU: channels last throughout, with gradients computed by hand.

Operations between the convolutions are fused. In bfloat16, activations are 16 bits wide and weights are cast once per
step; the weights themselves, moments and all sums stay float32. Evaluations have the precision of training, and norms
are folded into the convolutions before them. The tests compare this engine with plain PyTorch.
"""

import torch
from torch import Tensor, nn

from lthcore.data.augment import augment
from lthcore.data.datasets import Data, Split
from lthcore.models.layers import Dropout, Residual, flattens_images, in_a_row
from lthcore.onednn import Linear
from lthcore.recipe import Recipe
from lthcore.training.engines.conv_layers import (
    AverageLayer,
    ConvolutionLayer,
    DenseLayer,
    DropoutLayer,
    FlattenLayer,
    Layer,
    PoolLayer,
    ResidualLayer,
)
from lthcore.training.engines.dense import (
    CONVOLUTIONAL_BATCH,
    Dense,
    loss_gradient,
    mean_results,
    smoothed_targets,
)
from lthcore.training.engines.engine import SplitResults
from lthcore.training.state import TrainState

KNOWN = (
    nn.Sequential, nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Linear, Linear, Residual, nn.MaxPool2d, nn.AdaptiveAvgPool2d,
    nn.Flatten, Dropout,
)  # fmt: skip
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


def layers_of(model: nn.Module, dtype: torch.dtype) -> list[Layer] | None:
    """Return the layers of a network with products in `dtype`, or None if the network is not supported.

    The first layer must be a convolution and the last one dense, and all layers between must be known here. Not
    supported are networks that contain a module twice (each layer keeps its inputs) and frozen parameters (each layer
    is trained).
    """
    layers: list[Layer] = []
    known = all(map(_is_known, model.modules())) and all(parameter.requires_grad for parameter in model.parameters())
    modules = (in_a_row(model) or []) if known else []
    while modules:
        module = modules.pop(0)
        norm = modules.pop(0) if _follows(modules, nn.BatchNorm2d) and isinstance(module, nn.Conv2d) else None
        rectified = isinstance(module, nn.Conv2d | nn.Linear) and _follows(modules, nn.ReLU)
        if rectified:
            modules.pop(0)
        match module:
            case nn.Conv2d():
                layers.append(ConvolutionLayer(module, norm, rectified, dtype))
            case nn.Linear() if any(isinstance(layer, FlattenLayer) for layer in layers):
                layers.append(DenseLayer(module, rectified, dtype))
            case Residual():
                layers.append(ResidualLayer(module, dtype))
            case nn.MaxPool2d(kernel_size=2, stride=2, padding=0) if layers and getattr(layers[-1], "rectified", False):
                layers[-1].pooled = True
                layers.append(PoolLayer())
            case nn.AdaptiveAvgPool2d(output_size=1):
                layers.append(AverageLayer())
            case nn.Flatten():
                layers.append(FlattenLayer())
            case Dropout():
                layers.append(DropoutLayer(module))
            case _:
                return None
    if not layers or not isinstance(layers[0], ConvolutionLayer) or not isinstance(layers[-1], DenseLayer):
        return None
    layers[0].first = True
    return layers


def _is_known(module: nn.Module) -> bool:
    """Whether a module's class is supported, with its options.

    Subclasses are not supported, because they may compute something else, nor is a layer that a user's network leaves
    in evaluation mode.
    """
    if isinstance(module, nn.Conv2d) and module.padding_mode != "zeros":
        return False
    if isinstance(module, nn.Conv2d) and module.padding == "same" and not all(k % 2 for k in module.kernel_size):
        return False
    if isinstance(module, nn.BatchNorm2d) and not (module.affine and module.track_running_stats and module.momentum):
        return False
    if isinstance(module, nn.MaxPool2d) and (module.ceil_mode or module.return_indices or module.dilation != 1):
        return False
    if isinstance(module, nn.Flatten) and not flattens_images(module):
        return False
    return type(module) in KNOWN and module.training


def _follows(modules: list[nn.Module], kind: type[nn.Module]) -> bool:
    return bool(modules) and type(modules[0]) is kind
