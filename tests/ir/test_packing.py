"""Bit planes: exact byte counts and lossless round trips for every width and odd lengths."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from instar.ir.errors import FormatError
from instar.ir.packing import pack, planes, row_bytes, unpack


def reference_bytes(row: list[int], bits: int) -> list[int]:
    """The definition, one bit at a time: per plane, code ``i`` starts at bit ``i * width`` of that plane."""
    out: list[int] = []
    for low, width in planes(bits):
        number = 0
        for index, code in enumerate(row):
            number |= ((code >> low) & ((1 << width) - 1)) << (index * width)
        out.extend(number.to_bytes(-(-len(row) * width // 8), "little"))
    return out


@settings(max_examples=80, deadline=None)
@given(bits=st.integers(1, 8), rows=st.integers(0, 4), columns=st.integers(0, 41), seed=st.integers(0, 2**16))
def test_round_trip_and_layout(bits: int, rows: int, columns: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 1 << bits, (rows, columns), generator=generator)
    packed = pack(codes, bits)
    assert packed.dtype == torch.uint8
    assert packed.shape == (rows, row_bytes(columns, bits))
    assert packed.tolist() == [reference_bytes(row, bits) for row in codes.tolist()]
    assert torch.equal(unpack(packed, bits, columns), codes.to(torch.uint8))


@pytest.mark.parametrize("bits", range(1, 9))
def test_extreme_codes_and_non_contiguous_input(bits: int) -> None:
    codes = torch.zeros(13, 7, dtype=torch.int64)
    codes[::2] = (1 << bits) - 1
    assert torch.equal(unpack(pack(codes.T, bits), bits, 13), codes.T.to(torch.uint8))


def test_planes_are_powers_of_two_widest_first() -> None:
    assert [tuple(width for _, width in planes(bits)) for bits in range(1, 9)] == [
        (1,), (2,), (2, 1), (4,), (4, 1), (4, 2), (4, 2, 1), (8,),
    ]  # fmt: skip


def test_four_bits_is_two_codes_a_byte_low_nibble_first() -> None:
    assert pack(torch.tensor([[1, 2, 3]]), 4).tolist() == [[0x21, 0x03]]


def test_six_bits_is_a_nibble_plane_then_a_pair_plane() -> None:
    codes = torch.tensor([[0b110001, 0b100010]])
    assert pack(codes, 6).tolist() == [[0x21, 0b1011]]


@pytest.mark.parametrize("bits", [0, 9, -1])
def test_a_width_outside_one_to_eight_is_refused(bits: int) -> None:
    with pytest.raises(FormatError, match=f"expected a width of 1 to 8 bits, got {bits}"):
        planes(bits)


def test_codes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(FormatError, match=r"expected codes in 0\.\.15 for 4 bits, got 0\.\.16"):
        pack(torch.tensor([[0, 16]]), 4)


def test_codes_must_be_an_integer_matrix() -> None:
    with pytest.raises(FormatError, match=r"expected an integer matrix, got torch\.float32"):
        pack(torch.zeros(2, 2), 4)


def test_unpacking_checks_the_width_of_a_row() -> None:
    with pytest.raises(FormatError, match=r"expected uint8 \[rows, 3\] for 5 codes of 4 bits"):
        unpack(torch.zeros(2, 4, dtype=torch.uint8), 4, 5)
