"""Records: the files of a run's folder. Reading them, writing them, and saying where their numbers come from."""

import json
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pandas as pd
import torch
from joblib import cpu_count

from lthcore import __version__
from lthcore.lottery import Replicate
from lthcore.settings import LabError, project_root

REPLICATE = list(Replicate._fields)
READ = ["read_1_test_accuracy", "read_2_test_accuracy", "read_3_test_accuracy"]
ADDED = (*READ, "diverged", "skipped", "emptied", "multiply_adds")  # columns that older tables may lack
ROUNDS = [
    *REPLICATE, "weights_left", "percent_left", "es_iteration", "es_val_loss", "es_val_accuracy", "es_test_accuracy",
    "es_train_accuracy", "final_val_accuracy", "final_test_accuracy", "final_train_accuracy", "iterations", "seconds",
    *READ, "diverged", "skipped", "emptied", "multiply_adds",
]  # fmt: skip
CURVES = [*REPLICATE, "percent_left", "iteration", "val_loss", "val_accuracy", "test_loss", "test_accuracy"]


def results_root() -> Path:
    """Where runs are kept: `LTH_RESULTS`, else results/ of the project."""
    return Path(os.environ.get("LTH_RESULTS") or project_root() / "results")


def read_tables(folder: str | Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tables (rounds, curves) of a run. Raises LabError where there are none."""
    folder = Path(folder)
    try:
        return pd.read_csv(folder / "rounds.csv"), pd.read_csv(folder / "curves.csv")
    except (OSError, pd.errors.EmptyDataError):
        raise LabError(f"results: {folder} has no tables yet; `lth run` makes them, `lth list` shows all") from None


def read_record(folder: str | Path) -> dict:
    """run.json of a run; {} where there is none. Raises LabError for one that is damaged."""
    path = Path(folder) / "run.json"
    if not path.exists():
        return {}
    try:
        record = json.loads(path.read_text())
    except ValueError:
        record = None
    if not isinstance(record, dict) or "run_key" not in record:
        raise LabError(f"results: {path} is damaged; mend it, or run with --force to start afresh")
    return record


def replicate_of(row: dict) -> Replicate:
    """Which training a row of a table is of."""
    return Replicate(*(row[key] for key in REPLICATE))


def read_table(path: Path, columns: list[str]) -> list[dict]:
    """The rows of a table, [] where there is none. Raises LabError for one that is damaged."""
    if not path.exists():
        return []
    try:
        table = pd.read_csv(path)
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError):
        table = pd.DataFrame()
    if [c for c in columns if c in table or c not in ADDED] == list(table):  # of a version without these
        table = table.reindex(columns=columns)
    if list(table.columns) != columns:
        raise LabError(
            f"results: {path} is damaged: its columns are not {', '.join(columns[:5])} ...; mend or delete it"
        )
    return table.astype(object).where(table.notna(), None).to_dict("records")


def hardware(device: torch.device) -> dict:
    """The processor, its usable cores, and the GPU if it was used."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), cpu)
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {"cpu": cpu, "cores": cpu_count(), "gpu": gpu}


def versions() -> dict[str, str]:
    """Versions of what numbers depend on."""
    found = {"python": platform.python_version(), "lthcore": __version__}
    for package in ("torch", "numpy", "numba"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def git_commit() -> str | None:
    """The commit of the code, marked -dirty where lthcore differs from it; None outside a git checkout."""

    def git(*command: str) -> str:
        here = Path(__file__).parent
        return subprocess.run(["git", *command], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("-dirty" if git("status", "--porcelain", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


COMMIT = git_commit()  # of the code as it was imported, whatever is committed while it runs


def write(path: Path, text: str) -> None:
    """Write a file whole: under a temporary name, then renamed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    temporary.write_text(text)
    os.replace(temporary, path)
