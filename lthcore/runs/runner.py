"""Results: a run's folder, its tables and its tickets. A run stopped anywhere goes on where it was.

`<results root>/<profile>/<notebook>/<variant>/` holds
    run.json               settings, run key, n, data, hardware, versions, commit, seconds
    rounds.csv             a row for each training; its columns are ROUNDS (READ: test accuracy at `settings.read_at`)
    curves.csv             a row for each evaluation, long ones thinned (see `_thinned`); its columns are CURVES
    structure.csv, distributions.csv   what tickets look like (lthcore/analysis/tickets.py), made of a complete run
    lineage.safetensors.gz in which round each weight was pruned, and what else the next round grows from
    tickets/*.safetensors  masks and weights of each training: it is done when this file is there
    checkpoints/           trainings in progress
    source/                the run that a transfer takes its masks from (lthcore/lottery/transfer.py)
All files are written under a temporary name and renamed: a file that is there is whole. Tickets and checkpoints stay on
the machine that made them; with the others a run goes on anywhere (lthcore/lottery/lineage.py).
"""

import math
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from lthcore import masks
from lthcore.arms import arm_of
from lthcore.data.datasets import DATASETS, Data, image_shape
from lthcore.errors import LabError, TimeLimit, one_line
from lthcore.lottery import lineage
from lthcore.lottery.lineage import Lineage
from lthcore.lottery.outcomes import keep, let_go, without_ticket
from lthcore.lottery.search import Cohort, check_settings
from lthcore.lottery.studies import STUDIES, planned
from lthcore.models import Weights, build, multiply_adds, positions
from lthcore.runs.checkpoints import file_stem, load_state, save_state
from lthcore.runs.executor import STOP, Checkpointer, LocalExecutor
from lthcore.runs.folder import read_file, read_record, read_table, read_tables, replicate_of, rows_of, write_run
from lthcore.runs.lock import locked, stopped_by_sigterm
from lthcore.runs.provenance import COMMIT, versions
from lthcore.runs.schemas import COLUMNS, CURVES, READ, REPLICATE, ROUNDS, check_whole
from lthcore.settings import Recipe, Settings
from lthcore.training.loop import weights_left
from lthcore.training.orphans import remove_leftovers
from lthcore.training.state import Evaluation, Replicate, TrainState

# How many evaluations curves.csv has whole, of the arms whose curves are drawn (the paper's Figure 3 ends at 15,000
# iterations) and of the others; after that it has each tenth. Tickets keep them all.
WHOLE, WHOLE_OTHERS = 151, 21
SOURCE = "source"
WRITE_EVERY = 20.0  # seconds: tables are written whole, and a long run's take a second or two


class Run:
    """A run's folder: trains what is not done yet, and keeps the tables in step with what is."""

    def __init__(
        self, folder: str | Path, settings: Recipe, force: bool = False, place: LocalExecutor | None = None
    ) -> None:
        """Open `folder` for `settings`. Raises LabError where it holds another run, unless `force` replaces that."""
        self.folder, self.settings, self.force, self.place = Path(folder), settings, force, place or LocalExecutor()
        self.record = {} if force else self._read_record()
        self.began = self.written = time.perf_counter()
        self.energy: dict = self.record.get("energy", {})
        self.rows: dict[Replicate, dict] = {}
        self.points: dict[Replicate, list[dict]] = {}
        shape = image_shape(settings)
        model = build(settings, shape, 10)
        self.positions, self.dense = positions(model, shape), multiply_adds(model, shape)
        self.lineage = Lineage()
        if self.record:
            self._read()

    def _read(self) -> None:
        """Take up the tables and the lineage that are here. A table that is not is made anew of what there is."""
        tables = {name: read_table(self.folder, name) for name in COLUMNS if (self.folder / name).exists()}
        try:
            if len(tables) == len(COLUMNS) and "writing" not in self.record:
                check_whole(self.record, tables["rounds.csv"], tables["curves.csv"])
            for point in rows_of(tables.get("curves.csv", pd.DataFrame(columns=CURVES))):
                self.points.setdefault(replicate_of(point), []).append(point)
            rows = {replicate_of(row): row for row in rows_of(tables.get("rounds.csv", pd.DataFrame(columns=ROUNDS)))}
            self.rows = {replicate: row for replicate, row in rows.items() if replicate in self.points}
        except ValueError as error:
            raise LabError(
                f"results: the tables of {self.folder} are damaged ({error}); put them back, or delete both and give "
                "the command again: what no ticket here has is trained anew"
            ) from None
        path = self.folder / lineage.FILE
        if path.exists():
            try:
                self.lineage = Lineage.from_bytes(read_file(path), self.settings.key)
            except ValueError as error:
                raise LabError(
                    f"results: {path} is damaged ({one_line(error)}); put it back, or delete it: trainings whose "
                    "outcomes are needed are done again then"
                ) from None

    def begin(self, data: Data) -> None:
        """Make the folder, empty where this run replaces another.

        Raises LabError where the trainings that are done had other data than these.
        """
        self.data = data
        before = self.record.get("data_digest")
        if before and data.digest and before != data.digest and self.rows:
            raise LabError(
                f"results: the data are not those that the {len(self.rows)} trainings in {self.folder} had (digest "
                f"{data.digest}, then {before}); put those back, or run with --force to start afresh"
            )
        if self.force:
            for name in ("tickets", "checkpoints"):
                for file in (self.folder / name).glob("*.safetensors"):
                    file.unlink()
            for file in self.folder.glob("*.*"):
                if file.is_file():
                    file.unlink()
        for unfinished in self.folder.glob("**/.*.partial"):  # of a run that was killed while it wrote
            unfinished.unlink()
        remove_leftovers()

    def _read_record(self) -> dict:
        record = read_record(self.folder)
        if not record and any((self.folder / name).exists() for name in COLUMNS):
            raise LabError(
                f"results: {self.folder} has tables but no run.json that says which run they are of; put it back, move "
                "them away, or run with --force to start afresh"
            )
        other = record.get("run_key")
        if record and other != self.settings.key:
            mine, theirs = self.settings.model_dump(mode="json"), record.get("settings", {})
            changed = ", ".join(f"{k} {theirs.get(k)!r} -> {v!r}" for k, v in mine.items() if theirs.get(k) != v)
            raise LabError(
                f"results: {self.folder} holds run {other}, not {self.settings.key} ({changed}); "
                "run with --force to replace it, or move it away"
            )
        return record

    @property
    def missing(self) -> list[Replicate]:
        """The trainings still to do: not those that would grow from one that diverged."""
        diverged = [r for r, row in self.rows.items() if row.get("diverged") and arm_of(r.arm).is_pruned_itself]
        ended = {(r.arm, r.trial): r.round for r in diverged}

        def reachable(r: Replicate) -> bool:
            return all(r.round <= ended.get((arm, r.trial), r.round) for arm in ("ticket", arm_of(r.arm).grows_from))

        return [r for r in planned(self.settings) if r not in self.rows and reachable(r)]

    def train(
        self,
        data: Data,
        cohort: Cohort,
        deadline: float = float("inf"),
        bar: tqdm | None = None,
    ) -> Cohort:
        """The outcomes of a cohort: read where they are done, resumed or trained where not.

        Outcomes that nothing grows from come back without their tensors. Raises TimeLimit at the deadline.
        """
        outcomes, todo = dict(cohort), {}
        if self.lineage.changed:  # the masks of this round are known now
            self.write()
        for replicate, state in cohort.items():
            if self._path("tickets", replicate).exists():
                if replicate not in self.rows or arm_of(replicate.arm).is_pruned_itself:
                    outcomes[replicate] = self._load("tickets", replicate, state)
                    self._note(replicate, outcomes[replicate])
                    keep(self.settings, data, self.lineage, replicate, outcomes[replicate])
                let_go(self.settings, replicate, outcomes[replicate], state)
                continue
            known = self._without_ticket(replicate, state)
            if known is not None:
                outcomes[replicate] = known
                let_go(self.settings, replicate, known, state)
            elif self._path("checkpoints", replicate).exists():
                todo[replicate] = self._load("checkpoints", replicate, state)
            else:
                todo[replicate] = state
        self._say_again([replicate for replicate in todo if replicate in self.rows])
        checkpointer = Checkpointer(self.folder / "checkpoints", self.settings, deadline)
        stopped = False
        trainer = STUDIES[type(self.settings)].trainer
        for replicate, state in self.place.train(self.settings, data, todo, checkpointer, trainer):
            if state.iteration < self.settings.iterations:
                stopped = True
                continue
            save_state(self._path("tickets", replicate), self.settings, replicate, state)
            self._path("checkpoints", replicate).unlink(missing_ok=True)
            outcomes[replicate] = state
            new = replicate not in self.rows
            if new:
                self._note(replicate, state)
            keep(self.settings, data, self.lineage, replicate, state)
            let_go(self.settings, replicate, state, cohort[replicate])
            if time.perf_counter() - self.written > WRITE_EVERY:  # what a kill loses of the tables, the tickets have
                self.write()
            if bar is not None and new:
                bar.update()
        if stopped:
            raise TimeLimit("the time limit was reached")
        self.write()
        return outcomes

    def _without_ticket(self, replicate: Replicate, start: TrainState) -> TrainState | None:
        """What stands for a training that is done; None where it has to be done, or done again."""
        row = self.rows.get(replicate)
        if row is None:
            return None
        diverged = bool(row.get("diverged"))
        return without_ticket(self.settings, self.lineage, self.missing, replicate, start, diverged)

    def _say_again(self, replicates: list[Replicate]) -> None:
        """Say that trainings are done again whose rows are here, and count them in run.json."""
        if replicates:
            self.record["trained_again"] = self.record.get("trained_again", 0) + len(replicates)
            print(
                f"note: {len(replicates)} trainings are done again for their weights, which no ticket or lineage here "
                f"has ({', '.join(map(file_stem, replicates[:3]))} ...); their rows stay",
                file=sys.stderr,
            )

    def train_all(self, data: Data, deadline: float, quiet: bool) -> None:
        """Train all of the study, with a progress bar on a terminal and in a notebook, else a line for each round."""
        total = len(planned(self.settings))
        plain = quiet or bool(os.environ.get("LTH_PLAIN")) or not (sys.stderr.isatty() or "ipykernel" in sys.modules)
        bar = tqdm(
            total=total, initial=total - len(self.missing), desc=self.settings.key, unit="training", disable=plain
        )
        with bar:
            study = STUDIES[type(self.settings)]
            more = {"search": partial(self.search, deadline=deadline, quiet=quiet)} if study.searches else {}
            more |= {"lineage": self.lineage} if isinstance(self.settings, Settings) else {}
            for outcomes in study.outcomes(self.settings, data, lambda c: self.train(data, c, deadline, bar), **more):
                if plain and not quiet:
                    print(_progress_line(self, outcomes, time.perf_counter() - self.began), flush=True)

    def search(self, settings: Settings, deadline: float, quiet: bool) -> Iterator[Cohort]:
        """The tickets of another search, that this one takes masks from, round by round: a run of its own."""
        folder = self.folder / SOURCE
        run(settings, folder, deadline - time.monotonic(), self.force, quiet, self.place)
        found, before = Run(folder, settings), {}
        for replicate in planned(settings):
            path = found._path("tickets", replicate)
            if not path.exists():
                raise LabError(f"results: {path} is missing, and a mask with it; run with --force to search anew")
            state = found._load("tickets", replicate)
            if replicate.round and not masks.is_nested(state.mask, before[replicate.trial]):
                wrong = "has a mask that is no part of the one before"
                raise LabError(f"results: {path} {wrong}; delete it and give the command again")
            before[replicate.trial] = state.mask
            yield {replicate: state}

    def _path(self, folder: str, replicate: Replicate) -> Path:
        return self.folder / folder / f"{file_stem(replicate)}.safetensors"

    def _load(self, folder: str, replicate: Replicate, like: TrainState | None = None) -> TrainState:
        """A saved training, as one that began as `like`. Raises LabError for one that this run cannot have made."""
        path = self._path(folder, replicate)
        state, saved, key = load_state(path)
        if key != self.settings.key:
            raise LabError(f"results: {path} belongs to run {key}, not {self.settings.key}; move it away")
        wrong = None
        if saved != replicate or (like is not None and state.seed != like.seed):
            wrong = f"is of another training ({file_stem(saved)})"
        elif like is not None and _layout(like.weights) != _layout(state.weights):
            wrong = "is of another network"
        elif like is not None and arm_of(replicate.arm).masks != "training" and not masks.equal(state.mask, like.mask):
            wrong = "has a mask that is not what pruning its predecessor gives"
        elif state.diverged and all(math.isfinite(point.test_loss) for point in state.curve):
            wrong = "holds weights that are not numbers"
        elif like is not None and not all(torch.equal(w, state.start[name]) for name, w in like.start.items()):
            wrong = "does not start from the weights that this training starts from"
        if wrong:
            raise LabError(f"results: {path} {wrong}; delete it and give the command again")
        return state

    def _note(self, replicate: Replicate, state: TrainState) -> None:
        left = weights_left(self.settings, state)
        percent = round(100 * left / sum(m.numel() for m in state.mask.values()), 4)
        where = dict(zip(REPLICATE, replicate, strict=True))
        stop, last = state.early_stop_point, state.curve[-1]
        row = where | {
            "weights_left": left,
            "percent_left": percent,
            "es_iteration": stop.iteration if stop else None,
            "es_val_loss": stop.val_loss if stop else None,
            "es_val_accuracy": stop.val_accuracy if stop else None,
            "es_test_accuracy": stop.test_accuracy if stop else None,
            "es_train_accuracy": state.early_stop_train_accuracy,
            "final_val_accuracy": last.val_accuracy,
            "final_test_accuracy": last.test_accuracy,
            "final_train_accuracy": state.final_train_accuracy,
            "iterations": state.iteration,
            "seconds": round(state.seconds, 2),
        }
        accuracies = {point.iteration: point.test_accuracy for point in state.curve}
        read = [accuracies[iteration] for iteration in self.settings.read_at]
        row |= dict(zip(READ, [*read, None, None, None], strict=False)) | {"diverged": state.diverged}
        before = self.rows.get(replicate._replace(round=replicate.round - 1))
        before = before or self.rows.get(Replicate("ticket", replicate.trial, 0, replicate.round - 1))
        left_by_layer = {} if self.settings.counts_zeros else masks.counts(state.mask)
        row |= {
            "skipped": bool(before) and before["weights_left"] == left,  # a round that pruned nothing
            "emptied": " ".join(name for name, n in left_by_layer.items() if n == 0) or None,
            "multiply_adds": sum(n * self.positions[name] for name, n in left_by_layer.items()) or self.dense,
        }
        self.rows[replicate] = _rounded(row)
        shares = [{"percent_left": _share(point, percent)} for point in state.curve]
        self.points[replicate] = [_rounded(where | asdict(p) | s) for p, s in zip(state.curve, shares, strict=True)]

    def write(self) -> None:
        """Write run.json and whatever has changed of the tables and the lineage."""
        files = self._tables()
        if self.lineage.changed:
            files[lineage.FILE] = self.lineage.to_bytes(self.settings.key)
        self.record = write_run(self.folder, self._as_record(), files)
        self.lineage.changed, self.written = False, time.perf_counter()

    def _tables(self) -> dict[str, str]:
        """rounds.csv and curves.csv, in the order of the plan whatever the order of the work."""
        order = planned(self.settings)
        order += sorted(self.rows.keys() - set(order))  # of a run that was longer once
        done = [replicate for replicate in order if replicate in self.rows]
        every = self.settings.eval_every
        points = [point for replicate in done for point in _thinned(self.points[replicate], every)]
        curves = pd.DataFrame(points, columns=CURVES)
        rounds = pd.DataFrame([self.rows[replicate] for replicate in done], columns=ROUNDS)
        rounds = rounds.astype({"es_iteration": "Int64"})
        return {"curves.csv": curves.to_csv(index=False), "rounds.csv": rounds.to_csv(index=False)}

    def _as_record(self) -> dict:
        """run.json; the seconds of this sitting are added to the wall seconds of earlier ones."""
        s, data, seconds = self.settings, self.data, time.perf_counter() - self.began
        self.began += seconds
        unknown = self.record.get("wall_seconds", 0) is None  # once unknown, a sum stays unknown
        return {
            "run_key": s.key,
            "complete": not self.missing,
            "trainings_done": len(self.rows),
            "trainings_planned": len(planned(s)),
            "trainings_diverged": sum(bool(row.get("diverged")) for row in self.rows.values()),
            "n": s.trials,
            "seed": s.seed,
            "data": data.variant,
            "data_digest": data.digest or None,
            **{f"n_{name}": len(split.labels) for name, split in data.splits.items()},
            "hardware": self.place.hardware(data) or self.record.get("hardware"),
            "versions": versions(),
            "commits": list(dict.fromkeys([*self.record.get("commits", []), COMMIT])),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "wall_seconds": None if unknown else round(self.record.get("wall_seconds", 0) + seconds, 1),
            "training_seconds": round(sum(row["seconds"] for row in self.rows.values()), 1),
            # forward and twice that backward, of masked-dense training: what is left of the weights is in rounds.csv
            "training_flops": 6 * self.dense * s.batch_size * sum(row["iterations"] for row in self.rows.values()),
            **{name: self.record[name] for name in ("trained_again",) if name in self.record},
            **({"energy": self.energy} if self.energy else {}),
            "digests": self.record.get("digests", {}),
            "settings": s.model_dump(mode="json"),
        }


def run(
    settings: Recipe,
    folder: str | Path,
    time_limit: float = float("inf"),
    force: bool = False,
    quiet: bool = False,
    place: LocalExecutor | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Run an experiment in `folder`, or go on with it, and return its tables (rounds, curves).

    What is done is not done again; a complete run returns at once, needing neither data nor tickets. Raises TimeLimit
    after `time_limit` seconds, everything so far saved, and LabError for what a user can mend. `place` is where
    the trainings run, if not on this machine (lthcore/runs/ray_queue.py).
    """
    deadline = time.monotonic() + time_limit
    check_settings(settings)
    this = Run(folder, settings, force, place)
    if not this.missing:
        return read_tables(folder)
    data = this.place.load(settings)
    if len(data.test.labels) < DATASETS[settings.dataset].n_test:
        print(f"note: {data.variant}; accuracies are of these", file=sys.stderr)
    with locked(this.folder / "checkpoints" / "lock.json"), stopped_by_sigterm(this.folder / STOP) as asked:
        this = Run(folder, settings, force, place)  # as it stands now that nobody else writes here
        this.begin(data)
        this.write()
        try:
            with this.place.metered(this.record.get("energy")) as this.energy:
                this.train_all(data, deadline, quiet)
        except TimeLimit:
            total, left = len(planned(settings)), len(this.missing)
            why = "time limit reached" if time.monotonic() >= deadline else "asked to stop,"
            raise TimeLimit(f"{why} with {total - left} of {total} trainings done; the same command goes on") from None
        except torch.OutOfMemoryError:
            raise LabError("the GPU's memory does not hold this; lower batch_size, or use device cpu") from None
        finally:
            this.write()
        if asked.is_set():  # too late for any training to see it
            raise TimeLimit(f"asked to stop, with all of {len(planned(settings))} trainings done")
    return read_tables(folder)


def _layout(weights: Weights) -> dict[str, tuple]:
    return {name: (w.shape, w.dtype) for name, w in weights.items()}


def _progress_line(this: Run, outcomes: Cohort, seconds: float) -> str:
    arm = next(iter(outcomes)).arm
    rows = [this.rows[r] for r in outcomes if r.arm == arm]
    accuracy = sum(row["final_test_accuracy"] for row in rows) / len(rows)
    k, left, rounds = rows[0]["round"], rows[0]["percent_left"], max(r.round for r in planned(this.settings))
    return f"round {k:2}/{rounds}: {left:5.1f}% left, {arm} test accuracy {accuracy:.2%}, {seconds:6.0f} s"


def _share(point: Evaluation, percent: float) -> float:
    """Percent of weights left at a point; those of a training's end in tickets of versions that did not note it."""
    return percent if point.percent_left != point.percent_left else round(point.percent_left, 4)


def _rounded(row: dict) -> dict:
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in row.items()}


def _thinned(points: list[dict], every: int) -> list[dict]:
    """The evaluations of a training that curves.csv keeps: the first ones, each tenth, the early stop and the last."""
    whole = every * (WHOLE if points[0]["arm"] in ("ticket", "reinit", "dynamic") else WHOLE_OTHERS)
    final = points[-1]["percent_left"]  # where the network gets sparser as it trains, its early stop is at the end
    losses = [None if p["percent_left"] > final else p["val_loss"] for p in points]
    stop = np.nanargmin(np.array(losses, float)) if any(loss == loss and loss is not None for loss in losses) else -1
    kept = {id(points[-1]), id(points[stop])}
    return [p for p in points if p["iteration"] < whole or p["iteration"] % (10 * every) == 0 or id(p) in kept]
