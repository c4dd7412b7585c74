"""Archives: tables of runs, packed into one file, mirrored to shared storage, and merged into other results folders."""

import gzip
import io
import json
import os
import re
import shutil
import tarfile
import zlib
from contextlib import ExitStack
from pathlib import Path

import pandas as pd

from lthcore.errors import LabError, counted, one_line
from lthcore.lottery import lineage
from lthcore.lottery.lineage import Lineage
from lthcore.lottery.methods import planned, settings_of
from lthcore.paths import PROFILES
from lthcore.runs.files import (
    SEEN_CHANGING,
    digest,
    read_record,
    read_table,
    replicate_of,
    rows_of,
    write,
    write_json,
)
from lthcore.runs.lock import LOCK, locked
from lthcore.runs.schemas import COLUMNS, check_record, check_table, check_whole

# the only files that an archive contains, and the only ones unpacked: tickets and checkpoints stay on the machine that
# made them
TABLE = re.compile(r"[a-z][a-z0-9_]*\.(csv|json)|" + re.escape(lineage.FILE))
PLAIN = re.compile(r"[\w+-][\w.+-]*")  # a path component: no `..`, no hidden file, no separator
LARGEST = 1 << 29  # maximum size of an unpacked archive, in bytes

Files = dict[str, bytes]


class _CodeNeeded(LabError):
    """A run's settings name code of the user's own that is not loaded."""


def check_archive(archive: Path) -> None:
    """Raise LabError if an archive cannot be written, before a long training ends in that error."""
    if archive.is_dir() or not archive.name:
        raise LabError(f"pack: {archive} is a folder; name a file in it, such as {archive / 'tables.tar.gz'}")
    probe = archive.with_name(f".{archive.name}.{os.getpid()}.probe")
    try:
        archive.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise LabError(f"pack: {archive} cannot be written ({error.strerror})") from None


def pack(root: Path, archive: Path, profile: str) -> int:
    """Pack the tables of all runs of a profile into a .tar.gz archive; return the number of runs."""
    folders = sorted(path.parent for path in (root / profile).glob("*/*/run.json"))
    archive.parent.mkdir(parents=True, exist_ok=True)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for folder in folders:
            for name, content in _files_of(folder).items():
                member = tarfile.TarInfo((folder / name).relative_to(root).as_posix())
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    write(archive, packed.getvalue())
    return len(folders)


def _files_of(folder: Path) -> Files:
    """Return the content of a run's tables, lineage and run.json, which is last, all of one state of the run.

    Another process may be writing them: then they are read again, until run.json stays the same meanwhile.
    """
    record = folder / "run.json"
    for _ in range(SEEN_CHANGING):
        before = record.read_bytes()
        files = {path.name: path.read_bytes() for path in tables_in(folder) if path != record}
        if record.read_bytes() == before:
            break
    return files | {record.name: before}


def tables_in(folder: Path) -> list[Path]:
    """Return the paths of a run's tables, record and lineage: all that is needed to continue it on another machine."""
    return sorted(path for path in folder.iterdir() if path.is_file() and TABLE.fullmatch(path.name))


def mirror(folder: Path, root: Path, url: str) -> None:
    """Copy a run's tables to shared storage: any URL of fsspec, for example `s3://bucket/lab`, or a shared folder.

    Nothing is copied if the same run.json, which is copied last and has the digests of the tables, is there already,
    beside files of the names of all tables. Raises LabError if copying fails, for whatever reason; the local tables
    are not affected.
    """
    files, place = mirror_of(url)
    there = f"{place}/{folder.relative_to(root).as_posix()}"
    try:
        if not (folder / "run.json").exists():
            return
        tables = _files_of(folder)
        present = all(files.exists(f"{there}/{name}") for name in tables)
        if present and files.cat_file(f"{there}/run.json") == tables["run.json"]:
            return
        files.makedirs(there, exist_ok=True)
        for name, content in tables.items():
            files.pipe_file(f"{there}/{name}", content)
    except Exception as error:  # each file system raises its own exceptions
        raise LabError(
            f"mirror: the tables could not be copied to {url} ({one_line(error)}); run the command again"
        ) from None


def mirror_of(url: str) -> tuple:
    """Return the fsspec file system and path of a URL. Raises LabError if the URL cannot be used on this machine."""
    from fsspec.core import url_to_fs

    try:
        return url_to_fs(url)
    except Exception as error:  # for example a missing package or an unknown protocol
        raise LabError(f"mirror: {url} cannot be reached from here ({one_line(error)})") from None


def unpack(archive: Path, root: Path) -> list[str]:
    """Merge an archive written by `pack` into a results folder; return a line for each run that says what was done.

    A run is unpacked if the results folder does not have it, or if the archive has all trainings that are there and
    more (or as many, if a write there was interrupted). All other runs are left alone: no training is lost. So are runs
    with code of the user's own that is not loaded. The whole archive is verified before anything is written, and
    existing tables stay until the new ones are complete.
    Raises LabError if the archive is damaged or holds anything but tables in their places, if another process is
    working on one of the runs, or if writing fails.
    """
    runs, lines, going_in = _read(archive), {}, {}
    for name, files in runs.items():
        try:
            _verify(files)
        except _CodeNeeded as needed:
            lines[name] = f"left alone: {needed}"
        except (ValueError, LabError) as error:
            raise LabError(f"unpack: {archive}: {name} is damaged ({one_line(error)}); nothing was unpacked") from None
    todo = {name: files for name, files in runs.items() if name not in lines}
    with ExitStack() as held:
        for name, files in todo.items():
            folder = root / name
            lines[name], goes_in = _compare(folder, files)
            if goes_in:
                held.enter_context(locked(folder / LOCK))
                lines[name], goes_in = _compare(folder, files)  # again: a run may have ended before it was locked
            if goes_in:
                going_in[folder] = files
        try:
            for folder, files in going_in.items():
                _stage(folder, files)
            for folder, files in going_in.items():
                _swap(folder, files)
        except OSError as error:
            raise LabError(f"unpack: {one_line(error)}; make room, and run the command again") from None
        finally:
            for folder in going_in:
                shutil.rmtree(_staging(folder), ignore_errors=True)
    return [f"{name}: {line}" for name, line in sorted(lines.items())]


def _read(archive: Path) -> dict[str, Files]:
    """Return the files of each run in an archive, by name of the run. Raises LabError if the archive is not valid."""
    runs: dict[str, Files] = {}
    try:
        with gzip.open(archive) as packed:
            content = packed.read(LARGEST + 1)  # reading to the end verifies the checksum of gzip
        if len(content) > LARGEST:
            raise LabError(f"unpack: {archive} holds more than {LARGEST >> 20} MB, which no tables do")
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
            for member in tar:
                run, file = _place(archive, member)
                if file in runs.setdefault(run, {}):
                    raise LabError(f"unpack: {archive} holds {member.name!r} twice")
                runs[run][file] = tar.extractfile(member).read()
    except (OSError, tarfile.TarError, EOFError, zlib.error, ValueError) as error:
        raise LabError(f"unpack: {archive} is not a readable archive ({one_line(error)})") from None
    return runs


def _place(archive: Path, member: tarfile.TarInfo) -> tuple[str, str]:
    """Return the run and the file name of an archive member. Raises LabError if it is not a table of a run."""
    parts = member.name.split("/")
    plain = member.isfile() and not member.issparse() and member.size <= LARGEST
    if not plain or len(parts) != 4 or not TABLE.fullmatch(parts[3]) or not all(map(PLAIN.fullmatch, parts)):
        raise LabError(f"unpack: {archive} holds {one_line(repr(member.name))}, which is no table of a run")
    if parts[0] not in PROFILES:
        raise LabError(f"unpack: {archive} holds {one_line(repr(member.name))}, which is of no profile")
    return "/".join(parts[:3]), parts[3]


def _verify(files: Files) -> None:
    """Raise ValueError or LabError if a file of the run is missing, damaged, or inconsistent with run.json.

    Raises _CodeNeeded if that cannot be said without the code that the run was made with.
    """
    for name in ("run.json", *COLUMNS):
        if name not in files:
            raise ValueError(f"it lacks {name}")
    record = check_record(_json(files["run.json"]))
    try:
        settings = settings_of(record.get("settings") or {})
    except LabError:
        if not record.get("own_code"):
            raise
        raise _CodeNeeded(f"it needs {', '.join(record['own_code'])}; give the code with --plugin FILE") from None
    if settings.key != record["run_key"]:
        raise ValueError(f"its settings are those of {settings.key}, not of {record['run_key']}")
    known = [record.get(which, {}) for which in ("digests", "writing")]
    if lost := (known[0] | known[1]).keys() - files.keys():
        raise ValueError(f"it lacks {', '.join(sorted(lost))}")
    for name, content in files.items():
        digests = {digests[name] for digests in known if name in digests}
        if digests and digest(content) not in digests:
            raise ValueError(f"{name} is not what its run.json says was written")
        if name.endswith(".json"):
            _json(content)
    tables = {name: pd.read_csv(io.BytesIO(content)) for name, content in files.items() if name.endswith(".csv")}
    tables |= {name: check_table(name, tables[name]) for name in COLUMNS}
    if "writing" not in record:
        check_whole(record, tables["rounds.csv"], tables["curves.csv"])
        missing = set(planned(settings)) - _replicates(tables["rounds.csv"])
        if record.get("complete") and missing and not record.get("trainings_diverged"):
            raise ValueError(f"it is said to be complete, and {len(missing)} of its trainings are missing")
    if lineage.FILE in files:
        Lineage.from_bytes(files[lineage.FILE], settings.key)


def _json(content: bytes) -> object:
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("its JSON is too deep") from None


def _replicates(rounds: pd.DataFrame) -> set:
    return {replicate_of(row) for row in rows_of(rounds)}


def _compare(folder: Path, files: Files) -> tuple[str, bool]:
    """Return a line that says what is done with a run of an archive, and whether it is to be unpacked."""
    ours, theirs = read_record(folder), json.loads(files["run.json"])
    rows = _replicates(pd.read_csv(io.BytesIO(files["rounds.csv"])))
    if not ours:
        if any((folder / name).exists() for name in COLUMNS):
            return "left alone: tables without a run.json are there; move them away", False
        return f"new ({counted(len(rows), 'training')})", True
    if ours["run_key"] != theirs["run_key"]:
        return f"left alone: another run ({ours['run_key']}) is there, not {theirs['run_key']}", False
    if ours.get("data_digest") and theirs.get("data_digest") and ours["data_digest"] != theirs["data_digest"]:
        return "left alone: it had other data than the run that is here", False
    code = ours.get("own_code", {})
    if changed := [name for name, digest in theirs.get("own_code", {}).items() if code.get(name, digest) != digest]:
        return f"left alone: it had other code of {', '.join(changed)} than the run that is here", False
    here = folder / "rounds.csv"
    mine = _replicates(read_table(folder, "rounds.csv")) if here.exists() else set()
    if mine and mine >= rows and "writing" not in ours:
        return f"left alone: as much is here ({counted(len(mine), 'training')})", False
    if mine - rows:
        return f"left alone: the archive lacks {counted(len(mine - rows), 'training')} of the run that is here", False
    return f"{'more of it' if mine else 'new'} ({counted(len(rows), 'training')})", True


def _staging(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.unpacking")


def _stage(folder: Path, files: Files) -> None:
    """Write the files to a folder beside the run's folder, so that only renames are left to do."""
    staging = _staging(folder)
    staging.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write(staging / name, content)


def _swap(folder: Path, files: Files) -> None:
    """Replace a run's files with the staged ones.

    If the process is killed midway, run.json lists the digests of both the old and the new tables.
    """
    ours, staging = read_record(folder), _staging(folder)
    new = {name: digest(content) for name, content in files.items() if name != "run.json"}
    promise = {"digests": ours.get("digests", {}), "writing": ours.get("writing", {}) | new}
    write_json(folder / "run.json", (ours or read_record(staging)) | promise)
    for name in new:
        (staging / name).replace(folder / name)
    for path in tables_in(folder):
        if path.name not in files:  # was derived from fewer trainings
            path.unlink()
    (staging / "run.json").replace(folder / "run.json")
