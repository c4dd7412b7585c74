"""High-movement pruning: its scores, what the next round starts from, and the record of rounds that prune nothing."""

import json

import pytest
import torch
import yaml

from lthcore import masks
from lthcore.data.datasets import Data, Split, image_shape, load
from lthcore.errors import LabError
from lthcore.lottery import masks_of_arms
from lthcore.lottery.search import find_tickets, train_in_memory
from lthcore.lottery.start import begin
from lthcore.models.build import build
from lthcore.models.weights import initial_weights
from lthcore.paths import project_root
from lthcore.pruning.criteria import PruningContext, scores_of
from lthcore.registry import CRITERIA
from lthcore.runs import energy
from lthcore.runs.experiments import load_experiments
from lthcore.runs.files import read_record
from lthcore.runs.runner import run
from lthcore.seeds import seed_for
from lthcore.settings import Settings
from lthcore.training.loop import epoch_batches
from lthcore.training.state import Replicate

SMALL = Settings(
    dataset="digits", architecture="mlp", validation=200, device="cpu", iterations=100, eval_every=20, trials=1,
    rounds=2, arms=["ticket"], criterion="late_stillness", scope="global", prune_fc=0.1,
    prune_output=0.0, learning_rate=0.02,
)  # fmt: skip
TICKET = Replicate("ticket", 0, 0, 0)


def rounds_of(settings: Settings) -> list:
    data = load(settings)
    return [outcomes[TICKET._replace(round=k)] for k, outcomes in enumerate(find_tickets(settings, data))]


def test_the_network_has_the_parameters_published():
    model = build(Settings(architecture="conv4", padding="valid"), (3, 32, 32), 10)
    assert sum(p.numel() for p in model.parameters()) == 1_147_978


def test_what_moved_most_after_the_early_stop_is_pruned():
    dense, first, _ = rounds_of(SMALL)
    moved = {name: (dense.weights[name] - dense.early_stop[name]).abs() for name in dense.mask}
    gone = torch.cat([moved[name][~first.mask[name]] for name in moved])
    kept = torch.cat([moved[name][first.mask[name]] for name in ("fc1.weight", "fc2.weight")])
    assert gone.min() >= kept.max() and len(gone) == int(0.1 * (64 * 64 + 64 * 32))
    assert first.mask["output.weight"].all()


@pytest.mark.parametrize("criterion", ["late_movement", "late_stillness", "magnitude", "magnitude_increase", "random"])
def test_every_control_prunes_as_many_weights(criterion):
    """A tenth in each round, unless training ended at its early stop: then nothing has moved after it."""
    settings, output = SMALL.changed(criterion=criterion, iterations=400, learning_rate=0.03), 320
    states = rounds_of(settings)
    left = [masks.weights_left(state.mask) for state in states]
    for before, after, state in zip(left, left[1:], states, strict=False):
        still = CRITERIA[criterion].uses_best and state.early_stop_point.iteration == settings.iterations
        assert before - after == (0 if still else (before - output) // 10)
    assert left[0] == 6464 and left[-1] < 6464


def test_a_round_is_skipped_and_recorded_so_where_training_ended_at_its_best(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LTH_PLAIN", "1")
    settings = SMALL.changed(iterations=20)  # too short for the validation loss to rise again
    rounds, _ = run(settings, tmp_path)
    assert list(rounds["skipped"]) == [False, True, True] and set(rounds["weights_left"]) == {6464}
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("round")]
    assert [line.endswith("pruned nothing in this round)") for line in said] == [False, True, True]
    rounds, _ = run(SMALL, tmp_path / "not", quiet=True)
    assert not rounds["skipped"].any()


def test_a_round_that_empties_a_layer_is_recorded(tmp_path, monkeypatch):
    settings = SMALL.changed(criterion="magnitude", prune_fc=0.98, rounds=1)
    rounds, _ = run(settings, tmp_path, quiet=True)
    assert rounds["emptied"].isna().all()  # 123 weights of fc1 and fc2 remain, some in each of them
    assert list(rounds["multiply_adds"]) == list(rounds["weights_left"])  # each weight is used once per image
    weights = initial_weights(build(settings, (1, 8, 8), 10), settings, 0)
    monkeypatch.setattr(
        masks_of_arms, "prune", lambda worth, mask, *_: mask | {"fc2.weight": mask["fc2.weight"] & False}
    )
    rounds, _ = run(settings.changed(seed=1), tmp_path / "emptied", quiet=True)
    assert list(rounds["emptied"].fillna("")) == ["", "fc2.weight"] and weights["fc2.weight"].numel() == 2048


@pytest.mark.parametrize("keep", [False, True])
def test_going_on_from_the_best_weights_with_or_without_the_optimizers_state(keep):
    settings = SMALL.changed(restart="best", keep_optimizer=keep)
    dense, first, _ = rounds_of(settings)
    for name, mask in first.mask.items():
        assert torch.equal(first.start[name], torch.where(mask, dense.early_stop[name], 0.0))
    data, (rewound, *_) = load(SMALL), rounds_of(SMALL)
    assert all(torch.equal(rewound.weights[n], w) for n, w in dense.weights.items())  # the dense network is the same
    # the first round again, started by hand, with or without the state of the optimizer
    by_hand = first.__class__(0, dict(first.start), first.mask, seed_for(0, "training", 0, 1), start=first.start)
    by_hand.optimizer = masks.apply_to_optimizer(first.mask, dense.optimizer) if keep else {}
    (again,) = train_in_memory(settings, data, {TICKET: by_hand}).values()
    assert all(torch.equal(again.weights[n], w) for n, w in first.weights.items())


def test_a_ticket_that_keeps_its_optimizer_counts_its_steps_on_beside_one_that_has_none():
    both = SMALL.changed(restart="best", keep_optimizer=True, arms=["ticket", "reinit"], reinit_draws=1, rounds=1)
    data, settings = load(SMALL), both.changed(engine="stack")
    stacked = [outcomes[TICKET._replace(round=k)] for k, outcomes in enumerate(find_tickets(settings, data))]
    alone = rounds_of(SMALL.changed(restart="best", keep_optimizer=True, rounds=1))
    steps = [float(s[1].optimizer["fc1.weight/step"]) for s in (stacked, alone)]
    assert steps == [200, 200]


def test_a_run_that_keeps_the_optimizer_resumes_bit_for_bit(tmp_path, in_parts):
    settings = SMALL.changed(restart="best", keep_optimizer=True)
    whole, _ = run(settings, tmp_path / "whole", quiet=True)
    rounds = in_parts(settings, tmp_path / "parts")
    kept = [column for column in whole if column != "seconds"]
    assert rounds[kept].equals(whole[kept])


@pytest.mark.parametrize(
    "values",
    [{"restart": "best", "validation": 0, "criterion": "magnitude"}, {"keep_optimizer": True},
     {"restart": "best", "rewind_to": 20}],
    ids=str,
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(values):
    with pytest.raises(LabError):
        SMALL.changed(**values)


def test_late_movement_is_zero_for_weights_already_pruned():
    dense, first, _ = rounds_of(SMALL)
    what = PruningContext(SMALL, None, first.mask, dense.start, first.early_stop, first.weights, 0)
    worth = scores_of("late_movement", what)
    assert all(not worth[name][~mask].any() for name, mask in first.mask.items())


# Costs of a run


def test_a_run_says_what_it_computed(tmp_path):
    run(SMALL, tmp_path, quiet=True)
    record = read_record(tmp_path)
    assert record["training_flops"] == 3 * 100 * 60 * 6 * 6464 and record["training_seconds"] > 0
    assert "energy" not in record


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_energy_is_metered_where_it_is_asked_for(tmp_path, monkeypatch):
    pytest.importorskip("codecarbon")
    monkeypatch.setenv("LTH_ENERGY", "1")
    run(SMALL.changed(rounds=0), tmp_path, quiet=True)
    found = read_record(tmp_path)["energy"]
    assert found["kwh"] > 0 and found["co2e_kg"] > 0 and found["basis"] in ("measured", "estimated")
    with energy.metered(found) as more:
        pass
    assert more["kwh"] > found["kwh"]  # the energy of several sessions adds up


def test_energy_asked_for_without_the_package_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("LTH_ENERGY", "1")
    monkeypatch.setitem(__import__("sys").modules, "codecarbon", None)
    with pytest.raises(LabError, match="pip install"):
        run(SMALL.changed(rounds=0), tmp_path, quiet=True)
    assert json.loads((tmp_path / "run.json").read_text())["trainings_done"] == 0


@pytest.mark.parametrize("name", ["movement_pruning/conv4_cifar10", "movement_pruning/lenet_mnist",
                                  "robust_training/lenet_mnist", "robust_training/lenet_mnist_slow",
                                  "structured_pruning/lenet_mnist"])  # fmt: skip
def test_variants_differ_in_what_they_name_alone_with_the_same_seeds_and_batches(name):
    path = project_root() / "params" / f"{name}.yaml"
    named = yaml.safe_load(path.read_text())["sweep"]
    first, *others = load_experiments(path, "paper")
    base = next(e.settings for e in (first, *others) if not named[e.variant.removeprefix(f"{path.stem}-")])
    data = Data(Split(torch.zeros(50_000, 1), torch.zeros(50_000)), None, None, "", classes=10)
    model = build(base, image_shape(base), 10)
    for experiment in (first, *others):
        values, s = named[experiment.variant.removeprefix(f"{path.stem}-")], experiment.settings
        changed = {key for key, value in s.model_dump().items() if value != getattr(base, key)}
        assert changed == {key for key, value in values.items() if value != getattr(base, key)}
        for trial in (0, 4):
            a, b = (begin(x, trial, 3, {"w.weight": torch.ones(1, 1)}) for x in (base, s))
            assert a.seed == b.seed
            assert torch.equal(epoch_batches(base, data, a, 0, 20), epoch_batches(s, data, b, 0, 20))
            if s.initialisation == base.initialisation:
                seed = seed_for(s.seed, "init", trial)
                one, other = (initial_weights(model, x, seed) for x in (base, s))
                assert all(torch.equal(one[key], other[key]) for key in one)
