"""The plan: what is done of an experiment or a study, and how long the rest would take here, in lines."""

import sys
from typing import NamedTuple

from lthcore.errors import LabError
from lthcore.runs.estimate import needs_timing, seconds_left, seconds_of
from lthcore.runs.experiments import Experiment
from lthcore.runs.status import status_of

FEW = 20  # experiments that a plan lists one by one


def print_plan(experiments: list[Experiment]) -> None:
    """Print what is about to be run: state and estimated time of each experiment, or of each study, and the sum."""
    print(f"plan, profile {experiments[0].profile}:", flush=True)
    if any(needs_timing(e.settings, status_of(e).missing) for e in experiments):
        print("    timing networks that were not timed on this machine yet, once ...", flush=True)
    studies: dict[str, list[Experiment]] = {}
    for experiment in experiments:
        studies.setdefault(experiment.notebook, []).append(experiment)
    if len(experiments) <= FEW:
        for experiment in experiments:
            print(f"    {experiment.notebook}/{experiment.variant:28} {state_line(experiment)}")
    else:
        for study, members in studies.items():
            print(f"    {study:28} {summary_of(members, measure=True)}", flush=True)
    print(f"    about {duration(sum(map(seconds_left, experiments)))} in all on this machine\n", flush=True)


def ask_whether_to_begin() -> None:
    """Ask on the terminal whether to go ahead. Raises LabError where the answer is no, or nobody is there to ask."""
    if not sys.stdin.isatty():
        raise LabError("run: there is no terminal to ask whether to begin; say so by --yes (make: YES=1)")
    if input("begin? [y/N] ").strip().lower() not in ("y", "yes"):
        raise LabError("run: nothing was begun; name fewer params files, or a smaller --profile")


def state_line(experiment: Experiment) -> str:
    """How much of an experiment is done, and how long the rest would take here."""
    status = status_of(experiment)
    done, total = len(status.done), len(status.done) + len(status.missing)
    if not status.missing:
        return f"done ({total:,} trainings)"
    begun = f"{done:,} of {total:,} trainings done" if done else f"{total:,} trainings"
    asked = ", all that was asked for" if status.is_drawn else ""
    return f"{begun}{asked}, about {duration(seconds_of(experiment.settings, status.missing))} here"


class StudyRow(NamedTuple):
    """A study under a profile: experiments, those that are done, seconds left of what is timed, and what is not."""

    experiments: int
    done: int
    seconds: float
    untimed: int

    def __str__(self) -> str:
        """The row in words: `8 of 96 done, 34 h`."""
        if self.done == self.experiments:
            return f"all {self.done} done"
        at_least = "> " if self.untimed else ""
        time = f"{at_least}{duration(self.seconds)}" if self.untimed < self.experiments - self.done else "?"
        return f"{self.done} of {self.experiments} done, {time}"


def summary_of(experiments: list[Experiment], measure: bool = False) -> StudyRow:
    """Where some experiments stand together. What is not timed here yet is timed only if it is to `measure`."""
    done = untimed = 0
    seconds = 0.0
    for experiment in experiments:
        missing = status_of(experiment).missing
        done += not missing
        if missing and not measure and needs_timing(experiment.settings, missing):
            untimed += 1
        else:
            seconds += seconds_of(experiment.settings, missing)
    return StudyRow(len(experiments), done, seconds, untimed)


def duration(seconds: float) -> str:
    """Seconds in the unit that one would say them in."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:,.1f} h"
