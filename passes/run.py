"""Runs passes in order, each with the verifier and the numeric check. The first that breaks the model is named."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import cast

from ..ir.errors import InstarError, PassError
from ..ir.graph import Graph
from ..ir.verify import verify
from .base import KEPT_REFUSALS, CheckOutcome, Pass, PassRecord, PassResult
from .check import Checker, Failure, NumericCheck
from .culprit import find_culprit, marked_text

__all__ = ["NumericCheck", "run_passes"]


def run_passes(
    graph: Graph, passes: Sequence[Pass], check: NumericCheck | None = None
) -> tuple[Graph, list[PassRecord]]:
    """Run passes one after the other.

    Args:
        graph: the graph; it stays as it was.
        passes: in this order.
        check: compares the graph before and after every pass on these inputs; ``None`` leaves the comparison out.

    Returns:
        The last graph, and one record per pass.

    Raises:
        PassError: a pass failed, gave a graph that is not well formed, or changed what the model computes. The message
            names the pass, the passes before it and the first node that deviates; a note shows the text around it.
    """
    checker = Checker(check) if check is not None else None
    records: list[PassRecord] = []
    for pass_ in passes:
        where = _where(pass_, records)
        graph, record = _run_one(pass_, graph, checker, where)
        records.append(record)
    return graph, records


def _run_one(pass_: Pass, before: Graph, checker: Checker | None, where: str) -> tuple[Graph, PassRecord]:
    start = time.perf_counter()
    result = _apply(pass_, before, where)
    seconds = time.perf_counter() - start
    start = time.perf_counter()
    _verify(result.graph, before, where)
    verify_seconds = time.perf_counter() - start
    outcome = None
    if checker is not None:
        outcome, failure = _compare(checker, pass_, before, result.graph, where)
        if failure is not None:
            raise _broken(where, before, result.graph, failure)
    return result.graph, PassRecord(
        name=pass_.name,
        exact=pass_.exact,
        seconds=seconds,
        nodes_before=len(before.nodes()),
        nodes_after=len(result.graph.nodes()),
        fired=dict(result.fired),
        refused=result.refused[:KEPT_REFUSALS],
        refused_count=len(result.refused),
        verify_seconds=verify_seconds,
        check=outcome,
    )


def _apply(pass_: Pass, graph: Graph, where: str) -> PassResult:
    try:
        result = pass_(graph)
    except InstarError as error:
        raise PassError(f"{where}: {error}") from error
    except Exception as error:
        raise PassError(
            f"{where}: failed with {type(error).__name__}: {error}; leave the pass out and report it"
        ) from error
    if not isinstance(cast(object, result), PassResult):
        raise PassError(f"{where}: expected a PassResult from it; found {type(result).__name__}")
    return result


def _verify(graph: Graph, before: Graph, where: str) -> None:
    if graph is before:
        return
    if graph.inputs != before.inputs:
        raise PassError(f"{where}: expected the graph to keep its inputs {before.inputs}; found {graph.inputs}")
    try:
        verify(graph)
    except InstarError as error:
        raise PassError(f"{where}: left a graph that is not well formed: {error}") from error


def _compare(
    checker: Checker, pass_: Pass, before: Graph, after: Graph, where: str
) -> tuple[CheckOutcome, Failure | None]:
    try:
        return checker(pass_, before, after)
    except PassError as error:
        raise PassError(f"{where}: the numeric check could not run: {error}") from error


def _broken(where: str, before: Graph, after: Graph, failure: Failure) -> PassError:
    node = find_culprit(before, after, failure)
    if node is None:
        return PassError(f"{where}: {failure.reason}; leave the pass out and report it")
    error = PassError(
        f"{where}: {failure.reason}; the first value that deviates is {node!r} ({node.origin}); "
        "leave the pass out and report it"
    )
    error.add_note(marked_text(after, node))
    return error


def _where(pass_: Pass, ran: Sequence[PassRecord]) -> str:
    before = ", ".join(r.name for r in ran) or "no other pass"
    return f"pass {pass_.name} (after {before})"
