"""Bit planes: how unsigned codes of 1 to 8 bits are stored in bytes.

A ``b``-bit code is cut into planes whose widths are the powers of two in ``b``, widest first and lowest bits first:
6 = 4 + 2, 3 = 2 + 1, 7 = 4 + 2 + 1. Within a row each plane is packed least significant code first and padded to whole
bytes, and the planes of a row follow each other. Every width therefore unpacks with shifts and masks alone, and 4 bits
is the common "two codes a byte, low nibble first".
"""

from __future__ import annotations

import torch
from torch import Tensor

from .errors import FormatError

MAX_BITS = 8


def planes(bits: int) -> tuple[tuple[int, int], ...]:
    """The planes of a ``bits``-wide code as ``(lowest bit, width)``, in storage order.

    >>> planes(6)
    ((0, 4), (4, 2))

    Raises:
        FormatError: if ``bits`` is not in 1..8.
    """
    if not 1 <= bits <= MAX_BITS:
        raise FormatError(
            f"packing: expected a width of 1 to {MAX_BITS} bits, got {bits}; choose a width in that range"
        )
    found: list[tuple[int, int]] = []
    low = 0
    for width in (8, 4, 2, 1):
        if bits & width:
            found.append((low, width))
            low += width
    return tuple(found)


def row_bytes(columns: int, bits: int) -> int:
    """Bytes that one row of ``columns`` codes occupies, padding of every plane included.

    >>> row_bytes(10, 3)
    5
    """
    return sum(-(-columns * width // 8) for _, width in planes(bits))


def pack(codes: Tensor, bits: int) -> Tensor:
    """Pack integer ``codes`` ``[rows, columns]`` with values in ``[0, 2^bits)`` to ``uint8 [rows, row_bytes]``.

    Raises:
        FormatError: if ``codes`` is not an integer matrix or a value does not fit.
    """
    if codes.dim() != 2 or codes.is_floating_point() or codes.is_complex():
        raise FormatError(
            f"packing: expected an integer matrix, got {codes.dtype} of shape {tuple(codes.shape)}; "
            "round and view the codes as [rows, columns] first"
        )
    least, most = (int(end) for end in torch.aminmax(codes)) if codes.numel() else (0, 0)
    if least < 0 or most >= 1 << bits:
        raise FormatError(
            f"packing: expected codes in 0..{(1 << bits) - 1} for {bits} bits, got {least}..{most}; "
            "clamp the codes first"
        )
    unsigned = codes.to(torch.uint8).contiguous()
    parts = [_pack_plane((unsigned >> low) & ((1 << width) - 1), width) for low, width in planes(bits)]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def unpack(packed: Tensor, bits: int, columns: int) -> Tensor:
    """The codes that :func:`pack` stored: ``uint8 [rows, columns]`` from ``uint8 [rows, row_bytes(columns, bits)]``.

    Raises:
        FormatError: if the width of ``packed`` does not belong to ``columns`` codes of ``bits`` bits.
    """
    expected = row_bytes(columns, bits)
    if packed.dim() != 2 or packed.dtype != torch.uint8 or packed.shape[1] != expected:
        raise FormatError(
            f"unpacking: expected uint8 [rows, {expected}] for {columns} codes of {bits} bits, "
            f"got {packed.dtype} {list(packed.shape)}; check bits and columns"
        )
    codes: Tensor | None = None
    start = 0
    for low, width in planes(bits):
        stop = start + -(-columns * width // 8)
        part = _unpack_plane(packed[:, start:stop], width, columns) << low
        codes = part if codes is None else codes | part
        start = stop
    assert codes is not None  # planes() never returns an empty tuple
    return codes


def _pack_plane(values: Tensor, width: int) -> Tensor:
    """One plane: ``8 / width`` values a byte, the first value in the lowest bits."""
    if width == 8:
        return values.contiguous()
    rows, columns = values.shape
    per_byte = 8 // width
    count = -(-columns // per_byte)
    padded = torch.nn.functional.pad(values, (0, count * per_byte - columns)).view(rows, count, per_byte)
    packed = padded[..., 0].clone()
    for index in range(1, per_byte):
        packed |= padded[..., index] << (index * width)
    return packed


def _unpack_plane(packed: Tensor, width: int, columns: int) -> Tensor:
    """The values of one plane, ``uint8 [rows, columns]``."""
    if width == 8:
        return packed.clone()
    per_byte = 8 // width
    shifts = torch.arange(0, 8, width, dtype=torch.uint8, device=packed.device)
    values = (packed.unsqueeze(-1) >> shifts) & ((1 << width) - 1)
    return values.reshape(packed.shape[0], packed.shape[1] * per_byte)[:, :columns]
