"""Damage: any change of a saved file is reported in one line, and following the advice in that line works."""

import io
import json
import os
import shutil
import tarfile
import threading
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from lthcore.analysis.ticket_tables import DISTRIBUTIONS, STRUCTURE, has_ticket_tables
from lthcore.data.datasets import load
from lthcore.errors import LabError
from lthcore.lottery.lineage import FILE
from lthcore.runs import archives, checkpoints, executor, files, runner
from lthcore.runs.archives import mirror, pack, unpack
from lthcore.runs.files import digest, read_record, read_table, read_tables, write_run
from lthcore.runs.folder import RunFolder
from lthcore.runs.lock import LOCK, locked
from lthcore.runs.runner import run
from lthcore.settings import Settings

RUN = Settings(
    dataset="digits", architecture="mlp", validation=200, iterations=40, eval_every=10, learning_rate=5e-3,
    arms=["ticket", "reinit"], trials=1, rounds=1, reinit_draws=1,
)  # fmt: skip
LONGER = RUN.changed(rounds=2)
TICKET = "tickets/ticket-trial0-draw0-round01.safetensors"
NAME = "paper/iterative_pruning/tiny"


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return make_root(tmp_path_factory.mktemp("there"))


def make_root(root: Path) -> Path:
    """Create a results root with a run of one round, its archive, and a longer version of the run; return the root."""
    run(RUN, root / NAME, quiet=True)
    pack(root, root / "tables.tar.gz", "paper")
    run(LONGER, root / "longer", quiet=True)
    return root


@pytest.fixture
def copied(root, tmp_path) -> Path:
    return Path(shutil.copytree(root / NAME, tmp_path / "run"))


def same_tables(folder: Path, other: Path) -> bool:
    mine, theirs = ([t.drop(columns="seconds", errors="ignore") for t in read_tables(f)] for f in (folder, other))
    return all(a.equals(b) for a, b in zip(mine, theirs, strict=True))


def one_line_about(path: Path, action) -> str:
    with pytest.raises(LabError) as caught:
        action()
    said = str(caught.value)
    assert "\n" not in said and path.name in said
    return said


def rewrite_ticket(path: Path, tensors=lambda name, t: t, metadata=lambda m: m, sealed: bool = False) -> None:
    """Change tensors and metadata of a ticket file; `sealed` renews its digest, as if a program had written it so."""
    with safe_open(path, framework="pt") as file:
        header, content = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    content = {name: tensors(name, t).contiguous() for name, t in content.items()}
    header = metadata(header)
    if sealed:
        header["digest"] = checkpoints._digest(header, content.items())
    save_file(content, path, header)


def in_state(**values):
    return lambda header: header | {"state": json.dumps(json.loads(header["state"]) | values)}


def in_curve(change):
    return lambda header: header | {"curve": json.dumps(change(json.loads(header["curve"])))}


def flip(name, tensor):
    if name == "final/fc1.weight":
        tensor = tensor.clone()
        tensor.view(torch.int32)[0, 0, 0] ^= 1
    return tensor


TICKETS = {
    "a flipped bit": ({"tensors": flip}, False),
    "another seed's weights": ({"tensors": lambda n, t: t + 0.5 * (t != 0) if n == "initial/fc1.weight" else t}, True),
    "weights that are all zero": ({"tensors": lambda n, t: t * 0 if n == "final/fc2.weight" else t}, False),
    "another dtype": ({"tensors": lambda n, t: t.double() if t.is_floating_point() else t}, True),
    "pruned weights that are not zero": ({"tensors": lambda n, t: t + 1 if n == "final/fc1.weight" else t}, True),
    "negative iterations": ({"metadata": in_state(iteration=-10)}, True),
    "iterations beyond the end": ({"metadata": in_state(iteration=50)}, True),
    "a curve off the grid": ({"metadata": in_curve(lambda c: [[p[0] + 3 * (p[0] == 20), *p[1:]] for p in c])}, True),
    "a curve cut short": ({"metadata": in_curve(lambda c: c[:-1])}, True),
    "no curve": ({"metadata": in_curve(lambda c: [])}, True),
    "an accuracy of 2": ({"metadata": in_curve(lambda c: [[*p[:4], 2.0, p[5]] for p in c])}, True),
    "a number of another kind": ({"metadata": in_state(seconds="long")}, True),
    "a number less": ({"metadata": lambda h: h | {"state": "{}"}}, True),
    "nothing said of its settings": ({"metadata": lambda h: {k: v for k, v in h.items() if k != "settings"}}, True),
}  # fmt: skip


@pytest.mark.parametrize("kind", TICKETS)
def test_a_damaged_ticket_is_noticed_and_made_again(kind, copied, root):
    changes, semantic = TICKETS[kind]
    whole = (copied / TICKET).read_bytes()
    for sealed in (False, True) if semantic else (False,):
        (copied / TICKET).write_bytes(whole)
        rewrite_ticket(copied / TICKET, **changes, sealed=sealed)
        said = one_line_about(copied / TICKET, lambda: run(LONGER, copied, quiet=True))
        assert "delete it" in said
    (copied / TICKET).unlink()  # as the message advises
    run(LONGER, copied, quiet=True)
    assert same_tables(copied, root / "longer")


def in_table(column: str, value) -> object:
    def change(table: pd.DataFrame) -> pd.DataFrame:
        table = table.astype(object)
        table.loc[1, column] = value
        return table

    return change


TABLES = {
    "a row cut out": (lambda t: t.drop(1), True),
    "rows twice": (lambda t: pd.concat([t, t[:1]]), True),
    "rows reversed": (lambda t: t[::-1], False),
    "an accuracy of 2": (in_table("test_accuracy", 2.0), True),
    "an infinite accuracy": (in_table("test_accuracy", float("inf")), True),
    "text for a number": (in_table("test_accuracy", "high"), True),
    "half a trial": (in_table("trial", 0.5), True),
    "a changed number": (in_table("test_accuracy", 0.5), False),
    "half of it": (lambda t: t[: len(t) // 2], True),
    "another column": (lambda t: t.rename(columns={"arm": "leg"}), True),
    "nothing": (lambda t: pd.DataFrame(), True),
}


@pytest.mark.parametrize("name", ["rounds.csv", "curves.csv"])
@pytest.mark.parametrize("kind", TABLES)
def test_a_damaged_table_is_noticed_and_made_again(kind, name, copied, root):
    change, semantic = TABLES[kind]
    if name == "curves.csv" and kind == "a row cut out":
        semantic = False  # curves are thinned, so a missing row cannot be noticed
    table = pd.read_csv(copied / name)
    if name == "rounds.csv":
        table = table.rename(columns={"final_test_accuracy": "test_accuracy"})
    table = change(table)
    if name == "rounds.csv":
        table = table.rename(columns={"test_accuracy": "final_test_accuracy"})
    (copied / name).write_text(table.to_csv(index=False))
    one_line_about(copied / name, lambda: read_table(copied, name))
    one_line_about(copied / name, lambda: run(LONGER, copied, quiet=True))
    if semantic:  # its content is wrong even if its digest is right
        record = read_record(copied)
        record["digests"][name] = digest((copied / name).read_bytes())
        (copied / "run.json").write_text(json.dumps(record))
        said = one_line_about(copied, lambda: run(LONGER, copied, quiet=True))
        assert "damaged" in said and "delete" in said
    for lost in ("rounds.csv", "curves.csv"):
        (copied / lost).unlink()
    run(LONGER, copied, quiet=True)
    assert same_tables(copied, root / "longer")


def test_one_table_alone_deleted_is_made_again(copied, root):
    (copied / "curves.csv").unlink()
    run(LONGER, copied, quiet=True)
    assert same_tables(copied, root / "longer")


def test_a_damaged_lineage_is_noticed_and_done_without(copied, root):
    content = bytearray((copied / FILE).read_bytes())
    content[-40] ^= 1
    (copied / FILE).write_bytes(content)
    said = one_line_about(copied / FILE, lambda: run(LONGER, copied, quiet=True))
    assert "delete it" in said
    for name in (STRUCTURE, DISTRIBUTIONS):
        (copied / name).unlink(missing_ok=True)
    assert one_line_about(copied / FILE, lambda: has_ticket_tables(copied)) == said
    (copied / FILE).unlink()
    run(LONGER, copied, quiet=True)
    assert same_tables(copied, root / "longer")


def test_tables_without_their_record_are_not_replaced(copied):
    record = (copied / "run.json").read_text()
    (copied / "run.json").unlink()
    before = (copied / "rounds.csv").read_bytes()
    assert "put it back" in one_line_about(copied, lambda: run(LONGER, copied, 0.0, quiet=True))
    assert (copied / "rounds.csv").read_bytes() == before
    (copied / "run.json").write_text(record)
    assert len(run(RUN, copied, quiet=True)[0]) == 3


def test_a_record_cut_short_is_done_without_where_ticket_files_are(copied, root, monkeypatch):
    text = (copied / "run.json").read_text()
    (copied / "run.json").write_text(text[: len(text) // 2])
    for action in (lambda: read_record(copied), lambda: run(RUN, copied, quiet=True)):
        said = one_line_about(copied / "run.json", action)
        assert (
            "delete it with rounds.csv and curves.csv" in said and "trainings with a ticket file here are kept" in said
        )
    for name in ("run.json", "rounds.csv", "curves.csv"):
        (copied / name).unlink()
    trained = []
    monkeypatch.setattr(executor, "train_cohort", lambda settings, data, cohort, *_, **__: trained.extend(cohort) or ())
    run(RUN, copied, quiet=True)
    assert not trained and same_tables(copied, root / NAME) and read_record(copied)["complete"]


@pytest.mark.parametrize(
    "values",
    [{"trainings_done": "three"}, {"trainings_done": -1}, {"settings": []}, {"run_key": 7}, {"digests": {"a": 1}}],
)
def test_a_record_of_other_types_is_one_line(values, copied):
    (copied / "run.json").write_text(json.dumps(read_record(copied) | values))
    one_line_about(copied / "run.json", lambda: read_record(copied))


def test_a_deep_record_is_one_line(copied):
    (copied / "run.json").write_text('{"run_key": "a", "b": ' + "[" * 100_000)
    one_line_about(copied / "run.json", lambda: read_record(copied))


def test_other_data_than_those_that_a_run_began_with_are_refused(copied, monkeypatch):
    data = replace(load(RUN), digest="0123456789abcdef")
    monkeypatch.setattr(runner.LocalExecutor, "load", lambda self, settings: data)
    said = one_line_about(copied, lambda: run(LONGER, copied, quiet=True))
    assert "the data are not those" in said and "0123456789abcdef" in said


def test_other_data_are_refused_once_a_training_has_a_checkpoint(tmp_path, monkeypatch):
    with pytest.raises(LabError, match="0 of 3 trainings done"):
        run(RUN, tmp_path, 0.0, quiet=True)
    other = replace(load(RUN), digest="0123456789abcdef")
    record = read_record(tmp_path) | {"data_digest": load(RUN).digest}
    (tmp_path / "run.json").write_text(json.dumps(record))
    folder = RunFolder(tmp_path, RUN)
    folder.use_data(other)  # nothing was trained: any data will do
    (tmp_path / "checkpoints/ticket-trial0-draw0-round00.safetensors").touch()
    with pytest.raises(LabError, match="the data are not those"):
        folder.use_data(other)


def test_a_run_without_a_training_done_has_no_tables_yet(tmp_path):
    with pytest.raises(LabError, match="0 of 3 trainings done"):
        run(RUN, tmp_path, 0.0, quiet=True)
    assert len(read_table(tmp_path, "rounds.csv")) == 0


def test_a_kill_between_two_files_leaves_what_can_be_read_and_goes_on(copied, root, monkeypatch):
    """While files are replaced, run.json has the digests of both their old and their new contents."""
    write, written = files.write, []

    def dies_at_the_second(path, content):
        written.append(path.name)
        if len(written) == 3:  # run.json and one table are written, the other table is not
            raise KeyboardInterrupt
        write(path, content)

    monkeypatch.setattr(files, "write", dies_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        files.write_run(copied, read_record(copied), {"curves.csv": "a,b\n1,2\n", "rounds.csv": "a,b\n3,4\n"})
    monkeypatch.undo()
    assert written[0] == "run.json" and "writing" in read_record(copied)
    assert read_record(copied)["writing"].keys() == {"curves.csv", "rounds.csv"}
    shutil.copy(root / NAME / "curves.csv", copied)  # the old content, whose digest is still known
    assert len(read_tables(copied)[0]) == 3
    run(LONGER, copied, quiet=True)
    assert "writing" not in read_record(copied) and same_tables(copied, root / "longer")


def archive_of(files: dict[str, bytes], path: Path, twice: str = "") -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name in [*files, *([twice] if twice else [])]:
            member = tarfile.TarInfo(f"{NAME}/{name}")
            member.size = len(files[name])
            tar.addfile(member, io.BytesIO(files[name]))
    return path


def table_of(files: dict[str, bytes], name: str, change) -> dict[str, bytes]:
    return files | {name: change(pd.read_csv(io.BytesIO(files[name]))).to_csv(index=False).encode()}


def without(files: dict[str, bytes], name: str) -> dict[str, bytes]:
    return {other: content for other, content in files.items() if other != name}


def record_of(files: dict[str, bytes], **values) -> dict[str, bytes]:
    return files | {"run.json": json.dumps(json.loads(files["run.json"]) | values).encode()}


ARCHIVES = {
    "a header only": lambda f: table_of(f, "rounds.csv", lambda t: t[:0]),
    "four columns": lambda f: table_of(f, "rounds.csv", lambda t: t[["arm", "trial", "draw", "round"]]),
    "a row cut": lambda f: table_of(f, "rounds.csv", lambda t: t[:-1]),
    "an accuracy of 5": lambda f: table_of(f, "rounds.csv", lambda t: t.assign(es_test_accuracy=5.0)),
    "rows twice": lambda f: table_of(f, "rounds.csv", lambda t: pd.concat([t, t])),
    "no curves": lambda f: without(f, "curves.csv"),
    "no record": lambda f: without(f, "run.json"),
    "curves that are binary": lambda f: f | {"curves.csv": bytes(range(256))},
    "curves of half of it": lambda f: table_of(f, "curves.csv", lambda t: t[t["round"] == 0]),
    "settings of another run": lambda f: record_of(f, settings=json.loads(f["run.json"])["settings"] | {"seed": 5}),
    "no settings": lambda f: record_of(f, settings={}),
    "a number of trainings that is not so": lambda f: record_of(f, trainings_done=2),
    "a lineage of nonsense": lambda f: f | {FILE: b"nonsense"},
    "a record of nonsense": lambda f: f | {"run.json": b"[" * 50_000},
}  # fmt: skip


def sealed(files: dict[str, bytes]) -> dict[str, bytes]:
    """Return the files with a run.json whose digests are theirs, if it can be read."""
    try:
        return record_of(files, digests={name: digest(c) for name, c in files.items() if name != "run.json"})
    except (KeyError, RecursionError):
        return files


@pytest.mark.parametrize("seal", [False, True], ids=["as it was", "sealed"])
@pytest.mark.parametrize("kind", ARCHIVES)
def test_an_archive_that_is_not_whole_changes_nothing(kind, seal, root, tmp_path):
    less = RUN.changed(rounds=0)
    run(less, tmp_path / NAME, quiet=True)  # a part of the run in the archive
    before = {p: p.read_bytes() for p in tmp_path.rglob("*.*") if p.is_file()}
    files = {path.name: path.read_bytes() for path in archives.tables_in(root / NAME)}
    changed = ARCHIVES[kind](files)
    bad = archive_of(sealed(changed) if seal else changed, tmp_path / "bad.tar.gz")
    with pytest.raises(LabError) as caught:
        unpack(bad, tmp_path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 700
    bad.unlink()
    assert {p: p.read_bytes() for p in tmp_path.rglob("*.*") if p.is_file()} == before
    assert "more of it (3 trainings)" in unpack(archive_of(files, tmp_path / "good.tar.gz"), tmp_path)[0]


def test_a_member_twice_another_packing_and_a_sparse_member_are_refused(root, tmp_path):
    files = {path.name: path.read_bytes() for path in archives.tables_in(root / NAME)}
    with pytest.raises(LabError, match="twice"):
        unpack(archive_of(files, tmp_path / "twice.tar.gz", twice="rounds.csv"), tmp_path / "root")
    with tarfile.open(tmp_path / "x.tar.xz", "w:xz") as tar:
        tar.add(root / NAME / "run.json", f"{NAME}/run.json")
    import gzip

    (tmp_path / "x.tar.gz").write_bytes(gzip.compress((tmp_path / "x.tar.xz").read_bytes()))
    with pytest.raises(LabError, match="not a readable archive"):
        unpack(tmp_path / "x.tar.gz", tmp_path / "root")
    claims = tarfile.TarInfo(f"{NAME}/run.json")
    claims.size = 1 << 45  # 35 terabytes
    (tmp_path / "huge.tar.gz").write_bytes(gzip.compress(claims.tobuf() + bytes(1024)))
    with pytest.raises(LabError):
        unpack(tmp_path / "huge.tar.gz", tmp_path / "root")
    assert not (tmp_path / "root").exists()


def test_one_damaged_run_of_an_archive_keeps_all_of_it_out(root, tmp_path):
    with tarfile.open(tmp_path / "two.tar.gz", "w:gz") as tar:
        for variant in ("one", "two"):
            for path in archives.tables_in(root / NAME):
                if variant == "one" or path.name != "curves.csv":
                    tar.add(path, f"paper/iterative_pruning/{variant}/{path.name}")
    with pytest.raises(LabError, match=r"paper/iterative_pruning/two is damaged .*curves"):
        unpack(tmp_path / "two.tar.gz", tmp_path / "root")
    assert not (tmp_path / "root").exists()


def test_a_full_disk_while_unpacking_loses_nothing(root, tmp_path, monkeypatch):
    run(RUN.changed(rounds=0), tmp_path / NAME, quiet=True)
    before = {p: p.read_bytes() for p in (tmp_path / NAME).glob("*.*")}
    count, write = iter(range(100)), archives.write

    def full(path, content):
        if next(count) == 2:
            raise OSError(28, "No space left on device")
        write(path, content)

    monkeypatch.setattr(archives, "write", full)
    with pytest.raises(LabError, match="No space left"):
        unpack(root / "tables.tar.gz", tmp_path)
    assert {p: p.read_bytes() for p in (tmp_path / NAME).glob("*.*")} == before
    assert not list(tmp_path.rglob("*.unpacking"))


@pytest.mark.parametrize("renames", range(4))
def test_a_kill_while_unpacking_leaves_tables_that_can_be_read_and_completed(renames, root, tmp_path, monkeypatch):
    run(RUN.changed(rounds=0), tmp_path / NAME, quiet=True)
    count, replace = iter(range(100)), Path.replace

    def dies(self, target):
        if self.parent.name.endswith(".unpacking") and next(count) == renames:
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        unpack(root / "tables.tar.gz", tmp_path)
    monkeypatch.undo()
    assert {len(table) > 0 for table in read_tables(tmp_path / NAME)} == {True}
    assert "(3 trainings)" in unpack(root / "tables.tar.gz", tmp_path)[0]
    assert same_tables(tmp_path / NAME, root / NAME)


def test_a_run_at_work_is_not_unpacked_into(root, tmp_path):
    run(RUN.changed(rounds=0), tmp_path / NAME, quiet=True)
    with locked(tmp_path / NAME / LOCK), pytest.raises(LabError, match="is in use by process"):
        unpack(root / "tables.tar.gz", tmp_path)
    assert len(read_tables(tmp_path / NAME)[0]) == 1


def test_a_process_that_only_looks_who_holds_a_lock_is_waited_for(tmp_path):
    """`holder` has the lock for an instant; a run that starts in this instant goes on."""
    fcntl = pytest.importorskip("fcntl")
    path = tmp_path / "run" / "lock.json"
    with locked(path):
        pass
    with path.open() as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        threading.Timer(0.1, lambda: fcntl.flock(looking, fcntl.LOCK_UN)).start()
        with locked(path):
            assert json.loads(path.read_text())["process"] == os.getpid()


def test_a_run_that_ends_while_it_is_unpacked_keeps_its_trainings(root, tmp_path, monkeypatch):
    """It is compared again once it is locked."""
    run(RUN.changed(rounds=0), tmp_path / NAME, quiet=True)

    @contextmanager
    def ends_first(path):
        run(LONGER, tmp_path / NAME, quiet=True)
        with locked(path):
            yield

    monkeypatch.setattr(archives, "locked", ends_first)
    assert "left alone: as much is here" in unpack(root / "tables.tar.gz", tmp_path)[0]
    assert same_tables(tmp_path / NAME, root / "longer")


def writes_meanwhile(monkeypatch, folder: Path, longer: Path) -> None:
    """Let another process write more of a run when one of its tables has been read for the first time."""
    usual, later = Path.read_bytes, iter([True])

    def read(path: Path) -> bytes:
        content = usual(path)
        if path.name == "curves.csv" and next(later, False):
            for name in ("curves.csv", "rounds.csv", "lineage.safetensors.gz", "run.json"):
                shutil.copy(longer / name, folder / name)
        return content

    monkeypatch.setattr(Path, "read_bytes", read)


def test_a_run_is_packed_whole_while_it_is_written(root, tmp_path, monkeypatch):
    shutil.copytree(root / NAME, tmp_path / NAME)
    with monkeypatch.context() as patch:
        writes_meanwhile(patch, tmp_path / NAME, root / "longer")
        pack(tmp_path, tmp_path / "tables.tar.gz", "paper")
    unpack(tmp_path / "tables.tar.gz", tmp_path / "there")
    assert same_tables(tmp_path / "there" / NAME, root / "longer")


def test_a_run_is_mirrored_whole_while_it_is_written(root, tmp_path, monkeypatch):
    shutil.copytree(root / NAME, tmp_path / NAME)
    with monkeypatch.context() as patch:
        writes_meanwhile(patch, tmp_path / NAME, root / "longer")
        mirror(tmp_path / NAME, tmp_path, str(tmp_path / "there"))
    assert same_tables(tmp_path / "there" / NAME, root / "longer")


def test_a_table_with_a_digit_in_its_name_travels(root, tmp_path):
    shutil.copytree(root / NAME, tmp_path / NAME)
    write_run(tmp_path / NAME, read_record(tmp_path / NAME), {"top5.csv": "a\n1\n"})
    pack(tmp_path, tmp_path / "tables.tar.gz", "paper")
    unpack(tmp_path / "tables.tar.gz", tmp_path / "there")
    assert (tmp_path / "there" / NAME / "top5.csv").read_text() == "a\n1\n"


def test_every_committed_file_is_what_its_run_says_was_written(committed):
    folders = [path.parent for path in committed.glob("*/*/*/run.json")]
    digests = {folder / name: known for folder in folders for name, known in read_record(folder)["digests"].items()}
    assert len(folders) > 100 and {path.parent for path in digests} == set(folders)
    assert not [path for path, known in digests.items() if files.digest(path.read_bytes()) != known]
