"""Which ONNX Runtime loads what: the table that ships with instar is written from the released packages, and checked.

    python benchmarks/runtime_versions.py --environments FOLDER [--assets FOLDER] [--write-table] [--quick]

Every release gets an environment of its own with numpy. ``--write-table`` asks each of them for its kernels and
operators and writes ``targets/onnx/runtimes/table.json``. Then files of every kernel, format and spelling, and with
``--assets`` of three real networks, are loaded and run in several releases, as they are written without a runtime to
keep to and for each of three. Where the table and a release disagree, the exit code is 1. Outputs are compared with
those of the reference release in sessions that ask for exact products of bytes, and as they are, which counts where the
processor's products do not saturate. A network that rounds activations turns differences in the last place of floats
into codes that are one apart; that may move its outputs by as much as rounding itself does, which is their distance
from the float network's. Writes ``runtime_versions.json`` and ``runtime_versions.md``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper
from common.networks import QUICK, Networks
from common.run_files import EXACT
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

ORIGINAL = " original"
"""Ends the names of networks in float."""


@dataclass(frozen=True)
class Outcome:
    """A file in one release.

    Attributes:
        error: the runtime's words, None where it ran.
        difference: of its outputs from those of the reference release, relative to their size, with exact products.
        as_it_is: the same in a user's session.
    """

    error: str | None
    difference: float | None
    as_it_is: float | None


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
    saturates = session.products_saturate()
    session.CONFIG.update([session.EXACT_PRODUCTS])  # all kernels are offered, on any processor
    networks = Networks(given.assets, QUICK) if given.assets else None
    store = Store("runtime_versions", scratch() if given.quick else given.results, render, fresh=True, threads=1)
    releases = VERIFIED[1:4:2] if given.quick else VERIFIED
    for kept_to in (None, KEPT_TO[1]) if given.quick else (None, *KEPT_TO):
        with tempfile.TemporaryDirectory() as place:
            folder = given.files / (kept_to or "free") if given.files else Path(place)
            folder.mkdir(parents=True, exist_ok=True)
            rows = check(folder, files(networks, kept_to), given.environments, releases, kept_to)
            for row in rows.values():
                row["wrong"] = wrong(row, kept_to, saturates=saturates)
            for key, row in rows.items():
                store.rows[key] = row
        store.write()
        print(f"kept to {kept_to}: {len(rows)} files", flush=True)
    disagreeing = [key for key, row in store.rows.items() if row["wrong"]]
    print("\n".join(disagreeing) or "the table and the releases agree")
    return 1 if disagreeing else 0


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
            exact, plain = (None, None) if error is not None else apart(own, reference)
            row["outcomes"][version] = asdict(Outcome(error, exact, plain))
    add_rounding(rows, outputs[REFERENCE])
    return rows


def add_rounding(rows: Mapping[str, Row], outputs: Sequence[Path]) -> None:
    """How far the reference release's outputs are from those of the same network in float; nothing for other files."""
    pairs = zip(rows, outputs, strict=True)
    originals = {key.removesuffix(ORIGINAL): own for key, own in pairs if key.endswith(ORIGINAL)}
    for (key, row), own in zip(rows.items(), outputs, strict=True):
        original = next((path for network, path in originals.items() if key.startswith(f"{network} ")), None)
        row["rounding"] = 0.0
        if original is not None and original.exists() and own.exists():
            row["rounding"] = apart(own, original)[0]


def run(
    folder: Path, entries: list[dict[str, str]], environments: Path, version: str
) -> tuple[list[str | None], list[Path]]:
    """Errors and files of outputs in one release."""
    outputs = [folder / f"{version}-{number}.npz" for number in range(len(entries))]
    listed, out = folder / "list.json", folder / "out.json"
    listed.write_text(json.dumps([{**e, "outputs": str(o)} for e, o in zip(entries, outputs, strict=True)]))
    call(environment(environments, version), COMMON / "run_files.py", listed, out)
    return json.loads(out.read_text(encoding="utf-8"))["errors"], outputs


def apart(own: Path, reference: Path) -> tuple[float, float]:
    """The largest relative distance of an output from the reference release's: with exact products, and as it is."""
    far: dict[bool, float] = {True: 0.0, False: 0.0}
    with np.load(own, allow_pickle=False) as found, np.load(reference, allow_pickle=False) as expected:
        for name in set(expected) & set(found):
            a, b = found[name].astype(np.float64), expected[name].astype(np.float64)
            distance = float(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-12))
            far[name.startswith(EXACT)] = max(far[name.startswith(EXACT)], distance)
    return far[True], far[False]


def wrong(row: Row, kept_to: str | None, *, saturates: bool) -> list[str]:
    """Releases of which the table says something else than they do, or that compute something else."""
    found: list[str] = []
    for version, outcome in row["outcomes"].items():
        ran = outcome["error"] is None
        judged = (outcome["difference"],) if saturates else (outcome["difference"], outcome["as_it_is"])
        allowed = max(TOLERANCE, row["rounding"])
        if ran != (minor(version) in row["runs"]) or (ran and not all(value <= allowed for value in judged)):
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
    far = [[key, saturated(row), largest(row), row["rounding"]] for key, row in rows.items() if is_far(row)]
    if far:
        parts += [
            f"Files whose outputs differ between releases by more than {TOLERANCE:.0%}: differences in the last place "
            "become codes that are one apart, which counts as right up to what rounding costs, the distance of the "
            "reference release from the float network:",
            table(["file", "as it is", "with exact products", "reference from float"], far),
        ]
    disagreeing = [f"* {key}: {', '.join(row['wrong'])}" for key, row in rows.items() if row["wrong"]]
    return "\n\n".join([*parts, *(["The table disagrees with:", "\n".join(disagreeing)] if disagreeing else [])])


def largest(row: Row) -> float:
    """Of the differences between releases, with exact products."""
    return max((o["difference"] for o in row["outcomes"].values() if o["difference"] is not None), default=0.0)


def is_far(row: Row) -> bool:
    """Whether outputs differ by more than the last place explains."""
    return max(saturated(row), largest(row)) > TOLERANCE


def saturated(row: Row) -> float:
    """The same as a user's session computes."""
    return max((o["as_it_is"] for o in row["outcomes"].values() if o["as_it_is"] is not None), default=0.0)


if __name__ == "__main__":
    sys.exit(main())
