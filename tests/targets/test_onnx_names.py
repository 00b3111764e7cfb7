"""Names in an ONNX file: dimensions, inputs, outputs, weights; unique by construction."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
import torch
from onnx_case import compiled_and_compared, session_of, shapes_of, value_names
from torch import Tensor, nn
from torch.export import Dim

import instar
from instar.ir.errors import ConfigError
from instar.targets.onnx.artifact import OnnxArtifact


class Clashing(nn.Module):
    """Tensors of a model called like operators, arguments, outputs, and each other."""

    mean: Tensor
    x: Tensor
    b_x: Tensor
    val_0: Tensor
    y: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.add = nn.Parameter(torch.randn(4))
        self.output = nn.Parameter(torch.randn(4))
        self.constant_0 = nn.Parameter(torch.randn(4))
        self.register_buffer("mean", torch.randn(2, 4))
        self.register_buffer("x", torch.randn(2, 4))
        self.register_buffer("b_x", torch.randn(2, 4))
        self.register_buffer("val_0", torch.randn(4))
        self.register_buffer("y", torch.randn(2, 4))

    def forward(self, x: Tensor, input: Tensor) -> dict[str, Any]:  # noqa: A002  # as users write it
        grid = torch.stack([torch.arange(4.0), torch.arange(4.0).flip(0)], 1)
        a = self.linear(x - self.mean) + self.add * (x + self.x) - self.b_x
        b = a.mean() + (input * self.val_0).permute(1, 0) @ self.y.add(self.constant_0)
        return {"y": b * grid.T[:1, None].permute(1, 0, 2)[0], "output": a * self.output, "mean": a.mean(1)}


def test_no_two_values_have_one_name_and_the_users_names_are_kept() -> None:
    artifact = compiled_and_compared(Clashing(), (torch.randn(2, 4), torch.randn(2, 4)))
    proto = artifact.lowered.proto()
    names = value_names(proto)
    assert len(set(names)) == len(names)
    assert [i.name for i in proto.graph.input] == ["x", "input"]
    assert [o.name for o in proto.graph.output] == ["y", "output", "mean"]
    weights = {i.name for i in proto.graph.initializer}
    assert {"linear.weight", "add", "b_x", "val_0", "constant_0"} <= weights
    assert {"x_1", "mean_1", "output_1"} <= weights
    nodes = [node.name for node in proto.graph.node if node.name]
    assert len(set(nodes)) == len(nodes)


def test_names_are_the_same_every_time() -> None:
    model, args = Clashing(), (torch.randn(2, 4), torch.randn(2, 4))
    first, second = (compiled_and_compared(model, args).lowered.proto() for _ in range(2))
    assert value_names(first) == value_names(second)


class Shared(nn.Module):
    def forward(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        rows = ids.float()[:, :, None] * mask[:, :, None]
        return {"hidden": torch.cat([rows, rows], 1), "pooled": rows.mean(1), "shifted": rows[:, 1:]}


def test_dimensions_keep_their_names_and_can_be_overridden_by_them() -> None:
    batch, length = Dim("batch", max=64), Dim("length", min=3, max=512)
    args = (torch.ones(2, 6, dtype=torch.int64), torch.rand(2, 6))
    shapes = ({0: batch, 1: length}, {0: batch, 1: length})
    artifact = compiled_and_compared(Shared(), args, dynamic_shapes=shapes)
    session = session_of(artifact)
    assert shapes_of(session.get_inputs()) == {"ids": ["batch", "length"], "mask": ["batch", "length"]}
    assert shapes_of(session.get_outputs()) == {
        "hidden": ["batch", "2*length", 1],
        "pooled": ["batch", 1],
        "shifted": ["batch", "length - 1", 1],
    }
    fixed = session_of(artifact, batch=1, length=5)
    assert shapes_of(fixed.get_inputs()) == {"ids": [1, 5], "mask": [1, 5]}
    feeds = {"ids": np.ones((1, 5), np.int64), "mask": np.ones((1, 5), np.float32)}
    assert [list(np.asarray(v).shape) for v in fixed.run(None, feeds)] == [[1, 10, 1], [1, 1], [1, 4, 1]]


def test_dimensions_without_a_name_are_called_like_their_input() -> None:
    args = (torch.ones(2, 6, dtype=torch.int64), torch.rand(2, 6))
    auto = ({0: Dim.DYNAMIC, 1: 6}, {0: Dim.DYNAMIC, 1: 6})
    session = session_of(compiled_and_compared(Shared(), args, dynamic_shapes=auto))
    assert shapes_of(session.get_inputs()) == {"ids": ["ids_dim0", 6], "mask": ["ids_dim0", 6]}


class Structured(nn.Module):
    """Outputs that are inputs, constants, one value twice, and plain values, nested."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor, mask: Tensor, state: dict[str, list[Tensor]]) -> dict[str, Any]:
        y = x * self.scale
        caches = [{"key": state["cache"][0], "value": y}, {"key": y, "value": state["cache"][1] + 1}]
        return {"y": y, "mask": mask, "again": mask, "caches": caches, "scale": self.scale, "none": None, "size": 3}


def test_an_output_may_be_an_input_a_constant_or_another_output() -> None:
    x, mask = torch.randn(2, 3), torch.ones(2, dtype=torch.bool)
    state = {"cache": [torch.randn(2, 3), torch.randn(2, 3)]}
    batch = Dim("batch")
    shapes = ({0: batch}, {0: batch}, {"cache": [{0: batch}, {0: batch}]})
    artifact = compiled_and_compared(Structured(), (x, mask, state), dynamic_shapes=shapes)
    session = session_of(artifact)
    caches = ["caches.0.key", "caches.0.value", "caches.1.key", "caches.1.value"]
    assert list(shapes_of(session.get_outputs())) == ["y", "mask_out", "again", *caches, "scale"]
    assert list(shapes_of(session.get_inputs())) == ["x", "mask", "state_cache_0", "state_cache_1"]


@pytest.mark.parametrize("target", ["onnx", "torch"])
def test_an_input_that_is_returned_is_returned_by_every_target(target: str) -> None:
    x, mask = torch.randn(2, 3), torch.ones(2, 3, dtype=torch.bool)

    class Handing(nn.Module):
        def forward(self, x: Tensor, mask: Tensor) -> Any:
            return x + 1, [mask, {"x": x}], mask

    compiled = instar.compile(Handing().eval(), (x, mask), target=target)
    plus, (first, inner), second = compiled(x, mask)
    expected = (x + 1, mask, x, mask)
    assert all(torch.equal(a, b) for a, b in zip((plus, first, inner["x"], second), expected, strict=True))


def test_input_and_output_names_can_be_chosen() -> None:
    model = nn.Linear(4, 2).eval()
    compiled = instar.compile(
        model, (torch.randn(3, 4),), target="onnx", input_names=["pixels"], output_names=["past.0.key"]
    )
    proto = cast(OnnxArtifact, compiled.artifact).lowered.proto()
    assert [i.name for i in proto.graph.input] == ["pixels"]
    assert [o.name for o in proto.graph.output] == ["past.0.key"]
    x = torch.randn(3, 4)
    torch.testing.assert_close(compiled(x), model(x))


def test_wrong_names_are_refused_before_work() -> None:
    with pytest.raises(ConfigError, match="input_names: expected 1 names, for input; found 2"):
        instar.compile(nn.Linear(4, 2).eval(), (torch.randn(3, 4),), target="onnx", input_names=["a", "b"])
    with pytest.raises(ConfigError, match="output_names: expected a list of at least one name"):
        instar.compile(nn.Linear(4, 2).eval(), (torch.randn(3, 4),), target="onnx", output_names="a")
