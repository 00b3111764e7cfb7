"""A program as the commands of an accelerator: moves of bytes between addresses, and computations on bytes on chip.

One computation is one visit of an operator in one stripe; what it loads and stores are moves of their own. Commands of
the DMA engine and of the core are two queues in program order. A command names the earlier ones that must have ended:
those that last wrote what it reads, and those that last read or wrote what it overwrites, by address.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from .problem import Problem
from .program import Program

Kind = Literal["load", "store", "compute"]
Purpose = Literal["input", "spill_read", "weight", "weight_reread", "spill_write", "output", "compute"]

PURPOSES: tuple[Purpose, ...] = (
    "input", "spill_read", "weight", "weight_reread", "spill_write", "output", "compute",
)  # fmt: skip


@dataclass(frozen=True)
class Move:
    """Blocks of bytes at equal distances on both sides.

    Attributes:
        on_chip: address of the first block in the scratchpad.
        off_chip: address of the first block in the memory behind it.
        blocks: how many.
        block_bytes: of each.
        on_stride: from one block to the next in the scratchpad.
        off_stride: the same in the memory behind it.
    """

    on_chip: int
    off_chip: int
    blocks: int
    block_bytes: int
    on_stride: int
    off_stride: int

    @property
    def size_bytes(self) -> int:
        """Bytes that it moves."""
        return self.blocks * self.block_bytes


Interval = tuple[int, int]
"""Addresses ``[first, stop)`` on chip."""


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        kind: ``load`` to the scratchpad, ``store`` from it, or ``compute``.
        purpose: why.
        subject: the operator of a computation or of weights, else the tensor.
        first: first row that it makes or moves.
        rows: how many.
        range_number: of the schedule.
        size_bytes: charged for a move, padding to bricks included.
        moves: what a load or store moves.
        reads: what a computation reads on chip.
        writes: what it writes.
        band: of its range, where that is cut.
        window: columns or channels of its tensor or its result, where the range is cut along them.
        part: a computation whose weights come in pieces is one command for each: (piece, pieces).
        needs: positions of earlier commands.
    """

    kind: Kind
    purpose: Purpose
    subject: int
    first: int
    rows: int
    range_number: int
    size_bytes: int = 0
    moves: tuple[Move, ...] = ()
    reads: tuple[Interval, ...] = ()
    writes: tuple[Interval, ...] = ()
    part: tuple[int, int] = (0, 1)
    band: int = 0
    window: Interval | None = None
    needs: tuple[int, ...] = ()

    def touched(self) -> Iterator[tuple[Interval, bool]]:
        """Addresses on chip, and whether they are written."""
        for move in self.moves:
            last = move.on_chip + (move.blocks - 1) * move.on_stride + move.block_bytes
            yield (move.on_chip, last), self.kind == "load"
        yield from ((interval, False) for interval in self.reads)
        yield from ((interval, True) for interval in self.writes)


@dataclass(frozen=True)
class OffChip:
    """Where everything lies in the memory behind the scratchpad.

    Attributes:
        tensors: tensor -> (address of its first row, bytes from row to row, bytes from position to position).
        weights: operator -> address of its constants.
        size_bytes: end of the last.
    """

    tensors: Mapping[int, tuple[int, int, int]]
    weights: Mapping[int, int]
    size_bytes: int


@dataclass(frozen=True)
class Listing:
    """The commands of a program, in program order, and the memory behind the scratchpad."""

    program: Program
    commands: tuple[Command, ...]
    off_chip: OffChip

    @property
    def problem(self) -> Problem:
        """The network."""
        return self.program.problem


class Hazards:
    """Who last read and wrote every cell of the scratchpad, per queue; each queue ends its commands in order."""

    def __init__(self, size_bytes: int, cell_bytes: int) -> None:
        self._cell = cell_bytes
        cells = -(-size_bytes // cell_bytes) + 1
        self._read = np.full((2, cells), -1, dtype=np.int64)
        self._written = np.full((2, cells), -1, dtype=np.int64)
        self._stored: dict[int, int] = {}

    def needs(self, command: Command) -> tuple[int, ...]:
        """The last commands before this one that it has to wait for."""
        found: set[int] = set()
        for (first, stop), writes in command.touched():
            cells = slice(first // self._cell, -(-stop // self._cell))
            for queue in (0, 1):
                found.add(int(self._written[queue, cells].max(initial=-1)))
                if writes:
                    found.add(int(self._read[queue, cells].max(initial=-1)))
        if command.kind == "load" and command.purpose in ("input", "spill_read"):
            found.add(self._stored.get(command.subject, -1))
        return tuple(sorted(found - {-1}))

    def note(self, place: int, command: Command, alias: Mapping[int, tuple[int, ...]]) -> None:
        """Command ``place`` is next in program order."""
        queue = int(command.kind == "compute")
        for (first, stop), writes in command.touched():
            cells = slice(first // self._cell, -(-stop // self._cell))
            (self._written if writes else self._read)[queue, cells] = place
        if command.kind == "store":
            for tensor in (command.subject, *alias.get(command.subject, ())):
                self._stored[tensor] = place


def with_needs(
    commands: list[Command], size_bytes: int, cell_bytes: int, alias: Mapping[int, tuple[int, ...]]
) -> tuple[Command, ...]:
    """The commands with what each has to wait for."""
    hazards = Hazards(size_bytes, cell_bytes)
    found: list[Command] = []
    for place, command in enumerate(commands):
        found.append(replace(command, needs=hazards.needs(command)))
        hazards.note(place, command, alias)
    return tuple(found)
