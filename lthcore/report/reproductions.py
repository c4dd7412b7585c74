"""Comparison of other reproductions of iterative pruning (params/reproductions.yaml) with the results of this lab."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Required

import numpy as np
import pandas as pd
from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from lthcore.analysis.statistics import Estimate, difference, mean_accuracy
from lthcore.arms import arm_of
from lthcore.errors import choose
from lthcore.paths import PROFILES, project_root
from lthcore.report.measures import EARLY_STOP, validation_of
from lthcore.report.run_tables import Absent, RunTables, has_whole_trial
from lthcore.runs.files import read_record
from lthcore.runs.schemas import ROUNDS
from lthcore.runs.yaml_files import check_shape, read_yaml


class Source(TypedDict):
    """The authors of a reproduction, and the address of its publication or code."""

    of: str
    address: str


class Found(TypedDict, total=False):
    """The results of a source for a network: accuracies in percent, and gains over its dense network in points."""

    __pydantic_config__ = ConfigDict(extra="forbid")
    by: Required[str]
    n: Required[int]
    dense: float | int
    best: float | int
    at: float | int
    gains: dict[Annotated[str, Field(pattern=r"^\d+(\.\d+)?$")], float | int]
    note: str


class Comparison(TypedDict, total=False):
    """A network and an arm, the run of this lab that has them, and the results of others."""

    __pydantic_config__ = ConfigDict(extra="forbid")
    network: Required[str]
    run: Required[str]
    arm: str
    measure: str
    found: Required[list[Found]]


class Reproductions(TypedDict):
    """The file params/reproductions.yaml."""

    by: dict[str, Source]
    tables: list[Comparison]


def reproductions(root: Path) -> pd.DataFrame:
    """Return a table of this lab and other reproductions by network: dense test accuracy, and gains of tickets over it.

    The row of this lab comes first for each network. It is computed from the tables below a results root, at the
    percentages of weights remaining that the others report. Raises LabError if params/reproductions.yaml is invalid.
    """
    path = project_root() / "params" / "reproductions.yaml"
    file = read_yaml(path, "reproductions")
    check_shape(file, Reproductions, f"reproductions: {path}")
    rows = []
    for table in file["tables"]:
        choose(f"reproductions: {path}: measure", table.get("measure", EARLY_STOP), ROUNDS)
        arm_of(table.get("arm", "ticket"))
        levels = sorted({float(level) for found in table["found"] for level in found.get("gains", {})}, reverse=True)
        rows.append({"network": table["network"]} | _ours(root, table, levels))
        where = f"reproductions: {path}: by"
        rows += [{"network": "″"} | _theirs(file["by"], found, where) for found in table["found"]]
    columns = {
        "network": "network", "of": "of", "n": "n", "dense": "dense network (%)", "best": "largest gain (points)",
        "gains": "gains at % of weights remaining (points)", "note": "note",
    }  # fmt: skip
    return pd.DataFrame(rows)[list(columns)].rename(columns=columns)


def _theirs(sources: dict[str, Source], found: Found, where: str) -> dict[str, Any]:
    source = sources[choose(where, found["by"], sources)]
    at = f" at {found['at']:g}%" if "at" in found else ""
    return {
        "of": f"[{source['of']}]({source['address']})",
        "n": found["n"],
        "dense": f"{found['dense']:g}" if "dense" in found else "",
        "best": f"{found['best']:+.2f}{at}" if "best" in found else "",
        "gains": "; ".join(f"{level}%: {gain:+.2f}" for level, gain in found.get("gains", {}).items()),
        "note": found.get("note", ""),
    }


def _ours(root: Path, table: Comparison, levels: Iterable[float]) -> dict[str, Any]:
    """Return the row of this lab, from the largest profile with a whole trial. All gains are paired by trial."""
    measure, arm = table.get("measure", EARLY_STOP), table.get("arm", "ticket")
    for profile in reversed(PROFILES[1:]):  # `smoke` runs only show that the code runs
        folder = root / profile / table["run"]
        if not has_whole_trial(folder):
            continue
        try:
            run = RunTables.read(folder)
            dense, best = run.by_trial(measure)[0], _best(run, measure, arm)
        except Absent:
            continue
        record = read_record(folder)
        settings, n_test, n_validation = record["settings"], record["n_test"], record.get("n_validation", 0)
        note = f"{settings['iterations']:,} iterations, {settings['precision']}, {n_test:,} test images"
        return {
            "of": f"**this lab**, `{profile}`",
            "n": run.n,
            "dense": _shown(mean_accuracy(dense).times(100), "{:.2f}"),
            "best": best,
            "gains": "; ".join(_gains(run, measure, arm, levels)),
            "note": f"{note}{_held(run, validation_of(measure), arm, n_validation)}",
        }
    return {"of": "**this lab**", "n": 0, "dense": "", "best": "", "gains": "", "note": "no whole trial yet"}


def _best(run: RunTables, measure: str, arm: str) -> str:
    """Describe the largest mean gain of all rounds, and where it is. Raises Absent if the run has no pruned round."""
    means = run.against_dense(measure, arm).mean
    if len(means) < 2:
        raise Absent("no round but the dense network's")
    k = int(np.nanargmax(means[1:])) + 1
    return f"{100 * means[k]:+.2f} at {run.left[k]:.1f}%"


def _held(run: RunTables, measure: str, arm: str, n: int) -> str:
    """Describe the largest gain on the n validation images, of which there may be more; empty if there are none."""
    try:
        return f"; on {n:,} validation images the largest gain is {_best(run, measure, arm)}"
    except Absent:
        return ""


def _gains(run: RunTables, measure: str, arm: str, levels: Iterable[float]) -> Iterator[str]:
    """Yield the gain over the dense network at each of these percentages that the run has a round near."""
    for level in levels:
        try:
            gain = difference(run.at(level, measure, arm), run.at(100, measure, "dense"), paired=True)
        except Absent:
            continue
        yield f"{level:g}%: {_shown(gain.times(100), '{:+.2f}')}"


def _shown(found: Estimate, form: str) -> str:
    return found.text(form) if found.n > 1 else form.format(found.value)
