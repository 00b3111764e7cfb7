"""The numeric check: what a graph computes on real inputs against the graph before the pass."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..ir.errors import PassError
from ..ir.evaluate import evaluate
from ..ir.graph import Graph, Node
from .base import CheckOutcome, Pass
from .promote import WIDE, promote, promote_inputs

Outputs = list[list[Any]]
"""Flat outputs, one list per list of inputs."""

_EPSILONS_OF_ROUNDING = 16
"""Rounding a weight once moves an output by a few machine epsilons of the weight's dtype."""


@dataclass(frozen=True)
class NumericCheck:
    """What :func:`~instar.passes.run.run_passes` compares after every pass.

    Exact passes are compared in float64: inputs, constants and dtype arguments of both graphs are promoted, and every
    output has to agree within ``rtol``. A pass that computes new constants (such as folding batch norm) rounds them to
    the dtype of the model; where that alone exceeds ``rtol``, the pass itself is run again on the promoted graph, where
    its constants keep all their digits, and has to agree within ``rtol`` there, and both graphs have to agree within
    ``own_rtol`` in the model's own dtype. That last comparison alone is made where an op refuses float64.

    Lossy passes are compared in the model's own dtype; they fail on new NaN or infinity and below ``min_sqnr_db``.

    Attributes:
        inputs: one list of flat input tensors per comparison.
        rtol: largest ``|after - before| / |before|`` of exact passes in float64, in Euclidean norms.
        own_rtol: the same in float32; 16 machine epsilons where the model's narrowest dtype needs more.
        min_sqnr_db: the least signal-to-noise ratio of lossy passes in decibels; ``None`` for no floor.
    """

    inputs: Sequence[Sequence[torch.Tensor]]
    rtol: float = 1e-9
    own_rtol: float = 1e-4
    min_sqnr_db: float | None = None

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            PassError: there are no inputs.
        """
        if not self.inputs:
            raise PassError(
                "numeric check: expected at least one list of inputs; found none; give real inputs or turn it off"
            )


@dataclass(frozen=True)
class Subject:
    """A graph as it is evaluated, and the node that stands for each node of the original."""

    graph: Graph
    inputs: list[list[torch.Tensor]]
    nodes: Mapping[Node, Node] | None = None


@dataclass(frozen=True)
class Failure:
    """Why a pass is rejected, and what is needed to find the node."""

    reason: str
    output: int
    example: int
    before: Subject
    after: Subject


@dataclass(frozen=True)
class Deviation:
    """How far outputs are apart: the worst of all, and where it is."""

    error: float = 0.0
    sqnr_db: float = math.inf
    output: int = 0
    example: int = 0


class Checker:
    """Compares graphs pass after pass; the outputs of a graph are kept for the comparison with its successor."""

    def __init__(self, check: NumericCheck) -> None:
        self.check = check
        self._kept: dict[tuple[str, int], tuple[Graph, Subject, Outputs]] = {}

    def __call__(self, pass_: Pass, before: Graph, after: Graph) -> tuple[CheckOutcome, Failure | None]:
        """The outcome, and a failure where the pass broke the model.

        Raises:
            PassError: a graph does not run.
        """
        start = time.perf_counter()
        self._kept = {key: kept for key, kept in self._kept.items() if kept[0] is before}
        if _same_outputs(before, after):
            outcome, failure = CheckOutcome("unchanged", 0.0, self.check.rtol, math.inf), None
        elif pass_.exact:
            outcome, failure = self._exact(pass_, before, after)
        else:
            outcome, failure = self._lossy(before, after)
        return replace(outcome, seconds=time.perf_counter() - start), failure

    def _exact(self, pass_: Pass, before: Graph, after: Graph) -> tuple[CheckOutcome, Failure | None]:
        try:
            first, expected = self._run("float64", before)
            second, found = self._run("float64", after)
        except PassError as refusal:
            return self._exact_in_own_dtype(before, after, f"float64 refused: {refusal}")
        deviation = compare(expected, found)
        outcome = CheckOutcome("float64", deviation.error, self.check.rtol, deviation.sqnr_db)
        if deviation.error <= self.check.rtol:
            return outcome, None
        again = compare(expected, self._outputs(replace(first, graph=pass_(first.graph).graph)))
        if again.error <= self.check.rtol:
            note = f"{again.error:.1e} in float64, before the new constants were rounded"
            return self._exact_in_own_dtype(before, after, note, "own dtype, constants rounded")
        return outcome, _failure(deviation, self.check.rtol, "float64", first, second)

    def _exact_in_own_dtype(
        self, before: Graph, after: Graph, note: str, precision: str = "own dtype"
    ) -> tuple[CheckOutcome, Failure | None]:
        tolerance = _own_tolerance(self.check, after)
        first, expected = self._run("own dtype", before)
        second, found = self._run("own dtype", after)
        deviation = compare(expected, found)
        outcome = CheckOutcome(precision, deviation.error, tolerance, deviation.sqnr_db, note=note)
        if deviation.error <= tolerance:
            return outcome, None
        return outcome, _failure(deviation, tolerance, precision, first, second)

    def _lossy(self, before: Graph, after: Graph) -> tuple[CheckOutcome, Failure | None]:
        first, expected = self._run("own dtype", before)
        second, found = self._run("own dtype", after)
        deviation = compare(expected, found)
        outcome = CheckOutcome("own dtype", deviation.error, math.inf, deviation.sqnr_db)
        floor = self.check.min_sqnr_db
        if math.isinf(deviation.error) or (floor is not None and deviation.sqnr_db < floor):
            wanted = "finite values" if floor is None else f"finite values and at least {floor:g} dB"
            found_text = "NaN or infinity" if math.isinf(deviation.error) else f"{deviation.sqnr_db:.1f} dB"
            reason = f"expected {wanted} in output {deviation.output}; found {found_text}"
            return outcome, Failure(reason, deviation.output, deviation.example, first, second)
        return outcome, None

    def _run(self, precision: str, graph: Graph) -> tuple[Subject, Outputs]:
        key = (precision, id(graph))
        if key not in self._kept:
            subject = self._subject(precision, graph)
            self._kept[key] = (graph, subject, self._outputs(subject))
        _, subject, outputs = self._kept[key]
        return subject, outputs

    def _subject(self, precision: str, graph: Graph) -> Subject:
        if precision == "own dtype":
            return Subject(graph, [list(x) for x in self.check.inputs])
        promotion = promote(graph)
        return Subject(promotion.graph, [promote_inputs(x) for x in self.check.inputs], promotion.nodes)

    def _outputs(self, subject: Subject) -> Outputs:
        with torch.no_grad():
            return [evaluate(subject.graph, x) for x in subject.inputs]


# ------------------------------------------------------------------------------------------------ comparing
def compare(expected: Outputs, found: Outputs) -> Deviation:
    """The worst deviation over all examples and outputs.

    The error is infinite where a value that was finite became NaN or infinite, where an infinity changed its sign, or
    where a value that is not a tensor changed.
    """
    worst = Deviation()
    for example, (befores, afters) in enumerate(zip(expected, found, strict=True)):
        for output, (before, after) in enumerate(zip(befores, afters, strict=True)):
            error = relative_error(before, after)
            sqnr = math.inf if error == 0 else -20 * math.log10(error) if math.isfinite(error) else -math.inf
            if error > worst.error:
                worst = Deviation(error, sqnr, output, example)
    return worst


def relative_error(before: Any, after: Any) -> float:
    """``|after - before| / |before|`` in Euclidean norms over what is finite before; ``|after|`` where it is 0."""
    if not isinstance(before, torch.Tensor) or not isinstance(after, torch.Tensor):
        return 0.0 if type(before) is type(after) and before == after else math.inf
    if before.shape != after.shape:
        return math.inf
    wide = torch.complex128 if before.is_complex() or after.is_complex() else torch.float64
    first, second = before.to(wide), after.to(wide)
    finite = torch.isfinite(first)
    if not bool(finite.all()):
        if not _same_outside(first, second, finite):
            return math.inf
        first, second = first[finite], second[finite]
    return _ratio(float((second - first).norm()), float(first.norm()))


def _ratio(difference: float, size: float) -> float:
    if not math.isfinite(difference):
        return math.inf
    return difference / size if size > 0 else difference


def _same_outside(first: torch.Tensor, second: torch.Tensor, finite: torch.Tensor) -> bool:
    return torch.equal(torch.nan_to_num(first[~finite]), torch.nan_to_num(second[~finite])) and torch.equal(
        torch.isnan(first[~finite]), torch.isnan(second[~finite])
    )


def _same_outputs(before: Graph, after: Graph) -> bool:
    return len(before.outputs) == len(after.outputs) and all(
        a is b for a, b in zip(before.outputs, after.outputs, strict=True)
    )


def _own_tolerance(check: NumericCheck, graph: Graph) -> float:
    """``own_rtol``, or more where the narrowest floating dtype of the graph cannot keep it."""
    return max(check.own_rtol, _EPSILONS_OF_ROUNDING * max((torch.finfo(d).eps for d in _narrow(graph)), default=0.0))


def _narrow(graph: Graph) -> set[torch.dtype]:
    types = [t for n in graph.nodes() for t in (n.type if isinstance(n.type, tuple) else (n.type,))]
    return {t.dtype for t in types if t.dtype in WIDE}


def _failure(deviation: Deviation, tolerance: float, precision: str, before: Subject, after: Subject) -> Failure:
    reason = (
        f"expected the same outputs within {tolerance:g} ({precision}); "
        f"found a relative error of {deviation.error:.3g} in output {deviation.output}"
    )
    return Failure(reason, deviation.output, deviation.example, before, after)
