"""What every ONNX Runtime from 1.18 on has: kernels of its processor, operators of its own, operator sets, IR versions.

``table.json`` is what the released packages said of themselves; ``benchmarks/runtime_versions.py`` writes it and checks
it by loading models in every one of them.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from ....ir.errors import ConfigError
from ....ir.json_values import loads

CONTRIB = "com.microsoft"
"""The domain of the runtime's own operators."""

Types = Mapping[str, str]
"""Type of a tensor, such as ``float``, by the name of a parameter or of its type's variable."""


@dataclass(frozen=True)
class Reads:
    """The newest operator set and IR version that a runtime reads."""

    opset: int
    ir_version: int


@dataclass(frozen=True)
class Kernel:
    """Kernels that a span of runtimes has.

    Attributes:
        first: version of the operator that it is for.
        last: the last version that it is for; None where it is for ``first`` alone.
        types: by variable or parameter.
        since: number of the first runtime that has it.
        until: number of the last one.
    """

    first: int
    last: int | None
    types: Mapping[str, frozenset[str]]
    since: int
    until: int

    def computes(self, version: int, types: Types) -> bool:
        """Whether it is for a version of the operator and these types; by the runtime's own rule."""
        covers = self.first == version or (self.last is not None and self.first < version <= self.last)
        return covers and all(name not in types or types[name] in kinds for name, kinds in self.types.items())


@dataclass(frozen=True)
class Schema:
    """How a span of runtimes describes an operator of its own.

    Attributes:
        attributes: that it knows.
        inputs: name and type's variable of every input that it takes.
        outputs: of every output.
        since: number of the first runtime that describes it so.
        until: number of the last one.
    """

    attributes: frozenset[str]
    inputs: tuple[tuple[str, str], ...]
    outputs: tuple[tuple[str, str], ...]
    since: int
    until: int


@dataclass(frozen=True)
class Table:
    """All that is known.

    Attributes:
        checked: the released versions behind it.
        names: of the runtimes, oldest first.
        reads: per runtime.
        kernels: by ``(domain, operator)``.
        schemas: of the runtime's own operators.
    """

    checked: tuple[str, ...]
    names: tuple[str, ...]
    reads: tuple[Reads, ...]
    kernels: Mapping[tuple[str, str], tuple[Kernel, ...]]
    schemas: Mapping[str, tuple[Schema, ...]]

    def number(self, version: str) -> int:
        """The number of a version such as ``1.20`` or ``1.20.1``.

        Raises:
            ConfigError: it is not in the table.
        """
        name = ".".join(version.split(".")[:2])
        if name in self.names:
            return self.names.index(name)
        raise ConfigError(
            f"target_options.runtime: expected an ONNX Runtime from {self.names[0]} to {self.names[-1]}, found "
            f"{version!r}; what other versions run was not checked"
        )

    def computes(self, domain: str, operator: str, version: int, types: Types) -> frozenset[int]:
        """The runtimes with a kernel for these types."""
        return _spans(k for k in self.kernels.get((domain, operator), ()) if k.computes(version, types))

    def describes(self, operator: str, attributes: frozenset[str], inputs: int) -> frozenset[int]:
        """The runtimes whose own operator has these attributes and takes as many inputs."""
        known = self.schemas.get(operator, ())
        return _spans(s for s in known if attributes <= s.attributes and inputs <= len(s.inputs))

    @property
    def all(self) -> frozenset[int]:
        """Every runtime."""
        return frozenset(range(len(self.names)))


def _spans(entries: Any) -> frozenset[int]:
    return frozenset(number for entry in entries for number in range(entry.since, entry.until + 1))


@dataclass(frozen=True)
class _Document:
    checked: tuple[str, ...]
    runtimes: Mapping[str, Reads]
    kernels: Mapping[str, Any]
    schemas: Mapping[str, Any]


@functools.cache
def table() -> Table:
    """The table that ships with instar."""
    text = files(__package__ or "").joinpath("table.json").read_text(encoding="utf-8")
    document = loads(_Document, text, "table.json")
    names = tuple(document.runtimes)
    numbers = {name: number for number, name in enumerate(names)} | {None: len(names) - 1}
    kernels = {
        (key.partition("::")[0], key.partition("::")[2]): tuple(
            Kernel(first, last, {n: frozenset(t) for n, t in types.items()}, numbers[since], numbers[until])
            for first, last, types, since, until in entries
        )
        for key, entries in document.kernels.items()
    }
    schemas = {
        name: tuple(
            Schema(frozenset(attributes), _pairs(inputs), _pairs(outputs), numbers[since], numbers[until])
            for attributes, inputs, outputs, since, until in entries
        )
        for name, entries in document.schemas.items()
    }
    return Table(document.checked, names, tuple(document.runtimes.values()), kernels, schemas)


def _pairs(values: Any) -> tuple[tuple[str, str], ...]:
    return tuple((name, kind) for name, kind in values)
