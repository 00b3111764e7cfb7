"""Targets by name, imported when they are used."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from ..ir.errors import ConfigError
from ..ir.plugins import Lazy, Registry
from .base import Opened, Target, TargetSettings

TARGETS: Registry[type[Target]] = Registry(
    "target",
    {
        "onnx": Lazy(f"{__package__}.onnx.target", "OnnxTarget"),
        "torch": Lazy(f"{__package__}.torch.target", "TorchTarget"),
    },
    "a class of targets (instar.targets.base.Target) that is made from TargetSettings",
    lambda found: isinstance(found, type) and callable(getattr(found, "build", None)),
)
"""Name -> class of targets; more come from installed packages (group ``instar.targets``)."""


class NamedKernel(Protocol):
    """What every kernel says of itself, whatever else its target wants to know."""

    @property
    def name(self) -> str:
        """What options and plans call it."""
        ...

    @property
    def summary(self) -> str:
        """One line for reports."""
        ...

    @property
    def target(self) -> str:
        """The target that it belongs to."""
        ...


_ONNX = f"{__package__}.onnx.kernels"

KERNELS: Registry[NamedKernel] = Registry(
    "kernel",
    {
        "float": Lazy(f"{_ONNX}.float_weights", "KERNEL"),
        "int8": Lazy(f"{_ONNX}.int8_linear", "KERNEL"),
        "int8_token": Lazy(f"{_ONNX}.int8_tokens", "KERNEL"),
        "nbits": Lazy(f"{_ONNX}.nbits", "KERNEL"),
        "int8_conv": Lazy(f"{_ONNX}.int8_conv", "KERNEL"),
    },
    "a kernel: a record with a name, a summary and the name of its target (instar.targets.onnx.kernels.Kernel)",
    lambda found: all(isinstance(getattr(found, word, None), str) for word in ("name", "summary", "target")),
)
"""Kernels that options name; more come from installed packages (group ``instar.kernels``)."""


def kernels(target: str) -> dict[str, str]:
    """The kernels of a target: name -> what it is."""
    own: Mapping[str, str] = getattr(TARGETS[target], "kernels", {})
    return dict(own) | {name: kernel.summary for name, kernel in KERNELS.items() if kernel.target == target}


OPENERS: dict[str, tuple[str, str]] = {
    ".onnx": (".onnx.opened", "OpenedOnnx"),
    ".safetensors": (".torch.opened", "OpenedGraph"),
}
"""Suffix of an artifact -> (module, class)."""


def open_artifact(path: str | os.PathLike[str], threads: int = 1) -> Opened:
    """A saved artifact, ready to run.

    Raises:
        ConfigError: no such file, or a suffix that no target writes.
        ParseError: the file is damaged.
        LoweringError: the runtime refuses it.
    """
    file = Path(path)
    if file.suffix not in OPENERS:
        raise ConfigError(f"{file}: expected a compiled model that ends in {' or '.join(OPENERS)}")
    if not file.is_file():
        raise ConfigError(f"{file}: expected a compiled model; found {'a folder' if file.is_dir() else 'nothing'}")
    module, cls = OPENERS[file.suffix]
    return cast(Opened, getattr(import_module(module, __package__), cls)(file, threads))


def make_target(name: str, settings: TargetSettings) -> Target:
    """The target of that name.

    Raises:
        ConfigError: there is none; names the nearest.
    """
    return cast("Callable[[TargetSettings], Target]", TARGETS.find(name, "target"))(settings)
