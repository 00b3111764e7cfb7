"""Ranges that are cut along a second axis: which columns or channels of every tensor one band of a range needs.

A range with a band runs once per band, each time with all its stripes, so that its line buffers hold a window of every
row instead of the whole row. Along the rows halos are kept, as in every range. Along the band's axis the windows of
neighbouring bands overlap by the halos of the kernels: there results are computed again, and what comes from off-chip
is read again. Weights are read again in every band unless they stay; where the band is one of channels, a product
needs only the weights of the channels that it makes.

Off-chip a tensor gets every element once: a band stores what no band before it has made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from .problem import Operator, Problem, Tensor
from .rows import POINTWISE, WINDOWED, RowMap, whole_map, window_map
from .schedule import Axis, Band

Interval = tuple[int, int]
"""Columns or channels ``[first, stop)``."""

WITHIN_A_ROW = frozenset({"softmax", "layer_norm", "rms_norm"})
"""Pointwise kinds that need all channels of a position."""

MIXING = frozenset({"conv_2d", "fully_connected"})
"""Kinds that need all channels of what they read, and for each channel of their result its own weights."""

OWN_WEIGHTS = MIXING | {"depthwise_conv_2d"}
"""Kinds whose weights are one block per channel of the result, where their bytes can be divided so."""


def axis_of(tensor: Tensor, axis: Axis) -> int | None:
    """Which axis of the tensor this is; ``None`` where it has none."""
    if axis == "channels":
        return len(tensor.shape) - 1 if tensor.shape else None
    return 2 if len(tensor.shape) == 4 and tensor.row_axis == 1 else None


def extent_of(tensor: Tensor, axis: Axis) -> int:
    """How many columns or channels."""
    place = axis_of(tensor, axis)
    return 1 if place is None else tensor.shape[place]


def cell_bytes(tensor: Tensor, axis: Axis) -> int | None:
    """Bytes of one column, or of one channel, of one row; ``None`` where rows do not divide so."""
    cells = tensor.rows * extent_of(tensor, axis)
    if not tensor.size_bytes or tensor.size_bytes % cells:
        return None
    elements = 1
    for extent in tensor.shape:
        elements *= extent
    padded = bool(tensor.item_bytes) and tensor.size_bytes != elements * tensor.item_bytes
    return None if axis == "channels" and (padded or tensor.size_bytes % elements) else tensor.size_bytes // cells


def weight_blocks(operator: Operator, result: Tensor, axis: Axis) -> int:
    """Into how many equal parts its weights fall along the axis; 1 where every band needs all of them."""
    channels = extent_of(result, "channels")
    own = axis == "channels" and operator.kind in OWN_WEIGHTS and operator.blocked_weights
    return channels if own and operator.weight_bytes and operator.weight_bytes % channels == 0 else 1


def weight_share(operator: Operator, result: Tensor, axis: Axis, window: Interval) -> Interval:
    """Bytes ``[first, stop)`` of its weights that an operator needs for a window of its result."""
    blocks = weight_blocks(operator, result, axis)
    block = operator.weight_bytes // blocks
    return (window[0] * block, window[1] * block) if blocks > 1 else (0, operator.weight_bytes)


def span_maps(problem: Problem, operator: Operator, axis: Axis) -> list[tuple[int, RowMap]] | None:
    """How columns or channels of the result depend on those of each operand; ``None`` where that is not known."""
    result = problem.tensors[operator.output]
    found: list[tuple[int, RowMap]] = []
    for tensor in operator.inputs:
        source = problem.tensors[tensor]
        known = _columns(operator, source, result) if axis == "columns" else _channels(operator, source, result)
        if known is None:
            return None
        found.append((tensor, known))
    return found


def _columns(operator: Operator, source: Tensor, result: Tensor) -> RowMap | None:
    if axis_of(result, "columns") is None:
        return None
    before, after = extent_of(source, "columns"), extent_of(result, "columns")
    if operator.kind in WINDOWED and operator.window is not None:
        known = axis_of(source, "columns") is not None
        return window_map(operator.window, 1, before, after) if known else None
    channels = operator.axis is None or operator.axis % 4 == 3
    if (
        operator.kind in POINTWISE
        or operator.kind == "fully_connected"
        or (operator.kind == "concatenation" and channels)
    ):
        return _alike(before, after)
    if operator.kind == "resize_nearest_neighbor" and axis_of(source, "columns") is not None:
        return RowMap(before, after, numerator=before, denominator=after)
    return None


def _channels(operator: Operator, source: Tensor, result: Tensor) -> RowMap | None:
    before, after = extent_of(source, "channels"), extent_of(result, "channels")
    if operator.kind in MIXING:
        return whole_map(before, after)
    pooled = operator.kind in WINDOWED or operator.kind == "resize_nearest_neighbor"
    if (operator.kind in POINTWISE and operator.kind not in WITHIN_A_ROW) or (pooled and before == after):
        return _alike(before, after)
    return None


def _alike(before: int, after: int) -> RowMap | None:
    """The same columns or channels; what has only one is read by all."""
    if before == after:
        return RowMap(before, after)
    return whole_map(before, after) if before == 1 else None


class Growing:
    """Windows of a range's tensors, one per band, while the range grows at its front.

    Attributes:
        band: how it is cut.
        count: of bands.
        windows: tensor -> window in every band; those that others ask for of what is made before the range.
    """

    def __init__(self, problem: Problem, band: Band, last: Operator) -> None:
        self._problem, self._last = problem, last.output
        self.band = band
        self.count = -(-extent_of(problem.tensors[last.output], band.axis) // band.extent)
        self.windows: dict[int, tuple[Interval, ...]] = {}

    def extend(self, operator: Operator) -> bool:
        """One more operator in front; ``False`` if the range cannot be cut then."""
        axis, tensors = self.band.axis, self._problem.tensors
        maps = span_maps(self._problem, operator, axis)
        touched = (*operator.inputs, operator.output)
        if maps is None or any(cell_bytes(tensors[tensor], axis) is None for tensor in touched):
            return False
        made = self._made(operator.output)
        overlap = any(before[1] > after[0] for before, after in pairwise(made))
        if weight_blocks(operator, tensors[operator.output], axis) > 1 and overlap:
            return False
        asked = [(tensor, tuple((m.first(low), m.needed(high)) for low, high in made)) for tensor, m in maps]
        if any(low >= high for low, high in (*made, *(window for _, windows in asked for window in windows))):
            return False
        self.windows[operator.output] = made
        for tensor, windows in asked:
            known = self.windows.get(tensor, windows)
            self.windows[tensor] = tuple(map(_hull, known, windows))
        return True

    def _made(self, tensor: int) -> tuple[Interval, ...]:
        """What the bands make: what readers ask for, without gaps, all of it in the end."""
        total = extent_of(self._problem.tensors[tensor], self.band.axis)
        asked = self.windows.get(tensor)
        if tensor == self._last:
            step = self.band.extent
            asked = tuple((place * step, min((place + 1) * step, total)) for place in range(self.count))
        elif asked is None:
            asked = tuple(
                (total * place // self.count, total * (place + 1) // self.count) for place in range(self.count)
            )
        made: list[Interval] = []
        for place, (low, high) in enumerate(asked):
            before = made[-1][1] if made else 0
            made.append((min(low, before), total if place == self.count - 1 else max(high, before)))
        return tuple(made)


@dataclass(frozen=True)
class Cut:
    """The windows of a range that is cut: tensor -> window in every band."""

    band: Band
    windows: Mapping[int, tuple[Interval, ...]]

    def width(self, members: Sequence[int]) -> int:
        """Columns or channels that memory needs in which these tensors lie one after the other."""
        if len(members) == 1:
            return max(high - low for low, high in self.windows[members[0]])
        found = zip(*(self.windows[tensor] for tensor in members), strict=True)
        return max(max(high for _, high in band) - min(low for low, _ in band) for band in found)

    def read(self, tensor: int) -> int:
        """Columns or channels of it that are read if every band reads its window."""
        return sum(high - low for low, high in self.windows[tensor])


def _hull(one: Interval, other: Interval) -> Interval:
    return min(one[0], other[0]), max(one[1], other[1])


def band_windows(problem: Problem, operators: Sequence[int], band: Band) -> list[dict[int, Interval]] | None:
    """Per band the window of every tensor that the range touches; ``None`` where it cannot be cut so.

    Args:
        problem: the network.
        operators: of the range, in order.
        band: how to cut it.
    """
    if band.extent < 1:
        return None
    growing = Growing(problem, band, problem.operators[operators[-1]])
    if not all(growing.extend(problem.operators[operator]) for operator in reversed(operators)):
        return None
    return [{tensor: found[place] for tensor, found in growing.windows.items()} for place in range(growing.count)]


def widest(windows: Iterable[Mapping[int, Interval]], members: Iterable[int]) -> int:
    """Columns or channels that memory needs in which these tensors lie one after the other."""
    used = tuple(members)
    hulls = (_joined(band, used) for band in windows)
    return max(high - low for low, high in hulls)


def _joined(band: Mapping[int, Interval], members: Sequence[int]) -> Interval:
    return min(band[t][0] for t in members), max(band[t][1] for t in members)


def covered(windows: Sequence[Interval]) -> int:
    """Columns or channels that lie in at least one of the windows, which do not move back."""
    total = stop = 0
    for low, high in windows:
        total += max(high - max(low, stop), 0)
        stop = max(stop, high)
    return total


def extents(total: int, *, few: bool) -> tuple[int, ...]:
    """Band extents worth trying: for few bands and for many; all of them where there are not many columns."""
    counts = (2, 4, 8, 16) if few else (2, 3, 4, 6, 8, 12, 16, 24, 32)
    if total <= 8:
        return tuple(range(1, total))
    found = {-(-total // count) for count in counts if count <= total}
    found = {-(-size // 16) * 16 for size in found} if total % 16 == 0 and total >= 64 else found
    return tuple(sorted(size for size in found if size < total))


def uncovered(problem: Problem, operator: int, band: Band, windows: Mapping[int, Interval]) -> int | None:
    """An operand whose window lacks something that the window of the result needs; ``None`` if none does."""
    record = problem.operators[operator]
    low, high = windows[record.output]
    for tensor, m in span_maps(problem, record, band.axis) or ():
        first, stop = windows[tensor]
        if m.first(low) < first or m.needed(high) > stop:
            return tensor
    return None
