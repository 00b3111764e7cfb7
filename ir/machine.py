"""Machines with a software-managed memory: fast memories, the slow one behind them, DMA, arithmetic.

A description is a TOML file (``machines/*.toml``, or the user's own). A number that its sources do not give is written
``"unknown"``: whatever needs it refuses with the name of the parameter, until it is given. Energy is unknown unless a
file says it; no shipped one does.

Cycles are those of the core clock, rates are per cycle.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Final, Literal

from .errors import ConfigError, nearest

UNLIMITED: Final = 1 << 62
"""Size of a memory that is never full."""


@dataclass(frozen=True)
class Memory:
    """One memory. ``None`` means unknown: using it is an error that names the parameter.

    Attributes:
        name: unique within a machine; prefix of its parameters.
        size_bytes: capacity, :data:`UNLIMITED` if it is never full.
        reserved_bytes: of it, what stacks and others take.
        read_bytes_per_cycle: peak rate of reading.
        write_bytes_per_cycle: peak rate of writing; 0 if it is read-only.
        read_latency_cycles: from a read's issue to its first byte.
        write_latency_cycles: from a write's issue to its first byte's arrival.
        burst_bytes: bytes of one bus transaction.
        reads_in_flight: outstanding read transactions; 0 if the rate is not limited by them.
        writes_in_flight: outstanding write transactions; 0 if the rate is not limited by them.
        banks: that serve accesses at the same time.
        alignment_bytes: of the address of anything that is placed here.
        read_pj_per_byte: energy of reading.
        write_pj_per_byte: energy of writing.
    """

    name: str
    size_bytes: int | None
    read_bytes_per_cycle: float | None
    write_bytes_per_cycle: float | None
    read_latency_cycles: int | None = None
    write_latency_cycles: int | None = None
    reserved_bytes: int = 0
    burst_bytes: int = 0
    reads_in_flight: int = 0
    writes_in_flight: int = 0
    banks: int = 1
    alignment_bytes: int = 1
    read_pj_per_byte: float | None = None
    write_pj_per_byte: float | None = None

    @property
    def read_only(self) -> bool:
        """Whether nothing can be written here, so that nothing can be spilled."""
        return self.write_bytes_per_cycle == 0


@dataclass(frozen=True)
class Dma:
    """The engine that moves bytes between memories.

    Attributes:
        setup_cycles: to start one transfer, before any memory's latency.
        transfers_in_flight: that may be outstanding at the same time; their data shares the bus.
        max_transfer_bytes: of one command; longer transfers are split. 0 if there is no limit.
        overlaps_compute: whether data moves while the core computes.
    """

    setup_cycles: int | None = None
    transfers_in_flight: int = 1
    max_transfer_bytes: int = 0
    overlaps_compute: bool = True


@dataclass(frozen=True)
class Machine:
    """A machine as schedulers and time models see it.

    Attributes:
        name: of its file.
        description: one line for people.
        clock_hz: core clock, for seconds.
        fast: one to three software-managed memories, the nearest one first.
        slow: the memory behind them, where inputs, weights and outputs live.
        dma: what moves the bytes.
        macs_per_cycle: dtype of both factors -> multiply-accumulates per cycle.
        channel_brick: channels of feature maps are padded to a multiple of this.
        mac_pj: dtype -> energy of one multiply-accumulate in picojoules.
        sources: parameter, or name of a memory -> where its numbers come from.
    """

    name: str
    clock_hz: float
    fast: tuple[Memory, ...]
    slow: Memory
    dma: Dma
    macs_per_cycle: Mapping[str, float]
    description: str = ""
    channel_brick: int = 1
    mac_pj: Mapping[str, float] = field(default_factory=dict[str, float])
    sources: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def budget_bytes(self) -> int:
        """Bytes of the nearest fast memory that a schedule may use; ``ConfigError`` if its size is unknown."""
        nearest_memory = self.fast[0]
        return int(self._known(nearest_memory, "size_bytes")) - nearest_memory.reserved_bytes

    @property
    def may_spill(self) -> bool:
        """Whether activations can be written to the slow memory."""
        return not self.slow.read_only

    def with_budget(self, budget_bytes: int) -> Machine:
        """The same machine with that many usable bytes of nearest memory."""
        size = budget_bytes + self.fast[0].reserved_bytes
        return replace(self, fast=(replace(self.fast[0], size_bytes=size), *self.fast[1:]))

    def memory(self, name: str) -> Memory:
        """The memory of that name; ``ConfigError`` names the ones that exist."""
        for memory in (*self.fast, self.slow):
            if memory.name == name:
                return memory
        known = [memory.name for memory in (*self.fast, self.slow)]
        raise ConfigError(f"machine {self.name!r}: expected one of its memories, found {name!r}{nearest(name, known)}")

    def bytes_per_cycle(self, memory: Memory, direction: Literal["read", "write"]) -> Fraction:
        """Rate that one memory sustains: the bus, or what bursts in flight carry during one latency (Little's law).

        Raises:
            ConfigError: the rate or the latency is unknown, or the memory is read-only and is to be written.
        """
        peak = Fraction(self._known(memory, f"{direction}_bytes_per_cycle"))
        if peak == 0:
            raise ConfigError(
                f"machine {self.name!r}: expected a memory that can be written, found the read-only {memory.name!r}; "
                f"schedule without spills or use another machine"
            )
        in_flight = memory.reads_in_flight if direction == "read" else memory.writes_in_flight
        if not in_flight or not memory.burst_bytes:
            return peak
        latency = Fraction(self._known(memory, f"{direction}_latency_cycles"))
        return min(peak, in_flight * memory.burst_bytes / latency) if latency else peak

    def transfer_latency_cycles(self, source: Memory, destination: Memory) -> int:
        """Cycles from the issue of a transfer to its first byte: set-up, read latency, write latency."""
        setup, read, write = self.dma.setup_cycles, source.read_latency_cycles, destination.write_latency_cycles
        if setup is None or read is None or write is None:
            raise self._unknown(*self._unknown_latencies())
        return int(setup + read + write)

    def _unknown_latencies(self) -> list[str]:
        """All that a time needs of transfers between the nearest and the slow memory, so that it is asked for once."""
        found = ["dma.setup_cycles"] if self.dma.setup_cycles is None else []
        for memory in (self.fast[0], self.slow):
            latencies = {"read": memory.read_latency_cycles, "write": memory.write_latency_cycles}
            found += [f"{memory.name}.{way}_latency_cycles" for way, value in latencies.items() if value is None]
        return found

    def transfer_data_cycles(self, size_bytes: int, source: Memory, destination: Memory) -> int:
        """Cycles that the bus is busy with the bytes of a transfer, rounded up."""
        rate = min(self.bytes_per_cycle(source, "read"), self.bytes_per_cycle(destination, "write"))
        return math.ceil(size_bytes / rate)

    def commands(self, size_bytes: int) -> tuple[int, ...]:
        """Bytes of each DMA command that a transfer takes."""
        limit = self.dma.max_transfer_bytes or max(size_bytes, 1)
        full, rest = divmod(size_bytes, limit)
        return (limit,) * full + ((rest,) if rest else ())

    def compute_cycles(self, macs: int, dtype: str = "int8") -> int:
        """Cycles of that many multiply-accumulates, rounded up; ``ConfigError`` if the dtype's rate is unknown."""
        if not macs:
            return 0
        if dtype not in self.macs_per_cycle:
            raise self._unknown(f"macs_per_cycle.{dtype}")
        return math.ceil(macs / Fraction(self.macs_per_cycle[dtype]))

    def padded_channels(self, channels: int) -> int:
        """Channels after padding to bricks."""
        return -(-channels // self.channel_brick) * self.channel_brick

    def energy_pj(self, read_bytes: int, written_bytes: int, macs: int, dtype: str = "int8") -> float:
        """Energy of traffic with the slow memory and of arithmetic; ``ConfigError`` names what is missing."""
        energy = self._known(self.slow, "read_pj_per_byte") * read_bytes if read_bytes else 0.0
        energy += self._known(self.slow, "write_pj_per_byte") * written_bytes if written_bytes else 0.0
        if macs and dtype not in self.mac_pj:
            raise self._unknown(f"mac_pj.{dtype}")
        return energy + (self.mac_pj[dtype] * macs if macs else 0.0)

    def _known(self, memory: Memory, attribute: str) -> float:
        value: float | None = getattr(memory, attribute)
        if value is None:
            raise self._unknown(f"{memory.name}.{attribute}")
        return value

    def _unknown(self, *parameters: str) -> ConfigError:
        given = ",".join(f"{parameter}=..." for parameter in parameters)
        one = len(parameters) == 1
        return ConfigError(
            f"machine {self.name!r}: expected {'a value' if one else 'values'} of {', '.join(parameters)}, which its "
            f"sources do not give; give {'it' if one else 'them'}, for example '{self.name}{{{given}}}'"
        )
