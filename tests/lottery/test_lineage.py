"""Lineage: a small file with which a run continues on a machine without its tickets, and ends with the same tables."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch

from lthcore import masks
from lthcore.analysis.ticket_tables import write_ticket_tables
from lthcore.errors import TimeLimit
from lthcore.lottery.lineage import FILE, Lineage
from lthcore.lottery.outcomes import _mask_sources, outcome_from_lineage
from lthcore.lottery.start import begin
from lthcore.masks import full_mask
from lthcore.models.build import build
from lthcore.models.weights import initial_weights
from lthcore.pruning.allocation import layer_rates, prune
from lthcore.runs.archives import pack, tables_in, unpack
from lthcore.runs.checkpoints import file_stem, load_ticket_file
from lthcore.runs.executor import Checkpointer
from lthcore.runs.files import read_record, read_tables
from lthcore.runs.runner import run
from lthcore.settings import Settings
from lthcore.training.state import Replicate

SEARCH = Settings(
    dataset="digits", architecture="mlp", widths=(20, 10), validation=200, iterations=40, eval_every=20, trials=2,
    rounds=3, learning_rate=5e-3, reinit_draws=1, random_draws=1, device="cpu",
    arms=("ticket", "reinit", "random", "oneshot", "oneshot_reinit", "continued", "continued_reset", "fine_tuned",
          "by_movement-inverted", "by_snip-shuffled", "by_synflow", "resampled", "noise_1"),
)  # fmt: skip
GOING_ON = SEARCH.changed(arms=("ticket",), restart="best", keep_optimizer=True, trials=1)
SEARCHES = {
    "every arm": SEARCH.changed(rounds=2, trials=1),
    "rewound to iteration 20": SEARCH.changed(arms=("ticket", "reinit", "continued"), rewind_to=20, trials=1),
    "going on": GOING_ON,
    "going on with a new optimizer": GOING_ON.changed(keep_optimizer=False),
    "units": SEARCH.changed(granularity="units", arms=("ticket", "reinit"), criterion="unit_l1", trials=1),
    "by what moves late": SEARCH.changed(criterion="late_stillness", scope="global", arms=("ticket",), trials=1),
}


@pytest.fixture(autouse=True)
def one_worker(monkeypatch):
    monkeypatch.setenv("LTH_WORKERS", "1")
    monkeypatch.setenv("LTH_PLAIN", "1")


def assert_same_tables(folder: Path, other: Path) -> None:
    for mine, theirs in zip(read_tables(folder), read_tables(other), strict=True):
        mine, theirs = (table.drop(columns="seconds", errors="ignore") for table in (mine, theirs))
        pd.testing.assert_frame_equal(mine, theirs, check_exact=True)


def move(folder: Path, to: Path) -> Path:
    """Move a run to another machine: copy tables, record and lineage, but no tickets or checkpoints; return `to`."""
    to.mkdir(parents=True)
    for path in tables_in(folder) if folder.exists() else ():
        shutil.copy(path, to / path.name)
    return to


def run_on_many_machines(settings: Settings, root: Path, at_once: int = 1) -> tuple[Path, int]:
    """Run an experiment that is stopped after every `at_once` training runs and then moved to another machine.

    Returns its last folder and the number of moves.
    """
    folder, moves = root / "machine0", 0
    while True:
        try:
            with pytest.MonkeyPatch.context() as patch:
                stop_after(patch, at_once)
                run(settings, folder, quiet=True)
            return folder, moves
        except TimeLimit:
            moves += 1
            folder = move(folder, root / f"machine{moves}")


def stop_after(patch: pytest.MonkeyPatch, trainings: int) -> None:
    """Make a run stop, as at its time limit, after this many training runs."""
    from lthcore.runs import executor

    train_cohort, done = executor.train_cohort, []

    def limited(settings, data, cohort, go_on, **more):
        for key, state in cohort.items():
            if isinstance(go_on, Checkpointer) and len(done) >= trainings:
                yield key, state
            else:
                done.append(key)
                yield from train_cohort(settings, data, {key: state}, go_on, **more)

    patch.setattr(executor, "train_cohort", limited)


@pytest.mark.parametrize("settings", SEARCHES.values(), ids=SEARCHES)
def test_a_run_that_moves_all_the_time_has_the_tables_of_one_that_never_moved(settings, tmp_path):
    whole = tmp_path / "whole"
    run(settings, whole, quiet=True)
    at_once = 7 if settings.arms == SEARCH.arms else 1
    moved, moves = run_on_many_machines(settings, tmp_path, at_once)
    assert moves >= 3
    assert_same_tables(moved, whole)
    for folder in (moved, whole):
        write_ticket_tables(folder)
    for name in ("structure.csv", "distributions.csv"):
        assert (moved / name).read_bytes() == (whole / name).read_bytes()
    assert read_record(moved)["complete"]


@pytest.mark.parametrize("name", ["every arm", "rewound to iteration 20", "going on"])
def test_a_run_that_moved_can_be_stopped_and_resumed_where_it_is(name, tmp_path):
    settings = SEARCHES[name].changed(rounds=3)
    run(settings, tmp_path / "whole", quiet=True)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(TimeLimit):
        stop_after(patch, 2 * len(settings.arms))
        run(settings, tmp_path / "there", quiet=True)
    here = move(tmp_path / "there", tmp_path / "here")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(TimeLimit):
        stop_after(patch, len(settings.arms))
        run(settings, here, quiet=True)
    run(settings, here, quiet=True)
    assert_same_tables(here, tmp_path / "whole")


def test_nothing_is_trained_twice_on_the_way(tmp_path):
    settings = SEARCH.changed(arms=("ticket", "continued", "oneshot"), trials=1)
    moved, _ = run_on_many_machines(settings, tmp_path)
    assert "trained_again" not in read_record(moved)


def test_without_its_lineage_a_run_trains_again_what_it_needs_and_keeps_the_rows(tmp_path, capsys):
    settings = SEARCH.changed(arms=("ticket", "reinit"), trials=1)
    run(settings, tmp_path / "whole", quiet=True)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(TimeLimit):
        stop_after(patch, 3)
        run(settings, tmp_path / "there", quiet=True)
    here = move(tmp_path / "there", tmp_path / "here")
    (here / FILE).unlink()
    run(settings, here, quiet=True)
    assert "trained again, because no ticket or lineage here has the weights: ticket-" in capsys.readouterr().err
    assert_same_tables(here, tmp_path / "whole")
    assert read_record(here)["trained_again"] == 2  # the dense network and round 1


def test_a_run_grows_by_trials_and_rounds_and_arms_on_another_machine(tmp_path):
    settings = SEARCH.changed(arms=("ticket", "reinit"), trials=1, rounds=2)
    more = SEARCH.changed(arms=("ticket", "reinit", "random"), trials=2, rounds=3)
    run(settings, tmp_path / "there", quiet=True)
    here = move(tmp_path / "there", tmp_path / "here")
    run(more, here, quiet=True)
    run(more, tmp_path / "whole", quiet=True)
    assert_same_tables(here, tmp_path / "whole")


def test_an_archive_carries_a_run_to_where_it_goes_on(tmp_path):
    name, settings = "cpu/iterative_pruning/tiny", SEARCH.changed(arms=("ticket", "continued"), trials=1)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(TimeLimit):
        stop_after(patch, 4)
        run(settings, tmp_path / "there" / name, quiet=True)
    pack(tmp_path / "there", tmp_path / "tables.tar.gz", "cpu")
    [line] = unpack(tmp_path / "tables.tar.gz", tmp_path / "here")
    assert line == f"{name}: new (4 trainings)"
    run(settings, tmp_path / "here" / name, quiet=True)
    run(settings, tmp_path / "whole", quiet=True)
    assert_same_tables(tmp_path / "here" / name, tmp_path / "whole")


def test_a_lineage_tells_every_mask_and_the_tickets_have_them(tmp_path):
    settings = SEARCH.changed(arms=("ticket", "continued", "oneshot"), trials=1)
    run(settings, tmp_path, quiet=True)
    lineage = Lineage.from_bytes((tmp_path / FILE).read_bytes(), settings.key)
    for arm in settings.arms:
        for k in range(1, settings.rounds + 1):
            ticket = load_ticket_file(tmp_path / "tickets" / f"{file_stem(Replicate(arm, 0, 0, k))}.safetensors")
            assert masks.equal(lineage.mask(0, arm, k), ticket.mask)
    assert lineage.mask(0, "ticket", settings.rounds + 1) is not None  # the run can be extended on any machine
    assert lineage.mask(0, "ticket", settings.rounds + 2) is None
    assert not any(groups for _, groups in lineage.carried.values())  # no later round needs carried weights


def test_twenty_rounds_of_lenet_take_about_a_tenth_of_a_megabyte():
    settings, lineage = Settings(), Lineage()
    weights = initial_weights(build(settings, (1, 28, 28), 10), settings, 0)
    mask, magnitude = full_mask(weights), {name: w.abs() for name, w in weights.items() if w.ndim == 2}
    for k in range(1, 21):
        mask = prune(magnitude, mask, layer_rates(settings, build(settings, (1, 28, 28), 10)))
        lineage.note(0, "ticket", k, mask)
    packed = lineage.to_bytes("key")
    assert len(packed) < 130_000
    again = Lineage.from_bytes(packed, "key")
    assert masks.equal(again.mask(0, "ticket", 20), mask) and not again.changed


def test_masks_that_are_not_nested_or_out_of_turn_are_refused():
    lineage, mask = Lineage(), {"fc1.weight": torch.tensor([[True, False], [True, True]])}
    lineage.note(0, "ticket", 1, mask)
    with pytest.raises(AssertionError, match="takes back weights"):
        lineage.note(0, "ticket", 2, full_mask({"fc1.weight": torch.ones(2, 2)}))
    with pytest.raises(AssertionError, match="does not follow"):
        lineage.note(0, "ticket", 3, mask)
    assert masks.equal(lineage.mask(0, "ticket", 1), mask)


def test_a_damaged_lineage_or_that_of_another_run_is_one_line():
    lineage = Lineage()
    lineage.note(0, "ticket", 1, {"fc1.weight": torch.ones(30, 30) > 0})
    whole = lineage.to_bytes("key")
    with pytest.raises(ValueError, match="belongs to run key, not other"):
        Lineage.from_bytes(whole, "other")
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for content in (b"", whole[:-10], bytes(flipped), b"nonsense"):
        with pytest.raises(ValueError, match=r".") as caught:
            Lineage.from_bytes(content, "key")
        assert "\n" not in str(caught.value)


def test_a_training_that_diverged_stands_as_one_whatever_its_network_holds():
    settings = SEARCH.changed(architecture="resnet20", widths=())
    start = begin(settings, 0, 0, initial_weights(build(settings, (1, 8, 8), 10), settings, 0))
    assert any(not w.is_floating_point() for w in start.weights.values())  # the batch count of a norm
    outcome = outcome_from_lineage(settings, Lineage(), [], Replicate("ticket", 0, 0, 0), start, diverged=True)
    assert outcome.diverged and not start.diverged


def test_the_order_of_masks_in_a_lineage_follows_from_the_arms_alone():
    """Its file is committed, so it must not depend on the order in which a set of names is iterated."""
    arms = ("ticket", "oneshot", "continued", "by_magnitude", "by_movement", "by_snip", "reinit")
    assert _mask_sources(arms) == ["ticket", "oneshot", "continued", "by_magnitude", "by_movement"]
