"""Embeddings: rows are gathered packed, or in half precision, and widened after."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ....ir.dialect import dequantize as dequantize_weight
from ....ir.graph import Node
from ....passes.rewrite import RewriteContext
from ....passes.rules import Outcome, rule
from .. import contrib
from ..emit import FLOAT, Groups, Value, as_float, op, unpack_signed
from ..runtimes.needs import Requirement
from ..runtimes.table import CONTRIB
from .base import Kernel, Written, reference
from .weights import DEQUANTIZE, stored_weight


@rule("aten.embedding.default")
def packed_embedding(node: Node, match: RewriteContext) -> Outcome:
    """Rows are gathered packed and unpacked after."""
    weight = stored_weight(node.argument("weight"))
    if weight is None or weight.op.name != DEQUANTIZE:
        return None
    bits, group, columns = weight.argument("bits"), weight.argument("group"), int(weight.argument("shape")[1])
    block = fits_blocks(bits, group, columns, weight.argument("zero"))
    name = "instar_ort.gather_block_quantized" if block else "instar_ort.gather_packed"
    stored = [weight.argument(a) for a in ("codes", "scale", "zero")]
    return match.context.node(name, stored[0], node.argument("indices"), stored[1], stored[2], bits, group, columns)


def fits_blocks(bits: int, group: int, columns: int, zero: Node | None) -> bool:
    """Whether ``GatherBlockQuantized`` reads a table that is stored so."""
    return bits in (4, 8) and group >= 16 and columns % group == 0 and zero is None


@rule("aten.embedding.default")
def half_embedding(node: Node, match: RewriteContext) -> Outcome:
    """Rows of a float16 table are widened after the gather."""
    weight = node.argument("weight")
    if weight.op.name != "aten._to_copy.default" or not weight.argument("self").is_constant:
        return None
    table = weight.argument("self")
    if str(table.tensor_type.dtype) != "torch.float16" or str(weight.tensor_type.dtype) != "torch.float32":
        return None
    return match.context.node("instar_ort.gather_half", table, node.argument("indices"))


def _rows(codes: Tensor, indices: Tensor, *rest: Any) -> Tensor:
    return codes.new_empty((*indices.shape, rest[-1]), dtype=torch.float32)


@reference("gather_packed", _rows)
def gather_packed(
    codes: Tensor, indices: Tensor, scale: Tensor, zero: Tensor | None, bits: int, group: int, columns: int
) -> Tensor:
    """Embedding rows from a packed table, unpacked by table look-up: every width, group and zero point.

    Args:
        codes: ``uint8 [vocabulary, row_bytes(columns, bits)]``.
        indices: integers of any shape.
        scale: ``[vocabulary, groups]``.
        zero: packed zero points or None.
        bits: 2 to 8.
        group: columns per scale, 0 for all.
        columns: length of a row.

    Returns:
        ``f32 [*indices.shape, columns]``.
    """
    flat = indices.reshape(-1)
    rows_zero = None if zero is None else zero[flat]
    rows = dequantize_weight(codes[flat], scale[flat], rows_zero, bits, group, (flat.numel(), columns))
    return rows.reshape(*indices.shape, columns)


@reference("gather_block_quantized", _rows)
def gather_block_quantized(
    codes: Tensor, indices: Tensor, scale: Tensor, zero: Tensor | None, bits: int, block: int, columns: int
) -> Tensor:
    """``com.microsoft.GatherBlockQuantized``: as :func:`gather_packed` for 4 or 8 bits and blocks of at least 16."""
    return gather_packed(codes, indices, scale, zero, bits, block, columns)


@reference("gather_half")
def gather_half(table: Tensor, indices: Tensor) -> Tensor:
    """Rows of a float16 table as float32; only the gathered rows are widened."""
    return table[indices].to(torch.float32)


def _write_packed(
    codes: Value, indices: Value, scale: Value, zero: Value, bits: int, group: int, columns: int
) -> Value:
    groups = Groups(columns, group, rank=len(indices.shape) + 1)
    rows = unpack_signed(op.Gather(codes, indices, axis=0), bits, columns, groups.rank)
    offsets = None
    if zero is not None:
        offsets = as_float(unpack_signed(op.Gather(zero, indices, axis=0), bits, groups.count, groups.rank))
    return groups.scaled(rows, as_float(op.Gather(scale, indices, axis=0)), offsets)


def _write_blocks(
    codes: Value, indices: Value, scale: Value, zero: Value, bits: int, block: int, columns: int
) -> Value:
    del columns
    return contrib.GatherBlockQuantized(
        codes, indices, as_float(scale), zero, bits=bits, block_size=block, gather_axis=0, quantize_axis=1
    )


BLOCKS = Requirement(
    "GatherBlockQuantized",
    CONTRIB,
    types=(("T1", "uint8"), ("T2", "float"), ("Tind", "int64")),
    attributes=frozenset(("bits", "block_size", "gather_axis", "quantize_axis")),
    inputs=3,
)
"""Tables of bytes: older runtimes know 4-bit types only, and no ``bits``."""


@rule("instar_ort.gather_block_quantized.default")
def unpacked_blocks(node: Node, match: RewriteContext) -> Outcome:
    """For runtimes without the operator: rows are gathered packed and unpacked."""
    return match.context.node("instar_ort.gather_packed", *(value for _, value in node.arguments))


def _write_half(table: Value, indices: Value) -> Value:
    return op.Cast(op.Gather(table, indices, axis=0), to=FLOAT)


KERNEL = Kernel(
    "embedding",
    "rows gathered packed and unpacked after",
    (
        Written("instar_ort.gather_packed", _write_packed),
        Written(
            "instar_ort.gather_block_quantized",
            _write_blocks,
            "GatherBlockQuantized",
            requires=(BLOCKS,),
            otherwise=unpacked_blocks,
        ),
        Written("instar_ort.gather_half", _write_half),
    ),
    (packed_embedding, half_embedding),
)
