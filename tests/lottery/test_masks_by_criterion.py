"""Arms `by_<criterion>`: as many weights as the ticket's, chosen once by other scores; and their controls."""

import pytest
import torch

from lthcore import masks
from lthcore.data.datasets import load
from lthcore.errors import LabError
from lthcore.lottery.search import find_tickets
from lthcore.models.build import build
from lthcore.models.weights import initial_weights
from lthcore.pruning.criteria import PruningContext, scores_of
from lthcore.pruning.saliency import snip
from lthcore.registry import CRITERIA
from lthcore.runs.runner import run
from lthcore.seeds import seed_for
from lthcore.settings import Settings
from lthcore.training.state import Replicate

BY = [f"by_{c.name}" for c in CRITERIA.values() if c.prunes == "weights" and not c.name.startswith("late_")]
SMALL = Settings(
    dataset="digits", architecture="mlp", validation=200, device="cpu", iterations=40, eval_every=20, trials=1,
    rounds=3, scope="global", prune_fc=0.5, prune_output=0.5, arms=["ticket", *BY],
)  # fmt: skip


@pytest.fixture(scope="module")
def data():
    return load(SMALL)


def outcomes_of(settings: Settings, data) -> list:
    return list(find_tickets(settings, data))


@pytest.fixture(scope="module")
def outcomes(data) -> list:
    return outcomes_of(SMALL, data)


@pytest.mark.parametrize("arm", BY)
def test_every_criterion_keeps_as_many_weights_as_the_ticket_and_rewinds(arm, outcomes):
    for k in (1, 2, 3):
        state, ticket = (outcomes[k][Replicate(a, 0, 0, k)] for a in (arm, "ticket"))
        assert abs(masks.weights_left(state.mask) - masks.weights_left(ticket.mask)) <= (
            1 if arm == "by_synflow" else 0
        )
        theta_0 = outcomes[0][Replicate("ticket", 0, 0, 0)].start
        assert all(torch.equal(state.start[name], torch.where(m, theta_0[name], 0.0)) for name, m in state.mask.items())
    if arm != "by_synflow":
        assert masks.is_nested(state.mask, outcomes[1][Replicate(arm, 0, 0, 1)].mask)


def test_scores_before_training_are_of_the_untrained_network(outcomes, data):
    dense = outcomes[0][Replicate("ticket", 0, 0, 0)]
    seed = seed_for(0, "criterion", 0, "oneshot", 0)
    worth = snip(PruningContext(SMALL, data, dense.mask, dense.start, dense.start, dense.start, seed))
    mask = outcomes[1][Replicate("by_snip", 0, 0, 1)].mask
    kept, gone = (torch.cat([worth[n][m if keep else ~m] for n, m in mask.items()]) for keep in (True, False))
    assert kept.min() >= gone.max()


def test_sanity_arms_shuffle_the_mask_replace_the_weights_or_keep_the_worst(data):
    settings = SMALL.changed(
        arms=["ticket", "by_snip", "by_snip-shuffled", "by_snip-fresh", "by_snip-inverted"], rounds=1
    )
    found = {r.arm: state for r, state in outcomes_of(settings, data)[1].items()}
    mask = found["by_snip"].mask
    assert masks.counts(found["by_snip-shuffled"].mask) == masks.counts(mask)
    assert not masks.equal(found["by_snip-shuffled"].mask, mask)
    assert masks.equal(found["by_snip-fresh"].mask, mask)
    assert not torch.equal(found["by_snip-fresh"].start["fc1.weight"], found["by_snip"].start["fc1.weight"])
    worst = found["by_snip-inverted"].mask
    assert sum(int((mask[n] & worst[n]).sum()) for n in mask) == 0 and masks.weights_left(worst) == masks.weights_left(
        mask
    )


def test_a_random_tickets_controls_have_its_mask(data):
    settings = SMALL.changed(criterion="random", arms=["ticket", "reinit"], reinit_draws=1, rounds=2)
    for k, found in enumerate(outcomes_of(settings, data)[1:], start=1):
        ticket, reinit = (found[Replicate(arm, 0, 0, k)] for arm in ("ticket", "reinit"))
        assert masks.equal(ticket.mask, reinit.mask)


@pytest.mark.parametrize(
    ("arm", "said"), [("by_snipp", "did you mean 'snip'"), ("tickets", "did you mean 'ticket'"), ("by_", "allowed are")]
)
def test_an_unknown_arm_names_the_nearest(arm, said, tmp_path):
    with pytest.raises(LabError, match=said):
        run(SMALL.changed(arms=["ticket", arm]), tmp_path, quiet=True)


@pytest.mark.parametrize(
    "values",
    [{"arms": ["ticket", "by_synflow-inverted"]}, {"granularity": "units"}],
    ids=str,
)
def test_arms_that_make_no_sense_are_refused(values):
    with pytest.raises(LabError, match="arms"):
        SMALL.changed(**values)


def test_by_same_sign_weights_that_changed_sign_score_zero_and_others_more(data):
    settings = SMALL.changed(iterations=400)
    theta_0 = initial_weights(build(settings, data.shape, 10), settings, 0)
    final = {name: w * (1 if name == "fc1.weight" else -1) for name, w in theta_0.items()}
    worth = scores_of(
        "magnitude_same_sign", PruningContext(settings, data, masks.full_mask(theta_0), theta_0, final, final, 0)
    )
    assert (worth["fc1.weight"] > 0).all() and not worth["fc2.weight"].any()


@pytest.mark.parametrize(
    "values", [{}, {"optimizer": "sgd", "momentum": 0.9, "learning_rate": 0.1}], ids=["adam", "sgd"]
)
def test_pruned_weights_can_stay_where_they_started(values, data):
    settings = SMALL.changed(arms=["ticket", "by_magnitude"], pruned_to="initial", rounds=2, **values)
    dense, *later = outcomes_of(settings, data)
    theta_0 = dense[Replicate("ticket", 0, 0, 0)].start
    for found in later:
        for state in found.values():
            for name, m in state.mask.items():
                assert torch.equal(state.start[name], theta_0[name])  # all weights are rewound, not only remaining ones
                assert torch.equal(state.weights[name][~m], theta_0[name][~m])
                assert not torch.equal(state.weights[name][m], theta_0[name][m])
    zero = outcomes_of(settings.changed(pruned_to="zero"), data)[2][Replicate("ticket", 0, 0, 2)]
    assert masks.weights_left(zero.mask) == masks.weights_left(later[1][Replicate("ticket", 0, 0, 2)].mask)


def test_signed_weights_are_constant_but_for_their_sign(data):
    found = outcomes_of(SMALL.changed(arms=["ticket", "by_magnitude-signed"], rounds=1), data)
    state = found[1][Replicate("by_magnitude-signed", 0, 0, 1)]
    theta_0 = found[0][Replicate("ticket", 0, 0, 0)].start
    for name, m in state.mask.items():
        w = state.start[name]
        assert torch.equal(w[m].sign(), theta_0[name][m].sign()) and not w[~m].any()
        assert w[m].abs().max() == w[m].abs().min() == pytest.approx(float(theta_0[name].std()))
