"""Operators as tiling problems: linear, matmul, convolution, attention in one pass, and attention by two products."""

from __future__ import annotations

from dataclasses import dataclass

from ...ir.errors import ScheduleError
from .problem import Axis, Dim, Operand, TilingProblem


@dataclass(frozen=True)
class Bits:
    """Bits per element: of activations, weights, results and incomplete sums."""

    activation: int = 8
    weight: int = 8
    output: int = 8
    partial: int = 32


INT8 = Bits()
ELEMENTS = Bits(8, 8, 8, 8)
"""Every element is one byte, as in the published bounds, which count elements."""


def linear(
    tokens: int, out: int, inner: int, *, bits: Bits = INT8, name: str = "linear", multiple: int = 1
) -> TilingProblem:
    """``y[tokens, out] = x[tokens, inner] W[out, inner]^T``; tiles of channels are multiples of ``multiple``."""
    return TilingProblem(
        name,
        (Dim("m", tokens), Dim("n", out, multiple), Dim("k", inner, multiple)),
        (
            Operand("x", (Axis("m", tokens), Axis("k", inner)), bits.activation),
            Operand("w", (Axis("n", out), Axis("k", inner)), bits.weight),
            Operand("y", (Axis("m", tokens), Axis("n", out)), bits.output, role="output", partial_bits=bits.partial),
        ),
        macs=tokens * out * inner,
        bound="product",
    )


def matmul(batch: int, m: int, n: int, k: int, *, bits: Bits = INT8, name: str = "matmul") -> TilingProblem:
    """``c[batch, m, n] = a[batch, m, k] b[batch, k, n]``, both factors activations."""
    return TilingProblem(
        name,
        (Dim("b", batch), Dim("m", m), Dim("n", n), Dim("k", k)),
        (
            Operand("a", (Axis("b", batch), Axis("m", m), Axis("k", k)), bits.activation),
            Operand("b", (Axis("b", batch), Axis("k", k), Axis("n", n)), bits.activation),
            Operand(
                "c",
                (Axis("b", batch), Axis("m", m), Axis("n", n)),
                bits.output,
                role="output",
                partial_bits=bits.partial,
            ),
        ),
        macs=batch * m * n * k,
        bound="product" if batch == 1 else "none",
    )


@dataclass(frozen=True)
class Conv:
    """Geometry of a convolution; padding in front of rows and columns, what is behind follows from the sizes.

    Attributes:
        height: rows of the input.
        width: columns of the input.
        channels_in: of the input.
        channels_out: of the output.
        kernel: rows and columns of the kernel.
        stride: along rows and columns.
        dilation: along rows and columns.
        pad: top and left.
        out: rows and columns of the output.
        groups: of channels.
    """

    height: int
    width: int
    channels_in: int
    channels_out: int
    kernel: tuple[int, int]
    out: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    pad: tuple[int, int] = (0, 0)
    groups: int = 1


def conv(shape: Conv, *, bits: Bits = INT8, name: str = "conv", multiple: int = 1) -> TilingProblem:
    """A convolution with tiles along rows, columns, groups and channels on both sides.

    The kernel is never cut: one position of it against one channel is a handful of bytes, so a tile of it saves
    nothing.

    Raises:
        ScheduleError: groups do not divide the channels.
    """
    if shape.channels_in % shape.groups or shape.channels_out % shape.groups:
        raise ScheduleError(
            f"{name}: expected channels that {shape.groups} groups divide, found {shape.channels_in} and "
            f"{shape.channels_out}; correct them"
        )
    inner, outer = shape.channels_in // shape.groups, shape.channels_out // shape.groups
    rows = Axis("oh", shape.height, shape.out[0], shape.stride[0], shape.kernel[0], shape.dilation[0], shape.pad[0])
    columns = Axis("ow", shape.width, shape.out[1], shape.stride[1], shape.kernel[1], shape.dilation[1], shape.pad[1])
    taps = shape.kernel[0] * shape.kernel[1]
    groups, into, out = Axis("g", shape.groups), Axis("ci", inner), Axis("co", outer)
    made = (groups, out, Axis("oh", shape.out[0]), Axis("ow", shape.out[1]))
    return TilingProblem(
        name,
        (
            Dim("g", shape.groups, multiple if inner == outer == 1 else 1),
            Dim("co", outer, multiple),
            Dim("ci", inner, multiple),
            Dim("oh", shape.out[0]),
            Dim("ow", shape.out[1]),
        ),
        (
            Operand("x", (groups, into, rows, columns), bits.activation),
            Operand("w", (groups, out, into), bits.weight, elements=taps),
            Operand("y", made, bits.output, role="output", partial_bits=bits.partial),
        ),
        macs=shape.groups * outer * inner * taps * shape.out[0] * shape.out[1],
        bound="product" if shape.groups == 1 else "none",
        window_reuse=max(1.0, taps / (shape.stride[0] * shape.stride[1])),
    )


def attention(
    heads: int,
    queries: int,
    keys: int,
    head_dim: int,
    *,
    value_dim: int | None = None,
    bits: Bits = INT8,
    name: str = "attention",
) -> TilingProblem:
    """Attention in one pass over the keys, with running maximum and sum per query (FlashAttention, arXiv 2205.14135).

    Scores exist only as a tile in fast memory. With the loop over queries outside, keys and values are read once per
    tile of queries; with the loop over keys outside, results, maxima and sums return once per tile of keys.
    """
    values = head_dim if value_dim is None else value_dim
    head, query, key = Axis("h", heads), Axis("q", queries), Axis("k", keys)
    return TilingProblem(
        name,
        (Dim("h", heads), Dim("q", queries), Dim("k", keys)),
        (
            Operand("query", (head, query), bits.activation, head_dim),
            Operand("key", (head, key), bits.activation, head_dim),
            Operand("value", (head, key), bits.activation, values),
            Operand("scores", (head, query, key), bits.partial, role="scratch"),
            Operand("out", (head, query), bits.output, values, "output", bits.partial),
            Operand("maximum and sum", (head, query), 0, 2, "output", bits.partial),
        ),
        macs=heads * queries * keys * (head_dim + values),
        bound="attention",
    )


def attention_by_products(
    heads: int, queries: int, keys: int, head_dim: int, *, bits: Bits = INT8
) -> tuple[TilingProblem, TilingProblem]:
    """Attention as two products with the scores in slow memory, cut along the head dimension too.

    Below ``head_dim ** 2`` elements of fast memory this moves fewer bytes than one pass (arXiv 2402.07443).
    """
    return (
        matmul(heads, queries, keys, head_dim, bits=bits, name="scores"),
        matmul(heads, queries, head_dim, keys, bits=bits, name="weighted values"),
    )
