"""Analysis of tickets: measures and tables agree with counts by hand."""

import math

import pytest
import torch

from lthcore.analysis import ticket_tables, tickets
from lthcore.models.build import build
from lthcore.settings import Settings
from lthcore.training.state import TrainState

MASK = torch.tensor([[True, False, True], [False, False, False]])
INITIAL = torch.tensor([[0.1, 0.2, -0.3], [0.4, -0.5, 0.6]])
FINAL = torch.tensor([[0.4, 0.1, -0.5], [0.5, -0.5, 0.5]])


def test_degrees_are_shares_of_connections():
    assert torch.allclose(tickets.incoming(MASK), torch.tensor([2 / 3, 0.0]))
    assert tickets.outgoing(MASK).tolist() == [0.5, 0.0, 0.5]
    filters = torch.ones(4, 2, 3, 3, dtype=torch.bool)
    filters[0, 0] = False
    assert tickets.incoming(filters).tolist() == [0.5, 1, 1, 1] and tickets.outgoing(filters).tolist() == [0.75, 1]


def test_movement_and_change_in_magnitude():
    assert torch.allclose(tickets.movement(INITIAL, FINAL), torch.tensor([[0.3, 0.1, 0.2], [0.1, 0.0, 0.1]]))
    assert torch.allclose(tickets.magnitude_change(INITIAL, FINAL), torch.tensor([[0.3, -0.1, 0.2], [0.1, 0.0, -0.1]]))


def ticket(trial: int, k: int) -> TrainState:
    mask = {"fc1.weight": MASK if k else torch.ones_like(MASK)}
    return TrainState(0, {"fc1.weight": FINAL}, mask, 0, start={"fc1.weight": INITIAL})


def test_tables_of_tickets():
    settings = Settings(trials=2, rounds=4, arms=["ticket"])
    structure, distributions = ticket_tables.tables_of_tickets(ticket, settings)
    assert len(structure) == 2 * 4
    row = structure.iloc[0]
    assert (row["layer"], row["units_without_input"], row["inputs_without_output"]) == ("fc1", 1, 1)
    assert abs(row["density"] - 1 / 3) < 1e-6
    assert abs(row["movement_kept"] - 0.25) < 1e-6 and abs(row["movement_pruned"] - 0.075) < 1e-6
    assert abs(row["initial_magnitude_kept"] - 0.2) < 1e-6
    assert set(distributions["round"]) == {4}  # every fourth round
    counts = distributions.groupby("quantity")["count"].sum()
    assert counts["surviving initial weights"] == counts["movement, in the ticket"] == 2 * 2
    assert counts["movement, pruned"] == 2 * 4 and counts["outgoing connections kept"] == 2 * 3


@pytest.mark.parametrize("step", [0.0012, 1000.0])
def test_movements_that_are_nearly_equal_have_a_histogram(step):
    """After a single step of Adam every weight has moved by the learning rate, up to rounding."""

    def after_a_step(trial: int, k: int) -> TrainState:
        end = torch.full_like(INITIAL, step)
        end[0, 0] = torch.nextafter(end[0, 0], torch.tensor(0.0))
        start = {"fc1.weight": torch.zeros_like(INITIAL)}
        return TrainState(0, {"fc1.weight": end}, {"fc1.weight": torch.ones_like(MASK)}, 0, start=start)

    settings = Settings(trials=1, rounds=4, arms=["ticket"])
    _, distributions = ticket_tables.tables_of_tickets(after_a_step, settings)
    moved = distributions[distributions["quantity"] == "movement, in the ticket"]
    assert len(moved) == ticket_tables.BINS and moved["count"].sum() == INITIAL.numel()
    assert (moved["right"] > moved["left"]).all() and moved["left"].iloc[0] < step < moved["right"].iloc[-1]


def test_a_layer_in_numbers():
    found = tickets.describe(INITIAL, FINAL, MASK)
    assert found["density"] == pytest.approx(1 / 3)
    assert found["positive_initial_kept"] == 0.5 and found["positive_initial_pruned"] == 0.75
    assert found["magnitude_final_kept"] == pytest.approx(0.45)
    assert found["magnitude_initial_pruned"] == pytest.approx(1.7 / 4)
    assert math.isnan(tickets.describe(INITIAL, FINAL, MASK | True)["positive_final_pruned"])


@pytest.mark.parametrize("side", ["in", "out"])
def test_degrees_of_a_random_mask_are_those_expected(side):
    mask = torch.rand(400, 50, generator=torch.Generator().manual_seed(0)) < 0.3
    table = tickets.degrees(mask, side)
    units, size = (400, 50) if side == "in" else (50, 400)
    assert table["units"].sum() == units and table["expected"].sum() == pytest.approx(units)
    assert (table["degree"] * table["units"]).sum() == mask.sum() and len(table) == size + 1
    assert (table["degree"] * table["expected"]).sum() == pytest.approx(float(mask.sum()))
    assert (table["units"] - table["expected"]).abs().sum() < 0.35 * units + 25  # noise of one random mask
    hub = torch.zeros(400, 50, dtype=torch.bool)
    hub[0] = True
    assert tickets.degrees(hub, "in").query("degree == 50")["expected"].item() < 1e-6  # a random mask has no such unit


def test_the_pixel_map_counts_connections_of_each_pixel():
    mask = torch.zeros(4, 6, dtype=torch.bool)
    mask[:3, 5] = True
    assert tickets.pixel_map(mask, (1, 2, 3)).tolist() == [[[0, 0, 0], [0, 0, 0.75]]]


def test_paths_of_a_dense_network_are_the_product_of_its_widths():
    full = {"fc1.weight": torch.ones(5, 7, dtype=torch.bool), "output.weight": torch.ones(3, 5, dtype=torch.bool)}
    assert tickets.path_count(full) == (105, 105)
    broken = full | {"fc1.weight": torch.eye(5, 7, dtype=torch.bool)}  # each unit has one input
    assert tickets.path_count(broken) == (15, 15)
    skewed = full | {
        "fc1.weight": torch.zeros(5, 7, dtype=torch.bool),
        "output.weight": torch.zeros(3, 5, dtype=torch.bool),
    }
    skewed["fc1.weight"][0] = True
    skewed["output.weight"][:, 1] = True
    paths, expected = tickets.path_count(skewed)
    assert paths == 0 and expected == pytest.approx(7 * 3 / 5)


def test_connected_leaves_out_dead_ends():
    model = build(Settings(architecture="lenet", widths=(3, 2)), (1, 2, 2), 10)
    mask = {
        "fc1.weight": torch.tensor([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]).bool(),
        "fc2.weight": torch.tensor([[1, 0, 1], [0, 1, 0]]).bool(),
        "output.weight": torch.cat([torch.tensor([[1, 0]]), torch.zeros(9, 2)]).bool(),
    }
    kept = tickets.connected(model, mask)
    assert kept["fc1.weight"].nonzero().tolist() == [[0, 0]]  # unit 1 leads to fc2's unit 1, which nothing reads
    assert kept["fc2.weight"].nonzero().tolist() == [[0, 0]]  # unit 2 of fc1 has no input
    assert kept["output.weight"].nonzero().tolist() == [[0, 0]]
    full = {name: torch.ones_like(m) for name, m in mask.items()}
    assert all(m.all() for m in tickets.connected(model, full).values())
