"""What formats that decode while a file loads have to show of a compiled network."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime as ort
import torch
from torch import Tensor, nn

import instar


def network() -> tuple[nn.Module, Tensor]:
    """A convolution and two linear layers, with inputs that keep their batch small."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 64, 3), nn.Flatten(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 70))
    return model.eval(), torch.randn(8, 4, 4, 4)


def replays_to_the_same_bytes(compiled: instar.Compiled, model: nn.Module, x: Tensor, folder: Path) -> Path:
    """Save, compile by the saved plan, save again and compare; the file."""
    target = compiled.plan.target
    compiled.plan.save(folder / "plan.json")
    again = instar.compile(model, (x,), target=target, plan=folder / "plan.json", calibration=[(x,)])
    first, second = (folder / f"{name}.{'onnx' if target == 'onnx' else 'safetensors'}" for name in "ab")
    compiled.save(first)
    again.save(second)
    assert first.read_bytes() == second.read_bytes()
    return first


def run_operators(path: Path) -> set[str]:
    """Operators that are left when the runtime has folded what is constant."""
    optimized = path.with_name("optimized.onnx")
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(optimized)
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return {node.op_type for node in onnx.load(optimized).graph.node}
