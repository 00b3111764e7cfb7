"""Saved artifacts against the original: what is measured, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import instar
from instar.ir.errors import ConfigError, ParseError
from instar.tools.bench import Bench, interleaved_ms


class TwoOutputs(nn.Module):
    """A tensor, a number and a tensor; called with a keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 64)

    def forward(self, x: Tensor, *, scale: Tensor) -> tuple[Tensor, int, Tensor]:
        return self.layer(x) * scale, 3, x.square().sum()


X, SCALE = torch.linspace(-1, 1, 4 * 64).reshape(4, 64), torch.tensor(2.0)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return TwoOutputs().eval()


@pytest.mark.parametrize("name", ["model.onnx", "model.safetensors"])
def test_sizes_errors_and_order(model: nn.Module, tmp_path: Path, name: str) -> None:
    target = "onnx" if name.endswith("onnx") else "torch"
    formats = ["int8:channel"]
    compiled = instar.compile(
        model, (X,), {"scale": SCALE}, target=target, budget={"size": "90%"}, formats=formats, activations=["none"]
    )
    path = tmp_path / name
    compiled.save(path)
    found: Bench = instar.bench(path, model, (X,), {"scale": SCALE}, repeats=2)
    assert found.artifact.name == name
    assert found.artifact.nbytes == path.stat().st_size
    assert 1e-4 < found.artifact.error < 2e-2
    assert found.baseline.error < 1e-5
    assert found.rows[0].error == 0.0
    assert len(found.rows) == (3 if target == "onnx" else 2)
    assert json.loads(json.dumps(found.to_json()))["repeats"] == 2


def test_what_is_refused(model: nn.Module, tmp_path: Path) -> None:
    arguments = (model, (X,), {"scale": SCALE})
    with pytest.raises(ConfigError, match=r"that ends in \.onnx or \.safetensors"):
        instar.bench(tmp_path / "model.bin", *arguments)
    with pytest.raises(ConfigError, match="expected a compiled model; found nothing"):
        instar.bench(tmp_path / "model.onnx", *arguments)
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(ParseError, match="expected an ONNX model"):
        instar.bench(tmp_path / "model.onnx", *arguments)
    with pytest.raises(ConfigError, match="repeats: expected at least 1; found 0"):
        instar.bench(tmp_path / "model.onnx", *arguments, repeats=0)


def test_another_model_is_named_by_its_inputs(model: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    instar.compile(nn.Linear(64, 64).eval(), (X,), target="onnx").save(path)
    message = (
        r"model.onnx: expected the inputs input float32\[4, 64\]; found x float32\[4, 64\], scale .* another model\?"
    )
    with pytest.raises(ConfigError, match=message):
        instar.bench(path, model, (X,), {"scale": SCALE}, repeats=1)


@pytest.mark.parametrize("suffix", ["onnx", "safetensors"])
def test_inputs_of_other_sizes_are_named(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"model.{suffix}"
    instar.compile(nn.Linear(64, 64).eval(), (X,), target="onnx" if suffix == "onnx" else "torch").save(path)
    with pytest.raises(ConfigError, match=rf"model.{suffix}: .*input.*\[4, 64\]; found .*\[4, 63\].*another model\?"):
        instar.bench(path, nn.Linear(63, 64).eval(), (X[:, :63],), repeats=1)


def test_calls_take_turns() -> None:
    order: list[str] = []
    times = interleaved_ms([lambda: order.append("a"), lambda: order.append("b")], 2)
    assert order == ["a", "a", "b", "b"] * 2
    assert all(time >= 0 for time in times)


def test_a_torch_artifact_of_another_model_is_refused(tmp_path: Path) -> None:
    model = nn.Linear(64, 64).eval()
    (path,) = instar.compile(model, (X,), target="torch").save(tmp_path / "model.safetensors")
    with pytest.raises(
        ConfigError, match=r"model.safetensors: .*expected f32\[4, 64\]; found torch.float64.*; is it another model\?"
    ):
        instar.bench(path, nn.Linear(64, 64).double().eval(), (X.double(),), repeats=1)
