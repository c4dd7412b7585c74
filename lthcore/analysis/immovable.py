"""Immovable weights: weights of a network that a step of gradient descent would not change."""

import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F

from lthcore.analysis.cache import TicketStore
from lthcore.data.datasets import Split
from lthcore.masks import Mask, percent_left

BATCH = 1000  # images


def immovable(model: nn.Module, mask: Mask, images: Split) -> Mask:
    """Return which of the remaining weights have a gradient of exactly zero for these images, at the model's weights.

    That of a weight is zero if what it reads is always 0, if the ReLU behind it is never active, or if no later weight
    passes a gradient back. The gradients are those of batches of images, in evaluation mode.
    """
    model.eval()
    weights, moved = dict(model.named_parameters()), {name: torch.zeros_like(m) for name, m in mask.items()}
    for x, labels in zip(images.images.split(BATCH), images.labels.split(BATCH), strict=True):
        model.zero_grad()
        F.cross_entropy(model(x), labels).backward()
        for name, seen in moved.items():
            seen |= weights[name].grad.cpu() != 0
    return {name: m & ~moved[name] for name, m in mask.items()}


def immovable_table(tickets: TicketStore) -> pd.DataFrame:
    """Return the share of each layer's remaining weights that are immovable at the end of training.

    The table has a row for each trial, round and layer: trial, round, percent_left, layer, weights_left, immovable. A
    round's weights are those that were trained in it.
    """
    rows, model, train = [], tickets.model, tickets.data.train
    model.to(train.images.device)
    for trial in range(tickets.settings.trials):
        for k in range(tickets.settings.rounds + 1):
            ticket = tickets(trial, k)
            model.load_state_dict(ticket.weights)
            still = immovable(model, ticket.mask, train)
            for name, m in ticket.mask.items():
                rows.append({
                    "trial": trial, "round": k, "percent_left": percent_left(ticket.mask),
                    "layer": name.removesuffix(".weight"), "weights_left": int(m.sum()),
                    "immovable": float(still[name].sum() / m.sum()),
                })  # fmt: skip
    return pd.DataFrame(rows)
