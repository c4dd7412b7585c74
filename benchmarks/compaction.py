"""Is a sparse network smaller and faster? Sizes, files and latency of LeNet tickets, as they are and compacted.

    LTH_DATA=... python benchmarks/compaction.py [--device cuda]

The dense network is compared with sparse ones, as they are (dense tensors with zeros) and compacted. Either single
weights (results/*/iterative_pruning/lenet_mnist) or whole neurons (results/*/structured_pruning/lenet_mnist-l1) are
pruned, at five sparsities each. The tickets are not in the repository: run those experiments first. Latency is the time
of a forward pass with one image and with 1,000, on one thread.
"""

from functools import partial
from pathlib import Path

import torch
from bench import best, keep, options_of, print_table, run_or_skip, side_by_side
from safetensors.torch import save_file
from torch import nn

from lthcore.analysis.compaction import compact
from lthcore.costs import multiply_adds
from lthcore.errors import LabError
from lthcore.models.build import build
from lthcore.paths import results_root
from lthcore.runs.checkpoints import load_ticket_file

SHAPE = (1, 28, 28)
KINDS = {
    "weights": ("iterative_pruning/lenet_mnist", (0, 3, 7, 12, 15, 18)),
    "neurons": ("structured_pruning/lenet_mnist-l1", (1, 2, 3, 4, 5)),
}
REPEATS_INSIDE = {1: 200, 1000: 5}


def networks() -> dict[tuple[str, float, str], nn.Module]:
    """Return the networks by (kind, percent of weights left, form). Raises LabError if a ticket is missing."""
    found = {}
    for kind, (run, rounds) in KINDS.items():
        places = [results_root() / profile / run / "tickets" for profile in ("paper", "cpu")]
        folder = next((place for place in places if place.exists()), places[0])
        for k in rounds:
            path = folder / f"ticket-trial0-draw0-round{k:02}.safetensors"
            if not path.exists():
                raise LabError(f"compaction: no ticket {path}; run params/{run.split('-')[0]}.yaml first")
            ticket = load_ticket_file(path)
            model = build(ticket.settings, SHAPE, 10)
            model.load_state_dict(ticket.final)
            left = sum(int(m.sum()) for m in ticket.mask.values())
            percent = round(100 * left / sum(m.numel() for m in ticket.mask.values()), 1)
            found[kind, percent, "as it is"] = plain(model).eval()
            found[kind, percent, "compacted"] = compact(build(ticket.settings, SHAPE, 10), ticket.final)
    return found


def plain(model: nn.Sequential) -> nn.Sequential:
    """Return the network with torch's own dense layers, which a compacted network has and anyone would use."""
    layers = nn.Sequential()
    for name, layer in model.named_children():
        if isinstance(layer, nn.Linear):
            own, layer = layer, nn.Linear(layer.in_features, layer.out_features)
            layer.load_state_dict(own.state_dict())
        layers.add_module(name, layer)
    return layers


def file_bytes(model: nn.Module, path: Path) -> int:
    """Return the size in bytes of the network's safetensors file. `path` is a temporary file."""
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)
    size = path.stat().st_size
    path.unlink()
    return size


@torch.no_grad()
def forward(model: nn.Module, images: torch.Tensor, times: int) -> None:
    """Run `times` forward passes."""
    for _ in range(times):
        model(images)


def main() -> None:
    """Measure, print, write JSON."""
    options = options_of(__doc__, "compaction", repeats=7)
    found = {key: model.to(options.device) for key, model in networks().items()}
    latency = {}
    for n, times in REPEATS_INSIDE.items():
        images = torch.randn(n, *SHAPE, device=options.device)
        works = {" ".join(map(str, key)): partial(forward, model, images, times) for key, model in found.items()}
        side_by_side(works, 1)
        seconds = side_by_side(works, options.repeats)
        print_table({name: [t / times for t in ts] for name, ts in seconds.items()}, f"us for {n} images", 1e6)
        latency[n] = {name: t / times for name, t in best(seconds).items()}
    rows = []
    options.json.parent.mkdir(parents=True, exist_ok=True)
    for (kind, percent, form), model in found.items():
        name = f"{kind} {percent} {form}"
        rows.append({
            "pruned": kind, "weights left (%)": percent, "form": form,
            "parameters": sum(p.numel() for p in model.parameters()),
            "multiply-adds": multiply_adds(model, SHAPE),
            "file (kB)": round(file_bytes(model, options.json.with_suffix(".tmp")) / 1e3, 1),
            "1 image (us)": round(1e6 * latency[1][name], 1), "1,000 images (ms)": round(1e3 * latency[1000][name], 2),
        })  # fmt: skip
    dense, smallest = rows[0], [row for row in rows if row["pruned"] == "neurons" and row["form"] == "compacted"][-1]
    sparse = [row for row in rows if row["pruned"] == "weights" and row["form"] == "compacted"][-1]
    ratios = {
        f"neurons pruned to {smallest['weights left (%)']}%, compacted: speed of 1,000 images against dense": (
            dense["1,000 images (ms)"] / smallest["1,000 images (ms)"], "",
        ),
        f"weights pruned to {sparse['weights left (%)']}%, compacted: speed of 1,000 images against dense": (
            dense["1,000 images (ms)"] / sparse["1,000 images (ms)"], "",
        ),
    }  # fmt: skip
    keep(options.json, options.device, options.repeats, ratios, rows=rows)


if __name__ == "__main__":
    run_or_skip(main)
