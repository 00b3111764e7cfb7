"""``target_options.runtime``: what keeps a model to what an older ONNX Runtime runs."""

from __future__ import annotations

from .needs import Requirement
from .table import table

FUSED = "fused"
"""The spelling of attention that has an operator of its own."""

ATTENTION = Requirement("Attention", "", 23, (("T1", "float"), ("T2", "float")))
"""What it asks for."""


def beyond(version: str | None, opset: int | None, ir_version: int | None, attention: str | None) -> list[str]:
    """What of a user's options the runtime to keep to does not have: a line each, and what it has in its place.

    Raises:
        ConfigError: no such runtime is known.
    """
    if version is None:
        return []
    reads = table().reads[table().number(version)]
    found = [
        f"target_options.{name}: expected at most {most}, which ONNX Runtime {version} reads, found {given}; "
        "lower it, or raise target_options.runtime"
        for name, given, most in (("opset", opset, reads.opset), ("ir_version", ir_version, reads.ir_version))
        if given is not None and given > most
    ]
    if attention == FUSED and not has(version, ATTENTION):
        found.append(
            f"target_options.attention: expected 'unfused' for ONNX Runtime {version}, found 'fused', which needs "
            f"{least(ATTENTION)}; leave it out, or raise target_options.runtime"
        )
    return found


def has(version: str | None, *requirements: Requirement) -> bool:
    """Whether a runtime has all that something asks for; the one that is installed does."""
    if version is None:
        return True
    number = table().number(version)
    return all(number in need.met(table()) for need in requirements)


def lacks(version: str | None, *requirements: Requirement) -> str:
    """What a runtime lacks and which one has it; empty where it lacks nothing."""
    if version is None:
        return ""
    number = table().number(version)
    missing = [need for need in requirements if number not in need.met(table())]
    words = [f"{need.lacking(number, table())}, which needs ONNX Runtime {least(need)}" for need in missing]
    return "; ".join(words)


def least(*requirements: Requirement) -> str:
    """The least runtime that meets all; empty where none does."""
    found = frozenset(table().all).intersection(*(need.met(table()) for need in requirements))
    return table().names[min(found)] if found else ""
