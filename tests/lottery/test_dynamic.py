"""Dynamic pruning: the reported sparsity is the true one, to one weight per layer (0% if only gradients are masked)."""

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lthcore import masks
from lthcore.data.datasets import Data, load
from lthcore.errors import LabError
from lthcore.lottery import dynamic
from lthcore.lottery.dynamic import SCHEDULES, planned, prune_dynamically, sparsities, train_and_prune, update
from lthcore.lottery.start import begin
from lthcore.models.build import build
from lthcore.models.weights import initial_weights
from lthcore.pruning.allocation import prune_to
from lthcore.registry import MODELS
from lthcore.runs.checkpoints import load_state, load_ticket_file, save_state
from lthcore.runs.experiments import load_experiments
from lthcore.runs.files import read_record
from lthcore.runs.runner import run
from lthcore.seeds import seed_for
from lthcore.settings import DynamicSettings, Settings
from lthcore.training.engines import dense
from lthcore.training.loop import epoch_batches, learning_rate, train
from lthcore.training.parallel import train_cohort
from lthcore.training.state import Replicate, TrainState

SMALL = DynamicSettings(
    dataset="digits", architecture="mlp", validation=200, epochs=5, sparsity=0.85, trials=2, device="cpu",
    optimizer="sgd", learning_rate=0.1, momentum=0.9, weight_decay=5e-4, label_smoothing=0.1, schedule="cosine",
)  # fmt: skip
RIGL = SMALL.changed(sparsity_schedule="constant", regrowth="gradient", scope="layer")
STEPS = 20  # steps per epoch
WHICH = Replicate("dynamic", 0, 0, 0)


@pytest.fixture(scope="module")
def digits() -> Data:
    return load(SMALL)


def fresh(settings: DynamicSettings, data: Data, trial: int = 0) -> TrainState:
    weights = initial_weights(build(settings, data.shape, 10), settings, seed_for(0, "init", trial))
    return begin(settings, trial, 0, weights)


def trained(settings: DynamicSettings, data: Data) -> TrainState:
    state = fresh(settings, data)
    assert all(True for _ in train_and_prune(settings, data, [state]))
    return state


@pytest.fixture(scope="module")
def uninterrupted(digits) -> Callable[[DynamicSettings], TrainState]:
    """Function that returns the outcome of a training run that was not stopped, trained once for all tests."""
    return cache(partial(trained, data=digits))


def assert_alike(a: TrainState, b: TrainState) -> None:
    """Assert that two outcomes differ by rounding alone: in few weights of the mask, and little in the others."""
    for name, mask in a.mask.items():
        assert int((mask ^ b.mask[name]).sum()) <= 0.002 * mask.numel()
        both = mask & b.mask[name]
        torch.testing.assert_close(a.weights[name][both], b.weights[name][both], atol=2e-3, rtol=1e-2)


# The schedule


@pytest.mark.parametrize(
    ("schedule", "quarter", "middle"),
    [("linear", 0.2, 0.4), ("cubic", 0.4625, 0.7), ("cosine", 0.1171573, 0.4), ("constant", 0.8, 0.8)],
)
def test_a_schedule_starts_dense_rises_and_ends_at_the_target(schedule, quarter, middle):
    settings = SMALL.changed(sparsity=0.8, sparsity_schedule=schedule)
    due = sparsities(settings)
    assert list(due) == [0, 20, 40, 60, 80]  # the start of every epoch
    assert due[0] == (0.8 if schedule == "constant" else 0.0) and due[80] == 0.8
    assert (due[20], due[40]) == pytest.approx((quarter, middle))
    assert all(a <= b for a, b in pairwise(due.values()))


def test_the_last_update_is_before_the_first_step_of_the_last_epoch_that_begins():
    """This holds even if that epoch has a single step: an update precedes a step, so at least one step must follow."""
    assert [max(sparsities(SMALL.changed(epochs=0, iterations=n))) for n in (80, 81, 82)] == [60, 80, 80]
    assert sparsities(SMALL.changed(epochs=1)) == {0: 0.85}  # a single update reaches the target at once


@pytest.mark.parametrize(("epochs", "end"), [(30, 0.7733), (200, 0.796)])
def test_without_reach_sparsity_the_last_update_is_one_short_as_in_the_notebooks_this_study_takes_up(epochs, end):
    due = sparsities(SMALL.changed(epochs=epochs, sparsity=0.8, reach_sparsity=False))
    assert max(due.values()) == due[STEPS * (epochs - 1)] == pytest.approx(end, abs=1e-4)


def test_updates_come_as_often_as_asked_between_the_epochs_asked():
    due = sparsities(SMALL.changed(prune_from=1, prune_until=3, prune_every=15))
    assert list(due) == [20, 35, 50, 60] and due[20] == 0 and due[60] == SMALL.sparsity
    assert due[35] == pytest.approx(0.85 * 15 / 40)


@pytest.mark.parametrize(
    ("values", "key"),
    [({"prune_until": 5}, "prune_until"), ({"prune_from": 3, "prune_until": 2}, "prune_from"),
     ({"prunable": []}, "prunable"), ({"regrowth": "magnitude", "masking": "gradients"}, "regrowth"),
     ({"epochs": 2, "iterations": 7}, "iterations = 7"), ({"rounds": 3}, "rounds"), ({"sparsity": 1.0}, "sparsity"),
     ({"rewind_to": 1}, "rewind_to"), ({"rewired": 0.5}, "rewired"),
     ({"sparsity_schedule": "constant", "reach_sparsity": False}, "reach_sparsity")],
    ids=str,
)  # fmt: skip
def test_settings_that_make_no_sense_are_named(values, key):
    with pytest.raises(LabError, match=key):
        SMALL.changed(**values)


def test_the_order_of_prunable_kinds_does_not_make_another_run():
    assert SMALL.changed(prunable=["output", "fc", "conv", "fc", "shortcut"]).key == SMALL.key
    assert SMALL.changed(prunable=["output", "fc"]).key == SMALL.changed(prunable=["fc", "output"]).key != SMALL.key


def test_updates_come_when_they_are_due_though_no_evaluation_falls_on_them(digits):
    settings = SMALL.changed(prune_every=13)
    due, state, found = sparsities(settings), fresh(SMALL, digits), {}
    for _ in train_and_prune(settings, digits, [state]):
        found[state.iteration] = 1 - masks.percent_left(state.mask) / 100
    assert found.keys() == due.keys() | {0, 20, 40, 60, 80, 100}
    assert all(found[i] == pytest.approx(sparsity, abs=1e-3) for i, sparsity in due.items())


# Pruning as training goes


@pytest.mark.parametrize("scope", ["layer", "global", "erk"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_true_sparsity_is_the_target_to_one_weight_at_every_epoch(schedule, scope, digits):
    settings = SMALL.changed(sparsity_schedule=schedule, scope=scope)
    due, state = sparsities(settings), fresh(settings, digits)
    for _ in train_and_prune(settings, digits, [state]):
        target = due.get(state.iteration, settings.sparsity)
        sizes = {name: state.weights[name].numel() for name in state.mask}
        zeros = {name: int((state.weights[name] == 0).sum()) for name in state.mask}
        if scope == "layer":
            assert all(-1e-6 < target * sizes[name] - zeros[name] < 1 for name in sizes)
        assert -1e-6 < target * sum(sizes.values()) - sum(zeros.values()) < (1 if scope == "global" else len(sizes))
    assert state.curve[-1].percent_left == pytest.approx(15, abs=0.1)


@pytest.mark.parametrize("engine", ["auto", "dense"])
@pytest.mark.parametrize(
    "values",
    [{"weight_decay": 0.1}, {"optimizer": "adamw", "momentum": 0.0, "learning_rate": 1e-2, "weight_decay": 0.5},
     {"momentum": 0.99, "nesterov": True}],
    ids=["sgd, momentum, weight decay", "adamw", "nesterov"],
)  # fmt: skip
def test_nothing_under_the_mask_is_ever_other_than_zero(values, engine, digits):
    settings = SMALL.changed(**values, engine=engine, eval_every=10, prune_every=13)
    state = fresh(settings, digits)
    for _ in train_and_prune(settings, digits, [state]):
        assert masks.is_masked(state.weights, state.mask)
        slots = {key: t for key, t in state.optimizer.items() if not key.endswith("/step")}
        for key, tensor in slots.items():
            mask = state.mask.get(key.split("/")[0])
            assert mask is None or not tensor[~mask].any()
    assert slots


def test_without_regrowth_masks_are_nested_and_with_it_weights_come_back(digits):
    def all_masks(settings):
        state, found = fresh(settings, digits), []
        for _ in train_and_prune(settings, digits, [state]):
            found.append(state.mask)
        return found, state

    settings = SMALL.changed(weight_decay=0.02, epochs=10)
    found, _ = all_masks(settings)
    assert all(masks.is_nested(later, earlier) for earlier, later in pairwise(found))
    regrown, state = all_masks(settings.changed(regrowth="magnitude", sparsity_schedule="constant"))
    assert not all(masks.is_nested(later, earlier) for earlier, later in pairwise(regrown))
    assert {masks.weights_left(m) for m in regrown} == {masks.weights_left(found[-1])}
    assert masks.is_masked(state.weights, state.mask)


def test_a_weight_that_comes_back_has_the_value_it_was_pruned_at():
    mask = {"fc1.weight": torch.tensor([[True, True, False, True]])}
    state = TrainState(0, {"fc1.weight": torch.tensor([[0.3, 0.1, 0.0, 0.5]])}, mask, seed=0)
    state.remembered = {"fc1.weight": torch.tensor([[9.0, 9.0, -0.4, 9.0]])}
    update(SMALL.changed(regrowth="magnitude"), state, 0.5, ["fc1.weight"])
    assert state.weights["fc1.weight"].tolist() == [pytest.approx([0.0, 0.0, -0.4, 0.5])]
    assert state.remembered["fc1.weight"].tolist() == [pytest.approx([0.3, 0.1, -0.4, 0.5])]


@pytest.mark.parametrize("scope", ["layer", "global", "erk"])
def test_rigl_keeps_its_sparsity_exchanges_weights_and_starts_new_ones_at_zero(scope, digits):
    settings = RIGL.changed(scope=scope)
    state, before = fresh(settings, digits), None
    for _ in train_and_prune(settings, digits, [state]):
        assert masks.is_masked(state.weights, state.mask)
        total = sum(m.numel() for m in state.mask.values())
        assert 0 <= masks.weights_left(state.mask) - 0.15 * total < 4
        if before is not None and state.iteration in sparsities(settings):
            new = {name: m & ~before[name] for name, m in state.mask.items()}
            assert all(not state.weights[name][m].any() for name, m in new.items())
            assert all(not state.optimizer[f"{name}/momentum_buffer"][m].any() for name, m in new.items())
            if state.iteration == 20:
                exchanged = sum(int(m.sum()) for m in new.values()) / masks.weights_left(before)
                assert 0.1 < exchanged < 0.3  # of 26% that are pruned here, some are regrown at once
        before = state.mask


def rewired_at(
    iteration: int, digits: Data, monkeypatch, comes_back: bool, settings: DynamicSettings = RIGL
) -> tuple[TrainState, TrainState]:
    """Return a training state before and after RigL's update at an iteration.

    The dense gradient is replaced such that all weights that the update prunes are regrown at once, if `comes_back`, or
    none of them.
    """
    due, state = sparsities(settings), fresh(settings, digits)
    state.iteration = min(due)
    dynamic.rewire(settings, digits, state, due, dynamic.counted_in(settings, digits))
    state.optimizer = {f"{name}/momentum_buffer": m.float() for name, m in state.mask.items()}
    state.iteration = iteration
    before = replace(state)
    gradient = {name: -(m if comes_back else ~m).float() for name, m in state.mask.items()}
    monkeypatch.setattr(dynamic, "dense_gradient", lambda *_: gradient)
    dynamic.rewire(settings, digits, state, due, dynamic.counted_in(settings, digits))
    return before, state


@pytest.mark.parametrize(("iteration", "share"), [(20, 0.2560660), (40, 0.15), (60, 0.0439340), (80, 0.0)])
def test_the_share_that_rigl_exchanges_falls_by_a_cosine(iteration, share, digits, monkeypatch):
    """It is 0.3 (1 + cos(pi t / T)) / 2 in each layer, with T the last update (arXiv 1911.11134, section 3)."""
    before, after = rewired_at(iteration, digits, monkeypatch, comes_back=False)
    for name, m in before.mask.items():
        assert int((m & ~after.mask[name]).sum()) == math.floor(share * int(m.sum()))


def test_rigls_cosine_runs_from_its_first_update_to_its_last(digits, monkeypatch):
    before, after = rewired_at(40, digits, monkeypatch, False, RIGL.changed(prune_from=1))  # 20 + 60 / 3
    for name, m in before.mask.items():
        assert int((m & ~after.mask[name]).sum()) == math.floor(0.225 * int(m.sum()))


def test_rigl_drops_the_smallest_of_all_layers_where_they_are_ranked_together(digits, monkeypatch):
    before, after = rewired_at(40, digits, monkeypatch, False, RIGL.changed(scope="global"))
    size = {name: before.weights[name].abs() for name in before.mask}
    gone, kept = (
        torch.cat([size[n][m & (after.mask[n] if stays else ~after.mask[n])] for n, m in before.mask.items()])
        for stays in (False, True)
    )
    assert len(gone) == math.floor(0.15 * masks.weights_left(before.mask)) and gone.max() <= kept.min()


def test_a_weight_that_rigl_drops_and_takes_straight_back_stays_as_it_is(digits, monkeypatch):
    """As in the published code, only connections that were not there before start at zero."""
    before, after = rewired_at(40, digits, monkeypatch, comes_back=True)
    assert masks.equal(before.mask, after.mask)
    for name, m in before.mask.items():
        assert torch.equal(after.weights[name], before.weights[name])
        assert after.optimizer[f"{name}/momentum_buffer"][m].all()


def test_rigl_leaves_a_layer_alone_of_which_nothing_is_pruned(digits, monkeypatch):
    before, after = rewired_at(40, digits, monkeypatch, False, RIGL.changed(scope="erk", sparsity=0.5))
    whole = [name for name, m in before.mask.items() if m.all()]
    assert whole and len(whole) < len(before.mask)
    for name in before.mask:
        assert masks.equal({name: before.mask[name]}, {name: after.mask[name]}) == (name in whole)
        if name in whole:
            assert torch.equal(after.weights[name], before.weights[name])


def test_rigl_takes_back_the_weights_of_largest_gradient(digits):
    state = fresh(RIGL, digits)
    due = sparsities(RIGL)
    dynamic.rewire(RIGL, digits, state, due, dynamic.counted_in(RIGL, digits))
    before, state.iteration = state.mask, 20
    weights = {name: w.clone().requires_grad_(name in before) for name, w in state.weights.items()}
    batch = epoch_batches(RIGL, digits, state, 20, 21)[0]
    x = digits.train.images[batch].flatten(1)
    for layer in ("fc1", "fc2"):
        x = F.relu(x @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"])
    x = x @ weights["output.weight"].T + weights["output.bias"]
    F.cross_entropy(x, digits.train.labels[batch], label_smoothing=0.1).backward()
    found = dynamic.dense_gradient(RIGL, digits, state)  # of the training loss, which has label smoothing
    assert found.keys() == state.mask.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, weights[name].grad)
    noisy = dynamic.dense_gradient(RIGL.changed(dropout=0.5), digits, state)  # it is computed without dropout
    assert all(torch.equal(noisy[name], gradient) for name, gradient in found.items())
    dynamic.rewire(RIGL, digits, state, due, dynamic.counted_in(RIGL, digits))
    for name, m in state.mask.items():
        gradient, new = weights[name].grad.abs(), m & ~before[name]
        assert gradient[new].min() >= gradient[~m & ~before[name]].max() - 1e-6


def test_rigl_draws_its_first_mask_from_the_seed_and_leaves_other_layers_whole(digits, monkeypatch):
    settings, state = RIGL.changed(prunable=["fc"]), fresh(RIGL, digits)
    due, generator = sparsities(settings), torch.Generator().manual_seed(seed_for(state.seed, "rigl"))
    drawn = {name: torch.rand(m.shape, generator=generator) for name, m in state.mask.items()}
    expected = prune_to(drawn, state.mask, 0.85, ["fc1.weight", "fc2.weight"], "layer")
    dynamic.rewire(settings, digits, state, due, dynamic.counted_in(settings, digits))
    assert masks.equal(state.mask, expected) and masks.is_masked(state.weights, expected)
    state.iteration = 40
    dynamic.rewire(settings, digits, state, due, dynamic.counted_in(settings, digits))
    assert state.mask["output.weight"].all() and state.weights["output.weight"].all()
    assert not torch.equal(state.mask["fc1.weight"], expected["fc1.weight"])


@pytest.mark.parametrize("regrowth", ["none", "magnitude", "gradient"])
def test_a_training_that_diverged_is_left_as_it_is(regrowth, digits):
    settings, state = SMALL.changed(sparsity_schedule="constant", regrowth=regrowth), fresh(SMALL, digits)
    state.weights["fc1.bias"] = state.weights["fc1.bias"] * math.nan
    before = replace(state)
    if regrowth == "gradient":
        dynamic.rewire(settings, digits, state, sparsities(settings), dynamic.counted_in(settings, digits))
    else:
        update(settings, state, 0.85, dynamic.counted_in(settings, digits))
    assert state.mask is before.mask and state.weights is before.weights and state.optimizer is before.optimizer
    assert state.remembered is None


def test_a_network_with_a_gradient_that_is_no_number_is_left_to_diverge(digits):
    """Its weights are finite still, so that only the next step shows that it diverged."""
    state = fresh(RIGL, digits)
    due = sparsities(RIGL)
    dynamic.rewire(RIGL, digits, state, due, dynamic.counted_in(RIGL, digits))
    state.weights = {name: w * 1e15 for name, w in state.weights.items()}
    state.iteration, before = sorted(due)[1], state.mask
    assert not all(g.isfinite().all() for g in dynamic.dense_gradient(RIGL, digits, state).values())
    dynamic.rewire(RIGL, digits, state, due, dynamic.counted_in(RIGL, digits))
    assert state.mask is before and not state.diverged


def test_masking_gradients_alone_prunes_nothing_and_is_reported_so(digits, tmp_path):
    settings = SMALL.changed(masking="gradients", trials=1, epochs=20)
    state = trained(settings, digits)
    assert masks.percent_left(state.mask) == pytest.approx(15, abs=0.1)  # by the mask
    assert not masks.is_masked(state.weights, state.mask)
    assert state.curve[-1].percent_left == 100  # by the weights: none is zero
    rounds, curves = run(settings, tmp_path, quiet=True)
    assert rounds["percent_left"].item() == 100 and set(curves["percent_left"]) == {100}


@pytest.mark.parametrize("engine", ["dense", "stack"])
def test_masking_gradients_means_the_same_to_every_engine(engine, digits):
    settings = SMALL.changed(masking="gradients", epochs=3)
    plain, other = (trained(settings.changed(engine=name), digits) for name in ("auto", engine))
    assert_alike(other, plain)


def test_all_at_once_at_the_start_is_sparse_from_the_start(digits):
    settings = SMALL.changed(sparsity_schedule="constant", eval_every=10)
    state = fresh(settings, digits)
    for _ in train_and_prune(settings, digits, [state]):
        assert masks.is_masked(state.weights, state.mask)
    assert masks.is_masked(state.early_stop, state.mask)
    assert state.curve[0].percent_left == 100 and state.curve[1].percent_left == pytest.approx(15, abs=0.1)


def test_a_trial_that_diverges_is_recorded_and_the_others_go_on(tmp_path):
    settings = SMALL.changed(optimizer="sgd", learning_rate=1e6, momentum=0.0, schedule="constant")
    rounds, _ = run(settings, tmp_path, quiet=True)
    assert list(rounds["diverged"]) == [True, True] and read_record(tmp_path)["trainings_diverged"] == 2


def test_only_the_layers_asked_for_are_pruned_and_counted(digits):
    state = trained(SMALL.changed(prunable=["fc"]), digits)
    left = masks.counts(state.mask)
    assert left["output.weight"] == 320 and left["fc1.weight"] + left["fc2.weight"] == math.ceil(
        0.15 * (64 * 64 + 64 * 32)
    )


def test_it_equals_a_plain_pytorch_loop(digits):
    settings = SMALL.changed(engine="dense")
    ours, model = trained(settings, digits), build(settings, digits.shape, 10)
    state = fresh(settings, digits)
    model.load_state_dict(state.weights)
    matrices = [p for p in model.parameters() if p.ndim == 2]
    kept = [torch.ones_like(p) for p in matrices]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    total = sum(p.numel() for p in matrices)
    for i in range(settings.iterations):
        if i % STEPS == 0:
            sizes = torch.cat([p.detach().abs().flatten() for p in matrices])
            gone = int(0.85 * (i / STEPS) / 4 * total + 1e-9)
            order = sizes.argsort(stable=True)
            flat = torch.ones(total)
            flat[order[:gone]] = 0
            kept = [
                part.view_as(p) for part, p in zip(flat.split([p.numel() for p in matrices]), matrices, strict=True)
            ]
            for p, m in zip(matrices, kept, strict=True):
                p.data *= m
                if optimizer.state[p]:
                    optimizer.state[p]["momentum_buffer"] *= m
        batch = epoch_batches(settings, digits, state, i, i + 1)[0]
        optimizer.param_groups[0]["lr"] = learning_rate(settings, i)
        optimizer.zero_grad()
        F.cross_entropy(model(digits.train.images[batch]), digits.train.labels[batch], label_smoothing=0.1).backward()
        for p, m in zip(matrices, kept, strict=True):
            p.grad *= m
        optimizer.step()
        for p, m in zip(matrices, kept, strict=True):
            p.data *= m
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(ours.weights[name], weight, atol=1e-5, rtol=1e-4)


def test_at_sparsity_0_it_is_plain_training(digits):
    settings = SMALL.changed(sparsity=0.0)
    pruned, plain = trained(settings, digits), fresh(settings, digits)
    assert all(True for _ in train(settings, digits, plain))
    assert all(torch.equal(w, pruned.weights[name]) for name, w in plain.weights.items())


def test_the_early_stop_is_at_the_final_sparsity(digits):
    state = trained(SMALL.changed(prune_until=3, eval_every=10), digits)
    assert state.early_stop_point.iteration > 60  # the last update is at iteration 60, after three epochs
    assert masks.is_masked(state.early_stop, state.mask)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"regrowth": "magnitude"},
        {"regrowth": "magnitude", "sparsity_schedule": "constant", "weight_decay": 0.02},  # many weights are regrown
        {"masking": "gradients"},
        {"sparsity_schedule": "constant"},
        {"sparsity_schedule": "constant", "regrowth": "gradient"},
    ],
    ids=str,
)
@pytest.mark.parametrize("at", [0, 13, 20, 40, 95])
def test_resumed_equals_uninterrupted_bit_for_bit(values, at, digits, uninterrupted, tmp_path):
    settings = SMALL.changed(prune_every=13, **values)
    whole, state = uninterrupted(settings), fresh(settings, digits)
    for _ in train_and_prune(settings, digits, [state]):
        if state.iteration >= at:
            break
    save_state(tmp_path / "half.safetensors", settings, WHICH, state)
    state, _, _ = load_state(tmp_path / "half.safetensors")
    assert all(True for _ in train_and_prune(settings, digits, [state]))
    assert state.curve == whole.curve and masks.equal(state.mask, whole.mask)
    assert all(torch.equal(w, whole.weights[name]) for name, w in state.weights.items())


@pytest.mark.parametrize("architecture", ["mlp", "conv2"])
def test_a_mask_changed_in_place_equals_a_new_engine(architecture, digits, monkeypatch):
    """On a GPU masks are changed in place, because a new engine would need a new CUDA graph."""
    settings = SMALL.changed(engine="dense", epochs=3, prune_every=9, architecture=architecture, widths=(16,))
    anew = trained(settings, digits)
    monkeypatch.setattr(dense, "IN_PLACE", ("cpu",))
    built, make = [], dense.Dense.__init__
    monkeypatch.setattr(dense.Dense, "__init__", lambda self, *args: (built.append(1), make(self, *args))[1])
    in_place = trained(settings, digits)
    assert len(built) == 2  # one as long as nothing is pruned, and one from then on
    assert all(torch.equal(w, in_place.weights[name]) for name, w in anew.weights.items())


def test_replicates_in_step_equal_the_same_alone(digits):
    settings = SMALL.changed(engine="stack", epochs=3)
    together = prune_dynamically(
        settings, digits, lambda cohort: dict(train_cohort(settings, digits, cohort, trainer=train_and_prune))
    )
    for replicate, state in next(together).items():
        alone = fresh(settings.changed(engine="dense"), digits, replicate.trial)
        assert all(True for _ in train_and_prune(settings.changed(engine="dense"), digits, [alone]))
        assert_alike(state, alone)


# Runs


def test_a_run_has_a_row_for_each_trial_and_its_curve_shows_the_sparsity_rise(digits, tmp_path):
    rounds, curves = run(SMALL, tmp_path, quiet=True)
    assert len(planned(SMALL)) == len(rounds) == 2 and set(rounds["arm"]) == {"dynamic"}
    left = curves[curves["trial"] == 0].set_index("iteration")["percent_left"]
    assert left[0] == left[20] == 100 and left[40] == pytest.approx(100 - 85 / 4, abs=0.1)
    assert left[100] == pytest.approx(15, abs=0.1) == rounds["percent_left"][0]
    record = read_record(tmp_path)
    assert record["complete"] and record["settings"]["sparsity"] == 0.85
    ticket = load_ticket_file(tmp_path / "tickets" / "dynamic-trial0-draw0-round00.safetensors")
    assert ticket.settings == SMALL and masks.is_masked(ticket.final, ticket.mask)


def test_a_run_stopped_at_its_time_limit_goes_on_to_the_same_tables(tmp_path, in_parts):
    whole, _ = run(SMALL, tmp_path / "whole", quiet=True)
    rounds = in_parts(SMALL, tmp_path / "parts")
    kept = [column for column in whole if column != "seconds"]
    assert rounds[kept].equals(whole[kept])


def test_a_params_file_of_this_study_takes_its_settings(tmp_path):
    path = tmp_path / "dynamic_pruning" / "a.yaml"
    path.parent.mkdir()
    path.write_text("sparsity: 0.9\nepochs: 2\ndataset: digits\nvalidation: 100\nprofiles: {cpu: {}}")
    (experiment,) = load_experiments(path)
    assert isinstance(experiment.settings, DynamicSettings) and experiment.settings.iterations == 2 * 22
    assert experiment.settings.key != Settings(dataset="digits").key
    path.write_text("sparsty: 0.9\nprofiles: {cpu: {}}")
    with pytest.raises(LabError, match="did you mean 'sparsity'"):
        load_experiments(path)


def shaped(*_: object) -> nn.Module:
    """Return a network with a norm whose weight is a matrix, and an activation whose weight is a vector."""
    return nn.Sequential(
        OrderedDict(norm=nn.LayerNorm([8, 8]), flatten=nn.Flatten(), prelu=nn.PReLU(64), output=nn.Linear(64, 10))
    )


@pytest.mark.parametrize("decay_norms", [False, True])
@pytest.mark.parametrize(("architecture", "shape"), [("resnet20", (3, 8, 8)), ("shaped", (1, 8, 8))])
def test_weight_decay_leaves_norms_alone_unless_asked(architecture, shape, decay_norms, monkeypatch):
    monkeypatch.setitem(MODELS, "shaped", shaped)
    settings = SMALL.changed(architecture=architecture, decay_norms=decay_norms, momentum=0.0, weight_decay=0.1)
    model = build(settings, shape, 10)
    ones = {name: torch.ones_like(tensor) for name, tensor in model.state_dict().items()}
    start = begin(settings, 0, 0, ones, masks.full_mask(model))
    engine = dense.Dense(settings, model, torch.device("cpu"), [start])
    for parameter in engine.parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    engine.optimizer.step()
    for name, parameter in engine.parameters.items():
        decayed = decay_norms or "norm" not in name
        assert parameter.flatten()[0].item() == pytest.approx(0.99 if decayed else 1.0)


def test_an_update_prunes_to_the_sparsity_it_is_given_and_a_lower_one_prunes_nothing(digits):
    state = fresh(SMALL, digits)
    counted = dynamic.counted_in(SMALL, digits)
    dynamic.update(SMALL, state, 0.3, counted)
    assert masks.percent_left(state.mask) == pytest.approx(70, abs=0.05)
    dynamic.update(SMALL, state, 0.1, counted)  # a target below the current sparsity prunes nothing
    assert masks.percent_left(state.mask) == pytest.approx(70, abs=0.05)


def test_rigls_gradient_on_a_cpu_leaves_the_generators_of_gpus_alone(digits, monkeypatch):
    def seed_all(seed: int) -> None:
        raise AssertionError("the generators of GPUs are seeded")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", seed_all)
    before = torch.get_rng_state()
    dynamic.dense_gradient(RIGL, digits, fresh(RIGL, digits))
    assert torch.equal(torch.get_rng_state(), before)


def test_rigls_gradient_is_that_of_augmented_images(digits, monkeypatch):
    settings, state = RIGL.changed(augment=["rotation"]), fresh(RIGL, digits)
    again = [dynamic.dense_gradient(settings, digits, state)["fc1.weight"] for _ in range(2)]
    assert torch.equal(*again)
    assert not torch.equal(again[0], dynamic.dense_gradient(RIGL, digits, state)["fc1.weight"])
    monkeypatch.setattr(dynamic, "augment", lambda images, *_: torch.zeros_like(images))
    assert not dynamic.dense_gradient(settings, digits, state)["fc1.weight"].any()


@pytest.mark.parametrize("regrowth", ["magnitude", "gradient"])
def test_training_accuracy_at_the_early_stop_is_that_of_its_own_mask(regrowth, digits):
    """With regrowth the mask may move on after the early stop, whose weights then lie outside the last mask."""
    settings = SMALL.changed(
        regrowth=regrowth, sparsity=0.9, sparsity_schedule="constant", epochs=40, batch_size=60, learning_rate=0.3,
        schedule="constant", weight_decay=0.0, label_smoothing=0.0, seed=3,
    )  # fmt: skip
    data = load(settings)
    state = trained(settings, data)
    assert not masks.is_masked(state.early_stop, state.mask)
    model = build(settings, data.shape, data.classes)
    model.load_state_dict(state.early_stop)
    [(_, accuracy)] = dense.evaluate(model, data.train)
    assert state.early_stop_train_accuracy == pytest.approx(accuracy, abs=1e-9)


def test_under_masked_gradients_every_weight_can_come_back_by_its_size():
    """As in the notebooks that this study takes up, whose masks are drawn anew from all weights at each update."""
    mask = {"fc1.weight": torch.tensor([[True, False, True, False]])}
    state = TrainState(0, {"fc1.weight": torch.tensor([[0.3, 0.9, 0.1, -0.2]])}, mask, seed=0)
    update(SMALL.changed(masking="gradients"), state, 0.5, ["fc1.weight"])
    assert state.mask["fc1.weight"].tolist() == [[True, True, False, False]]
    assert state.weights["fc1.weight"].tolist() == [pytest.approx([0.3, 0.9, 0.1, -0.2])]
