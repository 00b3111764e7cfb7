"""Reads the text of a graph back."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import torch

from .constants import ConstantHandle
from .context import Context
from .errors import InstarError, ParseError
from .graph import Graph, Node
from .op import GETITEM, op
from .types import DTYPES, UNBOUNDED, DimRange, free_symbols, parse_dim, parse_type, split_top_level

_DIM = re.compile(r"dim (\w+) in \[(\d+), (\d*)\]")
_CALL = re.compile(r"(%\d+) = ([\w.]+)\((.*)\) : (.*)")
_TORCH_VALUES: dict[str, Any] = {
    name: getattr(torch, name)
    for name in ("strided", "sparse_coo", "contiguous_format", "preserve_format", "channels_last", "channels_last_3d")
}
_LITERALS: dict[str, Any] = {"None": None, "True": True, "False": False, "inf": float("inf"), "-inf": -float("inf")}


def parse_graph(text: str, constants: Mapping[str, torch.Tensor] | None = None) -> Graph:
    """The graph of a text written by :func:`instar.ir.text.graph_text`.

    Args:
        text: the text; empty lines and lines that start with ``#`` are passed over.
        constants: values of the constants by name. Without them the graph can be typed and verified, not run.

    Raises:
        ParseError: a line does not follow the grammar, or a value does not fit its declared type; says which line.
    """
    reader = _Reader(constants or {})
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            try:
                reader.line(line.strip())
            except InstarError as error:
                raise ParseError(f"line {number}: {error}") from error
    return reader.graph()


class _Reader:
    def __init__(self, constants: Mapping[str, torch.Tensor]) -> None:
        self.constants = constants
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
        word, _, rest = line.partition(" ")
        if word == "dim":
            self._dim(line)
        elif word == "input":
            name, _, type_ = rest.partition(": ")
            self.values[name] = self.context.input(name.removeprefix("%"), parse_type(type_))
            self.inputs.append(self.values[name])
        elif word == "const":
            self._constant(rest)
        elif word == "return":
            self.outputs = tuple(self._value(v) for v in split_top_level(rest))
        else:
            self._call(line)

    def _dim(self, line: str) -> None:
        match = _DIM.fullmatch(line)
        if match is None:
            raise ParseError(f"expected 'dim NAME in [MIN, MAX]'; found {line!r}")
        self.dims.append(DimRange(match[1], int(match[2]), int(match[3]) if match[3] else UNBOUNDED))

    def _constant(self, rest: str) -> None:
        name, _, type_text = rest.rpartition(": ")
        declared, key = parse_type(type_text), _constant_name(name)
        if key in self.constants:
            handle = ConstantHandle.of(key, self.constants[key])
            if handle.type != declared:
                raise ParseError(f"constant {name}: expected a tensor of type {declared}; found {handle.type}")
        else:
            handle = ConstantHandle(key, declared, lambda: _missing(key))
        self.values[name] = self.context.constant_of(handle)

    def _call(self, line: str) -> None:
        match = _CALL.fullmatch(line)
        if match is None:
            raise ParseError(f"expected '%N = op(arguments) : type'; found {line!r}")
        name, op_name, arguments, type_text = match.groups()
        args, kwargs = self._arguments(arguments)
        if op_name == GETITEM.name:
            node = self.context.item(args[0], args[1])
        else:
            node = self.context.node(op(op_name), *args, **kwargs)
        declared = _parse_node_type(type_text)
        if node.type != declared:
            raise ParseError(f"{name}: expected type {type_text}; the op gives {node.type}")
        self.values[name] = node

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
                raise ParseError(f"expected a value defined above; found {text}")
            return self.values[text]
        if text.startswith("["):
            return tuple(self._value(v) for v in split_top_level(text[1:-1]))
        if text.startswith('"'):
            return json.loads(text)
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


def _scalar(text: str) -> Any:
    kind, colon, name = text.partition(":")
    if colon and kind == "dtype" and name in DTYPES:
        return DTYPES[name]
    if colon and kind == "torch":
        return _TORCH_VALUES[name] if name in _TORCH_VALUES else torch.device(name)
    if re.fullmatch(r"-?\d+", text):
        return int(text)
    if re.fullmatch(r"-?(\d+\.\d*([eE][+-]?\d+)?|\d+[eE][+-]?\d+|nan)", text):
        return float(text)
    value = parse_dim(text)
    if not free_symbols(value) and not isinstance(value, int):
        raise ParseError(f"expected a value; found {text!r}")
    return value


def _parse_node_type(text: str) -> Any:
    if text.startswith("("):
        return tuple(parse_type(t) for t in split_top_level(text[1:-1]))
    return parse_type(text)


def _missing(name: str) -> torch.Tensor:
    raise ParseError(f"constant @{name}: the text was parsed without values; pass constants={{{name!r}: tensor}}")
