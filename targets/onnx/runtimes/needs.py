"""What a kernel or a node asks of an ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .table import CONTRIB, Table


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
        found = self._computed(known, dict(self.types)) | self._computed(known, self._wide())
        if self.domain != CONTRIB:
            return found
        return found & known.describes(self.operator, self.attributes, self.inputs)

    def _computed(self, known: Table, types: Mapping[str, str]) -> frozenset[int]:
        return known.computes(self.domain, self.operator, self.version, types)

    def _wide(self) -> dict[str, str]:
        """Where it has no kernel in float16, a runtime puts conversions around the one in float32."""
        return {name: "float" if kind == "float16" else kind for name, kind in self.types}

    def lacking(self, number: int, known: Table) -> str:
        """What a runtime lacks, in words."""
        operator = f"{self.operator} ({self.domain or 'opset'}{'' if self.domain else f' {self.version}'})"
        if self.domain == CONTRIB:
            own = [s for s in known.schemas.get(self.operator, ()) if s.since <= number <= s.until]
            if not own:
                return operator
            unknown = sorted(self.attributes - own[0].attributes)
            if unknown:
                return f"{operator} with attribute {', '.join(unknown)}"
            if self.inputs > len(own[0].inputs):
                return f"{operator} with {self.inputs} inputs"
        any_types = known.computes(self.domain, self.operator, self.version, {})
        kinds = dict.fromkeys(kind for name, kind in self.types if name[:1] == "T" or len(self.types) == 1)
        return f"{operator} of {', '.join(kinds)}" if kinds and number in any_types else operator
