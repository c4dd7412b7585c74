"""Lineage of a run: the round in which each weight was pruned, and what else its next round starts from, in one file.

The masks of a trial are nested, so one number per weight holds all of them, and the initial weights follow from the
seed. With this small file beside its tables, a run can continue with the next round on any machine, without its ticket
files. Some arms continue from trained weights, which no seed reproduces. The file carries the weights of their last
round until the next round is complete.
"""

import gzip
import json
import zlib
from dataclasses import dataclass, field

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from lthcore.errors import one_line
from lthcore.masks import Mask
from lthcore.models.weights import Weights

FILE = "lineage.safetensors.gz"
LEFT = 255  # value in place of a round for weights that are not pruned yet

Groups = dict[str, Weights]  # group (weights, early_stop, optimizer, rewind) -> its tensors


@dataclass
class Lineage:
    """Masks and weights that the next rounds of a run start from.

    A source is where masks come from: an arm that is pruned by its own outcomes (`ticket`), or a way to prune the dense
    network (`oneshot`). `pruned` maps (trial, source) to the round in which each weight was pruned (uint8), `known` to
    the last round recorded there. `carried` maps (trial, arm) to the round of an outcome and the tensors kept from it.
    """

    pruned: dict[tuple[int, str], Weights] = field(default_factory=dict)
    known: dict[tuple[int, str], int] = field(default_factory=dict)
    carried: dict[tuple[int, str], tuple[int, Groups]] = field(default_factory=dict)
    changed: bool = False  # whether it changed since it was read or written

    def mask(self, trial: int, source: str, k: int) -> Mask | None:
        """Return the mask of a source at round k >= 1, or None if it is not known."""
        if self.known.get((trial, source), 0) < k:
            return None
        return {name: rounds > k for name, rounds in self.pruned[trial, source].items()}

    def note(self, trial: int, source: str, k: int, mask: Mask) -> None:
        """Record the mask of round k, which must be the first unknown round of the source.

        Raises AssertionError if it is another round, or if the mask is not nested in the previous one.
        """
        if k != self.known.get((trial, source), 0) + 1:
            raise AssertionError(f"round {k} of {source} does not follow on what is known")
        whole = {name: torch.full(m.shape, LEFT, dtype=torch.uint8) for name, m in mask.items()}
        for name, rounds in self.pruned.setdefault((trial, source), whole).items():
            kept = mask[name].cpu()
            if (kept & (rounds < LEFT)).any():
                raise AssertionError(f"round {k} of {source} takes back weights of {name} that were pruned")
            rounds[~kept & (rounds == LEFT)] = k
        self.known[trial, source], self.changed = k, True

    def carry(self, trial: int, arm: str, k: int, groups: Groups) -> None:
        """Keep the tensors (possibly none) that the next round starts from, in place of those from an earlier round."""
        if groups or (trial, arm) in self.carried:
            self.changed = True
            self.carried[trial, arm] = (k, {g: {n: t.detach().cpu() for n, t in w.items()} for g, w in groups.items()})

    def to_bytes(self, run_key: str) -> bytes:
        """Return the content of the lineage file of the run with this key."""
        tensors = {f"pruned/{t}/{s}/{n}": r for (t, s), layers in self.pruned.items() for n, r in layers.items()}
        for (trial, arm), (_, groups) in self.carried.items():
            tensors |= {f"carried/{trial}/{arm}/{g}/{n}": w for g, group in groups.items() for n, w in group.items()}
        metadata = {
            "run_key": run_key,
            # in the order of the network, which a safetensors file does not keep
            "layers": json.dumps(list(next(iter(self.pruned.values()), {}))),
            "known": json.dumps([[*of, k] for of, k in self.known.items()]),
            "carried": json.dumps([[*of, k] for of, (k, _) in self.carried.items()]),
        }
        # neighbouring weights are pruned in unrelated rounds, so Huffman coding alone gets within 1% of their entropy
        pack = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | 16, 9, zlib.Z_HUFFMAN_ONLY)
        plain = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
        content = save(plain, metadata)
        return pack.compress(content) + pack.flush()

    @classmethod
    def from_bytes(cls, packed: bytes, run_key: str) -> "Lineage":
        """Read a lineage from the content of its file. Raises ValueError if it is damaged or belongs to another run."""
        try:
            content = gzip.decompress(packed)
            metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
            this = cls(
                known={(trial, source): k for trial, source, k in json.loads(metadata["known"])},
                carried={(trial, arm): (k, {}) for trial, arm, k in json.loads(metadata["carried"])},
            )
            tensors, layers = load(content), json.loads(metadata["layers"])
            for trial, source in this.known:
                this.pruned[trial, source] = {n: tensors.pop(f"pruned/{trial}/{source}/{n}") for n in layers}
            for key, tensor in tensors.items():
                _, trial, arm, group, name = key.split("/", 4)
                this.carried[int(trial), arm][1].setdefault(group, {})[name] = tensor
        except (OSError, EOFError, zlib.error, SafetensorError, KeyError, TypeError) as error:
            raise ValueError(one_line(error)) from None
        if metadata["run_key"] != run_key:
            raise ValueError(f"it belongs to run {metadata['run_key']}, not {run_key}")
        return this
