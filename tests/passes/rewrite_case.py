"""One call that holds a pass to everything: text or ops afterwards, what fired or was refused, types, and numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from instar.ir.capture import capture
from instar.ir.evaluate import evaluate, flatten_call
from instar.ir.graph import Graph
from instar.ir.op import CONSTANT
from instar.ir.parse import parse_graph
from instar.ir.types import TensorType
from instar.ir.verify import verify
from instar.passes.base import Pass, PassResult

RTOL = 1e-9


X = "input %x: f64[2, 3, 4]\n"


def one_op(call: str, result: str, head: str = X) -> str:
    """The text of a graph with one op."""
    return f"{head}%0 = {call} : {result}\nreturn %0"


def read(text: str, constants: Mapping[str, torch.Tensor] | None = None) -> Graph:
    """The graph of a text; constants that are not given are drawn at random."""
    lines = "\n".join(line.strip() for line in text.strip().splitlines())
    given = dict(constants or {})
    for node in parse_graph(lines).constants():
        given.setdefault(node.handle.name, draw(node.tensor_type))
    return parse_graph(lines, given)


def draw(kind: TensorType) -> torch.Tensor:
    """Random values of a static type: normal, or small non-negative integers."""
    shape = [int(d) for d in kind.shape]
    if kind.dtype.is_floating_point:
        return torch.randn(shape, dtype=torch.float64).to(kind.dtype)
    return torch.randint(0, 2 if kind.dtype == torch.bool else 3, shape).to(kind.dtype)


def draw_inputs(graph: Graph, sizes: Mapping[str, int] | None = None) -> list[torch.Tensor]:
    """Random inputs; a dynamic size is its minimum plus one unless ``sizes`` gives it."""
    known = {name: dim.minimum + 1 for name, dim in graph.dims.items()} | dict(sizes or {})
    return [draw(TensorType(i.tensor_type.dtype, _static(i.tensor_type, known))) for i in graph.inputs]


def _static(kind: TensorType, sizes: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(TensorType(kind.dtype, (d,)).numel(sizes) for d in kind.shape)


def module_graph(model: nn.Module, args: Sequence[Any], **capture_options: Any) -> Graph:
    """The graph of a module in evaluation mode and float64."""
    wide = tuple(a.double() if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in args)
    return capture(model.eval().double(), wide, **capture_options)


def assert_same_numbers(before: Graph, after: Graph, inputs: Sequence[torch.Tensor]) -> None:
    """Outputs agree within a relative Euclidean norm of 1e-9; integers are equal."""
    with torch.no_grad():
        pairs = list(zip(evaluate(before, inputs), evaluate(after, inputs), strict=True))
    for expected, found in pairs:
        if not isinstance(expected, torch.Tensor):
            assert found == expected
            continue
        assert found.dtype == expected.dtype
        assert found.shape == expected.shape
        if not expected.is_floating_point():
            assert torch.equal(found, expected)
            continue
        wide, other = expected.double(), found.double()
        error, size = float((other - wide).norm()), float(wide.norm())
        assert error <= RTOL * size, f"{error} of {size}"


def assert_agrees(model: nn.Module, args: Sequence[Any], graph: Graph) -> None:
    """The graph computes what the module itself computes."""
    wide = [a.double() if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in args]
    with torch.no_grad():
        expected = model(*wide)
        (found,) = evaluate(graph, flatten_call(graph, wide, {}))
    error, size = float((found - expected).norm()), float(expected.norm())
    assert error <= RTOL * size, f"{error} of {size}"


def check_rewrite(
    before: Graph | str,
    pass_: Pass,
    *,
    after: str | None = None,
    ops: Mapping[str, int] | None = None,
    fires: Mapping[str, int] | None = None,
    refused: Sequence[str] | None = None,
    inputs: Sequence[torch.Tensor] | None = None,
) -> PassResult:
    """Run a pass and check it.

    Args:
        before: a graph, or its text (constants are drawn).
        pass_: the pass.
        after: the text afterwards, from the first line that is not an input or a constant; or all of it.
        ops: ops that must occur this often; 0 means not at all.
        fires: exactly these rules fired this often.
        refused: one part of the reason of each refusal, in order.
        inputs: values to compare with; drawn where they are not given.
    """
    graph = read(before) if isinstance(before, str) else before
    text_before = graph.text()
    result = pass_(graph)
    verify(result.graph)
    assert graph.text() == text_before
    assert result.graph.inputs == graph.inputs
    if after is not None:
        assert body(result.graph.text()) == body(after), result.graph.text()
    if ops is not None:
        assert {name: result.graph.ops()[name] for name in ops} == dict(ops), result.graph.ops()
    if fires is not None:
        assert result.fired == Counter(fires), dict(result.fired)
    if refused is not None:
        reasons = [r.reason for r in result.refused]
        assert len(reasons) == len(refused), reasons
        for reason, part in zip(reasons, refused, strict=True):
            assert part in reason, reason
    assert_same_numbers(graph, result.graph, inputs if inputs is not None else draw_inputs(graph))
    assert pass_(result.graph).graph.text() == result.graph.text()
    return result


def body(text: str) -> list[str]:
    """The lines of a text without declarations."""
    lines = [line.strip() for line in text.strip().splitlines()]
    return [line for line in lines if not line.startswith(("input ", "const ", "dim "))]


def constant(graph: Graph, name: str) -> torch.Tensor:
    """The value of a constant by name."""
    (found,) = [n.handle.tensor for n in graph.nodes() if n.op is CONSTANT and n.handle.name == name]
    return found
