"""How far a runtime may be from a graph: more where rounding is amplified, and only for the outputs where it is."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from instar.ir.capture import capture
from instar.ir.evaluate import evaluate
from instar.targets.compare import amplified


class Cancels(nn.Module):
    """Half-precision products, and a sum of them in which nearly everything cancels."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(32, 32, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = self.linear(x.half()).float()
        return y, (y - y.mean(-1, keepdim=True)).sum(-1), y.argmax(-1)


def test_bounds_follow_what_rounding_does_to_each_output() -> None:
    torch.manual_seed(0)
    model, x = Cancels().eval(), torch.randn(3, 32)
    model.linear.half()
    graph = capture(model, (x,))
    expected = evaluate(graph, [x])
    plain, cancelled, chosen = amplified(graph, [x], expected, 1e-2)
    assert plain == 1e-2
    assert 1.0 < cancelled < 10.0, "nothing is left of the sum but rounding"
    assert chosen == 1e-2, "integers are compared as they are"
