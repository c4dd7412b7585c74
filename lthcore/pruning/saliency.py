"""Saliency criteria: scores of weights before training, from the gradients of the untrained network.

All of them score the initial weights under a mask; the lowest scores are pruned first. Batches are training images
drawn by the seed. Batch norms run in evaluation mode with their initial statistics, where they change nothing.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lthcore.errors import LabError
from lthcore.masks import Mask, apply
from lthcore.models.build import build
from lthcore.models.weights import Weights
from lthcore.pruning.allocation import prune_to_shares
from lthcore.pruning.criteria import PruningContext, Scores
from lthcore.registry import register_criterion

# In the batch of SNIP and of GraSP. It is GraSP's number; SNIP was published with 100 images of MNIST, or 128 of CIFAR.
IMAGES_PER_CLASS = 10
TEMPERATURE = 200.0  # of the softmax in GraSP; from its authors' code, not from their paper
ROUNDS = 100  # pruning rounds of SynFlow, as published


@register_criterion(label="SNIP", colour="#3d8c5c", trained=False, once=True)
def snip(seen: PruningContext) -> Scores:
    """|w dL/dw|: the estimated change of the loss if a weight were pruned (SNIP, arXiv 1810.02340)."""
    model, weights = _masked_model(seen, seen.initial)
    gradients = _gradients(_loss(model, seen), weights)
    return {name: (w * g).abs().detach() for (name, w), g in zip(weights.items(), gradients, strict=True)}


@register_criterion(label="GraSP", colour="#a5282c", trained=False, once=True)
def grasp(seen: PruningContext) -> Scores:
    """w (H g): the estimated decrease of the gradient's norm if a weight were pruned (GraSP, arXiv 2002.07376).

    The score is signed: weights whose removal would increase the norm are pruned first.
    """
    model, weights = _masked_model(seen, seen.initial)
    loss = _loss(model, seen, TEMPERATURE)
    gradients = _gradients(loss, weights, create_graph=True)
    flow = sum((g.detach() * g).sum() for g in gradients)
    products = _gradients(flow, weights)
    return {name: (w * hg).detach() for (name, w), hg in zip(weights.items(), products, strict=True)}


@register_criterion(label="SynFlow", colour="#7a4fa3", trained=False, once=True)
def synflow(seen: PruningContext) -> Scores:
    """|w dR/dw|, R the summed output for an image of ones with absolute weights (SynFlow, arXiv 2006.05467).

    It needs no data. Use `synflow_mask` to prune by it: pruning in a single round would empty layers.
    """
    # no biases, and no shifts of norms, so that the whole flow comes through weights
    weighs = {name: name in seen.mask or not name.endswith("bias") for name in seen.initial}
    positive = {name: w.abs() if weighs[name] else torch.zeros_like(w) for name, w in seen.initial.items()}
    model, weights = _masked_model(seen, positive)
    flow = _outputs(model, torch.ones(1, *seen.data.shape)).sum()
    gradients = _gradients(flow, weights)
    return {name: (w * g).abs().detach() for (name, w), g in zip(weights.items(), gradients, strict=True)}


def synflow_mask(
    seen: PruningContext, densities: dict[str, float], scope: str = "global", rounds: int = ROUNDS
) -> Mask:
    """Return the mask that SynFlow finds in `rounds` rounds of an exponential schedule, with new scores in each round.

    `densities` is the share of its weights that each layer keeps in the end. With scope "global", as published, the
    layers together keep as many weights as these shares add up to. Layers without a density are left alone.
    """
    mask = seen.mask
    for k in range(1, rounds + 1):
        shares = {name: 1 - density ** (k / rounds) for name, density in densities.items()}
        mask = prune_to_shares(synflow(seen._replace(mask=mask)), mask, shares, scope)
    return mask


def _masked_model(seen: PruningContext, weights: Weights) -> tuple[nn.Module, dict[str, nn.Parameter]]:
    """Return the network with masked weights, on the CPU in double precision, and its prunable parameters by name."""
    settings, data = seen.settings, seen.data
    model = build(settings, data.shape, data.classes).double().eval()
    model.load_state_dict(apply(seen.mask, weights))
    parameters = dict(model.named_parameters())
    return model, {name: parameters[name] for name in seen.mask}


def _gradients(value: Tensor, weights: dict[str, nn.Parameter], create_graph: bool = False) -> tuple[Tensor, ...]:
    """Return the gradient of `value` with respect to each of the weights: zeros for weights that it does not use."""
    return torch.autograd.grad(value, list(weights.values()), create_graph=create_graph, materialize_grads=True)


def _loss(model: nn.Module, seen: PruningContext, temperature: float = 1.0) -> Tensor:
    images, labels = (t.cpu() for t in seen.data.train)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seen.seed))
    chosen = torch.cat([order[labels[order] == c][:IMAGES_PER_CLASS] for c in labels.unique()])
    return F.cross_entropy(_outputs(model, images[chosen]) / temperature, labels[chosen])


def _outputs(model: nn.Module, images: Tensor) -> Tensor:
    """Return the outputs in double precision. Raises LabError for a model that casts images to another precision."""
    try:
        return model(images.double())
    except RuntimeError as error:
        raise LabError(
            f"saliency: {type(model).__name__} does not compute in double precision, in which scores are computed "
            f"({str(error).splitlines()[0]})"
        ) from error
