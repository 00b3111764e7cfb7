"""Which calls of an exported program write to tensors, and which of its values change with each of them."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import fx
from torch._ops import OpOverload
from torch.utils import _pytree as pytree

from .views import view_of

BATCH_NORM = "aten.batch_norm.default"
_DETACH = "aten.detach_.default"
"""Writes by its schema and changes no value; torch.export puts it behind every ``torch.tensor`` of a forward pass."""

SPELLED = ("aten.fill_diagonal_.default",)
"""Writing operators that no other operator computes, but several together do."""

_DROPOUTS = ("aten.dropout", "aten.alpha_dropout", "aten.feature_dropout", "aten.feature_alpha_dropout")


def is_writing(call: fx.Node) -> bool:
    """Whether a call changes the values of one of its arguments."""
    target = cast(Any, call.target)
    return isinstance(target, OpOverload) and not keeps_value(call) and cast(Any, target)._schema.is_mutable


def keeps_value(call: fx.Node) -> bool:
    """Whether a call returns its first argument itself: dropout in evaluation, and what only marks a tensor."""
    if not isinstance(call.target, OpOverload):
        return False
    return str(call.target) == _DETACH or (str(call.target.overloadpacket) in _DROPOUTS and call.args[2:] == (False,))


@functools.cache
def functional_variant(overload: OpOverload) -> OpOverload | None:
    """``aten.add.Tensor`` for ``aten.add_.Tensor``: the operator that returns what the other one writes to ``self``."""
    namespace, name, overload_name = str(overload).split(".")
    packet = getattr(torch.ops.aten, name.removesuffix("_"), None)
    found = getattr(packet, overload_name, None)
    if namespace != "aten" or not name.endswith("_") or found is None or torch.Tag.inplace_view in overload.tags:
        return None
    writing, pure = cast(Any, overload)._schema, found._schema
    written = [a.alias_info is not None and a.alias_info.is_write for a in writing.arguments]
    fits = _parameters(writing) == _parameters(pure) and not pure.is_mutable and len(pure.returns) == 1
    only_self = written[0] and not any(written[1:]) and str(writing.arguments[0].type) == "Tensor"
    return cast(OpOverload, found) if fits and only_self else None


def _parameters(schema: Any) -> list[tuple[str, str]]:
    """Names and types; the name of the first does not matter, it is ``input`` in some operators."""
    return [(a.name if index else "", str(a.type)) for index, a in enumerate(schema.arguments)]


@dataclass(frozen=True)
class Writes:
    """How the values of a graph share memory, as far as its writes need it.

    Attributes:
        same: value -> an earlier value that it is another name of.
        views: value -> the earlier value that it is a view of; neither is another name of a third.
    """

    same: Mapping[fx.Node, fx.Node] = field(default_factory=dict[fx.Node, fx.Node])
    views: Mapping[fx.Node, fx.Node] = field(default_factory=dict[fx.Node, fx.Node])


def find_writes(graph: fx.Graph) -> Writes | None:
    """The writes of a graph; ``None`` where one of them cannot be read as new values in place of old ones.

    A write can if the memory was allocated inside the graph, an operator without the write exists, and every value of
    that memory that is read afterwards is the written one, or derived from the same tensor by views of
    :mod:`~instar.ir.capture.views`. Which values share memory is what the schemas of the operators say.
    """
    if not any(is_writing(n) for n in graph.nodes):
        return Writes()
    order = {node: index for index, node in enumerate(graph.nodes)}
    memory: dict[fx.Node, set[fx.Node]] = {}
    same: dict[fx.Node, fx.Node] = {}
    views: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        if is_writing(node) and functional_variant(cast(OpOverload, node.target)) is None and not is_spelled(node):
            return None
        _share(memory, node)
        base = view_of(node)
        if is_writing(node) or keeps_value(node):
            source = cast(fx.Node, node.args[0])
            same[node] = same.get(source, source)
        elif base is not None:
            views[node] = same.get(base, base)
        if is_writing(node):
            root = _root(views, same[node])
            others = (v for v in memory[node] if _root(views, same.get(v, v)) is not root)
            if _is_given(memory[node]) or any(order[user] > order[node] for v in others for user in v.users):
                return None
    return Writes(same, views)


def is_spelled(call: fx.Node) -> bool:
    """Whether a write of :data:`SPELLED` can be spelled: not where the diagonal starts again below the end."""
    if str(call.target) not in SPELLED:
        return False
    wraps = bool(call.args[2:] and call.args[2]) or bool(call.kwargs.get("wrap"))
    return not wraps


def _root(views: Mapping[fx.Node, fx.Node], value: fx.Node) -> fx.Node:
    while value in views:
        value = views[value]
    return value


def _is_given(values: set[fx.Node]) -> bool:
    """Whether the memory belongs to an input, a parameter or a constant of the program."""
    return any(n.op in ("placeholder", "get_attr") for n in values)


def _share(memory: dict[fx.Node, set[fx.Node]], node: fx.Node) -> None:
    """Note with which earlier values a new one may share memory; all of them hold one set."""
    groups = {id(memory[base]): memory[base] for base in _bases(node)}
    shared = max(groups.values(), key=len, default=set[fx.Node]())
    for group in groups.values():
        shared |= group
    for value in (node, *(v for group in groups.values() if group is not shared for v in group)):
        shared.add(value)
        memory[value] = shared


def _bases(node: fx.Node) -> Iterator[fx.Node]:
    """The inputs that a value may be a view of. Composite operators with the tag may return any input as it is."""
    target = cast(Any, node.target)
    if getattr(target, "__name__", "") == "getitem":
        yield cast(fx.Node, node.args[0])
    if node.op != "call_function" or not isinstance(target, OpOverload):
        return
    if torch.Tag.maybe_aliasing_or_mutating in target.tags and str(target) != BATCH_NORM:
        yield from node.all_input_nodes
        return
    arguments = cast(Any, target)._schema.arguments
    given = {**dict(zip((a.name for a in arguments), node.args, strict=False)), **node.kwargs}
    viewed = [given.get(a.name) for a in arguments if a.alias_info is not None]
    yield from (leaf for leaf in pytree.tree_leaves(viewed) if isinstance(leaf, fx.Node))
