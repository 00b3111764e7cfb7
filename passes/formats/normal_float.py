"""``nf4``, ``nf3`` and ``nf2``: quantiles of the normal distribution, with scales quantized once more (``:dq``)."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import ClassVar

import torch
from torch import Tensor

from ...ir.dialect import join_groups, split_groups
from ...ir.errors import FormatError
from ...ir.ops import EAGER, Ops, V
from ...ir.packing import pack
from ..objective import Problem
from .base import Chooser, Shape, TensorSpec
from .grammar import Term
from .grids import Choice, decode_choice, nearest
from .layout import layout_of, parse_flag, parse_group, spelled_group
from .levels import LEVELS, LevelFormat, LevelGrid

TAIL = (2.0 - 1.0 / 30.0 - 1.0 / 32.0) / 2.0
"""The last quantile of every width: halfway between those of 15 and of 16 equal shares, so that it is finite."""

BLOCK = 256
"""Scales that share a scale."""


@functools.cache
def normal_levels(bits: int) -> tuple[float, ...]:
    """``2^bits`` rising levels in -1..1: zero, ``2^(bits-1)`` positive and one fewer negative quantiles.

    (QLoRA, arXiv 2305.14314; the widths below 4 as in LQ-LoRA, arXiv 2311.12023.)

    >>> [round(level, 4) for level in normal_levels(3)]
    [-1.0, -0.4786, -0.2171, 0.0, 0.1609, 0.3379, 0.5626, 1.0]
    """
    half = 1 << (bits - 1)
    positive, negative = _quantiles(half), _quantiles(half - 1)
    levels = [-x for x in reversed(negative)] + [0.0] + positive
    return tuple(level / max(levels) for level in levels)


def _quantiles(count: int) -> list[float]:
    """Rising quantiles of ``count`` evenly spaced probabilities from above one half to :data:`TAIL`."""
    normal = NormalDist()
    return [normal.inv_cdf(0.5 + (TAIL - 0.5) * (index + 1) / count) for index in range(count)]


@functools.cache
def dynamic_levels() -> tuple[float, ...]:
    """256 levels in -1..1 whose precision moves with the exponent: dynamic tree quantization (arXiv 2110.02861).

    For each power of ten down to ``10^-6`` the middles of equal shares of 0.1 to 1, one share for the smallest and
    twice as many for every next; both signs; zero and one.
    """
    positive: list[float] = []
    for exponent in range(7):
        shares = 1 << exponent
        positive += [10.0 ** (exponent - 6) * (0.1 + 0.9 * (i + 0.5) / shares) for i in range(shares)]
    return (*(-x for x in reversed(positive)), 0.0, *positive, 1.0)


@dataclass(frozen=True)
class NormalFloat(LevelFormat):
    """Levels at quantiles of the normal distribution (QLoRA, arXiv 2305.14314).

    Double quantization stores, instead of a float16 scale, one byte: the scale less the mean of all scales, on
    :func:`dynamic_levels` with one float32 scale for each 256. For groups of 64 these are ``8/64 + 32/(64*256)`` bits
    a weight instead of 16/64. As published codes are those of the unrounded scales; encoders may choose them anew for
    the scales that are stored (:meth:`~instar.passes.encoders.Encoder.recode`), and what is stored is never worse than
    the published way.

    Attributes:
        group: see :class:`LevelFormat`.
        width: bits of a code, 2 to 4.
        double: whether scales are quantized once more.
    """

    width: int = 4
    double: bool = False

    options: ClassVar[str] = ":channel or :g16 to :g256, :dq"
    example_options: ClassVar[str] = ":g64"

    def __post_init__(self) -> None:
        if not 2 <= self.width <= 4:
            raise FormatError(f"normal float: expected 2, 3 or 4 bits, got {self.width}; choose a width in that range")
        super().__post_init__()

    @classmethod
    def of_term(cls, term: Term) -> NormalFloat:
        """Parse ``nf4:g64:dq``.

        Raises:
            ParseError: at the first option that is missing, unknown or out of range.
        """
        return cls(parse_group(term), int(term.name.removeprefix("nf")), parse_flag(term, "dq"))

    @property
    def name(self) -> str:
        """``nf4``."""
        return f"nf{self.width}"

    @property
    def spelling(self) -> str:
        """``nf4:g64``, ``nf4:g64:dq``, ``nf3:channel``."""
        return f"{self.name}:{spelled_group(self.group)}{':dq' if self.double else ''}"

    @property
    def levels(self) -> tuple[float, ...]:
        """See :func:`normal_levels`."""
        return normal_levels(self.width)

    def tensors(self, shape: Shape) -> Mapping[str, TensorSpec]:
        """``codes`` and ``scale``; or ``scale`` uint8 ``[1, rows * groups]``, ``block`` ``[1, blocks]``, ``mean``."""
        specs = super().tensors(shape)
        if not self.double:
            return specs
        rows, _, groups = layout_of(shape, self.group)
        return {
            "codes": specs["codes"],
            "scale": TensorSpec((1, rows * groups), torch.uint8),
            "block": TensorSpec((1, math.ceil(rows * groups / BLOCK)), torch.float32),
            "mean": TensorSpec((1, 1), torch.float32),
        }

    def store(self, problem: Problem, encoder: Chooser) -> Mapping[str, Tensor]:
        """See :meth:`LevelFormat.store`; judged with the scales that are stored."""
        if not self.double:
            return super().store(problem, encoder)
        self.check_range(problem.matrix)
        group = self.group or 0
        as_published = self._rounded_scales(nearest(self.grid, group, problem.matrix), problem)
        chosen = self._rounded_scales(encoder.choose(self.grid, group, problem), problem)
        anew = encoder.recode(self.grid, group, problem, chosen[0])
        ways = (as_published, (anew, chosen[1]))
        errors = [problem.error(decode_choice(self.grid, group, c).reshape(problem.weight.shape)) for c, _ in ways]
        choice, scales = ways[0] if errors[0] < errors[1] else ways[1]
        return {"codes": pack(choice.codes.to(torch.uint8), self.bits), **scales}

    def _rounded_scales(self, choice: Choice, problem: Problem) -> tuple[Choice, Mapping[str, Tensor]]:
        """A choice with the scales that are stored, and how they are."""
        stored = self.stored_scale(choice)
        return Choice(choice.codes, (self.scale(EAGER, stored, problem.weight.shape),)), stored

    def scale(self, ops: Ops[V], stored: Mapping[str, V], shape: Shape) -> V:
        """See :meth:`LevelFormat.scale`."""
        if not self.double:
            return stored["scale"]
        rows, _, groups = layout_of(shape, self.group)
        flat = ops(LEVELS, stored["scale"], stored["block"], dynamic_levels(), 8, BLOCK, (1, rows * groups))
        return ops("aten.reshape", ops("aten.add.Tensor", flat, stored["mean"]), (rows, groups))

    def stored_scale(self, choice: Choice) -> Mapping[str, Tensor]:
        """See :meth:`LevelFormat.stored_scale`. Groups of zeros take the mean of the others."""
        if not self.double:
            return super().stored_scale(choice)
        scale = choice.parameters[0].to(torch.float32)
        used = _used_groups(choice.codes, self.levels.index(0.0), self.group or 0)
        mean = scale[used].double().mean().to(torch.float32) if bool(used.any()) else torch.zeros(())
        return {**_double_quantized(torch.where(used, scale - mean, 0.0)), "mean": mean.reshape(1, 1)}


def _used_groups(codes: Tensor, zero: int, group: int) -> Tensor:
    """Which groups ``[rows, groups]`` have a code that is not zero's."""
    return split_groups(codes - zero, group).ne(0).any(dim=-1)


def _double_quantized(scale: Tensor) -> dict[str, Tensor]:
    """Codes and block scales of ``[rows, groups]`` numbers, seen as one row."""
    grid, flat = LevelGrid(dynamic_levels()), split_groups(scale.reshape(1, -1), BLOCK)
    block = flat.abs().amax(dim=-1, keepdim=True)
    codes = join_groups(grid.quantize(flat, (torch.where(block > 0.0, block, 1.0),)), scale.numel())
    return {"scale": codes.to(torch.uint8), "block": block.squeeze(-1)}
