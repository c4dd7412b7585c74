"""Files of a run, read and written with their digests, so that incomplete or altered files are detected."""

import json
import os
from hashlib import blake2b
from io import BytesIO
from pathlib import Path

import pandas as pd

from lthcore.errors import LabError, one_line
from lthcore.runs.schemas import COLUMNS, REPLICATE, check_record, check_table
from lthcore.training.state import Replicate

SEEN_CHANGING = 5  # attempts to read a file while another process is writing it


def read_tables(folder: str | Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the tables (rounds, curves) of a run. Raises LabError if they do not exist or are damaged."""
    return read_table(folder, "rounds.csv"), read_table(folder, "curves.csv")


def read_table(folder: str | Path, name: str) -> pd.DataFrame:
    """Return a table of a run, checked against its digest in run.json and, if it has one, its schema.

    Raises LabError if the table does not exist or is damaged.
    """
    path = Path(folder) / name
    try:
        table = pd.read_csv(BytesIO(read_file(path)))
        return check_table(name, table) if name in COLUMNS else table
    except FileNotFoundError:
        what = "tables" if name in COLUMNS else name
        raise LabError(f"results: {folder} has no {what} yet; `lth run` makes them, `lth list` shows all") from None
    except (OSError, ValueError) as error:  # pandas raises ValueErrors for files that are not tables
        raise LabError(
            f"results: {path} is damaged ({one_line(error)}); put it back, or delete it and give the run's command "
            "again: training runs without a ticket file here are repeated"
        ) from None


def read_file(path: Path) -> bytes:
    """Return the content of a file of a run. Raises ValueError if it does not match its digest in run.json."""
    for _ in range(SEEN_CHANGING):
        record = read_record(path.parent)
        content = path.read_bytes()
        known = {record.get(which, {}).get(path.name) for which in ("digests", "writing")} - {None}
        if not known or digest(content) in known:
            return content
    raise ValueError("its content is not what run.json says was written")


def digest(content: bytes) -> str:
    """Return the BLAKE2b digest of the content, as 16 hexadecimal digits."""
    return blake2b(content, digest_size=8).hexdigest()


def has_results(folder: Path) -> bool:
    """Return whether any training of a run is finished."""
    return (folder / "rounds.csv").exists() and read_record(folder).get("trainings_done", 1) > 0


def read_record(folder: str | Path) -> dict:
    """Return the content of a run's run.json, or {} if it does not exist. Raises LabError if it is damaged."""
    path = Path(folder) / "run.json"
    try:
        return check_record(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:  # a file cut short is a ValueError of json
        raise LabError(
            f"results: {path} is damaged ({one_line(error)}); put it back, or delete it with {' and '.join(COLUMNS)} "
            "and give the run's command again: trainings with a ticket file here are kept, others are repeated"
        ) from None


def write_run(folder: Path, record: dict, files: dict[str, str | bytes]) -> dict:
    """Write files of a run, and run.json with their digests; return the content of run.json.

    If the process is killed midway, all files stay readable: while files are replaced, run.json holds both the old and
    the new digest of each.
    """
    contents = {name: text.encode() if isinstance(text, str) else text for name, text in files.items()}
    before, after = record.get("digests", {}), {name: digest(content) for name, content in contents.items()}
    record = {key: value for key, value in record.items() if key not in ("digests", "writing")}
    settings = {"settings": record.pop("settings")} if "settings" in record else {}  # last, where they are easy to skip
    there = {name for name in contents if (folder / name).exists()}  # the user may have deleted a damaged file
    changed = {n: content for n, content in contents.items() if before.get(n) != after[n] or n not in there}
    if changed:
        promise = record | {"digests": before, "writing": {name: after[name] for name in changed}} | settings
        write_json(folder / "run.json", promise)
        for name, content in changed.items():
            write(folder / name, content)
    record |= {"digests": before | after} | settings
    write_json(folder / "run.json", record)
    return record


def write_json(path: Path, content: dict) -> None:
    """Write a JSON file atomically."""
    write(path, (json.dumps(content, indent=2) + "\n").encode())


def replicate_of(row: dict) -> Replicate:
    """Return the replicate of a table row."""
    return Replicate(*(row[key] for key in REPLICATE))


def rows_of(table: pd.DataFrame) -> list[dict]:
    """Return the rows of a table as dicts, with None for missing values."""
    return table.astype(object).where(table.notna(), None).to_dict("records")


def write(path: Path, content: bytes) -> None:
    """Write a file atomically: under a temporary name that is then renamed. If writing fails, the old file stays."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
