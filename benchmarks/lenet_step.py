"""One epoch of LeNet-300-100 (batch 60, Adam), ours beside two plain loops, in one run on one thread.

    python benchmarks/lenet_step.py [--repeats 5] [--json benchmarks/lenet_step.json]

dataloader   eager PyTorch over a DataLoader with ToTensor and Normalize for each image
tensors      eager PyTorch over tensors in memory
ours         lthcore's step, dense;  masked and sparse: the same at 21% of the weights left, by either engine
2 on ...     two trainings of four epochs, evaluations included, on one worker process or two
products     only the matrix products of a step, at its shapes: the roofline the others are held against
gather       only the picking of batches;  adam: only the updates. With the products they are a step's floor
Real MNIST where LTH_DATA has it, else random images of its shape.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torchvision import transforms

from lthcore.data import Data, Split, load
from lthcore.linear import times_transposed
from lthcore.lottery import begin
from lthcore.masks import full_mask
from lthcore.models import build, initial_weights
from lthcore.pruning import layer_rates, prune, scores
from lthcore.results import hardware, versions
from lthcore.settings import LabError, Settings
from lthcore.train import engine_for, epoch_batches, train_cohort

BATCH = 60


def clock(work) -> float:
    """Seconds of work()."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def images_of(settings: Settings) -> tuple[Data, str]:
    """MNIST, or random images of its shape."""
    try:
        return load(settings), "MNIST"
    except LabError:
        split = Split(torch.randn(55_000, 1, 28, 28), torch.randint(0, 10, (55_000,)))
        small = Split(split.images[:5000], split.labels[:5000])
        return Data(split, small, small, ""), "random images (no MNIST under LTH_DATA)"


def plain_model() -> tuple[nn.Module, torch.optim.Optimizer]:
    """The network as a tutorial writes it."""
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)
    )
    return model, torch.optim.Adam(model.parameters(), lr=1.2e-3)


def plain_step(model: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor) -> None:
    """One eager step."""
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    optimizer.step()


class Pictures(torch.utils.data.Dataset):
    """Images as `torchvision.datasets.MNIST` hands them out: a PIL picture each, then the transforms."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        """Take images (N, 28, 28) uint8 and labels (N,)."""
        self.images, self.labels = images, labels
        self.transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.images[index].numpy())), int(self.labels[index])


def dataloader_epoch(pictures: Pictures) -> None:
    """An epoch with per-image transforms, as tutorials have it."""
    model, optimizer = plain_model()
    for x, y in torch.utils.data.DataLoader(pictures, BATCH, shuffle=True, drop_last=True):
        plain_step(model, optimizer, x, y)


def tensor_epoch(split: Split) -> None:
    """An epoch over tensors."""
    model, optimizer = plain_model()
    order = torch.randperm(len(split.labels))
    for start in range(0, len(order) - BATCH + 1, BATCH):
        batch = order[start : start + BATCH]
        plain_step(model, optimizer, split.images[batch], split.labels[batch])


def products_epoch(steps: int) -> None:
    """The matrix products of `steps` steps by the fastest means here: three forward, three for weights, two back."""
    sizes = [(784, 300), (300, 100), (100, 10)]
    weights = [torch.randn(o, i) for i, o in sizes]
    xs, gs = [torch.randn(BATCH, i) for i, _ in sizes], [torch.randn(BATCH, o) for _, o in sizes]
    for _ in range(steps):
        for x, g, w in zip(xs, gs, weights, strict=True):
            times_transposed(x, w)
            times_transposed(g.t(), x.t())
            if w is not weights[0]:
                times_transposed(g, w.t())


def gather_epoch(split: Split) -> None:
    """Only the picking of batches."""
    order = torch.randperm(len(split.labels))
    for start in range(0, len(order) - BATCH + 1, BATCH):
        batch = order[start : start + BATCH]
        split.images[batch], split.labels[batch]


def adam_epoch(steps: int) -> None:
    """Only the fused Adam updates."""
    model, _ = plain_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-9, fused=True)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    for _ in range(steps):
        optimizer.step()


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="times each is measured, in turn (default: 5)")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/lenet_step.json"), help="where the numbers go")
    options = parser.parse_args()
    torch.set_num_threads(1)

    settings = Settings(iterations=916, eval_every=916, device="cpu")
    data, source = images_of(settings)
    steps = len(data.train.labels) // BATCH
    settings = settings.changed(iterations=steps, eval_every=steps)
    grey = ((data.train.images[:, 0] * 0.3081 + 0.1307) * 255).round().clamp(0, 255).byte()
    pictures = Pictures(grey, data.train.labels)
    model = build(settings, data.shape, 10)
    theta_0 = initial_weights(model, settings, 0)
    mask = full_mask(theta_0)
    for _ in range(7):
        mask = prune(scores("magnitude", theta_0, theta_0, mask), mask, layer_rates(settings, mask))
    batches = epoch_batches(settings, data, begin(settings, 0, 0, theta_0), 0, steps)[None]
    rates = [settings.learning_rate] * steps

    def engine(kept=None, name: str = "dense"):
        return engine_for(settings.changed(engine=name), data, [begin(settings, 0, 0, theta_0, kept)])

    long = settings.changed(iterations=4 * steps, eval_every=steps)  # a training is hundreds of seconds; this is a few

    def workers(n: int) -> None:
        list(train_cohort(long, data, {i: begin(long, i, 0, theta_0) for i in range(2)}, workers=n))

    loops = {
        "dataloader": lambda: dataloader_epoch(pictures),
        "tensors": lambda: tensor_epoch(data.train),
        "ours": lambda: engine().steps(data, batches, rates),
        "ours, masked": lambda: engine(mask).steps(data, batches, rates),
        "ours, sparse": lambda: engine(mask, "auto").steps(data, batches, rates),
        "2 on one worker": lambda: workers(1),
        "2 on two workers": lambda: workers(2),
        "products": lambda: products_epoch(steps),
        "gather": lambda: gather_epoch(data.train),
        "adam": lambda: adam_epoch(steps),
    }
    workers(2)  # starts the workers: a run pays for that once, in all its rounds
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(options.repeats):
        for name, loop in loops.items():
            seconds[name].append(clock(loop))

    best = {name: min(times) for name, times in seconds.items()}
    floor = best["products"] + best["gather"] + best["adam"]
    size = torch.randn(1024, 1024)
    peak = 2 * 1024**3 / min(clock(lambda: times_transposed(size, size)) for _ in range(20)) / 1e9
    flops = 2 * BATCH * (3 * 266_200 - 235_200) * steps
    ratios = {
        "ours against dataloader (>= 5)": best["dataloader"] / best["ours"],
        "ours against tensors (>= 0.95)": best["tensors"] / best["ours"],
        "two workers against one (>= 1.6)": best["2 on one worker"] / best["2 on two workers"],
        "share of the step that is its floor (>= 0.7)": floor / best["ours"],
        "share of the step that is matrix products": best["products"] / best["ours"],
        "share of the matrix peak that a step reaches": flops / best["ours"] / 1e9 / peak,
    }
    print(f"{source}, {steps} steps of {BATCH}, {hardware(torch.device('cpu'))}, n = {options.repeats}")
    print(f"{'':18}{'best s':>8}{'median':>8}{'worst':>8}{'us/step':>9}")
    for name, times in seconds.items():
        row = (
            best[name],
            statistics.median(times),
            max(times),
            best[name] / steps / (8 if "2 on" in name else 1) * 1e6,
        )
        print(f"{name:18}{row[0]:8.3f}{row[1]:8.3f}{row[2]:8.3f}{row[3]:9.0f}")
    for name, ratio in ratios.items():
        print(f"{name}: {ratio:.2f}")
    print(f"matrix peak on one thread, 1024 x 1024 float32: {peak:.0f} GFLOP/s")
    record = {"hardware": hardware(torch.device("cpu")), "versions": versions(), "data": source, "steps": steps}
    record |= {"n": options.repeats, "seconds": seconds, "ratios": ratios, "peak_gflops": peak}
    options.json.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
