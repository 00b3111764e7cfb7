"""Reads the text of a graph back."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from .constants import ConstantHandle
from .context import Context
from .errors import InstarError, ParseError
from .graph import Graph, Node, Origin
from .graph import type_text as node_type_text
from .op import GETITEM, op
from .types import DTYPES, UNBOUNDED, DimRange, free_symbols, parse_dim, parse_type, split_top_level

_DIM = re.compile(r"dim (\w+) in \[(\d+), (\d*)\]")
_INPUT = re.compile(r'%(\w+|"(?:[^"\\]|\\.)*"): (.*)')
_CALL = re.compile(r"(%\d+) = ([\w.]+)\((.*)\) : (.*)")
_TORCH_VALUES: dict[str, Any] = {
    name: getattr(torch, name)
    for name in ("strided", "sparse_coo", "contiguous_format", "preserve_format", "channels_last", "channels_last_3d")
}
_LITERALS: dict[str, Any] = {"None": None, "True": True, "False": False, "inf": float("inf"), "-inf": -float("inf")}


def parse_graph(
    text: str,
    constants: Mapping[str, torch.Tensor | ConstantHandle] | None = None,
    origins: Sequence[Origin] = (),
) -> Graph:
    """The graph of a text written by :func:`instar.ir.text.graph_text`.

    Args:
        text: the text; empty lines and lines that start with ``#`` are passed over.
        constants: values of the constants by name. Without them the graph can be typed and verified, not run.
        origins: where the nodes ``%0 %1 ...`` came from, in this order.

    Raises:
        ParseError: a line does not follow the grammar, or a value does not fit its declared type; says which line.
    """
    reader = _Reader(constants or {}, origins)
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            try:
                reader.line(line.strip())
            except InstarError as error:
                raise ParseError(f"line {number}: {error}") from error
    return reader.graph()


class _Reader:
    def __init__(self, constants: Mapping[str, torch.Tensor | ConstantHandle], origins: Sequence[Origin]) -> None:
        self.constants = constants
        self.origins = iter(origins)
        self.dims: list[DimRange] = []
        self.inputs: list[Node] = []
        self.values: dict[str, Node] = {}
        self.outputs: tuple[Any, ...] | None = None
        self.made: Context | None = None

    @property
    def context(self) -> Context:
        if self.made is None:
            self.made = Context(self.dims)
        return self.made

    def line(self, line: str) -> None:
        if self.outputs is not None:
            raise ParseError(f"expected nothing after 'return'; found {line[:80]!r}")
        word, _, rest = line.partition(" ")
        if word == "dim":
            self._dim(line)
        elif word == "input":
            self._input(rest)
        elif word == "const":
            self._constant(rest)
        elif word == "return":
            self.outputs = tuple(self._value(v) for v in split_top_level(rest))
        else:
            self._call(line)

    def _dim(self, line: str) -> None:
        match = _DIM.fullmatch(line)
        if match is None:
            raise ParseError(f"expected 'dim NAME in [MIN, MAX]'; found {line[:80]!r}")
        if self.made is not None or any(d.name == match[1] for d in self.dims):
            raise ParseError(f"dim {match[1]}: expected each dimension once, before the first input")
        self.dims.append(DimRange(match[1], int(match[2]), int(match[3]) if match[3] else UNBOUNDED))

    def _input(self, rest: str) -> None:
        match = _INPUT.fullmatch(rest)
        if match is None:
            raise ParseError(f"expected 'input %NAME: TYPE'; found {rest[:80]!r}")
        name = json.loads(match[1]) if match[1].startswith('"') else match[1]
        self._define(f"%{match[1]}", self.context.input(name, parse_type(match[2])))
        self.inputs.append(self.values[f"%{match[1]}"])

    def _constant(self, rest: str) -> None:
        name, _, type_text = rest.rpartition(": ")
        declared, key = parse_type(type_text), _constant_name(name)
        given = self.constants.get(key)
        if given is None:
            handle = ConstantHandle(key, declared, lambda: _missing(key))
        else:
            handle = given if isinstance(given, ConstantHandle) else ConstantHandle.of(key, given)
        if handle.type != declared:
            raise ParseError(f"constant {name}: expected a tensor of type {declared}; found {handle.type}")
        self._define(name, self.context.constant_of(handle))

    def _define(self, name: str, node: Node) -> None:
        if name in self.values:
            raise ParseError(f"{name}: expected a new name; found one that is defined above")
        self.values[name] = node

    def _call(self, line: str) -> None:
        match = _CALL.fullmatch(line)
        if match is None:
            raise ParseError(f"expected '%N = op(arguments) : type'; found {line[:80]!r}")
        name, op_name, arguments, type_text = match.groups()
        args, kwargs = self._arguments(arguments)
        with self.context.origin(next(self.origins, Origin())):
            node = self._item(args) if op_name == GETITEM.name else self.context.node(op(op_name), *args, **kwargs)
        if node.type != _parse_node_type(type_text):
            raise ParseError(f"{name}: expected type {type_text}; the op gives {node_type_text(node.type)}")
        self._define(name, node)

    def _item(self, args: list[Any]) -> Node:
        value, index = args if len(args) == 2 else (None, None)
        if not isinstance(value, Node) or not isinstance(value.type, tuple) or not isinstance(index, int):
            raise ParseError("getitem: expected a value with several results and an index")
        if not 0 <= index < len(value.type):
            raise ParseError(f"getitem: expected an index below {len(value.type)}; found {index}")
        return self.context.item(value, index)

    def _arguments(self, text: str) -> tuple[list[Any], dict[str, Any]]:
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for part in split_top_level(text):
            name = re.match(r"([A-Za-z_]\w*)=", part)
            if name:
                kwargs[name[1]] = self._value(part[name.end() :])
            else:
                args.append(self._value(part))
        return args, kwargs

    def _value(self, text: str) -> Any:
        if text.startswith(("%", "@")):
            if text not in self.values:
                raise ParseError(f"expected a value defined above; found {text[:80]}")
            return self.values[text]
        if text.startswith("[") and text.endswith("]"):
            return tuple(self._value(v) for v in split_top_level(text[1:-1]))
        if text.startswith('"'):
            return _string(text)
        if text in _LITERALS:
            return _LITERALS[text]
        return _scalar(text)

    def graph(self) -> Graph:
        if self.outputs is None:
            raise ParseError("expected a last line 'return VALUE, ...'; found none")
        return self.context.graph(self.inputs, self.outputs)


def _constant_name(text: str) -> str:
    if re.fullmatch(r"@[\w.-]+", text):
        return text[1:]
    if re.fullmatch(r'@"([^"\\]|\\.)*"', text):
        return str(json.loads(text[1:]))
    raise ParseError(f"expected a constant such as @name; found {text!r}")


def _string(text: str) -> str:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ParseError(f"expected a string in JSON's notation; found {text[:80]}") from error
    return str(value)


def _scalar(text: str) -> Any:
    kind, colon, name = text.partition(":")
    if colon:
        return _named(kind, name)
    if re.fullmatch(r"-?\d{1,100}", text):
        return int(text)
    if re.fullmatch(r"-?(\d+\.\d*([eE][+-]?\d+)?|\d+[eE][+-]?\d+|nan)", text):
        return float(text)
    value = parse_dim(text)
    if not free_symbols(value):
        raise ParseError(f"expected a value; found {text[:80]!r}")
    return value


def _named(kind: str, name: str) -> Any:
    """``dtype:f32``, ``torch:cpu``, ``complex:1+2j``."""
    try:
        if kind == "dtype":
            return DTYPES[name]
        if kind == "torch":
            return _TORCH_VALUES[name] if name in _TORCH_VALUES else torch.device(name)
        if kind == "complex":
            return complex(name)
    except (KeyError, ValueError, RuntimeError) as error:
        raise ParseError(f"expected a known {kind} value; found {name[:80]!r}") from error
    raise ParseError(f"expected dtype:, torch: or complex: before a name; found {kind[:80]!r}")


def _parse_node_type(text: str) -> Any:
    if text.startswith("(") and text.endswith(")"):
        return tuple(parse_type(t) for t in split_top_level(text[1:-1]))
    return parse_type(text)


def _missing(name: str) -> torch.Tensor:
    raise ParseError(f"constant @{name}: the text was parsed without values; pass constants={{{name!r}: tensor}}")
