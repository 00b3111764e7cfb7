"""The ONNX target: models for ONNX Runtime on a CPU."""

from __future__ import annotations

from ...ir.plugins import Lazy
from ..declaration import Declaration

DECLARATION = Declaration(
    "onnx",
    Lazy(f"{__name__}.target", "OnnxTarget"),
    ".onnx",
    Lazy(f"{__name__}.opened", "OpenedOnnx"),
    ("onnx", "onnxruntime", "onnxscript", "ortools"),
)
