"""Images per second of a CIFAR ResNet, compared with a plain eager float32 loop, and its share of the matrix peak.

    LTH_DATA=... python benchmarks/resnet_epoch.py [--device cuda]

ResNet-18 (11,164,352 weights), batch 128, SGD with momentum, flips and crops. Ours: channels last, bfloat16 autocast,
compiled and captured on a GPU, augmented in batches on the device. The plain loop: channels first, float32, eager. A
GPU trains a whole epoch of 50,000 images and evaluates. A CPU takes one step, from which the time of an epoch follows.
"""

from functools import partial

import torch
from bench import best, clock, keep, options_of, print_table, side_by_side
from torch.nn import functional as F

from lthcore.costs import multiply_adds
from lthcore.data.augment import augment
from lthcore.data.datasets import Data, Split, load
from lthcore.errors import LabError
from lthcore.lottery.dynamic import update
from lthcore.lottery.start import begin
from lthcore.models.build import build
from lthcore.models.weights import initial_weights
from lthcore.onednn import times_transposed
from lthcore.settings import DynamicSettings, Settings
from lthcore.training.loop import engine_for

N = 50_000


def images(settings: Settings) -> tuple[Data, str]:
    """Return CIFAR-10, or random images of the same shape, and say which of the two it is."""
    try:
        return load(settings), "CIFAR-10"
    except LabError:
        device = torch.device(settings.device)
        split = Split(torch.randn(N, 3, 32, 32, device=device), torch.randint(0, 10, (N,), device=device))
        return Data(split, None, Split(split.images[:10_000], split.labels[:10_000]), "", classes=10), "random images"


def main() -> None:
    """Measure, print, write JSON."""
    options = options_of(__doc__, "resnet_epoch", repeats=3)
    cuda = options.device.type == "cuda"
    settings = Settings(
        dataset="cifar10", architecture="resnet18", optimizer="sgd", learning_rate=0.1, momentum=0.9, weight_decay=5e-4,
        batch_size=128, validation=0, augment=("crop", "flip"), device=str(options.device),
    )  # fmt: skip
    data, source = images(settings)
    steps = N // 128 if cuda else 1
    theta_0 = initial_weights(build(settings, data.shape, 10), settings, 0)
    order = torch.randperm(len(data.train.labels), device=options.device)[: steps * 128].view(1, steps, 128)
    rates = [0.1] * steps

    def ours(precision: str):
        changed = settings.changed(precision=precision)
        return partial(engine_for(changed, data, [begin(changed, 0, 0, theta_0)]).steps, data, order, rates)

    model = build(settings, data.shape, 10).to(options.device)
    model.load_state_dict(theta_0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    noise = torch.Generator(options.device).manual_seed(0)

    def plain() -> None:
        for batch in order[0]:
            optimizer.zero_grad()
            x = augment(data.train.images[batch], settings, noise)
            F.cross_entropy(model(x), data.train.labels[batch]).backward()
            optimizer.step()

    works = {"plain eager float32": plain, "ours, float32": ours("float32"), "ours, bfloat16": ours("bfloat16")}
    side_by_side(works, 1)  # compile, capture and warm up
    seconds = side_by_side(works, options.repeats)
    held = data.test if cuda else Split(data.test.images[:100], data.test.labels[:100])
    engine = engine_for(settings, data, [begin(settings, 0, 0, theta_0)])
    engine.evaluate(held)
    evaluation = min(clock(lambda: engine.evaluate(held)) for _ in range(3)) / len(held.labels)
    pruning = DynamicSettings(**{k: v for k, v in settings.given().items() if k in DynamicSettings.model_fields})
    state = begin(pruning, 0, 0, theta_0)
    engine.sync_to([state])
    update(pruning, state, 0.1)
    masking = min(clock(partial(update, pruning, state, 0.2 + 0.1 * i)) for i in range(3))
    best_of_ours = "ours, bfloat16" if cuda else "ours, float32"  # compared with the peak of its own precision
    kind, side = (torch.bfloat16, 8192) if cuda else (torch.float32, 1024)
    size = torch.randn(side, side, device=options.device, dtype=kind)
    multiply = torch.matmul if cuda else times_transposed
    peak = 2 * side**3 / min(clock(lambda: multiply(size, size)) for _ in range(10))

    rate = {name: steps * 128 / t for name, t in best(seconds).items()}
    flops = 6 * multiply_adds(model, data.shape)
    print(f"{source}, {steps} steps of 128, {torch.cuda.get_device_name() if cuda else 'CPU, one thread'}")
    print_table({name: [t / steps for t in times] for name, times in seconds.items()}, "ms a step", 1e3)
    print("images a second: " + ", ".join(f"{name} {r:,.0f}" for name, r in rate.items()))
    epoch = N / rate["ours, bfloat16"] + 10_000 * evaluation
    ratios = {
        "ours, bfloat16 against the plain loop": (
            rate["ours, bfloat16"] / rate["plain eager float32"],
            ">= 4 on a GPU",
        ),
        f"share of the matrix peak, {best_of_ours}": (flops * rate[best_of_ours] / peak, ""),
        "seconds an epoch with its evaluation": (epoch, "<= 3 on an H200"),
        "share of an epoch that an update of the mask takes": (masking / epoch, "< 0.01"),
    }
    keep(options.json, options.device, options.repeats, ratios, data=source, images_per_second=rate, seconds=seconds)


if __name__ == "__main__":
    main()
