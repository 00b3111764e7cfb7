"""Dynamic shapes, keyword inputs and nested outputs through the artifacts, at sizes that compilation never saw."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import instar

from .models import encoder, encoder_data, encoder_dims, mlp, relative

TARGETS = ("torch", "onnx")


@pytest.fixture(scope="module", params=TARGETS)
def compiled(request: pytest.FixtureRequest) -> instar.Compiled:
    data = encoder_data()
    return instar.compile(
        encoder(), data[0], target=request.param, budget={"size": "80%"}, calibration=data,
        dynamic_shapes=encoder_dims(), activations=["none"],
    )  # fmt: skip


@pytest.mark.parametrize(("batch", "length"), [(1, 2), (1, 11), (5, 3), (7, 33)])
def test_sizes_never_seen(compiled: instar.Compiled, batch: int, length: int) -> None:
    ((ids, mask),) = encoder_data(1, batch, length)
    expected, found = encoder()(ids, mask), compiled(ids, mask)
    assert relative(found["logits"], expected["logits"]) < 0.1


def test_keywords_and_nested_outputs(compiled: instar.Compiled) -> None:
    ((ids, mask),) = encoder_data(1, 3, 4)
    found = compiled(mask=mask, ids=ids)
    assert list(found) == ["logits", "states"]
    assert isinstance(found["states"], tuple)
    assert [tuple(t.shape) for t in (found["logits"], *found["states"])] == [(3, 4, 64), (3, 4, 32), (3, 32)]
    assert torch.equal(found["logits"], compiled(ids, mask)["logits"])


@pytest.mark.parametrize("target", TARGETS)
def test_an_example_of_one_row_leaves_the_batch_dynamic(target: str) -> None:
    shapes = ({0: torch.export.Dim("batch")},)
    result = instar.compile(mlp(), (torch.randn(1, 64),), target=target, budget={"size": "50%"}, dynamic_shapes=shapes)
    for rows in (1, 2, 9):
        x = torch.randn(rows, 64)
        assert relative(result(x), mlp()(x)) < 0.2


def test_an_example_of_one_token_leaves_batch_and_length_dynamic() -> None:
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    shapes: dict[str, Any] = {name: {0: batch, 1: length} for name in ("ids", "mask")}
    ((ids, mask),) = encoder_data(1, 1, 1)
    graph = instar.capture(encoder(), (ids, torch.ones_like(mask)), dynamic_shapes=shapes)
    assert {"batch", "length"} <= set(graph.dims)
    assert [str(d) for d in graph.inputs[0].tensor_type.shape] == ["batch", "length"]
