"""Promote floats: a network in a dtype that a runtime has no kernels for computes in float32 instead."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch

from ..ir.constants import ConstantHandle
from ..ir.errors import PassError, VerifyError
from ..ir.graph import Graph, Node
from ..ir.op import CONSTANT, GETITEM, INPUT
from ..ir.types import DTYPES, TensorType
from .base import PassResult

RULE = "promote-floats"
_READS_BITS = ("aten.view.dtype",)


@dataclass(frozen=True)
class PromoteFloats:
    """Computes in float32 what the model computes in other floating dtypes.

    Rewrites (before -> after), for every dtype of ``dtypes``:

    * a constant -> the same numbers in float32
    * an op on such values -> the op on float32 values; ``dtype`` arguments likewise
    * an input, an output -> a conversion behind it, before it: the call of the model stays as it is

    Numbers beyond float32's range become its largest, so that a mask's lowest number stays finite.

    Refuses: ops that read the bits of a number are errors. From bfloat16 and float16 nothing is lost, and what the
    model rounds in between is not rounded; from float64 what float32 has fewer digits for.

    Attributes:
        dtypes: short names of the dtypes to replace, such as ``bf16``.
    """

    name: ClassVar[str] = RULE
    exact: ClassVar[bool] = True

    dtypes: tuple[str, ...] = ("bf16",)

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            PassError: a name that is no floating dtype.
        """
        for name in self.dtypes:
            if name not in DTYPES or not DTYPES[name].is_floating_point:
                raise PassError(f"{RULE}: expected dtypes such as bf16, f16 or f64; found {name!r}")

    def __call__(self, graph: Graph) -> PassResult:
        """Promote everything."""
        narrow = frozenset(DTYPES[name] for name in self.dtypes)
        if not any(t.dtype in narrow for node in graph.nodes() for t in _types(node)):
            return PassResult(graph)
        done: dict[Node, Node] = {}
        fired: Counter[str] = Counter()
        for node in graph.nodes():
            done[node] = _promoted(graph, node, done, narrow)
            fired[RULE] += any(t.dtype in narrow for t in _types(node))
        outputs = tuple(_as_before(graph, o, done) if isinstance(o, Node) else o for o in graph.outputs)
        return PassResult(graph.with_outputs(outputs), fired)


def note_of(dtypes: tuple[str, ...]) -> str:
    """What a report says about a network that was promoted."""
    names = " and ".join(str(DTYPES[name]).removeprefix("torch.") for name in dtypes)
    return f"computed in float32, not in {names}, for which the runtime lacks kernels"


def _types(node: Node) -> tuple[TensorType, ...]:
    return node.type if isinstance(node.type, tuple) else (node.type,)


def _promoted(graph: Graph, node: Node, done: Mapping[Node, Node], narrow: frozenset[torch.dtype]) -> Node:
    context = graph.context
    if node.op is INPUT:
        return _in_float(graph, node, node, narrow)
    if node.op is CONSTANT:
        return context.constant_of(_wide(node.handle)) if node.handle.type.dtype in narrow else node
    if node.op is GETITEM:
        return _in_float(graph, context.item(done[node.argument("value")], node.argument("index")), node, narrow)
    if node.op.name in _READS_BITS and any(t.dtype in narrow for n in (node, *node.inputs) for t in _types(n)):
        raise PassError(
            f"op {node.op.name} ({node.origin}): reads the bits of a number, which float32 has others of; "
            "call model.float() before compiling"
        )
    arguments = tuple((name, _argument(value, done, narrow)) for name, value in node.arguments)
    try:
        return _in_float(graph, context.node_of(node.op, arguments, origin=node.origin), node, narrow)
    except VerifyError as error:
        raise PassError(
            f"op {node.op.name} ({node.origin}): refuses float32: {error}; call model.float() before compiling"
        ) from error


def _in_float(graph: Graph, made: Node, before: Node, narrow: frozenset[torch.dtype]) -> Node:
    if isinstance(made.type, tuple) or made.type.dtype not in narrow:
        return made
    with graph.context.origin(before.origin):
        return graph.context.node("aten._to_copy", made, dtype=torch.float32)


def _as_before(graph: Graph, output: Node, done: Mapping[Node, Node]) -> Node:
    made, wanted = done[output], output.tensor_type.dtype
    if made.tensor_type.dtype == wanted:
        return made
    with graph.context.origin(output.origin):
        return output if output.op is INPUT else graph.context.node("aten._to_copy", made, dtype=wanted)


def _argument(value: Any, done: Mapping[Node, Node], narrow: frozenset[torch.dtype]) -> Any:
    if isinstance(value, Node):
        return done[value]
    if isinstance(value, torch.dtype):
        return torch.float32 if value in narrow else value
    if isinstance(value, float) and torch.finfo(torch.float32).max < abs(value) < float("inf"):
        return torch.finfo(torch.float32).max if value > 0 else torch.finfo(torch.float32).min
    if isinstance(value, tuple):
        return tuple(_argument(v, done, narrow) for v in cast("tuple[Any, ...]", value))
    return value


def _wide(handle: ConstantHandle) -> ConstantHandle:
    """Converted when it is touched."""

    def load() -> torch.Tensor:
        return handle.tensor.float()

    kind = TensorType(torch.float32, handle.type.shape)
    return ConstantHandle(handle.name, kind, load, handle.kind, handle.aliases)
