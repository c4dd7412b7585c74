"""Convolutions with 3x3 kernels in float32 on a CPU, by the minimal filtering F(4x4, 3x3) of arXiv 1509.09308.

The output of a convolution is cut into tiles of 4x4 pixels. Each is computed from a window of 6x6 pixels of its input:

    tile = A' [sum over channels of (G kernel G') * (B' window B)] A

where ' transposes and * multiplies number by number. Each pair of channels takes 36 multiplications a tile, not 144 as
by the definition of a convolution. The sums over channels are 36 matrix products. Gradients are computed with the same
three matrices, transposed. Transforms are compiled loops.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from lthcore.training.engines.compiled import cached

TILE, WINDOW = 4, 6  # pixels along a side
POINTS = WINDOW * WINDOW
TILES = 128  # tiles transformed at once: few enough for the cache, and enough for matrix products
LANES = 16  # channels of a window transformed at once
_G = torch.tensor([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24
OF_KERNELS = torch.kron(_G, _G)  # (36, 9): G kernel G' for kernels as columns of 9 numbers

_how = {"fastmath": {"reassoc", "contract", "nsz"}, "error_model": "numpy"}  # keeps nan and inf
_entry, _inlined = cached(**_how), cached(inline="always", **_how)
_2, _4, _5, _8 = (np.float32(number) for number in (2, 4, 5, 8))


def applies(module: nn.Conv2d, x: Tensor, padding: list[int]) -> bool:
    """Whether a convolution of images x (N, C, H, W) is possible here, and faster than by its definition."""
    simple = module.kernel_size == (3, 3) and module.stride == module.dilation == (1, 1) and module.groups == 1
    channels = module.in_channels % LANES == 0 and module.out_channels % LANES == 0
    wide = min(module.in_channels, module.out_channels) > 32  # else transforms take longer than they save
    height, width = _output(x, padding)
    saves = 0 < 2 * POINTS * _tiles(height, width) <= 9 * height * width
    return simple and channels and wide and saves


def convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, module: nn.Conv2d, padding: list[int], relu: bool = False
) -> Tensor:
    """Return the same as `onednn.convolve`, channels last. Products and sums are float32 in any dtype."""
    height, width = _output(x, padding)
    out = torch.empty((len(x), len(weight), height, width), dtype=x.dtype, memory_format=torch.channels_last)
    kernels = _transformed(weight)
    shift = (torch.zeros(len(weight)) if bias is None else bias.float()).numpy()
    for images, made in _in_parts(x, out):
        windows = _windows(images, padding, height, width)
        part = torch.empty(made.shape)
        write_tiles((windows @ kernels).numpy(), shift, relu, part.numpy())
        made.copy_(part)
    return out


def gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, module: nn.Conv2d, padding: list[int], of_images: bool = True
) -> tuple[Tensor | None, Tensor, Tensor | None]:
    """Return the same as `onednn.convolution_gradients`. Products and sums are float32 in any dtype."""
    out = torch.empty_like(x, memory_format=torch.channels_last)
    kernels = _transformed(weight).transpose(1, 2)
    of_kernels = torch.zeros((POINTS, *weight.shape[1::-1]))
    for images, made, of_output in _in_parts(x, out, gradient):
        _, height, width, channels = of_output.shape
        tiles = torch.empty((POINTS, len(of_output) * _tiles(height, width), channels))
        transform_gradients(of_output.float().numpy(), tiles.numpy())
        of_kernels.baddbmm_(_windows(images, padding, height, width).transpose(1, 2), tiles)
        if of_images:
            part = torch.zeros(made.shape)
            add_windows((tiles @ kernels).numpy(), *padding, height, width, part.numpy())
            made.copy_(part)
    of_weight = OF_KERNELS.T @ of_kernels.flatten(1)
    of_weight = of_weight.view(3, 3, *of_kernels.shape[1:]).permute(3, 2, 0, 1)
    of_bias = None if module.bias is None else gradient.float().sum((0, 2, 3))
    return out if of_images else None, of_weight, of_bias


def _transformed(weight: Tensor) -> Tensor:
    """Return G kernel G' for kernels (outputs, C, 3, 3), as (36, C, outputs)."""
    columns = weight.float().permute(2, 3, 1, 0).reshape(9, -1)
    return (OF_KERNELS @ columns).view(POINTS, *weight.shape[1::-1])


def _in_parts(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield views of images (N, C, H, W) as (n, H, W, C), as many at a time as have TILES tiles in the last tensor."""
    last = [tensor.permute(0, 2, 3, 1) for tensor in tensors]
    step = max(1, TILES // _tiles(*last[-1].shape[1:3]))
    for first in range(0, len(last[0]), step):
        yield tuple(tensor[first : first + step] for tensor in last)


def _output(x: Tensor, padding: list[int]) -> tuple[int, int]:
    """Return the height and the width of the output for images x (N, C, H, W)."""
    return x.shape[2] + 2 * padding[0] - 2, x.shape[3] + 2 * padding[1] - 2


def _tiles(height: int, width: int) -> int:
    """Return the number of tiles of an output of height x width pixels."""
    return -(-height // TILE) * -(-width // TILE)


def _windows(images: Tensor, padding: list[int], height: int, width: int) -> Tensor:
    """Return B' window B for the windows of an output of height x width pixels, as (36, windows, C)."""
    out = torch.empty((POINTS, len(images) * _tiles(height, width), images.shape[3]))
    transform_images(images.float().numpy(), *padding, height, width, out.numpy())
    return out


@_inlined
def _b_transposed(a, b, c, d, e, f):
    p, q, r, s = e - _4 * c, d - _4 * b, e - c, _2 * (d - b)
    return _4 * a - _5 * c + e, p + q, p - q, r + s, r - s, _4 * b - _5 * d + f


@_inlined
def _b(a, b, c, d, e, f):
    p, q, r, s = b - c, b + c, d - e, d + e
    return _4 * a, _4 * (f - p) - _2 * r, -_5 * a - _4 * q - s, p + _2 * r - _5 * f, a + q + s, f


@_inlined
def _a(a, b, c, d, e, f):  # e and f are outside of the tile
    p, q, r, s = a + c, b + d, a + _4 * c, _2 * b + _8 * d
    return a, p + q, p - q, r + s, r - s, d


@_inlined
def _a_transposed(a, b, c, d, e, f):  # the last two numbers are outside of the tile
    p, q, r, s = b + c, b - c, d + e, d - e
    return a + p + r, q + _2 * s, p + _4 * r, q + _8 * s + f, f, f


@_inlined
def _both_ways(of_six, z):
    """Apply a transform of six numbers to the columns and then to the rows of a window z (36 x LANES), in place."""
    _one_way(of_six, z, LANES, WINDOW * LANES)
    _one_way(of_six, z, WINDOW * LANES, LANES)


@_inlined
def _one_way(of_six, z, line, step):
    """Apply a transform of six numbers to six lines of a window; the numbers of a line are `step` apart."""
    for first in range(0, WINDOW * line, line):
        for i in range(first, first + LANES):
            z[i], z[i + step], z[i + 2 * step], z[i + 3 * step], z[i + 4 * step], z[i + 5 * step] = of_six(
                z[i], z[i + step], z[i + 2 * step], z[i + 3 * step], z[i + 4 * step], z[i + 5 * step]
            )


@_inlined
def _transform(of_six, x, top, left, down, across, out):
    """Write the transforms of windows of x (N, H, W, C) to `out` (36, windows, C). Pixels outside of x are 0.

    Each image has down x across windows, four pixels apart. `top` and `left` are the pixels before the first one.
    """
    z = np.empty(POINTS * LANES, np.float32)
    for window in range(out.shape[1]):
        n, i, j = window // (down * across), window // across % down, window % across
        for channel in range(0, x.shape[3], LANES):
            for point in range(POINTS):
                row, column = TILE * i - top + point // WINDOW, TILE * j - left + point % WINDOW
                inside = 0 <= row < x.shape[1] and 0 <= column < x.shape[2]
                for k in range(LANES):
                    z[point * LANES + k] = x[n, row, column, channel + k] if inside else 0
            _both_ways(of_six, z)
            for point in range(POINTS):
                for k in range(LANES):
                    out[point, window, channel + k] = z[point * LANES + k]


@_entry
def transform_images(x, top, left, height, width, out):
    """Write B' window B to `out` (36, windows, C) for the windows of padded images x (N, H, W, C)."""
    _transform(_b_transposed, x, top, left, -(-height // TILE), -(-width // TILE), out)


@_entry
def transform_gradients(gradient, out):
    """Write A tile A' to `out` (36, tiles, C) for the tiles of the gradient (N, H, W, C) of an output."""
    _transform(_a, gradient, 0, 0, -(-gradient.shape[1] // TILE), -(-gradient.shape[2] // TILE), out)


@_entry
def write_tiles(points, bias, rectified, out):
    """Write A' points A + bias to the tiles of `out` (N, H, W, C) for points (36, tiles, C), clipped if `rectified`."""
    z = np.empty(POINTS * LANES, np.float32)
    floor = np.float32(0 if rectified else -np.inf)
    down, across = -(-out.shape[1] // TILE), -(-out.shape[2] // TILE)
    for tile in range(points.shape[1]):
        n, top, left = tile // (down * across), TILE * (tile // across % down), TILE * (tile % across)
        for channel in range(0, out.shape[3], LANES):
            _read(points, tile, channel, z)
            _both_ways(_a_transposed, z)
            for i in range(min(TILE, out.shape[1] - top)):
                for j in range(min(TILE, out.shape[2] - left)):
                    for k in range(LANES):
                        value = z[(i * WINDOW + j) * LANES + k] + bias[channel + k]
                        out[n, top + i, left + j, channel + k] = max(value, floor)


@_entry
def add_windows(points, top, left, height, width, out):
    """Add B points B' to the windows of `out` (N, H, W, C) for points (36, windows, C): overlapping windows add up."""
    z = np.empty(POINTS * LANES, np.float32)
    down, across = -(-height // TILE), -(-width // TILE)
    for window in range(points.shape[1]):
        n, i, j = window // (down * across), window // across % down, window % across
        for channel in range(0, out.shape[3], LANES):
            _read(points, window, channel, z)
            _both_ways(_b, z)
            for point in range(POINTS):
                row, column = TILE * i - top + point // WINDOW, TILE * j - left + point % WINDOW
                if 0 <= row < out.shape[1] and 0 <= column < out.shape[2]:
                    for k in range(LANES):
                        out[n, row, column, channel + k] += z[point * LANES + k]


@_inlined
def _read(points, window, channel, z):
    """Copy LANES channels of a window of points (36, windows, C) to z."""
    for point in range(POINTS):
        for k in range(LANES):
            z[point * LANES + k] = points[point, window, channel + k]
