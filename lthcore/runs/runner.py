"""Runner that starts or resumes an experiment in its folder. A run stopped at any point resumes from that point."""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch

from lthcore import masks
from lthcore.arms import arm_of
from lthcore.data.datasets import Data
from lthcore.errors import LabError, TimeLimit, counted
from lthcore.lottery.checks import check_settings
from lthcore.lottery.methods import METHODS, planned
from lthcore.lottery.outcomes import keep_for_later_rounds, outcome_from_lineage, release_tensors
from lthcore.lottery.search import Cohort
from lthcore.models.build import without_mask
from lthcore.onednn import HAS_BFLOAT16
from lthcore.recipe import Recipe
from lthcore.runs.checkpoints import file_stem
from lthcore.runs.estimate import seconds_of
from lthcore.runs.executor import STOP, Checkpointer, Executor, LocalExecutor
from lthcore.runs.experiments import SOURCE
from lthcore.runs.files import read_tables
from lthcore.runs.folder import RunFolder
from lthcore.runs.lock import LOCK, locked, stopped_by_sigterm
from lthcore.runs.plan import duration
from lthcore.runs.progress import RunProgress
from lthcore.settings import Settings
from lthcore.sources.catalogue import dataset_of
from lthcore.training.orphans import remove_leftovers
from lthcore.training.state import Replicate, TrainState

WRITE_EVERY = 20.0  # minimum seconds between writes: writing the tables of a long run takes a second or two


def run(
    settings: Recipe,
    folder: str | Path,
    time_limit: float = float("inf"),
    force: bool = False,
    quiet: bool = False,
    executor: Executor | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Run an experiment in `folder`, or resume it, and return its tables (rounds, curves).

    A complete run returns its tables at once and needs neither data nor tickets; only an .npz file of the user's own is
    read, to see that it is still the one of the run. A complete training run is repeated only if later rounds need its
    outcome and it is not saved here. `force` deletes existing results first, and `quiet` suppresses progress; the
    environment variable LTH_PLAIN=summary replaces it by one line at the end. `executor` does the training (default:
    this machine; on a cluster, see lthcore/runs/ray_cluster.py). Raises TimeLimit after `time_limit` seconds or on
    SIGTERM, with everything so far saved, and LabError for errors that a user can fix.
    """
    deadline = time.monotonic() + time_limit
    check_settings(settings)
    present = RunFolder(folder, settings, force)
    if not present.missing:
        present.check_file()
        return read_tables(folder)
    executor = executor or LocalExecutor()
    data = executor.load(settings)
    for note in _notes(settings, present, data):
        print(f"note: {note}", file=sys.stderr)
    began, summarised = time.perf_counter(), os.environ.get("LTH_PLAIN") == "summary"
    if not quiet and not summarised:
        seconds = duration(seconds_of(settings, present.missing))
        print(f"{settings.key}: {counted(len(present.missing), 'training')}, about {seconds} here", flush=True)
    folder = Path(folder)
    with locked(folder / LOCK), stopped_by_sigterm(folder / STOP) as asked:
        files = RunFolder(folder, settings, force)  # read again: it may have changed before it was locked
        files.use_data(data)
        if force:
            files.empty()
        files.remove_unfinished()
        remove_leftovers()
        _Runner(files, data, executor, deadline, force, quiet or summarised).run()
        if asked.is_set():  # too late for any training run to notice
            raise TimeLimit(f"asked to stop, with all of {len(planned(settings))} trainings done")
    if summarised and not quiet:
        took = duration(time.perf_counter() - began)
        print(f"{settings.key}: {counted(len(present.missing), 'training')} in {took}", flush=True)
    return read_tables(folder)


def _notes(settings: Recipe, present: RunFolder, data: Data) -> Iterator[str]:
    """Yield what a user should know before the training begins."""
    if present.costs.uncounted:
        yield f"the multiply-adds of {', '.join(present.costs.uncounted)} are not counted"
    if note := without_mask(settings):
        yield note
    if len(data.test.labels) < dataset_of(settings.dataset).n_test:
        yield f"{data.variant}; accuracies are measured on these images"
    if settings.precision == "bfloat16" and data.test.labels.device.type == "cpu" and not HAS_BFLOAT16:
        yield "without instructions for bfloat16, this processor is hardly faster than in float32"


def _why_stopped(files: RunFolder, deadline: float, force: bool) -> str:
    """Return why a run stopped before its end, how far it got, and how to resume it."""
    total, left = len(planned(files.settings)), len(files.missing)
    done = f"{total - left} of {total} trainings done"
    again = f"run the same command again{' without --force' * force} to resume"
    if time.monotonic() >= deadline:
        return f"time limit reached with {done}; {again}"
    above = files.folder.absolute().parent / STOP  # unlike one in the folder itself, it stops later runs too
    if above.is_file():
        return f"asked to stop by the file {above}, with {done}; delete it, then {again}"
    return f"asked to stop, with {done}; {again}"


class _Runner:
    """Trains what is missing in a run's folder, and keeps the files of the folder up to date."""

    def __init__(
        self, files: RunFolder, data: Data, executor: Executor, deadline: float, force: bool, quiet: bool
    ) -> None:
        self.files, self.settings, self.data, self.executor = files, files.settings, data, executor
        self.deadline, self.force, self.quiet = deadline, force, quiet
        rounds = max(replicate.round for replicate in planned(self.settings))
        self.progress = RunProgress(self.settings, files.missing, rounds, quiet)

    def run(self) -> None:
        """Train the whole experiment. The tables include everything trained, however it ends.

        Raises TimeLimit if it was stopped early, and LabError if the memory of a GPU is too small.
        """
        self.write()
        try:
            with self.executor.metered(self.files.record.get("energy")) as self.files.energy:
                self.train_all()
        except TimeLimit:
            raise TimeLimit(_why_stopped(self.files, self.deadline, self.force)) from None
        except torch.OutOfMemoryError:
            raise LabError("the GPU's memory does not hold this; lower batch_size, or use device cpu") from None
        finally:
            self.write()

    def train_all(self) -> None:
        """Train what is missing and show the progress (lthcore/runs/progress.py)."""
        outcomes = METHODS[type(self.settings)].outcomes
        with self.progress:
            for cohort in outcomes(self.settings, self.data, self.train, self.files.lineage, self.search):
                if self.progress.plain and not self.quiet:
                    print(self._round_line(cohort), flush=True)

    def train(self, cohort: Cohort) -> Cohort:
        """Return the outcomes of a cohort: load the complete ones, and resume or train the others.

        Outcomes that no later round starts from are returned without their tensors. Raises TimeLimit if training was
        stopped early, at the deadline or on request.
        """
        if self.files.lineage.changed:  # the masks of this round are new in the lineage
            self.write()
        outcomes, todo = {}, {}
        for replicate, start in cohort.items():
            outcome = self._outcome_of(replicate, start)
            if outcome is not None:
                outcomes[replicate] = outcome
                release_tensors(self.settings, replicate, outcome, start)
            elif replicate in self.files.checkpoints:
                todo[replicate] = self.files.checkpoints.load(replicate, start)
            else:
                todo[replicate] = start
        self._say_again([replicate for replicate in todo if replicate in self.files.rows])
        outcomes |= self._trained(todo, cohort)
        if len(outcomes) < len(cohort):
            raise TimeLimit("the time limit was reached")
        self.write()
        return {replicate: outcomes[replicate] for replicate in cohort}

    def _outcome_of(self, replicate: Replicate, start: TrainState) -> TrainState | None:
        """Return the outcome of a complete training run, or None if it has to be trained (again)."""
        files = self.files
        if replicate in files.tickets:
            if replicate in files.rows and not arm_of(replicate.arm).is_pruned_itself:
                return start  # no later round starts from this training run
            outcome = files.tickets.load(replicate, start)
            files.note(replicate, outcome)
            keep_for_later_rounds(self.settings, self.data, files.lineage, replicate, outcome)
            return outcome
        row = files.rows.get(replicate)
        if row is None:
            return None
        diverged = bool(row.get("diverged"))
        return outcome_from_lineage(self.settings, files.lineage, files.missing, replicate, start, diverged)

    def _trained(self, todo: Cohort, starts: Cohort) -> Cohort:
        """Train the cohort `todo` and save each training run as it ends; return the outcomes of the complete ones."""
        files, outcomes = self.files, {}
        checkpointer = Checkpointer(files.folder / "checkpoints", self.settings, self.deadline)
        checkpointer.report = self.progress.report
        trainer = METHODS[type(self.settings)].trainer
        for replicate, state in self.executor.train(self.settings, self.data, todo, checkpointer, trainer):
            if state.iteration < self.settings.iterations:
                continue  # stopped early, at the deadline or on request
            files.tickets.save(replicate, state)
            files.checkpoints.delete(replicate)
            outcomes[replicate] = state
            if replicate not in files.rows:
                files.note(replicate, state)
            row = files.rows[replicate]
            self.progress.ended(replicate, row["percent_left"], row["final_test_accuracy"])
            keep_for_later_rounds(self.settings, self.data, files.lineage, replicate, state)
            release_tensors(self.settings, replicate, state, starts[replicate])
            if time.perf_counter() - files.written > WRITE_EVERY:  # tickets restore rows that a kill loses
                self.write()
        return outcomes

    def search(self, settings: Settings) -> Iterator[Cohort]:
        """Yield the tickets of the search that this run takes its masks from, trained as a run in the folder SOURCE."""
        folder = self.files.folder / SOURCE
        run(settings, folder, self.deadline - time.monotonic(), self.force, self.quiet, self.executor)
        found, before = RunFolder(folder, settings), {}
        for replicate in planned(settings):
            name = found.tickets.path(replicate)
            mask = found.lineage.mask(replicate.trial, "ticket", replicate.round) if replicate.round else None
            if replicate in found.tickets:
                state = found.tickets.load(replicate)
            elif mask is not None:
                state = TrainState(settings.iterations, {}, mask, settings.seed)
            elif replicate.round == 0 and replicate in found.rows:
                continue  # the dense network, which has no mask to transfer
            else:
                raise LabError(f"results: {name} is missing, and a mask with it; run with --force to search anew")
            if replicate.trial in before and not masks.is_nested(state.mask, before[replicate.trial]):
                wrong = "has a mask that is no part of the one before"
                raise LabError(f"results: {name} {wrong}; delete it and run the command again")
            before[replicate.trial] = state.mask
            yield {replicate: state}

    def write(self) -> None:
        """Write the tables and run.json so that they include everything trained so far."""
        self.files.hardware = self.executor.hardware(self.data) or self.files.hardware
        self.files.write()

    def _say_again(self, replicates: list[Replicate]) -> None:
        """Print that training runs which have rows are trained again, and count them in run.json."""
        if replicates:
            record = self.files.record
            record["trained_again"] = record.get("trained_again", 0) + len(replicates)
            more = f" and {len(replicates) - 3:,} more" if len(replicates) > 3 else ""
            print(
                "note: trained again, because no ticket or lineage here has the weights: "
                f"{', '.join(map(file_stem, replicates[:3]))}{more}; what the tables say of it stays",
                file=sys.stderr,
            )

    def _round_line(self, outcomes: Cohort) -> str:
        """Return the progress line of a round: percentage of weights and mean test accuracy of the first arm in it."""
        arm = next(iter(outcomes)).arm
        rows = [self.files.rows[replicate] for replicate in outcomes if replicate.arm == arm]
        accuracy = sum(row["final_test_accuracy"] for row in rows) / len(rows)
        line = self.progress.round_line(rows[0]["round"], rows[0]["percent_left"], arm, accuracy)
        skipped = sum(bool(row["skipped"]) for row in rows)
        return line + (f" ({skipped} of {len(rows)} pruned nothing in this round)" if skipped else "")
