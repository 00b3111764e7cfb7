"""A schedule of whole operators: an order, and for every tensor the stretches of steps in which it is on chip."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ...placement.problem import Buffer
from ...status import Status
from ..problem import Problem
from ..schedule import Infeasible, Range, Schedule, Traffic
from .flow import Flow, Gap, positions, touched


@dataclass(frozen=True)
class Stay:
    """A tensor is on chip, at one address, in the steps ``[start, stop)``.

    Attributes:
        tensor: its position.
        start: where it is made or read from off-chip.
        stop: after its last use of this stay.
        offset_bytes: its address, ``None`` if none was decided.
    """

    tensor: int
    start: int
    stop: int
    offset_bytes: int | None = None


@dataclass(frozen=True)
class AtomicSchedule:
    """What was found, and what was proven.

    Attributes:
        status: ``optimal``, ``feasible``, ``infeasible`` or ``timeout``.
        budget_bytes: bytes of scratchpad.
        order: operators as positions in the problem; empty without a schedule.
        stays: of all tensors, ascending by start.
        constants: per step, the address of the operator's constants; empty where they are not on chip.
        traffic_bytes: written out and read back beyond what is compulsory.
        bound_bytes: no schedule (of this order, if it is fixed) moves less.
        peak_bytes: most bytes on chip in a step.
        height_bytes: highest address that is used, plus one; what fragmentation adds to the peak.
        wall_s: seconds spent (not compared).
        fixed_order: whether the order was given.
        solver: what found it.
        refused: residencies that turned out to have no placement.
        infeasible: the operator that does not fit.
    """

    status: Status
    budget_bytes: int
    order: tuple[int, ...] = ()
    stays: tuple[Stay, ...] = ()
    constants: tuple[int, ...] = ()
    traffic_bytes: int = 0
    bound_bytes: int = 0
    peak_bytes: int = 0
    height_bytes: int = 0
    wall_s: float = field(default=0.0, compare=False)
    fixed_order: bool = False
    solver: str = ""
    refused: int = 0
    infeasible: Infeasible | None = None


def stays_of(flow: Flow, order: Sequence[int], dropped: Sequence[Gap]) -> tuple[Stay, ...]:
    """Stretches on chip, split at the gaps in which tensors are away."""
    at = positions(order)
    away = {(gap.tensor, gap.start) for gap in dropped}
    stays: list[Stay] = []
    for tensor in range(len(flow.sizes)):
        points = touched(flow, at, tensor)
        first = 0
        for place, point in enumerate(points):
            if place + 1 == len(points) or (tensor, point) in away:
                stays.append(Stay(tensor, points[first], point + 1))
                first = place + 1
    return tuple(sorted(stays, key=lambda stay: (stay.start, stay.tensor)))


def constants_of(flow: Flow, operator: int) -> int:
    """Bytes that an operator needs on chip beside its tensors."""
    return flow.pinned[operator] - sum(flow.sizes[t] for t in {*flow.reads[operator], flow.makes[operator]})


def buffers_of(flow: Flow, order: Sequence[int], stays: Sequence[Stay], alignment_bytes: int) -> tuple[Buffer, ...]:
    """What is to be placed: one buffer per stay, then one for the constants of every step that has some."""
    names = [f"{flow.names[stay.tensor]}@{stay.start}" for stay in stays]
    buffers = [
        Buffer(name, stay.start, stay.stop, flow.sizes[stay.tensor], alignment_bytes)
        for name, stay in zip(names, stays, strict=True)
    ]
    for step, operator in enumerate(order):
        if constants_of(flow, operator):
            constants = constants_of(flow, operator)
            buffers.append(Buffer(f"constants@{step}", step, step + 1, constants, alignment_bytes))
    return tuple(buffers)


def on_chip_bytes(flow: Flow, order: Sequence[int], stays: Sequence[Stay]) -> list[int]:
    """Bytes on chip in every step."""
    change = [0] * (len(order) + 1)
    for stay in stays:
        change[stay.start] += flow.sizes[stay.tensor]
        change[stay.stop] -= flow.sizes[stay.tensor]
    total = 0
    used: list[int] = []
    for step, operator in enumerate(order):
        total += change[step]
        used.append(total + constants_of(flow, operator))
    return used


def as_schedule(problem: Problem, flow: Flow, found: AtomicSchedule) -> Schedule:
    """The same in the terms of all scratchpad schedules: every operator is a range of its own."""
    ranges = tuple(_ranges(problem, flow, found))
    written, read, inputs = _moved(problem, flow, found.stays)
    return Schedule(
        status=found.status,
        budget_bytes=found.budget_bytes,
        order=found.order,
        ranges=ranges,
        traffic=Traffic(
            spill_write_bytes=written,
            spill_read_bytes=read,
            input_bytes=inputs,
            output_bytes=sum(tensor.size_bytes for tensor in problem.tensors if tensor.role == "output"),
            weight_bytes=sum(operator.weight_bytes for operator in problem.operators),
        ),
        bound_bytes=found.bound_bytes,
        peak_bytes=found.peak_bytes,
        wall_s=found.wall_s,
        offsets={
            f"{flow.names[stay.tensor]}@{stay.start}": stay.offset_bytes
            for stay in found.stays
            if stay.offset_bytes is not None
        },
        infeasible=found.infeasible,
        solver=found.solver,
        atomic=True,
    )


def _ranges(problem: Problem, flow: Flow, found: AtomicSchedule) -> Iterator[Range]:
    count = Counter(stay.tensor for stay in found.stays)
    coming = list(reversed(found.stays))
    here: list[Stay] = []
    for step, operator in enumerate(found.order):
        here = [stay for stay in here if stay.stop > step]
        while coming and coming[-1].start == step:
            here.append(coming.pop())
        made = flow.makes[operator]
        output = problem.tensors[made].role == "output"
        yield Range(
            start=step,
            stop=step + 1,
            whole=tuple(stay.tensor for stay in here),
            fetched=tuple(stay.tensor for stay in here if stay.start == step and stay.tensor != made),
            stored=(made,) if count[made] > 1 or output else (),
            resident_weights=(operator,) if constants_of(flow, operator) else (),
        )


def _moved(problem: Problem, flow: Flow, stays: Sequence[Stay]) -> tuple[int, int, int]:
    """Bytes written by spills, read back, and read from inputs for the first time."""
    count = [0] * len(flow.sizes)
    for stay in stays:
        count[stay.tensor] += 1
    written = sum(write for write, times in zip(flow.write_bytes, count, strict=True) if times > 1)
    read = sum(size * (times - 1) for size, times in zip(flow.sizes, count, strict=True) if times > 1)
    roles = [tensor.role for tensor in problem.tensors]
    inputs = sum(s for s, role, times in zip(flow.sizes, roles, count, strict=True) if role == "input" and times)
    return written, read, inputs
