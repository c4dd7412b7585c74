"""The experiment: the weights and mask that each arm starts from, and that all arms train on the same batches."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from lthcore import masks
from lthcore.data.datasets import Data, load
from lthcore.errors import LabError
from lthcore.lottery.checks import check_settings
from lthcore.lottery.search import Cohort, find_tickets, planned, train_in_memory
from lthcore.lottery.start import Trial, begin, check_rewound
from lthcore.models.build import build
from lthcore.models.weights import Weights, initial_weights
from lthcore.runs.runner import run
from lthcore.seeds import seed_for
from lthcore.settings import DynamicSettings, Settings, TransferSettings
from lthcore.training.loop import train
from lthcore.training.parallel import train_cohort
from lthcore.training.state import Replicate

ARMS = (
    "ticket",
    "reinit",
    "random",
    "oneshot",
    "oneshot_reinit",
    "continued",
    "continued_reset",
    "resampled",
    "noise_1",
    "noise_3",
)
SMALL = Settings(
    dataset="digits", architecture="mlp", validation=200, iterations=100, eval_every=50,
    arms=ARMS, trials=2, reinit_draws=2, random_draws=2, rounds=3, prune_fc=0.3, prune_output=0.15,
)  # fmt: skip
LAYERS = {"fc1.weight": (64 * 64, 0.3), "fc2.weight": (64 * 32, 0.3), "output.weight": (32 * 10, 0.15)}


@pytest.fixture(scope="module")
def digits() -> Data:
    return load(SMALL)


def outcomes_of(settings: Settings, data: Data) -> Cohort:
    """Return the outcomes of all training runs of an experiment, trained one after another in this process."""
    cohorts = find_tickets(settings, data, lambda cohort: dict(train_cohort(settings, data, cohort, workers=1)))
    return {replicate: state for cohort in cohorts for replicate, state in cohort.items()}


@pytest.fixture(scope="module")
def found(digits) -> Cohort:
    return outcomes_of(SMALL, digits)


def theta_0(trial: int) -> Weights:
    model = build(SMALL, (1, 8, 8), 10)
    return initial_weights(model, SMALL, seed_for(SMALL.seed, "init", trial))


def of(found: Cohort, arm: str) -> list[tuple[Replicate, object]]:
    return [(r, state) for r, state in found.items() if r.arm == arm]


def ticket_of(found: Cohort, replicate: Replicate):
    """Return the ticket that a replicate is compared with: the one of the same trial and round."""
    return found[Replicate("ticket", replicate.trial, 0, replicate.round)]


def assert_equal(a: Weights, b: Weights) -> None:
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_ticket_starts_every_round_at_mask_times_initial_weights(found):
    for replicate, state in of(found, "ticket"):
        assert_equal(state.start, masks.apply(state.mask, theta_0(replicate.trial)))
        assert state.curve[0].iteration == 0


def test_round_0_is_the_dense_network(found):
    for trial in range(SMALL.trials):
        dense = found[Replicate("ticket", trial, 0, 0)]
        assert masks.percent_left(dense.mask) == 100
        assert_equal(dense.start, theta_0(trial))


@pytest.mark.parametrize("arm", ["ticket", "oneshot", "continued"])
def test_masks_are_nested_along_the_rounds(arm, found):
    for replicate, state in of(found, arm):
        if replicate.round > 0:
            before = replicate._replace(round=replicate.round - 1)
            outer = found[before if before in found else before._replace(arm="ticket")]
            assert masks.is_nested(state.mask, outer.mask)
            assert not masks.equal(state.mask, outer.mask)


@pytest.mark.parametrize("arm", ARMS)
def test_each_round_leaves_as_many_weights_in_each_layer_as_the_formula_says(arm, found):
    for replicate, state in of(found, arm):
        for name, (left, rate) in LAYERS.items():
            for _ in range(replicate.round):
                left -= math.floor(rate * left)
            assert masks.counts(state.mask)[name] == left
            assert state.weights[name].count_nonzero() <= left


def test_ticket_keeps_the_largest_weights_of_the_training_before(found):
    for replicate, state in of(found, "ticket"):
        if replicate.round == 0:
            continue
        before = found[replicate._replace(round=replicate.round - 1)]
        for name, mask in state.mask.items():
            size, dropped = before.weights[name].abs(), before.mask[name] & ~mask
            assert size[mask].min() >= size[dropped].max()


def test_reinit_has_the_tickets_mask_and_fresh_weights(found):
    for replicate, state in of(found, "reinit"):
        ticket = ticket_of(found, replicate)
        assert masks.equal(state.mask, ticket.mask)
        for name, mask in state.mask.items():
            assert not (state.start[name] == ticket.start[name])[mask].any()
            drawn = theta_0(replicate.trial)[name].std().item()
            assert state.start[name][mask].std().item() == pytest.approx(drawn, rel=0.25)
    assert len({state.start["fc1.weight"].sum().item() for _, state in of(found, "reinit")}) == 2 * 2 * 3


def test_random_has_the_tickets_counts_another_mask_and_the_initial_weights(found):
    for replicate, state in of(found, "random"):
        ticket = ticket_of(found, replicate)
        assert masks.counts(state.mask) == masks.counts(ticket.mask)
        assert not masks.equal(state.mask, ticket.mask)
        assert_equal(state.start, masks.apply(state.mask, theta_0(replicate.trial)))
    assert len({tuple(state.mask["fc1.weight"].flatten().tolist()) for _, state in of(found, "random")}) == 2 * 2 * 3


def test_oneshot_has_the_tickets_counts_chosen_by_the_dense_network_and_the_initial_weights(found):
    for replicate, state in of(found, "oneshot"):
        dense = found[Replicate("ticket", replicate.trial, 0, 0)]
        assert masks.counts(state.mask) == masks.counts(ticket_of(found, replicate).mask)
        for name, mask in state.mask.items():
            size = dense.weights[name].abs()
            assert size[mask].min() >= size[~mask].max()
        assert_equal(state.start, masks.apply(state.mask, theta_0(replicate.trial)))
    later = [(r, state) for r, state in of(found, "oneshot") if r.round > 1]
    assert not any(masks.equal(state.mask, ticket_of(found, r).mask) for r, state in later)


def test_oneshot_reinit_has_the_oneshot_mask_and_the_weights_of_reinit(found):
    for replicate, state in of(found, "oneshot_reinit"):
        assert masks.equal(state.mask, found[replicate._replace(arm="oneshot", draw=0)].mask)
        reinit = found[replicate._replace(arm="reinit")]
        both = {name: state.mask[name] & reinit.mask[name] for name in state.mask}
        assert_equal(masks.apply(both, state.start), masks.apply(both, reinit.start))


def test_continued_goes_on_from_the_trained_weights(found):
    for replicate, state in of(found, "continued"):
        before = replicate._replace(round=replicate.round - 1)
        previous = found[before if before in found else before._replace(arm="ticket")]
        assert_equal(state.start, masks.apply(state.mask, previous.weights))


def test_continued_reset_has_the_mask_of_continued_training_and_initial_weights(found):
    for replicate, state in of(found, "continued_reset"):
        assert masks.equal(state.mask, found[replicate._replace(arm="continued")].mask)
        assert_equal(state.start, masks.apply(state.mask, theta_0(replicate.trial)))


def test_resampled_draws_from_the_initial_weights_that_survive(found):
    """The paper's Figure 17: the ticket's mask, with each layer's weights drawn from the ticket's starting weights."""
    for replicate, state in of(found, "resampled"):
        ticket = ticket_of(found, replicate)
        assert masks.equal(state.mask, ticket.mask)
        for name, m in state.mask.items():
            own, drawn = ticket.start[name][m], state.start[name][m]
            assert torch.isin(drawn, own).all() and not torch.equal(drawn, own)
    first, second = (found[Replicate("resampled", 0, draw, 1)] for draw in (0, 1))
    assert not torch.equal(first.start["fc1.weight"], second.start["fc1.weight"])


@pytest.mark.parametrize(("arm", "sigmas"), [("noise_1", 1.0), ("noise_3", 3.0)])
def test_noise_is_of_so_many_standard_deviations_of_each_layer(arm, sigmas, found):
    for replicate, state in of(found, arm):
        ticket = ticket_of(found, replicate)
        assert masks.equal(state.mask, ticket.mask)
        for name, m in state.mask.items():
            noise = (state.start[name] - ticket.start[name])[m] / theta_0(replicate.trial)[name].std()
            assert float(noise.std()) == pytest.approx(sigmas, rel=4 / math.sqrt(int(m.sum())))
        assert all(torch.equal(state.start[n], t) for n, t in ticket.start.items() if n.endswith("bias"))


def test_tickets_of_a_network_with_batch_norms_rewind_those_too(digits):
    settings = SMALL.changed(
        architecture="resnet20", arms=["ticket"], trials=1, rounds=1, iterations=4, eval_every=4, scope="global",
        prune_conv=0.2, prune_output=0.0,
    )  # fmt: skip
    found = outcomes_of(settings, digits)
    dense, ticket = (found[Replicate("ticket", 0, 0, k)] for k in (0, 1))
    assert not torch.equal(dense.weights["norm.running_mean"], dense.start["norm.running_mean"])
    assert not torch.equal(dense.weights["norm.weight"], dense.start["norm.weight"])
    assert_equal(ticket.start, masks.apply(ticket.mask, dense.start))
    assert ticket.mask["output.weight"].all() and ticket.mask["stage2_block1.shortcut.weight"].all()
    prunable = sum(m.numel() for n, m in ticket.mask.items() if "shortcut" not in n and n != "output.weight")
    assert masks.weights_left(dense.mask) - masks.weights_left(ticket.mask) == math.floor(0.2 * prunable)


def test_oneshot_under_global_scope_leaves_as_many_weights_as_the_ticket(digits):
    settings = SMALL.changed(scope="global", prune_output=0.0, trials=1, arms=["ticket", "oneshot"])
    found = outcomes_of(settings, digits)
    for replicate, state in of(found, "oneshot"):
        assert masks.weights_left(state.mask) == masks.weights_left(ticket_of(found, replicate).mask)
        assert state.mask["output.weight"].all()


def test_all_arms_of_a_trial_and_round_train_on_the_same_batches(found):
    seeds = {(r.trial, r.round): set() for r in found}
    for replicate, state in found.items():
        seeds[replicate.trial, replicate.round].add(state.seed)
    assert all(len(s) == 1 for s in seeds.values())
    assert len(set.union(*seeds.values())) == len(seeds)  # other trials and rounds have other batches


def test_rewound_ticket_starts_far_below_the_accuracy_it_was_trained_to(found):
    """Rewound tickets start far below the accuracy of the trained dense network: they were really rewound.

    The mask alone lifts them above chance (the supermask effect, arXiv 1905.01067), more so in later rounds, so the
    margin is smaller there.
    """
    for replicate, state in of(found, "ticket"):
        trained = found[Replicate("ticket", replicate.trial, 0, 0)].curve[-1].test_accuracy
        assert trained > 0.8
        assert state.curve[-1].test_accuracy > 0.8
        assert state.curve[0].test_accuracy < trained - (0.4 if replicate.round <= 1 else 0.15)
    for _, state in of(found, "reinit"):
        assert state.curve[0].test_accuracy < 0.3  # chance is 0.1
    for replicate, state in of(found, "continued"):  # not rewound: shows that this test could fail
        assert replicate.round > 1 or state.curve[0].test_accuracy > 0.8


def test_experiment_is_a_function_of_its_settings(found, digits):
    again = outcomes_of(SMALL.changed(trials=1, arms=["ticket", "random"]), digits)
    assert again.keys() < found.keys()  # fewer trials and arms do not change the others
    for replicate, state in again.items():
        assert repr(state.curve) == repr(found[replicate].curve)
        assert_equal(state.weights, found[replicate].weights)


def test_more_trials_draws_and_rounds_leave_the_earlier_outcomes_as_they_are(found, digits):
    more = outcomes_of(SMALL.changed(trials=3, reinit_draws=3, rounds=4, arms=["ticket", "reinit"]), digits)
    both = more.keys() & found.keys()
    assert len(both) == len(of(found, "ticket")) + len(of(found, "reinit"))
    for replicate in both:
        assert repr(more[replicate].curve) == repr(found[replicate].curve)
        assert_equal(more[replicate].weights, found[replicate].weights)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (DynamicSettings(dataset="digits", validation=300), "DynamicSettings asks for another study"),
        (TransferSettings(dataset="digits", validation=300, architecture="mlp"), "found on another data set"),
        (SMALL.changed(criterion="magnitud"), "did you mean 'magnitude'"),
    ],
)
def test_a_search_that_cannot_be_is_refused_before_anything_is_trained(settings, says, digits):
    with pytest.raises(LabError, match=says):
        next(find_tickets(settings, digits, train=lambda cohort: pytest.fail("it is trained")))


def test_late_rewinding_starts_at_the_weights_the_dense_network_had_then(digits):
    settings = SMALL.changed(
        rewind_to=30, iterations=60, eval_every=25, schedule="cosine", warmup=20, trials=2, rounds=2,
        arms=["ticket", "oneshot", "reinit", "random"],
    )  # fmt: skip
    found = outcomes_of(settings, digits)
    for trial in range(2):
        until = begin(settings, trial, 0, theta_0(trial))
        steps = train(settings.changed(eval_every=1), digits, until)
        at_30 = next({n: w.clone() for n, w in s.weights.items()} for s in steps if s.iteration == 30)
        assert found[Replicate("ticket", trial, 0, 0)].curve[0].iteration == 0
        for arm in ("ticket", "oneshot"):
            for k in (1, 2):
                state = found[Replicate(arm, trial, 0, k)]
                assert_equal(state.start, masks.apply(state.mask, at_30))
                assert [point.iteration for point in state.curve] == [30, 50, 60]
        fresh, random = found[Replicate("reinit", trial, 0, 1)], found[Replicate("random", trial, 0, 1)]
        assert fresh.curve[0].iteration == random.curve[0].iteration == 0
        assert_equal(random.start, masks.apply(random.mask, theta_0(trial)))


def test_criterion_at_initialisation_scores_the_initial_weights(digits):
    settings = SMALL.changed(criterion="magnitude_at_init", trials=1, arms=["ticket", "oneshot"], rounds=2)
    found = outcomes_of(settings, digits)
    for k in (1, 2):
        ticket, oneshot = (found[Replicate(arm, 0, 0, k)] for arm in ("ticket", "oneshot"))
        assert masks.equal(ticket.mask, oneshot.mask)  # every round has the same scores
        for name, mask in ticket.mask.items():
            assert theta_0(0)[name].abs()[mask].min() >= theta_0(0)[name].abs()[~mask].max()


@given(
    arms=st.lists(st.sampled_from(ARMS[1:]), unique=True),
    trials=st.integers(1, 2),
    draws=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    rounds=st.integers(0, 2),
)
@hypothesis_settings(max_examples=15, deadline=None, derandomize=True, database=None)
def test_planned_is_exactly_what_is_trained(arms, trials, draws, rounds):
    if "continued_reset" in arms and "continued" not in arms:
        with pytest.raises(LabError, match="continued_reset needs the arm continued"):
            SMALL.changed(arms=["ticket", *arms])
        arms = [*arms, "continued"]
    settings = SMALL.changed(
        arms=["ticket", *arms], trials=trials, reinit_draws=draws[0], random_draws=draws[1], rounds=rounds
    )
    data = load(SMALL)
    asked = []
    for outcomes in find_tickets(settings, data, lambda cohort: asked.extend(cohort) or cohort):
        assert list(outcomes) == asked[-len(outcomes) :]
    plan = planned(settings)
    assert len(asked) == len(set(asked)) == len(plan)
    assert set(asked) == set(plan)


def test_trains_in_memory_by_itself(digits, monkeypatch):
    monkeypatch.setenv("LTH_WORKERS", "1")
    settings = SMALL.changed(trials=1, rounds=1, iterations=20, arms=["ticket", "reinit"])
    cohorts = list(find_tickets(settings, digits))
    assert [list(cohort) for cohort in cohorts] == [
        [Replicate("ticket", 0, 0, 0)],
        [Replicate("ticket", 0, 0, 1), Replicate("reinit", 0, 0, 1), Replicate("reinit", 0, 1, 1)],
    ]
    assert all(state.iteration == 20 and state.curve for cohort in cohorts for state in cohort.values())
    assert train_in_memory(settings, digits, {}) == {}


def test_ticket_that_was_not_rewound_is_caught(found):
    dense = found[Replicate("ticket", 0, 0, 0)]
    trial = Trial(0, theta_0(0), dense, {"ticket": dense})
    mask = found[Replicate("ticket", 0, 0, 1)].mask
    rewound = partial(begin, SMALL, 0, 1, mask=mask)
    check_rewound(rewound(theta_0(0)), trial)
    with pytest.raises(AssertionError, match="does not start at mask x initial weights"):
        check_rewound(rewound(dense.weights), trial)
    for name in dense.weights:  # a single weight or bias that differs by the smallest possible amount
        start = {n: w.clone() for n, w in rewound(theta_0(0)).start.items()}
        i = tuple(mask[name].nonzero()[0]) if name in mask else 0
        start[name][i] = torch.nextafter(start[name][i], torch.tensor(9.0))
        with pytest.raises(AssertionError, match=name):
            check_rewound(replace(rewound(theta_0(0)), start=start), trial)
    name = "fc1.weight"  # pruned weights that start at their initial values
    start = rewound(theta_0(0)).start | {name: theta_0(0)[name]}
    with pytest.raises(AssertionError, match=name):
        check_rewound(replace(rewound(theta_0(0)), start=start), trial)


@pytest.mark.parametrize(
    ("key", "value", "near"),
    [("criterion", "magnitud", "magnitude"), ("architecture", "lenett", "lenet"), ("dataset", "mnits", "mnist")],
)
def test_unknown_names_are_refused_before_anything_is_computed(key, value, near):
    with pytest.raises(LabError, match=f"{key} = '{value}' .did you mean '{near}'") as error:
        check_settings(SMALL.changed(**{key: value}))
    assert "\n" not in str(error.value)


def test_unknown_device_is_refused():
    check_settings(SMALL)
    with pytest.raises(LabError, match="device = 'gpu'"):
        check_settings(SMALL.changed(device="gpu"))


@pytest.mark.parametrize(
    ("architecture", "values", "said"),
    [
        ("resnet20", {"dropout": 0.5}, "dropout = 0.5: the network resnet20 has no use for it"),
        ("vgg_like", {"widths": (64,)}, r"widths = \(64,\): the network vgg_like has no use for it"),
        ("lenet", {"padding": "valid"}, "padding = 'valid': the network lenet has no use for it"),
    ],
)
def test_settings_that_a_network_takes_no_notice_of_are_refused(architecture, values, said):
    with pytest.raises(LabError, match=said):
        check_settings(Settings(dataset="cifar10", architecture=architecture, **values))


def test_settings_that_a_network_takes_notice_of_are_allowed():
    check_settings(Settings(dataset="cifar10", architecture="vgg_like", dropout=0.5))
    check_settings(Settings(dataset="cifar10", architecture="conv2", widths=(20,), dropout=0.5, padding="valid"))
    check_settings(Settings(architecture="lenet", widths=(300, 100)))


def test_dynamic_pruning_of_kinds_of_layers_that_the_network_lacks_is_refused():
    mlp = DynamicSettings(dataset="digits", validation=300, architecture="mlp", widths=(16,), epochs=2, trials=1)
    check_settings(mlp.changed(prunable=("conv", "fc")))
    with pytest.raises(LabError, match=r"prunable = \['conv', 'shortcut'\]: mlp has no layer"):
        check_settings(mlp.changed(prunable=("conv", "shortcut")))


def test_fine_tuning_goes_on_from_the_trained_weights_at_the_last_learning_rate(digits):
    steps = SMALL.changed(
        arms=("ticket", "continued", "fine_tuned"), trials=1, rounds=2, optimizer="sgd", learning_rate=0.1,
        schedule="step", milestones=(60,),
    )  # fmt: skip
    found = outcomes_of(steps, digits)
    dense = found[Replicate("ticket", 0, 0, 0)]
    for arm in ("continued", "fine_tuned"):
        first = found[Replicate(arm, 0, 0, 1)]
        assert_equal(first.start, masks.apply(first.mask, dense.weights))
    rate = 0.1 * steps.gamma
    slow = steps.changed(schedule="constant", milestones=(), learning_rate=rate)
    for k in (1, 2):
        tuned = found[Replicate("fine_tuned", 0, 0, k)]
        by_hand = begin(slow, 0, k, tuned.start, tuned.mask)
        for _ in train(slow, digits, by_hand):
            pass
        assert_equal(tuned.weights, by_hand.weights)
    assert_equal(
        found[Replicate("fine_tuned", 0, 0, 2)].start,
        masks.apply(found[Replicate("fine_tuned", 0, 0, 2)].mask, found[Replicate("fine_tuned", 0, 0, 1)].weights),
    )


def test_a_fine_tuning_that_was_stopped_goes_on_at_its_rate(tmp_path, in_parts):
    steps = SMALL.changed(
        arms=("ticket", "fine_tuned"), trials=1, rounds=1, optimizer="sgd", learning_rate=0.1, schedule="step",
        milestones=(60,), eval_every=10,
    )  # fmt: skip
    whole, _ = run(steps, tmp_path / "whole", quiet=True)
    assert in_parts(steps, tmp_path / "parts").drop(columns="seconds").equals(whole.drop(columns="seconds"))
