"""The format contract: a way to store a weight and to compute with it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from ...ir.analysis import flops_of
from ...ir.context import Context
from ...ir.errors import ContractError, FormatError
from ...ir.infer import MetaInference
from ...ir.ops import EAGER, Building, Ops, V
from ...ir.statistics import WeightStatistics
from ...ir.types import TensorType
from ..objective import PLAIN, Metric, Problem
from .contract import check_decoded, check_stored
from .grids import Choice, Grid, nearest
from .patterns import Pattern, Pruned, largest
from .use import Use

Shape = Sequence[int]

GRID = "grid"
"""Family of formats that round groups of values to a grid."""

FACTOR = "factor"
"""Family of formats that store factors of the weight."""

SUM = "sum"
"""Family of formats that store a weight as a sum of others."""

SPARSE = "sparse"
"""Family of formats that keep some weights and drop the others."""


@dataclass(frozen=True)
class Alternation:
    """How the parts of a sum are fitted: one after another, or again and again with the others as they are.

    Attributes:
        sweeps: rounds over all parts, 1 or more.
        gain: share of the error that a round must save for another one to follow.
    """

    sweeps: int = 1
    gain: float = 0.0


@dataclass(frozen=True)
class TensorSpec:
    """Shape and dtype of one stored tensor.

    Raises:
        ContractError: a size is negative.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype

    def __post_init__(self) -> None:
        if min(self.shape, default=0) < 0:
            raise ContractError(
                f"stored tensor: expected sizes of 0 or more, found {list(self.shape)}; mend its method tensors"
            )

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor's data."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, eq=False)
class Encoded:
    """A stored weight.

    Attributes:
        format: spelling of the format that wrote it.
        shape: shape of the weight it stands for.
        tensors: the stored tensors by name, as :meth:`Format.tensors` announced them.
    """

    format: str
    shape: tuple[int, ...]
    tensors: Mapping[str, Tensor]

    @property
    def nbytes(self) -> int:
        """Bytes of every stored tensor together."""
        return sum(t.numel() * t.element_size() for t in self.tensors.values())


class Chooser(Protocol):
    """What a format asks an encoder, one question for each family of formats. Every encoder answers all of them."""

    def choose(self, grid: Grid, group: int, problem: Problem) -> Choice:
        """Codes on a grid and its parameters for every group of ``group`` columns; 0 is all of them."""
        ...

    def recode(self, grid: Grid, group: int, problem: Problem, choice: Choice) -> Choice:
        """Codes for the parameters of a choice, which were rounded since its codes were chosen."""
        ...

    def metric(self, problem: Problem) -> Metric:
        """What factors keep small."""
        ...

    def prune(self, pattern: Pattern, problem: Problem) -> Pruned:
        """Which weights are kept, and what they become."""
        ...

    def alternation(self) -> Alternation:
        """How the parts of a sum are fitted to each other."""
        ...


class Nearest:
    """The answers that need no data."""

    def alternation(self) -> Alternation:
        """Parts of a sum are stored one after another."""
        return Alternation()

    def choose(self, grid: Grid, group: int, problem: Problem) -> Choice:
        """The grid that covers each group, and the nearest codes."""
        return nearest(grid, group, problem.matrix)

    def recode(self, grid: Grid, group: int, problem: Problem, choice: Choice) -> Choice:
        """The codes that were chosen."""
        del grid, group, problem
        return choice

    def metric(self, problem: Problem) -> Metric:
        """Every change alike."""
        del problem
        return PLAIN

    def prune(self, pattern: Pattern, problem: Problem) -> Pruned:
        """The largest, as they are."""
        return largest(pattern, problem.matrix)


NEAREST = Nearest()


@dataclass(frozen=True)
class Format(ABC):
    """How a weight is stored. Subclasses are frozen dataclasses whose fields are the options.

    A weight of shape ``[rows, ...]`` is seen as the matrix ``[rows, columns]``, ``columns`` being the product of the
    other sizes: pass a linear's ``[out, in]``, a convolution's ``[out, in / groups, kh, kw]`` or an embedding's
    ``[vocabulary, dim]``. Every method that takes a shape takes the weight's.

    :meth:`weight` and :meth:`apply` are written over :class:`~instar.ir.ops.Ops`: the same lines decode a weight,
    evaluate a layer and build its nodes.
    """

    options: ClassVar[str] = ""
    """What may follow the name, in a reader's words."""

    close_bounds: ClassVar[bool] = True
    """Whether :meth:`least_cost` is about what storing will lose, so that decisions may be made as if it were that."""

    example_options: ClassVar[str] = ""
    """What follows the name in an example."""

    @classmethod
    def example(cls, name: str) -> str:
        """A spelling that begins with a name of this class, for lists and for tests of every format."""
        return name + cls.example_options

    @property
    def families(self) -> frozenset[str]:
        """Families of encoders that have something to choose; none where the weight alone decides."""
        return frozenset()

    @property
    @abstractmethod
    def spelling(self) -> str:
        """The text that :func:`instar.format` parses back to this format; ``str`` of the format too."""

    @property
    def operand(self) -> str:
        """The spelling as it stands to the left of ``@``."""
        return self.spelling

    def __str__(self) -> str:
        """The spelling."""
        return self.spelling

    @abstractmethod
    def tensors(self, shape: Shape) -> Mapping[str, TensorSpec]:
        """The tensors that are stored for a weight of ``shape``, by name."""

    @abstractmethod
    def weight(self, ops: Ops[V], stored: Mapping[str, V], shape: Shape) -> V:
        """The float32 weight of ``shape``, from the stored tensors."""

    @abstractmethod
    def store(self, problem: Problem, encoder: Chooser) -> Mapping[str, Tensor]:
        """The stored tensors of a finite weight; :meth:`encode` has checked it already."""

    def apply(self, ops: Ops[V], x: V, stored: Mapping[str, V], use: Use) -> V:
        """What the layer computes of ``x``. A format with structure does not form the weight."""
        return use.dense(ops, x, self.weight(ops, stored, use.shape))

    @property
    def is_dense(self) -> bool:
        """Whether a layer forms the whole weight; such parts of a sum are added before they are multiplied."""
        return type(self).apply is Format.apply

    @property
    def has_groups(self) -> bool:
        """Whether codes have a scale for each group, so that a kernel that wants one a row rounds once more."""
        return False

    @property
    def has_parts(self) -> bool:
        """Whether what is stored first is rounded, and something else is then fitted to it."""
        return False

    def refuses(self, shape: Shape) -> str | None:
        """Why a weight of ``shape`` cannot be stored, or ``None`` if it can."""
        if len(shape) < 2:
            return f"{self.spelling}: expected a weight of two or more dimensions, got shape {list(shape)}"
        if math.prod(shape) == 0:
            return f"{self.spelling}: expected a weight with values, got the empty shape {list(shape)}"
        return None

    def nbytes(self, shape: Shape) -> int:
        """Bytes of everything stored for a weight of ``shape``: codes, scales, zero points, padding."""
        return sum(spec.nbytes for spec in self.tensors(shape).values())

    def bits_per_weight(self, shape: Shape) -> float:
        """Stored bits divided by the number of weights."""
        return 8.0 * self.nbytes(shape) / math.prod(shape)

    def bits_by_tensor(self, shape: Shape) -> dict[str, float]:
        """What :meth:`bits_per_weight` is the sum of: stored tensor -> its bits divided by the number of weights."""
        return {name: 8.0 * spec.nbytes / math.prod(shape) for name, spec in self.tensors(shape).items()}

    def flops(self, shape: Shape, tokens: int) -> int:
        """Floating-point operations that a linear layer does on ``tokens`` vectors; a multiply-add is two.

        Raises:
            FormatError: the format is one for convolutions only.
        """
        matrix, context = (shape[0], math.prod(shape[1:])), Context(inference=MetaInference())
        reason = self.refuses(matrix)
        if reason is not None:
            raise FormatError(f"{reason}; operations are counted of linear layers")
        x = context.input("x", TensorType(torch.float32, (tokens, matrix[1])))
        stored = {n: context.input(n, TensorType(s.dtype, s.shape)) for n, s in self.tensors(matrix).items()}
        return flops_of(self.apply(Building(context), x, stored, Use.linear(matrix)), x)

    @classmethod
    def ladder(cls, shape: Shape) -> tuple[str, ...]:
        """Options that stand for all formats of this name that are worth trying on ``shape``; none has to be accepted.

        Empty where a name without options is no family, see :mod:`instar.passes.formats.families`.
        """
        del shape
        return ()

    @classmethod
    def halfway(cls, option: str, others: Collection[str]) -> tuple[str, ...]:
        """Options halfway from one to its neighbours among ``others``; empty where none lies there.

        What a decision takes is tried more finely there, see :func:`instar.passes.formats.families.finer`.
        """
        del option, others
        return ()

    def least_cost(self, problem: Problem, metric: Metric) -> float | None:
        """What no weight in this format goes below: a bound on the cost of a change under ``metric``; None: unknown.

        It is known without storing anything, so that formats that cannot be worth it are never stored.
        """
        del problem, metric
        return None

    def encode(
        self, weight: Tensor | Problem, statistics: WeightStatistics | None = None, encoder: Chooser | None = None
    ) -> Encoded:
        """Store a weight: ``encoder.encode(format, problem)`` the other way round.

        Args:
            weight: any real floating dtype, strides and device; computed with in float32 and not changed.
            statistics: what calibration learnt about the layer, for encoders that use it.
            encoder: how codes are chosen; round to nearest if omitted. Formats without codes ignore it.

        Raises:
            FormatError: if the shape is refused, a value is NaN or infinite, or the format cannot hold its range.
            ContractError: what the format stores is not what it announced.
        """
        problem = weight if isinstance(weight, Problem) else Problem(weight, statistics)
        reason = self.refuses(problem.shape)
        if reason is not None:
            raise FormatError(f"{reason}; keep this weight in another format")
        problem.check(self.spelling)
        stored = self.store(problem, encoder or NEAREST)
        check_stored(self.spelling, self.tensors(problem.shape), stored)
        return Encoded(self.spelling, problem.shape, stored)

    def decode(self, encoded: Encoded) -> Tensor:
        """The float32 weight that the compiled layer computes with, in ``encoded.shape``.

        Raises:
            ContractError: the format gives something else.
        """
        weight = self.weight(EAGER, encoded.tensors, encoded.shape)
        check_decoded(self.spelling, encoded.shape, weight)
        return weight

    def stored_as(self, element: Format) -> Format:
        """This format with its factors stored in ``element``: the meaning of ``element @ self``.

        Raises:
            FormatError: if this format has no factors.
        """
        swapped = type(element).stored_as is not Format.stored_as
        better = f"{self.operand} @ {element.spelling}" if swapped else element.spelling
        raise FormatError(
            f"{element.operand} @ {self.spelling}: expected a format with factors to the right of '@', got "
            f"{self.spelling!r}; write {better!r}, or a sum"
        )


def part(stored: Mapping[str, V], prefix: str) -> dict[str, V]:
    """The tensors whose names start with ``prefix``, without it."""
    return {name.removeprefix(prefix): value for name, value in stored.items() if name.startswith(prefix)}


def named(tensors: Mapping[str, V], prefix: str) -> dict[str, V]:
    """The tensors with ``prefix`` before their names."""
    return {prefix + name: value for name, value in tensors.items()}
