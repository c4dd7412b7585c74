"""Code that the benchmarks share: options, clocks, MNIST, plain loops for comparison, and how a result is saved."""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torchvision import transforms

from lthcore.data.datasets import Data, Split, load, pick_device
from lthcore.errors import LabError
from lthcore.paths import project_root
from lthcore.runs.provenance import git_commit, hardware, versions
from lthcore.settings import Settings

BATCH = 60
LACKING = 77  # exit status of a benchmark that lacks data, tickets or a package
Seconds = dict[str, list[float]]


def options_of(doc: str, name: str, repeats: int = 5, **more: tuple[str, str]) -> argparse.Namespace:
    """Parse the options --repeats, --device, --json and those in `more` (name: (default, help)).

    `doc` is the description of the benchmark, and `name` names its JSON file. Sets torch to one thread, as in training.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=repeats, help="times each is measured (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    parser.add_argument("--json", type=Path, help=f"output (default: results/benchmarks/<cpu or cuda>/{name}.json)")
    for option, (default, text) in more.items():
        parser.add_argument(f"--{option}", default=default, help=f"{text} (default: %(default)s)")
    options = parser.parse_args()
    options.device = pick_device(options.device)
    options.json = options.json or project_root() / f"results/benchmarks/{options.device.type}/{name}.json"
    torch.set_num_threads(1)
    return options


def run_or_skip(main: Callable[[], None]) -> None:
    """Run a benchmark; if it lacks something (LabError), say what in one line, and exit with status LACKING."""
    try:
        main()
    except LabError as error:
        print(error, file=sys.stderr)
        sys.exit(LACKING)


def clock(work: Callable[[], object]) -> float:
    """Return the seconds that work() takes, including what it queues on a GPU."""
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def side_by_side(works: dict[str, Callable[[], object]], repeats: int) -> Seconds:
    """Return the seconds of each work, measured in turn `repeats` times so that a noisy machine affects all alike."""
    seconds: Seconds = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            seconds[name].append(clock(work))
    return seconds


def best(seconds: Seconds) -> dict[str, float]:
    """Return the shortest time of each. Other work on the machine can only make it longer."""
    return {name: min(times) for name, times in seconds.items()}


def print_table(seconds: Seconds, unit: str = "s", scale: float = 1.0) -> None:
    """Print the best, median and worst time of each, multiplied by `scale` to give `unit`."""
    print(f"{'':34}{'best':>9}{'median':>9}{'worst':>9}  {unit}")
    for name, times in seconds.items():
        row = (min(times), statistics.median(times), max(times))
        print(f"{name:34}" + "".join(f"{t * scale:9.3f}" if scale == 1 else f"{t * scale:9.0f}" for t in row))


def keep(path: Path, device: torch.device, n: int, ratios: dict[str, tuple[float, str]], **fields: object) -> None:
    """Print the ratios with their targets, and write them and `fields` as JSON, with the hardware, versions and commit.

    `ratios` maps names to (value, target), and `n` is the number of repeats.
    """
    for name, (value, target) in ratios.items():
        print(f"{name}: {value:.2f}" + (f" (target {target})" if target else ""))
    record = {"hardware": hardware(device), "versions": versions(), "commit": git_commit(), "n": n}
    record["ratios"] = {name: {"value": value, "target": target} for name, (value, target) in ratios.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record | fields, indent=1) + "\n")


def mnist(settings: Settings) -> tuple[Data, str]:
    """Return MNIST if LTH_DATA has it, else random images of the same shape, and say which of the two it is."""
    try:
        return load(settings), "MNIST"
    except LabError:
        device, sizes = pick_device(settings.device), {"train": 55_000, "validation": 5000, "test": 10_000}
        splits = {
            name: Split(torch.randn(n, 1, 28, 28, device=device), torch.randint(0, 10, (n,), device=device))
            for name, n in sizes.items()
        }
        return Data(**splits, variant="", classes=10), "random images (no MNIST under LTH_DATA)"


def plain_lenet() -> tuple[nn.Module, torch.optim.Optimizer]:
    """Return LeNet-300-100 and its optimizer, written as in a tutorial."""
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)
    )
    return model, torch.optim.Adam(model.parameters(), lr=1.2e-3)


class Pictures(torch.utils.data.Dataset):
    """Data set that returns images as `torchvision.datasets.MNIST` does: each is a PIL image, then transformed."""

    def __init__(self, split: Split) -> None:
        """Take normalised images (N, 1, 28, 28), and store them as bytes."""
        grey = (split.images[:, 0] * 0.3081 + 0.1307) * 255
        self.images, self.labels = grey.round().clamp(0, 255).byte(), split.labels
        self.transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.images[index].numpy())), int(self.labels[index])


def dataloader(split: Split, batch: int, shuffle: bool) -> torch.utils.data.DataLoader:
    """Return a DataLoader that applies ToTensor and Normalize to each image, as in tutorials."""
    return torch.utils.data.DataLoader(Pictures(split), batch, shuffle=shuffle, drop_last=shuffle)


def tensor_batches(split: Split) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield the shuffled batches of one epoch, from tensors in memory."""
    order = torch.randperm(len(split.labels))
    for rows in order[: len(order) - len(order) % BATCH].view(-1, BATCH):
        yield split.images[rows], split.labels[rows]


def plain_training(batches: Callable, evaluations: Callable, steps: int, every: int) -> None:
    """Train LeNet with masks for `steps` steps, written as in a tutorial, and evaluate it every `every` steps.

    `batches()` and `evaluations()` return iterables of (x, y).
    """
    model, optimizer = plain_lenet()
    weights = [p for p in model.parameters() if p.ndim == 2]
    masks, done = [torch.ones_like(w) for w in weights], 0
    while done < steps:
        for x, y in batches():
            if done % every == 0:
                with torch.no_grad():
                    sum((model(a).argmax(1) == b).sum().item() for a, b in evaluations())
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            with torch.no_grad():
                for weight, mask in zip(weights, masks, strict=True):
                    weight.mul_(mask)
            done += 1
            if done == steps:
                return
