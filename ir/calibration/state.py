"""Checkpoints of a calibration: an interrupted run continues after the last batch that was saved."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from ..errors import CalibrationError
from ..files import atomic_write_bytes
from ..text import node_names
from .calibrator import Calibrator


def save_state(calibrator: Calibrator, path: str | os.PathLike[str]) -> None:
    """Write everything gathered so far, atomically."""
    tensors: dict[str, Tensor] = {}
    for layer, moments in calibrator.moments.items():
        tensors |= {f"{layer}/{name}": value.contiguous() for name, value in moments.state().items()}
    names = node_names(calibrator.graph)
    for node, observer in calibrator.observers.items():
        tensors |= {f"range {names[node]}/{name}": value for name, value in observer.state().items()}
    metadata = {
        "key": state_key(calibrator),
        "batches": str(calibrator.batches),
        "samples": str(calibrator.samples),
        "energy": repr(calibrator.output_energy),
        "reactions": json.dumps({names[node]: energy for node, energy in calibrator.reactions.items()}),
    }
    atomic_write_bytes(path, safetensors.torch.save(tensors, metadata))


def restore_state(calibrator: Calibrator, path: str | os.PathLike[str]) -> None:
    """Continue from a checkpoint.

    Raises:
        CalibrationError: the file is damaged, or belongs to another model or other settings.
    """
    try:
        with safetensors.safe_open(Path(path), framework="pt") as file:  # pyright: ignore[reportUnknownMemberType]
            metadata = dict(file.metadata() or {})
            tensors: dict[str, Tensor] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        batches, samples = int(metadata["batches"]), int(metadata["samples"])
        energy, key = float(metadata["energy"]), metadata["key"]
        reactions: dict[str, float] = json.loads(metadata["reactions"])
    except (OSError, KeyError, ValueError, safetensors.SafetensorError) as error:
        raise CalibrationError(
            f"{path}: expected a calibration checkpoint; found {error}; delete it to start again"
        ) from error
    if key != state_key(calibrator):
        raise CalibrationError(
            f"{path}: this checkpoint belongs to another model or other calibration settings; delete it to start again"
        )
    names = node_names(calibrator.graph)
    try:
        for layer, moments in calibrator.moments.items():
            moments.load(_part(tensors, f"{layer}/"))
        for node, observer in calibrator.observers.items():
            observer.load(_part(tensors, f"range {names[node]}/"))
    except (KeyError, ValueError) as error:
        raise CalibrationError(
            f"{path}: expected a complete calibration checkpoint; found no {error}; delete it to start again"
        ) from error
    calibrator.batches, calibrator.samples, calibrator.output_energy = batches, samples, energy
    calibrator.reactions = {node: reactions[names[node]] for node in calibrator.observers if names[node] in reactions}


def state_key(calibrator: Calibrator) -> str:
    """Digest of the model and the settings that a checkpoint belongs to."""
    settings = json.dumps(calibrator.settings.__dict__, sort_keys=True, default=str)
    observed = sorted(node_names(calibrator.graph)[n] for n in calibrator.observers)
    text = "|".join([calibrator.graph.fingerprint(), settings, *calibrator.moments, *observed])
    return hashlib.sha256(text.encode()).hexdigest()


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}


__all__ = ["restore_state", "save_state", "state_key"]
