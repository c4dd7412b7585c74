"""Plan of a command: how much of its experiments or studies is done, and the estimated time of the rest."""

import sys
from pathlib import Path
from typing import NamedTuple

from lthcore.errors import LabError, counted
from lthcore.lottery.methods import planned
from lthcore.paths import folder_of
from lthcore.runs.estimate import needs_timing, seconds_left
from lthcore.runs.experiments import Experiment
from lthcore.runs.lock import LOCK, holder
from lthcore.runs.saved_states import SavedStates
from lthcore.runs.status import status_of

FEW = 20  # maximum number of experiments that a plan lists one by one


def print_plan(experiments: list[Experiment], force: bool = False) -> None:
    """Print the state and estimated time of each experiment (of each study if there are many), and the total time.

    `force` tells that their present results will be deleted first.
    """
    print(f"plan, profile {experiments[0].profile}:", flush=True)
    if force:
        there = sum(bool(status.done or status.other) for status in map(status_of, experiments))
        print(f"    the present results of {counted(there, 'experiment')} are deleted first (--force)", flush=True)
    if any(needs_timing(e.settings, status_of(e, force=force).missing) for e in experiments):
        print("    timing networks that were not timed on this machine yet, once ...", flush=True)
    studies: dict[str, list[Experiment]] = {}
    for experiment in experiments:
        studies.setdefault(experiment.notebook, []).append(experiment)
    if len(experiments) <= FEW:
        for experiment in experiments:
            print(f"    {experiment.notebook}/{experiment.variant:28} {state_line(experiment, force=force)}")
    else:
        for study, members in studies.items():
            print(f"    {study:28} {summary_of(members, True, force)}", flush=True)
    seconds = sum(seconds_left(e, force=force) for e in experiments)
    print(f"    about {duration(seconds)} in all on this machine\n", flush=True)


def ask_whether_to_begin() -> None:
    """Ask on the terminal whether to begin. Raises LabError if the answer is not yes, or if there is no terminal."""
    if not sys.stdin.isatty():
        raise LabError("there is no terminal to ask for confirmation; confirm with --yes (make: YES=1)")
    if input("begin? [y/N] ").strip().lower() not in ("y", "yes"):
        raise LabError("nothing was begun; name fewer experiments, or a smaller --profile")


def state_line(experiment: Experiment, root: Path | None = None, force: bool = False) -> str:
    """Return a line that says how much of an experiment is done below a root, and the time of the rest here.

    With `force`, nothing counts as done.
    """
    status = status_of(experiment, root, force)
    if status.other:
        return f"its folder holds another run ({status.other}); move it away, or replace it with --force"
    done, total = len(status.done), len(status.done) + len(status.missing)
    if not status.missing:
        left_out = len(planned(experiment.settings)) - total
        but = f"; {left_out:,} could not start from ones that diverged" if left_out else ""
        return f"done ({counted(total, 'training')}{but})"
    folder = folder_of(experiment.name, root)
    saved = SavedStates(folder / "checkpoints", experiment.settings)
    begun = 0 if force else sum(replicate in saved for replicate in status.missing)
    far = f"{done:,} of {total:,} trainings done" if done or begun else counted(total, "training")
    far += f", {begun} begun" if begun else ""
    asked, rest = (", all that was asked for", "the rest ") if status.is_drawn else ("", "")
    owner = holder(folder / LOCK)
    running = f"; in use by {owner}" if owner else ""
    return f"{far}{asked}, {rest}about {duration(seconds_left(experiment, root, force))} here{running}"


class StudyRow(NamedTuple):
    """Progress of a study under a profile.

    Numbers of experiments in all and done, estimated seconds to finish those timed on this machine, and number of
    unfinished experiments that are not timed yet.
    """

    experiments: int
    done: int
    seconds: float
    untimed: int

    def __str__(self) -> str:
        """Return the row in words: `8 of 96 done, 34 h`."""
        if self.done == self.experiments:
            return f"all {self.done} done"
        at_least = "> " if self.untimed else ""
        time = f"{at_least}{duration(self.seconds)}" if self.untimed < self.experiments - self.done else "?"
        return f"{self.done} of {self.experiments} done, {time}"


def summary_of(experiments: list[Experiment], measure: bool = False, force: bool = False) -> StudyRow:
    """Return the joint progress of experiments; with `force`, nothing counts as done.

    Those not timed on this machine yet are timed only if `measure`.
    """
    done = untimed = 0
    seconds = 0.0
    for experiment in experiments:
        missing = status_of(experiment, force=force).missing
        done += not missing
        if missing and not measure and needs_timing(experiment.settings, missing):
            untimed += 1
        else:
            seconds += seconds_left(experiment, force=force)
    return StudyRow(len(experiments), done, seconds, untimed)


def duration(seconds: float) -> str:
    """Return a duration as text, in seconds, minutes or hours depending on its length."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:,.1f} h"
