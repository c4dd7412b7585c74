"""Derived tables against plain loops and formulas: overlap, structure, features, classifiers and supermasks."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import rankdata
from torch.nn import functional as F

from lthcore.analysis import overlap, prediction, structure, supermasks
from lthcore.analysis.cache import TicketStore, cached_table
from lthcore.analysis.similarity import linear_cka, mean_cca
from lthcore.masks import shuffled
from lthcore.runs.runner import run
from lthcore.seeds import seed_for
from lthcore.settings import Settings

SETTINGS = Settings(
    dataset="digits", validation=300, architecture="mlp", widths=(16, 8), learning_rate=5e-3, iterations=60,
    eval_every=20, prune_fc=0.5, prune_output=0.2, rounds=2, trials=2, arms=("ticket",),
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("run") / "digits"
    run(SETTINGS, place, quiet=True)
    return place


def test_two_tickets_are_compared_by_their_trained_networks_and_with_chance_aligned_alike(folder):
    tickets = TicketStore(folder)
    a, b = tickets(0, 2), tickets(1, 2)
    row = next(row for row in overlap.compare(a, b, tickets) if row["layer"] == "fc1")
    name, images = "fc1.weight", tickets.data.test.images.flatten(1)
    both, (w, v) = a.mask[name] & b.mask[name], (t.weights[name] for t in (a, b))
    assert row["signs"] == pytest.approx(float((w[both] * v[both] > 0).double().mean()))
    cosines = [w[i] @ v[i] / (w[i].norm() * v[i].norm()) for i in range(len(w)) if w[i].any() and v[i].any()]
    assert row["cosine"] == pytest.approx(float(sum(cosines)) / len(cosines), rel=1e-4)
    x, y = (F.relu(images @ t.weights[name].T + t.weights["fc1.bias"]) for t in (a, b))
    assert row["cka"] == pytest.approx(linear_cka(x, y)) and row["cca"] == pytest.approx(mean_cca(x, y), rel=1e-4)
    m, other = a.mask[name].numpy(), shuffled(b.mask, seed_for(b.seed, "chance"))[name].numpy()
    shared = [[(m[i] & other[j]).sum() for j in range(len(m))] for i in range(len(m))]
    best = other[linear_sum_assignment(-np.array(shared))[1]]
    assert row["aligned_chance"] == pytest.approx((m & best).sum() / (m | best).sum())


def test_rounds_that_are_compared_stand_at_the_percentage_of_the_later_one(folder):
    table, left = cached_table(folder, "rounds_alike", overlap.between_rounds), TicketStore(folder).percent_left
    assert table["percent_left"].tolist() == [left[k] for k in table["round"]]


def test_layers_are_described_at_both_ends_and_by_units_without_connections(folder, monkeypatch):
    """Most tickets have no such unit: one here loses all of its inputs, and two pixels are read by none."""
    tickets = TicketStore(folder)
    tickets.settings = tickets.settings.changed(trials=1, rounds=1)
    cut, dense = tickets(0, 1), tickets(0, 0)
    mask = cut.mask["fc1.weight"]
    mask[3], mask[:, 7:9] = False, False
    monkeypatch.setattr(TicketStore, "__call__", lambda store, trial, k: (dense, cut)[k])
    row = structure.layers(tickets).set_index("layer").loc["fc1"]
    start, end = dense.start["fc1.weight"], dense.weights["fc1.weight"]
    assert row["magnitude_initial_kept"] == pytest.approx(float(start[mask].abs().mean()))
    assert row["positive_initial_pruned"] == pytest.approx(float((start[~mask] > 0).double().mean()))
    assert row["magnitude_final_kept"] == pytest.approx(float(end[mask].abs().mean()))
    without = [sum(not bool(mask[i].any()) for i in range(16)) / 16, sum(not mask[:, j].any() for j in range(64)) / 64]
    assert [row["share_without_input"], row["share_without_output"]] == pytest.approx(without)
    assert without[0] != without[1]


def test_degrees_pixels_and_dead_ends_are_counted_by_plain_loops(folder):
    tickets = TicketStore(folder)
    first = [tickets(trial, 2).mask["fc1.weight"].numpy() for trial in (0, 1)]
    degrees = structure.degree_table(tickets).query("round == 2 and layer == 'fc1'").set_index(["side", "degree"])
    for side, axis in (("in", 1), ("out", 0)):
        counts = np.concatenate([mask.sum(axis) for mask in first])
        for degree, units in degrees.loc[side]["units"].items():
            assert units == (counts == degree).sum() / 2
    pixels = structure.pixel_table(tickets).query("round == 2").set_index(["row", "column"])["share"]
    for (row, column), share in pixels.items():
        assert share == pytest.approx(np.mean([mask[:, 8 * row + column].mean() for mask in first]), abs=1e-4)
    paths = structure.path_table(tickets).query("trial == 1 and round == 2").iloc[0]
    one, two, three = (m.double().numpy() for m in tickets(1, 2).mask.values())
    out, into = np.ones(10), np.ones(64)
    on = one * np.outer(two.T @ three.T @ out, into), two * np.outer(three.T @ out, one @ into)
    on = sum((m > 0).sum() for m in (*on, three * np.outer(out, two @ one @ into)))
    assert paths["on_no_path"] == pytest.approx(1 - on / (one.sum() + two.sum() + three.sum()))


def test_features_of_the_untrained_network_are_those_of_its_formulas(folder):
    tickets = TicketStore(folder)
    table, initial = prediction.features(tickets, 0), {n: w.double() for n, w in tickets(0, 0).start.items()}
    weights = [initial[f"{layer}.weight"].abs() for layer in ("fc1", "fc2", "output")]
    assert table["z-score"].to_numpy() == pytest.approx(
        np.concatenate([(initial[n] / initial[n].std()).flatten().numpy() for n in tickets(0, 0).mask]), rel=1e-4
    )
    into, out = [torch.ones(64, dtype=torch.double)], [torch.ones(10, dtype=torch.double)]  # of a network of |w|
    for w in weights[:-1]:
        into.append(w @ into[-1])
    for w in weights[:0:-1]:
        out.insert(0, w.T @ out[0])
    flow = [(w * torch.outer(o, i)).flatten().numpy() for w, i, o in zip(weights, into, out, strict=True)]
    ranks = np.concatenate([(rankdata(f) - 1) / (len(f) - 1) for f in flow])
    assert table["SynFlow"].to_numpy() == pytest.approx(ranks, abs=0.01)
    assert np.abs(table["gradient x weight"].to_numpy() - ranks).max() > 0.1


def test_the_leaky_feature_is_of_the_end_and_not_of_the_early_stop(folder, monkeypatch):
    table, load_ticket = prediction.features(TicketStore(folder), 0), TicketStore.__call__

    def with_noise(self, trial: int, k: int, arm: str = "ticket", draw: int = 0):
        state = load_ticket(self, trial, k, arm, draw)
        return replace(state, early_stop={name: torch.randn_like(w) for name, w in state.weights.items()})

    monkeypatch.setattr(TicketStore, "__call__", with_noise)
    assert prediction.features(TicketStore(folder), 0).equals(table)


def test_a_sampled_weight_stays_with_what_became_of_it(folder, monkeypatch):
    """Pruning by magnitude takes the smaller half of fc1 in round 1, so the leaky feature tells which weights go."""
    monkeypatch.setattr(prediction, "SAMPLE", 300)
    for table, pruned in prediction.samples(TicketStore(folder), [1]).values():
        first = table["layer"] == 0
        assert len(table) == len(pruned[1]) == 300 and 200 < first.sum() < 300
        assert (pruned[1][first] == (table["final magnitude (leaky)"][first] < 0.5)).all()


def test_classifiers_are_fitted_on_the_other_seeds_at_their_round_and_tested_on_their_own(monkeypatch):
    names = list(prediction.LEAKY)
    by_trial = {
        t: (
            pd.DataFrame(np.full((4, len(names)), float(t)), columns=names),
            {k: np.array([t, 0, 1, k]) for k in (1, 2)},
        )
        for t in (0, 1)
    }
    seen = []

    class Noted:
        def fit(self, x, y):
            seen.append((x.iloc[0, 0], y[0], y[3]))
            return self

        def predict_proba(self, x):
            seen[-1] += (x.iloc[0, 0],)
            return np.zeros((len(x), 2))

    def shuffling(classifier, x, y, **_):
        seen[-1] += (x.iloc[0, 0],)
        return {"importances_mean": [0.0] * x.shape[1]}

    tickets = type("Tickets", (), {"settings": SETTINGS, "percent_left": {1: 50.0, 2: 25.0}})()
    monkeypatch.setattr(prediction, "samples", lambda *_: by_trial)
    monkeypatch.setattr(prediction, "models", lambda: {"gradient boosting": Noted()})
    monkeypatch.setattr(prediction, "permutation_importance", shuffling)
    monkeypatch.setattr(prediction, "roc_auc_score", lambda *_: 0.5)
    expected = [(1 - t, 1 - t, k, t) for k in (1, 2) for t in (0, 1)]
    prediction.importance(tickets)
    assert seen == expected
    seen.clear()
    prediction.predict(tickets)
    assert seen == [row for row in expected for _ in prediction.SETS]


def test_a_masks_row_has_the_accuracies_of_the_splits_that_it_names(folder):
    tickets = TicketStore(folder)
    state, data = tickets(0, 2), tickets.data
    row = supermasks._row(tickets.settings, data, state.start, state.mask, 0, "")
    for column, (images, labels) in {"val_accuracy": data.validation, "test_accuracy": data.test}.items():
        x = images.flatten(1)
        for i, name in enumerate(("fc1", "fc2", "output")):
            x = (x.relu() if i else x) @ (state.start[f"{name}.weight"] * state.mask[f"{name}.weight"]).T
            x = x + state.start[f"{name}.bias"]
        assert row[column] == pytest.approx(float((x.argmax(1) == labels).double().mean()), abs=1e-6)
