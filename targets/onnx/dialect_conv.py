"""More operators of the namespace ``instar_ort``: runs of int8 convolutions, embeddings, spellings that run faster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...ir.dialect import dequantize as dequantize_weight
from .dialect import SOFTMAX_FLOOR
from .dialect import dequantize as dequantize_codes
from .dialect import quantize as quantize_codes

BIAS_LIMIT = 2147483520.0
"""The largest float32 below ``2^31``."""


@torch.library.custom_op("instar_ort::int8_conv", mutates_args=())
def int8_conv(
    codes: Tensor,
    scale: float,
    zero_point: int,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    out_scale: float,
    out_zero_point: int,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """``QLinearConv``: ``uint8`` codes in and out, signed weights with a scale per output channel.

    With ``out_zero_point = 0`` the saturation to ``0..255`` is a ReLU. The bias is rounded to int32 at
    ``scale * weight_scale``, as the kernel wants it.

    Args:
        codes: ``uint8 [batch, in, *spatial]``.
        scale: of ``codes``.
        zero_point: of ``codes``.
        weight: ``int8 [out, in / groups, *kernel]``.
        weight_scale: ``f32 [out]``.
        bias: ``f32 [out]``.
        out_scale: of the result.
        out_zero_point: of the result.
        stride: per spatial dimension, like ``padding`` and ``dilation``.
        padding: zeros on both sides.
        dilation: distance between taps.
        groups: as in ``torch.nn.functional.conv2d``.
    """
    step = torch.tensor(scale, dtype=torch.float32) * weight_scale
    whole = None if bias is None else integer_bias(bias, step).to(torch.float64)
    inputs = codes.to(torch.float64) - float(zero_point)
    convolve = (torch.nn.functional.conv1d, torch.nn.functional.conv2d, torch.nn.functional.conv3d)[codes.dim() - 3]
    sums = convolve(inputs, weight.to(torch.float64), whole, list(stride), list(padding), list(dilation), groups)
    factor = (step / torch.tensor(out_scale, dtype=torch.float32)).reshape(-1, *[1] * (codes.dim() - 2))
    result = (sums.to(torch.float32) * factor).round_().add_(float(out_zero_point))
    return result.clamp_(0.0, 255.0).to(torch.uint8).contiguous()


def integer_bias(bias: Tensor, step: Tensor) -> Tensor:
    """``bias / step`` rounded to int32, saturating."""
    return (bias / step).round().clamp(-BIAS_LIMIT, BIAS_LIMIT).to(torch.int32)


@int8_conv.register_fake
def _int8_conv_fake(codes: Tensor, *rest: Any) -> Tensor:
    weight: Tensor = rest[2]
    stride, padding, dilation = rest[7:10]
    spatial = [
        (size + 2 * pad - hole * (kernel - 1) - 1) // step + 1
        for size, kernel, step, pad, hole in zip(
            codes.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True
        )
    ]
    return codes.new_empty((codes.shape[0], weight.shape[0], *spatial), dtype=torch.uint8)


@torch.library.custom_op("instar_ort::int8_add", mutates_args=())
def int8_add(
    left: Tensor,
    left_scale: float,
    left_zero: int,
    right: Tensor,
    right_scale: float,
    right_zero: int,
    out_scale: float,
    out_zero_point: int,
) -> Tensor:
    """``com.microsoft.QLinearAdd``: the quantized sum of quantized tensors; with ``out_zero_point = 0`` a ReLU too."""
    total = dequantize_codes(left, left_scale, left_zero) + dequantize_codes(right, right_scale, right_zero)
    return quantize_codes(total, out_scale, out_zero_point)


@int8_add.register_fake
def _int8_add_fake(left: Tensor, *rest: Any) -> Tensor:
    right: Tensor = rest[2]
    return left.new_empty(torch.broadcast_shapes(left.shape, right.shape), dtype=torch.uint8)


@torch.library.custom_op("instar_ort::gather_packed", mutates_args=())
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


@gather_packed.register_fake
def _gather_packed_fake(codes: Tensor, indices: Tensor, *rest: Any) -> Tensor:
    return codes.new_empty((*indices.shape, rest[-1]), dtype=torch.float32)


@torch.library.custom_op("instar_ort::gather_block_quantized", mutates_args=())
def gather_block_quantized(
    codes: Tensor, indices: Tensor, scale: Tensor, zero: Tensor | None, bits: int, block: int, columns: int
) -> Tensor:
    """``com.microsoft.GatherBlockQuantized``: as :func:`gather_packed` for 4 or 8 bits and blocks of at least 16."""
    return gather_packed(codes, indices, scale, zero, bits, block, columns).clone()


@gather_block_quantized.register_fake
def _gather_block_quantized_fake(codes: Tensor, indices: Tensor, *rest: Any) -> Tensor:
    return codes.new_empty((*indices.shape, rest[-1]), dtype=torch.float32)


@torch.library.custom_op("instar_ort::gather_half", mutates_args=())
def gather_half(table: Tensor, indices: Tensor) -> Tensor:
    """Rows of a float16 table as float32; only the gathered rows are widened."""
    return table[indices].to(torch.float32)


@gather_half.register_fake
def _gather_half_fake(table: Tensor, indices: Tensor) -> Tensor:
    return table.new_empty((*indices.shape, *table.shape[1:]), dtype=torch.float32)


@torch.library.custom_op("instar_ort::softmax_clamped", mutates_args=())
def softmax_clamped(x: Tensor, dim: int) -> Tensor:
    """Softmax whose scores are first raised to 60 below their maximum.

    Masked scores (``-inf`` or hugely negative) otherwise become denormal numbers, at which this runtime's softmax is
    ten times slower. No probability changes by more than ``exp(-60)``. A slice of nothing but ``-inf`` gives NaN, as
    softmax does.
    """
    floor = x.amax(dim=dim, keepdim=True) - SOFTMAX_FLOOR
    return torch.softmax(torch.maximum(x, floor), dim=dim)


@softmax_clamped.register_fake
def _softmax_clamped_fake(x: Tensor, dim: int) -> Tensor:
    del dim
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@torch.library.custom_op("instar_ort::residual_add", mutates_args=())
def residual_add(left: Tensor, right: Tensor) -> Tensor:
    """A sum before a layer norm, written so that the runtime does not form its slow SkipLayerNormalization."""
    return left + right


@residual_add.register_fake
def _residual_add_fake(left: Tensor, right: Tensor) -> Tensor:
    return left.new_empty(torch.broadcast_shapes(left.shape, right.shape))
