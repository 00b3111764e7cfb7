"""Codes that were chosen, kept until a plan takes them: in memory up to a bound, beyond it in a temporary folder.

A process that was copied from the one that made the store keeps everything in the folder, where both find it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from threading import Lock, get_ident
from weakref import finalize

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
        self._process = os.getpid()
        self._lock = Lock()
        self._kept: dict[Key, Mapping[str, Tensor]] = {}
        self._folder = Path(tempfile.mkdtemp(prefix="instar-codes-"))
        finalize(self, shutil.rmtree, self._folder, ignore_errors=True)

    def put(self, layer: str, format_text: str, encoder: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep the tensors of an encoded weight."""
        key = (layer, format_text, encoder)
        nbytes = sum(t.numel() * t.element_size() for t in tensors.values())
        with self._lock:
            if nbytes <= self._room and os.getpid() == self._process:
                self._room -= nbytes
                self._kept[key] = dict(tensors)
                return
        path = self._path(key)
        if not path.exists():
            whole = path.with_suffix(f".{os.getpid()}-{get_ident()}")
            safetensors.torch.save_file({name: t.contiguous() for name, t in tensors.items()}, whole)
            whole.replace(path)

    def get(self, layer: str, format_text: str, encoder: str) -> Mapping[str, Tensor] | None:
        """What was kept; None for what never was."""
        key = (layer, format_text, encoder)
        if key in self._kept:
            return self._kept[key]
        path = self._path(key)
        return safetensors.torch.load_file(path) if path.exists() else None

    def has(self, layer: str, format_text: str, encoder: str) -> bool:
        """Whether it was kept."""
        key = (layer, format_text, encoder)
        return key in self._kept or self._path(key).exists()

    def _path(self, key: Key) -> Path:
        name = hashlib.sha256("\0".join(key).encode()).hexdigest()[:32]
        return self._folder / f"{name}.safetensors"
