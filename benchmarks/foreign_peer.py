"""Runs in an interpreter of its own, without instar: makes a model with NNCF or Olive.

python benchmarks/foreign_peer.py CANDIDATE FLOAT.onnx RESULT.onnx CALIBRATION.npz
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx


def batches(path: str) -> list[dict[str, Any]]:
    """Feeds from arrays named ``<batch>/<input>``."""
    found: dict[str, dict[str, Any]] = {}
    with np.load(path) as stored:
        for key in stored.files:
            number, _, name = key.partition("/")
            found.setdefault(number, {})[name] = stored[key]
    return list(found.values())


def nncf_model(candidate: str, source: str, calibration: str) -> onnx.ModelProto:
    """A model made by NNCF."""
    import nncf  # pyright: ignore[reportMissingImports]

    model = onnx.load(source)
    if candidate == "nncf weight int8":
        return nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM)
    if candidate == "nncf weight int4 g32":
        return nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT4_SYM, group_size=32, ratio=1.0)
    feeds = batches(calibration)
    data = nncf.Dataset(feeds)
    return nncf.quantize(model, data, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(feeds))


def olive_model(candidate: str, source: str) -> onnx.ModelProto:
    """A model made by one pass of Olive."""
    from olive.workflows import run  # pyright: ignore[reportMissingImports]

    integers: dict[str, Any] = {"type": "OnnxDynamicQuantization"}
    blocks: dict[str, Any] = {"type": "OnnxBlockWiseRtnQuantization", "bits": 4, "block_size": 32}
    with tempfile.TemporaryDirectory() as folder:
        settings: dict[str, Any] = {
            "input_model": {"type": "OnnxModel", "model_path": source},
            "passes": {"quantize": integers if "dynamic" in candidate else blocks},
            "output_dir": f"{folder}/out",
            "cache_dir": f"{folder}/cache",
            "evaluate_input_model": False,
        }
        run(settings)
        return onnx.load(next(Path(folder, "out").rglob("*.onnx")))


def main() -> None:
    """Make one model."""
    candidate, source, target, calibration = sys.argv[1:]
    olive = candidate.startswith("olive")
    onnx.save(olive_model(candidate, source) if olive else nncf_model(candidate, source, calibration), target)


if __name__ == "__main__":
    main()
