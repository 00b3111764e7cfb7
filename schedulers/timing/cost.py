"""What single events cost on a machine. ``ConfigError`` names what the machine's description leaves unknown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ...ir.machine import Machine
from .events import Compute, Event, Transfer


@dataclass(frozen=True)
class Command:
    """One command of the DMA engine, in cycles.

    Attributes:
        latency_cycles: from its issue to its first byte.
        data_cycles: for which it occupies the bus.
    """

    latency_cycles: int
    data_cycles: int


def commands(machine: Machine, transfer: Transfer) -> tuple[Command, ...]:
    """The commands that a transfer takes; none for 0 bytes."""
    near = machine.memory(transfer.memory) if transfer.memory else machine.fast[0]
    source, destination = (machine.slow, near) if transfer.direction == "read" else (near, machine.slow)
    sizes = machine.commands(transfer.size_bytes)
    latency = machine.transfer_latency_cycles(source, destination) if sizes else 0
    return tuple(Command(latency, machine.transfer_data_cycles(size, source, destination)) for size in sizes)


def compute_cycles(machine: Machine, event: Compute) -> int:
    """Cycles of a computation: the longest of arithmetic, reading operands and writing results."""
    near = machine.fast[0]
    read = math.ceil(event.read_bytes / machine.bytes_per_cycle(near, "read")) if event.read_bytes else 0
    written = math.ceil(event.written_bytes / machine.bytes_per_cycle(near, "write")) if event.written_bytes else 0
    return max(machine.compute_cycles(event.macs, event.dtype), read, written)


def energy_pj(machine: Machine, events: Sequence[Event]) -> float:
    """Energy in picojoules of slow memory traffic and arithmetic; fast memories are not counted."""
    energy = 0.0
    for event in events:
        if isinstance(event, Compute):
            energy += machine.energy_pj(0, 0, event.macs, event.dtype)
        elif event.direction == "read":
            energy += machine.energy_pj(event.size_bytes, 0, 0)
        else:
            energy += machine.energy_pj(0, event.size_bytes, 0)
    return energy
