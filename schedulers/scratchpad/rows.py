"""Which rows of its inputs an operator needs for which rows of its output: the geometry of depth-first execution.

Both questions are asked about *prefixes*, because rows are made in order: how many rows of the input must exist before
the first ``r`` rows of the output can be computed, and which is the first row of the input that is still needed when
the first ``r`` rows of the output are done. Both answers never decrease with ``r``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .problem import Operator, Problem, Tensor, Window

Vector = NDArray[np.int64]

WINDOWED = frozenset({"conv_2d", "depthwise_conv_2d", "max_pool_2d", "average_pool_2d"})
"""Kinds that slide a window over height and width."""

POINTWISE = frozenset(
    {"add", "sub", "mul", "div", "maximum", "minimum", "relu", "relu6", "leaky_relu", "hard_swish", "gelu", "silu"}
    | {"logistic", "tanh", "exp", "sqrt", "rsqrt", "neg", "abs", "square", "quantize", "dequantize", "softmax"}
    | {"layer_norm", "rms_norm", "pointwise"}
)
"""Kinds whose result may overwrite an operand of the same size, row by row; softmax and norms work within a row."""

ROWWISE = POINTWISE | {"fully_connected", "mean", "sum", "concatenation"}
"""Kinds whose output row ``r`` depends on input row ``r`` alone wherever input and output have the same rows."""


@dataclass(frozen=True)
class RowMap:
    """Rows of an input that rows of the output need.

    Output row ``r`` reads the input rows ``r * numerator // denominator * step - top`` and the ``extent - 1`` after it.
    ``step = 0`` stands for an operator that needs all rows at once.

    Attributes:
        rows_in: rows of the input.
        rows_out: rows of the output.
        step: input rows from one output row to the next (after scaling).
        extent: input rows that one output row reads.
        top: rows of padding above the first.
        numerator: with ``denominator`` the scale of a resize.
        denominator: see ``numerator``.
    """

    rows_in: int
    rows_out: int
    step: int = 1
    extent: int = 1
    top: int = 0
    numerator: int = 1
    denominator: int = 1

    def needed(self, made: int) -> int:
        """Rows of the input, from its first, without which the first ``made`` rows cannot be computed."""
        if made <= 0:
            return 0
        if not self.step:
            return self.rows_in
        last = (made - 1) * self.numerator // self.denominator * self.step - self.top + self.extent
        return max(0, min(self.rows_in, last))

    def first(self, made: int) -> int:
        """First row of the input that rows after the first ``made`` still need; ``rows_in`` if there are none."""
        if made >= self.rows_out:
            return self.rows_in
        if not self.step:
            return 0
        start = made * self.numerator // self.denominator * self.step - self.top
        return max(0, min(self.rows_in, start))

    @property
    def same(self) -> bool:
        """Whether output row ``r`` needs exactly input row ``r``."""
        plain = self.step == 1 and self.extent == 1 and self.top == 0 and self.numerator == self.denominator
        return plain and self.rows_in == self.rows_out


@lru_cache(maxsize=65536)
def row_map(operator: Operator, source: Tensor, result: Tensor, place: int) -> RowMap:
    """How the rows of ``result`` depend on those of ``source``, the operand at ``place``.

    Whatever is not known to work row by row needs all rows, which is always right.
    """
    whole = whole_map(source.rows, result.rows)
    if source.rows == 1:
        return whole
    same_axis = source.row_axis == result.row_axis and len(source.shape) == len(result.shape)
    if operator.kind in WINDOWED and operator.window is not None:
        return _windowed(operator.window, source, result) if same_axis and len(source.shape) == 4 else whole
    if operator.kind in ROWWISE:
        return RowMap(source.rows, result.rows) if _row_by_row(operator, source, result) else whole
    if operator.kind == "batch_matmul":
        left_or_batch = place == 0 or (source.row_axis or 0) < len(source.shape) - 2
        aligned = same_axis and source.rows == result.rows and left_or_batch
        return RowMap(source.rows, result.rows) if aligned else whole
    if operator.kind == "resize_nearest_neighbor" and same_axis:
        return RowMap(source.rows, result.rows, numerator=source.rows, denominator=result.rows)
    if operator.kind in ("pad", "strided_slice") and same_axis and len(source.shape) == 4:
        return _shifted(operator, source, result)
    return whole


def _row_by_row(operator: Operator, source: Tensor, result: Tensor) -> bool:
    if source.rows != result.rows:
        return False
    if len(source.shape) == len(result.shape) and source.row_axis != result.row_axis:
        return False
    if operator.kind in ("mean", "sum") and len(source.shape) != len(result.shape):
        return False  # equal rows may be chance: the axis that is gone may be the one of the rows
    if operator.kind == "concatenation" and operator.axis is not None:
        return operator.axis % len(result.shape) != result.row_axis
    return True


def _windowed(window: Window, source: Tensor, result: Tensor) -> RowMap:
    return window_map(window, (source.row_axis or 1) - 1, source.rows, result.rows)


def window_map(window: Window, side: int, before: int, after: int) -> RowMap:
    """Of a window along height (side 0) or width (side 1), for so many rows or columns of operand and result."""
    step, extent = window.stride[side], (window.kernel[side] - 1) * window.dilation[side] + 1
    if window.pad == "valid":
        top = 0
    elif window.pad == "same":
        top = max((after - 1) * step + extent - before, 0) // 2
    else:
        top = window.pad[2 * side]
    return RowMap(before, after, step, extent, top)


def whole_map(before: int, after: int) -> RowMap:
    """Of what needs everything."""
    return RowMap(before, after, step=0)


def _shifted(operator: Operator, source: Tensor, result: Tensor) -> RowMap:
    """The amounts are not in the graph, so every shift that the shapes allow is covered."""
    shift = abs(source.rows - result.rows)
    if operator.kind == "pad":
        return RowMap(source.rows, result.rows, extent=shift + 1, top=shift)
    return RowMap(source.rows, result.rows, extent=max(shift, 1) + 1)


def operand_maps(problem: Problem, operator: Operator) -> dict[int, RowMap]:
    """Row map of every tensor that the operator reads; an operand that appears twice gets the wider of both."""
    result = problem.tensors[operator.output]
    maps: dict[int, RowMap] = {}
    for place, tensor in enumerate(operator.inputs):
        found = row_map(operator, problem.tensors[tensor], result, place)
        known = maps.get(tensor)
        if known is None or (not found.same and known.step):
            maps[tensor] = found
    return maps


def overwritable(problem: Problem, operator: Operator) -> tuple[int, ...]:
    """Operands that the result of a pointwise operator may overwrite, row by row, where nobody else needs them."""
    if operator.kind not in POINTWISE:
        return ()
    result = problem.tensors[operator.output]
    return tuple(
        tensor
        for tensor, rows in operand_maps(problem, operator).items()
        if problem.tensors[tensor].size_bytes == result.size_bytes and (rows.same or rows.rows_in == rows.rows_out == 1)
    )


def parts(problem: Problem, operator: Operator) -> tuple[int, ...]:
    """Operands that a concatenation may leave where they are: row by row, in no other place of a concatenation too."""
    if operator.kind != "concatenation":
        return ()
    maps = operand_maps(problem, operator)

    def joined(tensor: int) -> int:
        readers = (problem.operators[reader] for reader in problem.consumers[tensor])
        return sum(reader.inputs.count(tensor) for reader in readers if reader.kind == "concatenation")

    return tuple(
        tensor
        for tensor, rows in maps.items()
        if joined(tensor) == 1
        and problem.tensors[tensor].role == "activation"
        and (rows.same or rows.rows_in == rows.rows_out == 1)
    )


def all_there(problem: Problem, tensor: int, there: Sequence[int]) -> bool:
    """Whether parts that are off-chip leave nothing of their concatenation to be written: padded, they may be more."""
    tensors = problem.tensors
    return bool(there) and sum(tensors[part].size_bytes for part in there) >= tensors[tensor].size_bytes


def stripe_targets(
    problem: Problem, operators: Sequence[int], stripe: int, stripe_rows: int, made: Mapping[int, int]
) -> dict[int, int]:
    """Rows that each operator of a range has made after a stripe: what its readers in the range ask for.

    Args:
        problem: the network.
        operators: of the range, in order.
        stripe: counted from 1.
        stripe_rows: rows of the last operator per stripe.
        made: rows per operator before the stripe.
    """
    result = {operator: problem.operators[operator].output for operator in operators}
    maps = {operator: operand_maps(problem, problem.operators[operator]) for operator in operators}
    stripes = -(-problem.tensors[result[operators[-1]]].rows // stripe_rows)
    target: dict[int, int] = {}
    for operator in reversed(operators):
        rows = problem.tensors[result[operator]].rows
        readers = [reader for reader in target if result[operator] in maps[reader]]
        if operator == operators[-1]:
            wanted = min(rows, stripe * stripe_rows)
        elif readers:
            wanted = max(maps[reader][result[operator]].needed(target[reader]) for reader in readers)
        else:
            wanted = -(-rows * stripe // stripes)
        target[operator] = rows if stripe == stripes else max(wanted, made[operator])
    return target


def needed_rows(rows: RowMap, made: Vector) -> Vector:
    """:meth:`RowMap.needed` of a vector."""
    if not rows.step:
        return np.where(made > 0, rows.rows_in, 0)
    last = (made - 1) * rows.numerator // rows.denominator * rows.step - rows.top + rows.extent
    return np.where(made > 0, np.clip(last, 0, rows.rows_in), 0)


def first_rows(rows: RowMap, made: Vector) -> Vector:
    """:meth:`RowMap.first` of a vector."""
    if not rows.step:
        return np.where(made >= rows.rows_out, rows.rows_in, 0)
    start = made * rows.numerator // rows.denominator * rows.step - rows.top
    return np.where(made >= rows.rows_out, rows.rows_in, np.clip(start, 0, rows.rows_in))
