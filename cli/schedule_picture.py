"""``instar schedule --report``: pictures of schedules and placements as pages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from ..ir.errors import ScheduleError
from ..ir.machine_picture import Box, MachinePicture, Span

if TYPE_CHECKING:
    from ..ir.machine import Machine
    from ..schedulers.placement import PlacementProblem, PlacementSolution
    from ..schedulers.scratchpad.planning import Planned
    from ..schedulers.scratchpad.problem import Problem
    from ..schedulers.scratchpad.schedule import Schedule


def dtypes_of(problem: Problem) -> tuple[str, ...]:
    """Operator graphs do not say what their products multiply: 8-bit integers, as accelerators do."""
    return tuple("int8" if operator.macs else "" for operator in problem.operators)


def schedule_page(problem: Problem, schedule: Schedule, machine: Machine | None, planned: Planned | None) -> str:
    """One HTML page.

    Raises:
        ScheduleError: there is no schedule to draw.
    """
    from ..report.machine_picture import page

    if not schedule.order:
        least = (
            "" if schedule.infeasible is None else f" ({schedule.infeasible.smallest_budget_bytes} bytes are enough)"
        )
        raise ScheduleError(f"--report: expected a schedule to draw, found {schedule.status}{least}; raise --budget")
    if schedule.atomic:
        return page(_whole_operators(problem, schedule))
    return page(_stripes(problem, schedule, machine, planned))


def _stripes(problem: Problem, schedule: Schedule, machine: Machine | None, planned: Planned | None) -> MachinePicture:
    from ..ir.errors import ConfigError
    from ..schedulers.scratchpad.cycles import Prediction, predict
    from ..schedulers.scratchpad.lowering import lower
    from ..schedulers.scratchpad.picture import picture_of
    from ..schedulers.scratchpad.program import assemble
    from ..schedulers.scratchpad.reasons import sentences, spills

    if planned is not None and planned.listing is not None:
        listing, prediction = planned.listing, planned.prediction
    else:
        listing, prediction = lower(assemble(problem, schedule)), None
    notes: tuple[str, ...] = sentences(spills(listing), 40)
    if prediction is None and machine is not None:
        try:
            prediction: Prediction | None = predict(machine, listing, dtypes_of(problem))
        except ConfigError as unknown:
            notes = (*notes, f"no time: {unknown}")
    title = problem.model if machine is None else f"{problem.model} on {machine.name}"
    return picture_of(listing, prediction, title, notes, None if machine is None else machine.clock_hz)


def _whole_operators(problem: Problem, schedule: Schedule) -> MachinePicture:
    """Steps instead of cycles; a tensor is a box for as long as it stays."""
    names = {tensor.name: place for place, tensor in enumerate(problem.tensors)}
    present = [_present(problem, schedule, step) for step in range(len(schedule.ranges))]
    spilled = {problem.tensors[t].name for piece in schedule.ranges for t in (*piece.stored, *piece.fetched)}
    boxes: list[Box] = []
    for name, address in schedule.offsets.items():
        label, _, first = name.rpartition("@")
        start = int(first)
        tensor = names.get(label)
        if tensor is None:
            operator = problem.operators[schedule.order[start]]
            boxes.append(
                Box(f"weights of {operator.name}", "weights", address, operator.weight_bytes, start, start + 1)
            )
            continue
        stop = next((s for s in range(start + 1, len(present)) if tensor not in present[s]), len(present))
        size = problem.tensors[tensor].size_bytes
        boxes.append(Box(label, "whole", address, size, start, stop, label in spilled))
    core = [Span(problem.operators[o].name, "compute", step, step + 1) for step, o in enumerate(schedule.order)]
    dma = tuple(_moves(problem, schedule))
    facts = (("avoidable bytes", f"{schedule.traffic.total_bytes:,}"), ("proof", schedule.status))
    return MachinePicture(problem.model, "steps", schedule.budget_bytes, tuple(boxes), dma, tuple(core), facts)


def _present(problem: Problem, schedule: Schedule, step: int) -> frozenset[int]:
    operator = problem.operators[schedule.order[step]]
    return frozenset({*schedule.ranges[step].whole, *operator.inputs, operator.output})


def _moves(problem: Problem, schedule: Schedule) -> Iterator[Span]:
    for step, piece in enumerate(schedule.ranges):
        for kind, group in (("spill_read", piece.fetched), ("spill_write", piece.stored)):
            for tensor in group:
                source = problem.tensors[tensor]
                purpose = "input" if source.role == "input" else kind
                purpose = "output" if source.role == "output" and kind == "spill_write" else purpose
                yield Span(source.name, purpose, step, step + 1, source.size_bytes)


def placement_page(problem: PlacementProblem, solution: PlacementSolution) -> str:
    """Buffers over their lifetimes.

    Raises:
        ScheduleError: there is no placement to draw.
    """
    from ..report.machine_picture import page

    offsets: Mapping[str, int] = solution.offsets
    if not offsets and problem.buffers:
        raise ScheduleError(f"--report: expected a placement to draw, found {solution.status}; see what it says")
    boxes = tuple(
        Box(b.name, "whole", offsets[b.name], b.size_bytes, b.lower, b.upper)
        for b in problem.buffers
        if b.name in offsets
    )
    height = max((box.address + box.size_bytes for box in boxes), default=0)
    facts = (("height", f"{height:,} bytes"), ("proof", solution.status))
    return page(MachinePicture("buffers", "steps", max(height, problem.capacity_bytes or 0), boxes, (), (), facts))
