"""One file for the weights of all models of a bundle: networks that differ in a few layers share the rest.

Of single layers nothing but the time is asked, which the values of a weight do not change: they take those of a network
of the same type and sizes, and codes any bytes. A float matrix that another network holds the other way round is turned
while a model loads.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx.helper
import onnx_ir
from onnx.external_data_helper import set_external_data

from ..runtimes.reach import skeleton

LEAST_NBYTES = 1024
"""Smaller constants stay in their model."""

ALIGNMENT = 64
"""Bytes: vector instructions read from the mapped file."""

NAME = "weights.bin"

CODES = (onnx.TensorProto.UINT8, onnx.TensorProto.INT8)
"""Types of packed weights, of which any bytes are one."""


class SharedWeights:
    """Writes the file; equal constants are written once.

    Args:
        folder: of the models; runtimes read weights from nowhere else.
    """

    def __init__(self, folder: Path) -> None:
        self._file = (folder / NAME).open("wb")
        self._places: dict[bytes, tuple[int, int]] = {}
        self._turned: dict[bytes, tuple[int, int]] = {}
        self._alike: dict[tuple[int, ...], tuple[int, int]] = {}

    def close(self) -> None:
        """The file is whole."""
        self._file.close()

    def taken_from(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """A model of a single layer with its large constants in the file, values of its weights exchanged; changed."""
        for tensor in model.graph.initializer:
            if tensor.HasField("raw_data"):
                place = self._instead_of(tensor)
                if place is None:
                    self._fill(tensor, tensor.raw_data)
                else:
                    _point(tensor, place)
        return model

    def written_from(self, model: onnx_ir.Model) -> onnx.ModelProto:
        """A network with its large constants in the file; its weights are not in memory twice."""
        proto = skeleton(model)
        for tensor in proto.graph.initializer:
            value = model.graph.initializers[tensor.name].const_value
            if value is not None:
                tensor.dims.extend(value.shape.numpy())
                data = value.tobytes()
                if not self._turn(proto.graph, tensor, data):
                    self._fill(tensor, data)
                    self._remember(tensor, data)
        return proto

    def _instead_of(self, tensor: onnx.TensorProto) -> tuple[int, int] | None:
        """Where other values for a weight lie."""
        nbytes = len(tensor.raw_data)
        if nbytes < LEAST_NBYTES or not _are_weights(tensor.data_type, tensor.raw_data):
            return None
        first, most = max(self._places.values(), key=lambda place: place[1], default=(0, 0))
        if tensor.data_type in CODES and nbytes <= most:
            return first, nbytes
        return self._alike.get((tensor.data_type, *tensor.dims))

    def _remember(self, tensor: onnx.TensorProto, data: bytes) -> None:
        """What later models may take: the weight as it is, and a matrix the other way round."""
        place = self._places.get(hashlib.sha256(data).digest())
        if place is None or not _are_weights(tensor.data_type, data):
            return
        self._alike.setdefault((tensor.data_type, *tensor.dims), place)
        if _is_matrix(tensor):
            other = np.frombuffer(data, np.float32).reshape(tuple(tensor.dims)).T
            self._turned.setdefault(hashlib.sha256(other.tobytes()).digest(), place)

    def _turn(self, graph: onnx.GraphProto, tensor: onnx.TensorProto, data: bytes) -> bool:
        """Whether the file has the transposed matrix: then that becomes the constant, and is turned at load."""
        key = hashlib.sha256(data).digest()
        if key in self._places or key not in self._turned or not _is_matrix(tensor):
            return False
        name = f"{tensor.name}.turned"
        graph.node.insert(0, onnx.helper.make_node("Transpose", [name], [tensor.name], perm=[1, 0]))
        dims: Sequence[int] = tuple(reversed(tensor.dims))
        tensor.CopyFrom(onnx.TensorProto(name=name, data_type=tensor.data_type, dims=dims))
        _point(tensor, self._turned[key])
        return True

    def _fill(self, tensor: onnx.TensorProto, data: bytes) -> None:
        if len(data) < LEAST_NBYTES:
            tensor.raw_data = data
            return
        key = hashlib.sha256(data).digest()
        if key not in self._places:
            self._file.write(b"\0" * (-self._file.tell() % ALIGNMENT))
            self._places[key] = (self._file.tell(), len(data))
            self._file.write(data)
        _point(tensor, self._places[key])


def _point(tensor: onnx.TensorProto, place: tuple[int, int]) -> None:
    tensor.raw_data = b""  # a marker that set_external_data wants
    set_external_data(tensor, NAME, *place)
    tensor.ClearField("raw_data")


def _is_matrix(tensor: onnx.TensorProto) -> bool:
    return tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) == 2


def _are_weights(data_type: int, data: bytes) -> bool:
    """Whether other values would take the same time: codes and finite numbers, not indices or masks."""
    if data_type in CODES:
        return True
    if data_type not in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16):
        return False
    kind = np.float32 if data_type == onnx.TensorProto.FLOAT else np.float16
    return math.isfinite(float(np.abs(np.frombuffer(data, kind)).max(initial=0.0)))
