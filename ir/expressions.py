"""Expressions over named dimensions: their text, their value, and their translation to any other notation.

Sizes that torch computes while it exports a model (``length//2``, ``Max(1, batch)``, ``sqrt`` of a size) are sympy
expressions of torch's own function classes. Here is the one table that gives each class its meaning.
"""

from __future__ import annotations

import ast
import functools
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import sympy
import torch
from sympy.printing.str import StrPrinter
from torch.utils._sympy import functions as torch_functions

from .errors import ParseError

Dim = int | sympy.Expr
"""One dimension: a plain integer, or an expression over the symbols of :class:`~instar.ir.types.DimRange`."""

MAX_TEXT = 10_000
"""Longest text of one expression, in characters."""
MAX_EXPONENT, MAX_BITS = 64, 4096

_EXTREMA = (sympy.Max, sympy.Min, torch_functions.Max, torch_functions.Min)

_UNARY = ("acos", "asin", "atan", "cos", "cosh", "log2", "sin", "sinh", "sqrt", "tan", "tanh")
_OPERATIONS: dict[str, Callable[..., Any]] = {
    "Add": operator.add,
    "Mul": operator.mul,
    "Pow": operator.pow,
    "FloorDiv": operator.floordiv,
    "CleanDiv": operator.floordiv,
    "Mod": operator.mod,
    "PythonMod": operator.mod,
    "Max": torch.sym_max,
    "Min": torch.sym_min,
    "PowByNatural": operator.pow,
    "FloatPow": operator.pow,
    "FloatTrueDiv": operator.truediv,
    "IntTrueDiv": operator.truediv,
    "ToFloat": torch.sym_float,
    "TruncToInt": math.trunc,
    "FloorToInt": math.floor,
    "CeilToInt": math.ceil,
    "RoundToInt": round,
    "RoundDecimal": round,
    "LShift": operator.lshift,
    "RShift": operator.rshift,
    "BitwiseFn_bitwise_and": operator.and_,
    "BitwiseFn_bitwise_or": operator.or_,
    "BitwiseFn_bitwise_xor": operator.xor,
    "Where": torch.sym_ite,
    "Equality": operator.eq,
    "Unequality": operator.ne,
    "StrictLessThan": operator.lt,
    "LessThan": operator.le,
    "StrictGreaterThan": operator.gt,
    "GreaterThan": operator.ge,
    "And": operator.and_,
    "Or": operator.or_,
    "Not": torch.sym_not,
} | {f"OpaqueUnaryFn_{name}": getattr(torch, f"_sym_{name}") for name in _UNARY}
"""Class name -> a function of numbers, ``SymInt`` or FX proxies. Functions of two arguments are folded over more."""
_FOLDED = frozenset({"Add", "Mul", "Max", "Min", "And", "Or"})
_CLASSES: dict[str, Any] = {
    name: getattr(torch_functions, name)
    for name in (*_OPERATIONS, "Max", "Min")
    if hasattr(torch_functions, name) and name not in ("Add", "Mul", "Pow")
} | {"Eq": sympy.Eq, "Ne": sympy.Ne}

Value = TypeVar("Value")


def symbol(name: str) -> sympy.Symbol:
    """The sympy symbol of a named dimension; equal names are equal symbols."""
    return sympy.Symbol(name, integer=True, positive=True)


def normalize_dim(expression: object) -> Dim:
    """A plain int where the expression is a constant, the expression itself otherwise."""
    if isinstance(expression, int):
        return int(expression)
    if isinstance(expression, sympy.Integer):
        return int(expression)
    rebuilt = _rebuilt(cast(sympy.Expr, expression))
    return int(rebuilt) if isinstance(rebuilt, sympy.Integer) else rebuilt


@functools.lru_cache(maxsize=4096)
def _rebuilt(expression: sympy.Expr) -> sympy.Expr:
    """The same with every operator evaluated anew: sympy leaves some maxima as they are that it would simplify."""
    if not expression.args or not expression.has(*_EXTREMA):
        return expression
    return cast(Any, expression.func)(*(_rebuilt(cast(sympy.Expr, part)) for part in expression.args))


def free_symbols(dim: object) -> set[str]:
    """Names of the symbols in a dimension or expression."""
    return {str(s) for s in dim.free_symbols} if isinstance(dim, sympy.Basic) else set()


# ------------------------------------------------------------------------------------------------ value
def fold_expression(
    expression: sympy.Basic,
    leaf: Callable[[str], Value],
    call: Callable[[Callable[..., Any], tuple[Any, ...]], Value],
) -> Value:
    """Translate an expression from the leaves up.

    Args:
        expression: the expression.
        leaf: what a symbol becomes, given its name.
        call: what the application of a function (``operator.add``, ``math.ceil``, ...) to translated arguments becomes.

    Raises:
        ParseError: a function has no meaning here; names it.
    """
    if isinstance(expression, sympy.Symbol):
        return leaf(str(expression))
    if not expression.args:
        return cast(Value, _number(expression))
    name = type(expression).__name__
    if name not in _OPERATIONS:
        raise ParseError(f"size {expression}: expected one of {', '.join(sorted(_OPERATIONS))}; found {name}")
    arguments = [fold_expression(a, leaf, call) for a in expression.args]
    if name not in _FOLDED:
        return call(_OPERATIONS[name], tuple(arguments))
    return functools.reduce(lambda a, b: call(_OPERATIONS[name], (a, b)), arguments)


def evaluate_expression(value: Dim | float, sizes: Mapping[str, int]) -> int | float:
    """The number that an expression stands for; integers stay integers.

    Raises:
        KeyError: a symbol has no value; the key is its name.
    """
    if not isinstance(value, sympy.Basic):
        return value
    if isinstance(value, sympy.Symbol):
        return sizes[str(value)]
    number = cast(float, fold_expression(value, sizes.__getitem__, lambda function, a: function(*a)))
    return int(number) if value.is_integer and not isinstance(number, bool) else number


def evaluate_dim(dim: Dim | float, sizes: Mapping[str, int]) -> int:
    """The integer value of a dimension for given symbol values.

    Raises:
        KeyError: a symbol has no value; the key is its name.
    """
    return dim if isinstance(dim, int) else int(evaluate_expression(dim, sizes))


def _number(expression: sympy.Basic) -> int | float | bool:
    if expression in (sympy.true, sympy.false):
        return bool(expression)
    if isinstance(expression, sympy.Integer):
        return int(expression)
    return float(cast(Any, expression))


# ------------------------------------------------------------------------------------------------ text
class _Printer(StrPrinter):
    """Text that reads back exactly: floats with all digits, and no class that prints as another one."""

    printmethod = "_instar_text"

    def _print_Float(self, expr: Any) -> str:  # noqa: N802 - sympy's naming scheme
        return repr(float(expr))

    def _print_FloorDiv(self, expr: Any) -> str:  # noqa: N802 - sympy's naming scheme
        left, right = (self._print(a) if a.is_Atom else f"({self._print(a)})" for a in expr.args)
        return f"({left}//{right})"

    def _print_CleanDiv(self, expr: Any) -> str:  # noqa: N802 - sympy's naming scheme
        return f"CleanDiv({self._print(expr.args[0])}, {self._print(expr.args[1])})"


@functools.lru_cache(maxsize=4096)
def _text(expression: sympy.Basic) -> str:
    return _Printer().doprint(expression)


def dim_text(dim: object) -> str:
    """The text of a dimension or expression; :func:`parse_dim` reads it back."""
    return _text(dim) if isinstance(dim, sympy.Basic) else str(dim)


def parse_dim(text: str) -> Dim:
    """Read a dimension written by :func:`dim_text`. Only arithmetic is understood; nothing is executed.

    Raises:
        ParseError: the text is not an arithmetic expression over names and numbers, or is unreasonably large.
    """
    if len(text) > MAX_TEXT:
        raise ParseError(f"dimension: expected at most {MAX_TEXT} characters; found {len(text)}")
    try:
        return _parsed(text.strip())
    except (SyntaxError, MemoryError, RecursionError) as error:
        raise ParseError(
            f"dimension {text[:80]!r}: expected an expression such as 'batch*2'; found a syntax error"
        ) from error
    except (TypeError, ValueError, ArithmeticError, AssertionError) as error:
        raise ParseError(f"dimension {text[:80]!r}: expected an expression with a value; found {error}") from error


@functools.lru_cache(maxsize=4096)
def _parsed(text: str) -> Dim:
    return normalize_dim(_expression(ast.parse(text, mode="eval").body, text))


_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
    ast.FloorDiv: torch_functions.FloorDiv,
    ast.Mod: torch_functions.Mod,
    ast.BitAnd: sympy.And,
    ast.BitOr: sympy.Or,
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: sympy.Lt,
    ast.LtE: sympy.Le,
    ast.Gt: sympy.Gt,
    ast.GtE: sympy.Ge,
}


def _expression(node: ast.expr, text: str) -> Any:
    match node:
        case ast.Constant(value=bool() as value):
            return sympy.true if value else sympy.false
        case ast.Constant(value=int() | float() as value):
            return sympy.sympify(value)
        case ast.Name(id=name):
            return symbol(name)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_expression(operand, text)
        case ast.UnaryOp(op=ast.Invert(), operand=operand):
            return sympy.Not(_expression(operand, text))
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _COMPARE:
            return _COMPARE[type(op)](_expression(left, text), _expression(right, text))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
            return _apply(_BINARY[type(op)], [_expression(left, text), _expression(right, text)])
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _CLASSES:
            return _apply(_CLASSES[name], [_expression(a, text) for a in args])
        case _:
            raise ParseError(
                f"dimension {text[:80]!r}: expected names, numbers, + - * / // % ** and functions such as Max; "
                f"found {ast.unparse(node)[:80]!r}"
            )


def _apply(function: Callable[..., Any], arguments: list[Any]) -> Any:
    """Apply, with bounds on what constants may grow to: a text of a few characters must not fill the memory."""
    grows = function in (operator.pow, _CLASSES["PowByNatural"], _CLASSES["FloatPow"], _CLASSES["LShift"])
    if grows and arguments[-1].is_number and abs(arguments[-1]) > MAX_EXPONENT:
        raise ValueError(f"an exponent beyond {MAX_EXPONENT}")
    result = function(*arguments)
    if isinstance(result, sympy.Integer) and int(result).bit_length() > MAX_BITS:
        raise ValueError(f"a number of more than {MAX_BITS} bits")
    return result
