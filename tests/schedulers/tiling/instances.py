"""Small operators for property tests."""

from __future__ import annotations

import math

from hypothesis import strategies as st

from instar.schedulers.tiling.operators import Bits, Conv, attention, conv, linear, matmul
from instar.schedulers.tiling.problem import Limits, TilingProblem

MIXED = Bits(activation=8, weight=4, output=8, partial=32)


@st.composite
def convolutions(draw: st.DrawFn) -> Conv:
    groups, kernel = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    stride, dilation, pad = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.integers(0, 1))
    height, width = draw(st.integers(3, 6)), draw(st.integers(3, 6))
    span = (kernel - 1) * dilation + 1
    out = tuple(max(1, (size + 2 * pad - span) // stride + 1) for size in (height, width))
    into, outof = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    square = ((kernel, kernel), out, (stride, stride), (dilation, dilation), (pad, pad))
    return Conv(height, width, into, outof, square[0], (out[0], out[1]), square[2], square[3], square[4], groups)


@st.composite
def problems(draw: st.DrawFn) -> TilingProblem:
    kind = draw(st.sampled_from(["linear", "matmul", "attention", "conv"]))
    bits = draw(st.sampled_from([Bits(), MIXED]))
    extents = [draw(st.integers(1, 6)) for _ in range(3)]
    if kind == "linear":
        return linear(extents[0], extents[1], extents[2], bits=bits, multiple=draw(st.integers(1, 2)))
    if kind == "matmul":
        m, n, k = (min(extent, 4) for extent in extents)
        return matmul(draw(st.integers(1, 2)), m, n, k, bits=bits)
    if kind == "attention":
        return attention(draw(st.integers(1, 2)), extents[0], extents[1], draw(st.integers(1, 3)), bits=bits)
    return conv(draw(convolutions()), bits=bits)


@st.composite
def limited(draw: st.DrawFn) -> tuple[TilingProblem, Limits]:
    problem = draw(problems().filter(lambda problem: math.prod(problem.extents) <= 150))
    return problem, Limits(draw(st.integers(5, 200)), draw(st.sampled_from([1, 4])), draw(st.integers(1, 2)))
