"""Tensor types: a dtype and a shape whose dimensions are integers or expressions over named symbols."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

import sympy
import torch
from torch.utils._sympy.functions import CleanDiv, FloorDiv, Max, Min, Mod, PythonMod

from .errors import ParseError

Dim = int | sympy.Expr
"""One dimension: a plain integer, or an expression over the symbols of :class:`DimRange`."""

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

    def numel(self, sizes: Mapping[str, int] | None = None) -> int:
        """Number of elements, with symbols replaced by ``sizes``.

        Raises:
            KeyError: a symbol of the shape has no value in ``sizes``.
        """
        total = 1
        for dim in self.shape:
            total *= evaluate_dim(dim, sizes or {})
        return total

    def nbytes(self, sizes: Mapping[str, int] | None = None) -> int:
        """Bytes of a dense tensor of this type."""
        return self.numel(sizes) * self.dtype.itemsize


def symbol(name: str) -> sympy.Symbol:
    """The sympy symbol of a named dimension; equal names are equal symbols."""
    return sympy.Symbol(name, integer=True, positive=True)


def evaluate_dim(dim: Dim | float, sizes: Mapping[str, int]) -> int:
    """The integer value of a dimension for given symbol values.

    Raises:
        KeyError: a symbol has no value; the key is its name.
    """
    if isinstance(dim, int):
        return dim
    return int(cast(int, evaluate_expression(dim, sizes)))


def evaluate_expression(value: Dim | float, sizes: Mapping[str, int]) -> int | float:
    """The number that an expression stands for; integers stay integers."""
    if not isinstance(value, sympy.Expr):
        return value
    names = sorted(str(s) for s in value.free_symbols)
    missing = [name for name in names if name not in sizes]
    if missing:
        raise KeyError(missing[0])
    result = value.xreplace({symbol(name): sympy.Integer(sizes[name]) for name in names})
    if result.is_integer:
        return int(result)
    return float(result)


def normalize_dim(expression: object) -> Dim:
    """A plain int where the expression is a constant, the expression itself otherwise."""
    if isinstance(expression, int):
        return int(expression)
    if isinstance(expression, sympy.Integer):
        return int(expression)
    return cast(sympy.Expr, expression)


def free_symbols(dim: object) -> set[str]:
    """Names of the symbols in a dimension or expression."""
    return {str(s) for s in dim.free_symbols} if isinstance(dim, sympy.Expr) else set()


# ------------------------------------------------------------------------------------------------ text
_BINARY: dict[type[ast.operator], Callable[[sympy.Expr, sympy.Expr], sympy.Expr]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
    ast.FloorDiv: lambda a, b: cast(sympy.Expr, FloorDiv(a, b)),
    ast.Mod: lambda a, b: cast(sympy.Expr, Mod(a, b)),
}
_FUNCTIONS: dict[str, type[sympy.Expr]] = {
    "FloorDiv": cast(type[sympy.Expr], FloorDiv),
    "CleanDiv": cast(type[sympy.Expr], CleanDiv),
    "Mod": cast(type[sympy.Expr], Mod),
    "PythonMod": cast(type[sympy.Expr], PythonMod),
    "Max": cast(type[sympy.Expr], Max),
    "Min": cast(type[sympy.Expr], Min),
}


def dim_text(dim: object) -> str:
    """The text of a dimension; :func:`parse_dim` reads it back."""
    return sympy.sstr(dim) if isinstance(dim, sympy.Expr) else str(dim)


def parse_dim(text: str) -> Dim:
    """Read a dimension written by :func:`dim_text`. Only arithmetic is understood; nothing is executed.

    Raises:
        ParseError: the text is not an arithmetic expression over names and integers.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except SyntaxError as error:
        raise ParseError(f"dimension {text!r}: expected an expression such as 'batch*2'; found a syntax error") from error
    return normalize_dim(_expression(tree.body, text))


def _expression(node: ast.expr, text: str) -> sympy.Expr:
    match node:
        case ast.Constant(value=int() | float() as value):
            return cast(sympy.Expr, sympy.sympify(value))
        case ast.Name(id=name):
            return symbol(name)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return cast(sympy.Expr, -_expression(operand, text))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            return _BINARY[type(op)](_expression(left, text), _expression(right, text))
        case ast.Call(func=ast.Name(id=name), args=args) if name in _FUNCTIONS:
            return _FUNCTIONS[name](*(_expression(a, text) for a in args))
        case _:
            raise ParseError(
                f"dimension {text!r}: expected names, integers, + - * / // % ** and {sorted(_FUNCTIONS)}; "
                f"found {ast.unparse(node)!r}"
            )


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
    depth, start, quote = 0, 0, ""
    for i, char in enumerate(text):
        if quote:
            quote = "" if char == quote and text[i - 1] != "\\" else quote
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
