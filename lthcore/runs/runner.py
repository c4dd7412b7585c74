"""Runner: an experiment is run, or resumed, in its folder. A run that was stopped anywhere goes on where it was."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch

from lthcore import masks
from lthcore.arms import arm_of
from lthcore.data.datasets import Data
from lthcore.errors import LabError, TimeLimit
from lthcore.lottery.methods import METHODS, planned
from lthcore.lottery.outcomes import keep_for_later_rounds, outcome_from_lineage, release_tensors
from lthcore.lottery.search import Cohort, check_settings
from lthcore.runs.checkpoints import file_stem
from lthcore.runs.estimate import seconds_of
from lthcore.runs.executor import STOP, Checkpointer, Executor, LocalExecutor
from lthcore.runs.files import read_tables
from lthcore.runs.folder import RunFolder
from lthcore.runs.lock import locked, stopped_by_sigterm
from lthcore.runs.plan import duration
from lthcore.runs.progress import RunProgress
from lthcore.settings import Recipe, Settings
from lthcore.sources.catalogue import dataset_of
from lthcore.training.orphans import remove_leftovers
from lthcore.training.state import Replicate, TrainState

SOURCE = "source"  # within the folder of a run: the run that it takes its masks from
WRITE_EVERY = 20.0  # seconds: tables are written whole, and a long run's take a second or two


def run(
    settings: Recipe,
    folder: str | Path,
    time_limit: float = float("inf"),
    force: bool = False,
    quiet: bool = False,
    executor: Executor | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Run an experiment in `folder`, or go on with it, and return its tables (rounds, curves).

    What is done is not done again; a complete run returns at once, needing neither data nor tickets. `executor` trains,
    if not this machine (lthcore/runs/ray_cluster.py). Raises TimeLimit after `time_limit` seconds, everything so far
    saved, and LabError for what a user can mend.
    """
    deadline = time.monotonic() + time_limit
    check_settings(settings)
    present = RunFolder(folder, settings, force)
    if not present.missing:
        return read_tables(folder)
    if present.costs.uncounted:
        print(f"note: the multiply-adds of {', '.join(present.costs.uncounted)} are not counted", file=sys.stderr)
    executor = executor or LocalExecutor()
    data = executor.load(settings)
    if len(data.test.labels) < dataset_of(settings.dataset).n_test:
        print(f"note: {data.variant}; accuracies are of these", file=sys.stderr)
    if not quiet:
        seconds = duration(seconds_of(settings, present.missing))
        print(f"{settings.key}: {len(present.missing):,} trainings, about {seconds} here", flush=True)
    folder = Path(folder)
    with locked(folder / "checkpoints" / "lock.json"), stopped_by_sigterm(folder / STOP) as asked:
        files = RunFolder(folder, settings, force)  # as it stands now that nobody else writes here
        files.take(data)
        if force:
            files.empty()
        files.remove_unfinished()
        remove_leftovers()
        this = _Runner(files, data, executor, deadline, force, quiet)
        this.write()
        try:
            with executor.metered(files.record.get("energy")) as files.energy:
                this.train_all()
        except TimeLimit:
            total, left = len(planned(settings)), len(files.missing)
            why = "time limit reached" if time.monotonic() >= deadline else "asked to stop,"
            raise TimeLimit(f"{why} with {total - left} of {total} trainings done; the same command goes on") from None
        except torch.OutOfMemoryError:
            raise LabError("the GPU's memory does not hold this; lower batch_size, or use device cpu") from None
        finally:
            this.write()
        if asked.is_set():  # too late for any training to see it
            raise TimeLimit(f"asked to stop, with all of {len(planned(settings))} trainings done")
    return read_tables(folder)


class _Runner:
    """Trains what a run's folder does not have yet, and keeps the folder in step with what is done."""

    def __init__(
        self, files: RunFolder, data: Data, executor: Executor, deadline: float, force: bool, quiet: bool
    ) -> None:
        self.files, self.settings, self.data, self.executor = files, files.settings, data, executor
        self.deadline, self.force, self.quiet = deadline, force, quiet
        rounds = max(replicate.round for replicate in planned(self.settings))
        self.progress = RunProgress(self.settings, files.missing, rounds, quiet)

    def train_all(self) -> None:
        """Train all of the experiment, showing how far it is (lthcore/runs/progress.py)."""
        outcomes = METHODS[type(self.settings)].outcomes
        with self.progress:
            for cohort in outcomes(self.settings, self.data, self.train, self.files.lineage, self.search):
                if self.progress.plain and not self.quiet:
                    print(self._round_line(cohort), flush=True)

    def train(self, cohort: Cohort) -> Cohort:
        """The outcomes of a cohort: read where they are done, resumed or trained where not.

        Outcomes that nothing grows from come back without their tensors. Raises TimeLimit at the deadline.
        """
        if self.files.lineage.changed:  # the masks of this round are known now
            self.write()
        outcomes, todo = {}, {}
        for replicate, start in cohort.items():
            outcome = self._outcome_of(replicate, start)
            if outcome is not None:
                outcomes[replicate] = outcome
                release_tensors(self.settings, replicate, outcome, start)
            elif self.files.has_checkpoint(replicate):
                todo[replicate] = self.files.load_checkpoint(replicate, start)
            else:
                todo[replicate] = start
        self._say_again([replicate for replicate in todo if replicate in self.files.rows])
        outcomes |= self._trained(todo, cohort)
        if len(outcomes) < len(cohort):
            raise TimeLimit("the time limit was reached")
        self.write()
        return {replicate: outcomes[replicate] for replicate in cohort}

    def _outcome_of(self, replicate: Replicate, start: TrainState) -> TrainState | None:
        """What there is of a training that is done; None where it has to be done, or done again."""
        files = self.files
        if files.has_ticket(replicate):
            if replicate in files.rows and not arm_of(replicate.arm).is_pruned_itself:
                return start  # nothing grows from it
            outcome = files.load_ticket(replicate, start)
            files.note(replicate, outcome)
            keep_for_later_rounds(self.settings, self.data, files.lineage, replicate, outcome)
            return outcome
        row = files.rows.get(replicate)
        if row is None:
            return None
        diverged = bool(row.get("diverged"))
        return outcome_from_lineage(self.settings, files.lineage, files.missing, replicate, start, diverged)

    def _trained(self, todo: Cohort, starts: Cohort) -> Cohort:
        """Train what is to do, saving each training as it ends; return those that came to their end."""
        files, outcomes = self.files, {}
        checkpointer = Checkpointer(files.folder / "checkpoints", self.settings, self.deadline)
        checkpointer.report = self.progress.report
        trainer = METHODS[type(self.settings)].trainer
        for replicate, state in self.executor.train(self.settings, self.data, todo, checkpointer, trainer):
            if state.iteration < self.settings.iterations:
                continue  # it was told to stop, at the deadline
            files.save_ticket(replicate, state)
            outcomes[replicate] = state
            if replicate not in files.rows:
                files.note(replicate, state)
            row = files.rows[replicate]
            self.progress.ended(replicate, row["percent_left"], row["final_test_accuracy"])
            keep_for_later_rounds(self.settings, self.data, files.lineage, replicate, state)
            release_tensors(self.settings, replicate, state, starts[replicate])
            if time.perf_counter() - files.written > WRITE_EVERY:  # what a kill loses of the tables, the tickets have
                self.write()
        return outcomes

    def search(self, settings: Settings) -> Iterator[Cohort]:
        """The tickets of another search, that this one takes masks from, round by round: a run of its own."""
        folder = self.files.folder / SOURCE
        run(settings, folder, self.deadline - time.monotonic(), self.force, self.quiet, self.executor)
        found, before = RunFolder(folder, settings), {}
        for replicate in planned(settings):
            name = f"{folder}/tickets/{file_stem(replicate)}.safetensors"
            mask = found.lineage.mask(replicate.trial, "ticket", replicate.round) if replicate.round else None
            if found.has_ticket(replicate):
                state = found.load_ticket(replicate)
            elif mask is not None:
                state = TrainState(settings.iterations, {}, mask, settings.seed)
            elif replicate.round == 0 and replicate in found.rows:
                continue  # the dense network, which has no mask to transfer
            else:
                raise LabError(f"results: {name} is missing, and a mask with it; run with --force to search anew")
            if replicate.trial in before and not masks.is_nested(state.mask, before[replicate.trial]):
                wrong = "has a mask that is no part of the one before"
                raise LabError(f"results: {name} {wrong}; delete it and give the command again")
            before[replicate.trial] = state.mask
            yield {replicate: state}

    def write(self) -> None:
        """Bring the files in step with what is done."""
        self.files.hardware = self.executor.hardware(self.data) or self.files.hardware
        self.files.write()

    def _say_again(self, replicates: list[Replicate]) -> None:
        """Say that trainings are done again whose rows are here, and count them in run.json."""
        if replicates:
            record = self.files.record
            record["trained_again"] = record.get("trained_again", 0) + len(replicates)
            print(
                f"note: {len(replicates)} trainings are done again for their weights, which no ticket or lineage here "
                f"has ({', '.join(map(file_stem, replicates[:3]))} ...); their rows stay",
                file=sys.stderr,
            )

    def _round_line(self, outcomes: Cohort) -> str:
        """Of the arm that comes first in a round: where it is, and its mean test accuracy."""
        arm = next(iter(outcomes)).arm
        rows = [self.files.rows[replicate] for replicate in outcomes if replicate.arm == arm]
        accuracy = sum(row["final_test_accuracy"] for row in rows) / len(rows)
        return self.progress.round_line(rows[0]["round"], rows[0]["percent_left"], arm, accuracy)
