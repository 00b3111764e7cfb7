"""Graphs: immutable, hash-consed nodes reached from the outputs. Equal nodes are one; what nothing reaches is gone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

from .constants import ConstantHandle
from .op import CONSTANT, GETITEM, INPUT, Op
from .types import DimRange, TensorType

if TYPE_CHECKING:
    import networkx as nx
    import torch

    from .context import Context

NodeType = TensorType | tuple[TensorType, ...]


@dataclass(frozen=True)
class Origin:
    """Where a node came from: the user's module path and source line. Not part of a node's identity."""

    module: str = ""
    source: str = ""

    def __str__(self) -> str:
        return " at ".join(part for part in (self.module, self.source) if part) or "unknown origin"


class Node:
    """One value, or several for ops with several results. Created only by :class:`~instar.ir.context.Context`.

    ``arguments`` are (parameter, value) pairs in schema order without those equal to their default. A value is a node,
    a number, a string, a dtype, ``None``, a symbolic dimension, a handle, or a tuple of these.
    """

    __slots__ = ("__weakref__", "arguments", "inputs", "op", "origin", "type")

    def __init__(self, op: Op, arguments: tuple[tuple[str, Any], ...], type: NodeType, origin: Origin) -> None:
        self.op = op
        self.arguments = arguments
        self.inputs: tuple[Node, ...] = tuple(_nodes_in(tuple(v for _, v in arguments)))
        self.type = type
        self.origin = origin

    def argument(self, name: str, default: Any = None) -> Any:
        """The value of a parameter; its schema default, then ``default``, where it was not given."""
        for key, value in self.arguments:
            if key == name:
                return value
        return self.op.defaults.get(name, default)

    @property
    def tensor_type(self) -> TensorType:
        """The type of a node with one result.

        Raises:
            TypeError: the node has several results.
        """
        if isinstance(self.type, tuple):
            raise TypeError(f"{self.op.name} has {len(self.type)} results; take one with getitem")
        return self.type

    @property
    def handle(self) -> ConstantHandle:
        """The handle of a constant node."""
        return cast(ConstantHandle, self.argument("handle"))

    @property
    def is_constant(self) -> bool:
        """Whether this is a constant node."""
        return self.op is CONSTANT

    def __repr__(self) -> str:
        if self.op is CONSTANT:
            return f"@{self.handle.name}"
        if self.op is INPUT:
            return f"%{self.argument('name')}"
        return f"<{self.op.short_name}: {type_text(self.type)}>"


def _nodes_in(value: Any) -> Iterator[Node]:
    if isinstance(value, Node):
        yield value
    elif isinstance(value, tuple):
        for part in cast(tuple[Any, ...], value):
            yield from _nodes_in(part)


def type_text(type: NodeType) -> str:
    """``f32[2, 3]`` or ``(f32[2], i64[2])``."""
    return f"({', '.join(map(str, type))})" if isinstance(type, tuple) else str(type)


@dataclass(frozen=True)
class Signature:
    """How the flat tensors of a graph are packed in the user's call: pytree specs of torch.

    ``leaves`` has one entry per leaf of the call: ``None`` for a tensor (the next graph input), or ``(value,)`` for a
    leaf that is not a tensor and was fixed at capture. ``names`` are the names of the arguments, positional ones first;
    empty where they are not known. ``outputs`` are names that were chosen for the output tensors; empty where the
    keys of what the model returns name them (:func:`instar.ir.names.output_names`).
    """

    in_spec: Any = None
    out_spec: Any = None
    leaves: tuple[tuple[Any] | None, ...] = ()
    names: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Graph:
    """Inputs, outputs and everything the outputs reach.

    Attributes:
        inputs: input nodes, in order; kept even where nothing uses them.
        outputs: output values in flat order: nodes, or plain values (None, numbers, dimensions) that the model returns.
        context: the table that creates nodes and infers types.
        signature: the user's call, or None where the graph is called with flat tensors.
    """

    inputs: tuple[Node, ...]
    outputs: tuple[Any, ...]
    context: Context
    signature: Signature | None = None
    _cache: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def dims(self) -> Mapping[str, DimRange]:
        """The named dynamic dimensions."""
        return self.context.dims

    @property
    def output_nodes(self) -> tuple[Node, ...]:
        """Outputs that are nodes."""
        return tuple(o for o in self.outputs if isinstance(o, Node))

    def nodes(self) -> tuple[Node, ...]:
        """Every node in a topological order that depends only on the graph's structure; inputs first."""
        if "nodes" not in self._cache:
            self._cache["nodes"] = topological(self.inputs, self.output_nodes)
        return self._cache["nodes"]

    def constants(self) -> tuple[Node, ...]:
        """Constant nodes in order of first use."""
        return tuple(n for n in self.nodes() if n.op is CONSTANT)

    def users(self) -> Mapping[Node, tuple[Node, ...]]:
        """For every node, the distinct nodes that take it as an argument."""
        if "users" not in self._cache:
            users: dict[Node, dict[Node, None]] = {n: {} for n in self.nodes()}
            for node in self.nodes():
                for source in node.inputs:
                    users[source][node] = None
            self._cache["users"] = {n: tuple(u) for n, u in users.items()}
        return self._cache["users"]

    def ops(self) -> Counter[str]:
        """How often each op occurs, inputs, constants and projections left out."""
        structural = (INPUT, CONSTANT, GETITEM)
        return Counter(n.op.short_name for n in self.nodes() if n.op not in structural)

    def with_outputs(self, outputs: tuple[Any, ...]) -> Graph:
        """The same inputs with other outputs."""
        return replace(self, outputs=outputs, _cache={})

    def with_inputs(self, inputs: tuple[Node, ...]) -> Graph:
        """The same outputs with other inputs."""
        return replace(self, inputs=inputs, _cache={})

    def text(self) -> str:
        """A stable text of the graph; :func:`instar.ir.parse.parse_graph` reads it back."""
        from .text import graph_text

        return graph_text(self)

    def to_module(self) -> torch.nn.Module:
        """An FX GraphModule that computes the graph with the user's own call signature."""
        from .fx_conversion import to_module

        return to_module(self)

    def to_networkx(self) -> nx.DiGraph[Any]:
        """A directed graph of the nodes, with ``op`` and ``type`` as node attributes."""
        from .analysis import to_networkx

        return to_networkx(self)

    def fingerprint(self) -> str:
        """SHA-256 of the text and the contents of every constant."""
        from .text import fingerprint

        return fingerprint(self)

    def __str__(self) -> str:
        return self.text()


def topological(inputs: tuple[Node, ...], outputs: tuple[Node, ...]) -> tuple[Node, ...]:
    """Inputs and what outputs depend on, in an order that depends only on the structure; inputs first."""
    order: dict[Node, None] = dict.fromkeys(inputs)
    for root in outputs:
        stack: list[tuple[Node, int]] = [(root, 0)]
        while stack:
            node, position = stack.pop()
            if node in order:
                continue
            pending = node.inputs
            while position < len(pending) and pending[position] in order:
                position += 1
            if position == len(pending):
                order[node] = None
            else:
                stack.append((node, position + 1))
                stack.append((pending[position], 0))
    return tuple(order)
