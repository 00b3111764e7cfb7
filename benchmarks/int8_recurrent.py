"""LSTM networks with integer products beside the float file: time, error and bytes; weights stored small beside both.

The peer is ``quantize_dynamic`` of ONNX Runtime, whose signed 8-bit weights with one scale a matrix saturate on x86
without VNNI. Errors are those of all outputs on 16 sequences that no file has seen, relative to the float network;
weights are as PyTorch makes them, inputs standard normal. Times are processor time of one thread, the median of runs
that take turns, in shares of the float file's.

    python benchmarks/int8_recurrent.py --files FOLDER              # compile, compare, write the files
    python benchmarks/int8_recurrent.py --files FOLDER --time       # time them, best on a quiet machine
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from common.store import RESULTS, Row, Store, table
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import Tensor, nn

import instar

RUNS, HELD_OUT = 15, 16
ROUNDED = ("dynamic_int8:tensor", ["int8_lstm", "int8_lstm_u8"])
FLOAT = ("none", ["float"])
WAYS: Mapping[str, tuple[str, tuple[str, list[str]]]] = {
    "stored int8": ("int8:channel", FLOAT),
    "stored int4": ("int4:g64", FLOAT),
    "int8_lstm int8": ("int8:channel", ROUNDED),
    "int8_lstm int7": ("int7:channel", ROUNDED),
    "int8_lstm int4": ("int4:g64", ROUNDED),
}
"""Format of all weights, how inputs are rounded, and kernels."""

PEER = "quantize_dynamic"


@dataclass(frozen=True)
class Case:
    """A network of LSTM layers and what it is timed on."""

    features: int
    hidden: int
    layers: int
    steps: int
    batch: int
    bidirectional: bool = False

    @property
    def name(self) -> str:
        """As the table has it."""
        both = ", both directions" if self.bidirectional else ""
        return f"{self.layers} x {self.hidden} of {self.features}{both}, {self.steps} steps, batch {self.batch}"

    def inputs(self, batch: int, seed: int) -> Tensor:
        """``[batch, steps, features]``."""
        return torch.randn(batch, self.steps, self.features, generator=torch.Generator().manual_seed(seed))


CASES = (
    Case(128, 256, 2, 64, 1),
    Case(128, 256, 2, 64, 8),
    Case(128, 256, 2, 64, 1, True),
    Case(512, 512, 1, 64, 1),
    Case(1024, 1024, 1, 32, 1),
    Case(40, 64, 1, 16, 1),
)


class Network(nn.Module):
    """All outputs of the last layer."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.lstm = nn.LSTM(case.features, case.hidden, case.layers, batch_first=True, bidirectional=case.bidirectional)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, steps, features] -> [batch, steps, directions * hidden]``."""
        return self.lstm(x)[0]


def main() -> None:
    """Compile or time every case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=Path, required=True, help="folder for the files")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the JSON and the table")
    parser.add_argument("--time", action="store_true", help="time the files of an earlier run")
    given = parser.parse_args()
    torch.set_num_threads(1)
    store = Store("int8_recurrent", given.results, render, fresh=not given.time, threads=1)
    for number, case in enumerate(CASES):
        folder = given.files / str(number)
        folder.mkdir(parents=True, exist_ok=True)
        row = store.rows[case.name] | timed(case, folder) if given.time else written(case, folder)
        store.put(case.name, row)
        print(case.name, {key: value for key, value in row.items() if key != "load"}, flush=True)


# ---------------------------------------------------------------------------------------------------- files
def written(case: Case, folder: Path) -> Row:
    """Bytes and errors of every way; the files are kept."""
    torch.manual_seed(0)
    model, example = Network(case).eval(), case.inputs(2, 1)
    new = case.inputs(HELD_OUT, 2)
    shapes = ({0: torch.export.Dim("batch", max=64)},)
    float_file = folder / "float.onnx"
    instar.compile(model, (example,), formats=["fp32"], dynamic_shapes=shapes).save(float_file)
    for way, (text, (activation, kernels)) in WAYS.items():
        made = instar.compile(
            model, (example,), formats=[text], activations=[activation], kernels=kernels, dynamic_shapes=shapes
        )
        assert {d.chosen.option.kernel for d in made.plan.decisions} <= set(kernels)
        made.save(file_of(folder, way))
    quantize_dynamic(folded(float_file), file_of(folder, PEER), weight_type=QuantType.QInt8)
    with torch.no_grad():
        expected = model(new).numpy()
    files = {way: file_of(folder, way) for way in (*WAYS, PEER)}
    return {
        "bytes": {way: file.stat().st_size / float_file.stat().st_size for way, file in files.items()},
        "errors": {way: apart(session_of(file), new, expected) for way, file in files.items()},
    }


def file_of(folder: Path, way: str) -> Path:
    """Where the file of a way lies."""
    return folder / f"{way.replace(' ', '_')}.onnx"


def folded(file: Path) -> Path:
    """The file with its constants folded, as ``quantize_dynamic`` wants weights."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(file.with_name("folded.onnx"))
    onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return file.with_name("folded.onnx")


def session_of(file: Path) -> onnxruntime.InferenceSession:
    """A session of one thread, as a user makes it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def apart(session: onnxruntime.InferenceSession, inputs: Tensor, expected: Any) -> float:
    """Relative error of all outputs; every sequence is run alone."""
    name = session.get_inputs()[0].name
    found = np.concatenate([np.asarray(session.run(None, {name: x[None].numpy()})[0]) for x in inputs])
    return float(np.linalg.norm(found.astype(np.float64) - expected) / np.linalg.norm(expected))


# ---------------------------------------------------------------------------------------------------- time
def timed(case: Case, folder: Path) -> Row:
    """Median processor time of every way over the float file's."""
    files = {way: file_of(folder, way) for way in ("float", *WAYS, PEER)}
    sessions = {way: session_of(file) for way, file in files.items()}
    taken: dict[str, list[float]] = {way: [] for way in files}
    feed = case.inputs(case.batch, 3).numpy()
    for run in range(RUNS + 1):
        for way, session in sessions.items():
            begin = time.process_time()
            session.run(None, {session.get_inputs()[0].name: feed})
            if run:
                taken[way].append(1e3 * (time.process_time() - begin))
    float_ms = statistics.median(taken["float"])
    return {"float_ms": float_ms, "times": {way: statistics.median(taken[way]) / float_ms for way in (*WAYS, PEER)}}


def render(rows: Mapping[str, Row]) -> str:
    """A line for every network and way."""
    lines: list[list[object]] = []
    for name, row in rows.items():
        for way, error in row["errors"].items():
            ratio = f"{row['times'][way]:.2f}" if "times" in row else ""
            lines.append([name, way, ratio, f"{error:.4f}", f"{row['bytes'][way]:.2f}"])
    return table(["network", "weights", "time / float", "relative error", "bytes / float"], lines)


if __name__ == "__main__":
    main()
