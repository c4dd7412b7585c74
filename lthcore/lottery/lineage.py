"""Lineage: in which round each weight of a trial was pruned, and what else its next round grows from; one small file.

The masks of a trial are nested, so one number a weight holds all of them, and its initial weights follow from the seed:
with this file beside its tables a run goes on with the next round on any machine, where none of its tickets are. Some
arms go on from trained weights, which no seed gives: those of their last round are carried along until it is done.
"""

import gzip
import json
import zlib
from dataclasses import dataclass, field

import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes

from lthcore.errors import one_line
from lthcore.masks import Mask
from lthcore.models import Weights

FILE = "lineage.safetensors.gz"
LEFT = 255  # in place of a round: not pruned yet

Groups = dict[str, Weights]  # group (weights, early_stop, optimizer, rewind) -> its tensors


@dataclass
class Lineage:
    """The masks, and the weights, that the rounds of a run grow from.

    A source is where masks come from: an arm that is pruned by its own outcomes (`ticket`), or a way to prune the dense
    network (`oneshot`). `pruned` holds by (trial, source) the round in which each weight went (uint8), `known` the
    last round that is in it. `carried` holds by (trial, arm) the round of an outcome, and what is kept of it.
    """

    pruned: dict[tuple[int, str], Weights] = field(default_factory=dict)
    known: dict[tuple[int, str], int] = field(default_factory=dict)
    carried: dict[tuple[int, str], tuple[int, Groups]] = field(default_factory=dict)
    changed: bool = False  # since it was read or written

    def mask(self, trial: int, source: str, k: int) -> Mask | None:
        """The mask of a source at round k >= 1, None where it is not known."""
        if self.known.get((trial, source), 0) < k:
            return None
        return {name: rounds > k for name, rounds in self.pruned[trial, source].items()}

    def note(self, trial: int, source: str, k: int, mask: Mask) -> None:
        """Keep the mask of round k, the first that is not known. Raises AssertionError where it is not nested."""
        if k != self.known.get((trial, source), 0) + 1 or k >= LEFT:
            raise AssertionError(f"round {k} of {source} does not follow on what is known")
        whole = {name: torch.full(m.shape, LEFT, dtype=torch.uint8) for name, m in mask.items()}
        for name, rounds in self.pruned.setdefault((trial, source), whole).items():
            kept = mask[name].cpu()
            if (kept & (rounds < LEFT)).any():
                raise AssertionError(f"round {k} of {source} takes back weights of {name} that were pruned")
            rounds[~kept & (rounds == LEFT)] = k
        self.known[trial, source], self.changed = k, True

    def carry(self, trial: int, arm: str, k: int, groups: Groups) -> None:
        """Keep what the next round starts from, nothing perhaps, in place of what an earlier one left."""
        if groups or (trial, arm) in self.carried:
            self.changed = True
            self.carried[trial, arm] = (k, {g: {n: t.detach().cpu() for n, t in w.items()} for g, w in groups.items()})

    def to_bytes(self, run_key: str) -> bytes:
        """The file of a run's folder that holds it."""
        tensors = {f"pruned/{t}/{s}/{n}": r for (t, s), layers in self.pruned.items() for n, r in layers.items()}
        for (trial, arm), (_, groups) in self.carried.items():
            tensors |= {f"carried/{trial}/{arm}/{g}/{n}": w for g, group in groups.items() for n, w in group.items()}
        metadata = {
            "run_key": run_key,
            "layers": json.dumps(
                list(next(iter(self.pruned.values()), {}))
            ),  # in their order, which a file does not keep
            "known": json.dumps([[*of, k] for of, k in self.known.items()]),
            "carried": json.dumps([[*of, k] for of, (k, _) in self.carried.items()]),
        }
        # rounds follow on one another without a pattern: Huffman's code alone comes within 1% of their entropy
        pack = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | 16, 9, zlib.Z_HUFFMAN_ONLY)
        plain = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
        content = to_bytes(plain, metadata)
        return pack.compress(content) + pack.flush()

    @classmethod
    def from_bytes(cls, packed: bytes, run_key: str) -> "Lineage":
        """What such a file holds. Raises ValueError where it is damaged or of another run."""
        try:
            content = gzip.decompress(packed)
            metadata = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
            this = cls(
                known={(trial, source): k for trial, source, k in json.loads(metadata["known"])},
                carried={(trial, arm): (k, {}) for trial, arm, k in json.loads(metadata["carried"])},
            )
            tensors, layers = from_bytes(content), json.loads(metadata["layers"])
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
