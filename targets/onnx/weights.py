"""Stored codes in the layout that a kernel of ONNX Runtime reads."""

from __future__ import annotations

from torch import Tensor

from ...ir.errors import LoweringError
from ...ir.packing import pack, row_bytes, unpack

NBITS_WIDTHS = (2, 4, 8)
"""Widths that MatMulNBits reads."""

GATHER_WIDTHS = (4, 8)
"""Widths that GatherBlockQuantized reads."""


def block_size(columns: int, group: int) -> int:
    """The block of a kernel for groups of ``group`` (0: one a row): a power of two, at least 16.

    >>> block_size(384, 0), block_size(384, 64)
    (512, 64)
    """
    return group or max(16, 1 << (columns - 1).bit_length())


def refuses_nbits(bits: int, group: int) -> str | None:
    """Why MatMulNBits cannot read such codes, or None."""
    if bits not in NBITS_WIDTHS:
        return f"MatMulNBits reads 2, 4 or 8 bits, not {bits}"
    if group and (group < 16 or group & (group - 1)):
        return f"MatMulNBits reads blocks that are powers of two from 16, not {group}"
    return None


def block_codes(codes: Tensor, bits: int, group: int, columns: int) -> Tensor:
    """Packed rows as MatMulNBits reads them: ``uint8 [rows, blocks, block * bits / 8]``.

    The bytes are unchanged where ``columns`` is a multiple of the block; else the last block is filled with zero codes.

    Raises:
        LoweringError: if the kernel cannot read this width or group.
    """
    reason = refuses_nbits(bits, group)
    if reason is not None:
        raise LoweringError(f"block codes: {reason}; choose another kernel")
    block = block_size(columns, group)
    blocks = -(-columns // block)
    if blocks * block != columns:
        full = codes.new_zeros(codes.shape[0], blocks * block)
        full[:, :columns] = unpack(codes, bits, columns)
        codes = pack(full, bits)
    return codes.reshape(codes.shape[0], blocks, row_bytes(block, bits)).contiguous()
