"""Convolution kernels: what stands between the convolutions of a network, compiled by numba.

Activations are (rows, channels), a row for each pixel of each image: channels last, so that a channel's statistics and
its neighbours lie side by side. They are float32, or bfloat16 held as its 16 bits (uint16), which numba does not know:
`_up` and `_down` turn an element into a float32 and back. Sums are float32 over a block of rows, float64 over blocks.
Importing this needs numba. The kernels all stand in this one file because numba's cache looks at no other.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from lthcore.training.engines.compiled import cached

BLOCK = 64  # rows summed in float32, before they are added up in float64
_how = {"fastmath": {"reassoc", "contract", "nsz"}, "error_model": "numpy"}  # nan and inf are kept: divergence shows
_entry = cached(**_how)
_BITS, _HALF, _FLOAT = ir.IntType(32), ir.IntType(16), ir.FloatType()


@intrinsic
def _up(typing, element):
    """An element as float32."""

    def generate(context, builder, signature, arguments):
        (value,) = arguments
        if element == types.uint16:
            value = builder.bitcast(builder.shl(builder.zext(value, _BITS), _BITS(16)), _FLOAT)
        return value

    return types.float32(element), generate


@intrinsic
def _down(typing, value, like):
    """A float32 as an element like another: rounded to the nearest bfloat16, ties to even, if that is one."""

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
    """The largest of each 2x2 patch of x (N, H, W, C), and which of the four it is: the first of equals.

    x is rectified and given as integers, whose order is that of the numbers then.
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
    """The gradient of `pool` and of the rectifier before it: nothing where no value was above zero."""
    out[:, 2 * gradient.shape[1] :] = 0  # of images of an odd size
    out[:, :, 2 * gradient.shape[2] :] = 0
    for n in range(gradient.shape[0]):
        for i in range(gradient.shape[1]):
            for j in range(gradient.shape[2]):
                g, p, w = gradient[n, i, j], pooled[n, i, j], where[n, i, j]
                for place in range(4):
                    into = out[n, 2 * i + place // 2, 2 * j + place % 2]
                    for k in range(len(g)):
                        into[k] = g[k] if (p[k] > 0) & (w[k] == place) else 0


@_entry
def rectify_gradient(gradient, output):
    """Set a gradient to zero, in place, where a rectifier's output is not above zero. Both flat, as integers."""
    for i in range(len(gradient)):
        gradient[i] = gradient[i] if output[i] > 0 else 0


@_entry
def moments(x, total, squares):
    """Add up each column of x and its squares, in float64."""
    a, b = np.zeros(x.shape[1], np.float32), np.zeros(x.shape[1], np.float32)
    for first in range(0, len(x), BLOCK):
        a[:] = 0
        b[:] = 0
        for r in range(first, min(first + BLOCK, len(x))):
            row = x[r]
            for c in range(len(row)):
                value = _up(row[c])
                a[c] += value
                b[c] += value * value
        for c in range(len(a)):
            total[c] += a[c]
            squares[c] += b[c]


@_entry
def normalise(x, scale, shift, rectified, out):
    """out = x * scale + shift, column by column, and rectified if asked."""
    floor = np.float32(0 if rectified else -np.inf)
    for r in range(len(x)):
        row, into = x[r], out[r]
        for c in range(len(row)):
            value = _up(row[c]) * scale[c] + shift[c]
            into[c] = _down(floor if value < floor else value, row[c])


@_entry
def normalise_and_add(x, scale, shift, shortcut, out):
    """out = x * scale + shift + shortcut, rectified: the end of a residual block."""
    for r in range(len(x)):
        row, beside, into = x[r], shortcut[r], out[r]
        for c in range(len(row)):
            value = _up(row[c]) * scale[c] + shift[c] + _up(beside[c])
            into[c] = _down(np.float32(0) if value < 0 else value, row[c])


@_entry
def gradient_sums(gradient, output, gated, x, mean, total, products):
    """Add up each column of a gradient, and of its product with x - mean, in float64.

    `gated`: the gradient is first set to zero, in place, where `output`, a rectifier's, is not above zero.
    """
    a, b = np.zeros(x.shape[1], np.float32), np.zeros(x.shape[1], np.float32)
    for first in range(0, len(x), BLOCK):
        a[:] = 0
        b[:] = 0
        for r in range(first, min(first + BLOCK, len(x))):
            row, g, y = x[r], gradient[r], output[r]
            if gated:
                for c in range(len(row)):
                    g[c] = g[c] if _up(y[c]) > 0 else _down(np.float32(0), g[c])
            for c in range(len(row)):
                value = _up(g[c])
                a[c] += value
                b[c] += value * (_up(row[c]) - mean[c])
        for c in range(len(a)):
            total[c] += a[c]
            products[c] += b[c]


@_entry
def norm_gradient(gradient, x, a, b, c, out):
    """out = a * gradient + b * x + c, column by column: the gradient of a norm's input."""
    for r in range(len(x)):
        row, g, into = x[r], gradient[r], out[r]
        for k in range(len(row)):
            into[k] = _down(a[k] * _up(g[k]) + b[k] * _up(row[k]) + c[k], row[k])
