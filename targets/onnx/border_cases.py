"""What it takes to enter and to leave a run of integer convolutions, as cases to time: short chains as emitted.

A convolution in float, one between integers and another one in float, all of one tap, so that they say nothing about
the layers. What the runtime does between the first and the second is entering (rounding, and turning its own layout for
float convolutions into that for integer ones), what it does between the second and the third is leaving. Residual sums
are timed in longer chains: all that these do beside their convolutions, without what a chain in float does at its ends,
without entering and leaving, is what the sum takes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from ...ir.constants import ConstantHandle
from ...ir.context import Context
from ...ir.graph import Graph, Node
from ...ir.layers import CONV, Layer
from ...ir.options import Option
from ...ir.types import TensorType
from ...passes.static_runs import Border, Total, borders
from ..integer_runs import NO_RUNS, IntegerRuns, Sum, Value
from .cases import Case
from .options import OnnxOptions

SCALE, ZERO = 0.03, 128
FLOAT, INTEGER = "Conv|FusedConv", "QLinearConv"
AROUND = "QuantizeLinear|DequantizeLinear|Transpose|ReorderInput|ReorderOutput|Add|Relu|QLinearAdd"
"""What is beside convolutions."""


@dataclass(frozen=True)
class ShapeCases:
    """What is timed for values of one shape."""

    enter: Case
    leave: Case
    ends: Case
    beside: Case
    codes: Case

    @property
    def of_value(self) -> tuple[Case, ...]:
        """What a value needs."""
        return self.enter, self.leave

    @property
    def of_sum(self) -> tuple[Case, ...]:
        """What a sum needs."""
        return self.ends, self.beside, self.codes


@dataclass(frozen=True)
class BorderCases:
    """The borders and sums of a network, with what is timed for each."""

    values: tuple[tuple[Border, ShapeCases], ...] = ()
    sums: tuple[tuple[Total, ShapeCases], ...] = ()

    @property
    def cases(self) -> tuple[Case, ...]:
        """All that is timed."""
        values = (case for _, of in self.values for case in of.of_value)
        return (*values, *(case for _, of in self.sums for case in (*of.of_value, *of.of_sum)))


def border_cases(
    graph: Graph,
    layers: Sequence[Layer],
    options: Mapping[str, Sequence[Option]],
    sizes: Mapping[str, int],
    written: OnnxOptions,
) -> BorderCases:
    """The borders of all convolutions that may run between integers, with what is timed for each."""
    static = [
        layer for layer in layers if layer.kinds == {CONV} and any(o.activation.is_static for o in options[layer.name])
    ]
    if not static:
        return BorderCases()
    made: dict[tuple[int, ...], ShapeCases] = {}

    def of(value: Node) -> ShapeCases | None:
        shape = tuple(value.tensor_type.sizes(sizes))
        if len(shape) not in (3, 4, 5):
            return None
        if shape not in made:
            made[shape] = _cases(shape, written)
        return made[shape]

    found = borders(graph, static)
    values = ((border, cases) for border in found.values if (cases := of(border.stored)) is not None)
    sums = ((total, cases) for total in found.totals if (cases := of(total.stored)) is not None)
    return BorderCases(tuple(values), tuple(sums))


def runs_of(found: BorderCases, options: Mapping[str, Sequence[Option]], times: Mapping[str, float]) -> IntegerRuns:
    """What values and sums cost, by the times of their cases."""
    if not found.values:
        return NO_RUNS
    static = {n: frozenset(o.name for o in group if o.activation.is_static) for n, group in options.items()}
    names = {border.origin: border.name for border, _ in found.values}
    values = (
        Value(b.name, b.source, b.readers, b.floats, times[of.enter.key], times[of.leave.key]) for b, of in found.values
    )
    sums = (_sum(total, tuple(names[part] for part in total.parts if part in names), of, times)
            for total, of in found.sums)  # fmt: skip
    return IntegerRuns(tuple(values), tuple(sums), {name: kept for name, kept in static.items() if kept})


def _sum(total: Total, parts: tuple[str, ...], of: ShapeCases, times: Mapping[str, float]) -> Sum:
    around = times[of.ends.key] + times[of.enter.key] + times[of.leave.key]
    codes, beside = (max(0.0, times[case.key] - around) for case in (of.codes, of.beside))
    return Sum(total.name, parts, total.exact, codes, beside)


def _cases(shape: tuple[int, ...], options: OnnxOptions) -> ShapeCases:
    feeds = [torch.randn(shape, generator=torch.Generator().manual_seed(0))]
    at = "x".join(map(str, shape))
    run, graph = f"a run of integer convolutions at {at}", _Chain(shape).run()
    return ShapeCases(
        Case(f"entering {run}", graph, feeds, options, between=(FLOAT, INTEGER)),
        Case(f"leaving {run}", graph, feeds, options, between=(INTEGER, FLOAT)),
        Case(f"ends of a chain of convolutions at {at}", _Chain(shape).ends(), feeds, options, AROUND),
        Case(f"a sum in float beside {run}", _Chain(shape).beside(), feeds, options, AROUND),
        Case(f"a sum of codes in {run}", _Chain(shape).codes(), feeds, options, AROUND),
    )


class _Chain:
    """Convolutions of one tap, from as many channels to as many."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._context, self._rank, self._channels = Context(), len(shape) - 2, shape[1]
        self._x = self._context.input("x", TensorType(torch.float32, shape))
        self._first = self._float(self._x, "first")

    def run(self) -> Graph:
        """Float, integer, float."""
        made = self._integer(self._codes(self._first), "integers")
        return self._to(self._float(self._back(made), "last"))

    def ends(self) -> Graph:
        """All in float, with a sum, which is none of its own."""
        second = self._float(self._first, "second")
        total = self._context.node("aten.relu.default", self._context.node("aten.add.Tensor", second, self._first))
        return self._to(self._float(total, "last"))

    def beside(self) -> Graph:
        """Two in float and one between integers, behind which floats are added."""
        made = self._integer(self._codes(self._float(self._first, "second")), "integers")
        total = self._context.node("aten.add.Tensor", self._back(made), self._first)
        return self._to(self._float(self._context.node("aten.relu.default", total), "last"))

    def codes(self) -> Graph:
        """Two between integers, and a sum between them."""
        codes = self._codes(self._first)
        made = self._integer(codes, "integers")
        total = self._context.node("instar.add_int8", made, SCALE, ZERO, codes, SCALE, ZERO, SCALE, ZERO)
        return self._to(self._float(self._back(self._integer(total, "others")), "last"))

    def _to(self, output: Node) -> Graph:
        return self._context.graph([self._x], [output])

    def _float(self, x: Node, name: str) -> Node:
        taps = (self._channels, self._channels, *(1,) * self._rank)
        return self._context.node(f"aten.conv{self._rank}d", x, self._constant(name, torch.full(taps, 0.01)))

    def _codes(self, x: Node) -> Node:
        return self._context.node("instar.quantize_static", x, SCALE, ZERO)

    def _integer(self, codes: Node, name: str) -> Node:
        ones, zeros = (1,) * self._rank, (0,) * self._rank
        taps = torch.ones((self._channels, self._channels, *ones), dtype=torch.int8)
        weight = self._constant(name, taps)
        scale = self._constant(f"{name}_scale", torch.full((self._channels,), SCALE))
        return self._context.node(
            "instar.conv_int8", codes, SCALE, ZERO, weight, scale, None, SCALE, ZERO, ones, zeros, ones, 1
        )

    def _back(self, codes: Node) -> Node:
        return self._context.node("instar.dequantize_apart", codes, SCALE, ZERO, 1, self._channels)

    def _constant(self, name: str, value: torch.Tensor) -> Node:
        return self._context.constant_of(ConstantHandle.of(name, value, "derived"))
