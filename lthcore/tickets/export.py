"""Export of tickets to files of other libraries, each with a card that says what the ticket is."""

import io
import json
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import save as to_bytes
from torch import nn

from lthcore import masks
from lthcore.analysis.compaction import compact, export_onnx
from lthcore.arms import arm_of, criterion_of, prunes_dense
from lthcore.data.datasets import image_shape, order_of_images, pixel_scale
from lthcore.errors import LabError, choose, counted
from lthcore.registry import CRITERIA
from lthcore.runs.files import read_record, read_table, write
from lthcore.settings import Settings
from lthcore.sources.catalogue import dataset_of
from lthcore.tickets.load import WinningTicket

HOLDS = {  # suffix -> content of an exported file
    ".safetensors": "`weights/<name>`, masked and not trained, for each weight of PyTorch's name; `validation_images`, "
    "the places of the validation images among the training images, from 0; the settings of the run as JSON "
    "in its metadata",
    ".pt": "a state dict of PyTorch, masked and not trained (`torch.load`, `load_state_dict`)",
    ".onnx": "the masked network, not trained, from `images` to logits",
}
MASK = "; `mask/<name>`, 1 where a weight is kept"  # in a .safetensors file as well, unless it is compacted


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
        f"(of 0 to {at['trial'].max()}) of the run `{ticket.run}` (key {s.key}, "
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
