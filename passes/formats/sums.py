"""Sums of formats: each part stores what the others leave over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ...ir.errors import FormatError
from ...ir.ops import Ops, V
from ..objective import Problem
from .affine import HALF_STEP
from .base import SUM, Chooser, Encoded, Format, Shape, TensorSpec, named, part
from .use import Use


@dataclass(frozen=True)
class SumFormat(Format):
    """``a + b + ...``: ``a`` stores the weight, ``b`` stores what ``a`` got wrong, and so on; the weight is the sum.

    An encoder of sums may go on: ``a`` stores what ``b`` leaves over, and so in turn; the best iterate is kept.

    Sums among the parts are their parts: ``a + (b + c)`` is ``a + b + c``.

    Stored tensors are the parts' own, named ``0.codes``, ``1.codes``, ...

    Raises:
        FormatError: if there are fewer than two parts.
    """

    parts: tuple[Format, ...]

    def __post_init__(self) -> None:
        flat = tuple(p for part in self.parts for p in (part.parts if isinstance(part, SumFormat) else (part,)))
        object.__setattr__(self, "parts", flat)
        if len(flat) < 2:
            raise FormatError(f"sum of formats: expected two or more parts, got {len(flat)}; use the part itself")

    @property
    def spelling(self) -> str:
        """``int4:g64 + int2:channel``."""
        return " + ".join(part.spelling for part in self.parts)

    @property
    def operand(self) -> str:
        """In parentheses."""
        return f"({self.spelling})"

    @property
    def families(self) -> frozenset[str]:
        """Those of the parts, and of sums."""
        return frozenset({SUM}).union(*(p.families for p in self.parts))

    @property
    def is_dense(self) -> bool:
        """Whether every part is."""
        return all(p.is_dense for p in self.parts)

    @property
    def has_groups(self) -> bool:
        """Whether a part has."""
        return any(p.has_groups for p in self.parts)

    @property
    def has_parts(self) -> bool:
        """They have."""
        return True

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
        """Every part sees what the other parts leave over, and the statistics of the layer."""
        best = fitted(self.parts, problem, encoder)
        return {name: t for i, each in enumerate(best) for name, t in named(each.tensors, f"{i}.").items()}


def fitted(parts: tuple[Format, ...], problem: Problem, encoder: Chooser) -> tuple[Encoded, ...]:
    """Every part stored; of all iterates of the encoder's alternation the one of least error.

    The first sweep stores the parts one after another. Later ones store each part again with the others as they are.
    """
    rule = encoder.alternation()
    current = _Iterate.sequential(parts, problem, encoder)
    best, least = current.stored, current.error(problem)
    for _ in range(rule.sweeps - 1):
        before = least
        for index in range(len(parts)):
            current = current.again(index, parts, problem, encoder)
            error = current.error(problem)
            if error < least:
                best, least = current.stored, error
        if least >= before * (1.0 - rule.gain):
            break
    return best


@dataclass(frozen=True, eq=False)
class _Iterate:
    """All parts of a sum as they are stored, and the weights that they stand for."""

    stored: tuple[Encoded, ...]
    decoded: tuple[Tensor, ...]

    @classmethod
    def sequential(cls, parts: tuple[Format, ...], problem: Problem, encoder: Chooser) -> _Iterate:
        found = cls((), ())
        for each in parts:
            encoded = each.encode(found.rest(problem), encoder=encoder)
            found = cls((*found.stored, encoded), (*found.decoded, each.decode(encoded)))
        return found

    def rest(self, problem: Problem, skipped: int | None = None) -> Problem:
        """What all parts but one leave over."""
        others = tuple(d for i, d in enumerate(self.decoded) if i != skipped)
        return problem.instead(_without_dust(problem.weight - _total(others))) if others else problem

    def again(self, index: int, parts: tuple[Format, ...], problem: Problem, encoder: Chooser) -> _Iterate:
        """One part stored anew."""
        encoded = parts[index].encode(self.rest(problem, index), encoder=encoder)
        stored, decoded = list(self.stored), list(self.decoded)
        stored[index], decoded[index] = encoded, parts[index].decode(encoded)
        return _Iterate(tuple(stored), tuple(decoded))

    def error(self, problem: Problem) -> float:
        """Of the sum, as it is decoded."""
        return problem.error(_total(self.decoded))


def _total(weights: tuple[Tensor, ...]) -> Tensor:
    """Added from left to right, as :meth:`SumFormat.weight` does."""
    total, *others = weights
    for other in others:
        total = total + other
    return total


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
