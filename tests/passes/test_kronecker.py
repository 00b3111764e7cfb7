"""Kronecker products: the error is the tail of the rearranged spectrum, two products are built, and it compiles."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import instar
from instar.ir.errors import FormatError, ParseError
from instar.ir.ops import EAGER
from instar.ir.statistics import WeightStatistics
from instar.passes.encoders import encoder
from instar.passes.formats import Use, format
from instar.passes.formats.kronecker import Kronecker, left_statistics, nearest_products, right_statistics
from instar.passes.objective import Problem, weighted_error


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dense(left: Tensor, right: Tensor) -> Tensor:
    return torch.stack([torch.kron(a, b) for a, b in zip(left, right, strict=True)]).sum(dim=0)


def rearranged(matrix: Tensor, rows: int, columns: int) -> Tensor:
    """Van Loan's: every block as a row, cut by slices."""
    p, q = matrix.shape[0] // rows, matrix.shape[1] // columns
    blocks = [matrix[a * p : (a + 1) * p, b * q : (b + 1) * q] for a in range(rows) for b in range(columns)]
    return torch.stack([block.reshape(-1) for block in blocks])


SIZE = st.integers(1, 5)


@settings(max_examples=40, deadline=None)
@given(a=SIZE, b=SIZE, p=SIZE, q=SIZE, terms=st.integers(1, 4), seed=st.integers(0, 99))
def test_the_error_is_the_tail_of_the_rearranged_spectrum(
    a: int, b: int, p: int, q: int, terms: int, seed: int
) -> None:
    matrix, terms = normal(a * p, b * q, seed=seed), min(terms, a * b, p * q)
    left, right = nearest_products(matrix, a, b, terms)
    error = (matrix - dense(left, right)).square().sum()
    least = torch.linalg.svdvals(rearranged(matrix, a, b))[terms:].square().sum()
    assert torch.allclose(error, least, rtol=1e-10, atol=1e-12)
    moved = dense(left + 1e-3 * normal(*left.shape, seed=seed + 1), right + 1e-3 * normal(*right.shape, seed=seed + 2))
    assert (matrix - moved).square().sum() >= error - 1e-12


def test_a_planted_product_is_found() -> None:
    planted = torch.kron(normal(4, 6), normal(5, 3, seed=1))
    assert float(torch.linalg.svdvals(rearranged(planted, 4, 6))[1]) < 1e-10
    assert float((planted - dense(*nearest_products(planted, 4, 6, 1))).norm()) < 1e-10
    f = format("kron:4x6")
    assert f.nbytes((20, 18)) == 2 * (4 * 6 + 5 * 3)
    decoded = f.decode(f.encode(planted.float())).double()
    assert float((decoded - planted).abs().max()) <= 2.0 * 2**-11 * 1.01 * float(planted.abs().max())


def test_spellings() -> None:
    assert format("kron:4x6") == Kronecker(4, 6)
    assert format("kron:4x6:t1").spelling == "kron:4x6"
    for text in ("kron:4x6", "kron:4x6:t3", "kron:4x6:t2 + int4:g16"):
        assert format(text).spelling == text
    for text in ("kron", "kron:4", "kron:0x4", "kron:4x6:3", "kron:4x6:t0", "kron:4x6:t2:x"):
        with pytest.raises(ParseError, match="position"):
            format(text)
    with pytest.raises(FormatError, match="expected sizes and terms of 1 or more, got 0x4:t1"):
        Kronecker(0, 4)


def test_factors_are_stored_in_other_formats() -> None:
    planted = dense(torch.randn(1, 4, 6).double(), torch.randn(1, 5, 3).double())
    f = format("int8:channel @ kron:4x6")
    assert f.spelling == "int8:channel @ kron:4x6"
    assert f.nbytes((20, 18)) == 4 * 6 + 5 * 3 + 2 * (4 + 5)
    decoded = f.decode(f.encode(planted.float())).double()
    assert float((decoded - planted).abs().max()) <= 2.0 / 254 * 1.1 * float(planted.abs().max())


def test_refusals_have_the_numbers() -> None:
    assert format("kron:4x4:t12").refuses((16, 16)) == (
        "kron:4x4:t12: expected at most 7 terms for a weight of 16 x 16, got 12, whose factors hold 384 numbers "
        "against 256"
    )
    assert format("kron:4x4:t7").refuses((16, 16)) is None
    whole = format("kron:4x4").refuses((4, 4))
    assert whole is not None
    assert "expected factors that save something for a weight of 4 x 4, got 1, whose factors hold 17" in whole
    uneven = format("kron:4x5").refuses((16, 16))
    assert uneven == "kron:4x5: expected a weight whose sizes are multiples of 4 x 5, got 16 x 16"
    window = format("kron:4x4").refuses((16, 16, 1, 1))
    assert window == "kron:4x4: expected a linear layer, got the weight [16, 16, 1, 1]"


@pytest.mark.parametrize("text", ["kron:4x6", "kron:6x4:t3", "kron:4x6 + int4:g16"])
def test_layers_compute_with_the_factors(text: str) -> None:
    f, shape, bias, x = format(text), (36, 48), normal(36, seed=4).float(), normal(2, 5, 48, seed=5).float()
    encoded = f.encode(normal(*shape, seed=7).float())
    for use, value in (
        (Use("linear", "aten.linear.default", "weight", "input", shape, {"bias": bias}), x),
        (Use("linear", "aten.linear.default", "weight", "input", shape), x[0, 0]),
        (Use("matmul", "aten.matmul.default", "other", "self", shape), x),
        (Use("embedding", "aten.embedding.default", "weight", "indices", shape), torch.tensor([[3, 0], [23, 3]])),
    ):
        found, expected = f.apply(EAGER, value, encoded.tensors, use), use.dense(EAGER, value, f.decode(encoded))
        assert found.shape == expected.shape
        assert torch.allclose(found, expected, atol=2e-4), use


def test_operations_are_those_of_the_two_products() -> None:
    assert format("kron:4x6:t2").flops((36, 48), 10) == 2 * 10 * 2 * (6 * 8 * 9 + 9 * 6 * 4)


@pytest.mark.parametrize("target", ["torch", "onnx"])
def test_a_planted_sum_compiles_and_replays(target: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(96, 128), nn.ReLU(), nn.Linear(128, 64)).eval()
    planted = model[0].weight
    assert isinstance(planted, Tensor)
    with torch.no_grad():
        planted.copy_(dense(normal(2, 8, 12), normal(2, 16, 8, seed=1)).float() / 10)
    x = torch.randn(8, 96)
    compiled = instar.compile(
        model, (x,), target=target, budget={"size": "55%"}, formats=["fp32", "kron:8x12:t2"], activations=["none"]
    )
    assert [d.chosen.option.format for d in compiled.plan.decisions] == ["kron:8x12:t2", "fp32"]
    assert compiled.plan.decisions[0].chosen.nbytes == 2 * 2 * (8 * 12 + 16 * 8)
    assert torch.allclose(compiled(x), model(x), atol=2e-2)
    compiled.plan.save(tmp_path / "plan.json")
    again = instar.compile(model, (x,), target=target, plan=tmp_path / "plan.json")
    assert torch.equal(compiled(x), again(x))


def known_statistics(rows: int, columns: int) -> WeightStatistics:
    inputs = torch.randn(200, columns) @ torch.randn(columns, columns)
    return WeightStatistics(200, inputs.T @ inputs / 200, torch.full((rows,), 0.5))


def test_statistics_of_factors_are_what_a_change_of_them_costs() -> None:
    """Of one term, with rows that count alike: to the last digit."""
    torch.manual_seed(0)
    left, right, known = torch.randn(1, 4, 6), torch.randn(1, 3, 5), known_statistics(12, 30)
    moves = torch.randn(3, 5), torch.randn(4, 6)
    for change, own, whole in (
        (moves[0], right_statistics(known, left), torch.kron(left[0], moves[0])),
        (moves[1], left_statistics(known, right, 4), torch.kron(moves[1], right[0])),
    ):
        assert own is not None
        zero = torch.zeros_like(change)
        found, expected = weighted_error(zero, change, own), weighted_error(torch.zeros_like(whole), whole, known)
        assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("text", ["int4:channel @ kron:8x8", "int4:channel @ kron:8x8:t3"])
def test_gptq_chooses_the_codes_of_factors(text: str) -> None:
    torch.manual_seed(0)
    weight, known = torch.randn(64, 64), known_statistics(64, 64)
    errors = {
        name: Problem(weight, known).error(
            format(text).decode(encoder(name).encode(format(text), Problem(weight, known)))
        )
        for name in ("rtn", "gptq")
    }
    assert errors["gptq"] <= errors["rtn"]
    model, batches = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)).eval(), [torch.randn(8, 64)] * 4
    compiled = instar.compile(
        model, (batches[0],), target="torch", formats=[text], encoders=["gptq"], calibration=batches
    )
    assert {d.chosen.option.format for d in compiled.plan.decisions} == {text}
