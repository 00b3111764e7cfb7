"""Prices of embeddings: rows that are rounded alike err together, which a run shows and independent rows do not."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from instar.compilation.entry import start
from instar.compilation.measured_loss import MeasuredLoss
from instar.compilation.preparation import prepare
from instar.compilation.prepared import Prepared
from instar.passes.formats import Encoded
from instar.passes.formats import format as parse_format
from instar.passes.objective import weighted_error


class Pooled(nn.Module):
    """A table whose rows share a direction, and the mean over a sequence."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tokens = nn.Embedding(256, 32)
        self.hidden = nn.Linear(32, 32)
        with torch.no_grad():
            self.tokens.weight.mul_(0.05).add_(torch.randn(32))

    def forward(self, ids: Tensor) -> Tensor:
        return torch.tanh(self.hidden(self.tokens(ids).mean(dim=1)))


def ready() -> Prepared:
    generator = torch.Generator().manual_seed(1)
    data = [(torch.randint(0, 256, (16, 24), generator=generator),) for _ in range(6)]
    settings = {"target": "torch", "formats": ("fp32", "int3:channel", "int8:channel"), "activations": ("none",),
                "encoders": ("mse",)}  # fmt: skip
    request = start(Pooled().eval(), data[0], None, None, None, settings, calibration=data)
    return prepare(request, calibration=data)


def test_errors_that_rows_share_are_in_the_price() -> None:
    prepared = ready()
    (prices,) = (p for p in prepared.prices if p.layer.name == "tokens")
    option = next(o for o in prices.options if o.option.format == "int3:channel")
    stored = prepared.encoded(prices.layer, "int3:channel", "mse")
    decoded = parse_format("int3:channel").decode(Encoded("int3:channel", prices.layer.shape, stored))
    assert prepared.statistics is not None
    alone = weighted_error(prices.layer.matrix(), decoded, prepared.statistics.layers["tokens"].weight)
    seen = MeasuredLoss(prepared.graph, prepared.samples[1:]).of_weight(prices.layer, decoded)
    assert seen > 1.5 * alone
    assert 0.7 * seen < option.loss < 1.4 * seen
    (hidden,) = (p for p in prepared.prices if p.layer.name == "hidden")
    other = next(o for o in hidden.options if o.option.format == "int3:channel")
    stored = prepared.encoded(hidden.layer, "int3:channel", "mse")
    decoded = parse_format("int3:channel").decode(Encoded("int3:channel", hidden.layer.shape, stored))
    predicted = weighted_error(hidden.layer.matrix(), decoded, prepared.statistics.layers["hidden"].weight)
    assert abs(other.loss - predicted) < 0.02 * predicted  # whose codes were fitted to half of the samples
