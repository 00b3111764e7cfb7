"""Exact integer sums of products of codes: what the arrays of multipliers in an accelerator hand on.

What follows (scale, bias, activation, rounding to codes) is element by element and stays in the graph as it is, so that
a layer behind any activation is one sum and a chain of simple ops. The sums are computed in float64, which holds every
integer below ``2^53``, and returned as int32; more than ``2^31`` is outside what such accumulators hold.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..facts import Facts, Shape


def _linear_flops(shapes: Mapping[str, Shape], arguments: Mapping[str, Any], result: Shape) -> int:
    del arguments
    return 2 * math.prod(result) * shapes["weight"][-1]


def _conv_flops(shapes: Mapping[str, Shape], arguments: Mapping[str, Any], result: Shape) -> int:
    del arguments
    return 2 * math.prod(result) * math.prod(shapes["weight"][1:])


def _matmul_flops(shapes: Mapping[str, Shape], arguments: Mapping[str, Any], result: Shape) -> int:
    del arguments
    return 2 * math.prod(result) * shapes["left"][-1]


def _means_flops(shapes: Mapping[str, Shape], arguments: Mapping[str, Any], result: Shape) -> int:
    del arguments
    return 2 * math.prod(result) * shapes["weights"][-1]


FACTS: dict[str, Facts] = {
    "instar.conv_sums": Facts(_conv_flops),
    "instar.linear_sums": Facts(_linear_flops),
    "instar.matmul_sums": Facts(_matmul_flops),
    "instar.weighted_means": Facts(_means_flops),
}


@torch.library.custom_op("instar::conv_sums", mutates_args=())
def conv_sums(
    codes: Tensor,
    zero_point: int,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """``conv(codes - zero_point, weight)``, padded with zeros.

    Args:
        codes: ``uint8 [batch, in, *spatial]``.
        zero_point: of ``codes``.
        weight: ``int8 [out, in / groups, *kernel]``.
        stride: per spatial dimension, like ``padding`` and ``dilation``.
        padding: zeros on both sides.
        dilation: distance between taps.
        groups: as in ``torch.nn.functional.conv2d``.

    Returns:
        ``int32 [batch, out, *spatial]``.
    """
    convolve = (torch.nn.functional.conv1d, torch.nn.functional.conv2d, torch.nn.functional.conv3d)[codes.dim() - 3]
    inputs = codes.to(torch.float64) - float(zero_point)
    sums = convolve(inputs, weight.to(torch.float64), None, list(stride), list(padding), list(dilation), groups)
    return sums.round().to(torch.int32).contiguous()


@conv_sums.register_fake
def _conv_sums_fake(
    codes: Tensor,
    zero_point: int,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    del zero_point, groups
    spatial = [
        (size + 2 * pad - hole * (kernel - 1) - 1) // step + 1
        for size, kernel, step, pad, hole in zip(
            codes.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True
        )
    ]
    return codes.new_empty((codes.shape[0], weight.shape[0], *spatial), dtype=torch.int32)


@torch.library.custom_op("instar::linear_sums", mutates_args=())
def linear_sums(codes: Tensor, zero_point: int, weight: Tensor) -> Tensor:
    """``(codes - zero_point) @ weight.T``: ``uint8 [..., in]`` and ``int8 [out, in]`` to ``int32 [..., out]``."""
    sums = (codes.to(torch.float64) - float(zero_point)) @ weight.to(torch.float64).t()
    return sums.round().to(torch.int32)


@linear_sums.register_fake
def _linear_sums_fake(codes: Tensor, zero_point: int, weight: Tensor) -> Tensor:
    del zero_point
    return codes.new_empty((*codes.shape[:-1], weight.shape[0]), dtype=torch.int32)


@torch.library.custom_op("instar::matmul_sums", mutates_args=())
def matmul_sums(left: Tensor, left_zero: int, right: Tensor, right_zero: int) -> Tensor:
    """``(left - left_zero) @ (right - right_zero)`` of ``uint8`` codes, as ``torch.matmul``; ``int32``."""
    sums = (left.to(torch.float64) - float(left_zero)) @ (right.to(torch.float64) - float(right_zero))
    return sums.round().to(torch.int32)


@matmul_sums.register_fake
def _matmul_sums_fake(left: Tensor, left_zero: int, right: Tensor, right_zero: int) -> Tensor:
    del left_zero, right_zero
    return torch.matmul(left.to(torch.float32), right.to(torch.float32)).to(torch.int32)


@torch.library.custom_op("instar::softmax_codes", mutates_args=())
def softmax_codes(x: Tensor) -> Tensor:
    """``round(255 exp(x - max))`` along the last axis, ``uint8``: a softmax before it is divided by its sum.

    The largest weight of a row is always 255, so weights keep eight bits however many there are, where probabilities
    rounded to steps of 1/255 have no bits left in long rows.
    """
    weights = torch.exp(x - x.amax(-1, keepdim=True)) * 255
    return torch.nan_to_num(weights, nan=0.0).round().to(torch.uint8)


@softmax_codes.register_fake
def _softmax_codes_fake(x: Tensor) -> Tensor:
    return torch.empty_like(x, dtype=torch.uint8, memory_format=torch.contiguous_format)


@torch.library.custom_op("instar::weighted_means", mutates_args=())
def weighted_means(weights: Tensor, values: Tensor, zero_point: int) -> Tensor:
    """``weights @ (values - zero_point)`` over the sum of each row of ``weights``: exact integers, then one division.

    Args:
        weights: ``uint8 [..., rows, n]``.
        values: ``uint8 [..., n, columns]``, as ``torch.matmul`` takes them.
        zero_point: of ``values``.

    Returns:
        ``f32 [..., rows, columns]``; NaN where all weights of a row are 0.
    """
    share = weights.to(torch.float64)
    sums = (share @ (values.to(torch.float64) - float(zero_point))).round()
    return (sums / share.sum(-1, keepdim=True)).to(torch.float32)


@weighted_means.register_fake
def _weighted_means_fake(weights: Tensor, values: Tensor, zero_point: int) -> Tensor:
    del zero_point
    return torch.matmul(weights.to(torch.float32), values.to(torch.float32))
