"""Images in channels-last memory format, as the arrays that compiled loops run over."""

import numpy as np
import torch
from torch import Tensor

WIDE = 512  # elements in a row of a compiled loop: narrower rows are joined


def channels_last(x: Tensor) -> Tensor:
    """Return images (N, C, H, W) in channels-last memory format: unchanged if they are in it already."""
    return x.contiguous(memory_format=torch.channels_last)


def in_memory_order(x: Tensor) -> Tensor:
    """Return channels-last images (N, C, H, W) in memory order: (N, H, W, C)."""
    return x.permute(0, 2, 3, 1).contiguous()


def integers(x: Tensor) -> np.ndarray:
    """Return images (N, C, H, W) as signed integers (N, H, W, C) of the same width.

    For numbers that are not negative, the integers have the same order as the numbers.
    """
    return in_memory_order(x).view(torch.int16 if x.dtype == torch.bfloat16 else torch.int32).numpy()


def rows_of(x: Tensor) -> np.ndarray:
    """Return images (N, C, H, W) as rows of channels, one row per pixel.

    Adjacent rows are joined in pairs until they have WIDE elements or more, or their number is odd.
    """
    pixels, width = x.numel() // x.shape[1], x.shape[1]
    while width < WIDE and pixels % 2 == 0:
        pixels, width = pixels // 2, 2 * width
    flat = in_memory_order(x).view(pixels, width)
    return flat.view(torch.int16).numpy().view(np.uint16) if x.dtype == torch.bfloat16 else flat.numpy()


def across(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Repeat values, one per channel, as often as the channels are repeated in a row of `rows`."""
    return np.tile(values, rows.shape[1] // len(values)).astype(np.float32)


def by_channel(sums: np.ndarray, channels: int) -> np.ndarray:
    """Add up the sums of columns that belong to the same channel: the counterpart of `across`."""
    return sums.reshape(-1, channels).sum(0)
