"""Moves of bytes between the places of rows on both sides of the chip's border."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from .bands import Interval, axis_of
from .cells import BandView, images_of
from .commands import Move
from .problem import Tensor
from .program import Piece, Store, row_positions

Home = tuple[int, int, int]
"""Off-chip: address of the first row, bytes from row to row, bytes from position to position."""


def moves_of(
    source: Tensor,
    rows: Sequence[int],
    pieces: Sequence[Piece],
    home: Home,
    offsets: Mapping[str, int],
    band: BandView | None = None,
    window: Interval | None = None,
) -> tuple[Move, ...]:
    """Rows of a tensor, or a window of each, between their places on both sides; neighbours become one move.

    Args:
        source: the tensor.
        rows: to be moved.
        pieces: where its channels are on chip.
        home: where it is off-chip.
        offsets: of stores.
        band: that runs.
        window: columns or channels to be moved; all of them where not given.
    """
    found: list[Move] = []
    first = 0
    for store, start, stop in pieces:
        for row in rows if store.rows else ():
            on_chip = offsets[store.name] + row % store.rows * store.row_bytes
            off_chip = home[0] + row * home[1] + first * store.item_bytes
            place = _Row(store, (start, stop), on_chip, off_chip, home[2])
            if window is None or band is None:
                found_here = [_whole(place, alone=len(pieces) == 1)]
            else:
                base = band.bases.get(store.name, 0)
                inside = (window[0] - base, window[1] - base)
                cut = _channels if band.axis == "channels" or axis_of(source, band.axis) is None else _columns
                found_here = cut(source, place, inside, window)
            for move in found_here:
                _append(found, move)
        first += stop - start
    return tuple(found)


class _Row(NamedTuple):
    """Channels ``piece`` of one row: addresses on both sides, and bytes from position to position off-chip."""

    store: Store
    piece: Interval
    on_chip: int
    off_chip: int
    position_bytes: int


def _whole(row: _Row, *, alone: bool) -> Move:
    store, piece, on_chip, off_chip, position_bytes = row
    stride = store.channels * store.item_bytes
    if alone and stride == position_bytes:
        return Move(on_chip, off_chip, 1, store.row_bytes, store.row_bytes, store.row_bytes)
    length = (piece[1] - piece[0]) * store.item_bytes
    return Move(on_chip + piece[0] * store.item_bytes, off_chip, store.positions, length, stride, position_bytes)


def _columns(source: Tensor, row: _Row, inside: Interval, window: Interval) -> list[Move]:
    """A few positions of every image of the batch."""
    store, piece, on_chip, off_chip, position = row
    stride = store.channels * store.item_bytes
    images = images_of(source, "columns")
    held, there = store.positions // images, row_positions(source) // images
    length = (piece[1] - piece[0]) * store.item_bytes
    found: list[Move] = []
    for image in range(images):
        on = on_chip + (image * held + inside[0]) * stride + piece[0] * store.item_bytes
        off = off_chip + (image * there + window[0]) * position
        if length == stride == position:
            size = (window[1] - window[0]) * stride
            found.append(Move(on, off, 1, size, size, size))
        else:
            found.append(Move(on, off, window[1] - window[0], length, stride, position))
    return found


def _channels(source: Tensor, row: _Row, inside: Interval, window: Interval) -> list[Move]:
    """A few channels of every position; what has only one of them, all of it."""
    store, piece, on_chip, off_chip, position = row
    width, stride = store.item_bytes, store.channels * store.item_bytes
    if source.shape[-1] == 1 or window[1] - window[0] == source.shape[-1]:
        inside, window = (0, source.shape[-1]), (0, source.shape[-1])
    length = (window[1] - window[0]) * width
    on, off = on_chip + (piece[0] + inside[0]) * width, off_chip + window[0] * width
    return [Move(on, off, store.positions, length, stride, position)]


def _append(moves: list[Move], move: Move) -> None:
    """Joins a move to the one before where both are contiguous and meet on both sides."""
    last = moves[-1] if moves else None
    if last is None or not last.blocks == move.blocks == 1:
        moves.append(move)
    elif (last.on_chip + last.block_bytes, last.off_chip + last.block_bytes) == (move.on_chip, move.off_chip):
        size = last.block_bytes + move.block_bytes
        moves[-1] = Move(last.on_chip, last.off_chip, 1, size, size, size)
    else:
        moves.append(move)
