"""Layers in integers: products of quantized activations with signed weights, as the fast kernels compute them.

Activations are unsigned 8-bit codes with a scale and a zero point, weights signed 8-bit: the one combination that is
fast on every x86 kernel known. The references compute the integer sums exactly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..facts import Facts, Shape
from .integers import dequantize_static, quantize_static
from .weights import columns_of, expanded_int8

BIAS_LIMIT = 2147483520.0
"""The largest float32 below ``2^31``."""


def _linear_flops(shapes: Mapping[str, Shape], arguments: Mapping[str, Any], result: Shape) -> int:
    del arguments
    return 2 * math.prod(result) * shapes["codes"][-1]


def _conv_flops(shapes: Mapping[str, Shape], arguments: Mapping[str, Any], result: Shape) -> int:
    """A multiply-add for every number of the window in every group."""
    del arguments
    return 2 * math.prod(result) * math.prod(shapes["weight"][1:])


FACTS: dict[str, Facts] = {
    "instar.linear_int8": Facts(_linear_flops),
    "instar.linear_int8_tokens": Facts(_linear_flops),
    "instar.conv_int8": Facts(_conv_flops),
}
"""What the products cost."""


@torch.library.custom_op("instar::linear_int8", mutates_args=())
def linear_int8(
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
        codes: ``uint8 [..., columns]`` from :func:`quantize_dynamic`.
        scale: ``f32[]``.
        zero_point: ``uint8[]``.
        weight: ``int8 [columns, rows]``.
        weight_scale: ``f32 [rows]``.
        weight_zero: ``int8 [rows]``, or None for zeros.
        bias: ``f32 [rows]``.
    """
    products = integer_products(codes, zero_point, weight, weight_zero)
    result = products * (scale * weight_scale)
    return result if bias is None else result + bias


@linear_int8.register_fake
def _linear_int8_fake(
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


@torch.library.custom_op("instar::linear_int8_tokens", mutates_args=())
def linear_int8_tokens(
    codes: Tensor,
    scale: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    weight_zero: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """:func:`linear_int8` for codes ``uint8 [..., columns]`` and scales ``f32 [..., 1]`` of :func:`quantize_tokens`."""
    zero_point = torch.tensor(128, dtype=torch.uint8, device=codes.device)
    result = integer_products(codes, zero_point, weight, weight_zero) * weight_scale * scale
    return result if bias is None else result + bias


@linear_int8_tokens.register_fake
def _linear_int8_tokens_fake(
    codes: Tensor,
    scale: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    weight_zero: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    del scale, weight_scale, weight_zero, bias
    return codes.new_empty((*codes.shape[:-1], weight.shape[1]), dtype=torch.float32)


@torch.library.custom_op("instar::int8_weight", mutates_args=())
def int8_weight(
    codes: Tensor, scale: Tensor, zero: Tensor | None, bits: int, group: int, shape: Sequence[int], transpose: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Stored codes to int8 weights with one scale a row; the runtime computes this once, while it loads the model.

    A format with one group a row is expanded exactly. Grouped codes are rounded to ``1/127`` of the largest value that
    the row's groups can hold, which adds at most half such a step to each weight.

    Args:
        codes: as in :func:`.weights.dequantize`, like the next four.
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


@int8_weight.register_fake
def _int8_weight_fake(
    codes: Tensor, scale: Tensor, zero: Tensor | None, bits: int, group: int, shape: Sequence[int], transpose: bool
) -> tuple[Tensor, Tensor, Tensor]:
    del zero, bits, group
    rows, columns = shape[0], columns_of(shape)
    weight = codes.new_empty((columns, rows) if transpose else tuple(shape), dtype=torch.int8)
    return weight, scale.new_empty((rows,), dtype=torch.float32), codes.new_empty((rows,), dtype=torch.int8)


@torch.library.custom_op("instar::conv_int8", mutates_args=())
def conv_int8(
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


@conv_int8.register_fake
def _conv_int8_fake(codes: Tensor, *rest: Any) -> Tensor:
    weight: Tensor = rest[2]
    stride, padding, dilation = rest[7:10]
    spatial = [
        (size + 2 * pad - hole * (kernel - 1) - 1) // step + 1
        for size, kernel, step, pad, hole in zip(
            codes.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True
        )
    ]
    return codes.new_empty((codes.shape[0], weight.shape[0], *spatial), dtype=torch.uint8)


@torch.library.custom_op("instar::add_int8", mutates_args=())
def add_int8(
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
    total = dequantize_static(left, left_scale, left_zero) + dequantize_static(right, right_scale, right_zero)
    return quantize_static(total, out_scale, out_zero_point)


@add_int8.register_fake
def _add_int8_fake(left: Tensor, *rest: Any) -> Tensor:
    right: Tensor = rest[2]
    return left.new_empty(torch.broadcast_shapes(left.shape, right.shape), dtype=torch.uint8)


def integer_products(codes: Tensor, zero_point: Tensor, weight: Tensor, weight_zero: Tensor | None) -> Tensor:
    """Exact integer sums as float32; float64 holds every sum below 2^53."""
    left = codes.to(torch.float64) - zero_point.to(torch.float64)
    right = weight.to(torch.float64)
    if weight_zero is not None:
        right = right - weight_zero.to(torch.float64)
    return (left @ right).to(torch.float32)
