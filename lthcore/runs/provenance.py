"""Provenance of a run's numbers: the hardware, the package versions and the commit that produced them."""

import platform
import re
import subprocess
from datetime import datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from joblib import cpu_count

from lthcore import __version__

INSTRUCTION_SETS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16")  # names as in /proc/cpuinfo


def hardware(device: torch.device) -> dict:
    """Return the processor, which INSTRUCTION_SETS it has, its usable cores, and the GPU if `device` is one."""
    cpu, flags = platform.processor() or platform.machine(), ""
    if Path("/proc/cpuinfo").exists():
        found = dict(re.findall(r"^(model name|flags)\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE))
        cpu, flags = found.get("model name", cpu), found.get("flags", "")
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    sets = [name for name in INSTRUCTION_SETS if name in flags.split()]
    return {"cpu": cpu, "instruction_sets": sets, "cores": cpu_count(), "gpu": gpu}


def hardware_of_nodes(nodes: dict[str, dict]) -> dict:
    """Combine the `hardware` of several machines (by name): everything that any of them has, and all their cores."""
    machines = list(nodes.values())
    sets = {name for machine in machines for name in machine["instruction_sets"]}
    gpus = {machine["gpu"] for machine in machines if machine["gpu"]}
    return {
        "cpu": ", ".join(sorted({machine["cpu"] for machine in machines})),
        "instruction_sets": [name for name in INSTRUCTION_SETS if name in sets],
        "cores": sum(machine["cores"] for machine in machines),
        "gpu": ", ".join(sorted(gpus)) or None,
        "nodes": len(machines),
    }


def start_of(record: dict) -> str:
    """Return when a run began, by its run.json: a time in ISO 8601.

    Older records lack it. It is then estimated as the end minus the duration, which is the latest possible start
    because the run may have been paused. If the duration is unknown too, it is computed from the training time as if
    all cores were busy.
    """
    if "began" in record:
        return record["began"]
    seconds = record.get("wall_seconds") or record.get("training_seconds", 0) / record["hardware"]["cores"]
    return (datetime.fromisoformat(record["finished"]) - timedelta(seconds=seconds)).isoformat(timespec="seconds")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a run's numbers depend on."""
    found = {"python": platform.python_version(), "lthcore": __version__}
    for package in ("torch", "numpy", "numba"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def git_commit() -> str | None:
    """Return the commit of the code, marked -dirty if lthcore differs from it, or None if git does not track lthcore.

    An installed lthcore may lie in the environment of another project's checkout, whose commit says nothing of it.
    """

    def git(*command: str) -> str:
        here = Path(__file__).parents[1]
        return subprocess.run(["git", *command], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", __file__)
        return git("rev-parse", "--short=12", "HEAD") + ("-dirty" if git("status", "--porcelain", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


COMMIT = git_commit()  # read at import: later commits do not change the code that runs
