"""The networks and the criteria of the study of movement pruning, and its runs."""

from pathlib import Path

from lthcore.report.finished_runs import runs_beside

MOVEMENT = {  # criterion -> label, colour, style and marker of its line
    "high_movement": ("prune high movement", "#a5282c", "-", "o"),
    "low_movement": ("prune low movement", "#2a9d8f", "-", "s"),
    "magnitude": ("prune low magnitude", "#1f5fa8", "-", "^"),
    "magnitude_increase": ("prune low magnitude increase", "#3d8c5c", "-", "v"),
    "random": ("prune at random", "#808080", ":", "D"),
    "high_movement_guarded": ("prune high movement, guarded", "#7a4fa3", "--", "P"),
    "high_movement_going_on": ("prune high movement, from best weights", "#b8860b", "-", "X"),
    "high_movement_going_on_fresh": ("prune high movement, from best weights, new optimizer", "#c07fae", "--", "d"),
}
NETWORKS = {  # what names of runs begin with -> network, the largest first
    "conv4_cifar10": "Conv-4 on CIFAR-10",
    "lenet_mnist": "LeNet-300-100 on MNIST",
    "mlp_digits": "A small network on digits",
}
PUBLISHED = "conv4_cifar10"  # the network of the published study


def runs_of_network(root: Path, stem: str) -> dict[str, Path]:
    """Return the runs of a network at the same profile as its run of high-movement pruning."""
    runs = runs_beside(root, "movement_pruning", f"{stem}-high_movement")
    return {variant: folder for variant, folder in runs.items() if variant.startswith(f"{stem}-")}
