"""A schedule with addresses: buffers in the scratchpad with their lifetimes, and which bytes of them each tensor is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ...ir.errors import ScheduleError
from ..placement import Buffer, PlacementProblem, PlacementSolution
from ..placement import solve as place
from .bands import Interval, band_windows, weight_share, widest
from .cells import BandView, images_of
from .checker import replay
from .kernels import element_bytes
from .problem import Problem, Tensor
from .rows import parts
from .schedule import Axis, Range, Schedule

WEIGHTS = "weights of "
"""In front of the operator's name in that of the buffer of its resident weights."""


class NoAddressesError(ScheduleError):
    """The buffers of a valid schedule were not placed.

    Attributes:
        buffers: with their lifetimes in ranges.
        proven: whether there is no placement, or none was found in time.
    """

    def __init__(self, message: str, buffers: Mapping[str, Buffer], *, proven: bool) -> None:
        super().__init__(message)
        self.buffers, self.proven = buffers, proven


@dataclass(frozen=True)
class Store:
    """Memory for rows: all of a tensor's, or a ring of the rows that are still needed.

    Attributes:
        name: unique within the program.
        positions: elements of a row along all axes but the last.
        channels: along the last axis, padding included.
        item_bytes: of an element.
        rows: that it holds; row ``r`` lies at place ``r % rows``.
    """

    name: str
    positions: int
    channels: int
    item_bytes: int
    rows: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.positions * self.channels * self.item_bytes


Piece = tuple[Store, int, int]
"""Channels ``[first, stop)`` of a store."""


@dataclass(frozen=True)
class Placed:
    """Where everything of one range lies.

    Attributes:
        pieces: tensor -> its channels, in order.
        weights: operator -> name of the buffer for its resident weights.
        stream: name of the buffer through which the other weights pass, or ``""``.
        bands: what each band holds, one after the other; none where the range is not cut.
    """

    pieces: Mapping[int, tuple[Piece, ...]]
    weights: Mapping[int, str]
    stream: str
    bands: tuple[BandView, ...] = ()


@dataclass(frozen=True)
class Program:
    """What an accelerator executes.

    Attributes:
        problem: the network.
        schedule: what to run.
        ranges: one per range of the schedule.
        buffers: name -> lifetime in ranges and size.
        offsets: name -> byte address.
        height_bytes: end of the highest buffer.
    """

    problem: Problem
    schedule: Schedule
    ranges: tuple[Placed, ...]
    buffers: Mapping[str, Buffer]
    offsets: Mapping[str, int]
    height_bytes: int


def assemble(
    problem: Problem,
    schedule: Schedule,
    *,
    time_limit_s: float = 10.0,
    alignment_bytes: int = 1,
    early_weights: bool = False,
) -> Program:
    """Addresses for a schedule.

    Args:
        problem: the network.
        schedule: what to run.
        time_limit_s: seconds for the placement.
        alignment_bytes: every address is a multiple of it.
        early_weights: weights of a range get their memory one range earlier where there is room, so that they can
            arrive while that one computes; if that has no placement, none does.

    Raises:
        ScheduleError: the schedule is not valid.
        NoAddressesError: the buffers were not placed within the budget in time.
    """
    found = replay(problem, schedule)
    if found.violations:
        raise ScheduleError(f"program: expected a valid schedule, found: {found.violations[0]}; solve it again")
    layout = _Layout(problem, schedule, alignment_bytes)
    ranges = tuple(
        layout.place(number, piece, rows)
        for number, (piece, rows) in enumerate(zip(schedule.ranges, found.line_rows, strict=True))
    )
    buffers = layout.buffers()
    solution: PlacementSolution | None = None
    if early_weights:
        wider = _earlier(buffers, schedule.budget_bytes)
        solution = _placed(wider, schedule.budget_bytes, time_limit_s / 2)
        buffers = buffers if solution is None else wider
    solution = solution or place(_placement(buffers, schedule.budget_bytes), time_limit_s=time_limit_s, workers=1)
    if solution.status not in ("optimal", "feasible"):
        raise NoAddressesError(
            f"program: expected addresses within {schedule.budget_bytes} bytes, found {solution.status}; "
            f"schedule with a smaller budget",
            buffers,
            proven=solution.status == "infeasible",
        )
    ends = (solution.offsets[name] + buffer.size_bytes for name, buffer in buffers.items())
    return Program(problem, schedule, ranges, buffers, solution.offsets, max(ends, default=0))


def _placement(buffers: Mapping[str, Buffer], budget_bytes: int) -> PlacementProblem:
    return PlacementProblem(tuple(buffers.values()), capacity_bytes=budget_bytes)


def _placed(buffers: Mapping[str, Buffer], budget_bytes: int, time_limit_s: float) -> PlacementSolution | None:
    """Offsets of these buffers, or nothing."""
    found = place(_placement(buffers, budget_bytes), time_limit_s=time_limit_s, workers=1)
    return found if found.status in ("optimal", "feasible") else None


def _earlier(buffers: Mapping[str, Buffer], budget_bytes: int) -> dict[str, Buffer]:
    """Weights one range earlier, wherever the buffers of that range leave room, first come first served."""
    found = dict(buffers)
    live: dict[int, int] = {}
    for buffer in buffers.values():
        for moment in range(buffer.lower, buffer.upper):
            live[moment] = live.get(moment, 0) + buffer.size_bytes
    for name, buffer in buffers.items():
        before = buffer.lower - 1
        if name.startswith(WEIGHTS) and before >= 0 and live[before] + buffer.size_bytes <= budget_bytes:
            found[name] = replace(buffer, lower=before)
            live[before] += buffer.size_bytes
    return found


class _Layout:
    """Collects stores range by range; whole tensors keep theirs."""

    def __init__(self, problem: Problem, schedule: Schedule, alignment_bytes: int) -> None:
        self._problem, self._schedule, self._alignment = problem, schedule, alignment_bytes
        self._kept: dict[int, tuple[Piece, ...]] = {}
        self._windows: list[dict[int, Interval]] = []
        self._lives: dict[str, tuple[int, int, int]] = {}
        if schedule.no_spill:
            inputs = (t for t, tensor in enumerate(problem.tensors) if tensor.role == "input")
            self._kept = {t: (self._open(t, -1, problem.tensors[t].rows, whole=True),) for t in inputs}

    def buffers(self) -> dict[str, Buffer]:
        """All buffers with their lifetimes in ranges."""
        return {
            name: Buffer(name, max(low, 0), high, size, self._alignment)
            for name, (low, high, size) in self._lives.items()
            if size
        }

    def place(self, number: int, piece: Range, line_rows: Mapping[int, int]) -> Placed:
        """Stores of one range."""
        operators = [self._schedule.order[p] for p in range(piece.start, piece.stop)]
        self._windows = [] if piece.band is None else band_windows(self._problem, operators, piece.band) or []
        found = {tensor: pieces for tensor, pieces in self._kept.items() if tensor in piece.whole}
        for operator in operators:
            for tensor in (*self._problem.operators[operator].inputs, self._problem.operators[operator].output):
                self._settle(number, piece, line_rows, found, tensor)
        whole = {tensor: pieces for tensor, pieces in found.items() if tensor in piece.whole}
        for pieces in found.values():
            for store, _, _ in pieces:
                low, _, size = self._lives[store.name]
                self._lives[store.name] = (low, number + 1, size)
        self._kept = whole
        return Placed(found, *self._weights(number, piece, operators), self._bands(piece, operators, found))

    def _bands(
        self, piece: Range, operators: list[int], found: Mapping[int, tuple[Piece, ...]]
    ) -> tuple[BandView, ...]:
        if piece.band is None:
            return ()
        made = [self._problem.operators[operator].output for operator in operators]
        users: dict[str, list[int]] = {}
        for tensor, pieces in found.items():
            for store, _, _ in pieces:
                users.setdefault(store.name, []).append(tensor)
        lines = {name: tensors for name, tensors in users.items() if not set(tensors) & set(piece.whole)}
        stop, bands = dict.fromkeys(made, 0), list[BandView]()
        for windows in self._windows:
            fresh = {tensor: (max(windows[tensor][0], stop[tensor]), windows[tensor][1]) for tensor in made}
            stop = {tensor: windows[tensor][1] for tensor in made}
            bases = {name: min(windows[tensor][0] for tensor in tensors) for name, tensors in lines.items()}
            bands.append(BandView(piece.band.axis, windows, fresh, bases))
        return tuple(bands)

    def _settle(
        self,
        number: int,
        piece: Range,
        line_rows: Mapping[int, int],
        found: dict[int, tuple[Piece, ...]],
        tensor: int,
    ) -> None:
        if tensor in found:
            return
        guests = [guest for guest, host in piece.in_place if host == tensor]
        made = self._problem.producer[tensor]
        operator = None if made is None else self._problem.operators[made]
        if not guests or operator is None:
            found[tensor] = (self._line(number, piece, line_rows, tensor),)
        elif guests[0] not in parts(self._problem, operator):
            found[tensor] = found[guests[0]]
        else:
            rest = sum(self._problem.tensors[t].shape[-1] for t in operator.inputs if t not in guests)
            store = self._line(number, piece, line_rows, tensor, rest)[0] if rest else None
            found[tensor] = tuple(self._joined(operator.inputs, guests, found, store))

    def _joined(
        self, inputs: tuple[int, ...], guests: list[int], found: Mapping[int, tuple[Piece, ...]], rest: Store | None
    ) -> list[Piece]:
        pieces: list[Piece] = []
        first = 0
        for tensor in inputs:
            if tensor in guests:
                pieces += found[tensor]
            elif rest is not None:
                channels = self._problem.tensors[tensor].shape[-1]
                pieces.append((rest, first, first + channels))
                first += channels
        return pieces

    def _line(
        self, number: int, piece: Range, line_rows: Mapping[int, int], tensor: int, channels: int | None = None
    ) -> Piece:
        hosts = self._hosts(piece, tensor)
        whole = any(member in piece.whole for member in hosts)
        rows = self._problem.tensors[tensor].rows if whole else line_rows.get(tensor, 0)
        cut = None if whole or piece.band is None else (piece.band.axis, widest(self._windows, hosts))
        return self._open(tensor, number, rows, whole=whole, channels=channels, cut=cut)

    def _hosts(self, piece: Range, tensor: int) -> list[int]:
        """The tensor and all that come to lie in its memory."""
        found = [tensor]
        for known in found:
            found.extend(host for guest, host in piece.in_place if guest == known)
        return found

    def _open(
        self,
        tensor: int,
        number: int,
        rows: int,
        *,
        whole: bool,
        channels: int | None = None,
        cut: tuple[Axis, int] | None = None,
    ) -> Piece:
        """``cut`` is the axis of bands and how much of it they hold at most."""
        source = self._problem.tensors[tensor]
        used = source.shape[-1] if channels is None else channels
        width = stored_channels(source) if channels is None else channels
        positions = row_positions(source)
        if cut is not None and cut[0] == "channels":
            width = cut[1]
        elif cut is not None:
            positions = images_of(source, cut[0]) * cut[1]
        store = Store(
            f"{source.name}@{number}",
            positions,
            width,
            element_bytes(source),
            source.rows if whole else rows,
        )
        self._lives[store.name] = (number, number + 1, store.rows * store.row_bytes)
        return store, 0, used

    def _weights(self, number: int, piece: Range, operators: list[int]) -> tuple[dict[int, str], str]:
        resident: dict[int, str] = {}
        for operator in piece.resident_weights:
            name = f"{WEIGHTS}{self._problem.operators[operator].name}@{number}"
            resident[operator] = name
            self._lives[name] = (number, number + 1, self._weight_bytes(piece, operator))
        sizes = [self._weight_bytes(piece, operator) for operator in operators if operator not in resident]
        size = min(self._schedule.stream_buffer_bytes, max(sizes, default=0))
        name = f"weight stream@{number}" if size else ""
        if size:
            self._lives[name] = (number, number + 1, size)
        return resident, name

    def _weight_bytes(self, piece: Range, operator: int) -> int:
        """Constants of an operator that a band needs at most."""
        record = self._problem.operators[operator]
        if piece.band is None:
            return record.weight_bytes
        result = self._problem.tensors[record.output]
        shares = (weight_share(record, result, piece.band.axis, band[record.output]) for band in self._windows)
        return max(high - low for low, high in shares)


def stored_channels(tensor: Tensor) -> int:
    """Elements that the last axis takes in memory, padding included."""
    elements = row_positions(tensor) * tensor.rows * element_bytes(tensor)
    return max(tensor.size_bytes // elements, tensor.shape[-1]) if elements else tensor.shape[-1]


def row_positions(tensor: Tensor) -> int:
    """Elements of a row along all axes but the last."""
    elements = 1
    for extent in tensor.shape[:-1]:
        elements *= extent
    return elements // tensor.rows
