"""One operator as loops over tiles: dimensions, operands, and what a choice of tiles costs in general terms.

The mapspace is that of Orojenesis: two levels, every tile size along every dimension (the last tile may be shorter),
every order of the loops over tiles. Fast memory holds the current tile of each operand and nothing else. When a loop
moves on, what of an operand's new tile is not in its old one is read. A tile of the output that is left before its sum
is complete is written as a partial sum and read back when the loops return to it.

Sizes are counted in bits, so that weights of four bits need no rounding; totals are whole bytes, rounded up.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from ...ir.errors import ScheduleError

Role = Literal["input", "output", "scratch"]
"""``scratch`` lives in fast memory only, such as a tile of attention scores."""


@dataclass(frozen=True)
class Dim:
    """One loop.

    Attributes:
        name: unique within the problem.
        extent: number of iterations.
        multiple: tiles are multiples of this, or the whole extent.
        whole: the loop is never cut.
    """

    name: str
    extent: int
    multiple: int = 1
    whole: bool = False

    def __post_init__(self) -> None:
        if self.extent < 1 or self.multiple < 1:
            raise ScheduleError(
                f"dimension {self.name!r}: expected extent and multiple of at least 1, "
                f"found {self.extent} and {self.multiple}; correct it"
            )


@dataclass(frozen=True)
class Axis:
    """One axis of an operand, which follows one dimension; iteration ``i`` touches ``i * stride - pad + j * dilation``.

    Positions that no iteration touches (padding, gaps of a stride) are never moved and not counted as places.

    Attributes:
        dim: name of the dimension.
        extent: of the operand along this axis.
        iterations: of the dimension; 0 stands for one per position.
        stride: step per iteration.
        kernel: positions ``j`` per iteration.
        dilation: step between them.
        pad: positions in front of the operand.
    """

    dim: str
    extent: int
    iterations: int = 0
    stride: int = 1
    kernel: int = 1
    dilation: int = 1
    pad: int = 0

    @property
    def windowed(self) -> bool:
        """Whether iterations touch something else than the position of their own number."""
        return bool(self.iterations)

    @property
    def used(self) -> int:
        """Positions of the operand that any iteration touches."""
        return len(_touched(self)) if self.windowed else self.extent

    def interval(self, start: int, stop: int) -> tuple[int, int]:
        """Half-open interval of touched positions, by their rank, that iterations ``start`` to ``stop`` span."""
        if not self.windowed:
            return start, stop
        touched = _touched(self)
        first = start * self.stride - self.pad
        last = (stop - 1) * self.stride - self.pad + (self.kernel - 1) * self.dilation
        low = bisect_left(touched, first)
        return low, max(bisect_left(touched, last + 1), low)


@lru_cache(maxsize=1024)
def _touched(axis: Axis) -> tuple[int, ...]:
    starts = (i * axis.stride - axis.pad for i in range(axis.iterations))
    touched = {start + tap * axis.dilation for start in starts for tap in range(axis.kernel)}
    return tuple(sorted(place for place in touched if 0 <= place < axis.extent))


@dataclass(frozen=True)
class Operand:
    """A tensor that the operator reads or writes.

    Attributes:
        name: unique within the problem.
        axes: over different dimensions. Dimensions that are missing do not change which part is used.
        item_bits: bits of an element in slow memory. 0 for state that is not a result, such as a running maximum.
        elements: elements per position of all axes, such as the taps of a kernel.
        role: input, output or scratch.
        partial_bits: outputs: bits of an element whose sum is not complete.
    """

    name: str
    axes: tuple[Axis, ...]
    item_bits: int
    elements: int = 1
    role: Role = "input"
    partial_bits: int = 0

    def bits_held(self, split: bool) -> int:
        """Bits of an element in fast memory; ``split`` says whether sums take more than one tile."""
        return self.partial_bits if self.role == "output" and (split or not self.item_bits) else self.item_bits

    @property
    def used_elements(self) -> int:
        """Elements that any iteration touches."""
        return self.elements * math.prod(axis.used for axis in self.axes)


@dataclass(frozen=True)
class TilingProblem:
    """One operator.

    Attributes:
        name: for reports.
        dims: its loops.
        operands: its tensors.
        macs: multiply-accumulates.
        dtype: of both factors, for a machine's rate.
        bound: which closed form bounds its traffic.
        window_reuse: taps of a kernel that read the same input, ``kh kw / (sh sw)``, at least 1.

    Raises:
        ScheduleError: names repeat, an axis follows a dimension that does not exist, or two of an operand the same.
    """

    name: str
    dims: tuple[Dim, ...]
    operands: tuple[Operand, ...]
    macs: int
    dtype: str = "int8"
    bound: Literal["product", "attention", "none"] = "none"
    window_reuse: float = 1.0

    def __post_init__(self) -> None:
        names = [dim.name for dim in self.dims]
        for what, found in (("dimensions", names), ("operands", [operand.name for operand in self.operands])):
            if len(set(found)) < len(found):
                raise ScheduleError(
                    f"{self.name}: expected {what} of different names, found {', '.join(found)}; rename one"
                )
        for operand in self.operands:
            followed = [axis.dim for axis in operand.axes]
            if len(set(followed)) < len(followed) or not set(followed) <= set(names):
                raise ScheduleError(
                    f"{self.name}: operand {operand.name!r}: expected axes over different dimensions of "
                    f"{', '.join(names)}, found {', '.join(followed)}; correct it"
                )
            if operand.role == "output" and any(axis.windowed for axis in operand.axes):
                raise ScheduleError(f"{self.name}: output {operand.name!r}: expected axes without windows; correct it")

    @property
    def extents(self) -> tuple[int, ...]:
        """Iterations of every dimension."""
        return tuple(dim.extent for dim in self.dims)

    @property
    def reduction(self) -> tuple[str, ...]:
        """Dimensions that are summed over: those that no output follows."""
        followed = {axis.dim for operand in self.operands if operand.role == "output" for axis in operand.axes}
        return tuple(dim.name for dim in self.dims if dim.name not in followed)


@dataclass(frozen=True)
class Limits:
    """What a tiling may use.

    Attributes:
        budget_bytes: of fast memory.
        alignment_bytes: the size of every tile is rounded up to a multiple of this.
        buffers: of every tile that changes; 2 lets DMA fetch the next tile while this one is computed.
    """

    budget_bytes: int
    alignment_bytes: int = 1
    buffers: int = 1

    def __post_init__(self) -> None:
        if self.budget_bytes < 0 or self.alignment_bytes < 1 or self.buffers < 1:
            raise ScheduleError(
                f"limits: expected a budget of at least 0, alignment and buffers of at least 1, found {self}; "
                f"correct them"
            )


@dataclass(frozen=True)
class Tiling:
    """Tiles and the order of loops.

    Attributes:
        tiles: tile size of every dimension of the problem.
        order: names of all dimensions, outermost loop first.
    """

    tiles: tuple[int, ...]
    order: tuple[str, ...]


@dataclass(frozen=True)
class Cost:
    """What a tiling costs.

    Attributes:
        read_bytes: operand -> bytes read from slow memory, partial sums included.
        written_bytes: operand -> bytes written to slow memory, partial sums included.
        memory_bytes: fast memory that it takes.
        steps: number of tiles that are computed.
    """

    read_bytes: dict[str, int]
    written_bytes: dict[str, int]
    memory_bytes: int
    steps: int

    @property
    def traffic_bytes(self) -> int:
        """All bytes that are moved."""
        return sum(self.read_bytes.values()) + sum(self.written_bytes.values())
