"""Immovable weights: found by hand, and the same as a gradient for each image alone finds."""

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from lthcore.analysis.cache import TicketStore
from lthcore.analysis.immovable import immovable, immovable_table
from lthcore.data.datasets import Split
from lthcore.runs.runner import run
from lthcore.settings import Settings


def test_weights_of_blank_inputs_dead_units_and_unread_units_are_immovable():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.rand_like(parameter) + 0.1)
        model[0].bias[1] = -100.0  # unit 1 is never active
        model[2].weight[:, 2] = 0.0  # nothing reads unit 2
    mask = {"0.weight": torch.ones(4, 3, dtype=torch.bool), "2.weight": torch.ones(2, 4, dtype=torch.bool)}
    mask["2.weight"][:, 2] = False
    images = torch.rand(50, 3)
    images[:, 0] = 0  # input 0 is always 0
    still = immovable(model, mask, Split(images, torch.arange(50) % 2))
    wanted = torch.zeros(4, 3, dtype=torch.bool)
    wanted[:, 0] = wanted[1] = wanted[2] = True
    assert torch.equal(still["0.weight"], wanted)
    assert torch.equal(still["2.weight"], torch.tensor([[False, True, False, False]] * 2))


def test_they_are_those_without_a_gradient_for_any_image_alone(tmp_path: Path):
    settings = Settings(
        dataset="digits", architecture="mlp", widths=(20, 10), validation=200, iterations=60, learning_rate=2e-2,
        trials=1, rounds=2, arms=["ticket"], criterion="late_stillness", device="cpu", train_examples=300,
    )  # fmt: skip
    run(settings, tmp_path / "run")
    tickets = TicketStore(tmp_path / "run")
    table = immovable_table(tickets).set_index(["round", "layer"])
    images, labels = tickets.data.train
    for k in (0, 2):
        ticket = tickets(0, k)
        tickets.model.load_state_dict(ticket.weights)
        steepest = {name: torch.zeros(m.shape) for name, m in ticket.mask.items()}
        for x, y in zip(images, labels, strict=True):
            tickets.model.zero_grad()
            F.cross_entropy(tickets.model(x[None]), y[None]).backward()
            for name, parameter in tickets.model.named_parameters():
                if name in steepest:
                    steepest[name] = torch.maximum(steepest[name], parameter.grad.abs())
        for name, m in ticket.mask.items():
            found = table.loc[(k, name.removesuffix(".weight"))]
            assert found["immovable"] == float((steepest[name][m] == 0).float().mean())
            assert found["weights_left"] == int(m.sum())
    assert 0 < table.loc[(0, "fc1"), "immovable"] < 1
