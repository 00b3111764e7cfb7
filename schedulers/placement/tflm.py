"""A placement as the offline plan of TensorFlow Lite Micro, which an unmodified runtime follows.

The plan is the content of the buffer that the model's metadata entry ``OfflineMemoryAllocation`` points to: 32-bit
integers, little endian: format version, number of subgraphs, number of offsets, and for every tensor of the subgraph
its byte offset in the arena, or -1 where the runtime decides (constants, and tensors that the plan leaves out). The
runtime plans those, and its scratch buffers, around the given offsets. Source: ``memory_management.md`` of
tflite-micro.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

from ...ir.errors import ScheduleError, nearest

ALIGNMENT_BYTES = 16
"""Of every buffer in TFLM's arena."""

VERSION, SUBGRAPHS, UNPLANNED = 1, 1, -1

LARGEST_OFFSET = 2**31 - 1


def offline_plan(offsets: Mapping[str, int], tensors: Sequence[str | None]) -> bytes:
    """The plan of a model with one subgraph.

    Args:
        offsets: name of a buffer -> byte offset, as in a placement's solution.
        tensors: for every tensor of the subgraph, in the order of the file, the name of its buffer, or ``None`` where
            the runtime decides. Tensors that share memory have the same name.

    Raises:
        ScheduleError: a name has no offset, an offset has no tensor, or one is unaligned or beyond 31 bits.
    """
    for name in tensors:
        if name is not None and name not in offsets:
            known = nearest(name, offsets)
            raise ScheduleError(f"offline plan: expected tensors of the placement, found {name!r}{known}")
    for name in offsets:
        if name not in tensors:
            raise ScheduleError(f"offline plan: expected a tensor for every buffer, found none for {name!r}; add it")
    for name, offset in offsets.items():
        if offset % ALIGNMENT_BYTES or not 0 <= offset <= LARGEST_OFFSET:
            raise ScheduleError(
                f"offline plan: expected offsets of at most {LARGEST_OFFSET} that are multiples of {ALIGNMENT_BYTES}, "
                f"found {offset} for {name!r}; place with an alignment of {ALIGNMENT_BYTES}"
            )
    numbers = [UNPLANNED if name is None else offsets[name] for name in tensors]
    return struct.pack(f"<{3 + len(numbers)}i", VERSION, SUBGRAPHS, len(numbers), *numbers)


def read_offline_plan(data: bytes) -> tuple[int | None, ...]:
    """Offsets by tensor, ``None`` where the runtime decides.

    Raises:
        ScheduleError: the data is no plan of one subgraph.
    """
    if len(data) < 12 or len(data) % 4:
        raise ScheduleError(f"offline plan: expected three or more 32-bit integers, found {len(data)} bytes")
    version, subgraphs, count, *numbers = struct.unpack(f"<{len(data) // 4}i", data)
    if (version, subgraphs) != (VERSION, SUBGRAPHS):
        raise ScheduleError(
            f"offline plan: expected version {VERSION} of {SUBGRAPHS} subgraph, found {version} of {subgraphs}"
        )
    if count != len(numbers) or any(number < UNPLANNED for number in numbers):
        raise ScheduleError(f"offline plan: expected {count} offsets of at least -1, found {list(numbers)[:8]}")
    return tuple(None if number == UNPLANNED else number for number in numbers)
