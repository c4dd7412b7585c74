"""Exact quantities that follow from a network and its settings without any training."""

from lthcore.analysis.statistics import Estimate
from lthcore.data.datasets import classes_of, image_shape
from lthcore.models.build import outline
from lthcore.paths import project_root
from lthcore.pruning.allocation import layer_rates
from lthcore.report.run_tables import Absent
from lthcore.runs.experiments import load_experiments


def _network(run: str) -> tuple[dict[str, int], dict[str, float]]:
    """Return the size of each tensor of a network, and the pruning rate of each of its prunable layers.

    `run` names a params file of iterative pruning. Raises Absent if the file does not exist.
    """
    path = project_root() / "params" / "iterative_pruning" / f"{run}.yaml"
    if not path.exists():  # a user's project may lack this params file
        raise Absent(f"{path.name} is not there")
    settings = load_experiments(path, "paper")[0].settings
    model = outline(settings, image_shape(settings), classes_of(settings))
    return {name: tensor.numel() for name, tensor in model.state_dict().items()}, layer_rates(settings, model)


def _exact(value: float) -> Estimate:
    return Estimate(value, value, value, 0)


def weights(network: str) -> Estimate:
    """Return the number of weights in the convolutions and dense layers of a network, without biases and norms."""
    sizes, rates = _network(network)
    return _exact(sum(sizes[name] for name in rates))


def all_numbers(network: str) -> Estimate:
    """Return the number of all values of a network: weights, biases, norms and their running means and variances."""
    sizes, _ = _network(network)
    return _exact(sum(n for name, n in sizes.items() if not name.endswith("num_batches_tracked")))


def remaining(network: str, rounds: int) -> Estimate:
    """Return the percentage of weights remaining after `rounds` rounds of iterative pruning at the layers' rates."""
    sizes, rates = _network(network)
    left = sum(sizes[name] * (1 - rate) ** rounds for name, rate in rates.items())
    return _exact(100 * left / sum(sizes[name] for name in rates))


ARITHMETIC = {f.__name__: f for f in (weights, all_numbers, remaining)}
