"""Targets by name, as each declares itself, and their kernels; imported when they are used."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from ..ir.errors import ConfigError
from ..ir.plugins import Lazy, Registry
from . import onnx, scratchpad, torch
from .base import Opened, Target, TargetOptions
from .declaration import Declaration

OWN = (onnx.DECLARATION, torch.DECLARATION, scratchpad.DECLARATION)
"""instar's own targets: a new one is a line here."""

TARGETS: Registry[Declaration] = Registry(
    "target",
    {declared.name: declared for declared in OWN},
    "a declaration of a target (instar.targets.declaration.Declaration)",
    lambda found: isinstance(found, Declaration),
)
"""Name -> declaration; more come from installed packages (group ``instar.targets``)."""


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


KERNELS: Registry[NamedKernel] = Registry(
    "kernel",
    {name: kernel for own in OWN for name, kernel in own.kernels.items() if isinstance(kernel, Lazy)},
    "a kernel: a record with a name, a summary and the name of its target (instar.targets.onnx.kernels.Kernel)",
    lambda found: all(isinstance(getattr(found, word, None), str) for word in ("name", "summary", "target")),
)
"""Kernels that options name; more come from installed packages (group ``instar.kernels``)."""


def kernels(target: str) -> dict[str, str]:
    """The kernels of a target: name -> what it is."""
    own = {name: about for name, about in TARGETS[target].kernels.items() if isinstance(about, str)}
    return own | {name: kernel.summary for name, kernel in KERNELS.items() if kernel.target == target}


def target_of(suffix: str) -> str:
    """The target whose artifacts have this suffix.

    Raises:
        ConfigError: none has.
    """
    suffixes = {declared.suffix: name for name, declared in TARGETS.items() if declared.suffix}
    if suffix in suffixes:
        return suffixes[suffix]
    raise ConfigError(
        f"expected a compiled model that ends in {' or '.join(suffixes)}; found {suffix or 'no suffix'!r}"
    )


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
    return TARGETS[name].open(file, threads)


def make_target(name: str, options: TargetOptions) -> Target:
    """The target of that name.

    Raises:
        ConfigError: there is none; names the nearest.
    """
    return TARGETS.find(name, "target").make(options)
