"""Names for the symbolic sizes of an exported program: the user's own ``Dim`` names wherever there are any."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import sympy
import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.utils import _pytree as pytree

from ..errors import CaptureError
from ..types import UNBOUNDED, Dim, DimRange, normalize_dim


@dataclass(frozen=True)
class DimNames:
    """The named dimensions of a program and the map from torch's symbols to theirs."""

    ranges: tuple[DimRange, ...]
    symbols: Mapping[sympy.Symbol, sympy.Symbol]

    def rename(self, size: Any) -> Dim | float:
        """A size of the program (int, SymInt, SymFloat, SymBool) as an expression over the named symbols.

        Raises:
            CaptureError: the size depends on the values of a tensor.
        """
        if isinstance(size, bool | int | float):
            return size
        expression = cast(sympy.Expr, size.node.expr)
        unknown = sorted(str(s) for s in expression.free_symbols if s not in self.symbols)
        if unknown:
            raise CaptureError(
                "expected sizes that follow from the input sizes; found one that depends on the values of a tensor; "
                "replace nonzero, item or boolean indexing by an operation with a fixed size"
            )
        return normalize_dim(expression.xreplace(cast("dict[Any, Any]", dict(self.symbols))))


def name_dims(program: ExportedProgram, dynamic_shapes: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> DimNames:
    """Name every symbol in the program's input shapes: the user's name where there is one, else ``input_dim0``."""
    wanted = user_names(dynamic_shapes, args, kwargs, argument_names(program))
    names: dict[sympy.Symbol, str] = {}
    for bare in (True, False):
        for position, axis, name, expression in _dynamic_sizes(program):
            for free in cast("list[sympy.Symbol]", sorted(expression.free_symbols, key=str)):
                if bare == (free is expression) and free not in names:
                    default = f"{name}_dim{axis}" + ("" if bare else "_root")
                    names[free] = _fresh(wanted.get((position, axis)) or default, names.values())
    ranges = tuple(_range(program, native, name) for native, name in names.items())
    return DimNames(ranges, {native: r.symbol for native, r in zip(names, ranges, strict=True)})


def _fresh(name: str, taken: Iterable[str]) -> str:
    """A name that reads back from text and that no other dimension has."""
    unreadable = keyword.iskeyword(name) or name in ("inf", "nan")
    candidate, number, known = (f"{name}_" if unreadable else name), 1, set(taken)
    while candidate in known:
        candidate, number = f"{name}_{number}", number + 1
    return candidate


def _dynamic_sizes(program: ExportedProgram) -> Iterable[tuple[int, int, str, sympy.Expr]]:
    """(position, axis, input name, size) of every size of an input that is not a number."""
    for position, (name, value) in enumerate(_user_inputs(program)):
        for axis, size in enumerate(cast("tuple[Any, ...]", value.shape)):
            if not isinstance(size, int):
                yield position, axis, name, cast(sympy.Expr, size.node.expr)


def _user_inputs(program: ExportedProgram) -> Iterable[tuple[str, torch.Tensor]]:
    placeholders = [n for n in program.graph.nodes if n.op == "placeholder"]
    for node, spec in zip(placeholders, program.graph_signature.input_specs, strict=True):
        if spec.kind is InputKind.USER_INPUT and isinstance(node.meta.get("val"), torch.Tensor):
            yield node.name, node.meta["val"]


def _range(program: ExportedProgram, native: sympy.Symbol, name: str) -> DimRange:
    bounds = program.range_constraints.get(native)
    if bounds is None:
        return DimRange(name)
    top = int(bounds.upper) if bounds.upper.is_Integer else UNBOUNDED
    return DimRange(name, max(int(bounds.lower), 0), min(top, UNBOUNDED))


def argument_names(program: ExportedProgram) -> tuple[str, ...]:
    """Names of the arguments of the user's call, positional ones first; empty where the program does not know them."""
    signature = program.module_call_graph[0].signature
    return tuple((signature.forward_arg_names if signature else None) or ())


def user_names(
    dynamic_shapes: Any, args: tuple[Any, ...], kwargs: dict[str, Any], names: Sequence[str] = ()
) -> dict[tuple[int, int], str]:
    """(position among tensor leaves, axis) -> the ``Dim`` name that the user gave."""
    if not dynamic_shapes:
        return {}
    shapes = _shape_leaves(dynamic_shapes, args, kwargs, names)
    leaves = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    if len(shapes) != len(leaves):
        return {}
    found: dict[tuple[int, int], str] = {}
    for position, shape in enumerate(shapes):
        axes = shape.items() if isinstance(shape, Mapping) else enumerate(shape or ())
        for axis, dim in cast("Iterable[tuple[int, Any]]", axes):
            text = dim if isinstance(dim, str) else getattr(getattr(dim, "root", dim), "__name__", "")
            if re.fullmatch(r"[A-Za-z_]\w*", text) and not text.startswith("_Dim"):
                found[position, axis] = text
    return found


def _shape_leaves(
    dynamic_shapes: Any, args: tuple[Any, ...], kwargs: dict[str, Any], names: Sequence[str]
) -> list[Any]:
    """The shape entries in the order of the tensor leaves of the call."""
    values = [*args, *kwargs.values()]
    if not isinstance(dynamic_shapes, Mapping):
        given = list(cast("Iterable[Any]", dynamic_shapes))
    else:
        shapes = cast("Mapping[str, Any]", dynamic_shapes)
        named = len(names) == len(values) and set(shapes) <= set(names)
        given = [shapes.get(n) for n in names] if named else list(shapes.values())
    return [leaf for value, shape in zip(values, given, strict=False) for leaf in _pair(value, shape)]


def _pair(value: Any, shape: Any) -> list[Any]:
    if isinstance(value, torch.Tensor):
        return [shape]
    if isinstance(value, Mapping):
        items = cast("Mapping[Any, Any]", value)
        return [s for k, v in items.items() for s in _pair(v, shape.get(k) if isinstance(shape, Mapping) else None)]
    if isinstance(value, list | tuple):
        parts = cast("list[Any]", value)
        shapes = list(shape) if isinstance(shape, list | tuple) else [None] * len(parts)
        return [s for v, sh in zip(parts, shapes, strict=False) for s in _pair(v, sh)]
    return []
