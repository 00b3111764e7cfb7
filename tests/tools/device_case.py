"""A small network, a device that is another interpreter, and its answers with changes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import instar

FORMATS = ["fp32", "int4:g32"]
THREADS = {"threads": 2}

DEVICE = """
import runpy, sys

class Only:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "instar", "onnx", "onnx_ir", "onnxscript", "ortools"):
            raise ModuleNotFoundError(f"not on the device: {name}", name=name)

sys.meta_path.insert(0, Only())
version, *sys.argv = sys.argv[1:]
if version:
    import onnxruntime

    onnxruntime.__version__ = version
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(64, 128), nn.Linear(128, 64)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.relu(self.up(x)))


def net() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


X = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))


def measured(bundle: Path, *options: str, runtime: str = "") -> subprocess.CompletedProcess[str]:
    """Another interpreter, with numpy and onnxruntime only, measures a bundle; the runtime may call itself another."""
    command = [sys.executable, "-c", DEVICE, runtime, str(bundle / "measure.py"), "--seconds", "0.002", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@dataclass(frozen=True)
class Played:
    bundle: Path
    answer: Path

    @property
    def document(self) -> dict[str, Any]:
        return json.loads(self.answer.read_text())

    def edited(self, path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
        document = self.document
        change(document)
        path.write_text(json.dumps(document))
        return path


def planned(profile: Path, budget: Any, **more: Any) -> Any:
    settings: dict[str, Any] = {"formats": FORMATS, "target_options": {**THREADS, "profile": str(profile)}, **more}
    return instar.compile(net(), (X,), budget=budget, **settings)
