"""``instar.dequantize_int8`` is what an int8 kernel computes with, bit for bit, also where rounding is a tie."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from instar.ir import dialect
from instar.ir.packing import pack

instar_ops: Any = torch.ops.instar
_ = dialect.NAMESPACE  # importing registers the ops


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("group", [0, 16, 32])
def test_both_spellings_agree_bit_for_bit(bits: int, zero: bool, group: int) -> None:
    rows, columns = 64, 80
    groups = -(-columns // group) if group else 1
    codes = pack(torch.randint(0, 1 << bits, (rows, columns)), bits)
    scale = (torch.randint(-8, 9, (rows, groups)).float() / 4).half()  # many quotients lie on a tie
    points = pack(torch.randint(0, 1 << bits, (rows, groups)), bits) if zero else None
    weight, step, offset = instar_ops.int8_weight(codes, scale, points, bits, group, [rows, columns], False)
    kernel = (weight.float() - offset.float()[:, None]) * step[:, None]
    assert torch.equal(instar_ops.dequantize_int8(codes, scale, points, bits, group, [rows, columns]), kernel)


def test_one_group_a_row_is_exact() -> None:
    codes, scale = pack(torch.randint(0, 16, (8, 24)), 4), torch.randn(8, 1).half()
    exact = instar_ops.dequantize(codes, scale, None, 4, 0, [8, 24])
    assert torch.equal(instar_ops.dequantize_int8(codes, scale, None, 4, 0, [8, 24]), exact)


def test_a_grouped_weight_moves_by_at_most_half_a_step() -> None:
    codes, scale = pack(torch.randint(0, 16, (8, 64)), 4), torch.rand(8, 4).half()
    exact = instar_ops.dequantize(codes, scale, None, 4, 16, [8, 64])
    rounded = instar_ops.dequantize_int8(codes, scale, None, 4, 16, [8, 64])
    step = 8 * scale.float().amax(1) / 127
    assert ((rounded - exact).abs() <= 0.5001 * step[:, None]).all()
    assert not torch.equal(rounded, exact)


def test_a_row_of_zero_scales_stays_zero() -> None:
    codes, scale = pack(torch.randint(0, 16, (2, 32)), 4), torch.zeros(2, 2).half()
    assert not instar_ops.dequantize_int8(codes, scale, None, 4, 16, [2, 32]).any()
