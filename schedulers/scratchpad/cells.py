"""Where the elements of a row lie in a store, for whole rows and for the window of a band."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .bands import Interval, axis_of, extent_of
from .problem import Tensor
from .schedule import Axis

POISON = 0x5A
"""In bytes that hold nothing."""


@dataclass(frozen=True)
class BandView:
    """One band of a placed range.

    Attributes:
        axis: along which it is cut.
        windows: tensor -> columns or channels that the band needs or makes.
        fresh: tensor that is made here -> those that no band before has made.
        bases: store -> the first column or channel that it holds in this band; those that hold all are not in it.
    """

    axis: Axis
    windows: Mapping[int, Interval]
    fresh: Mapping[int, Interval]
    bases: Mapping[str, int]


def window_of(band: BandView | None, tensor: int, source: Tensor) -> Interval | None:
    """The window of a tensor in a band; ``None`` for all of it."""
    if band is None or axis_of(source, band.axis) is None:
        return None
    return band.windows.get(tensor)


def part_of_row(
    row: NDArray[np.signedinteger],
    source: Tensor,
    band: BandView | None,
    store: str,
    piece: Interval,
    window: Interval | None,
) -> NDArray[np.signedinteger]:
    """The elements of a tensor's window in a row of a store, as a view: [images, columns, channels].

    Args:
        row: of the store, [positions, channels].
        source: the tensor.
        band: that runs.
        store: its name.
        piece: channels of the store that are the tensor's.
        window: of the tensor.
    """
    if window is None or band is None:
        return row[None, :, piece[0] : piece[1]]
    base = band.bases.get(store, 0)
    low, high = window[0] - base, window[1] - base
    if band.axis == "channels":
        return row[None, :, piece[0] + low : piece[0] + high]
    images = images_of(source, band.axis)
    return row.reshape(images, -1, row.shape[-1])[:, low:high, piece[0] : piece[1]]


def images_of(source: Tensor, axis: Axis) -> int:
    """Positions of a row beside its columns."""
    positions = 1
    for extent in source.shape[:-1]:
        positions *= extent
    return positions // source.rows // extent_of(source, axis)


def cropped(values: NDArray[np.int64], source: Tensor, axis: Axis, window: Interval | None) -> NDArray[np.int64]:
    """The window of rows that are there with all columns and channels."""
    place = axis_of(source, axis)
    if window is None or place is None:
        return values
    return values[tuple(slice(*window) if index == place else slice(None) for index in range(values.ndim))]


def widened(
    values: NDArray[np.int64], source: Tensor, axis: Axis, window: Interval | None, item_bytes: int
) -> NDArray[np.int64]:
    """Rows with all columns and channels, poison outside the window."""
    place = axis_of(source, axis)
    if window is None or place is None:
        return values
    poison = int.from_bytes(bytes([POISON]) * item_bytes, "little", signed=True)
    shape = [source.shape[place] if index == place else extent for index, extent in enumerate(values.shape)]
    full = np.full(shape, poison, dtype=np.int64)
    full[tuple(slice(*window) if index == place else slice(None) for index in range(values.ndim))] = values
    return full
