"""The stable text of a graph and its fingerprint. ``parse.py`` reads the text back."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, cast

import sympy
import torch

from .constants import ConstantHandle
from .graph import Graph, Node, type_text
from .op import CONSTANT, GETITEM, INPUT
from .types import DTYPE_NAMES, UNBOUNDED, dim_text, free_symbols


def graph_text(graph: Graph) -> str:
    """One line per dimension, input, constant and node; names are ``%0 %1 ...`` in topological order."""
    names = node_names(graph)
    lines: list[str] = []
    used = used_symbols(graph)
    for dim in sorted(graph.dims.values(), key=lambda d: d.name):
        if dim.name in used:
            top = "" if dim.maximum == UNBOUNDED else str(dim.maximum)
            lines.append(f"dim {dim.name} in [{dim.minimum}, {top}]")
    lines += [f"input {names[n]}: {n.type}" for n in graph.inputs]
    lines += [f"const {names[n]}: {n.type}" for n in graph.constants()]
    for node in graph.nodes():
        if node.op not in (INPUT, CONSTANT):
            lines.append(f"{names[node]} = {call_text(node, names)} : {type_text(node.type)}")
    lines.append(f"return {', '.join(value_text(o, names) for o in graph.outputs)}")
    return "\n".join(lines) + "\n"


def node_names(graph: Graph) -> dict[Node, str]:
    """``%name`` for inputs, ``@name`` for constants, ``%0 %1 ...`` for the rest."""
    names: dict[Node, str] = {}
    number = 0
    for node in graph.nodes():
        if node.op is INPUT:
            names[node] = input_text(str(node.argument("name")))
        elif node.op is CONSTANT:
            names[node] = constant_text(node.handle.name)
        else:
            names[node] = f"%{number}"
            number += 1
    return names


def input_text(name: str) -> str:
    """``%name``; in quotes where the name holds anything but letters, digits and underscores, or digits alone."""
    return f"%{name}" if re.fullmatch(r"\w+", name) and not name.isdecimal() else f"%{json.dumps(name)}"


def constant_text(name: str) -> str:
    """``@name``; in quotes where the name holds anything but letters, digits, dots, dashes and underscores."""
    return f"@{name}" if re.fullmatch(r"[\w.-]+", name) else f"@{json.dumps(name)}"


def used_symbols(graph: Graph) -> set[str]:
    """Names of the dimensions that occur in any input type."""
    return {name for n in graph.inputs for d in n.tensor_type.shape for name in free_symbols(d)}


def call_text(node: Node, names: dict[Node, str]) -> str:
    """``aten.linear(%0, @w, bias=@b)``: leading arguments by position, the others by name."""
    if node.op is GETITEM:
        return f"getitem({names[node.argument('value')]}, {node.argument('index')})"
    parts: list[str] = []
    expected = list(node.op.parameters)
    for name, value in node.arguments:
        positional = bool(expected) and expected[0] == name and name not in node.op.keyword_only
        parts.append(value_text(value, names) if positional else f"{name}={value_text(value, names)}")
        expected = expected[1:] if positional else []
    return f"{node.op.short_name}({', '.join(parts)})"


def value_text(value: Any, names: dict[Node, str]) -> str:
    """The text of one argument."""
    if isinstance(value, Node):
        return names[value]
    if isinstance(value, ConstantHandle):
        return constant_text(value.name)
    if isinstance(value, tuple):
        return f"[{', '.join(value_text(v, names) for v in cast(tuple[Any, ...], value))}]"
    if isinstance(value, sympy.Basic):
        return dim_text(value)
    if isinstance(value, torch.dtype):
        return f"dtype:{DTYPE_NAMES[value]}"
    if isinstance(value, torch.device | torch.layout | torch.memory_format):
        return f"torch:{str(value).removeprefix('torch.')}"
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, complex):
        return f"complex:{str(value).strip('()')}"
    return repr(value)


def fingerprint(graph: Graph) -> str:
    """SHA-256 over the text and the digest of every constant, in order."""
    sha = hashlib.sha256(graph_text(graph).encode())
    for node in graph.constants():
        sha.update(node.handle.digest.encode())
    return sha.hexdigest()
