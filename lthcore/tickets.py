"""Tickets: trainings as safetensors files, finished (tickets) or not (checkpoints)."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lthcore import masks
from lthcore.data import load
from lthcore.engines import evaluate
from lthcore.lottery import Replicate
from lthcore.masks import Mask
from lthcore.models import Weights, build
from lthcore.settings import LabError, Recipe, choose, settings_of
from lthcore.state import Point, Training

FORMAT = "1"  # of the files; a newer one is not read


@dataclass(frozen=True)
class Ticket:
    """A saved training: `initial` is what a user exports to train again, `final` the trained sparse network."""

    replicate: Replicate
    settings: Recipe
    mask: Mask
    initial: Weights
    early_stop: Weights
    final: Weights


def file_stem(replicate: Replicate) -> str:
    """The file name of a replicate, without its suffix."""
    arm, trial, draw, k = replicate
    return f"{arm}-trial{trial}-draw{draw}-round{k:02}"


def save_state(path: Path, settings: Recipe, replicate: Replicate, state: Training) -> None:
    """Write a training, finished or not, as safetensors; all tensors carry a leading replicate dimension (here 1)."""
    finished = state.iteration >= settings.iterations
    groups = {"mask": state.mask, "initial": state.start, "final": state.weights, "early_stop": state.early_stop}
    groups["rewind"] = state.rewind
    if not finished or getattr(settings, "keep_optimizer", False):  # then the next round goes on with it
        groups["optimizer"] = state.optimizer
    if not finished:
        groups |= {"remembered": state.remembered, "noise": {} if state.noise is None else {"state": state.noise}}
    tensors = {
        f"{group}/{name}": tensor.detach().cpu().unsqueeze(0).contiguous()
        for group, content in groups.items()
        for name, tensor in (content or {}).items()
    }
    scalars = ("iteration", "seed", "fine_tuned", "seconds", "early_stop_train_accuracy", "final_train_accuracy")
    metadata = {
        "format": FORMAT,
        "run_key": settings.key,
        "settings": settings.model_dump_json(),
        "replicate": json.dumps(replicate),
        "state": json.dumps({name: getattr(state, name) for name in scalars}),
        "curve": json.dumps([list(asdict(point).values()) for point in state.curve]),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        save_file({name: t.clone() for name, t in tensors.items()}, temporary, metadata)
    except SafetensorError as error:  # what it makes of a full disk
        temporary.unlink(missing_ok=True)
        raise OSError(f"cannot write {path}: {error}") from None
    os.replace(temporary, path)


def load_state(path: str | Path, index: int = 0) -> tuple[Training, Replicate, str]:
    """Read replicate `index` of a file of `save_state`: its state, which one it is, and its run key.

    Raises LabError for a file that is damaged, of another kind, or of a newer format.
    """
    groups: dict[str, dict[str, Tensor]] = {}
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise LabError(f"{path}: not a ticket of format {FORMAT} (found {metadata.get('format')!r})")
            for key in file.keys():  # noqa: SIM118 - not a dict
                group, name = key.split("/", 1)
                groups.setdefault(group, {})[name] = file.get_tensor(key)[index]
        state = Training(
            **json.loads(metadata["state"]),
            weights=groups["final"],
            mask=groups["mask"],
            start=groups["initial"],
            early_stop=groups.get("early_stop"),
            rewind=groups.get("rewind"),
            remembered=groups.get("remembered"),
            optimizer=groups.get("optimizer", {}),
            noise=groups.get("noise", {}).get("state"),
            curve=[Point(*values) for values in json.loads(metadata["curve"])],
        )
        replicate, key = Replicate(*json.loads(metadata["replicate"])), metadata["run_key"]
        masks.check(state.mask, state.weights)
        if not state.curve:
            raise ValueError("no evaluation is in it")
    except (OSError, SafetensorError, KeyError, IndexError, ValueError, TypeError) as error:
        raise LabError(f"{path}: not a readable ticket ({error}); delete it and run again") from None
    return state, replicate, key


def load_ticket(path: str | Path, index: int = 0) -> Ticket:
    """Read a saved round of any arm. Raises LabError for a file that is damaged or not a finished ticket."""
    state, replicate, _ = load_state(path, index)
    with safe_open(path, framework="pt") as file:
        values = file.metadata().get("settings")
    if values is None:
        raise LabError(f"{path}: does not say which settings it is of; delete it and run again")
    settings = settings_of(json.loads(values))
    if state.iteration < settings.iterations:
        raise LabError(f"{path}: a checkpoint at iteration {state.iteration}, not a finished ticket")
    early_stop = state.early_stop or state.weights
    return Ticket(replicate, settings, state.mask, state.start, early_stop, state.weights)


def load_and_evaluate(path: str | Path, split: str = "test", weights: str = "final") -> tuple[float, float]:
    """Loss (nats) and accuracy of a saved round on a split (train, validation, test).

    `weights` is final, early_stop or initial. Raises LabError for a split or file that is not there.
    """
    ticket = load_ticket(path)
    choose("weights", weights, ("final", "early_stop", "initial"))
    data = load(ticket.settings.changed(device="auto"))
    model = build(ticket.settings, data.shape, 10).to(data.test.images.device)
    model.load_state_dict(getattr(ticket, weights))
    return evaluate(model, data.splits[choose("split", split, data.splits)], precision=ticket.settings.precision)[0]
