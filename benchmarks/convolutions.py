"""Convolutions on a CPU: a step and an evaluation of each network, compared with older code and a plain loop.

    LTH_DATA=... python benchmarks/convolutions.py [--before COMMIT] [--networks conv2,resnet20]

ours        lthcore/training/engines/conv.py, one thread, in bfloat16 and in float32
before      the same calls to the code of another commit, in a separate worktree and process
plain       an eager float32 loop written as in a tutorial, with images one by one from a DataLoader
peak        the fastest product of two square matrices in each precision; the share of it that a step reaches is given
All are measured in turn, several times, after a first call that is not counted. An evaluation has 1,000 images (250 for
the large networks). The protocol is 100 steps and an evaluation of 6,000 images, computed from the times of its parts.
"""

import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import torch
from bench import best, clock, keep, options_of, print_table, run_or_skip
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from torchvision import transforms

from lthcore.costs import multiply_adds
from lthcore.data.datasets import Data, Split, load
from lthcore.errors import LabError
from lthcore.lottery.start import begin
from lthcore.models.build import build
from lthcore.models.weights import initial_weights
from lthcore.onednn import times_transposed
from lthcore.paths import project_root
from lthcore.settings import Settings
from lthcore.training.loop import engine_for

SGD = {"optimizer": "sgd", "learning_rate": 0.1, "momentum": 0.9, "weight_decay": 5e-4}
NETWORKS = {
    "conv2": {"batch_size": 60}, "conv4": {"batch_size": 60}, "conv6": {"batch_size": 60},
    "resnet20": SGD | {"batch_size": 128}, "resnet18": SGD | {"batch_size": 128}, "vgg19": SGD | {"batch_size": 64},
}  # fmt: skip
LARGE = ("resnet18", "vgg19")
PRECISIONS = ("bfloat16", "float32")
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
BEFORE = "eaaca6e"  # the last commit without an engine for convolutions
TARGETS = {  # against the older code on a core with matrix units for bfloat16: a step, an evaluation
    "conv2": (">= 1.5", ">= 6"), "conv4": (">= 1.5", ">= 6"), "conv6": (">= 1.5", ">= 6"),
    "resnet20": (">= 1.5", ">= 5"), "resnet18": (">= 1.3", ""), "vgg19": (">= 1.3", ""),
}  # fmt: skip
ANYWHERE = {"conv2": ">= 1.7", "conv4": ">= 1.3", "conv6": ">= 1.3", "resnet20": ">= 1.3"}  # float32 evaluations


def settings_of(network: str, precision: str) -> Settings:
    """Return the settings of a network."""
    return Settings(dataset="cifar10", architecture=network, precision=precision, device="cpu", **NETWORKS[network])


def images(n: int) -> tuple[Split, str]:
    """Return `n` images of CIFAR-10, or random images of the same shape, and say which of the two they are."""
    try:
        split = load(Settings(dataset="cifar10", device="cpu")).train
        return Split(split.images[:n].clone(), split.labels[:n].clone()), "CIFAR-10"
    except LabError:
        generator = torch.Generator().manual_seed(0)
        labels = torch.randint(0, 10, (n,), generator=generator)
        return Split(
            torch.randn(n, 3, 32, 32, generator=generator), labels
        ), "random images (no CIFAR-10 under LTH_DATA)"


class Timed:
    """Stopwatch of this code, for a network with half of its weights. Call it with `step` or `evaluation`."""

    def __init__(self, network: str, precision: str, split: Split) -> None:
        """Build the network, to be trained and evaluated on the images of `split`."""
        s = settings_of(network, precision)
        self.split, self.data = split, Data(split, None, split, "", classes=10)
        weights = initial_weights(build(s, self.data.shape, 10), s, 0)
        generator = torch.Generator().manual_seed(0)
        mask = {n: torch.rand(w.shape, generator=generator) < 0.5 for n, w in weights.items() if w.ndim >= 2}
        self.engine = engine_for(s, self.data, [begin(s, 0, 0, weights, mask)])
        self.batch = torch.randint(0, len(split.labels), (1, 1, s.batch_size), generator=generator)

    def __call__(self, what: str) -> float:
        """Return the seconds of one step or evaluation."""
        if what == "step":
            return clock(lambda: self.engine.steps(self.data, self.batch, [1e-4]))
        return clock(lambda: self.engine.evaluate(self.split))


def serve() -> None:
    """Read requests `network precision n what` from standard input, and print seconds. Runs in the older code."""
    torch.set_num_threads(1)
    split, timed = Split(**load_file(sys.argv[1])), {}
    for line in sys.stdin:
        network, precision, n, what = line.split()
        key = network, precision
        if key not in timed:
            timed.clear()
            timed[key] = Timed(network, precision, Split(split.images[: int(n)], split.labels[: int(n)]))
        print(timed[key](what), flush=True)


class Before:
    """Stopwatch of the code of another commit, which runs in a separate worktree and process."""

    def __init__(self, commit: str, split: Split, folder: Path) -> None:
        """Check out the commit below `folder`, and start the process."""
        git = ["git", "-C", str(project_root())]
        known = subprocess.run([*git, "cat-file", "-e", f"{commit}^{{commit}}"], capture_output=True, check=False)
        if known.returncode:
            raise LabError(f"convolutions: commit {commit}, which is held against, is not in git here; give --before")
        subprocess.run([*git, "worktree", "add", "--detach", "--quiet", str(folder / "tree"), commit], check=True)
        self.remove = [*git, "worktree", "remove", "--force", str(folder / "tree")]
        save_file(split._asdict(), folder / "images.safetensors")
        paths = [str(folder / "tree"), str(Path(__file__).resolve().parent)]
        code = f"import sys; sys.path[:0] = {paths}; import convolutions; convolutions.serve()"
        command = [sys.executable, "-c", code, str(folder / "images.safetensors")]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder)

    def __call__(self, network: str, precision: str, n: int, what: str) -> float:
        """Return the seconds of one step or evaluation in that process."""
        self.process.stdin.write(f"{network} {precision} {n} {what}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def close(self) -> None:
        """End the process, and remove the worktree."""
        self.process.stdin.close()
        self.process.wait()
        subprocess.run(self.remove, check=True)


class Pictures(torch.utils.data.Dataset):
    """Data set that returns images as `torchvision.datasets.CIFAR10` does: each is a PIL image, then transformed."""

    def __init__(self, split: Split) -> None:
        """Take images of any scale, and store them as bytes."""
        lowest, highest = split.images.min(), split.images.max()
        pixels = (split.images - lowest) / (highest - lowest) * 255
        self.images, self.labels = pixels.byte().permute(0, 2, 3, 1).contiguous(), split.labels
        self.transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,) * 3, (0.25,) * 3)])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.images[index].numpy())), int(self.labels[index])


class Plain:
    """Stopwatch of a masked training loop in float32, written as in a tutorial. Called like `Timed`."""

    def __init__(self, network: str, split: Split) -> None:
        """Build the network, to be trained and evaluated on the images of `split`."""
        s = settings_of(network, "float32")
        self.model = build(s, tuple(split.images.shape[1:]), 10)
        for name, layer in list(self.model.named_children()):
            if isinstance(layer, nn.Linear):  # torch's own layer, of the same size
                setattr(self.model, name, nn.Linear(layer.in_features, layer.out_features))
        sgd = s.optimizer == "sgd"
        parameters = self.model.parameters()
        self.optimizer = torch.optim.SGD(parameters, lr=1e-3, momentum=0.9) if sgd else torch.optim.Adam(parameters)
        self.masks = [(p, (torch.rand(p.shape) < 0.5).float()) for p in self.model.parameters() if p.ndim > 1]
        pictures = Pictures(split)
        self.training = iter(torch.utils.data.DataLoader(pictures, s.batch_size, sampler=Endless(len(pictures))))
        self.evaluated = torch.utils.data.DataLoader(pictures, 100)

    def __call__(self, what: str) -> float:
        """Return the seconds of one step or evaluation."""
        return clock(self.step if what == "step" else self.evaluate)

    def step(self) -> None:
        """Take one training step."""
        x, y = next(self.training)
        self.model.train()
        self.optimizer.zero_grad()
        F.cross_entropy(self.model(x), y).backward()
        self.optimizer.step()
        with torch.no_grad():
            for weight, mask in self.masks:
                weight.mul_(mask)

    @torch.no_grad()
    def evaluate(self) -> float:
        """Return the accuracy on all images."""
        self.model.eval()
        return sum((self.model(x).argmax(1) == y).sum().item() for x, y in self.evaluated) / len(self.evaluated.dataset)


class Endless(torch.utils.data.Sampler):
    """Sampler that yields random indices without end."""

    def __init__(self, n: int) -> None:
        """Sample from `n` images."""
        self.n = n

    def __iter__(self):
        while True:
            yield from torch.randperm(self.n).tolist()


def measure(network: str, split: Split, before: Before, repeats: int) -> dict[str, list[float]]:
    """Return the seconds of each kind of code, by name: `<code> <precision> <step or evaluation>`."""
    n = len(split.labels)
    works = {}
    for precision in PRECISIONS:
        ours = Timed(network, precision, split)
        for what in ("step", "evaluation"):
            works[f"ours {precision} {what}"] = partial(ours, what)
            works[f"before {precision} {what}"] = partial(before, network, precision, n, what)
    plain = Plain(network, split)
    works |= {f"plain float32 {what}": partial(plain, what) for what in ("step", "evaluation")}
    seconds = {name: [] for name in works}
    for i in range(repeats + 1):
        for name, work in works.items():
            taken = work()
            if i:  # the first call also compiles code and pages in memory
                seconds[name].append(taken)
    return seconds


def main() -> None:
    """Measure, print, write JSON."""
    options = options_of(
        __doc__, "convolutions", repeats=3, before=(BEFORE, "the commit held against"),
        networks=(",".join(NETWORKS), "which networks"),
    )  # fmt: skip
    split, source = images(1000)
    side = {p: torch.randn(2048, 2048, dtype=DTYPES[p]) for p in PRECISIONS}
    peak = {p: 2 * 2048**3 / min(clock(partial(times_transposed, m, m)) for _ in range(5)) for p, m in side.items()}
    print(f"{source}; matrix peak of this core: " + ", ".join(f"{v / 1e9:.0f} GFLOP/s {p}" for p, v in peak.items()))
    units = torch.cpu._is_amx_tile_supported()
    rows, ratios = [], {}
    with tempfile.TemporaryDirectory() as folder:
        before = Before(options.before, split, Path(folder))
        try:
            for network in options.networks.split(","):
                n = 250 if network in LARGE else 1000
                part = Split(split.images[:n], split.labels[:n])
                seconds = measure(network, part, before, options.repeats)
                print(f"\n{network}, batch {NETWORKS[network]['batch_size']}, evaluation of {n:,} images")
                print_table(seconds, "ms", 1e3)
                rows.append({"network": network, "images": n, "seconds": seconds})
                ratios |= ratios_of(network, best(seconds), peak, units)
        finally:
            before.close()
    if options.before != BEFORE:
        ratios = {name: (value, "") for name, (value, _) in ratios.items()}
    keep(
        options.json, options.device, options.repeats, ratios, data=source, before=options.before,
        peak_gflops={p: v / 1e9 for p, v in peak.items()}, matrix_units=units, rows=rows,
    )  # fmt: skip


def ratios_of(network: str, t: dict[str, float], peak: dict[str, float], units: bool) -> dict[str, tuple[float, str]]:
    """Return the ratios that follow from the times of a network, each with its target (empty: none)."""
    step, evaluation = TARGETS[network] if units else ("", "")
    s = settings_of(network, "bfloat16")
    flops = 6 * s.batch_size * multiply_adds(build(s, (3, 32, 32), 10), (3, 32, 32))
    found = {
        "bfloat16 step against before": (t["before bfloat16 step"] / t["ours bfloat16 step"], step),
        "float32 step against before": (t["before float32 step"] / t["ours float32 step"], ""),
        "bfloat16 evaluation against before": (
            t["before bfloat16 evaluation"] / t["ours bfloat16 evaluation"], evaluation
        ),
        "float32 evaluation against before": (
            t["before float32 evaluation"] / t["ours float32 evaluation"], ANYWHERE.get(network, "")
        ),
        "bfloat16 step against the plain loop": (t["plain float32 step"] / t["ours bfloat16 step"], ""),
        "bfloat16 evaluation against the plain loop": (
            t["plain float32 evaluation"] / t["ours bfloat16 evaluation"], ""
        ),
        "bfloat16 step, share of the matrix peak": (flops / t["ours bfloat16 step"] / peak["bfloat16"], ""),
        "float32 step, share of the matrix peak": (flops / t["ours float32 step"] / peak["float32"], ""),
    }  # fmt: skip
    if network == "conv2":
        whole = {code: 100 * t[f"{code} step"] + 6 * t[f"{code} evaluation"]
                 for code in ("ours bfloat16", "before bfloat16", "plain float32")}  # fmt: skip
        found["protocol in bfloat16 against before"] = (
            whole["before bfloat16"] / whole["ours bfloat16"], ">= 2.5" if units else ""
        )  # fmt: skip
        found["protocol in bfloat16 against the plain loop"] = (
            whole["plain float32"] / whole["ours bfloat16"], ">= 5" if units else ""
        )  # fmt: skip
    return {f"{network}: {name}": value for name, value in found.items()}


if __name__ == "__main__":
    run_or_skip(main)
