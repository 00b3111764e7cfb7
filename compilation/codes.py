"""Codes that pricing chose, kept until a plan takes them: in memory up to a bound, beyond it in a temporary folder."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from threading import Lock

import safetensors.torch
from torch import Tensor

KEPT_NBYTES = 32 * 10**6
"""Bytes of codes that stay in memory; they are packed, as an artifact stores them."""

Key = tuple[str, str, str]
"""Layer, format, encoder."""


class CodeStore:
    """Stored tensors by layer, format and encoder, from any thread. The folder goes when the store does.

    Args:
        kept_nbytes: bytes that stay in memory.
    """

    def __init__(self, kept_nbytes: int = KEPT_NBYTES) -> None:
        self._room = kept_nbytes
        self._lock = Lock()
        self._kept: dict[Key, Mapping[str, Tensor]] = {}
        self._files: dict[Key, Path] = {}
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def put(self, layer: str, format_text: str, encoder: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep the tensors of an encoded weight."""
        key = (layer, format_text, encoder)
        nbytes = sum(t.numel() * t.element_size() for t in tensors.values())
        with self._lock:
            if nbytes <= self._room:
                self._room -= nbytes
                self._kept[key] = dict(tensors)
            elif key not in self._files:
                self._files[key] = self._spill({name: t.contiguous() for name, t in tensors.items()})

    def get(self, layer: str, format_text: str, encoder: str) -> Mapping[str, Tensor] | None:
        """What was kept; None for what never was."""
        key = (layer, format_text, encoder)
        if key in self._files:
            return safetensors.torch.load_file(self._files[key])
        return self._kept.get(key)

    def _spill(self, tensors: dict[str, Tensor]) -> Path:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="instar-codes-")
        path = Path(self._folder.name) / f"{len(self._files)}.safetensors"
        safetensors.torch.save_file(tensors, path)
        return path
