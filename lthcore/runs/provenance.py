"""Provenance of a run's numbers: the hardware, the package versions and the commit that produced them."""

import ast
import inspect
import platform
import re
import subprocess
import textwrap
from contextlib import suppress
from hashlib import blake2b
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from joblib import cpu_count

from lthcore import __version__
from lthcore.arms import arm_of, criterion_of
from lthcore.lottery.start import WEIGHTS
from lthcore.registry import CRITERIA, MODELS, is_own
from lthcore.settings import Recipe

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


def own_code(settings: Recipe) -> dict[str, str]:
    """Return digests of the user-defined functions that a run uses: its network, criteria and arms, by kind and name.

    Comments, docstrings, layout, quotes and decorators do not count, nor do other functions that these call. Functions
    without source text, such as those typed into an interpreter, are left out.
    """
    arms = {name: arm_of(name) for name in getattr(settings, "arms", ())}
    criteria = {getattr(settings, "criterion", ""), *(criterion_of(arm.masks) for arm in arms.values())}
    used = {f"architecture {settings.architecture}": MODELS.get(settings.architecture)}
    used |= {f"criterion {name}": CRITERIA[name].score for name in sorted(criteria) if name in CRITERIA}
    used |= {f"arm {name}": WEIGHTS.get(arm.weights) for name, arm in arms.items()}
    found = {}
    for name, function in used.items():
        if function is not None and is_own(function):
            with suppress(OSError, TypeError, SyntaxError):
                node = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
                node.decorator_list = []
                if ast.get_docstring(node) is not None:
                    node.body = node.body[1:] or [ast.Pass()]
                text = re.sub(r"[\"'\\]", "", ast.unparse(node))  # versions of Python quote f-strings differently
                found[name] = blake2b(text.encode(), digest_size=8).hexdigest()
    return found


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
    """Return the commit of the code, marked -dirty if lthcore differs from it, or None outside a git checkout."""

    def git(*command: str) -> str:
        here = Path(__file__).parents[1]
        return subprocess.run(["git", *command], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("-dirty" if git("status", "--porcelain", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


COMMIT = git_commit()  # read at import: later commits do not change the code that runs
