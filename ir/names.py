"""Names of a graph's inputs and outputs: the user's own, unique by construction."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, cast

from .context import Context
from .errors import ConfigError
from .graph import Graph, Node, Signature
from .op import INPUT

LONE = "output"
"""The name of an output that the model returns without any structure."""


def unused_name(name: str, taken: Collection[str]) -> str:
    """``name``, or ``name_1``, ``name_2``, ... where it is taken.

    >>> unused_name("mean", {"mean", "mean_1"})
    'mean_2'
    """
    candidate, number = name, 0
    while candidate in taken:
        number += 1
        candidate = f"{name}_{number}"
    return candidate


# ------------------------------------------------------------------------------------------------ reading
def input_names(graph: Graph) -> tuple[str, ...]:
    """The names of the inputs, in order."""
    return tuple(str(node.argument("name")) for node in graph.inputs)


def output_names(graph: Graph) -> tuple[str, ...]:
    """One name for each output that is a tensor, in order: the user's choice, else the keys of what the model returns.

    Nested keys are joined by dots; what has no key has its position: ``logits``, ``past.0.key``, ``output_1``. No two
    are equal, and none is the name of an input.
    """
    signature = graph.signature
    if signature is not None and signature.outputs:
        return signature.outputs
    taken = set(input_names(graph))
    names: list[str] = []
    for wanted in _wanted(graph):
        clear = f"{wanted}_out" if wanted in taken and wanted not in names else wanted
        names.append(unused_name(clear, taken))
        taken.add(names[-1])
    return tuple(names)


def _wanted(graph: Graph) -> list[str]:
    """The names that the keys give, for outputs that are tensors."""
    spec = graph.signature.out_spec if graph.signature is not None else None
    paths = list(_paths(spec)) if spec is not None else [(str(i),) for i in range(len(graph.outputs))]
    tensors = [path for path, value in zip(paths, graph.outputs, strict=True) if isinstance(value, Node)]
    if len(tensors) == 1 and all(part.isdecimal() for part in tensors[0]):
        return [LONE]
    return [_joined(path) for path in tensors]


def _joined(path: Sequence[str]) -> str:
    """``("0", "key")`` -> ``output_0.key``: a name says what it is, also where it starts with a position."""
    text = "".join(c if c.isprintable() and not c.isspace() else "_" for c in ".".join(path))
    if not text:
        return LONE
    return f"{LONE}_{text}" if not path[0] or path[0].isdecimal() else text


def _paths(spec: Any) -> Iterator[tuple[str, ...]]:
    """The keys that lead to each leaf of a pytree spec of torch, in order."""
    if spec.is_leaf():
        yield ()
        return
    children = cast("list[Any]", spec.children())
    keys = field_names(spec) or [str(i) for i in range(len(children))]
    for key, child in zip(keys, children, strict=True):
        for rest in _paths(child):
            yield (key, *rest)


def field_names(spec: Any) -> list[str] | None:
    """The keys of a dict, or the names of the fields of a named tuple, a dataclass or an output class of a library.

    None for lists, tuples and classes whose fields are not known.
    """
    count, context = len(spec.children()), spec.context
    if spec.type in (list, tuple):
        return None
    parts = list(cast("Sequence[Any]", context)) if isinstance(context, list | tuple) else []
    for candidate in (context, getattr(context, "_fields", None), *parts):  # torch keeps more than the keys for some
        if isinstance(candidate, list | tuple):
            keys = list(cast("Sequence[Any]", candidate))
            texts = [str(key) for key in keys if isinstance(key, str | int)]
            if len(keys) == count == len(set(texts)):
                return texts or None
    return None


# ------------------------------------------------------------------------------------------------ renaming
def renamed(graph: Graph, inputs: Sequence[str] | None = None, outputs: Sequence[str] | None = None) -> Graph:
    """The graph with other names for its inputs and outputs; the call of the model stays as it is.

    Args:
        graph: the graph.
        inputs: one name for each input tensor.
        outputs: one name for each output tensor.

    Raises:
        ConfigError: another number of names, a name that no file can hold, or one name for two things.
    """
    own_inputs = list(inputs) if inputs is not None else list(input_names(graph))
    if inputs is not None:
        _check("input_names", own_inputs, input_names(graph))
    if outputs is not None:
        _check("output_names", list(outputs), output_names(graph))
        shared = [name for name in outputs if name in own_inputs]
        if shared:
            raise ConfigError(
                f"output_names: expected other names than the inputs'; found {shared[0]!r} for both; rename one of them"
            )
    signature = graph.signature or Signature()
    if outputs is not None:
        signature = dataclasses.replace(signature, outputs=tuple(outputs))
    elif inputs is not None and signature.outputs:
        signature = dataclasses.replace(signature, outputs=())
    return _rebuilt(graph, own_inputs, signature)


def _check(where: str, names: list[str], present: Sequence[str]) -> None:
    if len(names) != len(present):
        raise ConfigError(
            f"{where}: expected {len(present)} names, for {', '.join(present) or 'nothing'}; found {len(names)}"
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"{where}: expected a name once; found {twice[0]!r} for two tensors")
    for name in names:
        if not name or not name.isprintable() or any(c.isspace() or c in "\"\\'" for c in name):
            raise ConfigError(f"{where}: expected names of letters, digits and signs such as _ . : / -; found {name!r}")


def _rebuilt(graph: Graph, names: Iterable[str], signature: Signature) -> Graph:
    """The graph in a context of its own: an old name may be a new one of another input."""
    context = Context(graph.dims.values())
    done = {n: context.input(name, n.tensor_type) for n, name in zip(graph.inputs, names, strict=True)}
    for node in graph.nodes():
        if node.op is not INPUT:
            done[node] = context.moved(node, done)
    outputs = (done[o] if isinstance(o, Node) else o for o in graph.outputs)
    return context.graph((done[n] for n in graph.inputs), outputs, signature)
