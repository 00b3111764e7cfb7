"""The operators of a graph on real values, row by row: what the simulator computes with.

Every node is evaluated by the reference of its own op, on the rows that it needs; what is known to work within a row
never sees another. Constants are read from the bytes that lie on chip.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...ir.evaluate import evaluate_node
from ...ir.graph import Node
from ...schedulers.scratchpad.rows import RowMap, operand_maps
from .describe import Described
from .fusion import Fused
from .geometry import WHOLE
from .host import computed_before
from .integer_forms import LOOKUP
from .layouts import is_simple

Array = NDArray[np.int64]


@dataclass(frozen=True)
class Span:
    """Rows of a value that are at hand.

    Attributes:
        axis: of rows, counted from the last axis (negative).
        first: row that is the first at hand.
        count: how many are.
        total: rows of the whole value.
    """

    axis: int
    first: int
    count: int
    total: int


class GraphKernels:
    """Values of one run of a graph; see :class:`instar.schedulers.scratchpad.simulator.Kernels`."""

    def __init__(self, described: Described, inputs: Sequence[Tensor] | None) -> None:
        self.described = described
        self._given = {} if inputs is None else host_before(described, inputs)
        self._constants: dict[int, NDArray[np.uint8]] = {}
        self._weights: dict[int, tuple[bytes, dict[Node, Any]]] = {}
        self._wholes: dict[int, tuple[tuple[bytes, ...], Tensor]] = {}
        self._maps = [operand_maps(described.problem, operator) for operator in described.problem.operators]

    @classmethod
    def without_inputs(cls, described: Described) -> GraphKernels:
        """For its constants."""
        return cls(described, None)

    def inputs(self) -> dict[int, Array]:
        """What the accelerator is given."""
        stored, layouts = self.described.stored, self.described.layouts
        return {stored[node]: layouts[stored[node]].bits(value) for node, value in self._given.items()}

    def weights(self, operator: int) -> NDArray[np.uint8]:
        """The operator's constants one after the other, as they are stored."""
        if operator not in self._constants:
            constants = self.described.fused.operators[operator].constants
            parts = [constant_bytes(node.handle.tensor) for node in constants]
            self._constants[operator] = np.concatenate([*parts, np.zeros(0, np.uint8)])
        return self._constants[operator]

    def row(self, operator: int, row: int, operands: Sequence[tuple[int, Array]], weights: NDArray[np.uint8]) -> Array:
        """One row of the result."""
        op = self.described.fused.operators[operator]
        record = self.described.problem.operators[operator]
        layout = self.described.layouts[record.output]
        tensor = self.described.problem.tensors[record.output]
        values = dict(self._decoded(operator, op, weights))
        axis = tensor.row_axis
        apart = any(rows.step and rows.rows_in > 1 for rows in self._maps[operator].values())
        if record.kind.startswith(WHOLE) or axis is None or not apart:
            found = self._whole(operator, op, operands, values)
            kept = found if axis is None else found.narrow(layout.torch_axis(axis), row, 1)
            return layout.bits(kept)
        spans: dict[Node, Span] = {}
        self._operands(operator, op, operands, values, spans)
        result = _Row(op, self._maps[operator], self.described, layout.torch_axis(axis), row, tensor.rows)
        return layout.bits(result.evaluate(values, spans))

    def _operands(
        self,
        operator: int,
        op: Fused,
        operands: Sequence[tuple[int, Array]],
        values: dict[Node, Any],
        spans: dict[Node, Span],
    ) -> None:
        problem = self.described.problem
        for node, tensor, (first, bits) in zip(op.inputs, problem.operators[operator].inputs, operands, strict=True):
            layout, source = self.described.layouts[tensor], problem.tensors[tensor]
            values[node] = layout.value(bits)
            if source.row_axis is not None:
                axis = layout.torch_axis(source.row_axis)
                count = values[node].shape[axis]
                spans[node] = Span(axis - len(layout.shape), first, count, source.rows)

    def _whole(
        self, operator: int, op: Fused, operands: Sequence[tuple[int, Array]], values: dict[Node, Any]
    ) -> Tensor:
        """The whole result, computed again only if an operand or a constant is another."""
        key = (self._weights[operator][0], *(bits.tobytes() for _, bits in operands))
        known = self._wholes.get(operator)
        if known is not None and known[0] == key:
            return known[1]
        for node, tensor, (_, bits) in zip(
            op.inputs, self.described.problem.operators[operator].inputs, operands, strict=True
        ):
            values[node] = self.described.layouts[tensor].value(bits)
        for node in op.nodes:
            values[node] = evaluate_node(node, values, {})
        self._wholes[operator] = (key, values[op.result])
        return values[op.result]

    def _decoded(self, operator: int, op: Fused, weights: NDArray[np.uint8]) -> Mapping[Node, Any]:
        """Constants from bytes, and what is computed of constants alone."""
        data = weights.tobytes()
        known = self._weights.get(operator)
        if known is not None and known[0] == data:
            return known[1]
        values: dict[Node, Any] = {}
        start = 0
        for node in op.weights:
            if node.is_constant:
                size = node.handle.nbytes
                values[node] = _tensor_of(data[start : start + size], node)
                start += size
            else:
                values[node] = evaluate_node(node, values, {})
        self._weights[operator] = (data, values)
        return values


def constant_bytes(tensor: Tensor) -> NDArray[np.uint8]:
    """A constant as it lies in memory."""
    flat = tensor.detach().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy() if flat.numel() else np.zeros(0, np.uint8)


def _tensor_of(data: bytes, node: Node) -> Tensor:
    kind = node.tensor_type
    if not data:
        return torch.empty(kind.sizes(), dtype=kind.dtype)
    return torch.frombuffer(bytearray(data), dtype=kind.dtype).reshape(kind.sizes())


def host_before(described: Described, inputs: Sequence[Tensor]) -> dict[Node, Tensor]:
    """What the accelerator is given for the inputs of the graph."""
    values = computed_before(described.graph, described.fused.host.before, inputs)
    return {node: values[node] for node in described.fused.host.given}


def host_after(described: Described, delivered: Mapping[int, Array]) -> list[Any]:
    """The flat outputs of the graph from what the accelerator delivers."""
    values: dict[Node, Any] = {}
    for node in described.fused.delivered:
        place = described.stored[node]
        values[node] = described.layouts[place].value(delivered[place])
    for node in described.graph.nodes():
        if node.is_constant and node in described.graph.outputs:
            values[node] = node.handle.tensor
    for node in described.fused.host.after:
        values[node] = evaluate_node(node, values, {})
    return [values[o] if isinstance(o, Node) else o for o in described.graph.outputs]


class _Row:
    """One row of one operator."""

    def __init__(
        self, op: Fused, maps: Mapping[int, RowMap], described: Described, axis: int, row: int, rows: int
    ) -> None:
        self.op, self.maps, self.described, self.axis, self.row, self.rows = op, maps, described, axis, row, rows

    def evaluate(self, values: dict[Node, Any], spans: dict[Node, Span]) -> Tensor:
        """The row of the operator's result, all other axes whole."""
        for node in self.op.nodes:
            if node is self.op.anchor and not is_simple(node):
                values[node] = self._anchor(node, values, spans)
                spans[node] = self._own(node)
            elif node.op.name == "getitem" or not is_simple(node):
                values[node] = evaluate_node(node, values, {})
                spans[node] = self._own(node)
            else:
                self._simple(node, values, spans)
        return values[self.op.result]

    def _own(self, node: Node) -> Span:
        kind = node.type[0] if isinstance(node.type, tuple) else node.tensor_type
        return Span(self.axis - kind.rank, self.row, 1, self.rows)

    def _simple(self, node: Node, values: dict[Node, Any], spans: dict[Node, Span]) -> None:
        """Operands are cut to the rows that all of them have; broadcast ones are left as they are."""
        known = [spans[source] for source in node.inputs if source in spans]
        in_result = node is self.op.anchor or self.op.anchor in spans
        span = self._own(node) if in_result or not known else known[0]
        local = dict(values)
        broadcast = node.inputs[:1] if node.op.name == LOOKUP else node.inputs
        for source in broadcast:
            local[source] = _cut(values[source], spans.get(source), span)
        values[node] = evaluate_node(node, local, {})
        spans[node] = span

    def _anchor(self, node: Node, values: dict[Node, Any], spans: Mapping[Node, Span]) -> Any:
        source = node.inputs[0]
        rows = self.maps[self.described.stored[self._root(source)]]
        if rows.numerator != rows.denominator:
            return self._resized(node, values)
        if (rows.step and (rows.step, rows.extent, rows.top) != (1, 1, 0)) or _slides(node):
            return self._windowed(node, source, values, spans, rows)
        return evaluate_node(node, values, {})

    def _root(self, node: Node) -> Node:
        while node not in self.described.stored:
            node = node.inputs[0]
        return node

    def _windowed(
        self, node: Node, source: Node, values: Mapping[Node, Any], spans: Mapping[Node, Span], rows: RowMap
    ) -> Any:
        """The op on a piece of its input whose row ``place`` of the result is the wanted one.

        Where the window starts inside the image, rows that nobody reads are put in front, so many that the op's own
        padding and stride meet the window; edges of the piece are edges of the image only where it ends with it.
        """
        piece: Tensor = values[source]
        axis = piece.dim() + spans[source].axis if source in spans else self.axis
        start = self.row * rows.step - rows.top
        place, front = self.row, 0
        if start >= 0:
            place = -(-rows.top // rows.step)
            front = place * rows.step - rows.top
            first = spans[source].first if source in spans else 0
            piece = piece.narrow(axis, start - first, piece.shape[axis] - (start - first))
        if front:
            shape = list(piece.shape)
            shape[axis] = front
            piece = torch.cat([piece.new_zeros(shape), piece], axis)
        found = evaluate_node(node, {**values, source: piece.contiguous()}, {})
        results = found if isinstance(found, tuple) else (found,)
        taken = tuple(part.narrow(axis, place, 1).contiguous() for part in results)
        return taken if isinstance(found, tuple) else taken[0]

    def _resized(self, node: Node, values: Mapping[Node, Any]) -> Tensor:
        """Nearest neighbours along the other axis, by a factor that is whole."""
        piece: Tensor = values[node.inputs[0]]
        other = 3 if self.axis == 2 else 2
        factor = node.tensor_type.sizes()[other] // piece.shape[other]
        return piece.repeat_interleave(factor, other)


def _slides(node: Node) -> bool:
    return "conv" in node.op.name or "pool" in node.op.name


def _cut(value: Any, span: Span | None, wanted: Span) -> Any:
    """The wanted rows of an operand that has more of them; one without rows, or a single one, is broadcast."""
    if not isinstance(value, Tensor) or value.dim() < -wanted.axis or value.shape[wanted.axis] == 1:
        return value
    first = span.first if span is not None and span.axis == wanted.axis else 0
    if first == wanted.first and value.shape[wanted.axis] == wanted.count:
        return value
    return value.narrow(wanted.axis, wanted.first - first, wanted.count).contiguous()
