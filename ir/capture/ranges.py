"""Which range of a dynamic size satisfies the conditions that a model's lines make: torch's own advice misses some."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sympy

TRIED = 512
"""Sizes that are tried; a range that begins beyond them is no range that a user would want."""


def narrowed(conditions: Sequence[sympy.Basic], names: Iterable[str], begins: Mapping[str, int]) -> str:
    """``n = Dim('n', min=3)`` for every name; empty where a condition is no bound from below.

    Args:
        conditions: over the names, all of which have to hold.
        names: of the sizes.
        begins: name -> the least size of the range that was given. Where all conditions hold from there on, torch
            cannot prove one of them, and no range would help.
    """
    found: list[str] = []
    for name in names:
        own = [c for c in conditions if {str(s) for s in c.free_symbols} == {name}]
        least = _least(own, name)
        if least is None or least <= begins.get(name, 0):
            return ""
        found.append(f"{name} = Dim('{name}', min={least})")
    mixed = [c for c in conditions if len(c.free_symbols) > 1]
    return "" if mixed else "; ".join(found)


def _least(conditions: Sequence[sympy.Basic], name: str) -> int | None:
    """The least size from which on all conditions hold, as far as sizes are tried."""
    fails = [size for size in range(TRIED) if not all(_holds(c, name, size) for c in conditions)]
    least = max(fails, default=0) + 1
    return least if conditions and least <= TRIED // 2 else None


def _holds(condition: sympy.Basic, name: str, size: int) -> bool:
    values: dict[Any, Any] = {s: sympy.Integer(size) for s in condition.free_symbols if str(s) == name}
    try:
        return condition.xreplace(values) == sympy.true
    except ZeroDivisionError:  # torch's own quotients say so: a view over a product of sizes, and a size of 0
        return False
