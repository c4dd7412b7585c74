"""Specifications of the paper's figures (arXiv 1803.03635) as data: the runs, arms and columns of each figure.

Runs are params files in `params/iterative_pruning/`, with all variants of a sweep. `paper_figures.py` draws them.
"""

from typing import NamedTuple

NOTEBOOK = "iterative_pruning"
LENET_RUN, SGD_RUN = "lenet_mnist", "lenet_mnist_sgd"
LENET = f"{NOTEBOOK}/{LENET_RUN}"
# run -> the same experiment with differently scaled inputs, drawn instead if it has more of a figure's arms
INSTEAD = {LENET: f"{NOTEBOOK}/lenet_mnist_standardised"}
CONVS = ("conv2_cifar10", "conv4_cifar10", "conv6_cifar10")
TRAINED = {  # architecture -> name of the paper's experiments with it
    "lenet": "LeNet on MNIST", "conv2": "Conv-2 on CIFAR-10", "conv4": "Conv-4 on CIFAR-10",
    "conv6": "Conv-6 on CIFAR-10", "resnet20": "ResNet-18 on CIFAR-10", "vgg19": "VGG-19 on CIFAR-10",
}  # fmt: skip
NAMES = {"lenet_mnist": "pruned by trained magnitude", "lenet_mnist_at_init": "pruned by initial magnitude"}
ADDED = {"conv_dropout": ", dropout", "vgg19_layerwise": ", layer-wise", "resnet20_layerwise": ", layer-wise"}
WORDS = {  # part of a label in a sweep, as a regular expression -> its words in a legend
    r"^(\d+)-(\d+)$": r"\1 and \2 units", r"^conv(\d)$": r"Conv-\1", r"^conv(\d)-": r"Conv-\1, ",
    "conv-only": "only convolutions", "fc-only": "only dense layers", r"^warmup(\d+)": r"\1 iterations of warm-up",
    "-warmup$": " with warm-up", r"lr(?=\d)": "learning rate ", r"prune(?=\d)": "pruning rate ",
    r"std(?=\d)": "standard deviation ",
}  # fmt: skip
# column of rounds.csv -> title of its panel
TITLES = {
    "es_iteration": "Early-stop iteration",
    "es_test_accuracy": "Test accuracy at early stop",
    "es_val_accuracy": "Validation accuracy at early stop",
    "es_train_accuracy": "Training accuracy at early stop",
    "final_test_accuracy": "Test accuracy at the end",
    "final_train_accuracy": "Training accuracy at the end",
    "read_1_test_accuracy": "Test accuracy, first reading",
    "read_2_test_accuracy": "Test accuracy, second reading",
    "read_3_test_accuracy": "Test accuracy, third reading",
}
PAIR = ("es_iteration", "es_test_accuracy")
FOUR = (*PAIR, "es_train_accuracy", "final_test_accuracy")
SWEEP = ("es_iteration", "es_val_accuracy", "es_train_accuracy", "final_test_accuracy")
FIVE = (*FOUR, "final_train_accuracy")
READINGS = tuple(title for title in TITLES if title.startswith("read_"))
NOISE = ("ticket", "noise_0.5", "noise_1", "noise_2", "noise_3", "reinit")


class FigureSpec(NamedTuple):
    """A figure of the paper: its title, the params files of its runs, its arms and its columns (or quantities)."""

    title: str
    runs: tuple[str, ...]
    arms: tuple[str, ...] = ("ticket",)
    columns: tuple[str, ...] = PAIR
    kind: str = "panels"  # panels, networks, curves, figure4, distributions or together
    x: str = "percent_left"
    subject: str = ""  # the arm or run that the figure is about; it is not drawn without this one


def _distributions(title: str, run: str, *quantities: str, kind: str = "distributions") -> FigureSpec:
    return FigureSpec(title, (run,), ("ticket",), quantities, kind)


MOVED = ("movement, in the ticket", "movement, pruned")
CHANGED = ("magnitude change, in the ticket", "magnitude change, pruned")
INCOMING, OUTGOING, SURVIVING = "incoming connections kept", "outgoing connections kept", "surviving initial weights"
FIGURES = {
    1: FigureSpec(
        "Winning tickets against random sparse networks",
        (LENET_RUN, *CONVS),
        ("ticket", "random"),
        kind="networks",
        subject="random",
    ),
    3: FigureSpec(
        "Test accuracy as training proceeds", (LENET_RUN,), ("ticket", "reinit"), ("test_accuracy",), "curves"
    ),
    4: FigureSpec(
        "LeNet: early stop and accuracy",
        (LENET_RUN,),
        ("ticket", "reinit", "oneshot", "oneshot_reinit"),
        FOUR,
        "figure4",
    ),
    5: FigureSpec("Conv-2/4/6: early stop and accuracy", CONVS, ("ticket", "reinit"), FOUR),
    6: FigureSpec("Conv-2/4/6 with dropout", ("conv_dropout", *CONVS), ("ticket",), FOUR, subject="conv_dropout"),
    7: FigureSpec("VGG-19", ("vgg19_cifar10",), ("ticket", "reinit"), READINGS),
    8: FigureSpec("ResNet-18 (20 layers)", ("resnet20_cifar10",), ("ticket", "reinit"), READINGS),
    9: FigureSpec(
        "LeNet: rewinding against continued training",
        (LENET_RUN,),
        ("ticket", "continued_reset"),
        FOUR,
        subject="continued_reset",
    ),
    10: FigureSpec(
        "Conv-2/4/6: rewinding against continued training",
        CONVS,
        ("ticket", "continued_reset"),
        FOUR,
        subject="continued_reset",
    ),
    11: FigureSpec("Validation loss as training proceeds", (LENET_RUN,), ("ticket", "reinit"), ("val_loss",), "curves"),
    12: FigureSpec(
        "LeNet: Figure 4 with training accuracy", (LENET_RUN,), ("ticket", "reinit", "oneshot", "oneshot_reinit"), FIVE
    ),
    13: FigureSpec("Conv-2/4/6: Figure 5 with training accuracy", CONVS, ("ticket", "reinit"), FIVE),
    14: FigureSpec(
        "Test accuracy at the end",
        (LENET_RUN, *CONVS, "resnet20_cifar10", "vgg19_cifar10"),
        ("ticket", "reinit", "random"),
        ("final_test_accuracy",),
        "networks",
    ),
    15: _distributions("Surviving initial weights, Adam", LENET_RUN, SURVIVING),
    16: _distributions("Surviving initial weights, SGD", SGD_RUN, SURVIVING),
    17: FigureSpec(
        "Reinitialised from the surviving weights",
        (LENET_RUN,),
        ("ticket", "resampled", "reinit"),
        FOUR,
        subject="resampled",
    ),
    18: FigureSpec(
        "Pruned by magnitude at iteration 0",
        ("lenet_mnist_at_init", LENET_RUN),
        ("ticket", "reinit"),
        FOUR,
        subject="lenet_mnist_at_init",
    ),
    19: _distributions("Movement of weights", LENET_RUN, *MOVED, kind="together"),
    20: _distributions("Change in magnitude", LENET_RUN, *CHANGED, kind="together"),
    21: _distributions("Incoming connections kept, Adam", LENET_RUN, INCOMING),
    22: _distributions("Incoming connections kept, SGD", SGD_RUN, INCOMING),
    23: _distributions("Outgoing connections kept, Adam", LENET_RUN, OUTGOING),
    24: _distributions("Outgoing connections kept, SGD", SGD_RUN, OUTGOING),
    25: FigureSpec("Tickets with noise", (LENET_RUN,), NOISE, FOUR, subject="noise_3"),
    26: FigureSpec("LeNet: Adam learning rates", ("lenet_mnist_adam_rates",), columns=SWEEP),
    27: FigureSpec("LeNet: SGD learning rates", ("lenet_mnist_sgd_rates",), columns=SWEEP),
    28: FigureSpec("LeNet: momentum", ("lenet_mnist_momentum",), columns=SWEEP),
    29: FigureSpec("LeNet: pruning rates", ("lenet_mnist_pruning_rates",), columns=SWEEP),
    30: FigureSpec("LeNet: initialisations", ("lenet_mnist_initialisation",), columns=SWEEP),
    31: FigureSpec("LeNet: widths", ("lenet_mnist_widths",), columns=SWEEP, x="weights_left"),
    32: FigureSpec("Conv-2/4/6: Adam learning rates", ("conv_adam_rates",), columns=SWEEP),
    33: FigureSpec("Conv-2/4/6: SGD learning rates", ("conv_sgd_rates",), columns=SWEEP),
    34: FigureSpec("Conv-2/4/6: momentum", ("conv_momentum",), columns=SWEEP),
    35: FigureSpec("Conv-2/4/6: pruning rates of convolutions", ("conv_pruning_rates",), columns=SWEEP),
    36: FigureSpec("Conv-2/4/6: dropout learning rates", ("conv_dropout_rates",), columns=SWEEP),
    37: FigureSpec("Conv-2/4/6: only convolutions, only dense layers", ("conv_parts",), columns=SWEEP),
    38: FigureSpec(
        "VGG-19: global against layer-wise pruning",
        ("vgg19_cifar10", "vgg19_layerwise"),
        columns=READINGS,
        subject="vgg19_layerwise",
    ),
    39: FigureSpec(
        "ResNet-18: global against layer-wise pruning",
        ("resnet20_cifar10", "resnet20_layerwise"),
        columns=READINGS,
        subject="resnet20_layerwise",
    ),
    40: FigureSpec("VGG-19, layer-wise", ("vgg19_layerwise",), columns=READINGS),
    41: FigureSpec("ResNet-18, layer-wise", ("resnet20_layerwise",), columns=READINGS),
    42: FigureSpec("VGG-19, layer-wise: learning rates", ("vgg19_rates",), columns=READINGS),
    43: FigureSpec("VGG-19, layer-wise: warm-ups", ("vgg19_warmups",), columns=READINGS),
    44: FigureSpec("ResNet-18, layer-wise: learning rates", ("resnet20_rates",), columns=READINGS),
    45: FigureSpec("ResNet-18, layer-wise: warm-ups", ("resnet20_warmups",), columns=READINGS),
}
