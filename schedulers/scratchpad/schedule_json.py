"""Schedules as JSON. Reading what was written gives an equal value."""

from __future__ import annotations

import json
from dataclasses import asdict, fields

from ...ir.errors import ScheduleError
from .. import strict_json as strict
from ..status import STATUSES, Status
from .schedule import AXES, Band, Infeasible, Range, Schedule, Traffic


def dump_schedule(schedule: Schedule) -> str:
    """The schedule as JSON text."""
    return json.dumps(asdict(schedule), allow_nan=False)


def load_schedule(text: str) -> Schedule:
    """The schedule in a JSON text; ``ScheduleError`` for unknown or missing keys or wrong kinds. Not checked."""
    value = strict.parse_object(text, "schedule")
    strict.check_keys(value, "schedule", [field.name for field in fields(Schedule)])
    return Schedule(
        status=_status(value["status"], "schedule.status"),
        budget_bytes=strict.as_int(value["budget_bytes"], "schedule.budget_bytes"),
        order=strict.as_tuple(value["order"], "schedule.order", strict.as_int),
        ranges=strict.as_tuple(value["ranges"], "schedule.ranges", _range),
        traffic=_traffic(value["traffic"], "schedule.traffic"),
        bound_bytes=strict.as_int(value["bound_bytes"], "schedule.bound_bytes"),
        peak_bytes=strict.as_int(value["peak_bytes"], "schedule.peak_bytes"),
        wall_s=strict.as_float(value["wall_s"], "schedule.wall_s"),
        offsets=strict.as_mapping(value["offsets"], "schedule.offsets", strict.as_int),
        infeasible=strict.optional(value["infeasible"], "schedule.infeasible", _infeasible),
        solver=strict.as_str(value["solver"], "schedule.solver"),
        min_rows=strict.as_int(value["min_rows"], "schedule.min_rows"),
        no_spill=strict.as_bool(value["no_spill"], "schedule.no_spill"),
        stream_buffer_bytes=strict.as_int(value["stream_buffer_bytes"], "schedule.stream_buffer_bytes"),
        atomic=strict.as_bool(value["atomic"], "schedule.atomic"),
    )


def _status(value: object, where: str) -> Status:
    for status in STATUSES:
        if value == status:
            return status
    raise ScheduleError(f"{where}: expected one of {', '.join(STATUSES)}, found {value!r}; correct it")


def _range(value: object, where: str) -> Range:
    item = strict.as_object(value, where)
    strict.check_keys(item, where, [field.name for field in fields(Range) if field.name != "band"], ("band",))

    def positions(key: str) -> tuple[int, ...]:
        return strict.as_tuple(item[key], f"{where}.{key}", strict.as_int)

    return Range(
        start=strict.as_int(item["start"], f"{where}.start"),
        stop=strict.as_int(item["stop"], f"{where}.stop"),
        stripe_rows=strict.as_int(item["stripe_rows"], f"{where}.stripe_rows"),
        whole=positions("whole"),
        fetched=positions("fetched"),
        stored=positions("stored"),
        resident_weights=positions("resident_weights"),
        in_place=strict.as_tuple(item["in_place"], f"{where}.in_place", _pair),
        band=strict.optional(item.get("band"), f"{where}.band", _band),
    )


def _band(value: object, where: str) -> Band:
    item = strict.as_object(value, where)
    strict.check_keys(item, where, [field.name for field in fields(Band)])
    for axis in AXES:
        if item["axis"] == axis:
            return Band(axis, strict.as_int(item["extent"], f"{where}.extent"))
    raise ScheduleError(f"{where}.axis: expected one of {', '.join(AXES)}, found {item['axis']!r}; correct it")


def _pair(value: object, where: str) -> tuple[int, int]:
    numbers = strict.as_tuple(value, where, strict.as_int)
    if len(numbers) != 2:
        raise ScheduleError(f"{where}: expected a tensor and its host, found {len(numbers)} numbers; give two")
    return (numbers[0], numbers[1])


def _traffic(value: object, where: str) -> Traffic:
    item = strict.as_object(value, where)
    strict.check_keys(item, where, [field.name for field in fields(Traffic)])
    return Traffic(
        **{field.name: strict.as_int(item[field.name], f"{where}.{field.name}") for field in fields(Traffic)}
    )


def _infeasible(value: object, where: str) -> Infeasible:
    item = strict.as_object(value, where)
    strict.check_keys(item, where, [field.name for field in fields(Infeasible)])
    return Infeasible(
        strict.as_str(item["operator"], f"{where}.operator"),
        strict.as_int(item["smallest_budget_bytes"], f"{where}.smallest_budget_bytes"),
    )
