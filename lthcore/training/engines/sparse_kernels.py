"""Kernels of sparse training, compiled by numba.

Activations and gradients have shape (tiles, nodes, LANES): the values of a node for LANES images are a row, contiguous
in memory, and a weight costs one multiply-add of two rows. The three loops over weights are written in LLVM's
intermediate representation. LLVM's vectoriser cannot know that rows do not overlap, and the loops are much faster if
rows are kept in registers. All kernels are in this one file because numba's cache checks no other file for changes.
"""

from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from lthcore.training.engines.compiled import cached

LANES = 64  # four vectors of 16 floats: a row takes 4 of the widest registers, 8 or 16 of narrower ones
LINE = 16  # floats in a cache line
ROUNDING = ("reassoc", "contract", "nsz")  # sums may be reordered; nan and inf are kept, so that divergence shows
_how = {"fastmath": set(ROUNDING), "error_model": "numpy"}
# Functions called from Python are cached, and the functions that they call are inlined. Without inlining, a freshly
# compiled caller would use a copy of them that is compiled separately, and a caller from the cache a copy that is
# compiled with it. The two copies round differently.
_entry, _compiled = cached(**_how), njit(forceinline=True, **_how)
_ROW = ir.VectorType(ir.FloatType(), LANES)


class Graph(NamedTuple):
    """A chain of dense layers as one sparse graph: its nodes are the inputs, and then the units of each layer in order.

    Weight k starts at node `source[k]`, and the incoming weights of unit r are `first[r]` to `first[r + 1]`
    (exclusive). `inputs` and `classes` are numbers of nodes, and `used` are the inputs that are sources of weights.
    """

    used: np.ndarray
    inputs: int
    classes: int
    source: np.ndarray
    first: np.ndarray


class Rule(NamedTuple):
    """Update rule: Adam if `momentum` is negative, or AdamW if `decoupled`; otherwise SGD with this momentum."""

    momentum: float
    weight_decay: float
    decoupled: bool


def _data(context, builder, signature, arguments, i):
    return context.make_array(signature.args[i])(context, builder, arguments[i]).data


def _row(builder, rows, index):
    """Return a pointer to row `index` as one vector."""
    return builder.bitcast(builder.gep(rows, [builder.mul(index, index.type(LANES))]), _ROW.as_pointer())


def _everywhere(builder, scalar):
    first = builder.insert_element(_ROW(ir.Undefined), scalar, ir.IntType(32)(0))
    return builder.shuffle_vector(first, _ROW(ir.Undefined), ir.VectorType(ir.IntType(32), LANES)([0] * LANES))


def _times_plus(builder, a, b, c):
    return builder.fadd(builder.fmul(a, b, flags=ROUNDING), c, flags=ROUNDING)


def _sources(builder, source, begin, end):
    """Loop over the weights from `begin` to `end`; yield the index of each weight and its source node."""
    with cgutils.for_range(builder, builder.sub(end, begin)) as loop:
        k = builder.add(begin, loop.index)
        yield k, builder.zext(builder.load(builder.gep(source, [k])), ir.IntType(64))


@intrinsic
def _gather(typing, rows, unit, source, values, begin, end):
    """Add the sum of values[k] * rows[source[k]] over k from `begin` to `end` to rows[unit]."""

    def generate(context, builder, signature, arguments):
        rows, source, values = (_data(context, builder, signature, arguments, i) for i in (0, 2, 3))
        out = _row(builder, rows, arguments[1])
        total = cgutils.alloca_once_value(builder, builder.load(out, align=4))
        for k, node in _sources(builder, source, *arguments[4:]):
            value = _everywhere(builder, builder.load(builder.gep(values, [k])))
            row = builder.load(_row(builder, rows, node), align=4)
            builder.store(_times_plus(builder, value, row, builder.load(total)), total)
        builder.store(builder.load(total), out, align=4)
        return context.get_dummy_value()

    return types.void(rows, types.int64, source, values, types.int64, types.int64), generate


@intrinsic
def _dot(typing, rows, gradients, unit, source, d_values, begin, end):
    """Add the dot product of rows[source[k]] and gradients[unit] to d_values[k], for k from `begin` to `end`."""

    def generate(context, builder, signature, arguments):
        rows, gradients, source, d_values = (_data(context, builder, signature, arguments, i) for i in (0, 1, 3, 4))
        gradient = builder.load(_row(builder, gradients, arguments[2]), align=4)
        kind = ir.FunctionType(ir.FloatType(), [ir.FloatType(), _ROW])
        reduce = cgutils.get_or_insert_function(builder.module, kind, f"llvm.vector.reduce.fadd.v{LANES}f32")
        for k, node in _sources(builder, source, *arguments[5:]):
            product = builder.fmul(gradient, builder.load(_row(builder, rows, node), align=4), flags=ROUNDING)
            place = builder.gep(d_values, [k])
            builder.store(builder.call(reduce, [builder.load(place), product], fastmath=ROUNDING), place)
        return context.get_dummy_value()

    return types.void(rows, gradients, types.int64, source, d_values, types.int64, types.int64), generate


@intrinsic
def _scatter(typing, rows, unit, source, values, begin, end):
    """Add values[k] * rows[unit] to rows[source[k]], for k from `begin` to `end`."""

    def generate(context, builder, signature, arguments):
        rows, source, values = (_data(context, builder, signature, arguments, i) for i in (0, 2, 3))
        row = builder.load(_row(builder, rows, arguments[1]), align=4)
        for k, node in _sources(builder, source, *arguments[4:]):
            value, out = _everywhere(builder, builder.load(builder.gep(values, [k]))), _row(builder, rows, node)
            builder.store(_times_plus(builder, value, row, builder.load(out, align=4)), out, align=4)
        return context.get_dummy_value()

    return types.void(rows, types.int64, source, values, types.int64, types.int64), generate


@_entry
def train(images, labels, batches, rates, graph, parameters, moments, done, rule, smoothing):
    """Take a step on each of the batches (steps, batch) of image indices; change parameters and moments in place.

    `parameters` are the values of the weights and the biases, `moments` the two moments of both; `done` is the number
    of steps taken before.
    """
    values, bias = parameters
    (m, m_bias), (v, v_bias) = moments
    nodes, batch = graph.inputs + len(graph.first) - 1, batches.shape[1]
    tiles = (batch + LANES - 1) // LANES
    activations, gradients = _rows(tiles * nodes), _rows(tiles * nodes)
    activations, gradients = activations.reshape(tiles, nodes, LANES), gradients.reshape(tiles, nodes, LANES)
    d_values, d_bias = np.zeros_like(values), np.zeros_like(bias)
    for step in range(len(batches)):
        d_values[:] = 0
        d_bias[:] = 0
        for t in range(tiles):
            index = batches[step, t * LANES : (t + 1) * LANES]
            _load(images, index, graph.used, activations[t])
            _forward(graph, values, bias, activations[t])
            _loss_gradient(activations[t], labels, index, graph.classes, batch, smoothing, gradients[t])
            _backward(graph, values, activations[t], gradients[t], d_values, d_bias)
        if rule.momentum >= 0:
            _sgd(values, d_values, m, rates[step], rule)
            _sgd(bias, d_bias, m_bias, rates[step], rule)
        else:
            _adam(values, d_values, m, v, rates[step], done + step + 1, rule)
            _adam(bias, d_bias, m_bias, v_bias, rates[step], done + step + 1, rule)


@_entry
def evaluate(images, labels, graph, parameters):
    """Return the summed cross-entropy (nats) and the number of correct predictions."""
    values, bias = parameters
    nodes, classes, n = graph.inputs + len(graph.first) - 1, graph.classes, len(labels)
    activations = _rows(nodes)
    logits = activations[nodes - classes :]
    loss, correct = 0.0, 0
    for start in range(0, n, LANES):
        index = np.arange(start, min(start + LANES, n))
        _load(images, index, graph.used, activations)
        _forward(graph, values, bias, activations)
        for b in range(len(index)):
            best, label = 0, labels[index[b]]
            for c in range(1, classes):
                if logits[c, b] > logits[best, b]:
                    best = c
            total = 0.0
            for c in range(classes):
                total += np.exp(logits[c, b] - logits[best, b])
            loss += np.log(total) + logits[best, b] - logits[label, b]
            correct += best == label
    return loss, correct


@_compiled
def _rows(n):
    """Return zeros (n, LANES), aligned to a cache line.

    A vector that extends over two cache lines is read at half the speed.
    """
    flat = np.zeros((n + 1) * LANES, np.float32)
    skipped = (-flat.ctypes.data // 4) % 16
    return flat[skipped : skipped + n * LANES].reshape(n, LANES)


@_compiled
def _load(images, index, used, activations):
    """Copy the pixels `used`, which are the sources of weights, from the images to rows of the activations.

    For each pixel, one cache line (LINE images) is written at a time: image by image, every image would go through the
    lines of all pixels again. Indices are unsigned, which avoids the check for negative ones.
    """
    flat, begin = images.reshape(-1), index.astype(np.uint64) * np.uint64(images.shape[1])
    for start in range(0, len(index), LINE):
        images_of_line = begin[start : start + LINE]
        for i in used:
            row, pixel = activations[i][start : start + len(images_of_line)], np.uint64(i)
            for b in range(len(row)):
                row[b] = flat[images_of_line[b] + pixel]


@_compiled
def _forward(graph, values, bias, activations):
    """Compute the activations of all units, in order.

    Each is the bias plus the sum of weights times their source rows, clipped at 0 except in the output layer.
    """
    inputs, first = graph.inputs, graph.first
    units = len(first) - 1
    for r in range(units):
        out = activations[inputs + r]
        out[:] = bias[r]
        _gather(activations, inputs + r, graph.source, values, first[r], first[r + 1])
        if r < units - graph.classes:
            for b in range(LANES):
                if out[b] < 0:  # nan stays nan
                    out[b] = 0


@_compiled
def _loss_gradient(activations, labels, index, classes, batch, smoothing, gradients):
    """Compute the gradient of the mean cross-entropy with label smoothing: (softmax - target) / batch.

    Lanes without an image get 0.
    """
    logits, out = activations[len(activations) - classes :], gradients[len(gradients) - classes :]
    out[:] = 0
    for b in range(len(index)):
        top = logits[0, b]
        for c in range(1, classes):
            top = max(top, logits[c, b])
        total = np.float32(0)
        for c in range(classes):
            out[c, b] = np.exp(logits[c, b] - top)
            total += out[c, b]
        for c in range(classes):
            target = smoothing / classes + (1 - smoothing) * (c == labels[index[b]])
            out[c, b] = (out[c, b] / total - target) / batch


@_compiled
def _backward(graph, values, activations, gradients, d_values, d_bias):
    """Compute all gradients, in reverse order of units, so that the gradient of each activation is complete in time."""
    inputs, source, first = graph.inputs, graph.source, graph.first
    units = len(first) - 1
    gradients[inputs : inputs + units - graph.classes] = 0
    for r in range(units - 1, -1, -1):
        out, active = gradients[inputs + r], activations[inputs + r]
        total = np.float32(0)
        for b in range(LANES):
            if r < units - graph.classes and active[b] <= 0:
                out[b] = 0
            total += out[b]
        d_bias[r] += total
        _dot(activations, gradients, inputs + r, source, d_values, first[r], first[r + 1])
        if first[r] < first[r + 1] and source[first[r]] >= inputs:  # inputs need no gradient
            _scatter(gradients, inputs + r, source, values, first[r], first[r + 1])


@_compiled
def _adam(w, gradient, m, v, rate, step, rule):
    """Take a step of torch.optim.Adam or AdamW with the default betas (0.9, 0.999) and eps 1e-8."""
    b1, b2, eps = np.float32(0.9), np.float32(0.999), np.float32(1e-8)
    c1, c2 = np.float32(1 - 0.9), np.float32(1 - 0.999)
    size = np.float32(rate / (1 - 0.9**step))
    root = np.float32(np.sqrt(1 - 0.999**step))
    keep = np.float32(1 - rate * rule.weight_decay) if rule.decoupled else np.float32(1)
    decay = np.float32(0) if rule.decoupled else np.float32(rule.weight_decay)
    for k in range(len(w)):
        g = gradient[k] + decay * w[k]
        m[k] = b1 * m[k] + c1 * g
        v[k] = b2 * v[k] + c2 * g * g
        w[k] = keep * w[k] - size * m[k] / (np.sqrt(v[k]) / root + eps)


@_compiled
def _sgd(w, gradient, velocity, rate, rule):
    """Take a step of torch.optim.SGD with momentum."""
    rate, momentum, weight_decay = np.float32(rate), np.float32(rule.momentum), np.float32(rule.weight_decay)
    for k in range(len(w)):
        velocity[k] = momentum * velocity[k] + gradient[k] + weight_decay * w[k]
        w[k] -= rate * velocity[k]
