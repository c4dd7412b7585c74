"""Tickets per hour: the whole experiment, evaluations and pruning included, beside two plain loops, in one run.

    python benchmarks/tickets_per_hour.py [--steps 400] [--json benchmarks/tickets_per_hour.json]

LeNet-300-100, batch 60, Adam, two trials down to 3.6% of the weights (15 rounds), 15,000 images evaluated every 100
steps. Ours runs `find_tickets` on every core. The plain loops train the same number of steps, mask after each of them
and evaluate as often, over a DataLoader with ToTensor and Normalize or over tensors; they take as long in every round,
so one training is timed (the best of three), on one thread, and multiplied.
"""

import argparse
import json
from pathlib import Path

import torch
from lenet_step import BATCH, Pictures, clock, images_of, plain_model, plain_step

from lthcore.data import Split
from lthcore.lottery import find_tickets
from lthcore.results import hardware, versions
from lthcore.settings import Settings

EVERY = 100


def plain_training(batches, evaluations, steps: int) -> None:
    """A masked training as a tutorial writes it: `batches()` and `evaluations()` yield (x, y)."""
    model, optimizer = plain_model()
    masks = [torch.ones_like(p) for p in model.parameters() if p.ndim == 2]
    done = 0
    while done < steps:
        for x, y in batches():
            if done % EVERY == 0:
                with torch.no_grad():
                    sum((model(a).argmax(1) == b).sum().item() for a, b in evaluations())
            plain_step(model, optimizer, x, y)
            with torch.no_grad():
                for weight, mask in zip((p for p in model.parameters() if p.ndim == 2), masks, strict=True):
                    weight.mul_(mask)
            done += 1
            if done == steps:
                return


def main() -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400, help="steps of a training (default: 400)")
    parser.add_argument("--json", type=Path, default=Path("benchmarks/tickets_per_hour.json"), help="output")
    options = parser.parse_args()
    torch.set_num_threads(1)

    settings = Settings(
        iterations=options.steps, eval_every=EVERY, arms=("ticket",), trials=2, rounds=15, device="cpu"
    )  # fmt: skip
    data, source = images_of(settings)
    held = Split(*(torch.cat(pair) for pair in zip(data.validation, data.test, strict=True)))

    def pictures(split: Split) -> Pictures:
        return Pictures(((split.images[:, 0] * 0.3081 + 0.1307) * 255).round().clamp(0, 255).byte(), split.labels)

    def loader(split: Split, batch: int, shuffle: bool) -> torch.utils.data.DataLoader:
        return torch.utils.data.DataLoader(pictures(split), batch, shuffle=shuffle, drop_last=shuffle)

    def tensor_batches():
        order = torch.randperm(len(data.train.labels))
        for rows in order[: len(order) - len(order) % BATCH].view(-1, BATCH):
            yield data.train.images[rows], data.train.labels[rows]

    train_loader, held_loader = loader(data.train, BATCH, True), loader(held, 1000, False)
    loops = {
        "dataloader": (lambda: train_loader, lambda: held_loader),
        "tensors": (tensor_batches, lambda: zip(held.images.split(1000), held.labels.split(1000), strict=True)),
    }
    list(find_tickets(settings.changed(iterations=2, eval_every=2), data))  # workers started, kernels compiled
    trainings, seconds = settings.trials * (settings.rounds + 1), {}
    seconds["ours"] = min(clock(lambda: list(find_tickets(settings, data))) for _ in range(3)) / trainings
    for name, (batches, evaluations) in loops.items():
        seconds[name] = min(
            clock(lambda b=batches, e=evaluations: plain_training(b, e, options.steps)) for _ in range(3)
        )

    print(f"{source}, {trainings} trainings of {options.steps} steps, {hardware(torch.device('cpu'))}")
    for name, each in seconds.items():
        print(f"{name:11} {3600 / each:8.0f} tickets an hour ({each:.2f} s each)")
    ratios = {name: seconds[name] / seconds["ours"] for name in loops}
    print(f"ours against dataloader (>= 12): {ratios['dataloader']:.1f}")
    print(f"ours against tensors (>= 1.5): {ratios['tensors']:.1f}")
    record = {"hardware": hardware(torch.device("cpu")), "versions": versions(), "data": source}
    record |= {"steps": options.steps, "trainings": trainings, "seconds_per_ticket": seconds, "ratios": ratios, "n": 3}
    options.json.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
