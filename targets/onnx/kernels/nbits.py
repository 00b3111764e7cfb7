"""Kernel ``nbits``: linear layers whose weights stay packed, times blocks of int8 activations; for one or few rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ....ir.dialect import dequantize as dequantize_weight
from ....ir.dialect import fake_quantize_dynamic
from ....ir.errors import LoweringError
from ....ir.graph import Node
from ....ir.layers import LINEAR, Layer
from ....ir.options import Activation, Arithmetic, Option
from ....ir.packing import pack, row_bytes, unpack
from ....passes.formats import Format, IntFormat
from ....passes.rewrite import RewriteContext
from ....passes.rules import Outcome, refuse, rule
from ...base import Candidates
from .. import contrib
from ..emit import Value, as_float
from ..runtimes.needs import Requirement
from ..runtimes.table import CONTRIB
from .base import Kernel, Written, reference
from .weights import DEQUANTIZE, dynamic_source, stored_weight

ACCURACY_LEVEL = 4
"""Multiplies int8 activations, quantized per block."""

WIDTHS = (2, 4, 8)
"""Widths that MatMulNBits reads."""

LEAST_GROUP = 32
"""Groups from this size on are offered: smaller ones were measured to be slower than float."""


def _offers(layer: Layer, chosen: Format, encoder: str, allowed: Sequence[Activation]) -> Candidates:
    if not isinstance(chosen, IntFormat) or layer.kinds != {LINEAR}:
        return Candidates(())
    dynamic = any(a.is_dynamic for a in allowed)
    if not dynamic or chosen.bits != 4 or chosen.asymmetric or (chosen.group or 0) < LEAST_GROUP:
        return Candidates(())
    activation = Activation.dynamic(f"group:{chosen.group}")
    return Candidates((Option(chosen.spelling, encoder, activation, "nbits", Arithmetic.CODES),))


@rule("aten.linear.default")
def packed_linear(node: Node, match: RewriteContext) -> Outcome:
    """Blocks of activations times blocks of weights."""
    source, weight = dynamic_source(node.argument("input"), "group:"), stored_weight(node.argument("weight"), "nbits")
    if source is None or weight is None or weight.op.name != DEQUANTIZE:
        return None
    group = int(str(source.argument("granularity")).split(":")[1])
    if group != weight.argument("group"):
        return refuse("activations have blocks of {}, the weight of {}", group, weight.argument("group"))
    reason = refuses_nbits(weight.argument("bits"), group)
    if reason is not None:
        return refuse("{}", reason)
    codes, columns = weight.argument("codes").handle, int(weight.argument("shape")[1])
    blocks = match.constant(f"{codes.name}.blocks", block_codes(codes.tensor, weight.argument("bits"), group, columns))
    return match.context.node(
        "instar_ort.matmul_nbits",
        source.argument("x"), blocks, weight.argument("scale"), weight.argument("zero"), node.argument("bias"),
        weight.argument("bits"), group, columns, ACCURACY_LEVEL,
    )  # fmt: skip


def block_size(columns: int, group: int) -> int:
    """The block of a kernel for groups of ``group`` (0: one a row): a power of two, at least 16.

    >>> block_size(384, 0), block_size(384, 64)
    (512, 64)
    """
    return group or max(16, 1 << (columns - 1).bit_length())


def refuses_nbits(bits: int, group: int) -> str | None:
    """Why MatMulNBits cannot read such codes, or None."""
    if bits not in WIDTHS:
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


@reference("matmul_nbits")
def matmul_nbits(
    x: Tensor,
    codes: Tensor,
    scale: Tensor,
    zero: Tensor | None,
    bias: Tensor | None,
    bits: int,
    block: int,
    columns: int,
    accuracy_level: int,
) -> Tensor:
    """``com.microsoft.MatMulNBits``: float activations times packed weights, the kernel for one or few rows.

    Args:
        x: ``f32 [..., columns]``.
        codes: ``uint8 [rows, blocks, block * bits / 8]``, see :func:`block_codes`.
        scale: float16 or float32 ``[rows, blocks]``.
        zero: packed zero points ``uint8 [rows, ceil(blocks * bits / 8)]``, None for ``2^(bits-1)``.
        bias: ``f32 [rows]``.
        bits: 2, 4 or 8.
        block: a power of two, at least 16.
        columns: what the product contracts over; the last block may be partly padding.
        accuracy_level: 4 multiplies int8 activations (quantized per block), 1 computes in float32.
    """
    rows, blocks = codes.shape[0], codes.shape[1]
    weight = dequantize_weight(codes.flatten(1), scale, zero, bits, block, (rows, blocks * block))[:, :columns]
    if accuracy_level == 4:
        x = fake_quantize_dynamic(x, 8, f"group:{block}", True)
    return torch.nn.functional.linear(x, weight, bias)


def _write(
    x: Value,
    codes: Value,
    scale: Value,
    zero: Value,
    bias: Value,
    bits: int,
    block: int,
    columns: int,
    accuracy_level: int,
) -> Value:
    return contrib.MatMulNBits(
        x,
        codes,
        as_float(scale),
        zero,
        None,
        bias,
        K=columns,
        N=int(codes.shape[0]),
        bits=bits,
        block_size=block,
        accuracy_level=accuracy_level,
    )


WITH_BIAS = Requirement(
    "MatMulNBits",
    CONTRIB,
    types=(("T1", "float"), ("T2", "uint8")),
    attributes=frozenset(("K", "N", "accuracy_level", "bits", "block_size")),
    inputs=6,
)
"""Older runtimes take no bias."""


@rule("instar_ort.matmul_nbits.default")
def bias_apart(node: Node, match: RewriteContext) -> Outcome:
    """For runtimes whose kernel takes no bias: it is added after."""
    bias = node.argument("bias")
    if bias is None:
        return None
    given = [None if name == "bias" else value for name, value in node.arguments]
    return match.context.node("aten.add.Tensor", match.context.node("instar_ort.matmul_nbits", *given), bias)


KERNEL = Kernel(
    "nbits",
    "MatMulNBits, accuracy level 4: int8 activations per block; fast for one or few rows only",
    (Written("instar_ort.matmul_nbits", _write, "MatMulNBits", requires=(WITH_BIAS,), otherwise=bias_apart),),
    (packed_linear,),
    _offers,
)
