"""Arithmetic: what follows from a network and its settings without any training, in exact numbers."""

from lthcore.analysis.statistics import Estimate
from lthcore.data.datasets import image_shape
from lthcore.masks import Mask, full_mask
from lthcore.models import outline
from lthcore.paths import project_root
from lthcore.pruning.allocation import layer_rates
from lthcore.report.measures import Absent
from lthcore.runs.experiments import load_experiments
from lthcore.settings import Settings


def _network(run: str) -> tuple[Settings, dict[str, int], Mask]:
    """Settings of a params file of iterative pruning, the sizes of all tensors of its network, and its full mask."""
    path = project_root() / "params" / "iterative_pruning" / f"{run}.yaml"
    if not path.exists():  # a project of its own
        raise Absent(f"{path.name} is not there")
    settings = load_experiments(path, "paper")[0].settings
    state = outline(settings, image_shape(settings), 10).state_dict()
    return settings, {name: tensor.numel() for name, tensor in state.items()}, full_mask(state)


def _exact(value: float) -> Estimate:
    return Estimate(value, value, value, 0)


def weights(network: str) -> Estimate:
    """How many weights a network has in its convolutions and dense layers, biases and norms not counted."""
    _, sizes, mask = _network(network)
    return _exact(sum(sizes[name] for name in mask))


def all_numbers(network: str) -> Estimate:
    """How many numbers a network consists of: weights, biases, norms and their running means and variances."""
    _, sizes, _ = _network(network)
    return _exact(sum(n for name, n in sizes.items() if not name.endswith("num_batches_tracked")))


def remaining(network: str, rounds: int) -> Estimate:
    """The percentage of weights remaining after some rounds of iterative pruning, by its rates."""
    settings, sizes, mask = _network(network)
    rates = layer_rates(settings, mask)
    left = sum(sizes[name] * (1 - rate) ** rounds for name, rate in rates.items())
    return _exact(100 * left / sum(sizes[name] for name in rates))


ARITHMETIC = {f.__name__: f for f in (weights, all_numbers, remaining)}
