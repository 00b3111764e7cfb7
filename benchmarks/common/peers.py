"""What ONNX Runtime's own quantizers make of the float export, with the same calibration data."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from onnxruntime.quantization.shape_inference import quant_pre_process

from .networks import Batch

Peer = Callable[[Path, Path, Sequence[Batch]], None]


class NothingToQuantizeError(ValueError):
    """The file has no node that this peer handles."""


class Reader(CalibrationDataReader):
    """Calibration batches as feeds."""

    def __init__(self, names: Sequence[str], batches: Sequence[Batch]) -> None:
        self._feeds: Iterator[dict[str, Any]] = iter(
            [{n: np.ascontiguousarray(t.numpy()) for n, t in zip(names, b, strict=True)} for b in batches]
        )

    def get_next(self) -> dict[str, Any] | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The next batch, None at the end."""
        return next(self._feeds, None)


def without_shapes(source: Path) -> onnx.ModelProto:
    """The file without the exporter's intermediate shapes, which contradict weights that a quantizer transposes."""
    model = onnx.load(source)
    del model.graph.value_info[:]
    return model


def dynamic(source: Path, target: Path, batches: Sequence[Batch]) -> None:
    """``quantize_dynamic`` with int8 weights per channel."""
    del batches
    quantize_dynamic(without_shapes(source), target, per_channel=True, weight_type=QuantType.QInt8)


def static(source: Path, target: Path, batches: Sequence[Batch], activations: QuantType) -> None:
    """``quantize_static`` in QDQ form: int8 weights per channel, after the runtime's own preparation of the file."""
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "prepared.onnx"
        bare = Path(folder) / "bare.onnx"
        onnx.save(without_shapes(source), bare)
        quant_pre_process(str(bare), str(ready), skip_symbolic_shape=True)
        names = [i.name for i in onnx.load(ready).graph.input]
        quantize_static(
            ready, target, Reader(names, batches), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=activations, weight_type=QuantType.QInt8,
        )  # fmt: skip


def static_s8(source: Path, target: Path, batches: Sequence[Batch]) -> None:
    """Signed activations."""
    static(source, target, batches, QuantType.QInt8)


def static_u8(source: Path, target: Path, batches: Sequence[Batch]) -> None:
    """Unsigned activations."""
    static(source, target, batches, QuantType.QUInt8)


def nbits(source: Path, target: Path, batches: Sequence[Batch]) -> None:
    """``MatMulNBitsQuantizer``: 4 bits in groups of 32, accuracy level 4.

    Raises:
        NothingToQuantizeError: no product with a constant.
    """
    del batches
    quantizer = MatMulNBitsQuantizer(onnx.load(source), bits=4, block_size=32, is_symmetric=True, accuracy_level=4)
    quantizer.process()
    model = quantizer.model if isinstance(quantizer.model, onnx.ModelProto) else quantizer.model.model
    if not any(node.op_type == "MatMulNBits" for node in model.graph.node):
        raise NothingToQuantizeError("no MatMul with a constant")
    onnx.save(model, target)


PEERS: Mapping[str, Peer] = {
    "ort quantize_dynamic": dynamic,
    "ort quantize_static s8s8": static_s8,
    "ort quantize_static u8s8": static_u8,
    "ort MatMulNBits int4": nbits,
}
