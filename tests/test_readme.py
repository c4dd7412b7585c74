"""The README is true: its numbers are those of the committed tables, its links and its commands exist."""

import re
import subprocess
from pathlib import Path

from lthcore import paper
from lthcore.results import read_tables
from lthcore.tables import findings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_findings_are_those_of_the_committed_table():
    text = " ".join(README.split())
    for sentence in findings(read_tables(ROOT / "results" / "cpu" / paper.LENET)[0]):
        assert sentence in text


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_commands_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`?make ([a-z]+)", README)) - {"lists"} <= targets
    help_text = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {"quickstart", "test", "all", "lenet", "figures"} <= set(re.findall(r"make ([a-z]+)", help_text))
