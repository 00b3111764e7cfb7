"""What a target says of itself before it is imported: one record in its own folder, and nothing elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..ir.plugins import Lazy
from .base import Opened


@dataclass(frozen=True)
class Declaration:
    """A target from outside.

    Attributes:
        name: in plans, configs and on the command line.
        target: its class, made from :class:`~.base.TargetSettings`; imported when it is used.
        suffix: of its artifacts' files.
        opener: opens such a file: ``opener(path, threads)``.
        packages: that it imports, asked for before any work.
    """

    name: str
    target: Lazy
    suffix: str
    opener: Lazy | Callable[[Path, int], Opened]
    packages: tuple[str, ...] = ()
