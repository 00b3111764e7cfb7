"""Runs that begin at the first changed value, against whole ones."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from instar.ir.capture import capture
from instar.ir.errors import PassError
from instar.ir.evaluate import run
from instar.ir.graph import Graph, Node
from instar.ir.resume import Resumed


class Branching(nn.Module):
    """A tied table, a branch that lives across the others, a value of several tensors and a constant as an output."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(16, 8)
        self.first, self.second, self.third = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(4, 8)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.table(ids)
        y = torch.tanh(self.first(x))
        left, right = self.second(y).chunk(2, dim=-1)
        z = self.third(left * right) + x
        return z @ self.table.weight.T, y, self.third.bias


@pytest.fixture(scope="module")
def graph() -> Graph:
    return capture(Branching().double().eval(), (torch.arange(6).view(2, 3),))


INPUTS = [torch.tensor([[3, 1, 15], [0, 2, 7]])]


def replaced(graph: Graph, *names: str) -> dict[Node, Tensor]:
    generator = torch.Generator().manual_seed(len(names))
    found = [n for n in graph.constants() if n.handle.name in names]
    assert len(found) == len(names)
    return {
        n: n.handle.tensor + torch.randn(n.handle.tensor.shape, generator=generator, dtype=torch.float64) for n in found
    }


def assert_same_as_whole(graph: Graph, runs: Resumed, values: Mapping[Node, Tensor]) -> None:
    def hook(node: Node, value: object, others: Mapping[Node, object]) -> object:
        del others
        return values.get(node, value)

    for found, expected in zip(runs(values, hook), run(graph, INPUTS, hook), strict=True):
        assert torch.equal(found, expected)


SETS = (
    ("table.weight",), ("first.weight",), ("first.bias",), ("second.weight",), ("third.weight",), ("third.bias",),
    ("third.weight", "first.weight"), (), ("second.bias", "table.weight"),
)  # fmt: skip


@pytest.mark.parametrize("kept_nbytes", [0, 400, 10**6])
def test_runs_are_those_of_the_whole_graph_in_any_order(graph: Graph, kept_nbytes: int) -> None:
    runs = Resumed(graph, INPUTS, kept_nbytes)
    for names in (*SETS, *reversed(SETS)):
        assert_same_as_whole(graph, runs, replaced(graph, *names))


def test_values_of_operators_are_replaced_too(graph: Graph) -> None:
    (tanh,) = (n for n in graph.nodes() if "tanh" in n.op.name)
    zeros = {tanh: torch.zeros(2, 3, 8, dtype=torch.float64)}
    assert_same_as_whole(graph, Resumed(graph, INPUTS), zeros)


def evaluated(graph: Graph, runs: Resumed, monkeypatch: pytest.MonkeyPatch, name: str) -> int:
    """Operators that a run with one weight replaced evaluates."""
    from instar.ir import resume

    seen: list[Node] = []
    real = resume.evaluate_node

    def counted(node: Node, values: Mapping[Node, object], sizes: Mapping[str, int]) -> object:
        seen.append(node)
        return real(node, values, sizes)

    with monkeypatch.context() as patch:
        patch.setattr(resume, "evaluate_node", counted)
        assert_same_as_whole(graph, runs, replaced(graph, name))
    return len(seen)


def test_what_comes_before_is_not_run_again(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    runs, without = Resumed(graph, INPUTS), Resumed(graph, INPUTS, 0)
    whole = evaluated(graph, runs, monkeypatch, "table.weight")
    first = evaluated(graph, runs, monkeypatch, "third.weight")
    again = evaluated(graph, runs, monkeypatch, "third.weight")
    assert first == whole  # the prefix, once
    assert again < whole / 2
    assert evaluated(graph, runs, monkeypatch, "second.weight") == whole  # nothing was kept there
    assert evaluated(graph, runs, monkeypatch, "third.weight") == again  # and what was kept stays
    assert [evaluated(graph, without, monkeypatch, "third.weight") for _ in range(2)] == [whole, whole]


def test_inputs_are_checked_at_once(graph: Graph) -> None:
    with pytest.raises(PassError, match="expected 1 tensors; found 0"):
        Resumed(graph, [])
