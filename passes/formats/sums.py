"""Sums of formats: each part stores what the parts before it left over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ...ir.errors import FormatError
from ...ir.ops import Ops, V
from ..objective import Problem
from .affine import HALF_STEP
from .base import Chooser, Format, Shape, TensorSpec, named, part
from .use import Use


@dataclass(frozen=True)
class SumFormat(Format):
    """``a + b + ...``: ``a`` stores the weight, ``b`` stores what ``a`` got wrong, and so on; the weight is the sum.

    Stored tensors are the parts' own, named ``0.codes``, ``1.codes``, ...

    Raises:
        FormatError: if there are fewer than two parts.
    """

    parts: tuple[Format, ...]

    def __post_init__(self) -> None:
        if len(self.parts) < 2:
            raise FormatError(f"sum of formats: expected two or more parts, got {len(self.parts)}; use the part itself")

    @property
    def spelling(self) -> str:
        """``int4:g64 + int2:channel``."""
        return " + ".join(part.spelling for part in self.parts)

    @property
    def families(self) -> frozenset[str]:
        """Those of the parts."""
        return frozenset[str]().union(*(p.families for p in self.parts))

    @property
    def is_dense(self) -> bool:
        """Whether every part is."""
        return all(p.is_dense for p in self.parts)

    @property
    def has_groups(self) -> bool:
        """Whether a part has."""
        return any(p.has_groups for p in self.parts)

    def refuses(self, shape: Shape) -> str | None:
        """The first reason of a part."""
        return next((reason for part in self.parts if (reason := part.refuses(shape)) is not None), None)

    def tensors(self, shape: Shape) -> Mapping[str, TensorSpec]:
        """The tensors of every part."""
        return {f"{i}.{n}": spec for i, part in enumerate(self.parts) for n, spec in part.tensors(shape).items()}

    def weight(self, ops: Ops[V], stored: Mapping[str, V], shape: Shape) -> V:
        """The parts' weights, added from left to right."""
        return _weight(ops, stored, shape, tuple(enumerate(self.parts)))

    def apply(self, ops: Ops[V], x: V, stored: Mapping[str, V], use: Use) -> V:
        """Parts without structure are one weight; the others are applied on their own, and results are added."""
        dense = tuple((i, p) for i, p in enumerate(self.parts) if p.is_dense)
        pieces = [((i, p),) for i, p in enumerate(self.parts) if not p.is_dense] + ([dense] if dense else [])
        total = _piece(ops, x, stored, use if len(pieces) == 1 else use.without_bias(), pieces[0])
        for piece in pieces[1:]:
            own = use if piece is pieces[-1] else use.without_bias()
            total = ops("aten.add.Tensor", total, _piece(ops, x, stored, own, piece))
        return total

    def store(self, problem: Problem, encoder: Chooser) -> Mapping[str, Tensor]:
        """Every part sees what the parts before it left over, and the statistics of the layer."""
        stored: dict[str, Tensor] = {}
        rest = problem
        for index, each in enumerate(self.parts):
            encoded = each.encode(rest, encoder=encoder)
            stored.update(named(encoded.tensors, f"{index}."))
            rest = problem.instead(_without_dust(torch.sub(rest.weight, each.decode(encoded))))
        return stored


Piece = tuple[tuple[int, Format], ...]
"""Parts of a sum with their numbers."""


def _weight(ops: Ops[V], stored: Mapping[str, V], shape: Shape, piece: Piece) -> V:
    total, *others = (each.weight(ops, part(stored, f"{i}."), shape) for i, each in piece)
    for other in others:
        total = ops("aten.add.Tensor", total, other)
    return total


def _piece(ops: Ops[V], x: V, stored: Mapping[str, V], use: Use, piece: Piece) -> V:
    number, first = piece[0]
    if not first.is_dense:
        return first.apply(ops, x, part(stored, f"{number}."), use)
    return use.dense(ops, x, _weight(ops, stored, use.shape, piece))


def _without_dust(rest: Tensor) -> Tensor:
    """Zeros in place of a remainder so small that no float16 scale can express it."""
    return torch.zeros_like(rest) if float(rest.abs().max()) < HALF_STEP else rest
