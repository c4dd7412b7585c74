"""Data augmentation: random changes of a batch of images, drawn for each image, on the device of the images.

All random numbers come from the given generator, and their number does not depend on the draws. The functions can
therefore be captured in a CUDA graph, and a resumed training run continues bit for bit. They never wait for the device.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from lthcore.data.datasets import pixel_scale
from lthcore.recipe import Recipe

PADDING = 4  # pixels around an image before it is cropped
ROTATION = 15.0  # degrees, at most
JITTER = 0.2  # brightness, contrast and saturation change by up to this share
ERASED = (0.02, 0.33)  # share of an image that is erased, in half of the images
ELONGATION = 3.3  # largest ratio of the sides of an erased rectangle


def augment(images: Tensor, settings: Recipe, generator: torch.Generator) -> Tensor:
    """Apply the augmentations of the settings to scaled images (N, C, H, W), in the fixed order of the code below.

    Pixels that are padded, rotated in or erased are zero: the mean colour of standardised images, black in others.
    """
    kinds = settings.augment
    if "crop" in kinds or "flip" in kinds:
        images = shift(images, generator, PADDING if "crop" in kinds else 0, "flip" in kinds)
    if "rotation" in kinds:
        images = rotate(images, generator)
    if "jitter" in kinds:
        images = jitter(images, generator, *pixel_scale(settings.dataset, settings.input_scaling))
    return erase(images, generator) if "erasing" in kinds else images


def shift(images: Tensor, generator: torch.Generator, padding: int = PADDING, mirrored: bool = True) -> Tensor:
    """Crop images at random after padding with zeros, and flip about half of them horizontally (the paper's section 4).

    Without `mirrored` no image is flipped.
    """
    n, channels, height, width = images.shape
    padded = F.pad(images, (padding,) * 4)
    top, left = torch.randint(0, 2 * padding + 1, (2, n, 1), generator=generator, device=images.device)
    rows = top + torch.arange(height, device=images.device)
    columns = left + torch.arange(width, device=images.device)
    if mirrored:
        flip = torch.rand(n, 1, generator=generator, device=images.device) < 0.5
        columns = torch.where(flip, columns.flip(1), columns)
    image, channel = torch.arange(n, device=images.device), torch.arange(channels, device=images.device)
    return padded[image[:, None, None, None], channel[:, None, None], rows[:, None, :, None], columns[:, None, None, :]]


def rotate(images: Tensor, generator: torch.Generator) -> Tensor:
    """Rotate images about their centres by up to 15 degrees either way, bilinearly. Pixels from outside are zero."""
    angle = _uniform(images, generator, -ROTATION, ROTATION).view(-1) * (math.pi / 180)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    aspect = images.shape[2] / images.shape[3]  # coordinates run from -1 to 1 along both sides, whatever their lengths
    turn = torch.stack([cos, -sin * aspect, zero, sin / aspect, cos, zero], 1).view(-1, 2, 3)
    grid = F.affine_grid(turn, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def jitter(images: Tensor, generator: torch.Generator, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Change brightness, contrast and (of colour images) saturation, each by up to a fifth.

    `mean` and `std` are the values that the images were scaled with. Unscaled pixels stay in [0, 1].
    """
    m, s = (torch.stack([images.new_full((1, 1), v) for v in values]) for values in (mean, std))
    x = images * s + m
    brightness, contrast, saturation = (_uniform(images, generator, 1 - JITTER, 1 + JITTER) for _ in range(3))
    x = (x * brightness).clamp(0, 1)
    grey = _grey(x).mean((1, 2, 3), keepdim=True)
    x = ((x - grey) * contrast + grey).clamp(0, 1)
    grey = _grey(x)
    return (((x - grey) * saturation + grey).clamp(0, 1) - m) / s if x.shape[1] == 3 else (x - m) / s


def erase(images: Tensor, generator: torch.Generator) -> Tensor:
    """Set a rectangle to zero in about half of the images (random erasing, arXiv 1708.04896)."""
    height, width = images.shape[2:]
    area = _uniform(images, generator, *ERASED) * (height * width)
    ratio = _uniform(images, generator, -math.log(ELONGATION), math.log(ELONGATION)).exp()
    tall, wide = (area * ratio).sqrt().clamp(max=height), (area / ratio).sqrt().clamp(max=width)
    top = _uniform(images, generator, 0, 1) * (height - tall)
    left = _uniform(images, generator, 0, 1) * (width - wide)
    row = torch.arange(height, device=images.device).view(1, 1, -1, 1) + 0.5
    column = torch.arange(width, device=images.device).view(1, 1, 1, -1) + 0.5
    inside = (row > top) & (row < top + tall) & (column > left) & (column < left + wide)
    chosen = _uniform(images, generator, 0, 1) < 0.5
    return images.masked_fill(inside & chosen, 0.0)


def _uniform(images: Tensor, generator: torch.Generator, low: float, high: float) -> Tensor:
    """Return a uniform draw from [low, high) for each image, of shape (N, 1, 1, 1)."""
    drawn = torch.rand(len(images), 1, 1, 1, generator=generator, device=images.device)
    return drawn * (high - low) + low


def _grey(images: Tensor) -> Tensor:
    """Return the luminance (N, 1, H, W), with the usual weights of red, green and blue (ITU-R BT.601).

    Images without three channels are returned unchanged.
    """
    if images.shape[1] != 3:
        return images
    red, green, blue = images.unbind(1)
    return (0.299 * red + 0.587 * green + 0.114 * blue).unsqueeze(1)
