"""Analysis: what is said of a ticket is what a hand count finds."""

import torch

from lthcore import analysis
from lthcore.settings import Settings
from lthcore.state import Training

MASK = torch.tensor([[True, False, True], [False, False, False]])
INITIAL = torch.tensor([[0.1, 0.2, -0.3], [0.4, -0.5, 0.6]])
FINAL = torch.tensor([[0.4, 0.1, -0.5], [0.5, -0.5, 0.5]])


def test_degrees_are_shares_of_connections():
    assert torch.allclose(analysis.incoming(MASK), torch.tensor([2 / 3, 0.0]))
    assert analysis.outgoing(MASK).tolist() == [0.5, 0.0, 0.5]
    filters = torch.ones(4, 2, 3, 3, dtype=torch.bool)
    filters[0, 0] = False
    assert analysis.incoming(filters).tolist() == [0.5, 1, 1, 1] and analysis.outgoing(filters).tolist() == [0.75, 1]


def test_movement_and_change_in_magnitude():
    assert torch.allclose(analysis.movement(INITIAL, FINAL), torch.tensor([[0.3, 0.1, 0.2], [0.1, 0.0, 0.1]]))
    assert torch.allclose(analysis.magnitude_change(INITIAL, FINAL), torch.tensor([[0.3, -0.1, 0.2], [0.1, 0.0, -0.1]]))


def ticket(trial: int, k: int) -> Training:
    mask = {"fc1.weight": MASK if k else torch.ones_like(MASK)}
    return Training(0, {"fc1.weight": FINAL}, mask, 0, start={"fc1.weight": INITIAL})


def test_tables_of_tickets():
    settings = Settings(trials=2, rounds=4, arms=["ticket"])
    structure, distributions = analysis.tables_of_tickets(ticket, settings)
    assert len(structure) == 2 * 4
    row = structure.iloc[0]
    assert (row["layer"], row["units_without_input"], row["inputs_without_output"]) == ("fc1", 1, 1)
    assert abs(row["density"] - 1 / 3) < 1e-6
    assert abs(row["movement_kept"] - 0.25) < 1e-6 and abs(row["movement_pruned"] - 0.075) < 1e-6
    assert abs(row["initial_magnitude_kept"] - 0.2) < 1e-6
    assert set(distributions["round"]) == {4}  # every fourth
    counts = distributions.groupby("quantity")["count"].sum()
    assert counts["surviving initial weights"] == counts["movement, in the ticket"] == 2 * 2
    assert counts["movement, pruned"] == 2 * 4 and counts["outgoing connections kept"] == 2 * 3
