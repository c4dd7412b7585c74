"""Training runs saved as safetensors files: unfinished ones (checkpoints) and finished ones (tickets)."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, Field, Json, NonNegativeFloat, NonNegativeInt
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from lthcore import masks
from lthcore.data.datasets import load
from lthcore.errors import LabError, choose, one_line
from lthcore.lottery.methods import settings_of
from lthcore.masks import Mask
from lthcore.models.build import build
from lthcore.models.weights import Weights
from lthcore.recipe import Recipe
from lthcore.runs.files import read_record, write
from lthcore.runs.schemas import Accuracy, Loss
from lthcore.training.engines.dense import evaluate
from lthcore.training.state import Evaluation, Replicate, TrainState

FORMAT = "2"  # version of the file format; files with another version are not read


class Scalars(BaseModel):
    """Scalar values of a training state."""

    iteration: NonNegativeInt
    seed: int
    fine_tuned: bool
    seconds: NonNegativeFloat
    early_stop_train_accuracy: Accuracy
    final_train_accuracy: Accuracy


class Header(BaseModel):
    """Metadata of a ticket or checkpoint file."""

    format: Literal[FORMAT]
    run_key: str
    settings: Json[dict[str, Any]]
    replicate: Json[Replicate]
    state: Json[Scalars]
    curve: Json[Annotated[list[tuple[NonNegativeInt, Loss, Accuracy, Loss, Accuracy, float]], Field(min_length=1)]]
    order: Json[dict[str, list[str]]]
    digest: str


@dataclass(frozen=True)
class Ticket:
    """A finished training run: `initial` holds the weights to export and train again, `final` the trained weights."""

    replicate: Replicate
    settings: Recipe
    mask: Mask
    initial: Weights
    early_stop: Weights
    final: Weights


def file_stem(replicate: Replicate) -> str:
    """Return the file name of a replicate, without its suffix."""
    arm, trial, draw, k = replicate
    return f"{arm}-trial{trial}-draw{draw}-round{k:02}"


def state_path(folder: Path, replicate: Replicate) -> Path:
    """Return the path of a training run's file in a folder of tickets or checkpoints."""
    return folder / f"{file_stem(replicate)}.safetensors"


def save_state(path: Path, settings: Recipe, replicate: Replicate, state: TrainState) -> None:
    """Save a training run, finished or not, as safetensors; all tensors have a leading replicate dimension (here 1)."""
    finished = state.iteration >= settings.iterations
    groups = {"mask": state.mask, "initial": state.start, "final": state.weights, "early_stop": state.early_stop}
    groups["rewind"] = state.rewind
    if not finished or getattr(settings, "keep_optimizer", False):  # needed to resume, or by the next round
        groups["optimizer"] = state.optimizer
    if not finished:
        noise = {} if state.generator_state is None else {"state": state.generator_state}
        groups |= {"remembered": state.remembered, "noise": noise}
    tensors = {
        f"{group}/{name}": tensor.detach().cpu().unsqueeze(0).contiguous()
        for group, content in groups.items()
        for name, tensor in (content or {}).items()
    }
    metadata = {
        "format": FORMAT,
        "run_key": settings.key,
        "settings": settings.model_dump_json(),
        "replicate": json.dumps(replicate),
        "state": json.dumps({name: getattr(state, name) for name in Scalars.model_fields}),
        "curve": json.dumps([list(asdict(point).values()) for point in state.curve]),
        # random numbers are drawn in the order of the tensors, which safetensors files do not keep
        "order": json.dumps({group: list(content) for group, content in groups.items() if content}),
    }
    metadata["digest"] = _digest(metadata, tensors.items())
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, to_bytes({name: tensor.clone() for name, tensor in tensors.items()}, metadata))


def load_state(path: str | Path) -> tuple[TrainState, Replicate, str]:
    """Read a file written by `save_state`; return the state, the replicate and the run key.

    Raises LabError if the file is damaged, not a saved training run, or of another format version.
    """
    header, state = _state_of(Path(path))
    return state, header.replicate, header.run_key


def load_ticket_file(path: str | Path) -> Ticket:
    """Read the ticket file of any arm and round. Raises LabError if it is damaged or not a finished ticket."""
    header, state = _state_of(Path(path))
    settings = settings_of(header.settings)
    if state.iteration < settings.iterations:
        raise LabError(f"{path}: a checkpoint at iteration {state.iteration}, not a finished ticket")
    early_stop = state.early_stop or state.weights
    return Ticket(header.replicate, settings, state.mask, state.start, early_stop, state.weights)


def _state_of(path: Path) -> tuple[Header, TrainState]:
    header, tensors = _read(path)
    groups: dict[str, dict[str, Tensor]] = {}
    try:
        for key, tensor in tensors.items():
            group, name = key.split("/", 1)
            groups.setdefault(group, {})[name] = tensor[0]
        groups = {of: {name: group[name] for name in header.order[of]} for of, group in groups.items()}
        state = TrainState(
            **header.state.model_dump(),
            weights=groups["final"],
            mask=groups["mask"],
            start=groups["initial"],
            early_stop=groups.get("early_stop"),
            rewind=groups.get("rewind"),
            remembered=groups.get("remembered"),
            optimizer=groups.get("optimizer", {}),
            generator_state=groups.get("noise", {}).get("state"),
            curve=[Evaluation(*values) for values in header.curve],
        )
        settings = settings_of(header.settings)
        masks.check(state.mask, state.weights)
        if settings.masks_weights and not state.diverged and not masks.is_masked(state.weights, state.mask):
            raise ValueError("pruned weights are not zero")
        _check_evaluations(settings, state)
    except (KeyError, IndexError, ValueError) as error:
        raise _damaged(path, error) from None
    return header, state


def _read(path: Path) -> tuple[Header, dict[str, Tensor]]:
    """Return the metadata and tensors of a file. Raises LabError if it is damaged or its digest does not match."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise LabError(f"{path}: not a ticket of format {FORMAT} (found {metadata.get('format')!r})")
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
        if metadata.get("digest") != _digest(metadata, tensors.items()):
            raise ValueError("its content is not what was written: the digest differs")
        return Header.model_validate(metadata), tensors
    except FileNotFoundError:
        raise LabError(f"{path}: there is no such file") from None
    except (OSError, SafetensorError, ValueError) as error:
        raise _damaged(path, error) from None


def _damaged(path: str | Path, error: Exception) -> LabError:
    return LabError(f"{path}: not a readable ticket ({one_line(error)}); delete it and run its command again")


def _digest(metadata: dict[str, str], tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Return a digest of a file's whole content: its metadata, and the name, type, shape and bytes of each tensor."""
    found = blake2b(json.dumps({k: v for k, v in sorted(metadata.items()) if k != "digest"}).encode(), digest_size=16)
    for name, tensor in sorted(tensors):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()


def _check_evaluations(settings: Recipe, state: TrainState) -> None:
    """Raise ValueError unless the evaluations are those expected up to the current iteration of the training run."""
    evaluated, first, last = [point.iteration for point in state.curve], state.curve[0].iteration, state.iteration
    grid = range(first // settings.eval_every * settings.eval_every, last + 1, settings.eval_every)
    due = [first, *(i for i in grid if i > first)]
    if last == settings.iterations and due[-1] != last:
        due.append(last)
    if last > settings.iterations or evaluated != due:
        raise ValueError(f"its {len(evaluated)} evaluations are not those of {last:,} iterations")


def load_and_evaluate(path: str | Path, split: str = "test", weights: str = "final") -> tuple[float, float]:
    """Return the loss (nats) and accuracy of a saved ticket on a split (train, validation, test).

    `weights` is final, early_stop or initial. Raises LabError if the split does not exist, if the file cannot be read,
    and if the data set is an .npz file that has changed since the run of the ticket.
    """
    ticket = load_ticket_file(path)
    choose("weights", weights, ("final", "early_stop", "initial"))
    data, record = load(ticket.settings.changed(device="auto")), read_record(Path(path).absolute().parents[1])
    before = record.get("data_digest") if record.get("run_key") == ticket.settings.key else None
    if ticket.settings.dataset.endswith(".npz") and before not in (None, data.digest):
        raise LabError(
            f"data: {ticket.settings.dataset} is not what the run of {path} had (digest {data.digest}, then {before}); "
            "put that back"
        )
    model = build(ticket.settings, data.shape, data.classes).to(data.test.images.device)
    model.load_state_dict(getattr(ticket, weights))
    return evaluate(model, data.splits[choose("split", split, data.splits)], precision=ticket.settings.precision)[0]
