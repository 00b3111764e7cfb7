"""What a target says of itself before it is imported: one record in its own folder, and nothing elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from ..ir.errors import ConfigError
from ..ir.plugins import Lazy
from .base import Opened, Target, TargetOptions

NO_KERNELS: Mapping[str, Lazy | str] = {}


@dataclass(frozen=True)
class Declaration:
    """A target from outside: what ``compile(target=...)`` and the registry of targets hold.

    Attributes:
        name: in plans, configs and on the command line.
        summary: one line.
        target: its class, made from ``options``; imported when it is used.
        options: the frozen dataclass of its options, the schema of ``target_options``; imported at once, so that it
            needs none of ``packages``.
        suffix: of its artifacts' files; empty where nobody opens them again.
        opener: opens such a file: ``opener(path, threads)``.
        packages: that it imports, asked for before any work; ``"onnxruntime>=1.23"`` asks for a version too.
        device: the option that ``name:device`` fills; empty where all devices are alike.
        kernels: name -> record or one line about it.
    """

    name: str
    summary: str
    target: Lazy | Callable[[Any], Any]
    options: type[TargetOptions] = TargetOptions
    suffix: str = ""
    opener: Lazy | Callable[[Path, int], Opened] | None = None
    packages: tuple[str, ...] = ()
    device: str = ""
    kernels: Mapping[str, Lazy | str] = field(default_factory=lambda: NO_KERNELS)

    def make(self, options: TargetOptions) -> Target:
        """The target with these options."""
        return cast("Callable[[TargetOptions], Target]", self.load())(options)

    def load(self) -> object:
        """What makes the target, and all that it imports."""
        return _loaded(self.target)

    def open(self, file: Path, threads: int) -> Opened:
        """A saved artifact, ready to run.

        Raises:
            ConfigError: the target opens no files.
            ParseError: the file is damaged.
            LoweringError: the runtime refuses it.
        """
        if self.opener is None:
            raise ConfigError(
                f"{file}: expected target {self.name} to open its files; found no opener; run it by yourself"
            )
        return cast("Callable[[Path, int], Opened]", _loaded(self.opener))(file, threads)


def _loaded(found: object) -> object:
    return found.load() if isinstance(found, Lazy) else found
