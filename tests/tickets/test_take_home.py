"""Tickets to take home: tickets made from a run's lineage, without ticket files, equal those that the run trained."""

import inspect
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from lthcore import masks
from lthcore.data.datasets import load
from lthcore.errors import LabError
from lthcore.lottery import lineage
from lthcore.lottery.search import planned
from lthcore.paths import project_root
from lthcore.runs import checkpoints
from lthcore.runs.runner import run
from lthcore.runs.status import find_run
from lthcore.settings import Settings
from lthcore.sources.catalogue import read
from lthcore.tickets.export import export_ticket, model_card
from lthcore.tickets.hub import push_ticket
from lthcore.tickets.load import WinningTicket, load_ticket

SEARCH = Settings(
    dataset="digits", architecture="mlp", widths=(20, 10), validation=200, iterations=40, eval_every=20, trials=2,
    rounds=3, learning_rate=5e-3, reinit_draws=1, arms=("ticket", "reinit"), device="cpu",
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Results root with a run whose ticket files were moved out of its folder, to tickets/ in the root."""
    root = tmp_path_factory.mktemp("results")
    folder = root / "cpu" / "iterative_pruning" / "small"
    run(SEARCH, folder, quiet=True)
    shutil.move(folder / "tickets", root / "tickets")
    return root


@pytest.fixture
def root(trained, monkeypatch) -> Path:
    monkeypatch.setenv("LTH_RESULTS", str(trained))
    return trained


@pytest.mark.parametrize("replicate", [r for r in planned(SEARCH) if r.round], ids=str)
def test_it_starts_where_the_run_started_it_and_so_does_its_reinitialisation(replicate, root):
    ticket = load_ticket("small", replicate.trial, round=replicate.round)
    state = ticket.start() if replicate.arm == "ticket" else ticket.reinitialised()
    saved = checkpoints.load_ticket_file(root / "tickets" / f"{checkpoints.file_stem(replicate)}.safetensors")
    assert masks.equal(state.mask, saved.mask)
    assert all(torch.equal(w, saved.initial[name]) for name, w in state.start.items())


def test_tickets_of_a_run_with_rewinding_start_where_it_started_them(tmp_path, monkeypatch):
    settings = SEARCH.changed(rewind_to=20, arms=("ticket", "oneshot"), trials=1, rounds=2)
    folder = tmp_path / "cpu" / "iterative_pruning" / "later"
    run(settings, folder, quiet=True)
    monkeypatch.setenv("LTH_RESULTS", str(tmp_path))
    for replicate in (r for r in planned(settings) if r.round):
        ticket = load_ticket("later", round=replicate.round, arm=replicate.arm)
        state, saved = ticket.start(), checkpoints.load_state(checkpoints.state_path(folder / "tickets", replicate))[0]
        assert state.iteration == saved.curve[0].iteration == 20 and masks.equal(state.mask, saved.mask)
        assert all(torch.equal(w, saved.start[name]) for name, w in state.start.items())
        assert "Trained for 20 iterations of" in model_card(ticket, ".safetensors")  # of 40, from iteration 20 on


@pytest.mark.parametrize("other", [{"restart": "best"}, {"pruned_to": "initial"}])
def test_tickets_that_go_on_from_other_weights_or_leave_pruned_weights_in_are_not_loaded(other, tmp_path):
    run(SEARCH.changed(arms=("ticket",), trials=1, rounds=1, **other), tmp_path, quiet=True)
    with pytest.raises(LabError, match="do not start from rewound weights under the mask that was found"):
        load_ticket(tmp_path)


def test_masks_that_the_lineage_does_not_hold_are_told_apart_from_trials_that_are_missing(tmp_path):
    """SynFlow's masks of several rounds are not nested, so a lineage cannot hold them."""
    flow = SEARCH.changed(scope="global", prune_output=0.2, arms=("ticket", "by_synflow"), trials=1, rounds=1)
    run(flow, tmp_path, quiet=True)
    with pytest.raises(LabError, match=r"lineage of .* does not hold the masks of arm by_synflow"):
        load_ticket(tmp_path, arm="by_synflow")


@pytest.mark.parametrize("name", ["small", "iterative_pruning/small", "cpu/iterative_pruning/small"])
def test_a_percentage_names_the_round_that_is_near_it(name, root):
    assert [load_ticket(name, remaining=p).round for p in (80, 66, 50)] == [1, 2, 3]
    assert load_ticket(name).round == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"run": "smal"}, "no run 'smal' with lineage.* .*did you mean small"),
        ({"run": "small", "trial": 7}, r"trial 7 of arm ticket is not in .*trials: \[0, 1\]"),
        ({"run": "small", "remaining": 3.6}, r"no ticket with 3.6% of weights remaining \(but 80"),
        ({"run": "small", "round": 9}, "has rounds 1 to 3"),
        ({"run": "small", "arm": "reinit"}, "do not start from rewound weights"),
        (
            {"run": "small", "arm": "by_snip-shuffled"},
            "do not start from rewound weights under the mask that was found",
        ),
    ],
)
def test_what_is_not_there_is_one_line(arguments, said, root):
    with pytest.raises(LabError, match=said):
        load_ticket(**arguments)


def test_committed_runs_are_found_too_after_ones_own(root, tmp_path, monkeypatch):
    monkeypatch.setenv("LTH_RESULTS", str(tmp_path))
    assert find_run("mlp_digits", lineage.FILE).is_relative_to(project_root() / "results")
    own = tmp_path / "smoke" / "iterative_pruning" / "mlp_digits"
    shutil.copytree(root / "cpu" / "iterative_pruning" / "small", own)
    assert find_run("mlp_digits", lineage.FILE) == own


def test_the_ticket_that_the_pages_name_is_there():
    ticket = load_ticket("iterative_pruning/lenet_mnist", remaining=4.5)
    assert (ticket.run, round(ticket.remaining, 1)) == ("paper/iterative_pruning/lenet_mnist", 4.5)
    assert 'load_ticket("iterative_pruning/lenet_mnist", remaining=4.5)' in (project_root() / "README.md").read_text()


def test_a_file_holds_mask_and_masked_weights_and_a_card_says_what_they_are(root, tmp_path):
    ticket = load_ticket("small", trial=1)
    tensors = load_file(export_ticket(ticket, tmp_path / "out" / "ticket.safetensors"))
    for name, mask in ticket.mask.items():
        assert torch.equal(tensors[f"mask/{name}"].bool(), mask)
        assert torch.equal(tensors[f"weights/{name}"], ticket.weights[name] * mask)
    card = (tmp_path / "out" / "ticket.safetensors.md").read_text()
    assert f"round 3 of trial 1 (of 0 to 1) of the run `cpu/iterative_pruning/small` (key {SEARCH.key}" in card
    with pytest.raises(LabError, match="suffix"):
        export_ticket(ticket, tmp_path / "ticket.pkl")


@pytest.mark.parametrize(
    ("arm", "how"),
    [
        ("ticket", "iterative pruning, criterion magnitude"),
        ("oneshot", "pruning the dense network once, criterion magnitude"),
        ("by_movement", "pruning the dense network once, criterion movement"),
        ("by_snip", "pruning before training, criterion snip"),
        ("by_magnitude_at_init", "pruning before training, criterion magnitude_at_init"),
        ("by_random", "pruning before training, criterion random"),
        ("by_snip-inverted", "pruning before training, criterion snip (worst scores kept)"),
    ],
)
def test_a_card_says_how_the_mask_was_found_and_how_images_were_made(arm, how, root):
    card = model_card(replace(load_ticket("small"), arm=arm, settings=SEARCH.changed(image_size=6)), ".pt")
    assert f"* Found by {how}, rewound to iteration 0" in card
    assert "360 test; bytes are the published numbers times 255 / 16" in card
    assert "images of shape (1, 6, 6): bytes / 255, " in card and "then resized to 6 x 6 pixels" in card


def test_a_file_and_its_card_say_which_images_were_held_out(root, tmp_path):
    ticket = load_ticket("small")
    places = load_file(export_ticket(ticket, tmp_path / "ticket.safetensors"))["validation_images"]
    held = load(SEARCH).validation
    assert len(places) == SEARCH.validation > 0
    assert read(SEARCH.dataset).train_labels[places.numpy()].tolist() == held.labels.tolist()
    card = (tmp_path / "ticket.safetensors.md").read_text()
    assert f"* Validation: {SEARCH.validation:,} of the training images, drawn by the run's seed, were held out" in card
    without = replace(ticket, settings=SEARCH.changed(validation=0))
    tensors = load_file(export_ticket(without, tmp_path / "without.safetensors"))
    assert len(tensors["validation_images"]) == 0
    assert "* Validation: no images were held out" in (tmp_path / "without.safetensors.md").read_text()


@pytest.mark.parametrize("compacted", [False, True], ids=["masked", "compacted"])
def test_a_card_names_the_masks_if_the_file_has_them(compacted, root, tmp_path):
    path = export_ticket(load_ticket("small"), tmp_path / "ticket.safetensors", compacted)
    there = any(name.startswith("mask/") for name in load_file(path))
    assert there == ("`mask/<name>`" in Path(f"{path}.md").read_text()) == (not compacted)


@pytest.mark.parametrize("suffix", [".pt", ".onnx"])
@pytest.mark.parametrize("compacted", [False, True], ids=["masked", "compacted"])
def test_other_programs_read_a_network_of_equal_outputs(suffix, compacted, root, tmp_path):
    ticket = load_ticket("small")
    images = torch.rand(3, 1, 8, 8)
    expected = ticket.network().eval()(images)
    path = export_ticket(ticket, tmp_path / f"ticket{suffix}", compacted)
    if suffix == ".onnx":
        runtime = pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
        (found,) = runtime.InferenceSession(str(path)).run(None, {"images": images.numpy()})
    else:
        weights = torch.load(path, weights_only=True)
        layers = [weights[f"{name}.{part}"] for name in ("fc1", "fc2", "output") for part in ("weight", "bias")]
        hidden = (images.flatten(1) @ layers[0].T + layers[1]).relu()
        found = ((hidden @ layers[2].T + layers[3]).relu() @ layers[4].T + layers[5]).numpy()
    torch.testing.assert_close(torch.as_tensor(found), expected, atol=1e-5, rtol=1e-4)


def test_a_network_that_cannot_be_compacted_is_exported_without_that(root, tmp_path, monkeypatch):
    monkeypatch.setattr(WinningTicket, "network", lambda ticket: nn.Sequential(nn.Flatten(), nn.GELU()))
    with pytest.raises(LabError, match=r"cannot be compacted \(.* and 1 is none of them\); leave out --compacted$"):
        export_ticket(load_ticket("small"), tmp_path / "ticket.pt", compacted=True)
    assert export_ticket(load_ticket("small"), tmp_path / "ticket.pt").exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".onnx"])
def test_a_path_that_cannot_be_written_is_one_line_that_names_it(suffix, root, tmp_path):
    if suffix == ".onnx":
        pytest.importorskip("onnxscript")
    (tmp_path / "file").touch()
    (tmp_path / f"folder{suffix}").mkdir()
    for path in (tmp_path / "file" / f"ticket{suffix}", tmp_path / f"folder{suffix}"):
        with pytest.raises(LabError, match=rf"cannot write {path} \([A-Z].*\); choose another path"):
            export_ticket(load_ticket("small"), path)


class FakeHub:
    """Stub of huggingface_hub's HfApi: records what is uploaded, or raises `refusal` if it is set."""

    uploaded: ClassVar[dict[str, bytes]] = {}
    refusal: Exception | None = None

    def create_repo(self, repo_id: str, *, exist_ok: bool) -> str:
        if self.refusal:
            raise self.refusal
        return f"https://hub.example/{repo_id}"

    def upload_file(self, *, path_or_fileobj: Path, path_in_repo: str, repo_id: str) -> None:
        self.uploaded[f"{repo_id}/{path_in_repo}"] = path_or_fileobj.read_bytes()


def test_a_ticket_is_pushed_with_its_card_as_the_front_page(root, tmp_path, monkeypatch):
    monkeypatch.setattr(FakeHub, "uploaded", {})
    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(HfApi=FakeHub))
    path = export_ticket(load_ticket("small"), tmp_path / "ticket.safetensors")
    assert push_ticket(path, "me/ticket") == "https://hub.example/me/ticket"
    assert FakeHub.uploaded["me/ticket/ticket.safetensors"] == path.read_bytes()
    assert FakeHub.uploaded["me/ticket/README.md"].startswith(b"---\ntags: [lottery-ticket-hypothesis")


def test_a_hub_that_refuses_or_is_not_installed_is_one_line(root, tmp_path, monkeypatch):
    path = export_ticket(load_ticket("small"), tmp_path / "ticket.safetensors")
    monkeypatch.setattr(FakeHub, "refusal", OSError("Token is required, but no token found.\nLog in."))
    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(HfApi=FakeHub))
    with pytest.raises(LabError, match=r"^hub: me/ticket was not written \(Token is required.*\); .* is there$"):
        push_ticket(path, "me/ticket")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(LabError, match="not installed here; pip install"):
        push_ticket(path, "me/ticket")


def test_the_hub_is_called_as_it_is_defined():
    """The real package, if it is installed, has the methods and parameters of the stub above."""
    hub = pytest.importorskip("huggingface_hub").HfApi
    for name in ("create_repo", "upload_file"):
        theirs, ours = (inspect.signature(getattr(kind, name)).parameters for kind in (hub, FakeHub))
        assert ours.keys() <= theirs.keys()
