"""Tickets to take home: masks and initial weights from the lineage of a committed run, without any training.

The masks of a run are in its lineage, and the initial weights follow from its seed. A ticket is therefore available
wherever its run's tables are: to train it, to train another network under its mask, or to export it.
"""

import io
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import save as to_bytes
from torch import nn

from lthcore import masks
from lthcore.analysis.compaction import compact, export_onnx
from lthcore.arms import arm_of, criterion_of, prunes_dense
from lthcore.data.datasets import classes_of, image_shape, order_of_images, pixel_scale
from lthcore.errors import LabError, choose, counted
from lthcore.lottery import lineage
from lthcore.lottery.lineage import Lineage
from lthcore.lottery.methods import settings_of
from lthcore.lottery.outcomes import ORIGIN
from lthcore.lottery.search import initial_weights_of
from lthcore.lottery.start import begin, seed_of
from lthcore.masks import Mask
from lthcore.models import Weights, build, initial_weights
from lthcore.registry import CRITERIA
from lthcore.runs.files import read_record, read_table, write
from lthcore.runs.folder import RunFolder, read_lineage
from lthcore.runs.rows import nearest_round
from lthcore.runs.status import find_run
from lthcore.settings import Settings
from lthcore.sources.catalogue import dataset_of
from lthcore.training.state import TrainState

NEAR = 0.15  # tolerance between the percentage of a ticket and the one asked for, as a share of the smaller
HOLDS = {  # suffix -> content of an exported file
    ".safetensors": "`weights/<name>`, masked and not trained, for each weight of PyTorch's name; `validation_images`, "
    "the places of the validation images among the training images, from 0; the settings of the run as JSON "
    "in its metadata",
    ".pt": "a state dict of PyTorch, masked and not trained (`torch.load`, `load_state_dict`)",
    ".onnx": "the masked network, not trained, from `images` to logits",
}
MASK = "; `mask/<name>`, 1 where a weight is kept"  # in a .safetensors file as well, unless it is compacted


@dataclass(frozen=True)
class WinningTicket:
    """The ticket of one round (from 1) of one trial of a run: a mask, and the weights that training starts from."""

    folder: Path  # of the run
    settings: Settings
    trial: int
    round: int
    remaining: float  # % of weights
    mask: Mask = field(repr=False)
    weights: Weights = field(repr=False)  # initial ones, of pruned weights too
    arm: str = "ticket"

    @property
    def run(self) -> str:
        """Name of the run, `<profile>/<notebook>/<variant>`."""
        return "/".join(self.folder.parts[-3:])

    def network(self) -> nn.Module:
        """Return the network at the start of training, with pruned weights set to zero."""
        model = _network(self.settings)
        model.load_state_dict(masks.apply(self.mask, self.weights))
        return model

    def start(self) -> TrainState:
        """Return the initial state of a training run of the ticket."""
        return begin(self.settings, self.trial, self.round, self.weights, self.mask, self.settings.rewind_to)

    def reinitialised(self, draw: int = 0) -> TrainState:
        """Return the initial state of a training run of the control: newly drawn weights under the same mask."""
        seed = seed_of(self.settings, "reinit", self.trial, draw, self.round)
        weights = initial_weights(_network(self.settings), self.settings, seed)
        return begin(self.settings, self.trial, self.round, weights, self.mask)


def load_ticket(
    run: str | Path, trial: int = 0, remaining: float | None = None, round: int | None = None, arm: str = "ticket"
) -> WinningTicket:
    """Return a ticket of a run, at `round`, or at that with about `remaining` % of weights; by default the last.

    `run` is a folder, `<profile>/<study>/<variant>`, `<study>/<variant>`, or a variant that only one study has.
    Raises LabError if the run, the ticket or the lineage does not exist, if networks of this arm do not start from
    rewound weights under the mask found, and if own code or an .npz file of the run has changed since.
    """
    folder = find_run(run, lineage.FILE)
    record = read_record(folder)
    settings = settings_of(record.get("settings", {}))
    if not isinstance(settings, Settings):
        raise LabError(f"tickets: {folder} is not a search for tickets, so it has none")
    RunFolder(folder, settings).check_file()  # initial weights are drawn again, by the code of the run alone
    if (
        arm_of(arm).weights != "rewound"
        or arm_of(arm).shuffled
        or settings.restart != "rewind"
        or not settings.masks_weights
    ):
        raise LabError(
            f"tickets: those of arm {arm} in {folder} do not start from rewound weights under the mask that was found"
        )
    known = read_lineage(folder, settings.key)
    table = read_table(folder, "rounds.csv")
    last = known.known.get((trial, arm_of(arm).masks), 0)
    rows = table[(table["arm"] == arm) & (table["trial"] == trial) & table["round"].between(1, last)]
    percentages = rows.groupby("round")["percent_left"].first()
    if percentages.empty:
        trials = sorted(t for t, source in known.known if source == arm_of(arm).masks)
        raise LabError(f"tickets: trial {trial} of arm {arm} is not in {folder} (trials: {trials or 'none'})")
    k = _nearest(percentages, remaining, round, folder)
    weights = _origin(settings, known, trial)
    mask = known.mask(trial, arm_of(arm).masks, k)
    return WinningTicket(folder, settings, trial, k, float(percentages[k]), mask, weights, arm)


def export_ticket(ticket: WinningTicket, path: str | Path, compacted: bool = False) -> Path:
    """Write a ticket as .safetensors, .pt (a state dict) or .onnx, with a card beside it; return its path.

    `compacted` drops dead neurons and channels (see compaction.py); the file then has no mask. Raises LabError for any
    other suffix, for a network that cannot be compacted, and for a path that cannot be written.
    """
    path = Path(path)
    choose("suffix", path.suffix, HOLDS)
    network = ticket.network()
    if compacted:
        try:
            network = compact(network, network.state_dict())
        except LabError as error:
            raise LabError(f"tickets: this network cannot be compacted ({error}); leave out --compacted") from None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(ticket, network, path, compacted)
        card_of(path).write_text(model_card(ticket, path.suffix, compacted), encoding="utf-8")
    except OSError as error:
        raise LabError(f"tickets: cannot write {path} ({error.strerror}); choose another path") from None
    return path


def _write(ticket: WinningTicket, network: nn.Module, path: Path, compacted: bool) -> None:
    weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    if path.suffix == ".onnx":
        export_onnx(network.eval(), image_shape(ticket.settings), path)
    elif path.suffix == ".pt":
        content = io.BytesIO()
        torch.save(weights, content)
        write(path, content.getvalue())
    else:
        tensors = {f"weights/{name}": tensor.clone() for name, tensor in weights.items()}
        if not compacted:
            tensors |= {f"mask/{name}": m.to(torch.uint8).contiguous() for name, m in ticket.mask.items()}
        order = torch.from_numpy(order_of_images(ticket.settings, dataset_of(ticket.settings.dataset).n_train))
        tensors["validation_images"] = order[: ticket.settings.validation].clone()
        about = {"run": ticket.run, "trial": str(ticket.trial), "round": str(ticket.round)}
        settings = json.dumps(ticket.settings.model_dump(mode="json"))
        write(path, to_bytes(tensors, about | {"settings": settings}))


def card_of(path: Path) -> Path:
    """Return the path of the card beside an exported ticket: `ticket.pt.md` beside `ticket.pt`."""
    return path.with_name(f"{path.name}.md")


def model_card(ticket: WinningTicket, suffix: str, compacted: bool = False) -> str:
    """Return the card of a ticket in Markdown: its network and run, how it was found, its inputs and its file."""
    folder, s = ticket.folder, ticket.settings
    record, table = read_record(folder), read_table(folder, "rounds.csv")
    at = table[(table["arm"] == ticket.arm) & (table["round"] == ticket.round)]
    mine = at[at["trial"] == ticket.trial]["final_test_accuracy"]
    accuracy = f"{mine.iloc[0]:.2%}" if len(mine) else "not trained yet"
    means, stds = pixel_scale(s.dataset, s.input_scaling)
    scaling = f"bytes / 255, less {_numbers(means)}, divided by {_numbers(stds)}"
    scaling += ", then each image divided by its norm" if s.input_scaling == "unit_norm" else ""
    if s.image_size:
        scaling += f", then resized to {s.image_size} x {s.image_size} pixels (bilinear, antialiased)"
    compacted_to = ", compacted: neurons and channels that nothing comes through are dropped" if compacted else ""
    mask = MASK if suffix == ".safetensors" and not compacted else ""
    return "\n".join([
        "---", "tags: [lottery-ticket-hypothesis, pruning, sparse]", "---", "",
        f"# A ticket of {s.architecture} on {s.dataset}: {ticket.remaining:.1f}% of weights remaining", "",
        f"Masked initial weights, untrained, of round {ticket.round} of trial {ticket.trial} "
        f"(of {at['trial'].nunique()}) of the run `{ticket.run}` (key {s.key}, "
        f"commit {record.get('commits', [None])[-1] or 'unknown'}).", "",
        f"* Weights: {masks.weights_left(ticket.mask):,} of {sum(m.numel() for m in ticket.mask.values()):,}.",
        f"* Found by {_how_found(ticket)}, rewound to iteration {s.rewind_to} (arXiv 1803.03635).",
        f"* Trained for {s.iterations - s.rewind_to:,} iterations of {s.batch_size} images by {s.optimizer} at "
        f"learning rate {s.learning_rate:g} ({s.schedule} schedule) it reaches {accuracy} on the "
        f"{record.get('n_test', 0):,} test images; mean of {counted(len(at), 'trial')}: "
        f"{at['final_test_accuracy'].mean():.2%}.",
        f"* Inputs: images of shape {image_shape(s)}: {scaling}.",
        f"* Data: {record.get('data', s.dataset)}{f'; {split}' if (split := dataset_of(s.dataset).split) else ''}.",
        f"* Validation: {_held_out(s)}.",
        f"* The file: {HOLDS[suffix]}{mask}{compacted_to}.", "",
    ])  # fmt: skip


def _how_found(ticket: WinningTicket) -> str:
    source = arm_of(ticket.arm).masks
    criterion = criterion_of(source) or ticket.settings.criterion
    kept = f"criterion {criterion}" + (" (worst scores kept)" if source.endswith("-inverted") else "")
    if not prunes_dense(source):
        return f"iterative pruning, {kept}"
    return f"pruning {'the dense network once' if CRITERIA[criterion].trained else 'before training'}, {kept}"


def _held_out(settings: Settings) -> str:
    if not settings.validation:
        return "no images were held out, and the mask was found with all training images of the run"
    return (
        f"{settings.validation:,} of the training images, drawn by the run's seed, were held out; lthcore's "
        "`load_data(settings)` gives the same split. The validation set of another split has images in it that the "
        "mask was found with"
    )


def _numbers(values: Iterable[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def _network(settings: Settings) -> nn.Module:
    return build(settings, image_shape(settings), classes_of(settings))


def _nearest(percentages: pd.Series, remaining: float | None, round: int | None, folder: Path) -> int:
    """Return the round asked for, or the round nearest to `remaining` %. Raises LabError if there is none."""
    there = ", ".join(f"{percent:.1f}" for percent in percentages)
    if round is not None and remaining is not None:
        raise LabError("tickets: give either the round or the percentage of weights remaining")
    if round is not None:
        if round not in percentages.index:
            raise LabError(f"tickets: {folder} has rounds {percentages.index.min()} to {percentages.index.max()}")
        return round
    if remaining is None:
        return int(percentages.index.max())
    k = nearest_round(percentages, remaining, NEAR)
    if k is None:
        raise LabError(f"tickets: {folder} has no ticket with {remaining}% of weights remaining (but {there})")
    return k


def _origin(settings: Settings, known: Lineage, trial: int) -> Weights:
    """Return the weights that tickets of a trial start from.

    Raises LabError if they are trained weights that the lineage no longer has.
    """
    if settings.rewind_to:
        carried = known.carried.get((trial, ORIGIN), (0, {}))[1].get("rewind")
        if carried is None:
            raise LabError(
                "tickets: those of this run start from trained weights, and its lineage does not hold them any more"
            )
        return carried
    return initial_weights_of(settings, trial)
