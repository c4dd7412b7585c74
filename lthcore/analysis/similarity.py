"""Similarity of two tickets: of their masks, their weights, and the activations of their units.

Masks are compared with chance, because two random masks of the same densities share connections too.
"""

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from lthcore.masks import Mask
from lthcore.models.weights import Weights
from lthcore.pruning.streams import Stream, columns, outputs_of, streams_of


def jaccard(a: Tensor, b: Tensor) -> float:
    """Return |a and b| / |a or b|: 1 for equal masks, 0 for disjoint ones, nan if both are empty."""
    either = int((a | b).sum())
    return int((a & b).sum()) / either if either else float("nan")


def chance_jaccard(p: float, q: float) -> float:
    """Return the Jaccard index of random masks of densities p and q, to first order: p / (2 - p) if p = q."""
    return p * q / (p + q - p * q) if p + q > 0 else float("nan")


def align(mask: Mask, other: Mask, streams: list[Stream]) -> Mask:
    """Return `other` with its hidden units reordered so that they resemble those of `mask`.

    The order of hidden units is arbitrary: two tickets may be the same network with its units in another order.
    Starting at the inputs, the units of one layer after the other are matched by the connections they share, each
    layer as well as possible (the Hungarian method), and the inputs of the next layer are reordered in the same way:
    what is best for a layer need not be best for later ones. Streams with several producers (residual streams) keep
    their order.
    """
    out = {name: m.clone() for name, m in other.items()}
    for stream in streams:
        if len(stream.producers) != 1:
            continue
        name = f"{stream.producers[0]}.weight"
        order = matching(mask[name].flatten(1).float(), out[name].flatten(1).float())
        out[name] = out[name][order]
        for reader in stream.consumers:
            block = columns(out[f"{reader}.weight"], len(order))
            out[f"{reader}.weight"] = block[:, order].reshape(out[f"{reader}.weight"].shape)
    return out


def matching(a: Tensor, b: Tensor) -> Tensor:
    """Return the order of the rows of b (units, features) that best matches the rows of a by inner product."""
    _, order = linear_sum_assignment((a @ b.T).numpy(), maximize=True)
    return torch.from_numpy(order)


def sign_agreement(a: Tensor, b: Tensor, mask_a: Tensor, mask_b: Tensor) -> float:
    """Return the share of equal signs among the weights that both masks keep: 0.5 by chance, nan without weights."""
    both = mask_a & mask_b
    return float((a[both].sign() == b[both].sign()).float().mean())


def cosine_of_rows(a: Tensor, b: Tensor) -> float:
    """Return the mean cosine between the incoming (masked) weights of each unit in a and in b.

    Units without incoming weights in a or in b are left out.
    """
    a, b = a.flatten(1), b.flatten(1)
    alive = (a != 0).any(1) & (b != 0).any(1)
    return float(nn.functional.cosine_similarity(a[alive], b[alive], dim=1).mean())


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Return the linear centred kernel alignment of activations (images, units) (arXiv 1905.00414).

    It is 1 if y is a rotated and scaled copy of x.
    """
    x, y = (t.double() - t.double().mean(0) for t in (x, y))
    cross, own = (x.T @ y).norm() ** 2, (x.T @ x).norm() * (y.T @ y).norm()
    return float(cross / own)


def mean_cca(x: Tensor, y: Tensor) -> float:
    """Return the mean canonical correlation of activations (images, units): 1 if each is linear in the other.

    Directions without variance are left out. The number of correlations is the number of directions in x or y,
    whichever is smaller.
    """
    x, y = (_basis(t.double() - t.double().mean(0)) for t in (x, y))
    correlations = torch.linalg.svdvals(x.T @ y).clamp(max=1.0)
    return float(correlations.mean()) if len(correlations) else float("nan")


def activations(model: nn.Module, weights: Weights, images: Tensor) -> dict[str, Tensor]:
    """Return the outputs of each layer for images: layer -> (images, units), averaged over the positions of filters.

    Outputs of hidden layers are taken after their batch norm and a ReLU, outputs of the last layer without a ReLU.
    """
    hidden = {layer for stream in streams_of(model) for layer in stream.producers}

    def reduced(layer: str, out: Tensor) -> Tensor:
        out = out.relu() if layer in hidden else out
        return out.mean((2, 3)) if out.ndim == 4 else out

    model.load_state_dict(weights)
    return outputs_of(model, images, reduced)


def _basis(x: Tensor) -> Tensor:
    """Return an orthonormal basis of the space that the columns span."""
    u, s, _ = torch.linalg.svd(x, full_matrices=False)
    return u[:, s > 1e-6 * s.max()] if len(s) and s.max() > 0 else u[:, :0]
