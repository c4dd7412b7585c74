"""Measurement and grading of the claims of papers (params/claims.yaml). No grade is entered by hand.

A claim has up to three parts: direction (the sign of the value), size (the value lies within its tolerance) and place
(the percentage of weights remaining lies within its tolerance). Each part is graded by the 95% interval of the measured
value: `reproduced` if the whole interval lies within the tolerance, `differs` if none of it does, else `undecided`.
"""

import inspect
import json
import math
import operator
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import cache
from math import inf
from pathlib import Path
from typing import Any, Literal, Required

import pandas as pd
from pydantic import ConfigDict
from typing_extensions import TypedDict

from lthcore.analysis.statistics import Estimate, trials_needed
from lthcore.arms import arm_of
from lthcore.errors import LabError, choose, one_line, shown
from lthcore.paths import PROFILES, project_root
from lthcore.report.arithmetic import ARITHMETIC
from lthcore.report.figure_specs import NOTEBOOK
from lthcore.report.measures import EARLY_STOP, END, MEASURES
from lthcore.report.run_tables import TICKETS, Absent, RunTables
from lthcore.runs.experiments import check_name
from lthcore.runs.files import has_results, read_record
from lthcore.runs.provenance import start_of
from lthcore.runs.schemas import ROUNDS
from lthcore.runs.yaml_files import check_shape, read_yaml

PARTS = ("direction", "size", "place")
SIGNS = {1: "above 0", -1: "below 0"}  # sign of a direction -> its tolerance in claims.csv
ASIDE = ("measure", "within", "sign", "unit")  # keys of a part that are not passed to its measure
NOT_RUN, UNREADABLE = "not run", "not graded: its run cannot be read, or diverged"
COLUMNS = [
    "id", "claim", "paper", "part", "run", "profile", "training", "n", "value", "low", "high", "unit", "tolerance",
    "grade", "trials_needed", "end_value", "end_low", "end_high", "end_grade", "tolerance_fixed", "predicted",
    "run_key",
]  # fmt: skip


class Claim(TypedDict, total=False):
    """An entry of params/claims.yaml."""

    __pydantic_config__ = ConfigDict(extra="forbid")
    claim: Required[str]
    paper: Required[str]
    fixed: str
    run: str
    also: list[str]
    study: str
    beside: str
    profiles: list[Literal[PROFILES]]
    predicted: dict[str, str | float]
    direction: dict[str, Any]
    size: dict[str, Any]
    place: dict[str, Any]


def load_claims(path: Path | None = None) -> dict[str, dict]:
    """Load params/claims.yaml and check each claim, measure and argument.

    `path` overrides the file. Raises LabError if the file is invalid or a claim could not be graded.
    """
    path = path or project_root() / "params" / "claims.yaml"
    claims = read_yaml(path, "claims")
    check_shape(claims, dict[str, Claim], f"claims: {path}")
    for name, claim in claims.items():
        _check_claim(name, claim)
    return claims


def _check_claim(name: str, claim: dict[str, Any]) -> None:
    parts = parts_of(claim)
    if not parts:
        raise LabError(f"claims: {name} needs a direction, size or place")
    for key in ("run", "study", "beside"):
        if key in claim:
            check_name(f"claims: {name}: {key}", claim[key])
    for also in claim.get("also", []):
        check_name(f"claims: {name}: also", also)
    if "run" in claim:
        when(claim.get("fixed", ""), f"claims: {name}: fixed")
    predicted = claim.get("predicted", {})
    if predicted:
        when(predicted.get("date", ""), f"claims: {name}: predicted: date")
    for word in predicted.keys() - {"date", "why"}:
        check_shape(predicted[choose(f"{name}: predicted", word, parts)], float, f"claims: {name}: predicted: {word}")
    for part, spec in parts.items():
        _check_part(f"claims: {name}: {part}", part, spec, MEASURES if "run" in claim else ARITHMETIC)


def _check_part(where: str, part: str, spec: dict[str, Any], measures: dict[str, Callable]) -> None:
    """Raise LabError unless a part of a claim has a valid tolerance and valid arguments for its measure."""
    function = measures[choose(f"{where}: measure", spec.get("measure", ""), measures)]
    key, shape = ("sign", Literal[1, -1]) if part == "direction" else ("within", tuple[float | None, float | None])
    bound = spec.get(key)
    check_shape(tuple(bound) if isinstance(bound, list) else bound, shape, f"{where}: {key}")
    if part != "direction" and (set(bound) == {None} or operator.gt(*ends_of(bound))):
        raise LabError(f"{where}: within = {shown(bound)}: must be the smaller end, then the larger (null for no end)")
    check_shape(spec.get("unit", ""), str, f"{where}: unit")
    values, takes = _arguments(spec), inspect.signature(function).parameters
    for name, value in values.items():
        choose(f"{where}: argument of {function.__name__}", name, [p for p in takes if p != "run"])
        check_shape(value, takes[name].annotation, f"{where}: {name}")
        if isinstance(value, float | int) and not isinstance(value, bool) and value <= 0:
            raise LabError(f"{where}: {name} = {value}: must be above 0")
    missing = [n for n, p in takes.items() if p.default is p.empty and n != "run" and n not in values]
    if missing:
        raise LabError(f"{where}: {function.__name__} needs {', '.join(missing)}")
    for name in ("arm", "against", "control"):
        if values.get(name, "dense") not in ("", "dense"):
            try:
                arm_of(values[name])
            except LabError as error:
                raise LabError(f"{where}: {name}: {error}") from None
    if "column" in values:
        choose(f"{where}: column", values["column"], ROUNDS)


def parts_of(claim: dict[str, Any]) -> dict[str, dict]:
    """Return the parts of a claim in the order of PARTS."""
    return {part: claim[part] for part in PARTS if part in claim}


def ends_of(within: Sequence[float | None]) -> tuple[float, float]:
    """Return the ends of a tolerance, infinite where it has none (null in claims.yaml)."""
    low, high = within
    return -inf if low is None else low, inf if high is None else high


def when(text: Any, where: str = "time") -> datetime:
    """Parse a time in ISO 8601 with a time zone.

    Raises LabError for anything else; `where` says in its message what the time belongs to.
    """
    try:
        moment = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        moment = None
    if moment is None or moment.tzinfo is None:
        raise LabError(f"{where} = {shown(text)}: must be a moment such as 2026-11-20T22:26Z")
    return moment


def _arguments(spec: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments that a part of a claim passes to its measure."""
    return {key: value for key, value in spec.items() if key not in ASIDE}


def grade(part: str, found: Estimate, spec: dict) -> str:
    """Return the grade of a part of a claim: `reproduced`, `differs` or `undecided`.

    `differs` is followed by the distance of the value from the tolerance, or for a direction by the sign of the value.
    A value without an interval, such as one from a single trial, is undecided.
    """
    if math.isnan(found.low):
        return "undecided"
    if part == "direction":
        towards = found.times(spec["sign"])
        if towards.low > 0:
            return "reproduced"
        return f"differs (sign {'+' if found.value > 0 else '-'})" if towards.high < 0 else "undecided"
    low, high = ends_of(spec["within"])
    if low <= found.low and found.high <= high:
        return "reproduced"
    if found.low <= high and found.high >= low:
        return "undecided"
    off = found.value - (low if found.value < low else high)
    scale, digits = (100, 2) if spec.get("unit") else (1, 2 if abs(off) < 100 else 0)
    points = " points" if spec.get("unit") or part == "place" else ""
    return f"differs (by {off * scale:+,.{digits}f}{points})"


def grades_of(column: pd.Series) -> pd.Series:
    """Return the grades in a column of claims.csv without the details in brackets."""
    return column.astype("string").str.split(" (", regex=False).str[0]


def measure(run: RunTables, spec: dict) -> Estimate:
    """Return the value of a part's measure in the tables of a run.

    Raises Absent if the tables lack what the measure needs, or if its value is nan.
    """
    found = MEASURES[spec["measure"]](run, **_arguments(spec))
    if math.isnan(found.value):
        raise Absent("not a number")
    return found


def at_the_end(run: RunTables, spec: dict) -> Estimate | None:
    """Return the value of a part's measure at the end of training instead of at the early stop.

    Returns None if the measure is not read at the early stop, or if the tables lack the value at the end.
    """
    parameters = inspect.signature(MEASURES[spec["measure"]]).parameters
    column = spec.get("column", parameters["column"].default if "column" in parameters else None)
    try:
        return measure(run, spec | {"column": END}) if column == EARLY_STOP else None
    except Absent:
        return None


def timing(moment: datetime, record: dict) -> str:
    """Return whether `moment` was before, during or after a run, according to its run.json.

    A run that was extended, by trials or arms, counts as ended when it was first complete: results were known then.
    """
    ended = when(record.get("first_complete") or record.get("finished") or "", "run.json: finished")
    if moment > ended:
        return "after the run"
    return "before the run" if moment <= when(start_of(record), "run.json: began") else "during the run"


def scorecard(root: Path, claims: dict[str, dict] | None = None) -> pd.DataFrame:
    """Return a table with a row for each part of each claim in each run in which it can be graded.

    The runs of a claim are `run` and those in `also`, at each of the claim's profiles (by default paper and cpu, not
    smoke). A run is used if it has all its rounds and everything that the parts of the claim need. A single trial
    leaves all parts undecided. A claim without any such run gets rows graded `not run`. If a run cannot be read or has
    diverged, a note goes to stderr, and all parts of the claim are graded UNREADABLE.
    """
    rows, read = [], cache(RunTables.read)  # many claims are graded in the same run
    for name, claim in (claims or load_claims()).items():
        common = {"id": name, "claim": claim["claim"], "paper": claim["paper"]}
        try:
            graded = list(_graded(root, claim, read))
        except Exception as error:  # one damaged run must not hide the grades of the others
            print(f"note: {name}: {type(error).__name__}: {one_line(error)}", file=sys.stderr)
            graded = _ungraded(claim, UNREADABLE)
        graded = graded or _ungraded(claim, NOT_RUN)
        for row in graded:
            spec = claim[row["part"]]
            tolerance = json.dumps(spec["within"]) if "within" in spec else SIGNS[spec["sign"]]
            unit = spec.get("unit", "% of weights" if row["part"] == "place" else "")
            predicted = claim.get("predicted", {}).get(row["part"]) if row["grade"] == NOT_RUN else None
            rows.append(common | {"unit": unit, "tolerance": tolerance, "predicted": predicted} | row)
    return pd.DataFrame(rows, columns=COLUMNS)


def _ungraded(claim: dict, why: str) -> list[dict]:
    run = label(claim.get("study", NOTEBOOK), claim["run"]) if "run" in claim else None
    return [{"part": part, "run": run, "grade": why} for part in parts_of(claim)]


def training_of(record: dict) -> str:
    """Return the number of iterations of each training run, and its precision unless it is float32."""
    settings = record.get("settings", {})
    rounded = settings.get("precision", "float32")
    return f"{settings.get('iterations', 0):,} iterations{'' if rounded == 'float32' else f', {rounded}'}"


def label(study: str, run: str) -> str:
    """Return the name of a run in the scorecard: `<run>` for iterative pruning, `<study>/<run>` for other studies."""
    return run if study == NOTEBOOK else f"{study}/{run}"


def _graded(root: Path, claim: dict, read: Callable[..., RunTables]) -> Iterator[dict]:
    """Yield the rows of a claim: from arithmetic, or from each run and profile that has all its parts."""
    if "run" not in claim:
        for part, spec in parts_of(claim).items():
            try:
                found = ARITHMETIC[spec["measure"]](**_arguments(spec))
            except Absent:
                return
            yield {"part": part, **_numbers(found), "grade": grade(part, found, spec)}
        return
    study = claim.get("study", NOTEBOOK)
    for name in (claim["run"], *claim.get("also", [])):
        for profile in claim.get("profiles", ("paper", "cpu")):
            folder = root / profile / study / name
            beside = root / profile / study / claim["beside"] if "beside" in claim else None
            if not has_results(folder):
                continue
            run, record = read(folder, beside if beside and has_results(beside) else None), read_record(folder)
            if run.rounds["round"].max() < record.get("settings", {}).get("rounds", 0):
                if run.rounds.loc[run.rounds["arm"].isin(TICKETS), "diverged"].eq(True).any():
                    raise LabError(
                        f"{folder}: a ticket diverged, and so the rounds after it are not there in all trials"
                    )
                continue  # the search is unfinished: its last rounds are missing
            where = {"run": label(study, name), "profile": profile, "training": training_of(record)}
            where["run_key"] = record.get("run_key")
            try:
                rows = [where | _part_of(run, record, claim, part) for part in parts_of(claim)]
            except Absent:
                continue
            yield from rows


def _part_of(run: RunTables, record: dict, claim: dict, part: str) -> dict:
    """Return the row of a part of a claim in a run. Raises Absent if the part cannot be measured in it."""
    spec = claim[part]
    found, end = measure(run, spec), at_the_end(run, spec)
    row = {"part": part, **_numbers(found), "grade": grade(part, found, spec)}
    if end:
        row |= {"end_value": end.value, "end_low": end.low, "end_high": end.high, "end_grade": grade(part, end, spec)}
    if row["grade"] == "undecided" and found.n > 1:
        row["trials_needed"] = trials_needed(
            lambda n: grade(part, measure(run.with_trials(n), spec), spec) != "undecided", found.n
        )
    row["tolerance_fixed"] = timing(when(claim["fixed"]), record)
    predicted = claim.get("predicted", {})
    if part in predicted and timing(when(predicted["date"]), record) == "before the run":
        row["predicted"] = predicted[part]
    return row


def _numbers(found: Estimate) -> dict[str, float]:
    bounded = abs(found.low) < inf and abs(found.high) < inf
    low, high = (found.low, found.high) if bounded else (None, None)
    return {"n": found.n or None, "value": found.value, "low": low, "high": high}
