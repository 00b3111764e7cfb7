"""Values as integers: activations quantized to unsigned 8-bit codes, and back. Every target can read them."""

from __future__ import annotations

import torch
from torch import Tensor

from .weights import SMALLEST_STEP


@torch.library.custom_op("instar::quantize_dynamic", mutates_args=())
def quantize_dynamic(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``DynamicQuantizeLinear``: ``uint8`` codes like ``x``, scale ``f32[]``, zero point ``uint8[]``."""
    low, high = torch.aminmax(x)
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    scale = (high - low) / 255.0
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    zero = (-low / scale).clamp(0.0, 255.0).round()
    codes = (x / scale).round_().add_(zero).clamp_(0.0, 255.0)
    return codes.to(torch.uint8).contiguous(), scale, zero.to(torch.uint8)


@quantize_dynamic.register_fake
def _quantize_dynamic_fake(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return _like(x, torch.uint8), x.new_empty((), dtype=torch.float32), x.new_empty((), dtype=torch.uint8)


@torch.library.custom_op("instar::quantize_tokens", mutates_args=())
def quantize_tokens(x: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric 8-bit codes per token: ``uint8`` like ``x`` with zero point 128, and scales ``f32[..., 1]``."""
    scale = x.abs().amax(dim=-1, keepdim=True).clamp(min=SMALLEST_STEP) / 127.0
    codes = (x * scale.reciprocal()).round_().add_(128.0).clamp_(0.0, 255.0)
    return codes.to(torch.uint8).contiguous(), scale


@quantize_tokens.register_fake
def _quantize_tokens_fake(x: Tensor) -> tuple[Tensor, Tensor]:
    return _like(x, torch.uint8), x.new_empty((*x.shape[:-1], 1), dtype=torch.float32)


@torch.library.custom_op("instar::quantize_static", mutates_args=())
def quantize_static(x: Tensor, scale: float, zero_point: int) -> Tensor:
    """``QuantizeLinear`` to ``uint8`` with one scale and zero point: the start of a run of int8 layers."""
    codes = (x.to(torch.float32) / torch.tensor(scale, dtype=torch.float32)).round_().add_(float(zero_point))
    return codes.clamp_(0.0, 255.0).to(torch.uint8).contiguous()


@quantize_static.register_fake
def _quantize_static_fake(x: Tensor, scale: float, zero_point: int) -> Tensor:
    del scale, zero_point
    return _like(x, torch.uint8)


@torch.library.custom_op("instar::quantize_apart", mutates_args=())
def quantize_apart(x: Tensor, scale: float, zero_point: int, axis: int, places: int) -> Tensor:
    """:func:`quantize_static`, written with a scale for every place of an axis: what it reads stays in float."""
    del axis, places
    return quantize_static(x, scale, zero_point)


@quantize_apart.register_fake
def _quantize_apart_fake(x: Tensor, scale: float, zero_point: int, axis: int, places: int) -> Tensor:
    del scale, zero_point, axis, places
    return _like(x, torch.uint8)


@torch.library.custom_op("instar::dequantize_static", mutates_args=())
def dequantize_static(codes: Tensor, scale: float, zero_point: int) -> Tensor:
    """``DequantizeLinear`` of ``uint8`` codes to float32: the end of a run of int8 layers."""
    return (codes.to(torch.float32) - float(zero_point)) * torch.tensor(scale, dtype=torch.float32)


@dequantize_static.register_fake
def _dequantize_static_fake(codes: Tensor, scale: float, zero_point: int) -> Tensor:
    del scale, zero_point
    return _like(codes, torch.float32)


@torch.library.custom_op("instar::dequantize_apart", mutates_args=())
def dequantize_apart(codes: Tensor, scale: float, zero_point: int, axis: int, places: int) -> Tensor:
    """:func:`dequantize_static`, written with a scale for every place of an axis: what reads it stays in float."""
    del axis, places
    return (codes.to(torch.float32) - float(zero_point)) * torch.tensor(scale, dtype=torch.float32)


@dequantize_apart.register_fake
def _dequantize_apart_fake(codes: Tensor, scale: float, zero_point: int, axis: int, places: int) -> Tensor:
    del scale, zero_point, axis, places
    return _like(codes, torch.float32)


@torch.library.custom_op("instar::requantize", mutates_args=())
def requantize(codes: Tensor, scale: float, zero_point: int, out_scale: float, out_zero_point: int) -> Tensor:
    """``uint8`` codes of one scale and zero point as codes of another: where two runs of int8 layers meet."""
    return quantize_static(dequantize_static(codes, scale, zero_point), out_scale, out_zero_point)


@requantize.register_fake
def _requantize_fake(codes: Tensor, scale: float, zero_point: int, out_scale: float, out_zero_point: int) -> Tensor:
    del scale, zero_point, out_scale, out_zero_point
    return _like(codes, torch.uint8)


@torch.library.custom_op("instar::lookup", mutates_args=())
def lookup(codes: Tensor, table: Tensor) -> Tensor:
    """``table[codes]`` of ``uint8`` codes and 256 values: any function of one value, at the price of a load."""
    return table[codes.to(torch.int64)].contiguous()


@lookup.register_fake
def _lookup_fake(codes: Tensor, table: Tensor) -> Tensor:
    return _like(codes, table.dtype)


def _like(x: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.empty_like(x, dtype=dtype, memory_format=torch.contiguous_format)
