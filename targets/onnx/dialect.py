"""Operators that ONNX Runtime's CPU kernels compute, as ``torch.library`` ops in the namespace ``instar_ort``.

Each op stands for one kernel (or one short chain that the runtime fuses) and has a torch reference with the kernel's
own arithmetic, so that a legalised graph runs in torch with the numbers the exported model will give. Importing this
module registers the ops; :mod:`.translate` says how each is written in ONNX.

Activations are unsigned 8-bit codes with a scale and a zero point, weights signed 8-bit ``[columns, rows]``: the one
combination that is fast on every x86 kernel of the runtime.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...ir.dialect import SMALLEST_STEP, expanded_int8, fake_quantize_dynamic
from ...ir.dialect import dequantize as dequantize_weight

NAMESPACE = "instar_ort"

SOFTMAX_FLOOR = 60.0
"""Scores further than this below their row's maximum are raised to it: ``exp(-60)`` is no denormal and adds 1e-26."""

TINY = SMALLEST_STEP
"""Smallest row maximum that is divided by."""


@torch.library.custom_op("instar_ort::dynamic_quantize", mutates_args=())
def dynamic_quantize(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``DynamicQuantizeLinear``: ``uint8`` codes like ``x``, scale ``f32[]``, zero point ``uint8[]``."""
    low, high = torch.aminmax(x)
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    scale = (high - low) / 255.0
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    zero = (-low / scale).clamp(0.0, 255.0).round()
    codes = (x / scale).round_().add_(zero).clamp_(0.0, 255.0)
    return codes.to(torch.uint8).contiguous(), scale, zero.to(torch.uint8)


@dynamic_quantize.register_fake
def _dynamic_quantize_fake(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return _like(x, torch.uint8), x.new_empty((), dtype=torch.float32), x.new_empty((), dtype=torch.uint8)


@torch.library.custom_op("instar_ort::token_quantize", mutates_args=())
def token_quantize(x: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric 8-bit codes per token: ``uint8`` like ``x`` with zero point 128, and scales ``f32[..., 1]``."""
    scale = x.abs().amax(dim=-1, keepdim=True).clamp(min=TINY) / 127.0
    codes = (x * scale.reciprocal()).round_().add_(128.0).clamp_(0.0, 255.0)
    return codes.to(torch.uint8).contiguous(), scale


@token_quantize.register_fake
def _token_quantize_fake(x: Tensor) -> tuple[Tensor, Tensor]:
    return _like(x, torch.uint8), x.new_empty((*x.shape[:-1], 1), dtype=torch.float32)


@torch.library.custom_op("instar_ort::quantize", mutates_args=())
def quantize(x: Tensor, scale: float, zero_point: int) -> Tensor:
    """``QuantizeLinear`` to ``uint8`` with one scale and zero point: the start of a run of int8 layers."""
    codes = (x.to(torch.float32) / torch.tensor(scale, dtype=torch.float32)).round_().add_(float(zero_point))
    return codes.clamp_(0.0, 255.0).to(torch.uint8).contiguous()


@quantize.register_fake
def _quantize_fake(x: Tensor, scale: float, zero_point: int) -> Tensor:
    del scale, zero_point
    return _like(x, torch.uint8)


@torch.library.custom_op("instar_ort::dequantize", mutates_args=())
def dequantize(codes: Tensor, scale: float, zero_point: int) -> Tensor:
    """``DequantizeLinear`` of ``uint8`` codes to float32: the end of a run of int8 layers."""
    return (codes.to(torch.float32) - float(zero_point)) * torch.tensor(scale, dtype=torch.float32)


@dequantize.register_fake
def _dequantize_fake(codes: Tensor, scale: float, zero_point: int) -> Tensor:
    del scale, zero_point
    return _like(codes, torch.float32)


@torch.library.custom_op("instar_ort::int8_linear", mutates_args=())
def int8_linear(
    codes: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    weight_zero: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """``MatMulIntegerToFloat``: quantized activations times signed weights, integer products, float result.

    Args:
        codes: ``uint8 [..., columns]`` from :func:`dynamic_quantize`.
        scale: ``f32[]``.
        zero_point: ``uint8[]``.
        weight: ``int8 [columns, rows]``.
        weight_scale: ``f32 [rows]``.
        weight_zero: ``int8 [rows]``, or None for zeros.
        bias: ``f32 [rows]``.
    """
    products = _integer_products(codes, zero_point, weight, weight_zero)
    result = products * (scale * weight_scale)
    return result if bias is None else result + bias


@int8_linear.register_fake
def _int8_linear_fake(
    codes: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    weight_zero: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    del scale, zero_point, weight_scale, weight_zero, bias
    return codes.new_empty((*codes.shape[:-1], weight.shape[1]), dtype=torch.float32)


@torch.library.custom_op("instar_ort::int8_linear_token", mutates_args=())
def int8_linear_token(
    codes: Tensor,
    scale: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    weight_zero: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """:func:`int8_linear` for codes ``uint8 [..., columns]`` and scales ``f32 [..., 1]`` of :func:`token_quantize`."""
    zero_point = torch.tensor(128, dtype=torch.uint8, device=codes.device)
    result = _integer_products(codes, zero_point, weight, weight_zero) * weight_scale * scale
    return result if bias is None else result + bias


@int8_linear_token.register_fake
def _int8_linear_token_fake(
    codes: Tensor,
    scale: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    weight_zero: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    del scale, weight_scale, weight_zero, bias
    return codes.new_empty((*codes.shape[:-1], weight.shape[1]), dtype=torch.float32)


@torch.library.custom_op("instar_ort::matmul_nbits", mutates_args=())
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
        codes: ``uint8 [rows, blocks, block * bits / 8]``, see :func:`.weights.block_codes`.
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


@matmul_nbits.register_fake
def _matmul_nbits_fake(x: Tensor, codes: Tensor, *rest: Any) -> Tensor:
    del rest
    return x.new_empty((*x.shape[:-1], codes.shape[0]), dtype=torch.float32)


@torch.library.custom_op("instar_ort::expand_int8", mutates_args=())
def expand_int8(
    codes: Tensor, scale: Tensor, zero: Tensor | None, bits: int, group: int, shape: Sequence[int], transpose: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Stored codes to int8 weights with one scale a row; the runtime computes this once, while it loads the model.

    A format with one group a row is expanded exactly. Grouped codes are rounded to ``1/127`` of the largest value that
    the row's groups can hold, which adds at most half such a step to each weight.

    Args:
        codes: as in :func:`instar.ir.dialect.dequantize`, like the next four.
        scale: ``[rows, groups]``.
        zero: packed zero points or None.
        bits: 2 to 8.
        group: columns per scale, 0 for all.
        shape: shape of the weight; ``shape[0]`` is the number of rows.
        transpose: return the matrix ``[columns, rows]`` (linear) instead of ``shape`` (conv).

    Returns:
        ``int8`` weight, ``f32 [rows]`` scale, ``int8 [rows]`` zero point: the weight is ``(w - zero) * scale``.
    """
    integers, step, offset = expanded_int8(codes, scale, zero, bits, group, shape)
    weight = integers.t() if transpose else integers.reshape(tuple(shape))
    return weight.contiguous().clone(), step.clone(), offset.clone()


@expand_int8.register_fake
def _expand_int8_fake(
    codes: Tensor, scale: Tensor, zero: Tensor | None, bits: int, group: int, shape: Sequence[int], transpose: bool
) -> tuple[Tensor, Tensor, Tensor]:
    del zero, bits, group
    rows, columns = shape[0], _columns(shape)
    weight = codes.new_empty((columns, rows) if transpose else tuple(shape), dtype=torch.int8)
    return weight, scale.new_empty((rows,), dtype=torch.float32), codes.new_empty((rows,), dtype=torch.int8)


def _like(x: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.empty_like(x, dtype=dtype, memory_format=torch.contiguous_format)


def _columns(shape: Sequence[int]) -> int:
    product = 1
    for size in shape[1:]:
        product *= size
    return product


def _integer_products(codes: Tensor, zero_point: Tensor, weight: Tensor, weight_zero: Tensor | None) -> Tensor:
    """Exact integer sums as float32; float64 holds every sum below 2^53."""
    left = codes.to(torch.float64) - zero_point.to(torch.float64)
    right = weight.to(torch.float64)
    if weight_zero is not None:
        right = right - weight_zero.to(torch.float64)
    return (left @ right).to(torch.float32)
