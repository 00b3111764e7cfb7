"""Integer reference kernels: small, deterministic, one per kind of operator, on whole tensors or on rows of them.

They stand in for the arithmetic of an accelerator: products are summed exactly and shifted back to the element width,
so that any order of execution must give the same bits. They do not model the scales of a quantized network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ...ir.errors import ScheduleError
from .problem import Operator, Problem, Tensor, Window
from .rows import RowMap, operand_maps

Array = NDArray[np.int64]

POINTS: dict[str, Callable[[Array, Array], Array]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: (a * b) >> 5,
    "maximum": np.maximum,
    "minimum": np.minimum,
}
"""Binary operators; a missing operand is a constant from the weights."""

SINGLE: dict[str, Callable[[Array], Array]] = {
    "relu": lambda a: np.maximum(a, 0),
    "relu6": lambda a: np.clip(a, 0, 96),
    "rsqrt": lambda a: 127 // (1 + np.sqrt(np.abs(a)).astype(np.int64)),
    "tanh": lambda a: a // 2,
    "logistic": lambda a: (a + 128) // 2,
}
"""Unary operators, element by element."""


def element_bytes(tensor: Tensor) -> int:
    """Bytes of one element; ``ScheduleError`` where they are unknown and the size is not that of the shape (padded)."""
    if tensor.item_bytes:
        return tensor.item_bytes
    elements = math.prod(tensor.shape)
    if not tensor.shape or elements * (tensor.size_bytes // max(elements, 1)) != tensor.size_bytes:
        raise ScheduleError(
            f"tensor {tensor.name!r}: expected a size of {elements} elements, found {tensor.size_bytes} bytes; "
            f"simulate the network without padding"
        )
    return tensor.size_bytes // elements


def weights_of(operator: Operator, seed: int) -> NDArray[np.uint8]:
    """The constants of an operator: bytes that depend on its name and the seed alone."""
    generator = np.random.default_rng([seed, *operator.name.encode()])
    return generator.integers(0, 256, operator.weight_bytes, dtype=np.uint8)


def compute(problem: Problem, operator: Operator, operands: Sequence[Array], weights: NDArray[np.uint8]) -> Array:
    """The whole result from whole operands, in the order of ``operator.inputs``."""
    result = problem.tensors[operator.output]
    maps = operand_maps(problem, operator)
    return saturate(_compute(operator, operands, weights, result.shape, maps), element_bytes(result))


def compute_row(
    problem: Problem, operator: Operator, row: int, operands: Sequence[tuple[int, Array]], weights: NDArray[np.uint8]
) -> Array:
    """Row ``row`` of the result, shape of the result with one row.

    Args:
        problem: the network.
        operator: what to compute.
        row: of the result.
        operands: per operand the index of its first row that is given, and those rows.
        weights: constants of the operator.
    """
    result = problem.tensors[operator.output]
    maps = operand_maps(problem, operator)
    axis = result.row_axis
    if axis is None or any(not maps[tensor].step and maps[tensor].rows_in > 1 for tensor in operator.inputs):
        whole = [array for _, array in operands]
        if any(rows.step and rows.rows_in > 1 for rows in maps.values()):
            whole = [_widen(problem, tensor, item, row) for tensor, item in zip(operator.inputs, operands, strict=True)]
        full = _compute(operator, whole, weights, result.shape, maps)
        return saturate(full if axis is None else np.take(full, [row], axis), element_bytes(result))
    shape = (*result.shape[:axis], 1, *result.shape[axis + 1 :])
    crops = [
        _crop(problem, operator, tensor, row, item) for tensor, item in zip(operator.inputs, operands, strict=True)
    ]
    return saturate(_compute(operator, crops, weights, shape, maps, cropped=True), element_bytes(result))


def saturate(values: Array, width: int) -> Array:
    """Values clipped to signed integers of so many bytes."""
    return np.clip(values, -(1 << (8 * width - 1)), (1 << (8 * width - 1)) - 1)


def _widen(problem: Problem, tensor: int, item: tuple[int, Array], row: int) -> Array:
    """Rows of a row-wise operand in an array of all rows; rows that are not given are zero and not used."""
    source = problem.tensors[tensor]
    first, rows = item
    if source.row_axis is None or rows.shape == source.shape:
        return rows
    full = np.zeros(source.shape, dtype=np.int64)
    place = [slice(None)] * len(source.shape)
    place[source.row_axis] = slice(first, first + rows.shape[source.row_axis])
    full[tuple(place)] = rows
    del row
    return full


def _crop(problem: Problem, operator: Operator, tensor: int, row: int, item: tuple[int, Array]) -> Array:
    """The rows that one row of the result reads, zeros where its window hangs over the edge."""
    source, rows = problem.tensors[tensor], operand_maps(problem, operator)[tensor]
    first, given = item
    if rows.rows_in == 1 or source.row_axis is None:
        return given
    start = row * rows.numerator // rows.denominator * rows.step - rows.top
    kept = [index for index in range(start, start + rows.extent) if 0 <= index < rows.rows_in]
    inside = np.take(given, [index - first for index in kept], source.row_axis)
    edge = [(0, 0)] * len(source.shape)
    edge[source.row_axis] = (max(-start, 0), rows.extent - len(kept) - max(-start, 0))
    fill = -128 if operator.kind == "max_pool_2d" else 0
    return np.pad(inside, edge, constant_values=fill)


def _compute(
    operator: Operator,
    operands: Sequence[Array],
    weights: NDArray[np.uint8],
    shape: tuple[int, ...],
    maps: dict[int, RowMap],
    *,
    cropped: bool = False,
) -> Array:
    kind = operator.kind
    first = operands[0]
    if kind in POINTS:
        second = operands[1] if len(operands) > 1 else _constants(weights, 1)[0]
        return POINTS[kind](first, np.asarray(second))
    if kind in SINGLE:
        return SINGLE[kind](first)
    if kind == "concatenation":
        return np.concatenate(list(operands), axis=-1 if operator.axis is None else operator.axis)
    if operator.window is not None:
        return _windowed(operator, operator.window, first, weights, shape, maps[operator.inputs[0]], cropped=cropped)
    if kind == "fully_connected":
        return _dense(first, weights, shape)
    if kind == "batch_matmul":
        return _matmul(first, operands[1], shape)
    if kind == "softmax":
        falling = 128 >> np.minimum((first.max(-1, keepdims=True) - first) >> 3, 7)
        return falling * 127 // falling.sum(-1, keepdims=True)
    if kind == "mean":
        return _mean(first, shape)
    if kind == "transpose":
        return first.reshape(shape[0], shape[2], shape[1], shape[3]).transpose(0, 2, 1, 3)
    if kind in ("resize_nearest_neighbor", "pad", "strided_slice"):
        return _moved(kind, first, shape, maps[operator.inputs[0]], cropped=cropped)
    raise ScheduleError(
        f"operator {operator.name!r}: expected a kind with a reference kernel, found {kind!r}; it cannot be simulated"
    )


def _mean(source: Array, shape: tuple[int, ...]) -> Array:
    """Mean along the channels, along everything else, or of all, whatever gives the shape; rounded down."""
    made, channels = math.prod(shape), source.shape[-1]
    if made * channels == source.size:
        axes: tuple[int, ...] = (source.ndim - 1,)
    else:
        axes = tuple(range(source.ndim - 1 if made == channels else source.ndim))
    count = math.prod(source.shape[axis] for axis in axes)
    return (source.sum(axis=axes) // max(count, 1)).reshape(shape)


def _constants(weights: NDArray[np.uint8], count: int) -> Array:
    return np.resize(weights.view(np.int8), count).astype(np.int64) if weights.size else np.ones(count, np.int64)


def _factors(weights: NDArray[np.uint8], terms: int, channels: int) -> Array:
    """[terms, channels]; a channel's own bytes lie together where they can be divided so, repeated as far as needed."""
    if not weights.size or weights.size % channels:
        return _constants(weights, terms * channels).reshape(terms, channels)
    blocks = weights.view(np.int8).reshape(channels, -1).astype(np.int64)
    return blocks[:, np.arange(terms) % blocks.shape[1]].T


def _shift(terms: int) -> int:
    """Bits by which a sum of products is shifted back: their usual size grows with the root of their number."""
    return 6 + max(terms, 1).bit_length() // 2


def _dense(source: Array, weights: NDArray[np.uint8], shape: tuple[int, ...]) -> Array:
    positions = math.prod(shape[:-1])
    values = source.reshape(positions, -1)
    matrix = _factors(weights, values.shape[1], shape[-1])
    return (_product(values, matrix) >> _shift(values.shape[1])).reshape(shape)


def _product(left: Array, right: Array) -> Array:
    """Matrix product, exact: sums of int8 products stay far below 2^53."""
    return np.matmul(left.astype(np.float64), right.astype(np.float64)).astype(np.int64)


def _matmul(left: Array, right: Array, shape: tuple[int, ...]) -> Array:
    plain = left.shape[-1] == right.shape[-2] and right.shape[-1] == shape[-1]
    other = right if plain else np.swapaxes(right, -1, -2)
    return (_product(left, other) >> _shift(left.shape[-1])).reshape(shape)


def _moved(kind: str, source: Array, shape: tuple[int, ...], rows: RowMap, *, cropped: bool) -> Array:
    """Operators that only move elements: nearest ones; zeros below and right; what is cut is above and left.

    The amounts of padding and slicing are not in the graph, so they are taken from the shapes.
    """
    if kind == "resize_nearest_neighbor":
        down = np.zeros(1, np.int64) if cropped else np.arange(shape[1]) * source.shape[1] // shape[1]
        return source[:, down][:, :, np.arange(shape[2]) * source.shape[2] // shape[2]]
    if kind == "pad":
        taken = source[:, -1:] if cropped else source
        more = (0, 0 if cropped else shape[1] - source.shape[1])
        return np.pad(taken, ((0, 0), more, (0, shape[2] - source.shape[2]), (0, 0)))
    down = rows.extent - 1
    right = max(source.shape[2] - shape[2], 1)
    wide = np.pad(source, ((0, 0), (0, 0 if cropped else down), (0, right), (0, 0)))
    return wide[:, down : down + shape[1], right : right + shape[2]]


def _windowed(
    operator: Operator,
    window: Window,
    source: Array,
    weights: NDArray[np.uint8],
    shape: tuple[int, ...],
    rows: RowMap,
    *,
    cropped: bool,
) -> Array:
    """Convolution or pooling over an image; ``cropped`` ones are padded above and below already."""
    extent = [(k - 1) * d + 1 for k, d in zip(window.kernel, window.dilation, strict=True)]
    fill = -128 if operator.kind == "max_pool_2d" else 0
    edges = [_edges(window, extent, side, source.shape[1 + side], shape[1 + side]) for side in (0, 1)]
    above = (0, 0) if cropped else edges[0]
    image = np.pad(source, ((0, 0), above, edges[1], (0, 0)), constant_values=fill)
    taps = [
        image[
            :,
            y * window.dilation[0] : y * window.dilation[0] + (shape[1] - 1) * window.stride[0] + 1 : window.stride[0],
            x * window.dilation[1] : x * window.dilation[1] + (shape[2] - 1) * window.stride[1] + 1 : window.stride[1],
        ]
        for y in range(window.kernel[0])
        for x in range(window.kernel[1])
    ]
    del rows
    if operator.kind == "max_pool_2d":
        return np.maximum.reduce(taps)
    if operator.kind == "average_pool_2d":
        return np.add.reduce(taps) // len(taps)
    if operator.kind == "depthwise_conv_2d":
        factors = _factors(weights, len(taps), shape[3])
        repeat = shape[3] // source.shape[3]
        summed = sum(np.repeat(tap, repeat, axis=3) * factor for tap, factor in zip(taps, factors, strict=True))
        return np.asarray(summed) >> _shift(len(taps))
    matrix = _factors(weights, len(taps) * source.shape[3], shape[3])
    stacked = np.concatenate(taps, axis=3)
    return _product(stacked, matrix) >> _shift(matrix.shape[0])


def _edges(window: Window, extent: Sequence[int], side: int, size: int, made: int) -> tuple[int, int]:
    """Padding before and after along one side, as much as the result needs."""
    needed = max((made - 1) * window.stride[side] + extent[side] - size, 0)
    if window.pad == "valid":
        before = 0
    elif window.pad == "same":
        before = needed // 2
    else:
        before = window.pad[2 * side]
    return before, max(needed - before, 0)
