"""A graph is written from the types that it has as torch's exporter writes it after tracing it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir
import pytest
import torch
from torch import Tensor, nn

import instar
from instar.ir.fx_conversion import to_flat_module
from instar.targets.onnx.export import export_graph, export_module, is_written, to_proto
from instar.targets.onnx.lower import dynamic_shapes
from instar.targets.onnx.options import OPSET
from instar.targets.onnx.session import make_session


class Mixed(nn.Module):
    """Operators that mix dtypes, numbers and sizes; a buffer; a result that is a constant's copy."""

    steps: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.arange(6))

    def forward(self, x: Tensor, n: Tensor) -> tuple[Tensor, ...]:
        total = x * n + self.steps
        return (
            total,
            n / 3,
            torch.where(n > 2, x, 2 * x),
            x.sum(0) * x.shape[0],
            torch.logical_and(n == x, x > 0),
            self.steps + 1,
        )


class Several(nn.Module):
    """Operators with several results, and one of which a part is not read."""

    def forward(self, x: Tensor, n: Tensor) -> tuple[Tensor, ...]:
        values, places = x.max(dim=1)
        first, _, last = x.split([1, 3, 2], dim=1)
        return values, places, first + last.mean(), n


class Sizes(nn.Module):
    """Shapes that are computed from two dynamic sizes."""

    def forward(self, x: Tensor, n: Tensor) -> tuple[Tensor, ...]:
        rows, width = x.shape[0], n.shape[0]
        flat = x[:, None, :].expand(rows, 2, x.shape[1]).reshape(rows * 2, -1)
        return flat, torch.arange(width * rows + 1), n.reshape(width // 1, 1, 6).flatten(0, 1)


def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, 6, generator=generator), torch.randint(0, 5, (4, 6), generator=generator)


def spelled(model: onnx_ir.Model) -> list[tuple[str, int, int]]:
    return sorted((node.op_type, len(node.inputs), len(node.outputs)) for node in model.graph)


def run(model: onnx_ir.Model, given: Sequence[Tensor]) -> list[Any]:
    session = make_session(to_proto(model))
    named = zip((i.name for i in session.get_inputs()), given, strict=True)
    return list(session.run(None, {name: value.numpy() for name, value in named}))


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("module", [Mixed(), Several(), Sizes()])
@pytest.mark.parametrize("dynamic", [False, True])
def test_the_same_as_from_a_traced_module(module: nn.Module, plain: bool, dynamic: bool) -> None:
    x, n = inputs()
    rows = torch.export.Dim("rows", min=1, max=64)
    other = torch.export.Dim("other", min=1, max=64) if isinstance(module, Sizes) else rows
    if not dynamic:
        shapes = None
    elif isinstance(module, Sizes):
        n = n[:3]
        shapes = ({0: rows}, {0: other})
    else:
        shapes = ({0: rows}, {0: rows})
    graph = instar.capture(module.eval(), (x, n), dynamic_shapes=shapes)
    assert is_written(graph, opset=OPSET, plain=plain)
    sizes = {"rows": 4, "other": 3} if dynamic else {}
    found = export_graph(graph, {name: sizes[name] for name in graph.dims}, plain=plain)
    numbered = to_flat_module(graph, numbered=True)
    expected = export_module(numbered, (x, n), dynamic_shapes=dynamic_shapes(graph), plain=plain)
    if not dynamic:
        assert spelled(found) == spelled(expected)
    assert {v.name for v in found.graph.initializers.values() if str(v.name).startswith("constant")} == {
        v.name for v in expected.graph.initializers.values() if str(v.name).startswith("constant")
    }
    other_sizes = [(x, n), (x[:2], n[:2])] if dynamic else [(x, n)]
    for given in other_sizes:
        for one, two in zip(run(found, given), run(expected, given), strict=True):
            assert one.dtype == two.dtype
            assert one.tolist() == two.tolist()


def test_what_has_to_be_taken_apart_is_known_beforehand() -> None:
    class Apart(nn.Module):
        """``renorm`` is written by what it is made of."""

        def forward(self, x: Tensor) -> Tensor:
            return x.renorm(2, 0, 1.0)

    graph = instar.capture(Apart().eval(), (torch.randn(3, 4),))
    assert not is_written(graph, opset=OPSET, plain=False)
