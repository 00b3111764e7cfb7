"""Instances and schedules of the contest, as values and as the contest's JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ...ir.errors import ScheduleError
from .. import strict_json as strict

OpType = Literal["MatMul", "Pointwise"]


@dataclass(frozen=True)
class Op:
    """One operation; ``inputs`` and ``output`` are positions of tensors, of a MatMul left and right factor."""

    type: OpType
    inputs: tuple[int, ...]
    output: int
    base_cost: float


@dataclass(frozen=True)
class Instance:
    """A graph of matrices on a machine; sizes in elements.

    Attributes:
        sizes: (width, height) of every tensor.
        ops: operations.
        capacity: elements of fast memory.
        bandwidth: elements per unit of time between slow and fast memory.
        native: width and height that the hardware computes at once.
    """

    sizes: tuple[tuple[int, int], ...]
    ops: tuple[Op, ...]
    capacity: int
    bandwidth: float
    native: tuple[int, int]
    producer: Mapping[int, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        producer: dict[int, int] = {}
        for place, op in enumerate(self.ops):
            self._check(place, op)
            if op.output in producer:
                raise ScheduleError(f"operation {place}: expected a tensor that nobody else makes, found {op.output}")
            producer[op.output] = place
        object.__setattr__(self, "producer", producer)

    def _check(self, place: int, op: Op) -> None:
        where = f"operation {place}"
        if any(not 0 <= tensor < len(self.sizes) for tensor in (*op.inputs, op.output)):
            raise ScheduleError(f"{where}: expected tensors from 0 to {len(self.sizes) - 1}, found {op}; correct it")
        width, height = self.sizes[op.output]
        if op.type == "Pointwise":
            wrong = [tensor for tensor in op.inputs if self.sizes[tensor] != (width, height)]
        else:
            if len(op.inputs) != 2:
                raise ScheduleError(f"{where}: expected two factors of a MatMul, found {len(op.inputs)}; correct it")
            left, right = (self.sizes[tensor] for tensor in op.inputs)
            wrong = list(op.inputs) if (left[1], right[0], left[0]) != (height, width, right[1]) else []
        if wrong:
            raise ScheduleError(
                f"{where}: expected inputs that fit {width}x{height}, found tensor {wrong[0]}; correct it"
            )

    @property
    def graph_inputs(self) -> frozenset[int]:
        """Tensors that nobody makes."""
        return frozenset(range(len(self.sizes))) - frozenset(self.producer)

    @property
    def graph_outputs(self) -> frozenset[int]:
        """Tensors that are made and that nobody reads."""
        return frozenset(self.producer) - {tensor for op in self.ops for tensor in op.inputs}


@dataclass(frozen=True)
class Subgraph:
    """Operations that run together.

    Attributes:
        ops: positions of operations.
        granularity: width and height of a tile of the result, depth of a step of a sum.
        retain: tensors that stay in fast memory as a whole.
        traversal: order of tiles, numbered row by row; ``None`` is row by row, without reuse between tiles.
    """

    ops: tuple[int, ...]
    granularity: tuple[int, int, int]
    retain: frozenset[int] = frozenset()
    traversal: tuple[int, ...] | None = None


def load_instance(text: str) -> Instance:
    """The instance in the contest's JSON; ``ScheduleError`` says what is missing or wrong."""
    value = strict.parse_object(text, "instance")
    keys = ("widths", "heights", "inputs", "outputs", "base_costs", "op_types")
    machine = ("fast_memory_capacity", "slow_memory_bandwidth", "native_granularity")
    strict.check_keys(value, "instance", (*keys, *machine))
    columns = [strict.as_tuple(value[key], f"instance.{key}", _same) for key in keys]
    widths, heights = (tuple(strict.as_int(item, "instance.sizes") for item in column) for column in columns[:2])
    if len(widths) != len(heights) or len({len(column) for column in columns[2:]}) != 1:
        lengths = ", ".join(f"{len(column)} {key}" for key, column in zip(keys, columns, strict=True))
        raise ScheduleError(f"instance: expected lists of one length per tensor and operation, found {lengths}")
    ops = [_op(place, *row) for place, row in enumerate(zip(*columns[2:], strict=True))]
    native = _ints(value["native_granularity"], "instance.native_granularity")
    if len(native) != 2 or min(native) < 1:
        raise ScheduleError(f"instance.native_granularity: expected width and height, found {list(native)}; correct it")
    return Instance(
        tuple(zip(widths, heights, strict=True)),
        tuple(ops),
        strict.as_int(value["fast_memory_capacity"], "instance.fast_memory_capacity"),
        strict.as_float(value["slow_memory_bandwidth"], "instance.slow_memory_bandwidth"),
        (native[0], native[1]),
    )


def _op(place: int, inputs: object, outputs: object, cost: object, type: object) -> Op:
    where = f"instance: operation {place}"
    if type not in ("MatMul", "Pointwise"):
        raise ScheduleError(f"{where}: expected MatMul or Pointwise, found {type!r}; correct it")
    made = _ints(outputs, where)
    if len(made) != 1:
        raise ScheduleError(f"{where}: expected one output, found {len(made)}; split it")
    return Op(type, _ints(inputs, where), made[0], strict.as_float(cost, where))


def load_schedule(text: str) -> tuple[tuple[Subgraph, ...], tuple[float, ...]]:
    """The subgraphs in the contest's JSON and the latencies that it claims."""
    value = strict.parse_object(text, "schedule")
    required = ("subgraphs", "granularities", "tensors_to_retain", "subgraph_latencies")
    strict.check_keys(value, "schedule", required, ("traversal_orders",))
    ops, tiles, retain = (strict.as_tuple(value[key], f"schedule.{key}", _ints) for key in required[:3])
    latencies = strict.as_tuple(value["subgraph_latencies"], "schedule.subgraph_latencies", strict.as_float)
    no_orders: list[None] = [None] * len(ops)
    orders = strict.as_tuple(
        value.get("traversal_orders", no_orders),
        "schedule.traversal_orders",
        lambda item, at: strict.optional(item, at, _ints),
    )
    if len({len(ops), len(tiles), len(retain), len(orders), len(latencies)}) != 1 or any(
        len(tile) != 3 for tile in tiles
    ):
        raise ScheduleError("schedule: expected lists of one length and three numbers per granularity; correct it")
    subgraphs = tuple(
        Subgraph(op, (tile[0], tile[1], tile[2]), frozenset(kept), order)
        for op, tile, kept, order in zip(ops, tiles, retain, orders, strict=True)
    )
    return subgraphs, latencies


def dump_schedule(subgraphs: tuple[Subgraph, ...], latencies: tuple[float, ...]) -> str:
    """The schedule in the contest's JSON."""
    return json.dumps(
        {
            "subgraphs": [list(subgraph.ops) for subgraph in subgraphs],
            "granularities": [list(subgraph.granularity) for subgraph in subgraphs],
            "tensors_to_retain": [sorted(subgraph.retain) for subgraph in subgraphs],
            "traversal_orders": [subgraph.traversal and list(subgraph.traversal) for subgraph in subgraphs],
            "subgraph_latencies": list(latencies),
        }
    )


def _same(value: object, where: str) -> object:
    del where
    return value


def _ints(value: object, where: str) -> tuple[int, ...]:
    return strict.as_tuple(value, where, strict.as_int)
