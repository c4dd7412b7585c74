"""Early-bird tickets: distances by hand, masks compared with the run's, tickets pruned where masks are stable."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from lthcore import masks
from lthcore.analysis import early_bird
from lthcore.analysis.cache import TicketStore, cached_table
from lthcore.data.datasets import load
from lthcore.lottery import start
from lthcore.masks import percent_left
from lthcore.models.build import build
from lthcore.report.studies import pruning_at_init
from lthcore.runs.files import read_tables
from lthcore.runs.runner import run
from lthcore.settings import Settings

SETTINGS = Settings(
    dataset="digits", validation=300, architecture="mlp", optimizer="sgd", learning_rate=0.1, momentum=0.9,
    schedule="cosine", epochs=12, arms=["ticket", "oneshot", "by_magnitude_at_init", "by_random"], trials=2, rounds=2,
    scope="global", prune_fc=0.6, prune_output=0.6,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("early") / "digits"
    run(SETTINGS, place, quiet=True)
    return place


def mask(*kept: int) -> masks.Mask:
    flat = torch.zeros(10, dtype=torch.bool)
    flat[list(kept)] = True
    return {"a.weight": flat[:4].view(2, 2), "b.weight": flat[4:].view(2, 3)}


def test_the_distance_is_the_share_of_weights_on_which_masks_differ():
    assert early_bird.distance(mask(0, 1, 5), mask(0, 1, 5)) == 0
    assert early_bird.distance(mask(0, 1, 5), mask(0, 2, 5)) == pytest.approx(0.2)
    assert early_bird.distance(mask(0, 1, 5), mask(6, 7, 8)) == pytest.approx(0.6)  # the most: twice the share kept


def test_a_mask_is_held_against_the_five_before_it():
    drawn = [mask(7, 8, 9), mask(0, 1, 2), *[mask(0)] * 4, mask(0, 1)]
    assert np.isnan(early_bird.farthest(drawn[:5]))
    assert early_bird.farthest(drawn[:6]) == pytest.approx(0.4)  # from drawn[0], the first of the five masks before it
    assert early_bird.farthest(drawn) == pytest.approx(0.1)  # drawn[0], at 0.5, is not compared


def test_the_training_is_the_dense_networks_and_its_masks_those_of_the_run(folder):
    tickets = TicketStore(folder)
    seen = list(early_bird.snapshots(tickets, 1))
    dense = tickets(1, 0)
    assert [snapshot.iteration for snapshot in seen] == [point.iteration for point in dense.curve]
    assert all(torch.equal(w, dense.weights[name]) for name, w in seen[-1].weights.items())
    for k in (1, 2):
        assert masks.equal(seen[0].mask(k), tickets(1, k, "by_magnitude_at_init").mask)
        assert masks.equal(seen[-1].mask(k), tickets(1, k, "oneshot").mask)


def test_early_bird_tickets_are_pruned_where_the_mask_is_first_stable(folder):
    drawn = cached_table(folder, "early_bird", early_bird.early_bird)
    found = cached_table(folder, "early_bird_tickets", early_bird.early_bird_tickets)
    assert len(drawn) == 2 * 2 * (SETTINGS.epochs + 1) and len(found) == 4
    assert (drawn[drawn["iteration"] == SETTINGS.iterations]["overlap"] == 1).all()
    stable = drawn[drawn["farthest"] < early_bird.CLOSE].groupby(["trial", "round"])["iteration"].min()
    assert stable.tolist() == found["iteration"].tolist() and (found["iteration"] < SETTINGS.iterations).all()
    rounds, _ = read_tables(folder)
    by_random = rounds[rounds["arm"] == "by_random"]["final_test_accuracy"].mean()
    assert found["final_test_accuracy"].mean() > by_random
    lines = pruning_at_init.early_bird_sentences(drawn, found, rounds[rounds["arm"] == "oneshot"])
    assert len(lines) == 2 and all("Compared with the one-shot ticket" in line and "(n = 2)" in line for line in lines)
    assert [axes.get_ylabel() for axes in pruning_at_init.early_birds(folder).axes] == [
        "distance / largest possible", "Jaccard index", "test accuracy at the end",
    ]  # fmt: skip


@pytest.fixture
def trained(monkeypatch) -> list:
    """Return the list of all training runs begun from now on, in which every mask but the first is stable."""
    begun = []

    def begin(*args):
        begun.append(start.begin(*args))
        return begun[-1]

    monkeypatch.setattr(early_bird, "begin", begin)
    monkeypatch.setattr(early_bird, "PATIENCE", 1)
    monkeypatch.setattr(early_bird, "CLOSE", 1.1)
    return begun


def test_pruning_and_training_on_is_one_schedule_and_no_second_one(trained):
    """With the whole schedule after pruning, early-bird tickets would be trained for longer than one-shot ones."""
    settings = SETTINGS.changed(epochs=2, rounds=1, device="cpu")
    data = load(settings)
    tickets = SimpleNamespace(
        settings=settings, data=data, model=build(settings, data.shape, data.classes), percent_left={1: 40.0}
    )
    found = early_bird.early_bird_tickets(tickets)
    birds = [state for state in trained if percent_left(state.mask) < 100]
    assert [state.curve[0].iteration for state in birds] == found["iteration"].tolist()
    assert (found["iteration"] == settings.iterations // 2).all() and len(found) == settings.trials
    assert all(state.iteration == settings.iterations for state in birds)
    dense = [state for state in trained if percent_left(state.mask) == 100]
    assert {state.iteration for state in dense} == {settings.iterations // 2}  # no further than where they are pruned


def test_what_is_stable_by_its_few_weights_alone_is_said(folder):
    drawn = cached_table(folder, "early_bird", early_bird.early_bird)
    found = cached_table(folder, "early_bird_tickets", early_bird.early_bird_tickets)
    oneshot = read_tables(folder)[0].query("arm == 'oneshot'")
    few = (table.assign(percent_left=table["percent_left"] / 10) for table in (drawn, found))
    said = pruning_at_init.early_bird_sentences(*few, oneshot)[0]
    assert "any two masks of this size differ in at most 8% of all weights" in said


def test_trials_whose_masks_are_never_stable_are_counted():
    where = {"percent_left": 20.0, "round": 1}
    masks = pd.DataFrame([
        where | {"trial": trial, "iteration": i, "farthest": 0.05, "overlap": 0.9}
        for trial in range(3) for i in (100, 1000)
    ])  # fmt: skip
    found = pd.DataFrame([where | {"trial": t, "iteration": 900 * t + 100, "final_test_accuracy": 0.9} for t in (0, 1)])
    oneshot = pd.DataFrame([where | {"trial": t, "final_test_accuracy": 0.9} for t in range(3)])
    (said,) = pruning_at_init.early_bird_sentences(masks, found, oneshot)
    assert "in 2 of 3 trials, the mask is first stable after 550 [0, " in said


def test_early_birds_are_trained_on_to_the_end_on_the_batches_of_their_round(trained):
    settings = SETTINGS.changed(
        epochs=0, iterations=60, eval_every=10, optimizer="adam", learning_rate=0.05, momentum=0.0, schedule="constant",
        train_examples=60, trials=1, device="cpu",
    )  # fmt: skip
    data = load(settings)
    tickets = SimpleNamespace(
        settings=settings, data=data, model=build(settings, data.shape, data.classes), percent_left={1: 40.0, 2: 16.0}
    )
    found = early_bird.early_bird_tickets(tickets)
    _, *birds = trained
    assert [bird.seed for bird in birds] == [start.seed_for(settings.seed, "training", 0, k) for k in (1, 2)]
    ends = [bird.curve[-1].test_accuracy for bird in birds]
    assert found["final_test_accuracy"].tolist() == ends
    assert any(bird.early_stop_point.test_accuracy != end for bird, end in zip(birds, ends, strict=True))
