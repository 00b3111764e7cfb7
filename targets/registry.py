"""Targets by name, imported when they are used."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, cast

from ..ir.errors import ConfigError
from ..ir.plugins import Lazy, Registry
from . import onnx, torch
from .base import Opened, Target, TargetSettings

OWN = {found.name: found for found in (onnx.DECLARATION, torch.DECLARATION)}
"""instar's own targets, as each declares itself."""

TARGETS: Registry[type[Target]] = Registry(
    "target",
    {name: declared.target for name, declared in OWN.items()},
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


def suffix_of(target: str) -> str:
    """The suffix of a target's artifacts; what is not instar's own says it as ``suffix`` of its class."""
    return OWN[target].suffix if target in OWN else str(getattr(TARGETS[target], "suffix", ""))


def packages_of(target: str) -> tuple[str, ...]:
    """The packages that a target imports; those of an installed target came with it."""
    return OWN[target].packages if target in OWN else ()


def target_of(suffix: str) -> str:
    """The target whose artifacts have this suffix.

    Raises:
        ConfigError: none has.
    """
    for name in TARGETS:
        if suffix and suffix_of(name) == suffix:
            return name
    known = " or ".join(filter(None, map(suffix_of, TARGETS)))
    raise ConfigError(f"expected a compiled model that ends in {known}; found {suffix or 'no suffix'!r}")


def open_artifact(path: str | os.PathLike[str], threads: int = 1) -> Opened:
    """A saved artifact, ready to run.

    Raises:
        ConfigError: no such file, or a suffix that no target writes.
        ParseError: the file is damaged.
        LoweringError: the runtime refuses it.
    """
    file = Path(path)
    try:
        name = target_of(file.suffix)
    except ConfigError as problem:
        raise ConfigError(f"{file}: {problem}") from None
    if not file.is_file():
        raise ConfigError(f"{file}: expected a compiled model; found {'a folder' if file.is_dir() else 'nothing'}")
    opener = OWN[name].opener if name in OWN else getattr(TARGETS[name], "opener", None)
    if opener is None:
        raise ConfigError(f"{file}: expected target {name} to open its files; found no opener; run it by yourself")
    found = opener.load() if isinstance(opener, Lazy) else opener
    return cast("Callable[[Path, int], Opened]", found)(file, threads)


def make_target(name: str, settings: TargetSettings) -> Target:
    """The target of that name.

    Raises:
        ConfigError: there is none; names the nearest.
    """
    return cast("Callable[[TargetSettings], Target]", TARGETS.find(name, "target"))(settings)
