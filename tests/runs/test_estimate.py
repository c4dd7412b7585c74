"""Estimates of the time that the rest of an experiment takes, from timed steps and evaluations."""

import pytest

from lthcore.lottery.search import planned
from lthcore.runs import estimate, timing
from lthcore.runs.experiments import Experiment
from lthcore.settings import DynamicSettings, Settings, TransferSettings
from lthcore.sources import catalogue, cifar
from lthcore.training.state import Replicate

SETTINGS = Settings(arms=("ticket",), trials=1, rounds=16, iterations=1000, eval_every=100, device="cpu")
EXPERIMENT = Experiment("study", "variant", "cpu", SETTINGS)


@pytest.fixture(autouse=True)
def nothing_done(tmp_path, monkeypatch):
    monkeypatch.setenv("LTH_RESULTS", str(tmp_path))
    monkeypatch.setenv("LTH_WORKERS", "2")


def test_the_estimate_adds_up_steps_and_evaluations_over_all_trainings(monkeypatch):
    monkeypatch.setattr(timing, "_seconds", lambda settings, density: (2e-3, 1e-6, 0.0))
    each = 1000 * 2e-3 + (11 * 15_000 + 2 * 55_000) * 1e-6
    assert estimate.seconds_left(EXPERIMENT) == pytest.approx(len(planned(SETTINGS)) * each)


@pytest.mark.parametrize(
    ("trials", "workers", "in_turn"), [(1, 16, 1), (2, 2, 1.1), (3, 2, 2.2), (5, 1, 5), (8, 4, 2.2)]
)
def test_the_trainings_of_a_round_run_at_the_same_time_as_far_as_there_are_workers(
    trials, workers, in_turn, monkeypatch
):
    """Its rounds follow each other: more workers than trainings in a round gain nothing."""
    monkeypatch.setattr(timing, "_seconds", lambda settings, density: (2e-3, 0.0, 0.0))
    monkeypatch.setenv("LTH_WORKERS", str(workers))
    settings = SETTINGS.changed(trials=trials)
    assert estimate.seconds_of(settings, planned(settings)) == pytest.approx(17 * in_turn * 1000 * 2e-3)


def test_the_search_whose_masks_are_transferred_is_part_of_the_estimate(monkeypatch):
    monkeypatch.setattr(timing, "_seconds", lambda settings, density: (2e-3, 1e-6, 0.0))
    settings = TransferSettings(dataset="digits", masks_from="mnist", image_size=8, validation=200, device="cpu")
    transfer = Experiment("mask_transfer", "variant", "cpu", settings)
    own, search = (estimate.seconds_of(s, planned(s)) for s in (settings, settings.source))
    assert search > 0 and estimate.seconds_left(transfer) == pytest.approx(own + search)


def test_what_is_timed_is_kept_for_this_machine_and_these_versions(tmp_path, monkeypatch):
    """A command does not time again what an earlier one has timed, unless versions changed or the cache is damaged."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    timed, seconds = [], (2e-3, 1e-6, 0.0)
    monkeypatch.setattr(timing, "_measure", lambda settings, density: timed.append(density) or seconds)

    def as_in_another_command() -> float:
        timing._read_kept.cache_clear()
        timing._machine.cache_clear()
        return estimate.seconds_left(EXPERIMENT)

    replicates = planned(SETTINGS)
    assert estimate.needs_timing(SETTINGS, replicates) and not estimate.needs_timing(SETTINGS, [])
    first = as_in_another_command()
    assert timed and not estimate.needs_timing(SETTINGS, replicates)
    count = len(timed)
    assert as_in_another_command() == first and len(timed) == count
    monkeypatch.setattr(timing, "versions", lambda: {"torch": "another"})
    as_in_another_command()
    assert len(timed) == 2 * count
    for path in (tmp_path / "cache" / "lth").iterdir():
        path.write_text("{ not JSON")
    assert as_in_another_command() == first and len(timed) == 3 * count
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/none")  # a cache that cannot be written
    assert as_in_another_command() == first
    monkeypatch.undo()
    timing._machine.cache_clear()


def test_a_round_is_timed_at_no_fewer_weights_than_it_has(monkeypatch):
    asked = []
    monkeypatch.setattr(timing, "_seconds", lambda settings, density: asked.append(density) or (1e-3, 1e-6, 0.0))
    for replicate in planned(SETTINGS):
        estimate.seconds_of(SETTINGS, [replicate])
    assert asked[0] == 1.0
    assert asked == sorted(asked, reverse=True)
    assert all(density >= 0.8**k * 0.999 for k, density in enumerate(asked))


@pytest.mark.parametrize(
    ("values", "density"),
    [
        ({"sparsity_schedule": "constant"}, 0.02),
        ({"sparsity_schedule": "constant", "prune_from": 1, "iterations": 2750}, 0.02 + 0.98 / 3),
        ({"sparsity_schedule": "constant", "masking": "gradients"}, 1.0),
        ({"prune_until": 1, "iterations": 2750}, 0.02 + 0.98 / 3),  # 0% in the first of three epochs
    ],
    ids=str,
)
def test_a_network_pruned_while_it_trains_is_timed_at_the_weights_it_has_on_average(values, density):
    settings = DynamicSettings(**{"sparsity": 0.98, "iterations": 2000} | values)
    assert estimate.density_of(settings, Replicate("dynamic", 0, 0, 0)) == pytest.approx(density, rel=1e-3)


def test_weights_frozen_at_their_initial_values_are_computed_with():
    assert estimate.density_of(SETTINGS.changed(pruned_to="initial"), Replicate("ticket", 0, 0, 5)) == 1.0


def test_a_step_an_image_and_an_update_are_the_shortest_of_their_times(monkeypatch):
    settings, worked = SETTINGS.changed(dataset="digits", architecture="mlp", validation=200), []
    times = iter([0.5, 0.05, *(0.03, 0.01, 0.02), *(0.9, 0.1)])  # two of what is slow, and three of what is fast

    def clock(work, device):
        work()
        worked.append(work)
        return next(times)

    monkeypatch.setattr(timing, "_clock", clock)
    step, image, update = timing._measure(settings, 1.0)
    assert (step, update, image) == pytest.approx((0.05 / 5, 0.01, 0.1 / 500)) and len(worked) == 7


def test_a_step_of_convolutions_is_its_update_and_the_rest_by_the_image(monkeypatch):
    asked = []
    monkeypatch.setattr(timing, "_seconds", lambda settings, density: asked.append(settings) or (0.5, 1e-3, 0.1))
    conv = SETTINGS.changed(architecture="conv2", dataset="cifar10", batch_size=60, precision="bfloat16")
    step, image = timing.timed(conv)
    assert step == pytest.approx(0.1 + 0.4 * 60 / timing.SMALL_BATCH) and image == 1e-3
    assert (asked[0].batch_size, asked[0].precision) == (timing.SMALL_BATCH, "bfloat16")


def test_the_estimate_counts_the_test_images_that_are_here(tmp_path, monkeypatch):
    monkeypatch.setenv("LTH_DATA", str(tmp_path))
    assert catalogue.test_images("cifar10") == catalogue.test_images("mnist") == 10_000
    (tmp_path / "cifar-10-batches-bin").mkdir()
    (tmp_path / "cifar-10-batches-bin" / "test_batch.bin").write_bytes(bytes(40 * cifar.CIFAR10_RECORD))
    assert catalogue.test_images("cifar10") == 40
