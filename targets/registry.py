"""Targets by name, imported when they are used."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from ..ir.errors import ConfigError, nearest
from .base import Target, TargetSettings

TARGETS: dict[str, tuple[str, str]] = {
    "onnx": (".onnx.target", "OnnxTarget"),
    "torch": (".torch.target", "TorchTarget"),
}
"""Name -> (module, class)."""


def make_target(name: str, settings: TargetSettings) -> Target:
    """The target of that name.

    Raises:
        ConfigError: there is none; names the nearest.
    """
    if name not in TARGETS:
        raise ConfigError(f"target: expected one of {', '.join(TARGETS)}; found {name!r}{nearest(name, TARGETS)}")
    module, cls = TARGETS[name]
    return cast(Target, getattr(import_module(module, __package__), cls)(settings))
