"""Queue: the experiments in their written order (params/QUEUE.yaml), and archives that carry their tables."""

import gzip
import io
import json
import re
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import yaml

from lthcore import lineage
from lthcore.experiments import PROFILES, Experiment, load_experiments
from lthcore.records import REPLICATE, ROUNDS, read_record, read_table, replicate_of
from lthcore.settings import EXTENT, LabError, choose, one_line, project_root

# what an archive carries, and nothing else is unpacked: tickets and checkpoints stay on the machine that made them
TABLE = re.compile(r"[a-z][a-z_]*\.(csv|json)|" + re.escape(lineage.FILE))
PLAIN = re.compile(r"[\w+-][\w.+-]*")  # a name that leads nowhere
LARGEST = 1 << 29  # bytes unpacked


def queued(profile: str, path: Path | None = None) -> Iterator[Experiment]:
    """The experiments of params/QUEUE.yaml in their order, under a profile. Raises LabError for a bad entry."""
    path = path or project_root() / "params" / "QUEUE.yaml"
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise LabError(f"queue: cannot read {path} ({one_line(error)})") from None
    for entry in entries:
        if not isinstance(entry, dict) or "params" not in entry or entry.keys() - {"params", "only", "labels"}:
            raise LabError(f"queue: {path}: {entry!r} must have params: <notebook>/<variant>, may have only:, labels:")
        only = entry.get("only") or {}
        if only.keys() - set(EXTENT):
            raise LabError(f"queue: {path}: {entry['params']}: only may name {', '.join(EXTENT)}")
        experiments = load_experiments(path.parent / f"{entry['params']}.yaml", profile)
        if "labels" in entry:
            stem = entry["params"].partition("/")[2]
            by_label = {e.variant.removeprefix(f"{stem}-"): e for e in experiments}
            experiments = [
                by_label[choose(f"queue: {path}: labels", str(label), by_label)] for label in entry["labels"]
            ]
        for experiment in experiments:
            # never more than the profile asks for
            asked = experiment.settings.model_dump()
            if only.keys() - asked.keys():
                missing = ", ".join(sorted(only.keys() - asked.keys()))
                raise LabError(f"queue: {path}: {entry['params']}: this study has no {missing}")
            less = {
                k: [arm for arm in v if arm in asked[k]] if k == "arms" else min(v, asked[k]) for k, v in only.items()
            }
            yield experiment._replace(settings=experiment.settings.changed(**less))


def pack(root: Path, archive: Path, profile: str) -> int:
    """Write every run's tables under a profile into a .tar.gz; return how many runs."""
    folders = sorted(path.parent for path in (root / profile).glob("*/*/run.json"))
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w:gz") as tar:
        for folder in folders:
            for path in tables_in(folder):
                tar.add(path, arcname=path.relative_to(root).as_posix())
    return len(folders)


def tables_in(folder: Path) -> list[Path]:
    """The tables, record and lineage of a run: all that it needs to go on elsewhere."""
    return sorted(path for path in folder.iterdir() if path.is_file() and TABLE.fullmatch(path.name))


def mirror(folder: Path, root: Path, url: str) -> None:
    """Copy a run's tables to where all can see them: any path of fsspec, `s3://bucket/lab` or a shared folder.

    Raises LabError where that fails, for whatever reason: the tables themselves are safe.
    """
    files, place = mirror_of(url)
    try:
        for path in tables_in(folder) if folder.exists() else ():
            target = f"{place}/{path.relative_to(root).as_posix()}"
            files.makedirs(target.rpartition("/")[0], exist_ok=True)
            files.put(str(path), target)
    except Exception as error:  # each file system has errors of its own
        raise LabError(f"mirror: {url} does not take the tables ({one_line(error)}); give the command again") from None


def mirror_of(url: str) -> tuple:
    """The file system and path of a URL. Raises LabError where nothing here can reach it."""
    from fsspec.core import url_to_fs

    try:
        return url_to_fs(url)
    except Exception as error:  # a package that is missing, a protocol that nobody knows
        raise LabError(f"mirror: {url} cannot be reached from here ({one_line(error)})") from None


def unpack(archive: Path, root: Path) -> list[str]:
    """Merge an archive of `pack` into a results folder; return a line for each run.

    A run goes in where there is none, or where all trainings of the one there are in it too: nothing is lost.
    Raises LabError for an archive that is damaged, or that holds anything but tables in their places.
    """
    runs: dict[str, dict[str, bytes]] = {}
    try:
        with gzip.open(archive) as packed:
            content = packed.read(LARGEST + 1)  # to the end, which checks its sum
        if len(content) > LARGEST:
            raise LabError(f"unpack: {archive} holds more than {LARGEST >> 20} MB, which no tables do")
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            for member in tar:
                parts = member.name.split("/")
                if (
                    not member.isfile()
                    or len(parts) != 4
                    or not TABLE.fullmatch(parts[3])
                    or not all(map(PLAIN.fullmatch, parts))
                ):
                    raise LabError(f"unpack: {archive} holds {member.name!r}, which is no table of a run")
                if parts[0] not in PROFILES:
                    raise LabError(f"unpack: {archive} holds {member.name!r}, which is of no profile")
                runs.setdefault("/".join(parts[:3]), {})[parts[3]] = tar.extractfile(member).read()
    except (OSError, tarfile.TarError, EOFError, zlib.error) as error:
        raise LabError(f"unpack: {archive} is not a readable archive ({error})") from None
    return [f"{name}: {_merge(root / name, files)}" for name, files in sorted(runs.items())]


def _merge(folder: Path, files: dict[str, bytes]) -> str:
    try:
        key = json.loads(files["run.json"])["run_key"]
        rows = pd.read_csv(io.BytesIO(files["rounds.csv"]))
        theirs = set(rows[REPLICATE].itertuples(index=False, name=None))
    except (KeyError, ValueError, TypeError):
        raise LabError(f"unpack: the tables of {folder.name} are missing or damaged") from None
    record = read_record(folder)
    mine = {replicate_of(row) for row in read_table(folder / "rounds.csv", ROUNDS)} if record else set()
    if record and record["run_key"] != key:
        return f"left alone: another run ({record['run_key']}) is there, not {key}"
    if mine and mine >= theirs:
        return f"left alone: as much is here ({len(mine)} trainings)"
    if mine - theirs:
        return f"left alone: {len(mine - theirs)} trainings that are here are not in the archive"
    folder.mkdir(parents=True, exist_ok=True)
    for path in tables_in(folder):
        path.unlink()
    for name in sorted(files, key=lambda name: name == "run.json"):  # run.json last: it is what says the rest is there
        temporary = folder / f".{name}.partial"
        temporary.write_bytes(files[name])
        temporary.replace(folder / name)
    return f"{'more of it' if mine else 'new'} ({len(theirs)} trainings)"
