"""The packages of the project: all that lthcore imports is declared, and the lists of packages agree."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def floors(lines: list[str]) -> dict[str, str]:
    """Return the versions that requirements such as `ray[default]>=2.59` allow, by the name of the package."""
    asked = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(one.name): str(one.specifier) for one in asked}


def listed(name: str) -> dict[str, str]:
    """Return the versions that a list of packages in the repository allows."""
    return floors((ROOT / name).read_text().splitlines())


def imported() -> set[str]:
    """Return the top-level names that lthcore imports from outside, at the top of modules or inside functions."""
    found = set()
    for path in (ROOT / "lthcore").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            if isinstance(node, ast.ImportFrom):
                found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - {"lthcore"}


def test_every_package_that_is_imported_is_declared():
    declared, known = floors(sum(EXTRAS.values(), PROJECT["dependencies"])), packages_distributions()
    for name in imported():
        packages = {canonicalize_name(package) for package in known.get(name, [name])}
        assert packages & declared.keys(), f"pyproject.toml does not declare the package of `import {name}`"


@pytest.mark.parametrize(
    ("name", "extras"),
    [
        ("requirements.txt", ("notebooks", "energy", "evolution", "onnx", "dev")),
        ("requirements-cluster.txt", ("cluster",)),
        ("docs/requirements.txt", ("docs",)),
    ],
)
def test_the_oldest_versions_are_the_same_in_all_lists(name, extras):
    declared = floors(sum((EXTRAS[extra] for extra in extras), PROJECT["dependencies"] if "dev" in extras else []))
    written = listed(name)
    assert declared == {package: written.get(package) for package in declared}


@pytest.mark.parametrize(
    ("name", "locks"),
    [
        ("requirements.txt", ("requirements.lock",)),
        ("requirements-cluster.txt", ("requirements.lock", "requirements-cluster.lock")),
        ("docs/requirements.txt", ("requirements.lock", "docs/requirements.lock")),
    ],
)
def test_every_package_of_a_list_is_locked_at_a_version_that_it_allows(name, locks):
    pinned: dict[str, str] = {}
    for lock in locks:
        pinned |= listed(lock)
    for package, allowed in listed(name).items():
        version = re.fullmatch(r"==(.+)", pinned[package])[1]
        assert Version(version) in Requirement(f"{package}{allowed}").specifier
