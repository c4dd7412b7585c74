"""Transfer: masks found on another data set are put on the same initial weights; all arms have equally many weights."""

import os
import signal

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from lthcore import masks
from lthcore.data.datasets import load, read
from lthcore.errors import LabError, TimeLimit
from lthcore.lottery import transfer as transfer_room
from lthcore.lottery.lineage import FILE
from lthcore.lottery.search import find_tickets
from lthcore.lottery.transfer import masks_elsewhere, transfer
from lthcore.runs import checkpoints, runner
from lthcore.runs.files import read_record
from lthcore.runs.runner import SOURCE, run
from lthcore.settings import Settings, TransferSettings
from lthcore.training.parallel import train_cohort
from lthcore.training.state import Replicate

SETTINGS = TransferSettings(
    dataset="digits", masks_from="digits_permuted", validation=300, architecture="mlp", widths=(16,),
    learning_rate=5e-3, iterations=40, eval_every=20, prune_fc=0.5, prune_output=0.5, rounds=2, trials=1,
)  # fmt: skip


def in_memory(source):
    return find_tickets(source, load(source))


@pytest.fixture(scope="module")
def outcomes():
    data = load(SETTINGS)
    found = transfer(SETTINGS, data, lambda cohort: dict(train_cohort(SETTINGS, data, cohort)), None, in_memory)
    return {replicate: state for cohort in found for replicate, state in cohort.items()}


def test_permuted_images_hold_the_same_pixels_in_one_other_order():
    plain, permuted = read("digits"), read("digits_permuted")
    assert np.array_equal(plain.train_labels, permuted.train_labels)
    order = np.random.RandomState(0).permutation(64)
    assert np.array_equal(plain.test_images.reshape(-1, 64)[:, order], permuted.test_images.reshape(-1, 64))
    assert not np.array_equal(plain.test_images, permuted.test_images)


def test_a_transferred_mask_is_the_one_found_elsewhere_on_the_same_initial_weights(outcomes):
    source = SETTINGS.source
    elsewhere = {r: s for cohort in in_memory(source) for r, s in cohort.items()}
    for k in (1, 2):
        there, here = elsewhere[Replicate("ticket", 0, 0, k)], outcomes[Replicate("transferred", 0, 0, k)]
        assert masks.equal(there.mask, here.mask)
        assert all(torch.equal(there.start[name], here.start[name]) for name in here.start)
        assert not masks.equal(here.mask, outcomes[Replicate("ticket", 0, 0, k)].mask)


def test_all_arms_keep_as_many_weights_in_each_layer(outcomes):
    for k in (1, 2):
        counts = [masks.counts(outcomes[Replicate(arm, 0, 0, k)].mask) for arm in SETTINGS.arms]
        assert counts[0] == counts[1] == counts[2]


def test_masks_from_its_own_data_set_give_back_the_native_ticket():
    given = SETTINGS.given() | {"masks_from": "digits_permuted", "dataset": "digits"}
    assert TransferSettings(**given).source.dataset == "digits_permuted"
    native = Settings(
        **{k: v for k, v in SETTINGS.given().items() if k in Settings.model_fields} | {"arms": ("ticket",)}
    )
    data = load(native)
    tickets = {r: s.mask for cohort in find_tickets(native, data) for r, s in cohort.items()}
    arms = find_tickets(SETTINGS, data, None, {(r.trial, r.round): mask for r, mask in tickets.items()})
    found = {r: s for cohort in arms for r, s in cohort.items()}
    ticket, same = (found[Replicate(arm, 0, 0, 2)] for arm in ("ticket", "transferred"))
    assert all(torch.equal(ticket.weights[name], same.weights[name]) for name in ticket.weights)


def test_a_transfer_stopped_again_and_again_gives_the_same_table(tmp_path, in_parts):
    whole, _ = run(SETTINGS, tmp_path / "whole", quiet=True)
    assert in_parts(SETTINGS, tmp_path / "parts").drop(columns="seconds").equals(whole.drop(columns="seconds"))
    searched = read_record(tmp_path / "whole" / SOURCE)
    assert searched["complete"] and searched["settings"]["dataset"] == "digits_permuted"


def test_a_search_that_diverges_has_no_masks_to_give(tmp_path):
    with pytest.raises(LabError, match=r"masks_from = 'digits_permuted': trial 0 diverged at round 0, .* lower"):
        run(SETTINGS.changed(learning_rate=1e30, optimizer="sgd"), tmp_path, quiet=True)


def test_images_of_other_shapes_and_the_same_data_set_are_refused():
    with pytest.raises(LabError, match="rewind_to = 5: must be 0, since a mask is transferred to the initial weights"):
        SETTINGS.changed(rewind_to=5)
    with pytest.raises(LabError, match="masks_from = 'digits': another data set"):
        SETTINGS.changed(masks_from="digits")
    with pytest.raises(LabError, match="arms"):
        Settings(arms=("ticket", "transferred"))
    with pytest.raises(LabError, match="image_size makes them alike"):
        masks_elsewhere(SETTINGS.changed(masks_from="mnist"), in_memory)


@pytest.fixture
def interrupted(tmp_path, monkeypatch):
    """Return the folder of a transfer that was interrupted after its masks were found, before any other training."""
    with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patch:
        patch.setattr(transfer_room, "find_tickets", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        run(SETTINGS, tmp_path, quiet=True)
    return tmp_path


def test_masks_that_the_search_cannot_have_found_are_refused(interrupted):
    tickets = interrupted / SOURCE / "tickets"
    first, second = (tickets / f"ticket-trial0-draw0-round0{k}.safetensors" for k in (1, 2))
    with safe_open(second, framework="pt") as file:
        metadata, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    dense = {key: torch.ones_like(t) if key.startswith("mask/") else t for key, t in tensors.items()}
    save_file(dense, second, metadata | {"digest": checkpoints._digest(metadata, dense.items())})
    with pytest.raises(LabError, match=r"round02\.safetensors has a mask that is no part of the one before"):
        run(SETTINGS, interrupted, quiet=True)
    second.write_bytes(first.read_bytes())
    with pytest.raises(LabError, match=r"round02\.safetensors is of another training \(ticket-trial0-draw0-round01\)"):
        run(SETTINGS, interrupted, quiet=True)
    second.unlink()
    lineage = interrupted / SOURCE / FILE
    held = lineage.read_bytes()
    lineage.unlink()
    with pytest.raises(LabError, match="is missing, and a mask with it; run with --force"):
        run(SETTINGS, interrupted, quiet=True)
    lineage.write_bytes(held)  # the lineage has the masks of the tickets that are missing here
    ended = run(SETTINGS, interrupted, quiet=True)[0]
    whole = run(SETTINGS, interrupted.parent / "whole", quiet=True)[0]
    pd.testing.assert_frame_equal(ended.drop(columns="seconds"), whole.drop(columns="seconds"))


def test_sigterm_after_the_last_training_of_the_search_stops_the_transfer_too(tmp_path, monkeypatch):
    train_all = runner._Runner.train_all

    def asked(self, *more):
        train_all(self, *more)
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(TimeLimit, match="asked to stop"), monkeypatch.context() as patch:
        patch.setattr(runner._Runner, "train_all", asked)
        run(SETTINGS, tmp_path, quiet=True)
    assert read_record(tmp_path / SOURCE)["complete"] and read_record(tmp_path)["trainings_done"] == 0
    assert len(run(SETTINGS, tmp_path, quiet=True)[0]) == 7
