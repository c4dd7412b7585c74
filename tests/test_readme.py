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


def ahead(arm: str, column: str, sign: int) -> tuple[str, str]:
    """Most and fewest weights left (%) of the unbroken row of rounds in which the mean of `arm` beats the dense one."""
    rounds, _ = read_tables(ROOT / "results" / "cpu" / paper.LENET)
    dense = rounds[(rounds["arm"] == "ticket") & (rounds["round"] == 0)][column].mean()
    means = rounds[(rounds["arm"] == arm) & (rounds["round"] > 0)].groupby("round")[["percent_left", column]].mean()
    wins = means[sign * means[column] > sign * dense]
    assert list(wins.index) == list(range(wins.index[0], wins.index[-1] + 1))
    return f"{wins['percent_left'].max():.1f}", f"{wins['percent_left'].min():.1f}"


def test_where_each_arm_is_ahead_is_what_the_table_says():
    text = " ".join(README.split())
    earlier, better = ahead("ticket", "es_iteration", -1), ahead("ticket", "es_test_accuracy", 1)
    assert f"stop earlier than the dense network from {earlier[0]}% down to {earlier[1]}%" in text
    assert f"better at that point from {better[0]}% down to {better[1]}%" in text
    earlier, better = ahead("oneshot", "es_iteration", -1), ahead("oneshot", "es_test_accuracy", 1)
    assert f"earlier at {earlier[0]}-{earlier[1]}% left" in text
    assert f"better at {better[0]}-{better[1]}%" in text


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_commands_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`?make ([a-z]+)", README)) - {"lists"} <= targets
    help_text = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {"quickstart", "test", "all", "lenet", "figures"} <= set(re.findall(r"make ([a-z]+)", help_text))
