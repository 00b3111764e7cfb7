"""One file for the weights of all models of a bundle: networks that differ in a few layers share the rest."""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx
import onnx_ir
from onnx.external_data_helper import set_external_data

from ..runtimes.reach import skeleton

LEAST_NBYTES = 1024
"""Smaller constants stay in their model."""

ALIGNMENT = 64
"""Bytes: vector instructions read from the mapped file."""

NAME = "weights.bin"


class SharedWeights:
    """Writes the file; equal constants are written once.

    Args:
        folder: of the models; runtimes read weights from nowhere else.
    """

    def __init__(self, folder: Path) -> None:
        self._file = (folder / NAME).open("wb")
        self._places: dict[bytes, tuple[int, int]] = {}

    def close(self) -> None:
        """The file is whole."""
        self._file.close()

    def taken_from(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """The model with its large constants in the file; it is changed."""
        for tensor in model.graph.initializer:
            if tensor.HasField("raw_data"):
                self._fill(tensor, tensor.raw_data)
        return model

    def written_from(self, model: onnx_ir.Model) -> onnx.ModelProto:
        """The same of a model whose weights are not in memory twice."""
        proto = skeleton(model)
        for tensor in proto.graph.initializer:
            value = model.graph.initializers[tensor.name].const_value
            if value is not None:
                tensor.dims.extend(value.shape.numpy())
                self._fill(tensor, value.tobytes())
        return proto

    def _fill(self, tensor: onnx.TensorProto, data: bytes) -> None:
        if len(data) < LEAST_NBYTES:
            tensor.raw_data = data
            return
        key = hashlib.sha256(data).digest()
        if key not in self._places:
            self._file.write(b"\0" * (-self._file.tell() % ALIGNMENT))
            self._places[key] = (self._file.tell(), len(data))
            self._file.write(data)
        tensor.raw_data = b""  # a marker that set_external_data wants
        set_external_data(tensor, NAME, *self._places[key])
        tensor.ClearField("raw_data")
