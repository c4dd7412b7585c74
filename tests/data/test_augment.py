"""Augmentation: each image is changed on its own, as by plain loops and torchvision, from one generator alone."""

import math
from itertools import combinations
from typing import get_args

import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as V

from lthcore.data.augment import JITTER, ROTATION, augment, erase, jitter, rotate, shift
from lthcore.data.datasets import scaled
from lthcore.recipe import Augmentation
from lthcore.settings import Settings

KINDS = get_args(Augmentation)
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of CIFAR-10


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def crops(image: np.ndarray) -> dict[bytes, tuple[bool, int, int]]:
    """Return every crop of the padded image, flipped or not, found by a plain loop: bytes -> (flip, top, left)."""
    channels, height, width = image.shape
    found = {}
    for flip in (False, True):
        padded = np.zeros((channels, height + 8, width + 8), image.dtype)
        padded[:, 4:-4, 4:-4] = image[:, :, ::-1] if flip else image
        for top in range(9):
            for left in range(9):
                found[padded[:, top : top + height, left : left + width].tobytes()] = (flip, top, left)
    return found


def images(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def augmented(batch: torch.Tensor, seed: int = 0) -> torch.Tensor:
    return shift(batch, torch.Generator().manual_seed(seed))


def test_augmented_images_are_crops_of_their_own_padded_image():
    batch = images(40, 3, 12, 10)
    result = augmented(batch)
    assert result.shape == batch.shape and result.dtype == batch.dtype
    drawn = {crops(before)[after.tobytes()] for before, after in zip(batch.numpy(), result.numpy(), strict=True)}
    assert len(drawn) > 25  # each image has its own crop and flip


def test_augmentation_draws_all_offsets_and_flips_alike():
    (image,) = images(1, 1, 9, 9)
    table = crops(image.numpy())
    assert len(table) == 2 * 81
    drawn = [table[after.tobytes()] for after in augmented(image.expand(8100, -1, -1, -1)).numpy()]
    counts = np.unique(drawn, axis=0, return_counts=True)[1]
    assert len(counts) == 162 and counts.min() > 20 and counts.max() < 90  # 50 expected, standard deviation 7


def test_without_a_flip_or_a_crop_the_other_is_left():
    batch = images(64, 1, 6, 6)
    flipped = shift(batch, generator(), padding=0)
    assert all(any(torch.equal(a, b) for b in (x, x.flip(2))) for a, x in zip(flipped, batch, strict=True))
    assert 16 < sum(torch.equal(a, b) for a, b in zip(flipped, batch, strict=True)) < 48
    cropped = shift(batch, generator(), mirrored=False)
    flips = {crops(before.numpy())[after.numpy().tobytes()][0] for before, after in zip(batch, cropped, strict=True)}
    assert flips == {False}


@pytest.mark.parametrize("shape", [(1, 9, 9), (3, 8, 12)])
def test_rotation_turns_as_torchvision_does(shape, monkeypatch):
    batch = images(5, *shape)
    angles = torch.rand(5, 1, 1, 1, generator=generator()) * 2 * ROTATION - ROTATION
    turned = [V.rotate(x, float(a), InterpolationMode.BILINEAR) for x, a in zip(batch, angles.flatten(), strict=True)]
    other = [V.rotate(x, -float(a), InterpolationMode.BILINEAR) for x, a in zip(batch, angles.flatten(), strict=True)]
    result = rotate(batch, generator())
    errors = [(result - torch.stack(t)).abs().max() for t in (turned, other)]  # either direction may count as positive
    assert min(errors) < 1e-4


@pytest.mark.parametrize("channels", [1, 3])
def test_jitter_changes_brightness_contrast_and_saturation_as_torchvision_does(channels):
    batch = torch.rand(5, channels, 6, 7, generator=generator(1))
    g = generator()  # the factors that `jitter` draws
    factors = zip(*(torch.rand(5, generator=g) * 2 * JITTER + 1 - JITTER for _ in range(3)), strict=True)
    expected = []
    for image, (brightness, contrast, saturation) in zip(batch, factors, strict=True):
        x = V.adjust_contrast(V.adjust_brightness(image, float(brightness)), float(contrast))
        expected.append(V.adjust_saturation(x, float(saturation)))
    mean, std = (torch.tensor(v[:channels]).view(-1, 1, 1) for v in (MEAN, STD))
    jittered = jitter((batch - mean) / std, generator(), MEAN[:channels], STD[:channels]) * std + mean
    assert torch.allclose(jittered, torch.stack(expected), atol=2e-4)  # torchvision rounds the weights of a grey


def test_jitter_keeps_colours_possible_and_changes_brightness_by_up_to_a_fifth():
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    grey = torch.full((500, 3, 4, 4), 0.5)
    changed = jitter((grey - mean) / std, generator(), MEAN, STD) * std + mean
    brightness = changed.mean((1, 2, 3)) / 0.5  # contrast and saturation leave an even grey alone
    assert 0.799 < brightness.min() < 0.82 and 1.18 < brightness.max() < 1.201
    wild = torch.rand(50, 3, 4, 4, generator=generator(1))
    changed = jitter((wild - mean) / std, generator(), MEAN, STD) * std + mean
    assert changed.min() > -1e-5 and changed.max() < 1 + 1e-5
    assert not torch.allclose(changed, wild, atol=0.01)


def test_erasing_clears_one_rectangle_in_half_of_the_images():
    batch = torch.ones(400, 2, 32, 32)
    result = erase(batch, generator())
    cleared = (result == 0).all(1)
    touched = cleared.flatten(1).any(1)
    assert 150 < touched.sum() < 250
    for hole in cleared[touched]:
        rows, columns = hole.any(1).sum(), hole.any(0).sum()
        assert hole.sum() == rows * columns
    share = cleared[touched].float().mean((1, 2))
    assert share.min() < 0.05 and 0.28 < share.max() < 0.36


@pytest.mark.parametrize("kinds", [(), *combinations(KINDS, 1), KINDS], ids=lambda kinds: "+".join(kinds) or "none")
def test_augmentation_follows_from_its_generator_alone(kinds):
    batch, before = images(20, 3, 8, 8), torch.random.get_rng_state()
    kept, settings = batch.clone(), Settings(dataset="cifar10", augment=kinds)
    once, again, other = (augment(batch, settings, generator(seed)) for seed in (0, 0, 1))
    assert once.shape == batch.shape and once.dtype == batch.dtype and torch.equal(once, again)
    assert torch.equal(once, other) == (not kinds)
    assert torch.equal(batch, kept) and torch.equal(before, torch.random.get_rng_state())
    assert not any(math.isnan(v) for v in once.flatten().tolist())


def test_jitter_knows_the_scale_of_its_images():
    """Jitter changes pixels equally, whether images are standardised or in [0, 1]."""
    pixels = np.random.RandomState(0).randint(0, 256, (5, 3, 8, 8)).astype(np.uint8)
    standardised, unit = (
        augment(scaled(pixels, "cifar10", kind), Settings(dataset="cifar10", augment=("jitter",), input_scaling=kind),
                generator())
        for kind in ("standardised", "unit")
    )  # fmt: skip
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    assert torch.allclose(standardised * std + mean, unit, atol=1e-5) and 0 <= unit.min() < unit.max() <= 1


def test_erased_rectangles_are_as_often_tall_as_wide_and_those_of_half_of_the_images():
    batch = torch.ones(4000, 1, 64, 64)
    cleared = (erase(batch, torch.Generator().manual_seed(0)) == 0)[:, 0]
    touched = cleared.flatten(1).any(1)
    assert 1875 < touched.sum() < 2125  # 4 standard deviations of 31.6
    tall, wide = (cleared[touched].any(axis).sum(1).float() for axis in (2, 1))
    inside = (tall < 60) & (wide < 60)  # not cut off by the sides of an image
    ratio = (tall / wide)[inside]
    assert 0.25 < ratio.min() < 0.4 and 2.5 < ratio.max() < 4  # up to 3.3 either way, and a pixel more
    assert abs((ratio > 1).float().mean() - (ratio < 1).float().mean()) < 0.1
