"""The ONNX target: models for ONNX Runtime on a CPU."""

from __future__ import annotations

from ...ir.plugins import Lazy
from ..declaration import Declaration
from .options import OnnxOptions

DECLARATION = Declaration(
    name="onnx",
    summary="ONNX for ONNX Runtime on a CPU.",
    target=Lazy(f"{__name__}.target", "OnnxTarget"),
    options=OnnxOptions,
    suffix=".onnx",
    opener=Lazy(f"{__name__}.opened", "OpenedOnnx"),
    packages=("onnx", "onnxruntime>=1.23", "onnxscript", "ortools"),
    device="profile",
    kernels={
        "float": Lazy(f"{__name__}.kernels.float_weights", "KERNEL"),
        "int8": Lazy(f"{__name__}.kernels.int8_linear", "KERNEL"),
        "int8_token": Lazy(f"{__name__}.kernels.int8_tokens", "KERNEL"),
        "nbits": Lazy(f"{__name__}.kernels.nbits", "KERNEL"),
        "int8_lstm": Lazy(f"{__name__}.kernels.int8_lstm", "KERNEL"),
        "int8_lstm_u8": Lazy(f"{__name__}.kernels.int8_lstm", "WITHOUT_SATURATION"),
        "int8_conv": Lazy(f"{__name__}.kernels.int8_conv", "KERNEL"),
    },
)
