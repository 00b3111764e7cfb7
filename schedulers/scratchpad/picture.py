"""A listing as the values of its picture."""

from __future__ import annotations

from collections.abc import Sequence

from ...ir.machine_picture import Box, MachinePicture, Span
from .commands import Listing
from .cycles import Prediction
from .program import WEIGHTS
from .schedule import Traffic

SPILLING = ("spill_read", "spill_write")


def picture_of(
    listing: Listing,
    prediction: Prediction | None,
    title: str,
    notes: Sequence[str] = (),
    clock_hz: float | None = None,
) -> MachinePicture:
    """Memory, DMA and core over cycles; over positions of commands where there is no time.

    Args:
        listing: of commands.
        prediction: when each of them runs.
        title: one line.
        notes: sentences for people.
        clock_hz: of the core, for a time in milliseconds.
    """
    spans = (
        [(float(place), place + 1.0) for place in range(len(listing.commands))]
        if prediction is None
        else [(float(start), float(end)) for start, end in prediction.timing.spans]
    )
    dma: list[Span] = []
    core: list[Span] = []
    for command, (start, stop) in zip(listing.commands, spans, strict=True):
        of_operator = command.kind == "compute" or "weight" in command.purpose
        table = listing.problem.operators if of_operator else listing.problem.tensors
        span = Span(table[command.subject].name, command.purpose, start, stop, command.size_bytes)
        (core if command.kind == "compute" else dma).append(span)
    return MachinePicture(
        title,
        "commands" if prediction is None else "cycles",
        listing.program.schedule.budget_bytes,
        tuple(_boxes(listing, spans)),
        tuple(sorted(dma, key=lambda span: span.start)),
        tuple(core),
        tuple(facts_of(listing, prediction, clock_hz)),
        tuple(notes),
    )


def _boxes(listing: Listing, spans: Sequence[tuple[float, float]]) -> list[Box]:
    """Buffers from the first to the last moment at which their ranges touch them."""
    program = listing.program
    touched = _touched(listing, spans)
    spilled = {listing.problem.tensors[c.subject].name for c in listing.commands if c.purpose in SPILLING}
    whole = {
        store.name
        for placed, piece in zip(program.ranges, program.schedule.ranges, strict=True)
        for tensor, pieces in placed.pieces.items()
        if tensor in piece.whole
        for store, _, _ in pieces
    }
    found: list[Box] = []
    for name, buffer in program.buffers.items():
        if name not in touched:
            continue
        label = name.rpartition("@")[0]
        kind = "weights" if name.startswith(WEIGHTS) else "stream" if label == "weight stream" else "line"
        kind = "whole" if name in whole else kind
        start, stop = touched[name]
        found.append(Box(label, kind, program.offsets[name], buffer.size_bytes, start, stop, label in spilled))
    return found


def _touched(listing: Listing, spans: Sequence[tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """Buffer -> first and last moment at which a command of its lifetime touches its addresses."""
    program = listing.program
    by_range: dict[int, list[str]] = {}
    for name, buffer in program.buffers.items():
        for number in range(buffer.lower, buffer.upper):
            by_range.setdefault(number, []).append(name)
    found: dict[str, tuple[float, float]] = {}
    for command, (start, stop) in zip(listing.commands, spans, strict=True):
        for name in by_range.get(command.range_number, ()):
            low = program.offsets[name]
            high = low + program.buffers[name].size_bytes
            if any(first < high and last > low for (first, last), _ in command.touched()):
                known = found.get(name, (start, stop))
                found[name] = (min(known[0], start), max(known[1], stop))
    return found


def facts_of(listing: Listing, prediction: Prediction | None, clock_hz: float | None) -> list[tuple[str, str]]:
    """What people ask first."""
    schedule = listing.program.schedule
    traffic: Traffic = schedule.traffic
    found = [
        ("proof", f"{schedule.status}, at least {schedule.bound_bytes:,} avoidable bytes"),
        ("scratchpad", f"{listing.program.height_bytes:,} of {schedule.budget_bytes:,} bytes"),
        ("avoidable bytes", f"{traffic.total_bytes:,}"),
        ("spilled and read back", f"{traffic.spill_write_bytes:,} + {traffic.spill_read_bytes:,}"),
        ("weights read again", f"{traffic.weight_reread_bytes:,}"),
        ("weights, inputs, outputs", f"{traffic.weight_bytes:,} + {traffic.input_bytes:,} + {traffic.output_bytes:,}"),
        ("commands", f"{len(listing.commands):,} in {len(schedule.ranges):,} ranges"),
    ]
    if prediction is not None:
        timing = prediction.timing
        took = "" if clock_hz is None else f", {1e3 * timing.total_cycles / clock_hz:.4g} ms"
        found += [
            ("cycles, predicted", f"{timing.total_cycles:,}{took}"),
            ("core computes, bus moves", f"{timing.compute_cycles:,} and {timing.bus_cycles:,} cycles"),
        ]
    if prediction is not None and prediction.energy_pj is not None:
        found.append(("energy off-chip and arithmetic", f"{prediction.energy_pj / 1e6:,.3g} uJ"))
    return found
