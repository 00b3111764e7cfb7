"""Which ONNX Runtime loads what: the table that ships with instar is written from the released packages, and checked.

    python benchmarks/runtime_versions.py --environments FOLDER [--assets FOLDER] [--write-table] [--quick]

Every release gets an environment of its own with numpy. ``--write-table`` asks each of them for its kernels and
operators and writes ``targets/onnx/runtimes/table.json``. Then files of every kernel, format and spelling, and with
``--assets`` of three real networks, are loaded and run in several releases, as they are written without a runtime to
keep to and for each of three. Where the table and a release disagree, the exit code is 1. Writes
``runtime_versions.json`` and ``runtime_versions.md``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper
from common.networks import QUICK, Networks
from common.runtime_files import File, network_files, small_files
from common.runtime_table import dumps, fold, minor
from common.store import RESULTS, Row, Store, scratch, table
from common.wheels import RELEASES, VERIFIED, call, environment

from instar.ir.files import atomic_write_text
from instar.targets.onnx import session
from instar.targets.onnx.runtimes.reach import reach_of

COMMON = Path(__file__).parent / "common"
TABLE = Path(__file__).parents[1] / "targets/onnx/runtimes/table.json"
KEPT_TO = ("1.18", "1.20", "1.22")
REFERENCE = "1.31.1"
OPSETS, IR_VERSIONS = range(18, 29), range(8, 15)
TOLERANCE = 0.05
"""Integer kernels round differently in the last place of activations; a wrong kernel is off by far more."""


@dataclass(frozen=True)
class Outcome:
    """A file in one release.

    Attributes:
        error: the runtime's words, None where it ran.
        difference: of its outputs from those of the reference release, relative to their size.
    """

    error: str | None
    difference: float | None


def main() -> int:
    """Write the table where asked, then check it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environments", type=Path, required=True, help="folder for an environment of every release")
    parser.add_argument("--assets", type=Path, help="folder of the evaluation set")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the JSON and the table")
    parser.add_argument("--write-table", action="store_true", help="ask every release and write the table anew")
    parser.add_argument("--quick", action="store_true", help="one runtime to keep to, two older releases")
    parser.add_argument("--files", type=Path, help="folder to keep the files in")
    given = parser.parse_args()
    if given.write_table:
        atomic_write_text(TABLE, dumps(fold([ask(given.environments, version) for version in RELEASES])))
    session.CONFIG.update([session.EXACT_PRODUCTS])  # all kernels are offered, on any processor
    networks = Networks(given.assets, QUICK) if given.assets else None
    store = Store("runtime_versions", scratch() if given.quick else given.results, render, fresh=True, threads=1)
    releases = VERIFIED[1:4:2] if given.quick else VERIFIED
    for kept_to in (None, KEPT_TO[1]) if given.quick else (None, *KEPT_TO):
        with tempfile.TemporaryDirectory() as place:
            folder = given.files / (kept_to or "free") if given.files else Path(place)
            folder.mkdir(parents=True, exist_ok=True)
            rows = check(folder, files(networks, kept_to), given.environments, releases, kept_to)
            for key, row in rows.items():
                store.rows[key] = row
        store.write()
        print(f"kept to {kept_to}: {len(rows)} files", flush=True)
    wrong = [key for key, row in store.rows.items() if row["wrong"]]
    print("\n".join(wrong) or "the table and the releases agree")
    return 1 if wrong else 0


def files(networks: Networks | None, kept_to: str | None) -> Iterator[File]:
    """All files for one runtime to keep to."""
    options = {"runtime": kept_to} if kept_to else {}
    return chain(small_files(options), network_files(networks, options) if networks else ())


def ask(environments: Path, version: str) -> Mapping[str, Any]:
    """What a release says of itself."""
    with tempfile.TemporaryDirectory() as folder:
        probes = Path(folder) / "probes"
        probes.mkdir()
        for opset in OPSETS:
            for ir_version in IR_VERSIONS:
                (probes / f"{opset}_{ir_version}.onnx").write_bytes(probe(opset, ir_version).SerializeToString())
        out = Path(folder) / "answer.json"
        call(environment(environments, version), COMMON / "registry_of_runtime.py", probes, out)
        return json.loads(out.read_text(encoding="utf-8"))


def probe(opset: int, ir_version: int) -> onnx.ModelProto:
    """A file that only its versions can keep from loading."""
    kind, info = onnx.TensorProto.FLOAT, onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "probe", [info("x", kind, [1])], [info("y", kind, [1])])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=ir_version)


def check(
    folder: Path, found: Iterator[File], environments: Path, releases: Sequence[str], kept_to: str | None
) -> dict[str, Row]:
    """A row for every file: what the table says and what the releases do."""
    entries: list[dict[str, str]] = []
    rows: dict[str, Row] = {}
    for number, file in enumerate(found):
        model, feeds = folder / f"{number}.onnx", folder / f"{number}.npz"
        model.write_bytes(file.model.SerializeToString())
        arrays: dict[str, Any] = dict(file.feeds)
        np.savez(feeds, **arrays)
        entries.append({"model": str(model), "feeds": str(feeds), "outputs": ""})
        reach = reach_of(file.model)
        rows[f"{kept_to or 'free'}: {file.name}"] = {
            "least": reach.least, "because": list(reach.because), "runs": list(reach.runs), "outcomes": {},
        }  # fmt: skip
    outputs: dict[str, list[Path]] = {}
    for version in dict.fromkeys((REFERENCE, *releases)):
        errors, outputs[version] = run(folder, entries, environments, version)
        for row, error, own, reference in zip(rows.values(), errors, outputs[version], outputs[REFERENCE], strict=True):
            difference = None if error is not None else apart(own, reference)
            row["outcomes"][version] = {"error": error, "difference": difference}
    for row in rows.values():
        row["wrong"] = wrong(row, kept_to)
    return rows


def run(
    folder: Path, entries: list[dict[str, str]], environments: Path, version: str
) -> tuple[list[str | None], list[Path]]:
    """Errors and files of outputs in one release."""
    outputs = [folder / f"{version}-{number}.npz" for number in range(len(entries))]
    listed, out = folder / "list.json", folder / "out.json"
    listed.write_text(json.dumps([{**e, "outputs": str(o)} for e, o in zip(entries, outputs, strict=True)]))
    call(environment(environments, version), COMMON / "run_files.py", listed, out)
    return json.loads(out.read_text(encoding="utf-8"))["errors"], outputs


def apart(own: Path, reference: Path) -> float:
    """The largest relative distance of an output from the reference release's."""
    with np.load(own, allow_pickle=False) as found, np.load(reference, allow_pickle=False) as expected:
        pairs = [(found[name].astype(np.float64), expected[name].astype(np.float64)) for name in expected]
    return max(float(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-12)) for a, b in pairs)


def wrong(row: Row, kept_to: str | None) -> list[str]:
    """Releases of which the table says something else than they do."""
    found: list[str] = []
    for version, outcome in row["outcomes"].items():
        ran = outcome["error"] is None
        if ran != (minor(version) in row["runs"]) or (ran and not outcome["difference"] <= TOLERANCE):
            found.append(version)
    if kept_to is not None and kept_to not in row["runs"]:
        found.append(f"not kept to {kept_to}")
    return found


def render(rows: Mapping[str, Row]) -> str:
    """How many files load where, by what they are kept to; then every file that does not load everywhere."""
    kept = list(dict.fromkeys(key.partition(":")[0] for key in rows))
    versions = list(dict.fromkeys(v for row in rows.values() for v in row["outcomes"]))
    lines: list[list[object]] = []
    for name in kept:
        own = [row for key, row in rows.items() if key.startswith(f"{name}:")]
        ran = [sum(row["outcomes"][v]["error"] is None for row in own if v in row["outcomes"]) for v in versions]
        lines.append([name, len(own), *ran, sum(bool(row["wrong"]) for row in own)])
    parts = [
        "Files that load and run in each release, by the runtime that they were kept to:",
        table(["kept to", "files", *versions, "table disagrees"], lines),
        "Files that need more than the oldest release, with what the one before lacks:",
        table(
            ["file", "least", "before it", "largest output difference"],
            [
                [key, row["least"], "; no ".join(row["because"]), largest(row)]
                for key, row in rows.items()
                if row["because"]
            ],
        ),
    ]
    disagreeing = [f"* {key}: {', '.join(row['wrong'])}" for key, row in rows.items() if row["wrong"]]
    return "\n\n".join([*parts, *(["The table disagrees with:", "\n".join(disagreeing)] if disagreeing else [])])


def largest(row: Row) -> float:
    """Of the differences between releases."""
    return max((o["difference"] for o in row["outcomes"].values() if o["difference"] is not None), default=0.0)


if __name__ == "__main__":
    sys.exit(main())
