"""Claims: what the paper says (params/claims.yaml), measured in the tables and graded. No grade is typed in by hand.

A measure is a function of `TrialMeans` (a run's tables, its trials chosen) and numbers from the claim. The same on
resampled trials gives its 95% bootstrap interval. A claim has up to three parts: direction (the sign of the value),
size (the value within its tolerance), place (the percentage of weights left within its tolerance).
"""

import inspect
import json
import sys
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal, Required

import numpy as np
import pandas as pd
from pydantic import ConfigDict
from typing_extensions import TypedDict

from lthcore.errors import LabError, choose, one_line, shown
from lthcore.paths import project_root
from lthcore.report.paper_figures import NOTEBOOK
from lthcore.runs.experiments import PROFILES, check_name
from lthcore.runs.files import has_results, read_record, read_table, read_tables
from lthcore.runs.schemas import ROUNDS
from lthcore.runs.yaml_files import check_shape, read_yaml

RESAMPLES = 1000
UNREADABLE = "not graded: its run cannot be read"
COLUMNS = [
    "id", "claim", "paper", "part", "value", "low", "high", "unit", "tolerance", "grade", "n", "profile", "run_key",
]  # fmt: skip


@dataclass(frozen=True)
class TrialMeans:
    """Means over chosen trials of a run: `mean(column, arm)` by round, its round 0 the dense network."""

    rounds: pd.DataFrame
    structure: pd.DataFrame | None
    trials: tuple[int, ...]
    beside: "TrialMeans | None" = None
    folder: Path = Path()

    @cached_property
    def _cells(self) -> dict:
        """(column, arm) -> array (trial, round), draws averaged, name -> table, and more; filled as asked for."""
        return {}

    def of(self, *trials: int) -> "TrialMeans":
        """The same tables seen through other trials."""
        view = TrialMeans(self.rounds, self.structure, trials, self.beside and self.beside.of(*trials), self.folder)
        view.__dict__["_cells"] = self._cells  # trials are picked from what is read once
        return view

    def mean(self, column: str, arm: str = "ticket") -> np.ndarray:
        """The mean over the trials, by round; nan where a trial lacks the round."""
        if (column, arm) not in self._cells:
            part = self.rounds[
                (self.rounds["arm"] == arm) | ((self.rounds["arm"] == "ticket") & (self.rounds["round"] == 0))
            ]
            table = part.pivot_table(index="trial", columns="round", values=column, aggfunc="mean", dropna=False)
            self._cells[column, arm] = table.reindex(columns=range(int(self.rounds["round"].max()) + 1)).to_numpy()
        return self._cells[column, arm][list(self.trials)].mean(0)

    def table(self, name: str) -> pd.DataFrame:
        """Another table of the run. Raises Absent where it is not there."""
        if name not in self._cells:
            path = self.folder / f"{name}.csv"
            if not path.exists():
                raise Absent(f"{name}.csv is not there")
            self._cells[name] = read_table(self.folder, path.name)
        return self._cells[name]

    def once(self, key: Hashable, make: Callable):
        """What `make()` gives of the tables: made once, however many trials it is then seen through."""
        if key not in self._cells:
            self._cells[key] = make()
        return self._cells[key]

    @property
    def left(self) -> np.ndarray:
        """Percent of the weights left, by round."""
        return self.mean("percent_left")

    def round_at(self, percent: float) -> int:
        """The round nearest to a percentage left. Raises Absent where none is within 6% of it."""
        k = int(np.nanargmin(np.abs(np.log(self.left / percent))))
        if abs(self.left[k] / percent - 1) > 0.06:
            raise Absent(f"no round with {percent}% left")
        return k


class Absent(Exception):
    """What a measure needs is not in the tables yet."""


def _arm(view: TrialMeans, arm: str, column: str) -> np.ndarray:
    """An arm's means by round. Raises Absent where it has not come down to the last round yet."""
    if arm == "dense":
        return np.full(len(view.left), view.mean(column)[0])
    if not (view.rounds[view.rounds["arm"] == arm]["round"] == len(view.left) - 1).any():
        raise Absent(f"arm {arm} is not done")
    return view.mean(column, arm)


def _reaching(view: TrialMeans, percent: float) -> None:
    if view.left[-1] > percent * 1.1:
        raise Absent(f"rounds end above {percent}%")


def gain(
    view: TrialMeans, at: float, arm: str = "ticket", against: str = "dense", column: str = "es_test_accuracy"
) -> float:
    """How much higher a column is in one arm than in another, at a percentage left."""
    k = view.round_at(at)
    return _arm(view, arm, column)[k] - _arm(view, against, column)[k]


def ratio(view: TrialMeans, at: float, arm: str, against: str, column: str) -> float:
    """One arm's column divided by another's, at a percentage left."""
    k = view.round_at(at)
    return _arm(view, arm, column)[k] / _arm(view, against, column)[k]


def ratio_less_one(view: TrialMeans, at: float, arm: str, against: str, column: str) -> float:
    """`ratio` - 1: positive where the first is larger."""
    return ratio(view, at, arm, against, column) - 1


def earlier(view: TrialMeans, at: float) -> float:
    """By which share tickets stop earlier than the dense network, at a percentage left."""
    return 1 - ratio(view, at, "ticket", "dense", "es_iteration")


def _best_round(view: TrialMeans, column: str, arm: str) -> int:
    """The round of the best validation accuracy: were it chosen by test, noise alone would make a gain."""
    return 1 + int(np.nanargmax(_arm(view, arm, column.replace("test", "val"))[1:]))


def largest_gain(view: TrialMeans, column: str = "es_test_accuracy", arm: str = "ticket") -> float:
    """The gain over the dense network of the round that validates best."""
    return _arm(view, arm, column)[_best_round(view, column, arm)] - view.mean(column)[0]


def place_of_largest_gain(view: TrialMeans, column: str = "es_test_accuracy", arm: str = "ticket") -> float:
    """Where that round is."""
    return view.left[_best_round(view, column, arm)]


def largest_speedup(view: TrialMeans) -> float:
    """How many times earlier tickets stop than the dense network, at best."""
    stops = view.mean("es_iteration")
    return stops[0] / np.nanmin(stops[1:])


def place_of_largest_speedup(view: TrialMeans) -> float:
    """Where that is."""
    return view.left[1 + int(np.nanargmin(view.mean("es_iteration")[1:]))]


def least(view: TrialMeans, column: str, down_to: float, arm: str = "ticket") -> float:
    """The least of a column over the rounds of pruning down to a percentage left."""
    _reaching(view, down_to)
    return np.nanmin(_arm(view, arm, column)[1:][view.left[1:] >= down_to])


def best(view: TrialMeans, column: str, down_to: float, up_to: float, arm: str = "ticket") -> float:
    """The best of a column over the rounds between two percentages left."""
    rounds = (view.left >= down_to) & (view.left <= up_to)
    if not rounds.any():
        raise Absent(f"no round between {down_to}% and {up_to}%")
    return np.nanmax(_arm(view, arm, column)[rounds])


def _ahead(view: TrialMeans, arm: str, column: str, lower: bool) -> np.ndarray:
    values = _arm(view, arm, column)
    return (values < values[0]) if lower else (values > values[0])


def ahead_from(view: TrialMeans, arm: str = "ticket", column: str = "es_test_accuracy", lower: bool = False) -> float:
    """Most weights left at which an arm is ahead of the dense network (or, with `lower`, its column is less)."""
    ahead = _ahead(view, arm, column, lower)
    return view.left[int(np.argmax(ahead))] if ahead.any() else 0.0


def ahead_to(view: TrialMeans, arm: str = "ticket", column: str = "es_test_accuracy", lower: bool = False) -> float:
    """Fewest weights left at which it still is."""
    ahead = _ahead(view, arm, column, lower)
    return view.left[len(ahead) - 1 - int(np.argmax(ahead[::-1]))] if ahead.any() else 100.0


def falls_below(view: TrialMeans, arm: str, column: str = "es_test_accuracy") -> float:
    """Weights left from which on an arm stays below the dense network; the fewest there are where it does not fall."""
    values = _arm(view, arm, column)
    known = np.isfinite(values)
    below = np.logical_and.accumulate((values[known] < values[0])[::-1])[::-1]
    return view.left[known][int(np.argmax(below)) if below.any() else -1]


def within_a_point(view: TrialMeans, column: str, arm: str = "ticket") -> float:
    """Fewest weights left with a column within one percentage point of the dense network's."""
    values = _arm(view, arm, column)
    return view.left[np.flatnonzero(values >= values[0] - 0.01)[-1]]


def smallest_winning(view: TrialMeans) -> float:
    """Fewest weights left at which tickets stop no later and test no worse than the dense network (section 1)."""
    stops, accuracies = view.mean("es_iteration"), view.mean("es_test_accuracy")
    wins = (stops <= stops[0]) & (accuracies >= accuracies[0])
    return view.left[np.flatnonzero(wins)[-1]]  # round 0 always wins


def weights_back_at_dense(view: TrialMeans) -> float:
    """Fewest weights with which tickets test no worse than the dense network at the early stop."""
    accuracies = view.mean("es_test_accuracy")
    return view.mean("weights_left")[np.flatnonzero(accuracies >= accuracies[0])[-1]]


def dense_gain(view: TrialMeans, column: str = "es_test_accuracy") -> float:
    """How much better the dense network of this run is than that of the run it stands beside."""
    if view.beside is None:
        raise Absent("the run beside it is not there")
    return view.mean(column)[0] - view.beside.mean(column)[0]


def gain_beside(view: TrialMeans, column: str, arm: str = "ticket", at: float | None = None) -> float:
    """How much higher a column is than in the run beside, at a percentage left of both (None: in their last rounds)."""
    if view.beside is None:
        raise Absent("the run beside it is not there")
    if at is None:
        return view.mean(column, arm)[-1] - view.beside.mean(column, arm)[-1]
    ours, theirs = _arm(view, arm, column), _arm(view.beside, arm, column)
    return ours[view.round_at(at)] - theirs[view.beside.round_at(at)]


def movement_ratio_less_one(view: TrialMeans, at: float) -> float:
    """How much more the ticket's weights move in the dense training than the rest: ratio of means over layers, - 1."""
    if view.structure is None:
        raise Absent("no structure.csv")
    k = view.round_at(at)

    def means() -> pd.DataFrame:
        part = view.structure[view.structure["round"] == k]
        return part.groupby("trial")[["movement_kept", "movement_pruned"]].mean()

    by_trial = view.once(("movement", k), means)
    if not set(view.trials) <= set(by_trial.index):
        raise Absent("structure.csv has fewer trials")
    by_trial = by_trial.loc[list(view.trials)].to_numpy()
    return by_trial[:, 0].mean() / by_trial[:, 1].mean() - 1


def untrained(view: TrialMeans, arm: str) -> float:
    """Test accuracy of an arm's masks before any training, in the round that validates best then."""

    def start() -> pd.DataFrame:
        curves = view.table("curves")
        return curves[(curves["iteration"] == 0) & (curves["round"] > 0) & (curves["arm"] == arm)]

    return _best_of(view, ("untrained", arm), start, "round")


def learned(view: TrialMeans, method: str) -> float:
    """Test accuracy of untrained networks under learned masks, of the density that validates best."""

    def of_the_method() -> pd.DataFrame:
        table = view.table("learned")
        return table[table["method"] == method].round({"percent_left": 1})

    return _best_of(view, ("learned", method), of_the_method, "percent_left")


def _best_of(view: TrialMeans, key: Hashable, table: Callable[[], pd.DataFrame], by: str) -> float:
    """Test accuracy, mean over trials, where the mean validation accuracy is highest."""

    def means() -> list[pd.DataFrame]:
        part = table()
        return [part.pivot_table(index="trial", columns=by, values=f"{split}_accuracy") for split in ("val", "test")]

    found = view.once(key, means)
    if not all(set(view.trials) <= set(mean.index) for mean in found):
        raise Absent("fewer trials")
    validation, test = (mean.loc[list(view.trials)].mean() for mean in found)
    return test[validation.idxmax()]


def error_barrier(view: TrialMeans, at: float) -> float:
    """The error barrier between two copies that part where tickets are rewound to, at a percentage left."""

    def at_that_sparsity() -> pd.Series:
        part = view.table("stability")
        return part[(part["percent_left"] / at - 1).abs() < 0.06].set_index("trial")["error_barrier"]

    part = view.once(("stability", at), at_that_sparsity)
    if not set(view.trials) <= set(part.index):
        raise Absent("fewer trials")
    return part.loc[list(view.trials)].mean()


MEASURES = {
    f.__name__: f
    for f in (
        gain, ratio, ratio_less_one, earlier, largest_gain, place_of_largest_gain, largest_speedup,
        place_of_largest_speedup, least, best, ahead_from, ahead_to, falls_below, within_a_point, smallest_winning,
        weights_back_at_dense, dense_gain, gain_beside, movement_ratio_less_one, untrained, learned, error_barrier,
    )
}  # fmt: skip


PARTS = ("direction", "size", "place")
ASIDE = ("measure", "within", "sign", "unit")  # keys of a part that are no arguments of its measure


class Claim(TypedDict, total=False):
    """An entry of params/claims.yaml."""

    __pydantic_config__ = ConfigDict(extra="forbid")
    claim: Required[str]
    paper: Required[str]
    run: Required[str]
    study: str
    beside: str
    profiles: list[Literal[PROFILES]]
    predicted: dict[str, str | float]
    direction: dict[str, Any]
    size: dict[str, Any]
    place: dict[str, Any]


def load_claims(path: Path | None = None) -> dict[str, dict]:
    """params/claims.yaml, each claim, measure and argument checked. Raises LabError for what cannot be graded."""
    path = path or project_root() / "params" / "claims.yaml"
    claims = read_yaml(path, "claims")
    check_shape(claims, dict[str, Claim], f"claims: {path}")
    for name, claim in claims.items():
        parts = [part for part in PARTS if part in claim]
        if not parts:
            raise LabError(f"claims: {name} needs a direction, size or place")
        for key in ("run", "study", "beside"):
            check_name(f"claims: {name}: {key}", claim.get(key, claim["run"]))
        for word in claim.get("predicted", {}).keys() - {"date", "why"}:
            choose(f"{name}: predicted", word, parts)
        for part in parts:
            _check_part(f"claims: {name}: {part}", part, claim[part])
    return claims


def _check_part(where: str, part: str, spec: dict[str, Any]) -> None:
    """Raise LabError unless a part of a claim has its tolerance, and the arguments that its measure takes."""
    function = MEASURES[choose(f"{where}: measure", spec.get("measure", ""), MEASURES)]
    key, shape = ("sign", Literal[1, -1]) if part == "direction" else ("within", tuple[float, float])
    bound = spec.get(key)
    check_shape(tuple(bound) if isinstance(bound, list) else bound, shape, f"{where}: {key}")
    if part != "direction" and bound[0] > bound[1]:
        raise LabError(f"{where}: within = {shown(bound)}: the first must be the smaller")
    check_shape(spec.get("unit", ""), str, f"{where}: unit")
    values, takes = _arguments(spec), inspect.signature(function).parameters
    for name, value in values.items():
        choose(f"{where}: argument of {function.__name__}", name, [p for p in takes if p != "view"])
        check_shape(value, takes[name].annotation, f"{where}: {name}")
        if isinstance(value, float | int) and not isinstance(value, bool) and value <= 0:
            raise LabError(f"{where}: {name} = {value}: must be a percentage above 0")
    missing = [n for n, p in takes.items() if p.default is p.empty and n != "view" and n not in values]
    if missing:
        raise LabError(f"{where}: {function.__name__} needs {', '.join(missing)}")
    if "column" in values:
        choose(f"{where}: column", values["column"], ROUNDS)


def _arguments(spec: dict[str, Any]) -> dict[str, Any]:
    """What a part of a claim gives its measure."""
    return {key: value for key, value in spec.items() if key not in ASIDE}


def grade(part: str, value: float, spec: dict) -> str:
    """reproduced, or differs and by how much."""
    if part == "direction":
        return "reproduced" if value * spec["sign"] > 0 else f"differs (sign {'+' if value > 0 else '-'})"
    low, high = spec["within"]
    if low <= value <= high:
        return "reproduced"
    off = value - (low if value < low else high)
    scale, digits = (100, 2) if spec.get("unit") else (1, 2 if abs(off) < 100 else 0)
    return f"differs (by {off * scale:+.{digits}f})"


def view_of(folder: Path, beside: Path | None = None) -> TrialMeans:
    """The tables of a run; rounds that are not done in all its trials and draws are left out."""
    rounds, _ = read_tables(folder)
    n = rounds.groupby(["arm", "round"]).size()
    draws = rounds.groupby("arm")["draw"].nunique().reindex(n.index, level="arm")
    whole = n[n == rounds["trial"].nunique() * draws].index
    rounds = rounds.set_index(["arm", "round"]).loc[lambda t: t.index.isin(whole)].reset_index()
    path = folder / "structure.csv"
    structure = read_table(folder, path.name) if path.exists() else None
    trials = tuple(range(rounds["trial"].nunique()))
    return TrialMeans(rounds, structure, trials, view_of(beside) if beside else None, folder)


def measure(view: TrialMeans, spec: dict, seed: int = 0) -> tuple[float, float, float]:
    """A measure's value and its 95% bootstrap interval over trials. Raises Absent."""
    values = _arguments(spec)
    asked = (spec["measure"], view.trials, seed, *sorted(values.items()))  # by several parts of a claim
    return view.once(asked, lambda: _measured(view, MEASURES[spec["measure"]], values, seed))


def _measured(view: TrialMeans, function: Callable[..., float], values: dict, seed: int) -> tuple[float, float, float]:
    value = float(function(view, **values))
    if np.isnan(value):
        raise Absent("not a number")

    @cache  # few trials are drawn in few ways
    def drawn(*trials: int) -> float | None:
        try:
            return float(function(view.of(*trials), **values))
        except Absent:
            return None

    n, generator = len(view.trials), np.random.default_rng(seed)
    draws = [drawn(*generator.choice(view.trials, n).tolist()) for _ in range(RESAMPLES if n > 1 else 0)]
    draws = [value for value in draws if value is not None]
    low, high = np.percentile(draws, [2.5, 97.5]) if draws else (np.nan, np.nan)
    return value, float(low), float(high)


def scorecard(root: Path, claims: dict[str, dict] | None = None) -> pd.DataFrame:
    """A row for each part of each claim: value, interval, tolerance, grade, n, and the run it was read from.

    All parts of a claim are graded in one run: that of the larger profile of its `profiles` (default: paper and cpu)
    that has all its rounds, two trials or more, and whatever the claim needs. `smoke` runs are never graded. A run that
    cannot be read is said on stderr, and its claims are UNREADABLE.
    """
    rows = []
    for name, claim in (claims or load_claims()).items():
        parts = {part: claim[part] for part in PARTS if part in claim}
        common = {"id": name, "claim": claim["claim"], "paper": claim["paper"]}
        try:
            grades = _graded(root, claim, parts)
        except Exception as error:  # one damaged run must not hide the grades of the others
            print(f"note: {name}: {type(error).__name__}: {one_line(error)}", file=sys.stderr)
            grades = {part: {"grade": UNREADABLE} for part in parts}
        for part, graded in grades.items():
            spec = parts[part]
            tolerance = "sign" if part == "direction" else json.dumps(spec["within"])
            unit = spec.get("unit", "% left" if part == "place" else "")
            rows.append(common | {"part": part, "unit": unit, "tolerance": tolerance} | graded)
    return pd.DataFrame(rows, columns=COLUMNS)


def _graded(root: Path, claim: dict, parts: dict[str, dict]) -> dict[str, dict]:
    for profile in claim.get("profiles", ("paper", "cpu")):
        folder = root / profile / claim.get("study", NOTEBOOK) / claim["run"]
        if not has_results(folder):
            continue
        record = read_record(folder)
        beside = root / profile / claim.get("study", NOTEBOOK) / claim["beside"] if "beside" in claim else None
        view = view_of(folder, beside if beside and has_results(beside) else None)
        if view.rounds["round"].max() < record.get("settings", {}).get("rounds", 0) or len(view.trials) < 2:
            continue  # its tickets are still on their way down, or there is nothing to tell a spread from
        where = {"n": len(view.trials), "profile": profile, "run_key": record.get("run_key")}
        graded = {}
        try:
            for part, spec in parts.items():
                value, low, high = measure(view, spec)
                graded[part] = where | {"value": value, "low": low, "high": high, "grade": grade(part, value, spec)}
        except Absent:
            continue
        return graded
    return {part: {"grade": "not yet run"} for part in parts}


def as_markdown(card: pd.DataFrame) -> str:
    """The scorecard as a table for the README: one row a claim, its parts side by side."""
    lines = ["| claim | the paper | here [95% interval] | grade | n, profile |", "|---|---|---|---|---|"]
    for name, parts in card.groupby("id", sort=False):
        first, rest = parts.iloc[0], parts[parts["part"] != "direction"]
        shown = rest if len(rest) else parts  # the direction is the sign of the size, where there is one
        measured = "; ".join(_shown(row) for _, row in shown.iterrows() if row["value"] == row["value"])
        grades = "; ".join(f"{row['part']} {row['grade']}" for _, row in parts.iterrows())
        done = parts["profile"].dropna()
        where = f"{int(parts['n'].max())}, `{done.iloc[0]}`" if len(done) else ""
        cells = (f"{name}: {first['claim']}", first["paper"], measured, grades if len(done) else first["grade"], where)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _shown(row: pd.Series) -> str:
    unit = row["unit"]
    scale, digits = {"points": (100, 2), "%": (100, 1), "% left": (1, 1)}.get(unit, (1, 2 if row["value"] < 100 else 0))
    value, low, high = (scale * row[key] for key in ("value", "low", "high"))
    sign = "+" if unit == "points" else ""
    spread = f" [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]" if low == low else ""
    return f"{value:{sign}.{digits}f}{'' if unit.startswith('%') or not unit else ' '}{unit}{spread}"


def write_scorecard(root: Path, readme: Path | None = None) -> pd.DataFrame:
    """Grade, write results/claims.csv, and put the table between the README's scorecard marks if it has them."""
    card = scorecard(root)
    card.round(6).to_csv(root / "claims.csv", index=False)
    if readme and readme.exists():
        begin, end, text = "<!-- scorecard -->", "<!-- end of scorecard -->", readme.read_text(encoding="utf-8")
        if begin in text and end in text:
            head, tail = text.split(begin)[0], text.split(end)[1]
            done = card.groupby("id")["profile"].transform(lambda profiles: profiles.notna().any())
            rest = f"<details><summary>Not yet run</summary>\n\n{as_markdown(card[~done])}\n\n</details>"
            readme.write_text(f"{head}{begin}\n{as_markdown(card[done])}\n\n{rest}\n{end}{tail}", encoding="utf-8")
    return card
