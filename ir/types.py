"""Tensor types: a dtype and a shape whose dimensions are integers or expressions over named symbols."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import sympy
import torch

from .errors import ParseError
from .expressions import (
    Dim,
    dim_text,
    evaluate_dim,
    evaluate_expression,
    free_symbols,
    normalize_dim,
    parse_dim,
    symbol,
)

__all__ = [
    "DTYPES",
    "DTYPE_NAMES",
    "UNBOUNDED",
    "Dim",
    "DimRange",
    "TensorType",
    "dim_text",
    "evaluate_dim",
    "evaluate_expression",
    "free_symbols",
    "normalize_dim",
    "parse_dim",
    "parse_type",
    "split_top_level",
    "symbol",
]

DTYPE_NAMES: dict[torch.dtype, str] = {
    torch.float64: "f64",
    torch.float32: "f32",
    torch.float16: "f16",
    torch.bfloat16: "bf16",
    torch.float8_e4m3fn: "f8e4m3",
    torch.float8_e5m2: "f8e5m2",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.int16: "i16",
    torch.int8: "i8",
    torch.uint8: "u8",
    torch.uint16: "u16",
    torch.uint32: "u32",
    torch.uint64: "u64",
    torch.bool: "bool",
    torch.complex64: "c64",
    torch.complex128: "c128",
}
DTYPES: dict[str, torch.dtype] = {name: dtype for dtype, name in DTYPE_NAMES.items()}

UNBOUNDED = 2**31 - 1
"""Largest value of a dimension whose maximum was not given."""

SMALL_INTEGERS = (
    torch.int8,
    torch.uint8,
    torch.int16,
    torch.uint16,
    torch.uint32,
    torch.uint64,
)
"""Dtypes for which runtimes lack kernels of many operators, so that a translation says little."""


@dataclass(frozen=True)
class DimRange:
    """A named dynamic dimension and the inclusive range of values it may take."""

    name: str
    minimum: int = 1
    maximum: int = UNBOUNDED

    @property
    def symbol(self) -> sympy.Symbol:
        """The sympy symbol that stands for this dimension in shapes."""
        return symbol(self.name)


@dataclass(frozen=True)
class TensorType:
    """The dtype and shape of one tensor value."""

    dtype: torch.dtype
    shape: tuple[Dim, ...]

    def __str__(self) -> str:
        return f"{DTYPE_NAMES[self.dtype]}[{', '.join(dim_text(d) for d in self.shape)}]"

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def is_static(self) -> bool:
        """Whether every dimension is a plain integer."""
        return all(isinstance(d, int) for d in self.shape)

    def sizes(self, values: Mapping[str, int] | None = None) -> tuple[int, ...]:
        """The shape in numbers, with symbols replaced by ``values``.

        Raises:
            KeyError: a symbol of the shape has no value in ``values``.
        """
        return tuple(evaluate_dim(dim, values or {}) for dim in self.shape)

    def numel(self, sizes: Mapping[str, int] | None = None) -> int:
        """Number of elements, with symbols replaced by ``sizes``.

        Raises:
            KeyError: a symbol of the shape has no value in ``sizes``.
        """
        return math.prod(self.sizes(sizes))

    def nbytes(self, sizes: Mapping[str, int] | None = None) -> int:
        """Bytes of a dense tensor of this type."""
        return self.numel(sizes) * self.dtype.itemsize


def parse_type(text: str) -> TensorType:
    """Read a type such as ``f32[batch, 384]``.

    Raises:
        ParseError: unknown dtype name or malformed shape.
    """
    head, bracket, rest = text.strip().partition("[")
    if not bracket or not rest.endswith("]"):
        raise ParseError(f"type {text!r}: expected dtype[dim, ...], for example f32[batch, 384]")
    if head not in DTYPES:
        raise ParseError(f"type {text!r}: expected one of {', '.join(DTYPES)}; found dtype {head!r}")
    dims = split_top_level(rest[:-1])
    return TensorType(DTYPES[head], tuple(parse_dim(d) for d in dims))


def split_top_level(text: str) -> list[str]:
    """Split at commas that are outside brackets and quotes; empty text gives no parts."""
    parts: list[str] = []
    depth, start, quote, escaped = 0, 0, "", False
    for i, char in enumerate(text):
        if quote:
            quote = "" if char == quote and not escaped else quote
            escaped = char == "\\" and not escaped
        elif char in "\"'":
            quote = char
        elif char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
        elif char == "," and depth == 0:
            parts.append(text[start:i].strip())
            start = i + 1
    last = text[start:].strip()
    return [*parts, last] if last else parts
