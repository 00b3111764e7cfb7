"""A program as plain tables: what is written as JSON and as a C header. Its fields are the schema.

Addresses and sizes are bytes. Off-chip memory is one image: inputs, what is spilled, outputs, constants. Reading checks
that every address lies in its memory, that positions exist and that commands need earlier ones.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

from ...ir import json_values
from ...ir.errors import ScheduleError
from ...schedulers.scratchpad.commands import Command, Listing
from ...schedulers.scratchpad.cycles import Prediction
from ...schedulers.scratchpad.schedule import Traffic
from .describe import Described

FORMAT = "instar-scratchpad-program-2"


@dataclass(frozen=True)
class TensorRow:
    """One value.

    Attributes:
        name: of the operator that makes it, or of the input.
        role: input, activation or output.
        dtype: of its elements.
        shape: axes as they lie in memory; images have their channels last.
        size_bytes: with padding.
        off_chip: address of its first row in the off-chip image, -1 where it is never there.
        row_bytes: from one row to the next off-chip.
        position_bytes: from one position to the next off-chip.
    """

    name: str
    role: Literal["input", "activation", "output"]
    dtype: str
    shape: tuple[int, ...]
    size_bytes: int
    off_chip: int = -1
    row_bytes: int = 0
    position_bytes: int = 0


@dataclass(frozen=True)
class OperatorRow:
    """One operator.

    Attributes:
        name: where it comes from in the model.
        kind: what decides its geometry.
        inputs: positions of the tensors that it reads.
        output: position of the tensor that it makes.
        weight_bytes: of its constants, packed as the plan stores them.
        weights: address of its constants in the off-chip image, -1 without.
        macs: multiply-accumulates.
        dtype: of their factors, "" without.
        nodes: what it computes, op by op, as the graph spells them.
    """

    name: str
    kind: str
    inputs: tuple[int, ...]
    output: int
    weight_bytes: int
    weights: int
    macs: int
    dtype: str
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class BufferRow:
    """Memory on chip: ``[address, address + size_bytes)`` during ranges ``[first_range, last_range]``."""

    name: str
    address: int
    size_bytes: int
    first_range: int
    last_range: int


@dataclass(frozen=True)
class RangeRow:
    """Operators that run together, stripe by stripe.

    Attributes:
        operators: their positions.
        stripe_rows: rows of the last one per stripe.
        whole: tensors whole on chip.
        stored: tensors that are written off-chip while they are made.
        fetched: tensors that are read whole before the first stripe.
        axis: along which the range is cut in bands; "" where it is not.
        bands: per band (tensor, first, stop): the columns or channels of it that the band needs or makes. Line buffers
            hold a window that begins at the least first of the tensors that lie in them.
    """

    operators: tuple[int, ...]
    stripe_rows: int
    whole: tuple[int, ...]
    stored: tuple[int, ...]
    fetched: tuple[int, ...]
    axis: Literal["", "columns", "channels"] = ""
    bands: tuple[tuple[tuple[int, int, int], ...], ...] = ()


@dataclass(frozen=True)
class CommandRow:
    """One command; see :class:`instar.schedulers.scratchpad.commands.Command`.

    Attributes:
        kind: load, store or compute.
        purpose: why bytes move; "compute" for computations.
        subject: operator of a computation or of weights, else tensor.
        first: first row.
        rows: how many.
        range: position of its range.
        bytes: charged.
        part: (piece, pieces) of a computation whose weights come in pieces.
        band: of its range, where that is cut.
        window: (first, stop) columns or channels that it moves or makes; (0, 0) for all.
        moves: (on chip, off-chip, blocks, bytes of a block, stride on chip, stride off-chip) each.
        reads: (first, stop) on chip each.
        writes: the same.
        needs: positions of earlier commands that must have ended.
    """

    kind: Literal["load", "store", "compute"]
    purpose: str
    subject: int
    first: int
    rows: int
    range: int
    bytes: int
    part: tuple[int, int]
    band: int
    window: tuple[int, int]
    moves: tuple[tuple[int, int, int, int, int, int], ...]
    reads: tuple[tuple[int, int], ...]
    writes: tuple[tuple[int, int], ...]
    needs: tuple[int, ...]


@dataclass(frozen=True)
class Tables:
    """A whole program.

    Attributes:
        format: :data:`FORMAT`.
        model: its name.
        machine: whose description it was made with.
        clock_hz: of the machine's core.
        budget_bytes: of scratchpad that was allowed.
        scratchpad_bytes: that it takes: end of the highest buffer.
        off_chip_bytes: of the off-chip image.
        status: ``optimal`` for its order and model, or ``feasible``.
        traffic: bytes by purpose.
        bound_bytes: no such schedule moves fewer avoidable bytes.
        cycles: predicted, -1 where the machine's description gives no time.
        tensors: of the network.
        operators: of the network, in an executable order.
        buffers: on chip.
        ranges: in order.
        commands: in program order.
    """

    format: str
    model: str
    machine: str
    clock_hz: float
    budget_bytes: int
    scratchpad_bytes: int
    off_chip_bytes: int
    status: Literal["optimal", "feasible"]
    traffic: Traffic
    bound_bytes: int
    cycles: int
    tensors: tuple[TensorRow, ...]
    operators: tuple[OperatorRow, ...]
    buffers: tuple[BufferRow, ...]
    ranges: tuple[RangeRow, ...]
    commands: tuple[CommandRow, ...]


def tables_of(
    described: Described, listing: Listing, prediction: Prediction | None, machine: str, clock_hz: float
) -> Tables:
    """The tables of a program."""
    program, schedule = listing.program, listing.program.schedule
    return Tables(
        FORMAT,
        listing.problem.model,
        machine,
        clock_hz,
        schedule.budget_bytes,
        program.height_bytes,
        listing.off_chip.size_bytes,
        "optimal" if schedule.status == "optimal" else "feasible",
        schedule.traffic,
        schedule.bound_bytes,
        -1 if prediction is None else prediction.timing.total_cycles,
        tuple(_tensor(described, listing, place) for place in range(len(listing.problem.tensors))),
        tuple(_operator(described, listing, place) for place in range(len(listing.problem.operators))),
        tuple(
            BufferRow(name, program.offsets[name], buffer.size_bytes, buffer.lower, buffer.upper - 1)
            for name, buffer in sorted(program.buffers.items(), key=lambda pair: (pair[1].lower, pair[0]))
        ),
        tuple(_range(listing, number) for number in range(len(schedule.ranges))),
        tuple(_command(command) for command in listing.commands),
    )


def _tensor(described: Described, listing: Listing, place: int) -> TensorRow:
    tensor, layout = listing.problem.tensors[place], described.layouts[place]
    base, row, position = listing.off_chip.tensors.get(place, (-1, 0, 0))
    dtype = str(layout.dtype).removeprefix("torch.")
    return TensorRow(tensor.name, tensor.role, dtype, tensor.shape, tensor.size_bytes, base, row, position)


def _operator(described: Described, listing: Listing, place: int) -> OperatorRow:
    operator = listing.problem.operators[place]
    return OperatorRow(
        operator.name,
        operator.kind,
        operator.inputs,
        operator.output,
        operator.weight_bytes,
        listing.off_chip.weights.get(place, -1),
        operator.macs,
        described.dtypes[place],
        tuple(node.op.short_name for node in described.fused.operators[place].nodes),
    )


def _range(listing: Listing, number: int) -> RangeRow:
    schedule, placed = listing.program.schedule, listing.program.ranges[number]
    piece = schedule.ranges[number]
    bands = tuple(tuple((t, *window) for t, window in sorted(band.windows.items())) for band in placed.bands)
    axis = "" if piece.band is None else piece.band.axis
    operators = schedule.order[piece.start : piece.stop]
    return RangeRow(operators, piece.stripe_rows, piece.whole, piece.stored, piece.fetched, axis, bands)


def _command(command: Command) -> CommandRow:
    moves = tuple((m.on_chip, m.off_chip, m.blocks, m.block_bytes, m.on_stride, m.off_stride) for m in command.moves)
    return CommandRow(
        command.kind, command.purpose, command.subject, command.first, command.rows, command.range_number,
        command.size_bytes, command.part, command.band, command.window or (0, 0), moves, command.reads, command.writes,
        command.needs,
    )  # fmt: skip


def dump(tables: Tables) -> str:
    """JSON text; :func:`load` reads it back."""
    return json.dumps(json_values.plain(tables), allow_nan=False, separators=(",", ":"))


def load(text: str, where: str = "program") -> Tables:
    """The tables in a JSON text.

    Raises:
        ScheduleError: a key is missing, unknown or of another kind, or a table contradicts itself.
    """
    found = json_values.loads(Tables, text, where, ScheduleError)
    problem = next(iter(contradictions(found)), None)
    if problem is not None:
        raise ScheduleError(f"{where}: {problem}")
    return found


def contradictions(tables: Tables) -> list[str]:
    """What is wrong with tables that have the right keys; empty if nothing is."""
    wrong: list[str] = []
    if tables.format != FORMAT:
        wrong.append(f"format: expected {FORMAT!r}, found {tables.format!r}; compile the model again")
    for place, command in enumerate(tables.commands):
        wrong += [f"commands[{place}].{text}" for text in _command_problems(tables, place, command)]
    for buffer in tables.buffers:
        if buffer.address < 0 or buffer.address + buffer.size_bytes > tables.scratchpad_bytes:
            wrong.append(f"buffer {buffer.name!r}: expected it within {tables.scratchpad_bytes} bytes of scratchpad")
    if tables.scratchpad_bytes > tables.budget_bytes:
        wrong.append(f"scratchpad_bytes: expected at most {tables.budget_bytes}, found {tables.scratchpad_bytes}")
    return wrong


def _command_problems(tables: Tables, place: int, command: CommandRow) -> list[str]:
    wrong: list[str] = []
    subjects = tables.operators if command.kind == "compute" or "weight" in command.purpose else tables.tensors
    if not 0 <= command.subject < len(subjects):
        wrong.append(f"subject: expected 0 to {len(subjects) - 1}, found {command.subject}")
    if any(not 0 <= need < place for need in command.needs):
        wrong.append(f"needs: expected positions of earlier commands, found {list(command.needs)}")
    for on_chip, off_chip, blocks, size, on_stride, off_stride in command.moves:
        on_end, off_end = on_chip + (blocks - 1) * on_stride + size, off_chip + (blocks - 1) * off_stride + size
        if (
            min(on_chip, off_chip, blocks, size) < 0
            or on_end > tables.scratchpad_bytes
            or off_end > tables.off_chip_bytes
        ):
            wrong.append(f"moves: expected addresses inside both memories, found {on_chip} and {off_chip}")
    for first, stop in (*command.reads, *command.writes):
        if not 0 <= first <= stop <= tables.scratchpad_bytes:
            wrong.append(f"reads or writes: expected addresses in the scratchpad, found {first} to {stop}")
    return wrong
