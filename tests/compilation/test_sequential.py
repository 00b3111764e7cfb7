"""Codes chosen in the order of the network: each layer sees what the encoded layers before it give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import instar
from instar.compilation.sequential_stage import in_order
from instar.compiler import optimize
from instar.ir.layers import find_layers
from instar.ir.plan import Plan
from instar.ir.statistics import WeightStatistics
from instar.passes.formats import Encoded
from instar.passes.formats import format as parse_format
from instar.passes.pricing import LayerPricer
from instar.report.summary import summary

from .models import conv_data, conv_net, mlp, mlp_data

DATA = mlp_data(8, 32)
CODES = "int2:g32"


def compiled(**settings: Any) -> instar.Compiled:
    given: dict[str, Any] = {"formats": [CODES], "encoders": ["gptq"], "calibration": DATA, **settings}
    return instar.compile(mlp(), DATA[0], target="torch", **given)


@pytest.fixture(scope="module")
def plain() -> instar.Compiled:
    return compiled()


def decoded(tensors: Any, shape: tuple[int, ...]) -> Tensor:
    return parse_format(CODES).decode(Encoded(CODES, shape, tensors))


def test_the_second_layer_is_fitted_to_what_the_encoded_first_one_gives(plain: instar.Compiled) -> None:
    graph = optimize(mlp(), DATA[0])
    layers = find_layers(graph)[0]
    found = in_order(graph, layers, plain.plan, DATA, {}, {})
    inputs = torch.cat([x for (x,) in DATA])
    biases = [p.detach() for name, p in mlp().named_parameters() if name.endswith("bias")]
    for layer, bias in zip(layers, biases, strict=True):
        moment = inputs.T @ inputs / inputs.shape[0]
        known = WeightStatistics(inputs.shape[0], moment, torch.ones(layer.rows))
        expected = decoded(LayerPricer(layer, known).encode(CODES, "gptq").tensors, layer.shape)
        weight = decoded(found.encodings[layer.name], layer.shape)
        assert torch.allclose(weight, expected, atol=1e-4)
        inputs = torch.relu(inputs @ weight.T + bias)


def test_it_is_kept_where_it_measures_better_and_replays(plain: instar.Compiled, tmp_path: Path) -> None:
    found = compiled(pipeline={"calibration": {"sequential": True}})
    assert plain.plan.in_order is None
    order = found.plan.in_order
    assert order is not None
    assert order.kept == (order.after < order.before)
    text = summary(found.report.data)
    assert ("Codes were chosen in the order" if order.kept else "measured no better") in text
    found.plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == found.plan
    again = instar.compile(mlp(), DATA[0], target="torch", plan=tmp_path / "plan.json")
    assert torch.equal(again(*DATA[0]), found(*DATA[0]))


def test_convolutions_and_static_activations_are_walked_too() -> None:
    data = conv_data()
    found = instar.compile(
        conv_net(), data[0], target="torch", calibration=data, formats=["int3:g32", "int8:channel"],
        pipeline={"calibration": {"sequential": True}, "activations": ["none", "static_int8"]},
        budget={"size": "30%"},
    )  # fmt: skip
    assert found.plan.in_order is not None


def test_encoders_that_need_no_data_keep_their_codes() -> None:
    found = compiled(encoders=["rtn"], pipeline={"calibration": {"sequential": True}})
    assert found.plan.in_order is not None
    assert found.plan.in_order.after == found.plan.in_order.before
    assert not found.plan.in_order.kept
