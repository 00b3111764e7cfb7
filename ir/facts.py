"""What is known about an op beside its type rule and its evaluation: what it costs, and which weights it uses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .weight_views import WeightRole

Shape = tuple[int, ...]

Formula = Callable[[Mapping[str, Shape], Mapping[str, Any], Shape], int]
"""Operations, from the shapes of the tensors (``name.0``, ``name.1``, ... in a list), the arguments, and the result's
shape; a multiply-add counts as two."""


@dataclass(frozen=True)
class Facts:
    """Of one op, all its overloads.

    Attributes:
        flops: of products; ``None`` counts one operation per element of the largest operand or result.
        moves: it only moves, selects or creates data.
        may_copy: a view that copies where memory does not allow one.
        gathers: it reads as much of its first argument as it returns.
        weights: the parameters that layers are made of.
    """

    flops: Formula | None = None
    moves: bool = False
    may_copy: bool = False
    gathers: bool = False
    weights: tuple[WeightRole, ...] = ()

    @property
    def weight(self) -> WeightRole | None:
        """The weight of a product that formats may take over; None where there is none."""
        return next((role for role in self.weights if role.input), None)


ELEMENTWISE = Facts()
