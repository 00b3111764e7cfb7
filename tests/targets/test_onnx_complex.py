"""Complex numbers: a file takes pairs of real ones; what counts axes from the end is refused before any work."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

import instar
from instar.ir.errors import LoweringError


class Rotated(nn.Module):
    """What rotary positions in complex numbers do, on a complex input."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(64, 64)
        self.turns = nn.Buffer(torch.polar(torch.ones(32), torch.arange(32.0)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        pairs = torch.view_as_complex(self.project(x.real).reshape(-1, 32, 2)) * self.turns
        return torch.view_as_real(pairs).flatten(1) + x.imag, x


class Counting(nn.Module):
    """Axes from the end, and a function without a translation for complex numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(64, 64)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        last = x.select(-1, 0)
        return self.project(x.real), last + torch.exp(x).sum(1)


class Spelled(Counting):
    """The same with real and imaginary parts, as the message advises."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        pair = torch.view_as_real(x)
        size, angle = pair[..., 0].exp(), pair[..., 1]
        sums = torch.stack([size * angle.cos(), size * angle.sin()], -1).sum(1)
        return self.project(pair[..., 0]), pair[:, 0] + sums


def waves(rows: int) -> Tensor:
    return torch.randn(rows, 64, dtype=torch.complex64, generator=torch.Generator().manual_seed(rows))


def unread() -> Iterator[tuple[Tensor, ...]]:
    raise AssertionError("data was read before the model was refused")
    yield ()


def test_complex_inputs_outputs_and_buffers_are_pairs_in_the_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Rotated().eval()
    shapes = ({0: Dim("batch")},)
    data = [(waves(8),)]
    compiled = instar.compile(
        model, (waves(4),), target="onnx", calibration=data, dynamic_shapes=shapes, formats=["int8:channel"]
    )
    for rows in (4, 3):
        (found, same), (expected, x) = compiled(waves(rows)), model(waves(rows))
        assert (found - expected).norm() < 0.02 * expected.norm()
        assert torch.equal(same, x)
    assert any("complex numbers as a last axis" in note for note in compiled.report.data.notes)
    compiled.save(str(tmp_path / "model.onnx"))
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    assert [v.shape for v in session.get_inputs()] == [["batch", 64, 2]]
    assert [v.shape for v in session.get_outputs()] == [["batch", 64], ["batch", 64, 2]]


def test_operators_that_would_take_the_pair_for_an_axis_are_refused_before_any_work() -> None:
    model, x = Counting().eval(), waves(4)
    with pytest.raises(LoweringError) as raised:
        instar.compile(model, (x,), target="onnx", budget={"size": "40%"}, calibration=unread())
    lines = str(raised.value).splitlines()
    assert lines[1].startswith("  aten.select.int on complex numbers in ")
    assert "test_onnx_complex.py:" in lines[1]
    assert lines[2].startswith("  aten.exp on complex numbers in ")
    assert lines[3].startswith("  compute with real and imaginary parts (torch.view_as_real gives both in a last axis)")
    named = [f"aten.{op} on complex numbers" for op in ("select.int", "exp")]
    assert [u.op for u in instar.inspect(model, (x,)).unsupported] == named


@pytest.mark.parametrize("target", ["onnx", "torch"])
def test_what_the_refusal_advises_works(target: str) -> None:
    torch.manual_seed(0)
    model = Spelled() if target == "onnx" else Counting()
    compiled = instar.compile(model.eval(), (waves(4),), target=target)
    for found, expected in zip(compiled(waves(4)), model(waves(4)), strict=True):
        torch.testing.assert_close(found, expected)
