"""Formats whose levels belong to one weight: a table that is stored beside the codes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from ...ir.dialect import split_groups
from ...ir.errors import FormatError
from ...ir.ops import Ops, V
from ...ir.packing import pack, row_bytes
from ..objective import Problem
from .affine import HALF_STEP
from .base import GRID, Chooser, Format, Shape, TensorSpec
from .clusters import Samples
from .grammar import Term
from .grids import Parameters, column_parameters
from .layout import check_group, check_half, layout_of, parse_group, spelled_group
from .levels import LEVELS, LevelGrid

WIDTHS = range(2, 9)


@dataclass(frozen=True)
class TableGrid(LevelGrid):
    """Levels of one weight. With scales they are shares of the group's extreme, whose sign the scale has.

    So the largest magnitude of every group is at 1, and levels need not be as dense on the other side.

    Attributes:
        scaled: whether groups have scales; otherwise levels are as large as weights.
    """

    scaled: bool = True

    def steps(self, groups: Tensor) -> Tensor:
        """See :meth:`LevelGrid.steps`."""
        largest = groups.abs().amax(dim=-1, keepdim=True)
        return largest if self.scaled else torch.ones_like(largest)

    def fit(self, groups: Tensor) -> Parameters:
        """See :meth:`Grid.fit`; zero may be no level, so that a group of zeros takes the smallest scale there is."""
        (scale,) = super().fit(groups)
        if not self.scaled:
            return (scale,)
        return (torch.where(self.steps(groups) > 0.0, scale * sign_of_extreme(groups), HALF_STEP),)

    def candidates(self, groups: Tensor, steps: int) -> Iterator[Parameters]:
        """See :meth:`Grid.candidates`; none where there is nothing to scale."""
        if self.scaled:
            sign = sign_of_extreme(groups)
            yield from ((scale * sign,) for (scale,) in super().candidates(groups, steps))

    def rescaled(self, parameters: Parameters, factor: Tensor) -> Parameters:
        """See :meth:`Grid.rescaled`; levels without scales are the table's."""
        return super().rescaled(parameters, factor) if self.scaled else parameters


def sign_of_extreme(groups: Tensor) -> Tensor:
    """1 or -1 ``[..., 1]``: the sign of what is largest in each group ``[..., k]``."""
    return torch.where(groups.amax(dim=-1, keepdim=True) >= -groups.amin(dim=-1, keepdim=True), 1.0, -1.0).to(groups)


@dataclass(frozen=True)
class TableFormat(Format):
    """Packed codes, one table of float32 levels, and float16 scales or none.

    Bits per weight: ``bits + 16 / g + 32 * 2^bits / (rows * columns)``. Subclasses say how the levels are found from
    the weight, weighted with the diagonal of the statistics; codes are then an encoder's choice, as on every grid. The
    table is looked up while the model loads, so that files are small and products those of floats.

    Attributes:
        bits: width of a code, 2 to 8.
        group: columns that share a scale; ``None`` for a whole row, 0 for no scales.

    Raises:
        FormatError: if a number is not one that can be spelled.
    """

    bits: int = 4
    group: int | None = 0

    kind: ClassVar[str] = ""
    options: ClassVar[str] = ":<bits>, then nothing, :channel or :g16 to :g256"
    example_options: ClassVar[str] = ":4:g64"

    def __post_init__(self) -> None:
        if self.bits not in WIDTHS:
            raise FormatError(f"{self.kind}: expected 2 to 8 bits, got {self.bits}; choose a width in that range")
        check_group(self.kind, self.group or None)

    @classmethod
    def of_term(cls, term: Term) -> Self:
        """Parse ``codebook:4``, ``codebook:4:channel``, ``codebook:4:g64``.

        Raises:
            ParseError: at the first option that is missing, unknown or out of range.
        """
        expected = "2 to 8 bits"
        word = term.option(0, expected)
        if not word.text.isdecimal() or int(word.text) not in WIDTHS:
            raise word.error(expected, (), ("4",))
        for option in term.options[2:]:
            raise option.error("the end of the format", ())
        group = parse_group(Term(word, term.options[1:])) if len(term.options) > 1 else 0
        return cls(int(word.text), group)

    @property
    def spelling(self) -> str:
        """``codebook:4:g64``."""
        scales = "" if self.group == 0 else f":{spelled_group(self.group)}"
        return f"{self.kind}:{self.bits}{scales}"

    @property
    def families(self) -> frozenset[str]:
        """See :attr:`Format.families`."""
        return frozenset({GRID})

    @abstractmethod
    def levels(self, samples: Samples) -> Tensor:
        """Levels ``[2^bits]``, rising, for the values of a weight, divided by scales if there are any."""

    def tensors(self, shape: Shape) -> Mapping[str, TensorSpec]:
        """``codes`` uint8, ``table`` float32 ``[2^bits]``, and with scales ``scale`` float16 ``[rows, groups]``."""
        rows, columns, groups = layout_of(shape, self.group or None)
        codes = TensorSpec((rows, row_bytes(columns, self.bits)), torch.uint8)
        specs = {"codes": codes, "table": TensorSpec((1 << self.bits,), torch.float32)}
        return specs if self.group == 0 else specs | {"scale": TensorSpec((rows, groups), torch.float16)}

    def refuses(self, shape: Shape) -> str | None:
        """Weights so small that a table saves nothing."""
        reason = super().refuses(shape)
        if reason is not None:
            return reason
        rows, columns, _ = layout_of(shape, None)
        stored, dense = self.nbytes(shape), 2 * rows * columns
        if stored < dense:
            return None
        return (
            f"{self.spelling}: expected fewer bytes than the {dense} of fp16 for a weight of {rows} x {columns}, got "
            f"{stored}, of which the table is {4 << self.bits}"
        )

    def weight(self, ops: Ops[V], stored: Mapping[str, V], shape: Shape) -> V:
        """Levels at the places that codes say, times the scales."""
        rows, columns, _ = layout_of(shape, None)
        size, codes = 1 << self.bits, stored["codes"]
        places = ops(LEVELS, codes, None, tuple(float(u) for u in range(size)), self.bits, 0, (rows, columns))
        index = ops("aten._to_copy", ops("aten.reshape", places, (rows * columns,)), dtype=torch.int64)
        found = ops("aten.index_select", stored["table"], 0, index)
        if self.group != 0:  # whatever the code, the scale of its group
            scale = ops(LEVELS, codes, stored["scale"], (1.0,) * size, self.bits, self.group or 0, (rows, columns))
            found = ops("aten.mul.Tensor", found, ops("aten.reshape", scale, (rows * columns,)))
        return ops("aten.reshape", found, tuple(shape))

    def store(self, problem: Problem, encoder: Chooser) -> Mapping[str, Tensor]:
        """See :meth:`Format.store`.

        Raises:
            FormatError: if a group's scale is above the float16 range, or every weight is below it.
        """
        if self.group != 0:
            steps = split_groups(problem.matrix, self.group or 0).abs().amax(dim=-1)
            check_half(self.spelling, steps, problem.matrix)
        table = problem.of_weight((self.spelling, "levels"), lambda: self.levels(self._samples(problem)).float())
        grid = TableGrid(tuple(table.tolist()), self.group != 0)
        choice = encoder.choose(grid, self.group or 0, problem)
        stored = {"codes": pack(choice.codes.to(torch.uint8), self.bits), "table": table}
        return stored if self.group == 0 else stored | {"scale": choice.parameters[0].to(torch.float16).contiguous()}

    def _samples(self, problem: Problem) -> Samples:
        """Every weight divided by the scale that covers its group, and what its squared error costs."""
        matrix, weights = problem.matrix, _costs(problem)
        if self.group == 0:
            return Samples.of(matrix, weights)
        scale = TableGrid((-1.0, 1.0)).fit(split_groups(matrix, self.group or 0))[0].squeeze(-1)
        (spread,) = column_parameters((scale,), matrix.shape[1], self.group or 0)
        return Samples.of(matrix / spread, weights * spread.square())


def _costs(problem: Problem) -> Tensor:
    """What a squared change of each weight costs, ``[rows, columns]``: weights of rows times the diagonal of ``H``.

    What was never seen counts as a millionth of the mean, so that no value is without weight.
    """
    problem.check_statistics()
    matrix, known = problem.matrix, problem.statistics
    if known is None:
        return torch.ones_like(matrix)
    rows = known.row_weight.to(matrix).unsqueeze(1)
    if known.importance is None:
        costs = rows if known.row_frequency is None else known.row_frequency.to(matrix).unsqueeze(1)
    else:
        costs = rows * known.importance.to(matrix).clamp(min=0.0)
    return (costs + max(1e-6 * float(costs.mean()), 1e-30)).expand(matrix.shape)
