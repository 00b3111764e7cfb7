"""Spellings of activation quantization in configs, expanded."""

from __future__ import annotations

from collections.abc import Sequence

from ..ir.options import NONE, STATIC_INT8

DYNAMIC = ("dynamic_int8:tensor", "dynamic_int8:token")


def expand_dynamic(activations: Sequence[str]) -> tuple[str, ...]:
    """``dynamic_int8`` stands for its granularities; everything else for itself. Order is kept, duplicates go."""
    found: dict[str, None] = {}
    for activation in activations:
        found.update(dict.fromkeys(DYNAMIC if activation == "dynamic_int8" else (activation,)))
    return tuple(found)


__all__ = ["DYNAMIC", "NONE", "STATIC_INT8", "expand_dynamic"]
