"""Results folder of a run: its finished trainings, their tables and tickets, read, checked and kept consistent.

`<results root>/<profile>/<notebook>/<variant>/` holds
    run.json               settings, run key, n, data, hardware, versions, commit, seconds, digests of the tables
    rounds.csv             a row for each training; its columns are ROUNDS (READ: test accuracy at `settings.read_at`)
    curves.csv             a row for each evaluation, long curves thinned (lthcore/runs/rows.py); its columns are CURVES
    structure.csv, distributions.csv   properties of the tickets of a complete run (lthcore/analysis/ticket_tables.py)
    derived.json           for each other table, how many trainings it was made from, and with which commit and versions
    lineage.safetensors.gz in which round each weight was pruned, and what else the next round starts from
    tickets/*.safetensors  masks and weights of each training, written when it is finished
    checkpoints/           unfinished trainings
    <variant>.ipynb        the executed notebook, which stays on the machine
    source/                the run that a transfer takes its masks from (lthcore/lottery/transfer.py)
All files are written under a temporary name and renamed, so that a file that exists is complete. Tickets and
checkpoints stay on the machine that made them; with the other files a run can continue on any machine
(lthcore/lottery/lineage.py).
"""

import time
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from lthcore.arms import arm_of, criterion_of
from lthcore.costs import costs_of
from lthcore.data.datasets import Data, classes_of, image_shape, load
from lthcore.errors import LabError, counted, one_line
from lthcore.lottery import lineage
from lthcore.lottery.lineage import Lineage
from lthcore.lottery.methods import planned
from lthcore.models.build import build
from lthcore.recipe import EXTENT, Recipe
from lthcore.runs.files import read_file, read_record, read_table, replicate_of, rows_of, write_run
from lthcore.runs.provenance import COMMIT, start_of, versions
from lthcore.runs.rows import curve_rows, round_row, thinned
from lthcore.runs.saved_states import SavedStates
from lthcore.runs.schemas import COLUMNS, CURVES, ROUNDS, check_whole
from lthcore.runs.status import missing
from lthcore.runs.user_code import digests_of_user_code
from lthcore.settings import Settings
from lthcore.sources.catalogue import dataset_of, read
from lthcore.training.state import Replicate, TrainState


class RunFolder:
    """Contents of a run's folder.

    `rows` (of rounds.csv) and `points` (lists of rows of curves.csv) are those of the finished trainings, `record` is
    the content of run.json, and `tickets` and `checkpoints` are the saved training runs.
    """

    def __init__(self, folder: str | Path, settings: Recipe, force: bool = False) -> None:
        """Open `folder` for `settings`. Raises LabError if it holds another run, unless `force` ignores that."""
        self.folder, self.settings = Path(folder), settings
        self.tickets = SavedStates(self.folder / "tickets", settings)
        self.checkpoints = SavedStates(self.folder / "checkpoints", settings)
        self.record = {} if force else self._read_record()
        self.clock = self.written = time.perf_counter()
        self.began = start_of(self.record) if self.record else _now()
        ended = self.record.get("finished") if self.record.get("complete") else None
        self.first_complete: str | None = self.record.get("first_complete", ended)
        self.data: Data | None = None
        self.hardware: dict | None = self.record.get("hardware")
        self.energy: dict = self.record.get("energy", {})
        self.rows: dict[Replicate, dict] = {}
        self.points: dict[Replicate, list[dict]] = {}
        shape = image_shape(settings)
        model = build(settings, shape, classes_of(settings))
        self.costs = costs_of(model, shape)
        self.lineage = Lineage()
        self.user_code = digests_of_user_code(settings)
        if self.record:
            self._read()
            self._check_code()

    @property
    def missing(self) -> list[Replicate]:
        """Trainings still to be done, except those that would start from a diverged one."""
        return missing(self.settings, self.rows, [r for r, row in self.rows.items() if row.get("diverged")])

    @property
    def _has_begun(self) -> bool:
        """Whether a training run has ended or has a checkpoint; after a kill, tickets are there without their rows."""
        saved = any(self.tickets.files()) or any(self.checkpoints.files())
        return bool(self.rows or self.record.get("trainings_done") or saved)

    def use_data(self, data: Data) -> None:
        """Set the data that the run trains on. Raises LabError if its trainings so far used other data."""
        before = self.record.get("data_digest")
        if before and data.digest and before != data.digest and self._has_begun:
            raise LabError(
                f"results: the data are not those that the trainings in {self.folder} had (digest {data.digest}, then "
                f"{before}); put those back, or run with --force to start afresh"
            )
        self.data = data

    def check_file(self) -> None:
        """Raise LabError if the data set is an .npz file of the user's own, with other content than the run had."""
        name = self.settings.dataset
        own = name.endswith(".npz") and dataset_of(name).reader is not None
        if own and read(name).variant != self.record.get("data"):  # other bytes; the images may still be the same
            self.use_data(load(self.settings.changed(device="cpu")))

    def empty(self) -> None:
        """Delete the files of the run in this folder, so that another can take its place; other files stay."""
        for file in (*self.tickets.files(), *self.checkpoints.files()):
            file.unlink()
        try:
            record = read_record(self.folder)
        except LabError:  # run.json is damaged
            record = {}
        written = {**record.get("digests", {}), **record.get("writing", {})}
        written = written or [path.name for path in self.folder.glob("*.csv")]  # the run's tables are not listed
        for name in {"run.json", *COLUMNS, lineage.FILE, "derived.json", *written, f"{self.folder.name}.ipynb"}:
            (self.folder / name).unlink(missing_ok=True)

    def remove_unfinished(self) -> None:
        """Delete partially written files, left behind when a run was killed."""
        for unfinished in self.folder.glob("**/.*.partial"):
            unfinished.unlink()

    def note(self, replicate: Replicate, state: TrainState) -> None:
        """Add a finished training to the tables."""
        before = self.rows.get(replicate._replace(round=replicate.round - 1))
        before = before or self.rows.get(Replicate("ticket", replicate.trial, 0, replicate.round - 1))
        self.rows[replicate] = round_row(self.settings, replicate, state, before, self.costs)
        self.points[replicate] = curve_rows(replicate, state)

    def write(self) -> None:
        """Write run.json, and the tables and the lineage if they have changed."""
        files = self._tables()
        if self.lineage.changed:
            files[lineage.FILE] = self.lineage.to_bytes(self.settings.key)
        self.record = write_run(self.folder, self._as_record(), files)
        self.lineage.changed, self.written = False, time.perf_counter()

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
            keyed = {k: v for k, v in mine.items() if k not in EXTENT}
            changed = ", ".join(f"{k} {theirs.get(k)!r} -> {v!r}" for k, v in keyed.items() if theirs.get(k) != v)
            raise LabError(
                f"results: {self.folder} holds run {other}, not {self.settings.key} ({changed}); "
                "run with --force to replace it, or move it away"
            )
        return record

    def _read(self) -> None:
        """Read the tables and the lineage.

        Trainings that are not in both tables are not done: the runner adds them from their tickets or repeats them.
        """
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
                "the command again: training runs without a ticket file here are repeated"
            ) from None
        self.lineage = read_lineage(self.folder, self.settings.key)

    def _check_code(self) -> None:
        """Raise LabError if user-defined code that a training run or a mask depends on has changed since."""
        before = self.record.get("own_code", {})
        changed = [name for name, digest in self.user_code.items() if before.get(name, digest) != digest]
        if changed := [name for name in changed if self._has_used(name)]:
            raise LabError(
                f"results: the code of {', '.join(changed)} has changed since the trainings in {self.folder}; give the "
                "new code another name, or run with --force (in Python force=True) to start afresh"
            )

    def _has_used(self, code: str) -> bool:
        """Whether a training run or a mask depends on this code, named as in `digests_of_user_code`.

        Dense networks are trained before any arm or criterion is called. If one of these fails then, it can be
        corrected, and the run continues with its dense networks.
        """
        kind, _, name = code.rpartition(" of ")[2].partition(" ")
        saved = [r for r in planned(self.settings) if r in self.tickets or r in self.checkpoints]
        pruned = [replicate for replicate in (*self.rows, *saved) if replicate.round]
        if kind == "arm":
            return any(replicate.arm == name for replicate in pruned)
        if kind == "criterion":
            sources = {source for _, source in self.lineage.known} | {arm_of(r.arm).masks for r in pruned}
            return any((criterion_of(source) or self.settings.criterion) == name for source in sources)
        return self._has_begun

    def _tables(self) -> dict[str, str]:
        """Return the text of rounds.csv and curves.csv, in planned order whatever the order of training."""
        order = planned(self.settings)
        order += sorted(self.rows.keys() - set(order))  # trainings that the settings no longer ask for
        done = [replicate for replicate in order if replicate in self.rows]
        every = self.settings.eval_every
        points = [p for r in done for p in thinned(self.points[r], every, self.rows[r]["es_iteration"])]
        curves = pd.DataFrame(points, columns=CURVES)
        rounds = pd.DataFrame([self.rows[replicate] for replicate in done], columns=ROUNDS)
        rounds = rounds.astype({"es_iteration": "Int64"})
        tables = {"curves.csv": curves, "rounds.csv": rounds}
        return {name: table.to_csv(index=False, lineterminator="\n") for name, table in tables.items()}

    def _iterations(self) -> int:
        """Return the number of training steps of all trainings, counted from the iteration that each starts at."""
        begun = {replicate: points[0]["iteration"] for replicate, points in self.points.items()}
        return sum(row["iterations"] - begun.get(replicate, 0) for replicate, row in self.rows.items())

    def _as_record(self) -> dict:
        """Return the content of run.json; the seconds since the last call are added to its wall seconds."""
        s, data, seconds = self.settings, self.data, time.perf_counter() - self.clock
        self.clock += seconds
        measured = not self.record or "wall_seconds" in self.record  # if an earlier time is unknown, the sum is too
        return {
            "run_key": s.key,
            "complete": not self.missing,
            "asked_for": _asked_for(s),
            "trainings_done": len(self.rows),
            "trainings_planned": len(planned(s)),
            "trainings_diverged": sum(bool(row.get("diverged")) for row in self.rows.values()),
            "n": s.trials,
            "seed": s.seed,
            "data": data.variant,
            "data_digest": data.digest or None,
            **{f"n_{name}": len(split.labels) for name, split in data.splits.items()},
            "hardware": self.hardware,
            "versions": versions(),
            "commits": list(dict.fromkeys([*self.record.get("commits", []), COMMIT])),
            "began": self.began,
            **({"first_complete": self.first_complete} if self.first_complete else {}),  # before it was extended
            "finished": _now(),
            **({"wall_seconds": round(self.record.get("wall_seconds", 0) + seconds, 1)} if measured else {}),
            "training_seconds": round(sum(row["seconds"] for row in self.rows.values()), 1),
            # forward pass and a backward pass of twice its cost, pruned weights included (rounds.csv has what remains)
            "training_flops": 6 * self.costs.multiply_adds * s.batch_size * self._iterations(),
            **{name: self.record[name] for name in ("trained_again",) if name in self.record},
            **({"energy": self.energy} if self.energy else {}),
            **({"own_code": code} if (code := self.record.get("own_code", {}) | self.user_code) else {}),
            "digests": self.record.get("digests", {}),
            "settings": s.model_dump(mode="json"),
        }


def read_lineage(folder: Path, run_key: str) -> Lineage:
    """Return the lineage of a run, an empty one if its folder has no such file. Raises LabError if it is damaged."""
    path = folder / lineage.FILE
    if not path.exists():
        return Lineage()
    try:
        return Lineage.from_bytes(read_file(path), run_key)
    except ValueError as error:
        raise LabError(
            f"results: {path} is damaged ({one_line(error)}); put it back, or delete it: trainings whose outcomes are "
            "needed are done again then"
        ) from None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _asked_for(settings: Recipe) -> str:
    """Describe the trainings that the settings ask for: `5 trials of rounds 0 to 20, arms ticket, reinit`."""
    trials = counted(settings.trials, "trial")
    if not isinstance(settings, Settings):
        return trials
    return f"{trials} of rounds 0 to {settings.rounds}, arms {', '.join(settings.arms)}"
