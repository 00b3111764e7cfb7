"""The context of a graph: the only place where nodes are made, interned and typed."""

from __future__ import annotations

import struct
import weakref
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from typing import Any, cast

import sympy
import torch

from .constants import ConstantHandle
from .errors import ParseError, nearest
from .graph import Graph, Node, NodeType, Origin, Signature
from .infer import TypeInference, inference_for
from .op import CONSTANT, GETITEM, INPUT, Op, freeze, op
from .types import DimRange, TensorType, normalize_dim


class Context:
    """Creates nodes. Structurally equal calls return the same object; types are inferred with fake tensors and cached.

    Args:
        dims: the named dynamic dimensions of the graph.
        inference: what infers types; in fake mode unless given.
    """

    def __init__(self, dims: Iterable[DimRange] = (), inference: TypeInference | None = None) -> None:
        self.dims: dict[str, DimRange] = {d.name: d for d in dims}
        self._nodes: weakref.WeakValueDictionary[Any, Node] = weakref.WeakValueDictionary()
        self.inference = inference or inference_for(self.dims)
        self._origin = Origin()
        self._names: set[str] = set()

    # -------------------------------------------------------------------------------------------- leaves
    def input(self, name: str, type: TensorType) -> Node:
        """A graph input.

        Raises:
            ParseError: there is an input of that name with another type.
        """
        node = self._intern(INPUT, (("name", name),), type, Origin())
        if node.type != type:
            raise ParseError(f"input %{name}: expected one type per name; found {node.type} and {type}")
        return node

    def constant(self, name: str, tensor: torch.Tensor, kind: str = "derived") -> Node:
        """A new constant of a tensor. A name that is taken gets a numbered suffix."""
        return self.constant_of(ConstantHandle.of(self.unique_name(name), tensor, kind))

    def constant_of(self, handle: ConstantHandle) -> Node:
        """The node of a handle."""
        self._names.add(handle.name)
        return self._intern(CONSTANT, (("handle", handle),), handle.type, Origin())

    def unique_name(self, name: str) -> str:
        """``name``, or ``name.1``, ``name.2``, ... where it is already a constant of this context."""
        candidate, number = name, 0
        while candidate in self._names:
            number += 1
            candidate = f"{name}.{number}"
        return candidate

    # -------------------------------------------------------------------------------------------- nodes
    def node(self, operation: Op | str, *args: Any, **kwargs: Any) -> Node:
        """The node that applies an op to arguments, with its type inferred.

        Raises:
            ParseError: the op has no such parameter.
            VerifyError: torch refuses the arguments.
        """
        operation = op(operation) if isinstance(operation, str) else operation
        return self.node_of(operation, bind_arguments(operation, args, kwargs))

    def node_of(
        self,
        operation: Op,
        arguments: tuple[tuple[str, Any], ...],
        type: NodeType | None = None,
        origin: Origin | None = None,
    ) -> Node:
        """The node of bound arguments; ``type`` may be given where it is already known (the verifier checks it)."""
        key = (operation.name, tuple((k, _key(v)) for k, v in arguments))
        found = self._nodes.get(key)
        if found is not None:
            return found
        inferred = type if type is not None else self.infer(operation, arguments)
        node = Node(operation, arguments, inferred, origin or self._origin)
        self._nodes[key] = node
        return node

    def item(self, value: Node, index: int) -> Node:
        """Result ``index`` of a node with several results."""
        types = cast(tuple[TensorType, ...], value.type)
        return self.node_of(GETITEM, (("value", value), ("index", index)), types[index], value.origin)

    def rebuild(self, node: Node, replacements: Mapping[Node, Node]) -> Node:
        """``node`` with its inputs replaced; the same object where nothing changed."""
        if not any(i in replacements and replacements[i] is not i for i in node.inputs):
            return node
        arguments = tuple((k, _substitute(v, replacements)) for k, v in node.arguments)
        return self.node_of(node.op, arguments, origin=node.origin)

    def moved(self, node: Node, done: Mapping[Node, Node]) -> Node:
        """A node of another context in this one; ``done`` holds its inputs as they are here."""
        if node.op is CONSTANT:
            return self.constant_of(node.handle)
        arguments = tuple((k, _substitute(v, done)) for k, v in node.arguments)
        same = all(done[i].type == i.type for i in node.inputs)
        return self.node_of(node.op, arguments, node.type if same else None, node.origin)

    def infer(self, operation: Op, arguments: tuple[tuple[str, Any], ...]) -> NodeType:
        """The type of an application.

        Raises:
            VerifyError: the arguments do not fit the op.
        """
        return self.inference(operation, arguments)

    @contextmanager
    def origin(self, origin: Origin) -> Generator[None]:
        """Nodes made inside carry this origin: rewrites keep where the replaced node came from."""
        previous, self._origin = self._origin, origin
        try:
            yield
        finally:
            self._origin = previous

    def graph(self, inputs: Iterable[Node], outputs: Iterable[Any], signature: Signature | None = None) -> Graph:
        """A graph of nodes made here."""
        return Graph(tuple(inputs), tuple(outputs), self, signature)

    def _intern(self, operation: Op, arguments: tuple[tuple[str, Any], ...], type: NodeType, origin: Origin) -> Node:
        return self.node_of(operation, arguments, type, origin)


def bind_arguments(operation: Op, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Arguments as (parameter, value) pairs in schema order, without those equal to their default.

    Raises:
        ParseError: too many positional arguments, an unknown name, or a missing argument.
    """
    if len(args) > len(operation.parameters):
        raise ParseError(
            f"op {operation.name}: expected at most {len(operation.parameters)} arguments; found {len(args)}"
        )
    given = dict(zip(operation.parameters, args, strict=False))
    for name, value in kwargs.items():
        if name not in operation.parameters:
            raise ParseError(f"op {operation.name}: no parameter {name!r}{nearest(name, operation.parameters)}")
        given[name] = value
    missing = [p for p in operation.parameters if p not in given and p not in operation.defaults]
    if missing:
        raise ParseError(f"op {operation.name}: expected an argument for {missing[0]!r}; found none")
    frozen = {name: _normalize(value) for name, value in given.items()}
    given_names = [p for p in operation.parameters if p in frozen and not _is_default(operation, p, frozen[p])]
    return tuple((p, frozen[p]) for p in given_names)


def _is_default(operation: Op, name: str, value: Any) -> bool:
    if name not in operation.defaults or isinstance(value, Node | sympy.Basic):
        return False
    default = operation.defaults[name]
    return type(default) is type(value) and default == value


def _normalize(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_normalize(v) for v in cast(Iterable[Any], value))
    if isinstance(value, sympy.Basic):
        return normalize_dim(value)
    return freeze(value)


def _key(value: Any) -> Any:
    """A hashable key: nodes and handles by identity, numbers by type and bits (True is not 1, 0.0 is not -0.0)."""
    if isinstance(value, Node | ConstantHandle):
        return ("id", id(value))
    if isinstance(value, tuple):
        return tuple(_key(v) for v in cast(tuple[Any, ...], value))
    if isinstance(value, float):
        return ("float", struct.pack("d", value))
    return (type(value).__name__, value)


def _substitute(value: Any, replacements: Mapping[Node, Node]) -> Any:
    if isinstance(value, Node):
        return replacements.get(value, value)
    if isinstance(value, tuple):
        return tuple(_substitute(v, replacements) for v in cast(tuple[Any, ...], value))
    return value
