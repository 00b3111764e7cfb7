"""Bits per weight are the published formulas, scales, zero points, tables, masks and factors counted."""

from __future__ import annotations

import math

import pytest

from instar.passes.formats import format

FULL, SMALL, WINDOW = (4096, 4096), (1024, 2048), (64, 32, 3, 3)

FORMULAS = [
    ("int4:g128", FULL, 4 + 16 / 128),
    ("int4:g128:asym", FULL, 4 + (16 + 4) / 128),
    ("nf4:g64:dq", FULL, 4 + 8 / 64 + 32 / (64 * 256) + 32 / 4096**2),
    ("fp6_e3m2:g32", FULL, 6 + 16 / 32),
    ("mxfp4", FULL, 4 + 8 / 32),
    ("mxfp6", FULL, 6 + 8 / 32),
    ("mxfp8", FULL, 8 + 8 / 32),
    ("bfp4:g32", FULL, 4 + 8 / 32),
    ("codebook:3:g64", SMALL, 3 + 16 / 64 + 32 * 2**3 / (1024 * 2048)),
    ("power:4", SMALL, 4 + 32 * 2**4 / (1024 * 2048)),
    ("lowrank:r512", FULL, 16 * 512 * (4096 + 4096) / 4096**2),
    ("int8:channel @ lowrank:r64", SMALL, (8 * 64 * (1024 + 2048) + 16 * (1024 + 64)) / (1024 * 2048)),
    ("monarch:b32", (1024, 1024), 16 * (32 / 1024 + 32 / 1024)),
    ("monarch:k8xj4:r2", SMALL, 16 * 2 * (4 / 1024 + 8 / 2048)),
    ("kron:32x16:t4", SMALL, 16 * 4 * (32 * 16 + 32 * 128) / (1024 * 2048)),
    ("tucker:16x8", WINDOW, 16 * (64 * 16 + 16 * 8 * 9 + 8 * 32) / (64 * 32 * 9)),
    ("lowrank:r8", WINDOW, 16 * 8 * (64 + 32 * 9) / (64 * 32 * 9)),
    ("sparse:keep50", FULL, 16 * 0.5 + 1),
    ("sparse:1x4", FULL, 16 * 0.25 + 1),
    ("int4:g128 + lowrank:r8", FULL, 4 + 16 / 128 + 16 * 8 * (4096 + 4096) / 4096**2),
    ("nf3:g64:dq + lowrank:r64", FULL, 3 + 8 / 64 + 32 / (64 * 256) + 32 / 4096**2 + 16 * 64 * 2 / 4096),
    ("sparse:keep25 + lowrank:r128", FULL, 16 * 0.25 + 1 + 16 * 128 * 2 / 4096),
]


@pytest.mark.parametrize(("text", "shape", "bits"), FORMULAS)
def test_bits_per_weight_and_what_they_are_made_of(text: str, shape: tuple[int, ...], bits: float) -> None:
    f = format(text)
    assert f.bits_per_weight(shape) == pytest.approx(bits, rel=1e-12)
    parts = f.bits_by_tensor(shape)
    assert set(parts) == set(f.tensors(shape))
    assert math.fsum(parts.values()) == pytest.approx(bits, rel=1e-12)


def test_a_format_prints_as_its_spelling() -> None:
    for text, _, _ in FORMULAS:
        assert str(format(text)) == text
