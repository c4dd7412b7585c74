"""Replicates trained in step, stacked along a tensor dimension, equal replicates trained alone up to rounding."""

import copy

import numpy as np
import pytest
import torch

from lthcore import masks
from lthcore.data.datasets import load
from lthcore.errors import LabError
from lthcore.lottery.search import find_tickets
from lthcore.lottery.start import begin
from lthcore.models.build import build
from lthcore.models.weights import initial_weights
from lthcore.settings import Settings
from lthcore.training.engines.stack import Stack
from lthcore.training.loop import engine_for, train, train_in_step
from lthcore.training.parallel import train_cohort
from lthcore.training.state import Evaluation, Replicate

BASE = Settings(
    dataset="digits", architecture="mlp", validation=200, iterations=30, eval_every=10, learning_rate=2e-3,
    device="cpu", engine="stack",
)  # fmt: skip
RECIPES = {
    "adam": {},
    "sgd": {"optimizer": "sgd", "learning_rate": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3},
    "adamw, clipping": {"optimizer": "adamw", "weight_decay": 0.1, "clip_norm": 0.3},
    "dropout": {"dropout": 0.3},
    "augmentation": {"augment": ("crop", "rotation")},
    "smoothing, cosine": {"label_smoothing": 0.1, "schedule": "cosine", "warmup": 5},
    "no validation": {"validation": 0},
    "rewind": {"rewind_to": 7},
}


def cohort_of(settings, size=3):
    """Return data and a cohort whose replicates have different seeds, weights and masks; the first one is dense."""
    data = load(settings)
    model = build(settings, data.shape, 10)
    cohort = {}
    for k in range(size):
        weights = initial_weights(model, settings, k)
        mask = masks.full_mask(weights)
        generator = torch.Generator().manual_seed(k)
        if k:
            mask = {name: torch.rand(m.shape, generator=generator) < 0.5 for name, m in mask.items()}
        cohort[k] = begin(settings, k, 0, weights, mask)
    return data, cohort


def assert_close(a, b):
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=2e-6)


def test_a_replicate_that_never_had_a_finite_loss_does_not_take_the_early_stop_of_others():
    data, cohort = cohort_of(BASE, size=2)
    cohort[1].weights["fc1.weight"].fill_(float("nan"))
    trained = dict(train_cohort(BASE, data, cohort))
    assert trained[0].early_stop_train_accuracy > 0.1 and trained[0].early_stop_point.iteration > 0
    assert trained[1].early_stop is None and np.isnan(trained[1].early_stop_train_accuracy)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_in_step_equals_alone(recipe):
    settings = BASE.changed(**recipe)
    data, cohort = cohort_of(settings)
    assert isinstance(engine_for(settings, data, list(cohort.values())), Stack)
    together = dict(train_cohort(settings, data, copy.deepcopy(cohort)))
    for key, state in cohort.items():
        *_, alone = train(settings.changed(engine="dense"), data, state)
        one = together[key]
        assert_close(one.weights, alone.weights)
        assert_close(one.optimizer, alone.optimizer)
        if settings.validation:
            assert_close(one.early_stop, alone.early_stop)
        if settings.rewind_to:
            assert_close(one.rewind, alone.rewind)
        assert [p.iteration for p in one.curve] == [p.iteration for p in alone.curve]
        for p, q in zip(one.curve, alone.curve, strict=True):
            assert p.test_loss == pytest.approx(q.test_loss, rel=1e-4)
            assert p.test_accuracy == pytest.approx(q.test_accuracy, abs=1.5 / len(data.test.labels))
        assert one.final_train_accuracy == pytest.approx(alone.final_train_accuracy, abs=0.002)
        assert masks.is_masked(one.weights, one.mask)


def test_in_bfloat16_replicates_are_evaluated_in_bfloat16_together_as_alone():
    """As in `Dense`, products are in bfloat16, and the loss is computed from their results in float32."""
    settings = BASE.changed(precision="bfloat16")
    data, cohort = cohort_of(settings)

    def losses(settings: Settings, states: list) -> list[float]:
        found = engine_for(settings, data, copy.deepcopy(states)).evaluate(*data.splits.values())
        return [loss for replicate in found for loss, _ in replicate]

    states = list(cohort.values())
    together, exact = losses(settings, states), losses(settings.changed(precision="float32"), states)
    alone = [loss for state in states for loss in losses(settings.changed(engine="dense"), [state])]
    assert together == pytest.approx(alone, rel=1e-3)  # another order of summation rounds differently
    assert together == pytest.approx(exact, rel=2e-2) and together != pytest.approx(exact, rel=1e-6)


def test_every_parameter_carries_a_leading_replicate_dimension():
    data, cohort = cohort_of(BASE)
    engine = engine_for(BASE, data, list(cohort.values()))
    shapes = {name: tuple(w.shape) for name, w in cohort[0].weights.items()}
    assert {name: tuple(p.shape) for name, p in engine.parameters.items()} == {n: (3, *s) for n, s in shapes.items()}


def test_stopped_in_step_goes_on_alone_and_the_other_way_round():
    settings = BASE.changed(dropout=0.2)
    data, cohort = cohort_of(settings)
    whole = dict(train_cohort(settings, data, copy.deepcopy(cohort)))
    half = dict(train_cohort(settings, data, copy.deepcopy(cohort), lambda key, state: state.iteration < 10))
    assert all(state.iteration == 10 for state in half.values())
    for key, state in copy.deepcopy(half).items():
        *_, alone = train(settings.changed(engine="dense"), data, state)
        assert_close(alone.weights, whole[key].weights)
    again = dict(train_cohort(settings, data, half))
    assert all(torch.equal(again[k].weights[n], whole[k].weights[n]) for k in whole for n in whole[k].weights)


def test_a_deadline_between_two_replicates_saves_all_of_them_at_one_iteration():
    data, cohort = cohort_of(BASE)
    calls, saved = [], {}

    def go_on(key, state):
        calls.append(key)
        late = len(calls) > 2 * len(cohort) + 1  # after the first replicate's second answer
        if late:
            saved[key] = state.iteration
        return not late

    for _ in train_cohort(BASE, data, cohort, go_on):
        pass
    assert saved.keys() == cohort.keys() and len(set(saved.values())) == 1


def test_replicates_at_different_iterations_are_not_mixed():
    data, cohort = cohort_of(BASE)
    *_, cohort[1] = train(BASE.changed(engine="dense", iterations=20), data, cohort[1])
    outcomes = dict(train_cohort(BASE, data, cohort))
    assert {state.iteration for state in outcomes.values()} == {30}


def trained_together(data, cohort):
    """Return the keys of the replicates that are trained in step, group by group."""
    together, key_of = [], {state.seed: key for key, state in cohort.items()}

    def note(settings, data, states):
        together.append([key_of[state.seed] for state in states])
        return iter(())

    dict(train_cohort(BASE, data, cohort, trainer=note))
    return together


def test_replicates_whose_optimizers_are_at_other_steps_are_not_mixed():
    """A stack has one step count, but a new optimizer needs another bias correction than a continued one."""
    data, cohort = cohort_of(BASE, 4)
    for key, steps in ((1, 1.0), (2, 0.0), (3, 1.0)):
        cohort[key].optimizer = {"fc1.weight/step": torch.tensor(steps)}
    assert trained_together(data, cohort) == [[0], [2], [1, 3]]


def test_fine_tuned_and_evaluated_replicates_are_not_mixed_with_others():
    """A stack has one learning rate for all, which is lower in fine-tuning, and evaluates all at once."""
    data, cohort = cohort_of(BASE, 4)
    cohort[1].fine_tuned = cohort[3].fine_tuned = True
    cohort[2].curve = [Evaluation(0, 1.0, 0.5, 1.0, 0.5, 50.0)]
    assert trained_together(data, cohort) == [[2], [0], [1, 3]]


def test_the_whole_experiment_in_step_gives_the_same_tickets():
    settings = BASE.changed(arms=("ticket", "reinit", "random", "oneshot"), trials=2, rounds=2, reinit_draws=2)
    data = load(settings)
    stacked = list(find_tickets(settings, data))
    alone = list(find_tickets(settings.changed(engine="dense"), data))
    for a, b in zip(stacked, alone, strict=True):
        assert a.keys() == b.keys()
        for replicate in a:
            differing = sum(int((a[replicate].mask[n] ^ b[replicate].mask[n]).sum()) for n in a[replicate].mask)
            assert differing <= 2  # a weight at the threshold may fall on either side of it
            assert a[replicate].curve[-1].test_loss == pytest.approx(b[replicate].curve[-1].test_loss, rel=1e-2)
    assert Replicate("reinit", 1, 1, 2) in stacked[2]


def test_a_stack_that_does_not_fit_is_halved_from_where_it_began_and_says_so(monkeypatch, capsys):
    data, cohort = cohort_of(BASE, 5)
    together = dict(train_cohort(BASE, *cohort_of(BASE, 5)))
    tried = []

    def greedy(settings, data, states, pauses=()):
        tried.append(len(states))
        steps = train_in_step(settings, data, states, pauses)
        next(steps)
        next(steps)  # memory runs out midway
        if len(states) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        yield from steps

    found = dict(train_cohort(BASE, data, cohort, trainer=greedy))
    assert tried == [5, 2, 2, 1]
    assert "5 networks do not fit the GPU's memory; 2 at a time now" in capsys.readouterr().err
    for key, state in found.items():
        assert state.iteration == BASE.iterations and [p.iteration for p in state.curve] == [0, 10, 20, 30]
        assert_close(state.weights, together[key].weights)

    def hungry(settings, data, states, pauses=()):
        raise torch.OutOfMemoryError("CUDA out of memory")
        yield

    with pytest.raises(LabError, match="lower batch_size"):
        dict(train_cohort(BASE, *cohort_of(BASE, 2), trainer=hungry))
