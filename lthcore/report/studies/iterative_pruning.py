"""The search for tickets: what its runs say beyond the paper's figures, in sentences."""

from pathlib import Path
from typing import get_args

from lthcore.analysis.statistics import mean_of
from lthcore.lottery.methods import settings_of
from lthcore.report.comparisons import published, runs_of
from lthcore.report.study import Study
from lthcore.runs.files import read_record, read_tables
from lthcore.settings import Recipe


def findings(root: Path) -> list[str]:
    """What dense networks reach at their early stop, by the scaling of their inputs, beside what was published."""
    runs, lines = runs_of(root, "iterative_pruning"), []
    for network, theirs in published("input_scaling")["dense"].items():
        stops = []
        for scaling in get_args(Recipe.model_fields["input_scaling"].annotation):
            folder = runs.get(f"input_scaling-{network}-{scaling}")
            if folder is None:
                continue
            rounds, s = read_tables(folder)[0], settings_of(read_record(folder)["settings"])
            test, held = (mean_of(100 * rounds[f"es_{split}_accuracy"]).text() for split in ("test", "val"))
            at = ", ".join(f"{i:,}" for i in rounds["es_iteration"])
            stops.append(f"{scaling} {test}% of test and {held}% of validation images (n = {len(rounds)}; at {at})")
        if stops:
            where = f"{network}, {s.iterations:,} iterations, {s.precision}"
            lines.append(f"{where}: {'; '.join(stops)}. Published: {theirs:g}%.")
    return lines


STUDY = Study(
    "iterative_pruning",
    "Do small subnetworks match the dense one from their own initial weights?",
    findings=findings,
)
