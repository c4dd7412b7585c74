"""The Makefile: the commands of its targets, as a dry run of make prints them; and the runs that a release names."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from lthcore.lottery import lineage

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def would_run(*arguments: str, **environment: str) -> str:
    """Return the commands of a target, without running them."""
    known = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "MAKE")) and k not in ("TORCH", "INDEX")}
    return subprocess.check_output(
        ["make", "--dry-run", "--always-make", *arguments], cwd=ROOT, text=True, env=known | environment
    )


def test_the_cpu_build_of_torch_comes_from_the_index_that_is_given():
    usual, cpu = would_run("setup"), would_run("setup", "TORCH=cpu", "INDEX=somewhere")
    assert "6.5 GB" in usual and "+cpu" not in usual and "--extra-index-url" not in usual
    assert "s/^(torch|torchvision)==.*/&+cpu/" in cpu and "--extra-index-url somewhere" in cpu and "6.5 GB" not in cpu


@pytest.mark.parametrize(("given", "status"), [({}, 2), ({"PIP_EXTRA_INDEX_URL": "somewhere"}, 0)])
def test_without_an_index_the_cpu_build_is_one_line_that_asks_for_it(given, status):
    script = would_run("setup", "TORCH=cpu", **given)
    asks = script[script.index('test "cpu" != cpu') :].partition("}")[0] + "}"
    known = {"PATH": os.environ["PATH"]} | given
    done = subprocess.run(["sh", "-c", asks], text=True, capture_output=True, check=False, env=known)
    assert done.returncode == status and ("INDEX=" in done.stderr) == (status == 2)


def test_all_asks_before_it_begins_unless_told_not_to():
    asked, told = (" ".join(would_run("all", *more).split()) for more in ((), ("YES=1", "PROFILE=smoke")))
    assert "lth run --profile cpu --ask params/" in asked
    assert "lth run --profile smoke --ask --yes params/" in told


def test_badges_remove_the_copies_that_sed_makes_and_no_other_file():
    script = would_run("badges", "REPO=me/mine")
    written = re.search(r"sed -i\.old .*#g\" (.*?) &&", script)[1].split()
    removed = re.search(r"rm -f (.*?) &&", script)[1].split()
    assert removed == [f"{name}.old" for name in written] and "README.md" in written


def test_every_run_whose_tickets_are_released_has_its_lineage(committed):
    runs = re.findall(r"\b(?:cpu|paper)/\w+/\S+", (ROOT / ".github/workflows/release.yml").read_text())
    assert runs and all((committed / run.rstrip(";") / lineage.FILE).exists() for run in runs)
