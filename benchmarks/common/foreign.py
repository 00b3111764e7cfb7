"""Peers that need an environment of their own: run with another interpreter, or reported as they were found."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx

from .networks import Batch
from .store import Row

RECORDED = Path(__file__).parents[1] / "peer_outcomes.json"
SCRIPT = Path(__file__).parents[1] / "foreign_peer.py"

OUTCOMES: dict[str, Row] = json.loads(RECORDED.read_text(encoding="utf-8"))["outcomes"]
"""Candidate -> ``outcome`` (``runs`` or ``fails``), ``versions`` and what was ``found``."""


def foreign_rows(interpreter: str | None) -> dict[str, Row]:
    """Rows to begin with: those that work are measured where an interpreter is given."""
    found: dict[str, Row] = {}
    for candidate, outcome in OUTCOMES.items():
        if outcome["outcome"] == "runs" and interpreter is not None:
            found[candidate] = {"versions": outcome["versions"]}
        else:
            found[candidate] = {"error": f"{outcome['versions']}: {outcome['found']}"}
    return found


def run_foreign(
    interpreter: str, candidate: str, source: Path, target: Path, batches: Sequence[Batch]
) -> tuple[float, str | None]:
    """Seconds, and the last line of the error where the peer failed."""
    names = [i.name for i in onnx.load(source, load_external_data=False).graph.input]
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "calibration.npz"
        arrays = {f"{k}/{n}": t.numpy() for k, b in enumerate(batches) for n, t in zip(names, b, strict=True)}
        np.savez(data, allow_pickle=False, **arrays)
        command = [interpreter, str(SCRIPT), candidate, str(source), str(target), str(data)]
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - start
    if done.returncode == 0 and target.exists():
        return seconds, None
    lines = done.stderr.strip().splitlines()
    return seconds, lines[-1] if lines else f"exit code {done.returncode}"
