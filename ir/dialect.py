"""instar's own operators, registered with ``torch.library`` in the namespace ``instar``.

Each is functional, has a fake kernel that accepts symbolic sizes, and a straight-through gradient, so that a graph with
these ops runs, trains and exports like any other. Importing this module registers them; it imports nothing but torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .errors import FormatError, nearest
from .packing import unpack

NAMESPACE = "instar"

SMALLEST_STEP = 1e-30
"""Smallest step of a row of integers: a row of zeros is not divided by zero."""


def split_groups(matrix: Tensor, group: int) -> Tensor:
    """View the last dimension ``[..., columns]`` as ``[..., groups, group]``; a short last group is filled with zeros.

    ``group = 0`` makes one group of all columns.
    """
    columns = matrix.shape[-1]
    if group == 0 or group == columns:
        return matrix.unsqueeze(-2)
    short = -columns % group
    padded = torch.nn.functional.pad(matrix, (0, short)) if short else matrix
    return padded.reshape(*matrix.shape[:-1], (columns + short) // group, group)


def join_groups(groups: Tensor, columns: int) -> Tensor:
    """The inverse of :func:`split_groups`: ``[..., groups, group]`` to ``[..., columns]``."""
    return groups.reshape(*groups.shape[:-2], groups.shape[-2] * groups.shape[-1])[..., :columns]


@torch.library.custom_op(
    "instar::dequantize",
    mutates_args=(),
    schema="(Tensor codes, Tensor scale, Tensor? zero, int bits, int group, int[] shape) -> Tensor",
)
def dequantize(
    codes: Tensor, scale: Tensor, zero: Tensor | None, bits: int, group: int, shape: Sequence[int]
) -> Tensor:
    """The weight that packed codes stand for: ``(u - zero) * scale`` per group, viewed as ``shape``.

    Args:
        codes: ``uint8 [rows, row_bytes(columns, bits)]``, see :mod:`instar.ir.packing`; ``rows = shape[0]`` and
            ``columns`` is the product of the other sizes.
        scale: ``[rows, groups]``, float16 as stored (any float dtype is accepted).
        zero: packed ``bits``-bit zero points ``uint8 [rows, row_bytes(groups, bits)]``; ``None`` means ``2^(bits-1)``.
        bits: width of a code, 1 to 8.
        group: columns that share a scale, the last group may be shorter; 0 is one group a row.
        shape: shape of the result.

    Returns:
        float32 tensor of ``shape``. Its gradient flows to ``scale``.

    Raises:
        FormatError: if ``codes`` does not hold exactly the codes of ``shape``.
    """
    offsets = _offsets(codes, zero, bits, group, shape, scale.shape[1])
    weight = offsets * scale.to(torch.float32).unsqueeze(-1)
    return join_groups(weight, _columns(shape)).reshape(tuple(shape)).contiguous()


def _dequantize_fake(codes: Tensor, *rest: Any) -> Tensor:
    """An empty result; the last argument is the shape."""
    return codes.new_empty(tuple(rest[-1]), dtype=torch.float32)


def _columns(shape: Sequence[int]) -> int:
    product = 1
    for size in shape[1:]:
        product *= size
    return product


def _offsets(codes: Tensor, zero: Tensor | None, bits: int, group: int, shape: Sequence[int], groups: int) -> Tensor:
    """``u - zero`` as float32 ``[rows, groups, group]``."""
    unsigned = unpack(codes, bits, _columns(shape)).to(torch.float32)
    if zero is None:
        return split_groups(unsigned - (1 << (bits - 1)), group)
    return split_groups(unsigned, group) - unpack(zero, bits, groups).to(torch.float32).unsqueeze(-1)


def _dequantize_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    del output
    codes, scale, zero, bits, group, shape = inputs
    ctx.save_for_backward(codes, zero)
    ctx.options = (bits, group, tuple(shape), scale.shape[1], scale.dtype)


def _dequantize_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    codes, zero = ctx.saved_tensors
    bits, group, shape, groups, dtype = ctx.options
    offsets = _offsets(codes, zero, bits, group, shape, groups)
    rows = split_groups(gradient.reshape(shape[0], _columns(shape)), group)
    return None, (rows * offsets).sum(dim=-1).to(dtype), None, None, None, None


dequantize.register_fake(_dequantize_fake)
dequantize.register_autograd(_dequantize_backward, setup_context=_dequantize_setup)


@torch.library.custom_op(
    "instar::dequantize_int8",
    mutates_args=(),
    schema="(Tensor codes, Tensor scale, Tensor? zero, int bits, int group, int[] shape) -> Tensor",
)
def dequantize_int8(
    codes: Tensor, scale: Tensor, zero: Tensor | None, bits: int, group: int, shape: Sequence[int]
) -> Tensor:
    """As :func:`dequantize`, rounded to 8-bit integers with one scale a row: what an int8 kernel multiplies with.

    The row's scale is ``1/127`` of the largest value that its groups can hold, so rounding adds at most half of that to
    each weight. A format with one group a row is already of this kind and comes out unchanged.

    Args:
        codes: like the others as in :func:`dequantize`.
        scale: ``[rows, groups]``.
        zero: packed zero points or ``None``.
        bits: 2 to 8.
        group: columns that share a scale.
        shape: shape of the result, float32.
    """
    weight, step, offset = expanded_int8(codes, scale, zero, bits, group, shape)
    centred = weight.to(torch.float32) - offset.to(torch.float32).unsqueeze(1)
    return (centred * step.unsqueeze(1)).reshape(tuple(shape))


def expanded_int8(
    codes: Tensor, scale: Tensor, zero: Tensor | None, bits: int, group: int, shape: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """The integers behind :func:`dequantize_int8`: the weight is ``(integers - offset) * step``.

    Args:
        codes: like the others as in :func:`dequantize_int8`.
        scale: ``[rows, groups]``.
        zero: packed zero points or ``None``.
        bits: 2 to 8.
        group: columns that share a scale.
        shape: shape of the weight.

    Returns:
        Integers ``int8 [rows, columns]``, step ``f32 [rows]``, offset ``int8 [rows]``. Grouped codes have offset 0 and
        are multiplied by ``scale / step`` and rounded half to even.
    """
    columns, groups = _columns(shape), scale.shape[1]
    signed = _signed(codes, bits, columns)
    scale = scale.to(torch.float32)
    offsets = torch.zeros(scale.shape, dtype=torch.int8, device=codes.device)
    if zero is not None:
        offsets = _signed(zero, bits, groups)
    if groups == 1:
        return signed, scale[:, 0], offsets[:, 0]
    step = row_scale(scale, offsets.to(torch.float32), bits)
    index = torch.arange(columns, device=codes.device) // group
    ratio = (scale / step.unsqueeze(1))[:, index]
    centred = signed.to(torch.float32) - offsets.to(torch.float32)[:, index]
    return (centred * ratio).round().to(torch.int8), step, torch.zeros_like(offsets[:, 0])


def _signed(codes: Tensor, bits: int, columns: int) -> Tensor:
    """Packed codes relative to ``2^(bits-1)``, int8 ``[rows, columns]``."""
    return (unpack(codes, bits, columns).to(torch.int16) - (1 << (bits - 1))).to(torch.int8)


def row_scale(scale: Tensor, offsets: Tensor, bits: int) -> Tensor:
    """One scale a row, ``[rows]``, at which every value that the groups can hold fits ``-127..127``.

    Args:
        scale: float32 ``[rows, groups]``.
        offsets: signed zero points ``[rows, groups]``, float32.
        bits: width of the codes.
    """
    half = float(1 << (bits - 1))
    largest = scale.abs() * torch.maximum(half + offsets, half - offsets)
    return (largest.amax(dim=1) / 127.0).clamp(min=SMALLEST_STEP)


dequantize_int8.register_fake(_dequantize_fake)


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
