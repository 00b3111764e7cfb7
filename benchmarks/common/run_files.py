"""Loads and runs ONNX files where there is onnxruntime and numpy alone: ``python run_files.py LIST OUT``.

``LIST`` is JSON: ``[{"model": path, "feeds": path of an npz, "outputs": path to write}]``; ``OUT`` gets the version and
for every file an error in the runtime's words or null.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

EXACT = "exact"
"""Before the numbers of outputs of sessions whose products of bytes do not saturate."""

EXACT_PRODUCTS = ("session.x64quantprecision", "1")
"""The entry that asks for them; without VNNI they saturate otherwise, in every release in its own way."""


def main(listed: Path, out: Path) -> None:
    """Run every file."""
    entries = json.loads(listed.read_text(encoding="utf-8"))
    errors = [apart(entry, out.with_suffix(".error")) for entry in entries]
    out.write_text(json.dumps({"version": onnxruntime.__version__, "errors": errors}), encoding="utf-8")


def apart(entry: dict[str, Any], said: Path) -> str | None:
    """One file in a process of its own: some releases end the whole process over some files."""
    said.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        try:
            run(entry)
        except Exception as problem:  # noqa: BLE001  # the runtime's types differ between versions
            words = " ".join(str(problem).split()).replace(f"{Path(entry['model']).parent}{os.sep}", "")
            said.write_text(words[:400] or type(problem).__name__, encoding="utf-8")
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return f"the process was ended by signal {os.WTERMSIG(status)}"
    return said.read_text(encoding="utf-8") if said.exists() else None


def run(entry: dict[str, Any]) -> None:
    """One file in a session as a user makes it, and in one with exact products; outputs of both are kept.

    A file that only the second kind of session refuses has no outputs of it: the runtime turns signed weights into
    unsigned ones there, and stops where two matrices of an LSTM are one tensor, as in files of single layers.
    """
    results: dict[str, Any] = {}
    for prefix, config in (("", ()), (EXACT, (EXACT_PRODUCTS,))):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        for name, value in config:
            options.add_session_config_entry(name, value)
        try:
            session = onnxruntime.InferenceSession(entry["model"], options, providers=["CPUExecutionProvider"])
        except Exception:
            if prefix == EXACT:
                break
            raise
        with np.load(entry["feeds"], allow_pickle=False) as stored:
            feeds = {value.name: stored[value.name] for value in session.get_inputs()}
        results |= {f"{prefix}{number}": value for number, value in enumerate(session.run(None, feeds))}
    np.savez(entry["outputs"], **results)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
