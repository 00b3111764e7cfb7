"""Writing what is shown, by the suffix of the file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..ir.errors import ConfigError
from ..ir.files import atomic_write_json, atomic_write_text

SUFFIXES = (".html", ".json")


def save(path: str | os.PathLike[str], to_json: Callable[[], dict[str, Any]], html: Callable[[], str]) -> None:
    """Writes JSON or HTML atomically.

    Raises:
        ConfigError: another suffix, or the folder does not exist.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        expected = " or ".join(SUFFIXES)
        raise ConfigError(f"report: expected a file name that ends in {expected}, found {str(path)!r}; rename it")
    if suffix == ".json":
        atomic_write_json(path, to_json())
    else:
        atomic_write_text(path, html())
