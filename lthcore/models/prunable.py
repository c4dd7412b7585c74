"""Which weights of a network are prunable, and the kinds of their layers, found in its tree of modules."""

from functools import partial
from typing import get_args

from torch import nn

from lthcore.errors import LabError, choose
from lthcore.models.layers import CONVOLUTIONS
from lthcore.registry import Kind


def prunable(layer: nn.Module, name: str) -> bool:
    """Return whether a parameter has a mask. `layer` is the module that holds it, `name` its name in the network.

    Weights of dense layers and convolutions have a mask, and so do the projections of attention. Embeddings, bare
    parameters, norms and biases have none. A model overrides this by an attribute `prunable`, a method or a function.
    """
    own = name.rpartition(".")[2]
    if isinstance(layer, nn.MultiheadAttention):
        return own.endswith("proj_weight")
    return isinstance(layer, nn.Linear | CONVOLUTIONS) and own == "weight"


def kind_of(layer: nn.Module, name: str, output: str = "output.weight") -> Kind:
    """Return the kind of a weight's layer: a convolution, a shortcut's projection, a dense layer or the output layer.

    `output` is the name of the output layer's weight. A model overrides this by an attribute `kind_of`, which is called
    with `layer` and `name` only.
    """
    if name == output:
        return "output"
    if name.split(".")[-2:] == ["shortcut", "weight"]:
        return "shortcut"
    return "conv" if isinstance(layer, CONVOLUTIONS) else "fc"


def kinds_of(model: nn.Module) -> dict[str, Kind]:
    """Return the prunable weights of a network by name, in the network's order, with the kind of their layers.

    The output layer is the dense layer or convolution that is called `output`, else the last dense layer. Frozen
    weights (`requires_grad` is False) have no mask. Raises LabError for an unknown kind, and if nothing is prunable.
    """
    layers, found = dict(model.named_modules()), {}
    dense = [name for name, layer in layers.items() if isinstance(layer, nn.Linear) and not name.endswith("out_proj")]
    output = "output" if isinstance(layers.get("output"), nn.Linear | CONVOLUTIONS) else dense[-1] if dense else ""
    has_mask = getattr(model, "prunable", prunable)
    kind = getattr(model, "kind_of", partial(kind_of, output=f"{output}.weight"))
    for name, parameter in model.named_parameters():
        layer = layers[name.rpartition(".")[0]]
        if parameter.ndim >= 2 and parameter.requires_grad and has_mask(layer, name):
            found[name] = choose(f"kind of {name}", kind(layer, name), get_args(Kind))
    if not found:
        raise LabError(
            f"models: nothing in {type(model).__name__} is prunable: it has no dense layer, convolution or attention; "
            "a method `prunable(layer, name)` of the model says what else is"
        )
    return found
