"""The table of params/FIGURES.md: which runs each figure of the paper needs, and what they cost on this machine."""

import torch

from lthcore.lottery.search import planned
from lthcore.report.figure_specs import FIGURES
from lthcore.report.layout import span
from lthcore.report.paper_figures import params_of
from lthcore.runs.estimate import seconds_of
from lthcore.runs.experiments import load_experiments
from lthcore.runs.provenance import hardware
from lthcore.runs.timing import timed
from lthcore.training.parallel import worker_count


def figures_table() -> str:
    """Return the text of params/FIGURES.md: runs and arms of each figure, and the estimated cost of each run here."""
    cpu, cores = hardware(torch.device("cpu"))["cpu"], worker_count()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    lines = [
        "# What feeds which figure",
        "",
        "Written by `lth figures --table`. Runs are files of `params/iterative_pruning`; a sweep is all its variants.",
        "",
        "| figure | shows | runs | arms |",
        "|---|---|---|---|",
    ]
    for number, spec in FIGURES.items():
        lines.append(f"| {number} | {spec.title} | {', '.join(spec.runs)} | {', '.join(spec.arms)} |")
    lines += [
        "",
        f"## What the runs cost at profile `paper`, on {gpu or f'{cores} cores ({cpu})'}",
        "",
        "Steps a second are those of the dense network, one training alone; hours count every arm, draw, round and",
        "evaluation, sparse rounds at their own speed, all cores at work. They are estimates of whole runs on a",
        "machine that does nothing else. What a committed run took, with the arms that it was asked for and the code",
        "of its time, is in its run.json.",
        "",
        "| run | figures | variants | trainings | iterations | steps a second | hours |",
        "|---|---|---|---|---|---|---|",
    ]
    for run in dict.fromkeys(run for spec in FIGURES.values() for run in spec.runs):
        settings = [experiment.settings for experiment in load_experiments(params_of(run), "paper")]
        trainings = sum(len(planned(s)) for s in settings)
        hours = sum(seconds_of(s, planned(s)) for s in settings) / 3600
        figures = ", ".join(str(number) for number, spec in FIGURES.items() if run in spec.runs)
        steps = {s.iterations for s in settings}
        speeds = {round(1 / timed(s)[0], 1) for s in settings}
        lines.append(
            f"| [{run}](iterative_pruning/{run}.yaml) | {figures} | {len(settings)} | {trainings:,} "
            f"| {span(steps)} | {span(speeds)} | {hours:,.1f} |"
        )
    return "\n".join(lines) + "\n"
