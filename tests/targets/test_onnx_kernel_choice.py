"""Which kernels a compilation may use, and that the one that a plan chose takes a weight over, whoever else could."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import instar
from instar.compilation.entry import start
from instar.compilation.pricing_stage import list_candidates
from instar.config import resolve
from instar.ir.dialect import linear_int8
from instar.ir.graph import Node
from instar.ir.plan import Plan
from instar.ir.plugins import given
from instar.passes.rewrite import RewriteContext
from instar.passes.rules import Outcome, rule
from instar.targets.base import Times, layers_for
from instar.targets.onnx import contrib
from instar.targets.onnx.kernels import Kernel, Written
from instar.targets.onnx.kernels.offers import linear_offers
from instar.targets.onnx.kernels.weights import INT8_WEIGHT, quantized_linear

X = torch.linspace(-1, 1, 8 * 64).reshape(8, 64)


@torch.library.custom_op("twin::linear", mutates_args=())
def linear_twin(
    codes: Tensor,
    scale: Tensor,
    zero: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    weight_zero: Tensor | None,
    bias: Tensor | None,
) -> Tensor:
    """The same product under another name."""
    return linear_int8(codes, scale, zero, weight, weight_scale, weight_zero, bias)


@linear_twin.register_fake
def _(codes: Tensor, scale: Tensor, zero: Tensor, weight: Tensor, *rest: Tensor | None) -> Tensor:
    return codes.new_empty((*codes.shape[:-1], weight.shape[1]), dtype=torch.float32)


@rule("aten.linear.default")
def twin_linear(node: Node, match: RewriteContext) -> Outcome:
    """The pattern of kernel ``int8``."""
    return quantized_linear(node, match, "twin", "tensor", "instar.quantize_dynamic", "twin.linear")


def write(*inputs: object) -> object:
    codes, scale, zero, weight, weight_scale, weight_zero, bias = inputs
    return contrib.MatMulIntegerToFloat(codes, weight, scale, weight_scale, zero, weight_zero, bias)


TWIN = Kernel(
    "twin",
    "MatMulIntegerToFloat once more",
    (Written("twin.linear", write, "MatMulIntegerToFloat|DynamicQuantizeMatMul"), INT8_WEIGHT),
    (twin_linear,),
    linear_offers("twin", "tensor"),
)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)).eval()


def compiled(**settings: object) -> instar.Compiled:
    plain: dict[str, object] = {"formats": ["fp32", "int7:channel"], "budget": {"ops": "10%"}}
    return instar.compile(net(), (X,), **plain | settings)  # pyright: ignore[reportArgumentType]


def chosen(plan: Plan) -> list[str]:
    return [decision.chosen.option.kernel for decision in plan.decisions]


def test_two_kernels_for_one_pattern_live_side_by_side() -> None:
    with given({"kernel": {"twin": TWIN}}):
        plan = compiled(kernels=["twin"]).plan
        assert chosen(plan) == ["twin", "twin"]
        first = plan.decisions[0]
        option = replace(first.chosen.option, kernel="int8")
        mixed = replace(
            plan, decisions=(replace(first, chosen=replace(first.chosen, option=option)), *plan.decisions[1:])
        )
        artifact = instar.compile(net(), (X,), plan=mixed).artifact
    ops = artifact.lowered.graph.ops()  # pyright: ignore[reportAttributeAccessIssue]
    assert (ops["instar.linear_int8"], ops["twin.linear"]) == (1, 1)
    assert all(check.passed for check in artifact.checks)


def test_what_a_restriction_leaves_out_is_in_the_plan() -> None:
    plan = compiled(kernels=["int8_token"]).plan
    assert chosen(plan) == ["int8_token", "int8_token"]
    assert any("@int8: int8 is not among kernels = int8_token" in reason for reason in plan.decisions[0].refused)
    kept = compiled(kernels=["int8_token"], budget=None)
    assert all(d.chosen.option.unchanged for d in kept.plan.decisions)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"kernels": ["int8", "in8"]},
            "kernels[1]: expected a kernel of target 'onnx', found 'in8'; did you mean 'int8'?",
        ),
        ({"kernels": ["int8"], "target": "torch"}, "kernels[0]: expected a kernel of target 'torch', found 'int8'"),
        ({"kernels": []}, "kernels: expected a list of at least one name, found []"),
        (
            {"kernels": ["nbits"], "formats": ["int7:channel"]},
            "expected at least one format that target onnx can run; found none of int7:channel possible: int7:channel",
        ),
    ],
)
def test_restrictions_that_cannot_be(settings: dict[str, object], message: str) -> None:
    with pytest.raises(instar.ConfigError) as caught:
        compiled(**settings)
    assert message in str(caught.value)


# ------------------------------------------------------------------------------------------------ processors
def listed(times: Times, **settings: object) -> set[str]:
    request = start(net(), (X,), None, None, resolve(None, **settings), {})
    candidates = list_candidates(
        layers_for(request.target, request.captured)[0], request.pipeline, request.target, calibrated=False, times=times
    )
    return {option.format for options, _, _ in candidates.values() for option in options}


def test_seven_bits_stand_in_where_eight_saturate_and_times_count(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "int7:channel" not in listed("here")
    assert "int7:channel" in listed("elsewhere")  # a device that nobody asked yet may need them
    for module in ("targets.onnx.target", "targets.onnx.kernels.offers"):
        monkeypatch.setattr(f"instar.{module}.products_saturate", lambda: True)
    assert "int7:channel" in listed("here")
    assert "int7:channel" not in listed("none")
    assert "int7:channel" not in listed("here", formats=["fp32", "int8:channel"])
    assert "int7:channel" not in listed("here", layers=[{"pattern": "*", "formats": ["int8:channel"]}])
