"""Sums of formats: LoRC's tail, LQ-LoRA's alternation that keeps its best iterate, statistics that reach every part."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import instar
from instar.ir.errors import FormatError, ParseError
from instar.ir.statistics import WeightStatistics
from instar.passes.encoders import encoder, encoders_for
from instar.passes.formats import format
from instar.passes.objective import Problem, weighted_error

from .small_files import network, replays_to_the_same_bytes


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def statistics(rows: int, columns: int, seed: int, *, diagonal: bool = False) -> WeightStatistics:
    """Correlated inputs of falling power, and rows that differ in weight."""
    x = normal(4 * columns, columns, seed=seed + 1) * torch.logspace(0, -1.0, columns)
    x = x if diagonal else x @ normal(columns, columns, seed=seed + 2)
    moment = x.T @ x / len(x)
    moment = torch.diag(moment.diagonal()) if diagonal else moment
    return WeightStatistics(len(x), moment, normal(rows, seed=seed + 3).abs() + 0.05)


def planted(rows: int, columns: int, rank: int, seed: int = 0) -> Tensor:
    """A few strong directions and noise."""
    return normal(rows, rank, seed=seed) @ normal(rank, columns, seed=seed + 7) + 0.2 * normal(rows, columns, seed=seed)


def error(text: str, method: str, problem: Problem) -> float:
    f = format(text)
    return problem.error(f.decode(encoder(method).encode(f, problem)))


@pytest.mark.parametrize("first", ["int3:g16", "nf3:g16", "mxfp4"])
def test_lorc_keeps_the_tail_of_the_spectrum_of_what_was_left_over(first: str) -> None:
    problem, f = Problem(normal(24, 32)), format(first)
    left_over = problem.matrix - f.decode(encoder("rtn").encode(f, problem))
    spectrum = torch.linalg.svdvals(left_over.double()).square()
    errors = [error(f"{first} + fp32 @ lowrank:r{r}", "svd+rtn+sequential", problem) for r in range(1, 13)]
    for rank, found in enumerate(errors, 1):
        assert found == pytest.approx(float(spectrum[rank:].sum()), rel=1e-4)
    assert errors == sorted(errors, reverse=True)


def test_the_rank_of_what_was_left_over_makes_lorc_exact_and_factors_may_be_integers() -> None:
    on_grid = torch.randint(-4, 4, (24, 32), generator=torch.Generator().manual_seed(2)).float()
    on_grid[:, ::16] = -4.0  # what fixes the step of every group
    weight = on_grid.clone()
    weight[[1, 9, 20]] += 0.3 * normal(3, 32, seed=4)
    found = error("int3:g16 + fp32 @ lowrank:r3", "svd+rtn+sequential", Problem(weight))
    assert found < 1e-10 * float(weight.square().sum())
    problem = Problem(normal(24, 32))
    floats, bytes_ = (
        error(f"int3:g16 + {element} @ lowrank:r4", "svd+rtn+sequential", problem)
        for element in ("fp32", "int8:channel")
    )
    assert bytes_ == pytest.approx(floats, rel=0.01)


def test_the_second_part_sees_the_remainder_and_the_second_moment() -> None:
    known = statistics(24, 32, 3)
    problem, f = Problem(normal(24, 32), known), format("int2:channel")
    left_over = problem.matrix - f.decode(encoder("rtn").encode(f, problem))
    assert known.second_moment is not None
    lower = torch.linalg.cholesky(known.second_moment.double())
    spectrum = torch.linalg.svdvals(known.row_weight.double().sqrt().unsqueeze(1) * left_over.double() @ lower)
    found = error("int2:channel + fp32 @ lowrank:r6", "whitened:damping=0+rtn+sequential", problem)
    assert found == pytest.approx(float(spectrum[6:].square().sum()), rel=1e-3)


def test_codes_after_factors_are_chosen_for_the_second_moment() -> None:
    problem = Problem(planted(24, 32, 2), statistics(24, 32, 3))
    text = "lowrank:r2 + int3:g16"
    assert error(text, "whitened+gptq+sequential", problem) < error(text, "whitened+rtn+sequential", problem)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 99),
    text=st.sampled_from(["lowrank:r2 + int3:g16", "nf2:g16 + lowrank:r3", "int3:channel + int2:g16"]),
    method=st.sampled_from(["svd+rtn", "whitened+gptq", "whitened:diagonal+mse"]),
)
def test_more_sweeps_are_never_worse(seed: int, text: str, method: str) -> None:
    problem = Problem(planted(16, 32, 2, seed), statistics(16, 32, seed))
    errors = [error(text, f"{method}+alternate:sweeps={n}:gain=0", problem) for n in (1, 2, 5)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] == error(text, f"{method}+sequential", problem)


def test_an_iterate_that_is_worse_is_not_kept() -> None:
    """A sweep of rounding may raise the error: of all that were seen, the least comes back."""
    seen: list[float] = []

    class Watched(Problem):
        def error(self, decoded: Tensor) -> float:
            seen.append(super().error(decoded))
            return seen[-1]

    problem = Watched(planted(16, 32, 2, seed=3))
    f, method = format("nf2:g16 + lowrank:r3"), encoder("svd+rtn+alternate:gain=0")
    stored = method.encode(f, problem)
    assert max(seen[1:]) > min(seen)
    assert weighted_error(problem.matrix, f.decode(stored)) == pytest.approx(min(seen), rel=1e-6)


def test_alternating_finds_planted_factors_under_codes() -> None:
    problem = Problem(planted(64, 64, 4))
    codes = error("nf3:g16", "rtn", problem)
    once = error("lowrank:r4 + nf3:g16", "svd+rtn+sequential", problem)
    again = error("lowrank:r4 + nf3:g16", "svd+rtn", Problem(problem.weight))
    alternated = error("lowrank:r4 + nf3:g16", "svd+rtn+alternate:gain=0", problem)
    assert alternated <= once == again
    assert alternated < 0.1 * codes


def test_a_fisher_matrix_of_rank_one_has_its_exact_optimum() -> None:
    """LQ-LoRA's two roots of means are the whole of a diagonal second moment times weights of rows."""
    known = statistics(20, 24, 5, diagonal=True)
    problem = Problem(normal(20, 24), known)
    f = format("fp32 @ lowrank:r3")
    whole, roots = (f.decode(encoder(name).encode(f, problem)) for name in ("whitened", "whitened:diagonal"))
    assert torch.allclose(whole, roots, atol=1e-5)
    full = Problem(normal(20, 24), statistics(20, 24, 5))
    assert error("fp32 @ lowrank:r3", "whitened", full) < error("fp32 @ lowrank:r3", "whitened:diagonal", full)


@pytest.mark.parametrize("target", ["torch", "onnx"])
def test_sums_and_blocks_compile_and_replay(target: str, tmp_path: Path) -> None:
    model, x = network()
    texts = {"0": "int4:g16 + int8:channel @ lowrank:r4", "2": "sparse:keep10 + lowrank:r8", "4": "mxfp6"}
    rules = [{"pattern": name, "formats": [text]} for name, text in texts.items()]
    compiled = instar.compile(model, (x,), target=target, layers=rules, activations=["none"], encoders=["sequential"])
    assert {d.layer: d.chosen.option.format for d in compiled.plan.decisions} == texts
    with torch.no_grad():
        assert float((compiled(x) - model(x)).norm() / model(x).norm()) < 0.8
    replays_to_the_same_bytes(compiled, model, x, tmp_path)


def test_spellings_and_defaults() -> None:
    for text in ("sequential", "alternate", "alternate:sweeps=5", "alternate:gain=0.5", "whitened:diagonal"):
        assert encoder(text).spelling == text
    f = format("lowrank:r4 + int4:g16")
    assert f.families == {"factor", "grid", "sum"}
    assert encoders_for(f, (), calibrated=True) == ("whitened+gptq+alternate",)
    assert encoders_for(f, ("sequential", "rtn"), calibrated=False) == ("svd+rtn+sequential",)
    with pytest.raises(FormatError, match="alternate: expected 1 sweep or more, got 0; 100 is the usual limit"):
        encoder("alternate:sweeps=0")
    with pytest.raises(FormatError, match=r"alternate: expected a gain from 0 to below 1, got 1\.0; 0\.01 is usual"):
        encoder("alternate:gain=1")
    with pytest.raises(ParseError, match="expected an option of 'alternate', got 'sweep'; did you mean 'sweeps'"):
        encoder("alternate:sweep=2")
