"""Is DynamicQuantizeLSTM of ONNX Runtime worth a kernel? Time and error beside its float LSTM, same weights and inputs.

Processor time of one thread, the median of runs that take turns. Weights are normal with deviation 0.1, inputs standard
normal: a hard case for a scale per tensor and step.

    python -m benchmarks.int8_recurrent --results benchmarks/results
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from instar.targets.onnx.latency import cpu_name

SIZES = ((64, 128, 8, 2), (256, 256, 64, 1), (512, 512, 64, 1), (512, 512, 32, 16), (1024, 1024, 32, 1))
"""Features, hidden, steps, batch."""

RUNS = 12

Array = NDArray[Any]


def quantized(weight: Array) -> tuple[Array, Array, Array]:
    """``[1, 4 hidden, columns]`` as codes ``[1, columns, 4 hidden]``, a scale and a zero point for each row."""
    scale = np.abs(weight[0]).max(axis=1) / 127.0
    codes = np.round(weight[0] / scale[:, None]).astype(np.int8)
    return np.ascontiguousarray(codes.T[None]), scale[None].astype(np.float32), np.zeros_like(scale[None], np.int8)


def model(integers: bool, features: int, hidden: int, steps: int, batch: int) -> bytes:
    """An LSTM of one layer in float, or with weights in int8."""
    random = np.random.default_rng(1)
    shapes = ((1, 4 * hidden, features), (1, 4 * hidden, hidden), (1, 8 * hidden))
    w, r, b = (0.1 * random.standard_normal(shape, dtype=np.float32) for shape in shapes)
    stored: dict[str, Array] = {"w": w, "r": r, "b": b}
    inputs, operator, domain = ["x", "w", "r", "b"], "LSTM", ""
    if integers:
        stored |= dict(zip(("w", "ws", "wz"), quantized(w), strict=True))
        stored |= dict(zip(("r", "rs", "rz"), quantized(r), strict=True))
        operator, domain = "DynamicQuantizeLSTM", "com.microsoft"
        inputs += ["", "", "", "", "ws", "wz", "rs", "rz"]
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(np.float32))
    graph = helper.make_graph(
        [helper.make_node(operator, inputs, ["y"], domain=domain, hidden_size=hidden)], "lstm",
        [helper.make_tensor_value_info("x", kind, [steps, batch, features])],
        [helper.make_tensor_value_info("y", kind, None)],
        [numpy_helper.from_array(array, name) for name, array in stored.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    made: onnx.ModelProto = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return made.SerializeToString()


def compare(features: int, hidden: int, steps: int, batch: int) -> dict[str, float]:
    """Milliseconds of both, and the relative error of the integer one."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    sessions = [
        onnxruntime.InferenceSession(
            model(integers, features, hidden, steps, batch), options, providers=["CPUExecutionProvider"]
        )
        for integers in (False, True)
    ]
    feeds = {"x": np.random.default_rng(0).standard_normal((steps, batch, features), dtype=np.float32)}
    exact, found = (np.asarray(session.run(None, feeds)[0], dtype=np.float64) for session in sessions)
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(RUNS):
        for session, taken in zip(sessions, times, strict=True):
            start = time.process_time()
            session.run(None, feeds)
            taken.append(1e3 * (time.process_time() - start))
    float_ms, int8_ms = (statistics.median(taken) for taken in times)
    error = float(np.linalg.norm(found - exact) / np.linalg.norm(exact))
    return {"float_ms": float_ms, "int8_ms": int8_ms, "ratio": int8_ms / float_ms, "error": error}


def main() -> None:
    """Measure and write ``int8_recurrent.json`` and ``.md``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    folder = parser.parse_args().results
    names = ("features", "hidden", "steps", "batch")
    rows = [{**dict(zip(names, sizes, strict=True)), **compare(*sizes)} for sizes in SIZES]
    about = f"onnxruntime {onnxruntime.__version__}, {cpu_name()}, one thread, processor time on a busy machine"
    (folder / "int8_recurrent.json").write_text(json.dumps({"machine": about, "rows": rows}, indent=1) + "\n")
    lines = ["# DynamicQuantizeLSTM beside LSTM", "", f"`python -m benchmarks.int8_recurrent`; {about}.", ""]
    lines += ["| features, hidden, steps, batch | int8 / float time | relative error |", "|---|---|---|"]
    for row, sizes in zip(rows, SIZES, strict=True):
        lines.append(f"| {', '.join(map(str, sizes))} | {row['ratio']:.2f} | {row['error']:.3f} |")
    (folder / "int8_recurrent.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
