"""Functional programs: what torch.export wrote is read as it is where its writes are new values for old ones.

``run_decompositions`` traces a program anew, which takes three times as long as torch.export itself. Writes apart, all
that it changes is the spelling of a few composite operators, and the canonicalize pass has rules for those.
"""

from __future__ import annotations

import functools
from typing import Any, cast

import torch
from torch import fx
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from .errors import explain_functionalization, quiet, refuse_fixed, refuse_names
from .writes import BATCH_NORM, Writes, find_writes, functional_variant, is_spelled

SIZE_MODULES = ("_operator", "math", "builtins", "torch")
"""Modules of the functions that compute sizes, which are no operators."""

_TRAINING = 5
"""The position of the flag of ``batch_norm`` that makes it write its statistics."""

_COMPOSITES = frozenset(
    (
        "aten.alpha_dropout.default",
        "aten.broadcast_to.default",
        "aten.chunk.default",
        "aten.contiguous.default",
        "aten.dropout.default",
        "aten.expand_as.default",
        "aten.feature_alpha_dropout.default",
        "aten.feature_dropout.default",
        "aten.flatten.using_ints",
        "aten.mT.default",
        "aten.moveaxis.int",
        "aten.moveaxis.intlist",
        "aten.movedim.int",
        "aten.movedim.intlist",
        "aten.narrow.default",
        "aten.numpy_T.default",
        "aten.positive.default",
        "aten.ravel.default",
        "aten.reshape.default",
        "aten.reshape_as.default",
        "aten.resolve_conj.default",
        "aten.resolve_neg.default",
        "aten.swapaxes.default",
        "aten.swapdims.default",
        "aten.to.device",
        "aten.to.dtype",
        "aten.to.dtype_layout",
        "aten.to.other",
        "aten.unflatten.int",
        "aten.view_as.default",
    )
)
"""Composite operators that torch takes apart because their results may share memory, and that canonicalize spells."""


def functional(program: ExportedProgram) -> tuple[ExportedProgram, Writes]:
    """A program and the writes in it that are read as new values: itself, or as ``run_decompositions`` makes it.

    Raises:
        CaptureError: torch cannot make it functional, or a name in it is no Python name.
    """
    refuse_names(program)
    writes = find_writes(program.graph) if _is_readable(program) else None
    if writes is not None:
        return program, writes
    try:
        with quiet():
            made = program.run_decompositions(decomp_table={})
    except Exception as error:
        raise explain_functionalization(error, program) from error
    refuse_fixed(program, made)
    return made, Writes()


def live_nodes(graph: fx.Graph) -> list[fx.Node]:
    """The nodes that outputs, writes and assertions need, in order."""
    live: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        if node in live or node.is_impure():
            live.update((node, *node.all_input_nodes))
    return [node for node in graph.nodes if node in live]


def _is_readable(program: ExportedProgram) -> bool:
    """Whether every call is an operator of the IR, writes apart, and no tensor is a wrapper of others."""
    tensors = (*program.state_dict.values(), *program.constants.values())
    if any(is_traceable_wrapper_subclass(t) for t in tensors):
        return False
    return all(_is_operator(n) for n in program.graph.nodes if n.op == "call_function")


def _is_operator(call: fx.Node) -> bool:
    if not isinstance(call.target, OpOverload):
        return getattr(call.target, "__module__", "") in SIZE_MODULES
    if is_spelled(call):
        return True
    target = functional_variant(call.target) or call.target
    if str(target) == BATCH_NORM:
        return call.args[_TRAINING] is False
    return str(target) in _COMPOSITES or not _is_taken_apart(target)


@functools.cache
def _is_taken_apart(target: OpOverload) -> bool:
    """Whether ``run_decompositions`` takes an operator apart: a composite one that may return a view of an input.

    ``native_batch_norm`` is one more: its schema does not say that it writes.
    """
    if not target.has_kernel_for_dispatch_key(torch.DispatchKey.CompositeImplicitAutograd):
        return False
    may_view = any(a.alias_info is not None for a in cast(Any, target)._schema.arguments)
    tagged = torch.Tag.maybe_aliasing_or_mutating in target.tags
    return may_view or tagged or str(target) == "aten.native_batch_norm.default"
