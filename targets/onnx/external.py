"""Models with weights in a file of their own: both files appear together or not at all."""

from __future__ import annotations

import secrets
from pathlib import Path

import onnx_ir

from ...ir.errors import ConfigError


def save_external(model: onnx_ir.Model, target: Path) -> list[str]:
    """Write ``target`` and ``<target>.data``.

    The data file gets a fresh name first and the model refers to the final one, so an interrupted write leaves the old
    pair whole.

    Raises:
        ConfigError: the folder does not exist.
    """
    if not target.parent.is_dir():
        raise ConfigError(f"{target}: expected an existing folder; found none at {target.parent}; make it first")
    folder = target.parent / f".{target.stem}.{secrets.token_hex(8)}.partial"
    folder.mkdir()
    data = f"{target.name}.data"
    try:
        onnx_ir.save(model, folder / target.name, external_data=data)
        (folder / data).replace(target.parent / data)
        (folder / target.name).replace(target)
    finally:
        for left in folder.iterdir():
            left.unlink()
        folder.rmdir()
    return [str(target), str(target.parent / data)]
