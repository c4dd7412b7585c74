"""`lth show` and `lth export`: print a run, and write one of its tickets to a file."""

import argparse
import json
from pathlib import Path
from typing import Any

from lthcore.errors import LabError
from lthcore.lottery.methods import settings_for
from lthcore.paths import project_root, short
from lthcore.report.tables import cut_off
from lthcore.runs.experiments import Experiment, load_experiments
from lthcore.runs.files import read_record, read_tables
from lthcore.runs.plan import state_line
from lthcore.runs.status import changed_runs, find_run
from lthcore.tickets.export import export_ticket
from lthcore.tickets.load import load_ticket


def show_command(options: argparse.Namespace) -> None:
    """Print a run: its provenance, its settings, and its mean accuracies by arm and round."""
    folder = find_run(options.run)
    rounds, _ = read_tables(folder)
    whole = read_record(folder)
    record = {key: value for key, value in whole.items() if key != "settings"}
    print(f"{'folder':18} {short(folder)}")
    print(
        "\n".join(
            f"{key:18} {json.dumps(value) if isinstance(value, dict) else value}" for key, value in record.items()
        )
    )
    if lines := _standing(folder):
        print("\n".join(lines))
    _print_settings(folder, whole.get("settings", {}))
    if rounds.empty:
        print("\nno training is done yet")
        return
    columns = ["es_iteration", "es_test_accuracy", "final_test_accuracy", "final_train_accuracy"]
    rounds["cut_off"] = cut_off(rounds)
    groups = rounds.groupby(["arm", "round"], sort=False)
    table = groups[["percent_left", *columns]].mean()
    table.insert(0, "n", groups.size())
    note = ""
    if rounds["cut_off"].any():
        table["cut_off"] = groups["cut_off"].sum()
        note = (
            "\n\ncut_off: trainings whose minimum validation loss is in the last twentieth of training. With longer\n"
            "training, they might stop later, so that the mean of their early stops is a lower bound."
        )
    print("\nmeans over trials and draws\n" + table.round(4).to_string() + note)


def _standing(folder: Path) -> list[str]:
    """Return the state of a run as `lth list` shows it, and the settings of its params file that it changes.

    The list is empty if the run does not belong to a params file.
    """
    if len(folder.resolve().parts) < 4:  # not below a results root
        return []
    root, (*_, profile, study, variant) = folder.resolve().parents[2], folder.resolve().parts
    known: dict[str, Experiment] = {}
    for path in sorted((project_root() / "params" / study).glob("*.yaml")):
        try:
            known |= {e.name: e for e in load_experiments(path, profile)}
        except LabError:
            continue
    name = f"{profile}/{study}/{variant}"
    if name in known:
        return [f"{'state':18} {state_line(known[name], root)}"]
    for experiment, values in changed_runs(known, root) if known else ():
        if experiment.name == name:
            what = ", ".join(f"{key} = {value}" for key, value in values.items())
            return [f"{'state':18} {state_line(experiment, root)}", f"{'changed':18} {what}"]
    return []


def _print_settings(folder: Path, values: dict[str, Any]) -> None:
    """Print the settings of a run, first those that differ from their defaults."""
    fields = settings_for(folder.resolve().parent.name, values).model_fields
    default = {key: json.loads(json.dumps(field.default)) for key, field in fields.items()}
    own = {key: value for key, value in values.items() if value != default.get(key)}
    for title, part in (
        ("settings, other than the defaults", own),
        ("settings, at their defaults", {key: value for key, value in values.items() if key not in own}),
    ):
        print(f"\n{title}\n" + "\n".join(f"    {key:18} {value}" for key, value in part.items()))


def export_command(options: argparse.Namespace) -> None:
    """Write a ticket of a run (mask and initial weights) to a file. With `--push`, also upload it."""
    from lthcore.tickets.hub import push_ticket

    ticket = load_ticket(options.run, options.trial, options.remaining)
    path = export_ticket(ticket, options.to, options.compacted)
    print(f"{path}: round {ticket.round}, {ticket.remaining:.1f}% of weights remaining; {path.name}.md says what it is")
    if options.push:
        print(f"{push_ticket(path, options.push)}: uploaded")
