"""What an ONNX Runtime says of itself, as JSON: kernels of its processor, contrib schemas, the newest files it reads.

Runs in an environment that has onnxruntime and numpy alone: ``python registry_of_runtime.py PROBES OUT``. ``PROBES`` is
a folder of files ``<opset>_<ir version>.onnx``.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import onnxruntime

state: Any = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
PROVIDER = "CPUExecutionProvider"


def main(probes: Path, out: Path) -> None:
    """Ask and write."""
    found = {
        "version": onnxruntime.__version__,
        "reads": [list(map(int, p.stem.split("_"))) for p in sorted(probes.glob("*.onnx")) if loads(p)],
        "kernels": kernels(),
        "schemas": schemas(),
    }
    out.write_text(json.dumps(found), encoding="utf-8")


def loads(path: Path) -> bool:
    """Whether a session can be made of a file."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(str(path), options, providers=[PROVIDER])
    except Exception:  # noqa: BLE001  # the runtime's types differ between versions
        return False
    return True


def kernels() -> list[Any]:
    """``[domain, operator, first version, last version, {constraint: types}]`` of every kernel of the processor."""
    return [
        [d.domain, d.op_name, *d.version_range, {name: list(types) for name, types in d.type_constraints.items()}]
        for d in state.get_all_opkernel_def()
        if d.provider == PROVIDER
    ]


def schemas() -> list[Any]:
    """``[operator, attributes, inputs, outputs]`` of the runtime's own domain; a value is ``[name, type]``."""
    return [
        [
            d.name,
            sorted(d.attributes),
            [[v.name, v.typeStr] for v in d.inputs],
            [[v.name, v.typeStr] for v in d.outputs],
        ]
        for d in state.get_all_operator_schema()
        if d.domain == "com.microsoft"
    ]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
