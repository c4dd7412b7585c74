"""Tables derived from tickets: known answers, made once, readable without tickets, made again if the run has grown."""

import json
import shutil
import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import rankdata

from lthcore.analysis import cache, early_bird, overlap, perturbed_init, prediction, stability, structure, supermasks
from lthcore.analysis.cache import TicketStore, cached_table, has_derived, need_trials
from lthcore.analysis.tickets import path_count
from lthcore.data.datasets import Split, load
from lthcore.errors import LabError
from lthcore.lottery.search import find_tickets, initial_weights_of
from lthcore.lottery.start import begin
from lthcore.masks import apply, counts, equal, full_mask, percent_left, shuffled
from lthcore.models.build import build
from lthcore.pruning.allocation import layer_rates, prune
from lthcore.pruning.saliency import snip
from lthcore.report.studies import mask_prediction, rewinding_and_connectivity, ticket_structure
from lthcore.runs.lock import LOCK, locked
from lthcore.runs.runner import run
from lthcore.settings import Settings
from lthcore.training.loop import train

SETTINGS = Settings(
    dataset="digits", validation=300, architecture="mlp", widths=(16, 8), learning_rate=5e-3, iterations=60,
    eval_every=20, prune_fc=0.5, prune_output=0.2, rounds=2, trials=2, arms=("ticket", "oneshot", "random"),
    random_draws=1,
)  # fmt: skip

DERIVED = shutil.ignore_patterns("derived.json")  # without their notes, derived tables of other tests do not count


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("run") / "digits"
    run(SETTINGS, place, quiet=True)
    return place


def test_a_damaged_note_on_derived_tables_is_an_error_that_says_what_to_do(folder, tmp_path):
    place = shutil.copytree(folder, tmp_path / "copy", ignore=DERIVED)
    cached_table(place, "some", lambda tickets: pd.DataFrame({"trial": [0]}))
    note = place / "derived.json"
    note.write_text(note.read_text()[:30])
    with pytest.raises(LabError, match=r"derived.json is damaged .*delete it"):
        has_derived(place, "some")


def test_tickets_of_a_gpu_are_read_on_any_machine(folder, tmp_path):
    place = shutil.copytree(folder, tmp_path / "copy")
    record = json.loads((place / "run.json").read_text())
    record["settings"]["device"] = "cuda"
    (place / "run.json").write_text(json.dumps(record))
    assert len(TicketStore(place).data.test.labels) == 360


def test_a_table_is_made_once_and_again_when_the_run_has_grown(folder, tmp_path):
    place = tmp_path / "copy"
    shutil.copytree(folder, place, ignore=DERIVED)
    made = []

    def make(tickets: TicketStore) -> pd.DataFrame:
        made.append(tickets.settings.trials)
        return pd.DataFrame({"x": [1.0]})

    for _ in range(2):
        assert cached_table(place, "some", make)["x"].tolist() == [1.0]
    assert made == [2]
    shutil.rmtree(place / "tickets")  # as on other machines, which get the tables but not the tickets
    assert len(cached_table(place, "some", make)) == 1
    shutil.copytree(folder / "tickets", place / "tickets")
    run(SETTINGS.changed(trials=3), place, quiet=True)
    cached_table(place, "some", make)
    assert made == [2, 3]
    note = json.loads((place / "derived.json").read_text())["some"]
    assert note["trainings"] == 3 * 7 and note["versions"]["torch"]


def test_two_that_make_tables_of_one_run_at_once_both_leave_their_notes(folder, tmp_path, monkeypatch):
    """Notebooks of several studies may derive tables of one run at once: no one may overwrite another's notes."""
    place, waits = tmp_path / "copy", threading.Event()
    shutil.copytree(folder, place, ignore=DERIVED)

    def make(tickets: TicketStore) -> pd.DataFrame:
        return pd.DataFrame({"x": [1.0]})

    def noted(*arguments, **how):
        waits.set()
        return locked(*arguments, **how)

    monkeypatch.setattr(cache, "locked", noted)
    other = threading.Thread(target=cached_table, args=(place, "mine", make))
    with locked(place / LOCK):
        other.start()
        assert waits.wait(600)
        assert other.is_alive() and not (place / "mine.csv").exists()
        (place / "derived.json").write_text(json.dumps({"theirs": {"trainings": 14}}))
    other.join(600)
    assert set(json.loads((place / "derived.json").read_text())) == {"mine", "theirs"}


def test_a_table_of_fewer_trainings_than_its_run_is_not_there(folder, tmp_path):
    """Figures state the number of trials of rounds.csv, so they must not read derived tables of fewer trials."""
    place = tmp_path / "copy"
    shutil.copytree(folder, place, ignore=DERIVED)
    assert not has_derived(place, "seeds")
    cached_table(place, "seeds", overlap.between_seeds)
    assert has_derived(place, "seeds") and not has_derived(place, "seeds", "arms_alike")
    run(SETTINGS.changed(trials=3), place, quiet=True)
    assert not has_derived(place, "seeds")


def test_a_run_of_tickets_alone_has_a_table_of_its_arms_without_rows(folder, tmp_path):
    alone = SETTINGS.changed(arms=("ticket",), trials=1)
    run(alone, tmp_path, quiet=True)
    table = cached_table(tmp_path, "arms_alike", overlap.between_arms)
    assert table.empty and list(table) == list(cached_table(folder, "arms_alike", overlap.between_arms))
    assert cached_table(tmp_path, "seeds", overlap.between_seeds).empty
    with pytest.raises(LabError, match="trials = 1"):
        need_trials(alone)
    need_trials(SETTINGS)


@pytest.mark.parametrize("make", [early_bird.early_bird, perturbed_init.survival])
def test_studies_that_prune_single_weights_say_so_of_a_run_that_prunes_units(tmp_path, make):
    of_units = SETTINGS.changed(granularity="units", criterion="unit_l1", arms=("ticket",), trials=1, rounds=1)
    run(of_units, tmp_path, quiet=True)
    with pytest.raises(LabError, match="granularity = weights"):
        cached_table(tmp_path, "weights_again", make)


def test_no_run_an_unfinished_one_and_missing_tickets_are_one_line(folder, tmp_path):
    with pytest.raises(LabError, match="has no complete run"):
        cached_table(tmp_path, "layers", structure.layers)
    place = tmp_path / "copy"
    shutil.copytree(folder, place, ignore=shutil.ignore_patterns("tickets", "derived.json"))
    with pytest.raises(LabError, match="tickets stay on the machine"):
        cached_table(place, "layers", structure.layers)


def test_a_training_that_diverged_has_no_weights_to_analyse(tmp_path):
    run(SETTINGS.changed(optimizer="sgd", learning_rate=1e30, trials=1), tmp_path, quiet=True)
    tickets = TicketStore(tmp_path)
    with pytest.raises(LabError, match=r"round00\S* has no finite weights, as its training diverged"):
        tickets(0, 0)
    with pytest.raises(LabError, match=r"no ticket \S*round01\S*: 1 training of this run diverged"):
        tickets(0, 1)


def test_layers_degrees_pixels_and_paths_are_those_of_the_masks(folder):
    tickets = TicketStore(folder)
    layers, degrees, pixels, paths = (
        cached_table(folder, name, make)
        for name, make in (("layers", structure.layers), ("degrees", structure.degree_table),
                           ("pixels", structure.pixel_table), ("paths", structure.path_table))
    )  # fmt: skip
    mask = tickets(1, 2).mask
    row = layers.query("trial == 1 and round == 2").set_index("layer")
    assert {name: float(m.float().mean()) for name, m in mask.items()} == pytest.approx(
        {f"{layer}.weight": value for layer, value in row["density"].items()}, abs=1e-6
    )
    units = degrees.query("round == 2 and layer == 'fc1' and side == 'in'")
    kept = np.mean([int(tickets(t, 2).mask["fc1.weight"].sum()) for t in (0, 1)])
    assert (units["degree"] * units["units"]).sum() == kept
    assert (units["degree"] * units["expected"]).sum() == pytest.approx(kept, rel=0.02)
    assert pixels.query("round == 2")["share"].mean() * 64 * 16 == pytest.approx(kept, rel=1e-3)
    mine = paths.query("trial == 1 and round == 2").iloc[0]
    assert mine["paths"] == path_count(mask)[0]
    assert all("times" in line for line in ticket_structure.layer_sentences(layers, paths, 2))
    whole = layers.assign(movement_pruned=layers["movement_pruned"].where(layers["layer"] != "output"))  # never pruned
    said = ticket_structure.layer_sentences(whole, paths, 2)
    assert len(said) == len(ticket_structure.layer_sentences(layers, paths, 2)) - 1 and "nan" not in " ".join(said)


def test_movement_is_of_the_kept_and_of_the_pruned_weights_apart(folder):
    layers, tickets = cached_table(folder, "layers", structure.layers), TicketStore(folder)
    for row in layers.itertuples():
        dense, name = tickets(row.trial, 0), f"{row.layer}.weight"
        moved, kept = (dense.weights[name] - dense.start[name]).abs(), tickets(row.trial, row.round).mask[name]
        assert row.movement_kept == pytest.approx(float(moved[kept].mean()), rel=1e-4)
        assert row.movement_pruned == pytest.approx(float(moved[~kept].mean()), rel=1e-4)


def test_a_ticket_is_as_one_shot_at_round_1_and_equals_itself(folder):
    arms = cached_table(folder, "arms_alike", overlap.between_arms)
    first = arms.query("arm == 'oneshot' and round == 1")
    assert (first[["jaccard", "signs", "cka"]] == 1).all(axis=None)
    assert first[["cosine", "cosine_columns"]].to_numpy() == pytest.approx(1)
    other = arms.query("arm == 'random' and layer == 'fc1'")
    assert (other["jaccard"] - other["chance"]).abs().max() < 0.06
    tickets = TicketStore(folder)
    for row in overlap.compare(tickets(0, 1), tickets(0, 1), tickets):
        assert row["jaccard"] == row["aligned"] == 1 and row["cka"] == pytest.approx(1)


def test_aligned_with_itself_a_mask_is_the_same_and_with_a_random_one_it_is_not(folder):
    tickets = TicketStore(folder)
    for row in overlap.compare(tickets(0, 2), tickets(0, 2), tickets):
        assert row["aligned"] == 1 and row["aligned_chance"] < 0.9


def test_tickets_of_rounds_are_nested_so_their_jaccard_is_the_share_kept(folder):
    table = cached_table(folder, "rounds_alike", overlap.between_rounds)
    part = table.query("round == 2 and against == 1 and layer == 'fc1'")
    assert part["jaccard"].tolist() == pytest.approx([0.5, 0.5])
    assert set(table["against"]) == {0, 1}
    seeds = cached_table(folder, "seeds", overlap.between_seeds)
    assert len(seeds) == 3 * 3 and (seeds.query("round == 0")["jaccard"] == 1).all()


def test_copies_of_tickets_are_measured_at_each_second_round(folder):
    table = cached_table(folder, "stability", stability.stability)
    assert table[["trial", "round"]].to_numpy().tolist() == [[t, k] for t in (0, 1) for k in (0, 2)]
    assert (table["error_barrier"] >= 0).all() and table["error"].between(0, 1).all()
    assert len(rewinding_and_connectivity.barrier_sentences(table)) == 2
    shown = rewinding_and_connectivity.barriers([table, table.assign(rewind_to=20)])
    assert list(shown.index) == [0, 20] and list(shown.columns) == ["100%", "27.6%"]
    said = rewinding_and_connectivity.barrier_sentences(table)
    assert all(part in said[i] for i, text in enumerate(shown.loc[0]) for part in text.split(" ", 1))


def test_tickets_that_are_not_rewound_have_no_point_where_copies_part(folder):
    tickets = TicketStore(folder)
    tickets.settings = tickets.settings.changed(arms=("ticket",), restart="best")
    with pytest.raises(LabError, match="restart = best: this study needs a run with restart = rewind"):
        stability.stability(tickets)


def test_copies_part_at_the_rewinding_point_with_its_weights(tmp_path, monkeypatch):
    settings, parted = SETTINGS.changed(rewind_to=20, trials=1, arms=("ticket",)), []
    run(settings, tmp_path, quiet=True)
    monkeypatch.setattr(stability, "instability", lambda s, data, state: parted.append(state) or {"error_barrier": 0.0})
    tickets = TicketStore(tmp_path)
    assert stability.stability(tickets)["rewind_to"].tolist() == [20, 20]
    dense = tickets(0, 0)
    training = train(settings, tickets.data, begin(settings, 0, 0, dense.start, dense.mask))
    origin = next(state for state in training if state.iteration == 20).weights
    for state, k in zip(parted, (0, 2), strict=True):
        expected = apply(tickets(0, k).mask, origin)
        assert state.iteration == 20 and all(torch.equal(w, expected[name]) for name, w in state.weights.items())


def test_the_leak_foretells_the_first_round_and_more_features_no_less(folder):
    table = cached_table(folder, "prediction", prediction.predict)
    leak = table[(table["features"] == "final magnitude (leaky)") & (table["round"] == 1)]["auc"]
    assert (leak > 0.97).all()
    best = table[table["model"] == "gradient boosting"].groupby("features")["auc"].mean()
    assert best["before training"] <= best["and early in it"] + 0.03 <= best["and its end (leaky)"] + 0.06
    assert set(table["held_out"]) == {0, 1}
    shown = mask_prediction.prediction_table(table, (1, 2))
    for said, cell in zip(mask_prediction.prediction_sentences(table, 2), shown.iloc[:, 1], strict=True):
        assert cell in said


def test_the_end_of_training_is_in_the_leaky_feature_alone(folder, monkeypatch):
    table, load_ticket = prediction.features(TicketStore(folder), 0), TicketStore.__call__

    def with_noise(self, trial: int, k: int, arm: str = "ticket", draw: int = 0):
        state = load_ticket(self, trial, k, arm, draw)
        noise = {name: torch.randn_like(w) for name, w in state.weights.items()}
        return replace(state, weights=noise, early_stop=noise)

    monkeypatch.setattr(TicketStore, "__call__", with_noise)
    other = prediction.features(TicketStore(folder), 0)
    assert [column for column in table if not other[column].equals(table[column])] == ["final magnitude (leaky)"]


def test_features_are_of_the_initial_and_the_early_network(folder):
    tickets = TicketStore(folder)
    table, initial = prediction.features(tickets, 0), tickets(0, 0).start
    w = torch.cat([initial[name].flatten() for name in tickets(0, 0).mask])
    first = slice(0, 64 * 16)
    ranks = torch.tensor(table["initial magnitude"].to_numpy())[first]
    assert torch.equal(ranks.argsort(stable=True), w[first].abs().argsort(stable=True))
    assert table.drop(columns="z-score").to_numpy().min() >= 0 and table.drop(columns="z-score").to_numpy().max() <= 1
    early = torch.tensor(table["early movement"].to_numpy())
    assert early.std() > 0.1  # the weights did move


def test_classifiers_learn_on_the_other_seeds_alone():
    by_trial = {t: (pd.DataFrame({"x": [float(t)]}), {1: np.array([t == 1])}) for t in (0, 1, 2)}
    x, y = prediction._others(by_trial, 1, 1)
    assert x["x"].tolist() == [0, 2] and y.tolist() == [False, False]


def test_every_trial_draws_its_own_sample_and_batches(folder, monkeypatch):
    seeds = []
    monkeypatch.setattr(prediction, "SAMPLE", 100)
    monkeypatch.setattr(prediction, "snip", lambda seen: seeds.append(seen.seed) or snip(seen))
    tables = {trial: table for trial, (table, _) in prediction.samples(TicketStore(folder), [1]).items()}
    assert len(set(seeds)) == 2 and len(tables[0]) == len(tables[1]) == 100
    same = prediction.features(TicketStore(folder), 0)
    monkeypatch.setattr(prediction, "features", lambda tickets, trial: same)
    first, second = (table for table, _ in prediction.samples(TicketStore(folder), [1]).values())
    assert first.equals(tables[0]) and not first.equals(second)


def test_rounds_in_which_nothing_is_pruned_are_left_out(folder, monkeypatch):
    """A classifier needs weights of both fates: those that are pruned and those that are kept."""
    sampled = prediction.samples

    def first_prunes_nothing(tickets, rounds):
        found = sampled(tickets, rounds)
        found[0][1][1][:] = False
        return found

    monkeypatch.setattr(prediction, "samples", first_prunes_nothing)
    for make in (prediction.predict, prediction.importance):
        assert set(make(TicketStore(folder))["round"]) == {2}


def test_early_features_are_of_the_first_evaluation_in_training(folder):
    """The later they were read, the better they would predict."""
    tickets = TicketStore(folder)
    dense = tickets(0, 0)
    training = train(SETTINGS, tickets.data, begin(SETTINGS, 0, 0, dense.start, dense.mask))
    early = next(state for state in training if state.iteration == SETTINGS.eval_every).weights
    table = prediction.features(tickets, 0)
    for column, value in {
        "early magnitude": lambda name: early[name].abs(),
        "early movement": lambda name: (early[name] - dense.start[name]).abs(),
    }.items():
        values = [value(name).flatten().double().numpy() for name in dense.mask]
        ranks = np.concatenate([(rankdata(v) - 1) / (len(v) - 1) for v in values])
        assert table[column].to_numpy() == pytest.approx(ranks)


def test_a_perturbation_changes_just_the_weights_it_names():
    initial = {"fc1.weight": torch.randn(20, 50), "fc1.bias": torch.zeros(20), "table.weight": torch.randn(4, 4)}
    full = {"fc1.weight": torch.ones(20, 50, dtype=torch.bool)}
    for label, (which, _) in perturbed_init.PERTURBATIONS.items():
        mask, new = (
            perturbed_init.chosen(initial, full, which)["fc1.weight"],
            perturbed_init.perturbed(initial, full, label),
        )
        assert all(torch.equal(new[name], initial[name]) for name in ("fc1.bias", "table.weight"))
        assert int(mask.sum()) == 200 and torch.equal(new["fc1.weight"][~mask], initial["fc1.weight"][~mask])
        old, changed = initial["fc1.weight"][mask].abs(), new["fc1.weight"][mask]
        inside, outside = old, initial["fc1.weight"][~mask].abs()
        assert inside.min() >= outside.max() if which == "largest" else inside.max() <= outside.min()
        factor = {"largest, halved": 0.5, "largest, doubled": 2.0}.get(label, 1.0)
        sigma = initial["fc1.weight"].std()
        assert torch.allclose(changed.abs(), sigma.expand(200) if "sigma" in label else factor * old)
        signs = initial["fc1.weight"][mask].sign()
        assert torch.equal(changed.sign(), signs.abs() if "positive" in label else signs)


def test_what_survives_adds_up_to_what_is_left(folder):
    table = cached_table(folder, "perturbed_init", perturbed_init.survival)
    total = {k: percent_left(TicketStore(folder)(0, k).mask) / 100 for k in (1, 2)}
    for row in table.itertuples():
        assert 0.2 * row.perturbed + 0.8 * row.others == pytest.approx(total[row.round], abs=0.01)
    share = table.groupby("perturbation")["perturbed"].mean()
    assert share["largest, doubled"] > share["largest, as drawn"] > share["largest, halved"]
    assert share["largest, as drawn"] > share["smallest, as drawn"]
    shown = mask_prediction.survival_table(table, 2)
    assert list(shown.index) == list(perturbed_init.PERTURBATIONS)
    for said, (survive, _, dense) in zip(mask_prediction.survival_sentences(table, 2), shown.to_numpy(), strict=True):
        assert survive.split(" ")[0] in said and dense.split(" ")[0] in said


def test_survival_is_in_the_one_shot_masks_of_trained_weights_not_of_early_stopped_ones(monkeypatch):
    monkeypatch.setenv("LTH_WORKERS", "1")
    settings = SETTINGS.changed(
        train_examples=60, learning_rate=0.05, iterations=40, eval_every=10, rounds=1, trials=1, device="cpu",
        arms=("ticket", "oneshot"),
    )  # fmt: skip
    data = load(settings)
    (dense,), outcomes = (list(o.values()) for o in find_tickets(settings, data))
    assert dense.early_stop_point.iteration < settings.iterations  # it overfits
    oneshot = outcomes[-1].mask
    largest = perturbed_init.chosen(dense.start, dense.mask, "largest")

    def shares(mask: dict) -> list[float]:
        kept, inside = (torch.cat([m[name].flatten() for name in mask]) for m in (mask, largest))
        return [float(kept[inside].double().mean()), float(kept[~inside].double().mean())]

    stopped = {name: w.abs() for name, w in dense.early_stop.items()}
    early = prune(stopped, dense.mask, layer_rates(settings, build(settings, data.shape, data.classes)))
    assert shares(early) != shares(oneshot)
    tickets = SimpleNamespace(
        settings=settings, data=data, model=build(settings, data.shape, data.classes), percent_left={1: 50.0}
    )
    row = perturbed_init.survival(tickets).query("perturbation == 'largest, as drawn'").iloc[0]
    assert [row["perturbed"], row["others"]] == pytest.approx(shares(oneshot))
    assert row["percent_left"] == pytest.approx(percent_left(oneshot), abs=0.01)


def test_top_keeps_the_highest_scores_and_passes_gradients_straight_through():
    scores = torch.tensor([[0.1, 0.9], [0.5, 0.3]], requires_grad=True)
    mask = supermasks.Top.apply(scores, 2)
    assert mask.tolist() == [[0, 1], [1, 0]]
    (mask * torch.tensor([[1.0, 2.0], [3.0, 4.0]])).sum().backward()
    assert scores.grad.tolist() == [[1, 2], [3, 4]]


def test_a_learned_mask_of_untrained_weights_beats_random_ones_by_far(folder):
    tickets = TicketStore(folder)
    initial = tickets(0, 0).start
    search = (tickets.settings, tickets.data, initial, 0.5)
    mask = supermasks.learned_mask(*search, seed=0, steps=400)
    assert all(int(m.sum()) == round(0.5 * m.numel()) for m in mask.values())

    def accuracy(mask: dict) -> float:
        return supermasks._row(tickets.settings, tickets.data, initial, mask, 0, "")["test_accuracy"]

    assert accuracy(mask) > 0.2 + max(accuracy(shuffled(mask, seed)) for seed in range(5))
    again = supermasks.learned_mask(*search, seed=0, steps=400)
    assert all(torch.equal(mask[name], again[name]) for name in mask)


def test_a_mask_is_learned_on_training_images_alone(folder):
    tickets = TicketStore(folder)
    search = {"weights": tickets(0, 0).start, "density": 0.5, "seed": 0, "steps": 20}
    black = Split(torch.zeros_like(tickets.data.test.images), torch.zeros_like(tickets.data.test.labels))
    others = replace(tickets.data, test=black, validation=black)
    mask, other = (supermasks.learned_mask(tickets.settings, data, **search) for data in (tickets.data, others))
    assert equal(mask, other)


def test_every_trial_has_searches_and_random_masks_of_its_own(folder, monkeypatch):
    tickets, seeds = TicketStore(folder), {"learned": [], "evolved": [], "random": []}
    monkeypatch.setattr(supermasks, "_row", lambda *_: {})

    def learned(settings, data, weights, density, seed, steps):
        assert steps == SETTINGS.iterations
        seeds["learned"].append(seed)

    monkeypatch.setattr(supermasks, "learned_mask", learned)
    monkeypatch.setattr(supermasks, "evolved_masks", lambda data, weights, seed: seeds["evolved"].append(seed) or [])
    monkeypatch.setattr(supermasks, "shuffled", lambda mask, seed: seeds["random"].append(seed))
    supermasks.evolved(tickets)
    assert {kind: len(set(found)) for kind, found in seeds.items()} == {"learned": 2, "evolved": 2, "random": 2 * 2}


def spied(monkeypatch: pytest.MonkeyPatch, *searches: str) -> tuple[list, list]:
    """Let searches of masks find full ones at once; return lists of the weights searched and of what is evaluated."""
    searched, rows = [], []

    def full(weights):
        searched.append(weights)
        return full_mask(weights)

    def row(settings, data, weights, mask, trial, method):
        rows.append((method, trial, weights, mask))
        return {"method": method}

    monkeypatch.setattr(supermasks, "learned_mask", lambda settings, data, weights, *_: full(weights))
    monkeypatch.setattr(supermasks, "evolved_masks", lambda data, weights, *_: [full(weights)])
    monkeypatch.setattr(supermasks, "_row", row)
    return searched, rows


def test_masks_are_learned_of_weights_as_drawn_and_of_their_signs_alone(folder, monkeypatch):
    """In signed weights all magnitudes of a layer are equal: what a mask finds there, it finds in the signs."""
    searched, rows = spied(monkeypatch)
    tickets = TicketStore(folder)
    assert len(supermasks.learned(tickets)) == len(rows) == 2 * 2 * len(supermasks.DENSITIES)
    assert all(weights is found for (_, _, weights, _), found in zip(rows, searched, strict=True))
    for method, trial, weights, mask in rows:
        drawn = tickets(trial, 0).start
        for name in mask:
            assert torch.equal(weights[name].sign(), drawn[name].sign())
            assert (len(weights[name].abs().unique()) == 1) == (method == "learned, weights signed")
            assert torch.equal(weights[name], drawn[name]) == (method == "learned, weights as drawn")


def test_searched_masks_are_held_against_those_of_tickets_and_random_ones_of_their_densities(folder, monkeypatch):
    _, rows = spied(monkeypatch)
    tickets = TicketStore(folder)
    assert len(supermasks.evolved(tickets)) == len(rows) == 2 * (1 + len(supermasks.DENSITIES) + 2 * 2)
    for trial in (0, 1):
        drawn = tickets(trial, 0).start
        assert all(torch.equal(w[name], drawn[name]) for _, t, w, _ in rows if t == trial for name in drawn)
        ours, random = (
            [mask for method, t, _, mask in rows if (method, t) == (kind, trial)]
            for kind in ("ticket's mask", "random mask")
        )
        for k, mine, other in zip((1, 2), ours, random, strict=True):
            assert equal(mine, tickets(trial, k).mask)
            assert counts(other) == counts(mine) and all(not torch.equal(other[name], mine[name]) for name in mine)


def test_searching_a_mask_leaves_the_statistics_of_batch_norms_as_they_are():
    settings = Settings(
        dataset="digits", architecture="resnet20", iterations=2, batch_size=20, validation=300,
        prune_conv=0.2, prune_fc=0, prune_output=0,
    )  # fmt: skip
    data, initial = load(settings), initial_weights_of(settings, 0)
    before = {name: w.clone() for name, w in initial.items()}
    mask = supermasks.learned_mask(settings, data, initial, 0.5, seed=0, steps=2)
    assert len(mask) > 20 and all(torch.equal(initial[name], w) for name, w in before.items())


def test_evolved_masks_are_a_front_each_better_in_something(folder):
    pytest.importorskip("pymoo", reason="pymoo is not installed: pip install 'lthcore[evolution]'")
    tickets = TicketStore(folder)
    initial = tickets(0, 0).start
    found = supermasks.evolved_masks(tickets.data, initial, seed=0, generations=8)
    rows = [supermasks._row(tickets.settings, tickets.data, initial, mask, 0, "") for mask in found]
    for a in rows:
        assert not any(b["percent_left"] < a["percent_left"] and b["val_accuracy"] > a["val_accuracy"] for b in rows)


def test_without_pymoo_one_line_says_what_to_install(folder, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pymoo.algorithms.moo.nsga2", None)
    tickets = TicketStore(folder)
    with pytest.raises(LabError, match=r"pip install 'lthcore\[evolution\]'"):
        supermasks.evolved_masks(tickets.data, tickets(0, 0).start, seed=0)


def test_a_convolutional_network_has_no_pixels_and_no_paths_of_units(tmp_path):
    """Its other tables and their findings exist."""
    settings = SETTINGS.changed(architecture="conv2", widths=(), iterations=4, eval_every=4, rounds=1, arms=("ticket",))
    run(settings, tmp_path, quiet=True)
    makers = (
        structure.layers,
        structure.degree_table,
        structure.pixel_table,
        structure.path_table,
        structure.first_layer,
    )
    layers, degrees, pixels, paths, first = (cached_table(tmp_path, make.__name__, make) for make in makers)
    assert len(pixels) == len(paths) == len(first) == 0
    assert set(layers["layer"]) == set(degrees["layer"]) == {"conv1", "conv2", "fc1", "fc2", "output"}
    lines = ticket_structure.layer_sentences(layers, paths, 1)
    assert [line.split(":")[0] for line in lines] == list(layers["layer"].unique())


def test_first_layers_shares_are_counted_by_a_plain_loop(folder):
    tickets = TicketStore(folder)
    table = structure.first_layer(tickets).set_index(["arm", "trial", "round"])
    assert len(table) == 3 * 2 * 2
    idle = tickets.data.train.images.flatten(1).std(0) < 0.1 * tickets.data.train.images.std()
    assert 0 < idle.sum() < 64
    mask = tickets(1, 2, "oneshot").mask["fc1.weight"]
    at_idle = sum(int(mask[unit, pixel]) for unit in range(16) for pixel in range(64) if idle[pixel])
    row = table.loc["oneshot", 1, 2]
    assert row["at_idle_pixels"] == pytest.approx(at_idle / int(mask.sum()))
    assert row["units"] == pytest.approx(sum(bool(mask[unit].any()) for unit in range(16)) / 16)
