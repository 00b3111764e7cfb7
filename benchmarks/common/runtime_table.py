"""What several ONNX Runtimes said of themselves, folded into the table that ships with the ONNX target."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import onnx.defs

DOMAINS = ("", "com.microsoft")
OLDEST_OPSET, NEWEST_OPSET = 18, 28
"""Operator sets that files may be written in."""

OPEN = 2**31 - 1
"""The last version of a kernel that is for one version of an operator only."""

Types = dict[str, tuple[str, ...]]
Key = tuple[str, str, int, int]


def fold(answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The table of answers that are ordered by version; see ``targets/onnx/runtimes/table.py`` for its fields."""
    names = [minor(answer["version"]) for answer in answers]
    read = [answer["reads"] for answer in answers]
    return {
        "checked": [answer["version"] for answer in answers],
        "runtimes": {
            name: {"opset": max(opset for opset, _ in files), "ir_version": max(ir for _, ir in files)}
            for name, files in zip(names, read, strict=True)
        },
        "kernels": _kernels(answers, names),
        "schemas": _schemas(answers, names),
    }


def minor(version: str) -> str:
    """``1.20.1 -> 1.20``."""
    return ".".join(version.split(".")[:2])


def dumps(table: Mapping[str, Any]) -> str:
    """One operator a line, so that a difference can be read."""
    parts = [f'"checked": {json.dumps(table["checked"])}', f'"runtimes": {json.dumps(table["runtimes"])}']
    for name in ("kernels", "schemas"):
        lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in sorted(table[name].items())]
        parts.append(f'"{name}": {{\n' + ",\n".join(lines) + "\n}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _kernels(answers: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, list[Any]]:
    """``domain::operator`` -> ``[first version, last version or null, types, since, until or null]``."""
    seen: dict[Key, dict[str, list[int]]] = {}
    for number, answer in enumerate(answers):
        for domain, name, first, last, types in answer["kernels"]:
            if domain in DOMAINS and _reachable(domain, name, first, last):
                text = json.dumps(_short(types), sort_keys=True)
                seen.setdefault((domain, name, first, last), {}).setdefault(text, []).append(number)
    result: dict[str, list[Any]] = {}
    for (domain, name, first, last), found in sorted(seen.items()):
        spans: dict[tuple[str, str | None], list[Types]] = {}
        for text, numbers in found.items():
            types = {k: tuple(v) for k, v in json.loads(text).items()}
            for span in _spans(numbers, names):
                spans.setdefault(span, []).append(types)
        entries = result.setdefault(f"{domain}::{name}", [])
        for (since, until), kinds in spans.items():
            entries += [[first, None if last == OPEN else last, k, since, until] for k in merged(kinds)]
    return result


def merged(kinds: Iterable[Types]) -> list[Types]:
    """Constraints that differ in one place only become one."""
    found = list(kinds)
    joined = True
    while joined:
        joined = False
        for i, a in enumerate(found):
            for b in found[i + 1 :]:
                places = [name for name in a if a[name] != b.get(name)]
                if a.keys() == b.keys() and len(places) <= 1:
                    found.remove(b)
                    found[i] = {**a, **{p: tuple(dict.fromkeys((*a[p], *b[p]))) for p in places}}
                    joined = True
                    break
            if joined:
                break
    return found


def _short(types: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Types of tensors alone: no network that is written has values of others."""
    return {
        name: sorted(t.removeprefix("tensor(").removesuffix(")") for t in kinds if t.startswith("tensor("))
        for name, kinds in types.items()
        if any(t.startswith("tensor(") for t in kinds)
    }


def _reachable(domain: str, name: str, first: int, last: int) -> bool:
    """Whether a kernel is for a version of its operator that some operator set from the oldest on has."""
    if domain:
        return True
    versions = {
        onnx.defs.get_schema(name, opset, domain).since_version
        for opset in range(OLDEST_OPSET, NEWEST_OPSET + 1)
        if onnx.defs.has(name, opset, domain)
    }
    return any(first == v or (first < v <= last and last != OPEN) for v in versions)


def _schemas(answers: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, list[Any]]:
    """Operator -> ``[attributes, inputs, outputs, since, until or null]``, one for every change."""
    seen: dict[str, dict[str, list[int]]] = {}
    for number, answer in enumerate(answers):
        for name, attributes, inputs, outputs in answer["schemas"]:
            said = json.dumps([sorted(attributes), inputs, outputs])
            seen.setdefault(name, {}).setdefault(said, []).append(number)
    return {
        name: [[*json.loads(said), *span] for said, numbers in found.items() for span in _spans(numbers, names)]
        for name, found in sorted(seen.items())
    }


def _spans(numbers: Sequence[int], names: Sequence[str]) -> list[tuple[str, str | None]]:
    """Runs of consecutive versions, as first and last one; the last is None where it is the newest of all."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return [(names[run[0]], names[run[-1]] if run[-1] + 1 < len(names) else None) for run in runs]
