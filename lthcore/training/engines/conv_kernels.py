"""Kernels for the operations between the convolutions of a network, compiled by numba.

Activations are (rows, channels) with one row per pixel of each image (or several pixels, see `images.rows_of`), so
that neighbouring channels are adjacent in memory, and so are their statistics. Elements are float32, or bfloat16 stored
as 16 bits (uint16) because numba has no bfloat16: `_up` and `_down` convert an element to float32 and back. Sums are
float32 within a block of rows and float64 over blocks. All kernels are in this one file because numba's cache checks no
other file for changes.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from lthcore.training.engines.compiled import cached

BLOCK = 64  # rows summed in float32 before the sum is added to a float64
_how = {"fastmath": {"reassoc", "contract", "nsz"}, "error_model": "numpy"}  # keeps nan and inf
_entry = cached(**_how)
_BITS, _HALF, _FLOAT = ir.IntType(32), ir.IntType(16), ir.FloatType()


@intrinsic
def _up(typing, element):
    """Return an element (a float32, or a bfloat16 as uint16) as float32."""

    def generate(context, builder, signature, arguments):
        (value,) = arguments
        if element == types.uint16:
            value = builder.bitcast(builder.shl(builder.zext(value, _BITS), _BITS(16)), _FLOAT)
        return value

    return types.float32(element), generate


@intrinsic
def _down(typing, value, like):
    """Return a float32 as an element of the type of `like`. A bfloat16 is rounded to nearest, ties to even."""

    def generate(context, builder, signature, arguments):
        value, _ = arguments
        if like == types.uint16:
            bits = builder.bitcast(value, _BITS)
            even = builder.and_(builder.lshr(bits, _BITS(16)), _BITS(1))
            bits = builder.add(bits, builder.add(even, _BITS(0x7FFF)))
            value = builder.trunc(builder.lshr(bits, _BITS(16)), _HALF)
        return value

    return like(types.float32, like), generate


@_entry
def pool(x, out, where):
    """Write the maximum of each 2x2 patch of x (N, H, W, C) to `out`, and its position in the patch to `where`.

    Positions are 0 to 3, the first one in a tie. x must be rectified and is passed as integers: the integers have the
    same order as the rectified numbers.
    """
    for n in range(out.shape[0]):
        for i in range(out.shape[1]):
            for j in range(out.shape[2]):
                a, b = x[n, 2 * i, 2 * j], x[n, 2 * i, 2 * j + 1]
                c, d = x[n, 2 * i + 1, 2 * j], x[n, 2 * i + 1, 2 * j + 1]
                best, index = out[n, i, j], where[n, i, j]
                for k in range(len(best)):
                    top, bottom = max(a[k], b[k]), max(c[k], d[k])
                    best[k] = max(top, bottom)
                    index[k] = np.uint8((b[k] > a[k]) if top >= bottom else (2 + (d[k] > c[k])))


@_entry
def unpool(gradient, pooled, where, out):
    """Write the gradient of the input of `pool` and of the rectifier before it to `out`.

    The gradient is zero for patches without a value above zero.
    """
    out[:, 2 * gradient.shape[1] :] = 0  # the last row, which is in no patch if the height is odd
    out[:, :, 2 * gradient.shape[2] :] = 0  # the last column, likewise
    for n in range(gradient.shape[0]):
        for i in range(gradient.shape[1]):
            for j in range(gradient.shape[2]):
                g, p, w = gradient[n, i, j], pooled[n, i, j], where[n, i, j]
                for place in range(4):
                    into = out[n, 2 * i + place // 2, 2 * j + place % 2]
                    for k in range(len(g)):
                        into[k] = g[k] * ((p[k] > 0) & (w[k] == place))  # no branch: AVX2 has none for 16 bits


@_entry
def rectify_gradient(gradient, output):
    """Set a gradient to zero, in place, where a rectifier's output is not above zero. Both are flat, as integers."""
    for i in range(len(gradient)):
        gradient[i] *= output[i] > 0  # no branch, as in `unpool`


@_entry
def moments(x, origin, total, squares):
    """Add the sum of x - origin in each column to `total` and the sum of its squares to `squares`, both float64."""
    a, b = np.zeros(x.shape[1], np.float32), np.zeros(x.shape[1], np.float32)
    for first in range(0, len(x), BLOCK):
        a[:] = 0
        b[:] = 0
        for r in range(first, min(first + BLOCK, len(x))):
            row = x[r]
            for c in range(len(row)):
                value = _up(row[c]) - origin[c]
                a[c] += value
                b[c] += value * value
        for c in range(len(a)):
            total[c] += a[c]
            squares[c] += b[c]


@_entry
def normalise(x, scale, shift, rectified, out):
    """Compute out = x * scale + shift column by column, then apply a rectifier if `rectified`."""
    floor = np.float32(0 if rectified else -np.inf)
    for r in range(len(x)):
        row, into = x[r], out[r]
        for c in range(len(row)):
            value = _up(row[c]) * scale[c] + shift[c]
            into[c] = _down(floor if value < floor else value, row[c])


@_entry
def normalise_and_add(x, scale, shift, shortcut, out):
    """Compute out = rectified(x * scale + shift + shortcut), the end of a residual block."""
    for r in range(len(x)):
        row, beside, into = x[r], shortcut[r], out[r]
        for c in range(len(row)):
            value = _up(row[c]) * scale[c] + shift[c] + _up(beside[c])
            into[c] = _down(np.float32(0) if value < 0 else value, row[c])


@_entry
def gradient_sums(gradient, x, mean, total, products):
    """Add the column sums of gradient to `total`, and those of gradient * (x - mean) to `products`, both float64."""
    a, b = np.zeros(x.shape[1], np.float32), np.zeros(x.shape[1], np.float32)
    for first in range(0, len(x), BLOCK):
        a[:] = 0
        b[:] = 0
        for r in range(first, min(first + BLOCK, len(x))):
            row, g = x[r], gradient[r]
            for c in range(len(row)):
                value = _up(g[c])
                a[c] += value
                b[c] += value * (_up(row[c]) - mean[c])
        for c in range(len(a)):
            total[c] += a[c]
            products[c] += b[c]


@_entry
def norm_gradient(gradient, x, a, b, c, out):
    """Compute out = a * gradient + b * x + c column by column: the gradient of the input of a norm."""
    for r in range(len(x)):
        row, g, into = x[r], gradient[r], out[r]
        for k in range(len(row)):
            into[k] = _down(a[k] * _up(g[k]) + b[k] * _up(row[k]) + c[k], row[k])
