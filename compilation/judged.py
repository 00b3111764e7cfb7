"""Plans that the user's metric has judged already, in a file beside the checkpoint: an interrupted search goes on."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..ir.errors import ConfigError
from ..ir.files import atomic_write_json, read_json
from ..ir.json_values import plain, read
from ..ir.plan import Decision

VERSION = 1
SAME = 1e-6
"""Share by which a metric's value of the original may differ between runs and still be the same metric."""


@dataclass(frozen=True)
class _Document:
    instar_quality: int
    model: str
    original: float
    judged: Mapping[str, float]


@dataclass
class Judged:
    """Values of the metric by what the layers became.

    Attributes:
        path: of the file, None where nothing is kept.
        model: fingerprint of the model.
        original: value of the metric for the original.
        known: digest of decisions -> value.
    """

    path: Path | None
    model: str
    original: float
    known: dict[str, float] = field(default_factory=dict[str, float])

    @classmethod
    def beside(cls, checkpoint: str | os.PathLike[str] | None, model: str, original: float) -> Judged:
        """What is known from an earlier search with this checkpoint.

        Raises:
            ConfigError: the file is damaged, or was made for another model or with another metric.
        """
        if checkpoint is None:
            return cls(None, model, original)
        path = Path(f"{os.fspath(checkpoint)}.quality.json")
        if not path.exists():
            return cls(path, model, original)
        where = f"{path}: judged plans"
        found = read(_Document, read_json(path, error=ConfigError), where, ConfigError)
        same = math.isclose(found.original, original, rel_tol=SAME, abs_tol=1e-12)
        if found.instar_quality != VERSION or found.model != model or not same:
            raise ConfigError(
                f"{where}: expected values of this model and metric (the original has {original:.6g}), found others "
                f"({found.original:.6g}); move the file away, or name another checkpoint"
            )
        return cls(path, model, original, dict(found.judged))

    def get(self, decisions: Sequence[Decision]) -> float | None:
        """The value of a plan, None where it was not judged."""
        return self.known.get(_digest(decisions))

    def put(self, decisions: Sequence[Decision], value: float) -> None:
        """Keep a value; the file is whole at any time."""
        self.known[_digest(decisions)] = value
        if self.path is not None:
            atomic_write_json(self.path, plain(_Document(VERSION, self.model, self.original, self.known)))


def _digest(decisions: Sequence[Decision]) -> str:
    """Of what every layer becomes; the numbers that led to it do not matter."""
    words = sorted(f"{d.layer} {plain(d.chosen.option)}" for d in decisions)
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:32]
