"""The least ONNX Runtime that loads a model, and what in it asks for that."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import onnx

from .table import CONTRIB, Table, table
from .values import Called, calls


@dataclass(frozen=True)
class Requirement:
    """Something that a runtime must have.

    Attributes:
        operator: operator type; empty for the file as a whole.
        domain: of the operator.
        version: of the operator.
        types: of its values, by parameter or variable.
        attributes: that it must know.
        inputs: that it must take.
    """

    operator: str
    domain: str = ""
    version: int = 1
    types: tuple[tuple[str, str], ...] = ()
    attributes: frozenset[str] = frozenset()
    inputs: int = 0

    def met(self, known: Table) -> frozenset[int]:
        """The runtimes that have it."""
        found = known.computes(self.domain, self.operator, self.version, dict(self.types))
        if self.domain != CONTRIB:
            return found
        return found & known.describes(self.operator, self.attributes, self.inputs)

    def lacking(self, number: int, known: Table) -> str:
        """What a runtime lacks, in words."""
        operator = f"{self.operator} ({self.domain or 'opset'}{'' if self.domain else f' {self.version}'})"
        if self.domain == CONTRIB:
            own = [s for s in known.schemas.get(self.operator, ()) if s.since <= number <= s.until]
            unknown = sorted(self.attributes - own[0].attributes) if own else []
            if unknown:
                return f"{operator} with attribute {', '.join(unknown)}"
            if own and self.inputs > len(own[0].inputs):
                return f"{operator} with {self.inputs} inputs"
        kinds = dict.fromkeys(kind for name, kind in self.types if name[:1] == "T" or len(self.types) == 1)
        return f"{operator} of {', '.join(kinds)}" if kinds else operator


@dataclass(frozen=True)
class Reach:
    """Where a model loads.

    Attributes:
        least: the least runtime from which on every known one loads it; empty where none does.
        because: what the runtime before that lacks.
        runs: every runtime that loads it.
    """

    least: str
    because: tuple[str, ...]
    runs: tuple[str, ...]

    def __str__(self) -> str:
        why = f" (before it: no {'; no '.join(self.because)})" if self.because else ""
        return f"ONNX Runtime {self.least} or later{why}" if self.least else f"no known ONNX Runtime{why}"


def requirements(model: onnx.ModelProto) -> tuple[Requirement, ...]:
    """What the nodes of a model ask of a runtime; alike ones once."""
    return tuple(dict.fromkeys(map(_requirement, calls(model))))


def _requirement(called: Called) -> Requirement:
    own = called.domain == CONTRIB
    return Requirement(
        called.operator,
        called.domain,
        called.version,
        called.types,
        called.attributes if own else frozenset(),
        called.inputs if own else 0,
    )


def reach_of(model: onnx.ModelProto) -> Reach:
    """The runtimes that load a model."""
    known = table()
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=1)
    needs = requirements(model)
    runs = reading(opset, int(model.ir_version)).intersection(*(need.met(known) for need in needs))
    least = _least(runs, known)
    if least == 0:
        return Reach(known.names[0], (), _names(runs, known))
    before = least - 1 if least is not None else len(known.names) - 1
    return Reach(
        "" if least is None else known.names[least],
        tuple(missing(needs, opset, int(model.ir_version), known.names[before])),
        _names(runs, known),
    )


def reading(opset: int, ir_version: int) -> frozenset[int]:
    """The runtimes that read files of an operator set and an IR version."""
    return frozenset(
        number
        for number, reads in enumerate(table().reads)
        if opset <= reads.opset and ir_version <= reads.ir_version
    )


def missing(needs: Iterable[Requirement], opset: int, ir_version: int, version: str) -> list[str]:
    """What a runtime lacks to load a model, in words."""
    known = table()
    number = known.number(version)
    reads = known.reads[number]
    found = [f"opset {opset}"] if opset > reads.opset else []
    found += [f"IR version {ir_version}"] if ir_version > reads.ir_version else []
    found += [need.lacking(number, known) for need in needs if number not in need.met(known)]
    return list(dict.fromkeys(found))


def _least(runs: frozenset[int], known: Table) -> int | None:
    """The first number from which on all are in ``runs``."""
    lacking = [number for number in known.all if number not in runs]
    first = max(lacking, default=-1) + 1
    return first if first < len(known.names) else None


def _names(numbers: frozenset[int], known: Table) -> tuple[str, ...]:
    return tuple(known.names[number] for number in sorted(numbers))
