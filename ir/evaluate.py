"""Runs a graph with torch, optionally showing every value to an observer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import sympy
import torch
from torch.utils import _pytree as pytree

from .errors import PassError
from .fx_conversion import call_names
from .graph import Graph, Node, Signature
from .infer import call_arguments
from .op import CONSTANT, GETITEM, INPUT
from .types import evaluate_expression, free_symbols

Observer = Callable[[Node, Any], None]


def evaluate(graph: Graph, inputs: Sequence[torch.Tensor], observe: Observer | None = None) -> list[Any]:
    """The flat outputs of a graph for flat inputs.

    Args:
        graph: the graph.
        inputs: one tensor per graph input.
        observe: called with every node and its value, in topological order.

    Raises:
        PassError: wrong number of inputs, a dtype or size that contradicts an input's type, or an op that fails; names
            the node and where it came from.
    """
    sizes = bind_dims(graph, inputs)
    last_use = last_uses(graph)
    values: dict[Node, Any] = dict(zip(graph.inputs, inputs, strict=True))
    for position, node in enumerate(graph.nodes()):
        if node.op is not INPUT:
            values[node] = evaluate_node(node, values, sizes)
        if observe is not None:
            observe(node, values[node])
        for dead in last_use.get(position, ()):
            del values[dead]
    return [_resolve(o, values, sizes) for o in graph.outputs]


def run(
    graph: Graph, inputs: Sequence[torch.Tensor], hook: Callable[[Node, Any, Mapping[Node, Any]], Any]
) -> list[Any]:
    """Evaluate with a hook that may replace every node's value; values die after their last use outside autograd."""
    sizes = bind_dims(graph, inputs)
    dead = last_uses(graph)
    values: dict[Node, Any] = dict(zip(graph.inputs, inputs, strict=True))
    for position, node in enumerate(graph.nodes()):
        if node.op is INPUT:
            hook(node, values[node], values)
        else:
            values[node] = hook(node, evaluate_node(node, values, sizes), values)
        for gone in dead.get(position, ()):
            del values[gone]
    return [values[o] if isinstance(o, Node) else o for o in graph.outputs]


def evaluate_together(
    graph: Graph, samples: Sequence[Sequence[torch.Tensor]], hook: Callable[[Node, list[Any]], list[Any]]
) -> None:
    """Run a graph node by node, each node for all samples before the next, with a hook that may replace the values.

    What no input reaches, such as decoded weights, is computed once. Values die after their last use.

    Args:
        graph: the graph.
        samples: flat inputs; sizes of named dimensions may differ between samples.
        hook: called with every node and its value for each sample, in topological order; gives the values that the
            nodes behind it see.

    Raises:
        PassError: as :func:`evaluate`.
    """
    sizes = [bind_dims(graph, inputs) for inputs in samples]
    given = {node: [inputs[i] for inputs in samples] for i, node in enumerate(graph.inputs)}
    dead = last_uses(graph)
    fixed: set[Node] = set()
    values: dict[Node, list[Any]] = {}
    for position, node in enumerate(graph.nodes()):
        if node.op is INPUT:
            values[node] = hook(node, given[node])
        elif fixed.issuperset(node.inputs) and not _has_symbols(node):
            fixed.add(node)
            alone = evaluate_node(node, {source: values[source][0] for source in node.inputs}, {})
            values[node] = hook(node, [alone] * len(samples))
        else:
            own = [{source: values[source][k] for source in node.inputs} for k in range(len(samples))]
            values[node] = hook(node, [evaluate_node(node, v, s) for v, s in zip(own, sizes, strict=True)])
        for gone in dead.get(position, ()):
            del values[gone]


def _has_symbols(node: Node) -> bool:
    waiting: list[Any] = [value for _, value in node.arguments]
    while waiting:
        value = waiting.pop()
        if isinstance(value, tuple):
            waiting.extend(cast("tuple[Any, ...]", value))
        elif isinstance(value, sympy.Basic) and value.free_symbols:
            return True
    return False


def evaluate_node(node: Node, values: Mapping[Node, Any], sizes: Mapping[str, int]) -> Any:
    """The value of one node from the values of its inputs."""
    if node.op is CONSTANT:
        return node.handle.tensor
    if node.op is GETITEM:
        return values[node.argument("value")][node.argument("index")]
    resolved = {name: _resolve(value, values, sizes) for name, value in node.arguments}
    args, kwargs = call_arguments(node.op, resolved)
    try:
        return cast(Any, node.op.overload)(*args, **kwargs)
    except Exception as error:
        raise PassError(f"{node.op.name} ({node.origin}): {error}") from error


def call(graph: Graph, args: Sequence[Any], kwargs: Mapping[str, Any] | None = None) -> Any:
    """Run a graph with the user's own arguments; the result has the user's own structure."""
    outputs = evaluate(graph, flatten_call(graph, args, kwargs or {}))
    if graph.signature is None or graph.signature.out_spec is None:
        return outputs[0] if len(outputs) == 1 else outputs
    return pytree.tree_unflatten(outputs, graph.signature.out_spec)


def flatten_call(graph: Graph, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[torch.Tensor]:
    """The flat tensors of a user's call, in the order of the graph's inputs.

    Arguments may be given by position or by name, as to the model itself.

    Raises:
        PassError: an argument is missing, unknown or given twice; its structure differs from the one that was captured;
            or it was fixed at capture and now has another value.
    """
    signature = graph.signature
    if signature is None or signature.in_spec is None:
        return _flat_tensors(args, kwargs)
    leaves, spec = pytree.tree_flatten(_bind_call(signature, args, kwargs))
    if spec != signature.in_spec:
        raise PassError(f"call: expected arguments of structure {signature.in_spec}; found {spec}")
    tensors: list[torch.Tensor] = []
    for leaf, fixed in zip(leaves, signature.leaves, strict=True):
        if fixed is None:
            tensors.append(_tensor(leaf))
        elif type(leaf) is not type(fixed[0]) or leaf != fixed[0]:
            raise PassError(f"call: an argument was fixed to {fixed[0]!r} at capture; found {leaf!r}; capture again")
    return tensors


def fitting_call(graph: Graph, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[torch.Tensor]:
    """The same, of dtypes and sizes that the graph takes.

    Raises:
        PassError: as :func:`flatten_call` and :func:`bind_dims`.
    """
    inputs = flatten_call(graph, args, kwargs)
    bind_dims(graph, inputs)
    return inputs


def _flat_tensors(args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[torch.Tensor]:
    if kwargs:
        raise PassError(f"call: expected flat tensors by position; found keywords {', '.join(kwargs)}")
    return [_tensor(a) for a in args]


def _tensor(value: Any) -> torch.Tensor:
    if not isinstance(value, torch.Tensor):
        found = f"{type(value).__name__} {value!r}"
        shown = found if len(found) < 40 else f"{type(value).__name__}; write torch.as_tensor(...)"
        raise PassError(f"call: expected a tensor, as at capture; found {shown}")
    return value


def _bind_call(
    signature: Signature, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The call in the captured form: the same arguments by position, the others by name in the captured order."""
    names = call_names(signature)
    positional = signature.in_spec.children()[0].num_children
    given = dict(zip(names, args, strict=False))
    twice = [name for name in kwargs if name in given]
    unknown = [name for name in kwargs if name not in names]
    missing = [name for name in names if name not in given and name not in kwargs]
    if twice or unknown or missing or len(args) > len(names):
        problems = [("missing", missing), ("unknown", unknown), ("given twice", twice)]
        found = "; ".join(f"{what}: {', '.join(which)}" for what, which in problems if which)
        raise PassError(f"call: expected ({', '.join(names)}); {found or f'found {len(args)} arguments'}")
    given |= kwargs
    return tuple(given[n] for n in names[:positional]), {n: given[n] for n in names[positional:]}


def bind_dims(graph: Graph, inputs: Sequence[torch.Tensor]) -> dict[str, int]:
    """The value of every named dimension, read off the inputs.

    Raises:
        PassError: wrong count, dtype, rank or size; names the input, what was expected and what was found.
    """
    if len(inputs) != len(graph.inputs):
        raise PassError(f"inputs: expected {len(graph.inputs)} tensors; found {len(inputs)}")
    sizes: dict[str, int] = {}
    for node, value in zip(graph.inputs, inputs, strict=True):
        kind = node.tensor_type
        if value.dtype != kind.dtype or value.dim() != kind.rank:
            raise PassError(f"input {_name(node)}: expected {kind}; found {_shown(value)}")
        for dim, size in zip(kind.shape, value.shape, strict=True):
            if isinstance(dim, sympy.Symbol):
                sizes.setdefault(str(dim), size)
    _solve_derived(graph, inputs, sizes)
    _check_sizes(graph, inputs, sizes)
    return sizes


def _solve_derived(graph: Graph, inputs: Sequence[torch.Tensor], sizes: dict[str, int]) -> None:
    """Dimensions that occur only inside an expression, such as ``2*half``, solved one symbol at a time."""
    for node, value in zip(graph.inputs, inputs, strict=True):
        for dim, size in zip(node.tensor_type.shape, value.shape, strict=True):
            unknown = sorted(free_symbols(dim) - set(sizes))
            if len(unknown) == 1 and isinstance(dim, sympy.Expr):
                name = graph.dims[unknown[0]].symbol
                known = {s: sympy.Integer(sizes[str(s)]) for s in dim.free_symbols if str(s) in sizes}
                solutions = cast("list[sympy.Expr]", sympy.solve(cast(Any, dim).xreplace(known) - size, name))
                if solutions and solutions[0].is_integer:
                    sizes[unknown[0]] = int(cast(int, solutions[0]))


def _check_sizes(graph: Graph, inputs: Sequence[torch.Tensor], sizes: Mapping[str, int]) -> None:
    for node, value in zip(graph.inputs, inputs, strict=True):
        for axis, (dim, size) in enumerate(zip(node.tensor_type.shape, value.shape, strict=True)):
            expected = evaluate_expression(dim, sizes)
            if expected != size:
                raise PassError(
                    f"input {_name(node)}: expected {node.tensor_type}; found {_shown(value)}, whose axis {axis} "
                    + (_FIXED.format(dim) if isinstance(dim, int) else f"would have to be {expected} ({dim})")
                )
    for name, size in sizes.items():
        dim = graph.dims[name]
        if not dim.minimum <= size <= dim.maximum:
            raise PassError(f"dimension {name}: expected a size in [{dim.minimum}, {dim.maximum}]; found {size}")


_FIXED = "was fixed to {} at capture; pass dynamic_shapes=... to compile, so that it may vary"


def _name(node: Node) -> str:
    return str(node.argument("name"))


def _shown(value: torch.Tensor) -> str:
    return f"{value.dtype} {list(value.shape)}"


def last_uses(graph: Graph) -> dict[int, list[Node]]:
    """Position in ``graph.nodes()`` -> values that are dead after it. Outputs never die."""
    outputs = set(graph.output_nodes)
    last: dict[Node, int] = {}
    for position, node in enumerate(graph.nodes()):
        last[node] = position
        for source in node.inputs:
            last[source] = position
    dead: dict[int, list[Node]] = {}
    for node, position in last.items():
        if node not in outputs:
            dead.setdefault(position, []).append(node)
    return dead


def _resolve(value: Any, values: Mapping[Node, Any], sizes: Mapping[str, int]) -> Any:
    if isinstance(value, Node):
        return values[value]
    if isinstance(value, tuple):
        return [_resolve(v, values, sizes) for v in cast("tuple[Any, ...]", value)]
    if isinstance(value, sympy.Basic):
        return evaluate_expression(cast(sympy.Expr, value), sizes)
    return value
