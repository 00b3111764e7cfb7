"""A schedule: what runs when, what lies where, what crosses the chip's border, and how good that is proven to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ..status import Status

Axis = Literal["columns", "channels"]

AXES: tuple[Axis, ...] = ("columns", "channels")


@dataclass(frozen=True)
class Traffic:
    """Bytes that cross the border between scratchpad and off-chip memory, by purpose.

    Attributes:
        spill_write_bytes: activations written because they do not stay on chip until their last use.
        spill_read_bytes: activations read back.
        weight_reread_bytes: weights read more than once, without the first read.
        input_bytes: network inputs read.
        output_bytes: network outputs written; no schedule avoids them.
        weight_bytes: first read of all weights; no schedule avoids it.
    """

    spill_write_bytes: int = 0
    spill_read_bytes: int = 0
    weight_reread_bytes: int = 0
    input_bytes: int = 0
    output_bytes: int = 0
    weight_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """What a schedule can avoid and what is minimised: spills and repeated weights."""
        return self.spill_write_bytes + self.spill_read_bytes + self.weight_reread_bytes


@dataclass(frozen=True)
class Band:
    """How a range is cut along a second axis: it runs once per band, with all its stripes; see :mod:`.bands`.

    Attributes:
        axis: columns of images, or channels (what is last in memory).
        extent: of the last operator's output that one band makes.
    """

    axis: Axis
    extent: int


@dataclass(frozen=True)
class Range:
    """Consecutive operators that run together, stripe by stripe.

    Before the first stripe ``fetched`` tensors are read whole. In every stripe the last operator makes
    ``stripe_rows`` rows, and all others as many as that needs. Tensors in ``whole`` are on chip with all their rows
    from the start of the range to its end; all others that the range touches live in line buffers, which hold what
    is still needed.

    Attributes:
        start: first position in the schedule's order.
        stop: position after the last.
        stripe_rows: rows of the last operator's output per stripe.
        whole: tensors on chip as a whole, whether the range touches them or not.
        fetched: those of ``whole`` that are read from off-chip at the start.
        stored: tensors made here of which a copy is written off-chip while they are made.
        resident_weights: operators whose weights stay on chip during the range; others are read once per stripe.
        in_place: pairs (tensor, host): the first lives inside the memory of the second from this range on.
        band: how it is cut along a second axis, if it is.
    """

    start: int
    stop: int
    stripe_rows: int = 1
    whole: tuple[int, ...] = ()
    fetched: tuple[int, ...] = ()
    stored: tuple[int, ...] = ()
    resident_weights: tuple[int, ...] = ()
    in_place: tuple[tuple[int, int], ...] = ()
    band: Band | None = None


@dataclass(frozen=True)
class Refused:
    """A range as it must not run where the refused ones before it run too: there are no addresses for all of them.

    Attributes:
        start: first position in the order.
        stop: position after the last.
        whole: tensors on chip as a whole.
        chip_bytes: what is on chip at least while it runs.
    """

    start: int
    stop: int
    whole: frozenset[int]
    chip_bytes: int


@dataclass(frozen=True)
class Infeasible:
    """Why there is no schedule.

    Attributes:
        operator: the operator that needs most.
        smallest_budget_bytes: the least budget with which there is a schedule.
    """

    operator: str
    smallest_budget_bytes: int


@dataclass(frozen=True)
class Schedule:
    """What a scheduler returns.

    Attributes:
        status: ``optimal`` (proven), ``feasible`` (with a gap), ``infeasible`` or ``timeout`` (nothing found in time).
        budget_bytes: bytes of scratchpad that were allowed.
        order: positions in ``Problem.operators`` in the order in which they run; empty without a schedule.
        ranges: cover ``order`` without gaps.
        traffic: bytes by purpose.
        bound_bytes: no schedule of the same kind moves fewer avoidable bytes than this.
        peak_bytes: most bytes on chip at any time.
        wall_s: seconds that the search took.
        offsets: buffer name -> byte address, where addresses were decided.
        infeasible: which operator fails and what would be enough, if ``infeasible``.
        solver: what searched.
        min_rows: least stripe height that was asked for.
        no_spill: activations may not leave the chip; inputs and outputs of the network lie on it.
        stream_buffer_bytes: room through which weights pass that do not stay on chip.
        atomic: every operator runs whole with all it reads and makes on chip; nothing shares memory.
    """

    status: Status
    budget_bytes: int
    order: tuple[int, ...] = ()
    ranges: tuple[Range, ...] = ()
    traffic: Traffic = field(default_factory=Traffic)
    bound_bytes: int = 0
    peak_bytes: int = 0
    wall_s: float = 0.0
    offsets: Mapping[str, int] = field(default_factory=dict[str, int])
    infeasible: Infeasible | None = None
    solver: str = ""
    min_rows: int = 1
    no_spill: bool = False
    stream_buffer_bytes: int = 0
    atomic: bool = False

    @property
    def gap(self) -> float:
        """(traffic - bound) / traffic, 0 where both are 0."""
        total = self.traffic.total_bytes
        return (total - self.bound_bytes) / total if total else 0.0
