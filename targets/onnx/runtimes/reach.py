"""The least ONNX Runtime that loads a model, and what in it asks for that."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import onnx
import onnx.helper
import onnx_ir

from ....ir.errors import LoweringError
from .needs import Requirement
from .table import CONTRIB, Table, table
from .values import Called, calls


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


def skeleton(model: onnx_ir.Model) -> onnx.ModelProto:
    """A model without the bytes of its weights: all that :func:`reach_of` looks at."""
    serde = onnx_ir.serde
    graph = onnx.GraphProto()
    graph.node.extend(serde.serialize_node(node) for node in model.graph)
    graph.input.extend(serde.serialize_value(value) for value in model.graph.inputs)
    graph.output.extend(serde.serialize_value(value) for value in model.graph.outputs)
    for name, value in model.graph.initializers.items():
        if value.const_value is not None:
            graph.initializer.append(onnx.TensorProto(name=name, data_type=int(value.const_value.dtype)))
    opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in model.opset_imports.items()]
    functions = [serde.serialize_function(function) for function in model.functions.values()]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=int(model.ir_version), functions=functions)


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
        number for number, reads in enumerate(table().reads) if opset <= reads.opset and ir_version <= reads.ir_version
    )


def missing(needs: Iterable[Requirement], opset: int, ir_version: int, version: str) -> list[str]:
    """What a runtime lacks to load a model, in words."""
    known = table()
    number = known.number(version)
    reads = known.reads[number]
    found = [f"opset {opset}"] if opset > reads.opset else []
    found += [f"IR version {ir_version}"] if ir_version > reads.ir_version else []
    own = [need for need in needs if need.domain == CONTRIB or opset <= reads.opset]  # the opset says enough
    found += [need.lacking(number, known) for need in own if number not in need.met(known)]
    return list(dict.fromkeys(found))


def _least(runs: frozenset[int], known: Table) -> int | None:
    """The first number from which on all are in ``runs``."""
    lacking = [number for number in known.all if number not in runs]
    first = max(lacking, default=-1) + 1
    return first if first < len(known.names) else None


def _names(numbers: frozenset[int], known: Table) -> tuple[str, ...]:
    return tuple(known.names[number] for number in sorted(numbers))


def check_reach(version: str, reach: Reach) -> None:
    """Refuses a model that the runtime to keep to does not load.

    Raises:
        LoweringError: says what it lacks.
    """
    if table().names[table().number(version)] not in reach.runs:
        raise LoweringError(
            f"onnx: expected a model that ONNX Runtime {version} loads, found one that needs {reach}; raise "
            "target_options.runtime, or keep the layers involved in float"
        )
