"""The queue: experiments in their written order; and archives, which carry tables and cannot do harm."""

import io
import json
import tarfile
from contextlib import suppress
from pathlib import Path

import pytest

from lthcore.analysis.ticket_tables import write_ticket_tables
from lthcore.errors import LabError
from lthcore.lottery.methods import planned
from lthcore.paths import PROFILES, project_root
from lthcore.recipe import EXTENT
from lthcore.runs.archives import pack, unpack
from lthcore.runs.experiments import NoSuchProfile, load_experiments, params_files
from lthcore.runs.files import read_record
from lthcore.runs.queue import Less, queued
from lthcore.runs.runner import run
from lthcore.settings import Settings

TINY = Settings(
    dataset="digits", architecture="mlp", validation=200, iterations=20, eval_every=10, arms=["ticket", "reinit"],
    trials=1, rounds=1, reinit_draws=1,
)  # fmt: skip
NAME = "paper/iterative_pruning/tiny"


def forget_digests(folder):
    """Remove the digests from run.json, as in runs of older versions, so that tables can be replaced."""
    record = read_record(folder)
    (folder / "run.json").write_text(json.dumps({name: value for name, value in record.items() if name != "digests"}))


@pytest.mark.parametrize("profile", PROFILES)
def test_the_committed_queue_holds_every_experiment_once_whole(profile):
    entries, written = list(queued(profile)), {}
    for path in params_files():
        with suppress(NoSuchProfile):
            written |= {e.name: e.settings for e in load_experiments(path, profile)}
    for entry in entries:
        assert set(planned(entry.settings)) <= set(planned(written[entry.name]))
        assert entry.settings.key == written[entry.name].key
    assert {entry.name: entry.settings for entry in entries} == written  # the last entry asks for all that is written
    assert entries[0].name == f"{profile}/iterative_pruning/lenet_mnist"


@pytest.mark.parametrize(
    "text",
    [
        "- {only: {trials: 1}}",
        "- [a]",
        "- {params: a/b, only: {learning_rate: 1}}",
        "- {params: a/b, every: 1}",
        "- {params: dynamic_pruning/lenet_mnist, labels: [97.5]}",
        "",
        "params: a/b",
        "-",
        "- a/b",
        "- {params: 3}",
        "- {params: ../../etc/passwd}",
        "- {params: a/../b}",
        "- {params: iterative_pruning/.x}",
        "- {params: lenet_mnist}",
        '- {params: "a/b\\0"}',
        "- {params: iterative_pruning/lenet_mnist, only: {device: cuda}}",
        "- {params: iterative_pruning/lenet_mnist, only: {engine: dense}}",
        "- {params: iterative_pruning/lenet_mnist, only: [arms]}",
        "- {params: iterative_pruning/lenet_mnist, only: {arms: ticket}}",
        "- {params: iterative_pruning/lenet_mnist, only: {arms: [ticket, reinti]}}",
        "- {params: iterative_pruning/lenet_mnist, only: {arms: [1]}}",
        "- {params: iterative_pruning/lenet_mnist, only: {trials: one}}",
        "- {params: iterative_pruning/lenet_mnist, only: {trials: true}}",
        "- {params: iterative_pruning/lenet_mnist, only: {trials: 1.5}}",
        "- {params: iterative_pruning/lenet_mnist, only: {trials: 0}}",
        "- {params: iterative_pruning/lenet_mnist, only: {rounds: }}",
        "- {params: dynamic_pruning/lenet_mnist, only: {rounds: 1}}",
        "- {params: dynamic_pruning/lenet_mnist, labels: []}",
        "- {params: dynamic_pruning/lenet_mnist, labels: '98'}",
        "- {params: dynamic_pruning/lenet_mnist, labels: [[98]]}",
    ],
)
def test_a_queue_that_cannot_be_used_is_one_line(tmp_path, text):
    for study in ("iterative_pruning", "dynamic_pruning"):
        (tmp_path / study).symlink_to(project_root() / "params" / study)
    (tmp_path / "QUEUE.yaml").write_text(text)
    with pytest.raises(LabError) as caught:
        list(queued("cpu", tmp_path / "QUEUE.yaml"))
    assert "\n" not in str(caught.value) and "cannot read" not in str(caught.value) and "QUEUE" in str(caught.value)


def test_an_entry_that_cannot_be_used_hides_no_other(tmp_path):
    (tmp_path / "iterative_pruning").symlink_to(project_root() / "params" / "iterative_pruning")
    (tmp_path / "QUEUE.yaml").write_text(
        "[{params: iterative_pruning/none_such}, {params: iterative_pruning/mlp_digits},"
        " {params: iterative_pruning/mlp_digits, only: {rounds: -1}}]"
    )
    errors = []
    assert [e.variant for e in queued("cpu", tmp_path / "QUEUE.yaml", errors)] == ["mlp_digits"]
    assert "none_such" in str(errors[0]) and "rounds" in str(errors[1]) and len(errors) == 2


def test_an_entry_asks_for_how_much_is_run_and_nothing_else():
    assert set(Less.__annotations__) == set(EXTENT) - {"device", "engine"}


def test_an_entry_never_asks_for_more_than_the_profile_does(tmp_path):
    """`only` reduces an experiment: an entry never asks for more than the profile, so small profiles stay short."""
    (tmp_path / "iterative_pruning").mkdir()
    (tmp_path / "iterative_pruning" / "a.yaml").write_text(
        "{dataset: digits, validation: 200, arms: [ticket, reinit], profiles: {cpu: {trials: 2, rounds: 5}}}"
    )
    (tmp_path / "QUEUE.yaml").write_text(
        "- {params: iterative_pruning/a, only: {trials: 9, rounds: 3, arms: [random, ticket]}}"
    )
    [entry] = queued("cpu", tmp_path / "QUEUE.yaml")
    assert (entry.settings.trials, entry.settings.rounds, entry.settings.arms) == (2, 3, ("ticket",))


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    root = tmp_path_factory.mktemp("there")
    run(TINY, root / NAME, quiet=True)
    write_ticket_tables(root / NAME)
    assert pack(root, root / "tables.tar.gz", "paper") == 1
    return root


def test_unpacked_tables_are_the_packed_ones_and_nothing_else_travels(packed, tmp_path):
    [line] = unpack(packed / "tables.tar.gz", tmp_path)
    assert line == f"{NAME}: new (3 trainings)"
    for name in ("rounds.csv", "curves.csv", "run.json", "structure.csv", "distributions.csv"):
        assert (tmp_path / NAME / name).read_bytes() == (packed / NAME / name).read_bytes()
    assert not list(tmp_path.rglob("*.safetensors"))
    assert len(run(TINY, tmp_path / NAME, quiet=True)[0]) == 3  # the run is complete on this machine as well


@pytest.mark.parametrize("renames", range(5))
def test_unpacking_that_was_killed_is_completed_by_the_same_command(renames, packed, tmp_path, monkeypatch):
    """A new run, killed after any number of its files were moved into place."""
    left, usual = iter(range(renames)), Path.replace

    def until_killed(self: Path, target: Path) -> Path:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return usual(self, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", until_killed)
        unpack(packed / "tables.tar.gz", tmp_path)
    unpack(packed / "tables.tar.gz", tmp_path)
    for path in (packed / NAME).glob("*.*"):
        assert (tmp_path / NAME / path.name).read_bytes() == path.read_bytes(), path.name


def test_unpacking_keeps_what_is_as_much_or_another_run_and_takes_what_is_more(packed, tmp_path):
    unpack(packed / "tables.tar.gz", tmp_path)
    path = tmp_path / NAME / "rounds.csv"
    whole, record = path.read_text(), read_record(tmp_path / NAME)
    assert "left alone: as much is here" in unpack(packed / "tables.tar.gz", tmp_path)[0]
    forget_digests(tmp_path / NAME)
    path.write_text("".join(whole.splitlines(keepends=True)[:2]))
    assert "more of it (3 trainings)" in unpack(packed / "tables.tar.gz", tmp_path)[0]
    assert path.read_text() == whole
    forget_digests(tmp_path / NAME)
    path.write_text(whole.replace("reinit,0,0,1", "random,0,0,1"))  # as many training runs, but other ones
    assert (
        "left alone: the archive lacks 1 training of the run that is here"
        in unpack(packed / "tables.tar.gz", tmp_path)[0]
    )
    (tmp_path / NAME / "run.json").write_text(json.dumps(record | {"run_key": "other"}))
    assert "left alone: another run (other)" in unpack(packed / "tables.tar.gz", tmp_path)[0]


def test_every_flipped_bit_is_noticed(packed, tmp_path):
    whole = bytearray((packed / "tables.tar.gz").read_bytes())
    for place in range(20, len(whole) - 8, len(whole) // 40):
        flipped = bytearray(whole)
        flipped[place] ^= 1
        (tmp_path / "flipped.tar.gz").write_bytes(flipped)
        with pytest.raises(LabError):
            unpack(tmp_path / "flipped.tar.gz", tmp_path / "root")
    (tmp_path / "cut.tar.gz").write_bytes(whole[:-9])
    with pytest.raises(LabError):
        unpack(tmp_path / "cut.tar.gz", tmp_path / "root")
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize(
    "name",
    [
        "../outside/a/run.json",
        "/etc/a/b/run.json",
        "paper/../../run.json",
        "paper/a/b/run.sh",
        "cheap/a/b/run.json",
        "run.json",
        r"cpu/..\..\q/b/run.json",
    ],
)
def test_members_that_lead_out_or_are_no_tables_are_refused(name, tmp_path):
    archive, root = tmp_path / "bad.tar.gz", tmp_path / "root"
    root.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        member = tarfile.TarInfo(name)
        member.size = 2
        tar.addfile(member, io.BytesIO(b"{}"))
    with pytest.raises(LabError):
        unpack(archive, root)
    assert not list(root.iterdir()) and not (tmp_path / "outside").exists()


def test_links_are_refused(tmp_path):
    with tarfile.open(tmp_path / "bad.tar.gz", "w:gz") as tar:
        member = tarfile.TarInfo("paper/a/b/run.json")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(member)
    with pytest.raises(LabError):
        unpack(tmp_path / "bad.tar.gz", tmp_path / "root")


def test_a_truncated_archive_and_a_damaged_record_are_one_line(packed, tmp_path):
    whole = (packed / "tables.tar.gz").read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.tar.gz").write_text("no archive")
    with tarfile.open(tmp_path / "record.tar.gz", "w:gz") as tar:
        member = tarfile.TarInfo("paper/a/b/run.json")
        member.size = 1
        tar.addfile(member, io.BytesIO(b"{"))
    for name in ("cut", "text", "record", "nowhere"):
        with pytest.raises(LabError) as caught:
            unpack(tmp_path / f"{name}.tar.gz", tmp_path / "root")
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "root").exists()
