"""Activations rounded to few bits, in float: quantize followed by dequantize."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import FormatError, nearest
from .groups import join_groups, split_groups


@torch.library.custom_op(
    "instar::fake_quantize_dynamic",
    mutates_args=(),
    schema="(Tensor x, int bits, str granularity, bool symmetric) -> Tensor",
)
def fake_quantize_dynamic(x: Tensor, bits: int, granularity: str, symmetric: bool) -> Tensor:
    """Quantize to ``bits``-bit integers with parameters taken from ``x`` itself, then dequantize.

    Rounding is half to even. Arithmetic is float32; the result has the dtype and shape of ``x``.

    * ``tensor``, asymmetric: ONNX ``DynamicQuantizeLinear`` bit for bit at 8 bits: range widened to include 0,
      ``scale = (max - min) / (2^bits - 1)``, zero point rounded and saturated.
    * ``token``: the last dimension of each position is one group.
    * ``group:<n>``: blocks of ``n`` along the last dimension (the last may be short). Symmetric at 8 bits this is what
      ONNX Runtime's ``MatMulNBits`` with ``accuracy_level=4`` does to its activations.

    Symmetric uses ``scale = absmax / (2^(bits-1) - 1)`` and codes ``-(2^(bits-1) - 1) .. 2^(bits-1) - 1``.
    All-zero groups stay exactly zero. The gradient is the identity (straight-through).

    Raises:
        FormatError: for an unknown granularity or a width outside 2..8.
    """
    group = granularity_group(granularity)
    _check_bits(bits)
    if x.numel() == 0:
        return torch.empty_like(x, memory_format=torch.contiguous_format)
    values = x.to(torch.float32)
    if group is None:
        groups = values.reshape(1, -1)
    else:
        values = values.unsqueeze(0) if x.dim() == 0 else values
        groups = split_groups(values, group)
    done = _symmetric(groups, bits) if symmetric else _asymmetric(groups, bits)
    flat = done if group is None else join_groups(done, values.shape[-1])
    return flat.reshape(x.shape).to(x.dtype).contiguous()


def granularity_group(granularity: str) -> int | None:
    """Columns in a group of ``granularity``: ``None`` for ``tensor``, 0 (all) for ``token``, n for ``group:<n>``.

    Raises:
        FormatError: if the text is none of these.
    """
    if granularity == "tensor":
        return None
    if granularity == "token":
        return 0
    head, _, size = granularity.partition(":")
    if head == "group" and size.isdecimal() and int(size) > 0:
        return int(size)
    raise FormatError(
        f"fake_quantize_dynamic: expected granularity 'tensor', 'token' or 'group:<n>' with n > 0, got {granularity!r}"
        f"{nearest(head, ('tensor', 'token', 'group'))}"
    )


def _check_bits(bits: int) -> None:
    if not 2 <= bits <= 8:
        raise FormatError(f"activation quantization: expected 2 to 8 bits, got {bits}; choose a width in that range")


def _symmetric(groups: Tensor, bits: int) -> Tensor:
    """Multiplies by the reciprocal of the scale, as the runtime's kernel does."""
    top = float((1 << (bits - 1)) - 1)
    scale = groups.abs().amax(dim=-1, keepdim=True) / top
    inverse = torch.where(scale > 0, scale.reciprocal(), torch.zeros_like(scale))
    inverse = inverse.clamp(max=torch.finfo(torch.float32).max)  # a denormal scale has no finite reciprocal
    return (groups * inverse).round_().clamp_(-top, top).mul_(scale)


def _asymmetric(groups: Tensor, bits: int) -> Tensor:
    top = float((1 << bits) - 1)
    low = groups.amin(dim=-1, keepdim=True).clamp(max=0.0)
    high = groups.amax(dim=-1, keepdim=True).clamp(min=0.0)
    scale = (high - low) / top
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    zero = (-low / scale).clamp(0.0, top).round()
    codes = (groups / scale).round_().add_(zero).clamp_(0.0, top)
    return codes.sub_(zero).mul_(scale)


def _like_first(x: Tensor, *_options: Any) -> Tensor:
    """An empty result like the first argument, contiguous."""
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _straight_through(_context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    return gradient, None, None, None


def _nothing_to_save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """The straight-through gradient needs no context."""
    del ctx, inputs, output


fake_quantize_dynamic.register_fake(_like_first)
fake_quantize_dynamic.register_autograd(_straight_through, setup_context=_nothing_to_save)


@torch.library.custom_op(
    "instar::fake_quantize_static",
    mutates_args=(),
    schema="(Tensor x, float scale, int zero_point, int bits, bool symmetric) -> Tensor",
)
def fake_quantize_static(x: Tensor, scale: float, zero_point: int, bits: int, symmetric: bool) -> Tensor:
    """ONNX ``QuantizeLinear`` followed by ``DequantizeLinear`` with one scale and zero point.

    ``symmetric`` selects signed codes ``-2^(bits-1) .. 2^(bits-1) - 1``, otherwise unsigned ``0 .. 2^bits - 1``. Values
    are divided by ``scale``, rounded half to even, offset and saturated; arithmetic is float32, the result has the
    dtype of ``x``.
    The gradient is the identity inside the representable range and zero outside it.

    Raises:
        FormatError: for a width outside 2..8, a scale that is not positive and finite, or a zero point that is no code.
    """
    step, low, high = _static_range(x, scale, zero_point, bits, symmetric)
    codes = (x.to(torch.float32) / step).round_().clamp_(low, high)
    return codes.mul_(step).to(x.dtype).contiguous()


def _static_range(x: Tensor, scale: float, zero_point: int, bits: int, symmetric: bool) -> tuple[Tensor, float, float]:
    """The float32 step and the smallest and largest ``code - zero_point``."""
    _check_bits(bits)
    least, most = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if symmetric else (0, (1 << bits) - 1)
    if not 0.0 < scale < float("inf"):
        raise FormatError(f"fake_quantize_static: expected a positive finite scale, got {scale}; calibrate again")
    if not least <= zero_point <= most:
        raise FormatError(
            f"fake_quantize_static: expected a zero point in {least}..{most}, got {zero_point}; "
            "use a code of the chosen width and sign"
        )
    return (
        torch.tensor(scale, dtype=torch.float32, device=x.device),
        float(least - zero_point),
        float(most - zero_point),
    )


def _static_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    del output
    x, *options = inputs
    ctx.save_for_backward(x)
    ctx.options = options


def _static_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    (x,) = ctx.saved_tensors
    step, low, high = _static_range(x, *ctx.options)
    codes = (x.to(torch.float32) / step).round()
    return gradient * ((codes >= low) & (codes <= high)), None, None, None, None


fake_quantize_static.register_fake(_like_first)
fake_quantize_static.register_autograd(_static_backward, setup_context=_static_setup)
