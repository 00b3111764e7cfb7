"""What keeping to an older ONNX Runtime costs, in words of a report."""

from __future__ import annotations

from ...ir.graph import Graph, Node
from ...passes.fuse_attention import ATTENTION as SOURCE
from .kernels.embeddings import BLOCKS, fits_blocks
from .runtimes.kept import ATTENTION, has, lacks

PRODUCTS = (SOURCE, "instar_ort.softmax_clamped.default", "aten.softmax.int", "aten._softmax.default")
"""Ops at which attention is written as products."""


def given_up(graph: Graph, version: str | None, attention_ms: float | None) -> list[str]:
    """One line for everything in a legal graph that a newer runtime would compute in one kernel.

    Args:
        graph: what is written.
        version: of the runtime to keep to.
        attention_ms: milliseconds that the kernel of attention would save; None where that was not measured.
    """
    if version is None:
        return []
    found = [*_attention(graph, version, attention_ms), *_embeddings(graph, version)]
    return [f"kept to ONNX Runtime {version}: {line}" for line in found]


def _attention(graph: Graph, version: str, milliseconds: float | None) -> list[str]:
    if has(version, ATTENTION) or milliseconds == 0.0 or not any(map(_is_softmax, graph.nodes())):
        return []
    cost = "its time was not measured" if milliseconds is None else f"{milliseconds:.3g} ms a run, measured here"
    return [f"attention cannot be one kernel (no {lacks(version, ATTENTION)}); {cost}"]


def _is_softmax(node: Node) -> bool:
    return node.op.name in PRODUCTS


def _embeddings(graph: Graph, version: str) -> list[str]:
    if has(version, BLOCKS):
        return []
    packed = [n for n in graph.nodes() if n.op.name == "instar_ort.gather_packed.default"]
    count = sum(fits_blocks(*(n.argument(a) for a in ("bits", "group", "columns", "zero"))) for n in packed)
    if not count:
        return []
    return [f"rows of {count} embeddings are unpacked in several operators (no {lacks(version, BLOCKS)})"]
