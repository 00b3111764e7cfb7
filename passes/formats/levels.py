"""Grids of any levels, the same for every group but for a float16 scale, and the format that stores codes on them."""

from __future__ import annotations

import functools
import itertools
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ...ir.dialect import split_groups
from ...ir.ops import Ops, V
from ...ir.packing import pack, row_bytes
from ..objective import Problem
from .affine import round_scale, stretched
from .base import GRID, Chooser, Format, Shape, TensorSpec
from .grids import Choice, Grid, Parameters
from .layout import check_group, check_half, layout_of, spelled_group

LEVELS = "instar.dequantize_levels.default"

LEAST_SHRINK, MOST_SHRINK = 0.5, 1.2
"""Scales that are tried, as a share of the one that covers a group."""


@dataclass(frozen=True)
class LevelGrid(Grid):
    """``levels[u] * scale``; the nearest level, the lower one of two that are equally near.

    Attributes:
        levels: by code, in any order, zero among them. Both signs reach equally far.
    """

    levels: tuple[float, ...]

    def fit(self, groups: Tensor) -> Parameters:
        """See :meth:`Grid.fit`: ``(scale,)``, at which the largest level is the largest magnitude."""
        return (round_scale(self.steps(groups)),)

    def steps(self, groups: Tensor) -> Tensor:
        """The unrounded scale ``[..., 1]`` that covers each group ``[..., k]``."""
        return groups.abs().amax(dim=-1, keepdim=True) / max(self.levels)

    def candidates(self, groups: Tensor, steps: int) -> Iterator[Parameters]:
        """See :meth:`Grid.candidates`; a geometric ladder, which for floats is evenly spaced in the exponent's bias."""
        covering = self.steps(groups)
        for index in range(steps):
            yield (round_scale(covering * MOST_SHRINK * (LEAST_SHRINK / MOST_SHRINK) ** ((index + 0.5) / steps)),)

    def rescaled(self, parameters: Parameters, factor: Tensor) -> Parameters:
        """See :meth:`Grid.rescaled`."""
        return (stretched(parameters[0], factor),)

    def quantize(self, values: Tensor, parameters: Parameters) -> Tensor:
        """See :meth:`Grid.quantize`."""
        order, middles = search_tables(self.levels)
        place = torch.bucketize((values / parameters[0]).contiguous(), middles.to(values))
        return order.to(values)[place]

    def dequantize(self, codes: Tensor, parameters: Parameters) -> Tensor:
        """See :meth:`Grid.dequantize`."""
        return torch.tensor(self.levels, device=codes.device).to(codes.dtype)[codes.to(torch.int32)] * parameters[0]


@functools.cache
def search_tables(levels: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """Codes by rising level, and what lies halfway between levels; equal levels have one code, the first."""
    first = {level: code for code, level in reversed(list(enumerate(levels)))}
    rising = sorted(first)
    middles = [(low + high) / 2 for low, high in itertools.pairwise(rising)]
    return torch.tensor([first[level] for level in rising]), torch.tensor(middles, dtype=torch.float64)


@dataclass(frozen=True)
class LevelFormat(Format):
    """Packed codes on a :class:`LevelGrid` and one float16 scale a row or a group of columns.

    Bits per weight for columns divisible by the group ``g`` and by 8: ``bits + 16 / g``. The levels belong to the
    format and not to a weight: they are an argument of :func:`instar.ir.dialect.dequantize_levels`.

    Attributes:
        group: columns that share a scale, or ``None`` for a whole row. The last group of a row may be shorter.

    Raises:
        FormatError: if ``group`` is not one that can be spelled.
    """

    group: int | None = None

    def __post_init__(self) -> None:
        check_group(self.name, self.group)

    @property
    @abstractmethod
    def name(self) -> str:
        """The spelling before the group."""

    @property
    @abstractmethod
    def levels(self) -> tuple[float, ...]:
        """``2^bits`` numbers by code."""

    @property
    def bits(self) -> int:
        """Width of a code."""
        return (len(self.levels) - 1).bit_length()

    @property
    def spelling(self) -> str:
        """``nf4:g64``."""
        return f"{self.name}:{spelled_group(self.group)}"

    @property
    def families(self) -> frozenset[str]:
        """See :attr:`Format.families`."""
        return frozenset({GRID})

    @property
    def grid(self) -> LevelGrid:
        """The representable values of a group."""
        return LevelGrid(self.levels)

    def tensors(self, shape: Shape) -> Mapping[str, TensorSpec]:
        """``codes`` uint8 and ``scale`` float16 ``[rows, groups]``."""
        rows, columns, groups = layout_of(shape, self.group)
        codes = TensorSpec((rows, row_bytes(columns, self.bits)), torch.uint8)
        return {"codes": codes, "scale": TensorSpec((rows, groups), torch.float16)}

    def weight(self, ops: Ops[V], stored: Mapping[str, V], shape: Shape) -> V:
        """``instar.dequantize_levels`` of the stored tensors."""
        scale = self.scale(ops, stored, shape)
        return ops(LEVELS, stored["codes"], scale, self.levels, self.bits, self.group or 0, tuple(shape))

    def scale(self, ops: Ops[V], stored: Mapping[str, V], shape: Shape) -> V:
        """Scales ``[rows, groups]`` from the stored tensors."""
        del ops, shape
        return stored["scale"]

    def store(self, problem: Problem, encoder: Chooser) -> Mapping[str, Tensor]:
        """See :meth:`Format.store`.

        Raises:
            FormatError: if a group's scale is above the float16 range, or every weight is below it.
        """
        self.check_range(problem.matrix)
        choice = encoder.choose(self.grid, self.group or 0, problem)
        return {"codes": pack(choice.codes.to(torch.uint8), self.bits), **self.stored_scale(choice)}

    def check_range(self, matrix: Tensor) -> None:
        """Raise unless the scales of a weight can be stored.

        Raises:
            FormatError: which says where the largest scale is needed.
        """
        check_half(self.spelling, self.grid.steps(split_groups(matrix, self.group or 0)).squeeze(-1), matrix)

    def stored_scale(self, choice: Choice) -> Mapping[str, Tensor]:
        """How the scales of a choice are stored."""
        return {"scale": choice.parameters[0].to(torch.float16).contiguous()}
