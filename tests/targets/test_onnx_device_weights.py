"""The weights of a bundle: what single layers take of those that are there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper as helper
import onnx.numpy_helper
import onnx_ir

from instar.targets.onnx.device.weights import SharedWeights
from instar.targets.onnx.session import make_session


def test_single_layers_take_weights_that_are_there_but_no_masks_and_no_indices(tmp_path: Path) -> None:
    def initializer(array: Any) -> onnx.TensorProto:
        model = onnx.ModelProto()
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, "w"))
        return shared.taken_from(model).graph.initializer[0]

    def place(tensor: onnx.TensorProto) -> int:
        return int(next(entry.value for entry in tensor.external_data if entry.key == "offset"))

    shared = SharedWeights(tmp_path)
    first = initializer(np.arange(2048, dtype=np.float32))
    mask = np.full(2048, -np.inf, dtype=np.float32)
    assert place(initializer(np.full(1500, 7, dtype=np.uint8))) == place(first) == 0, "any bytes are codes"
    assert place(initializer(mask)) != place(first)
    assert place(initializer(np.arange(1024, dtype=np.int64))) != place(first)
    assert place(initializer(np.full(9000, 7, dtype=np.uint8))) != place(first), "more bytes than there are"
    shared.close()


def test_a_matrix_that_is_there_the_other_way_round_is_turned_at_load(tmp_path: Path) -> None:
    """The exporter's own file holds weights of linear layers transposed, the others as torch does."""
    weight = np.random.default_rng(0).standard_normal((40, 30)).astype(np.float32)
    shared = SharedWeights(tmp_path)
    for number, matrix in enumerate((weight, np.ascontiguousarray(weight.T))):
        ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in "xy"]
        node = helper.make_node("MatMul", ["x", "w"], ["y"])
        graph = helper.make_graph([node], "g", ends[:1], ends[1:], [onnx.numpy_helper.from_array(matrix, "w")])
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        written = shared.written_from(onnx_ir.from_proto(proto))
        (tmp_path / f"{number}.onnx").write_bytes(written.SerializeToString())
    shared.close()
    assert (tmp_path / "weights.bin").stat().st_size == weight.nbytes
    for number, matrix in enumerate((weight, weight.T)):
        (found,) = make_session(tmp_path / f"{number}.onnx").run(None, {"x": np.eye(len(matrix), dtype=np.float32)})
        np.testing.assert_array_equal(found, matrix)
