"""Models with weights in a file of their own: both files are replaced together or not at all."""

from __future__ import annotations

import secrets
from pathlib import Path

import onnx
import onnx_ir

from ...ir.errors import ConfigError, LoweringError
from ...ir.files import check_writable, flush


def save_external(model: onnx_ir.Model, target: Path) -> list[str]:
    """Write ``target`` and ``<target>.data``.

    Both are written into a folder beside ``target`` first. The old data file is kept there until the new model is in
    place, and is put back if anything, ``KeyboardInterrupt`` included, comes between. ``model`` is unchanged.

    Raises:
        ConfigError: the folder does not exist or cannot be written to, or ``target`` is a folder.
    """
    target = check_writable(target)
    folder = target.parent / f".{target.stem}.{secrets.token_hex(8)}.partial"
    try:
        folder.mkdir()
    except OSError as problem:
        raise ConfigError(f"{target}: expected a folder to write to; found: {problem.strerror}") from problem
    data = target.with_name(f"{target.name}.data")
    try:
        onnx_ir.save(model, folder / target.name, external_data=data.name)
        for file in folder.iterdir():
            flush(file)
        _replace_pair(folder, target, data)
    finally:
        for left in folder.iterdir():
            left.unlink()
        folder.rmdir()
    flush(target.parent)
    return [str(target), str(data)] if data.exists() else [str(target)]


def _replace_pair(folder: Path, target: Path, data: Path) -> None:
    kept = folder / "old"
    if data.exists():
        data.replace(kept)
    try:
        if (folder / data.name).exists():
            (folder / data.name).replace(data)
        (folder / target.name).replace(target)
    except BaseException:
        data.unlink(missing_ok=True)
        if kept.exists():
            kept.replace(data)
        raise


def check_file(path: Path) -> None:
    """The ONNX checker on a model too large for one message.

    Raises:
        LoweringError: the checker refuses the model.
    """
    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError as problem:
        raise LoweringError(f"onnx: expected a valid model, the checker found: {problem}") from problem
