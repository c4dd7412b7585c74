"""Arithmetic: what follows from a network and its settings without any training, in exact numbers."""

from lthcore.analysis.statistics import Estimate
from lthcore.data.datasets import classes_of, image_shape
from lthcore.models import outline
from lthcore.paths import project_root
from lthcore.pruning.allocation import layer_rates
from lthcore.report.run_tables import Absent
from lthcore.runs.experiments import load_experiments


def _network(run: str) -> tuple[dict[str, int], dict[str, float]]:
    """The sizes of all tensors of the network of a params file of iterative pruning, and the rates of its layers."""
    path = project_root() / "params" / "iterative_pruning" / f"{run}.yaml"
    if not path.exists():  # a project of its own
        raise Absent(f"{path.name} is not there")
    settings = load_experiments(path, "paper")[0].settings
    model = outline(settings, image_shape(settings), classes_of(settings))
    return {name: tensor.numel() for name, tensor in model.state_dict().items()}, layer_rates(settings, model)


def _exact(value: float) -> Estimate:
    return Estimate(value, value, value, 0)


def weights(network: str) -> Estimate:
    """How many weights a network has in its convolutions and dense layers, biases and norms not counted."""
    sizes, rates = _network(network)
    return _exact(sum(sizes[name] for name in rates))


def all_numbers(network: str) -> Estimate:
    """How many numbers a network consists of: weights, biases, norms and their running means and variances."""
    sizes, _ = _network(network)
    return _exact(sum(n for name, n in sizes.items() if not name.endswith("num_batches_tracked")))


def remaining(network: str, rounds: int) -> Estimate:
    """The percentage of weights remaining after some rounds of iterative pruning, by its rates."""
    sizes, rates = _network(network)
    left = sum(sizes[name] * (1 - rate) ** rounds for name, rate in rates.items())
    return _exact(100 * left / sum(sizes[name] for name in rates))


ARITHMETIC = {f.__name__: f for f in (weights, all_numbers, remaining)}
