"""What keeping to an older ONNX Runtime costs: bytes and time of three networks, a network at a time.

    OMP_NUM_THREADS=1 python benchmarks/reach_cost.py --assets FOLDER

Weights are rounded to nearest in groups of 32 with 4 bits (linear layers under ``nbits``, embeddings packed), the rest
as it was; each network as it is written without a runtime to keep to, in both spellings of attention, and kept to each
of several. All files of a network take turns. Timed on the newest runtime that is installed. Writes
``reach_cost.json`` and ``reach_cost.md``.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from common.networks import QUICK, Networks
from common.runtime_files import NETWORKS, offered, target_of
from common.store import Row, Store, arguments, scratch, selected, table

from instar.compilation.offer import Offer
from instar.compilation.rough_build import build_rough
from instar.ir.options import Option
from instar.targets.onnx.artifact import OnnxArtifact
from instar.targets.onnx.session import interleaved_ms, make_session

KEPT_TO = (None, "1.22", "1.20", "1.18")
FORMAT = "int4:g32"
SECONDS = 2.0


def main() -> None:
    """Measure every selected network."""
    given = arguments(__doc__).parse_args()
    torch.set_num_threads(given.threads)
    networks = Networks(given.assets, QUICK)
    folder = scratch() if given.quick else given.results
    store = Store("reach_cost", folder, render, fresh=given.fresh, threads=given.threads)
    for name in NETWORKS:
        if selected(name, given.only) and name not in store.rows:
            store.put(name, measure(networks, name, given.threads))
    print(render(store.rows))


def measure(networks: Networks, name: str, threads: int) -> Row:
    """Bytes, the least runtime and milliseconds by what the network is kept to."""
    batch, length = networks.shapes(name)[0]
    inputs = networks.timed_inputs(name, batch, length)
    found: dict[str, OnnxArtifact] = {}
    for version in KEPT_TO:
        for attention in ("fused", "unfused") if version is None else ("unfused",):
            options = {"threads": threads, "attention": attention} | ({"runtime": version} if version else {})
            offer = offered(networks.model(name), networks.captured_with(name), options, networks.dynamic_shapes(name))
            found[f"{version or 'free'} {attention}"] = build(offer)
    sessions = [make_session(a.lowered.proto(), threads=threads) for a in found.values()]
    feeds = [dict(zip(a.lowered.input_names, (t.numpy() for t in inputs), strict=True)) for a in found.values()]
    calls = [partial(s.run, None, f) for s, f in zip(sessions, feeds, strict=True)]
    times = interleaved_ms(calls, seconds=SECONDS, least=11, estimate=statistics.median)
    rows = {
        key: {"nbytes": a.nbytes, "ms": ms, "least": a.reach.least, "notes": list(a.notes)}
        for (key, a), ms in zip(found.items(), times, strict=True)
    }
    return {"shape": f"{batch}x{length}", "kept": rows}


def build(offer: Offer) -> OnnxArtifact:
    """Every layer in few bits that a kernel of few bits reads."""
    cleaned = offer.cleaned
    chosen: dict[str, Option] = {}
    for layer in cleaned.layers:
        usual = [o for o in offer.options[layer.name] if o.format == FORMAT and o.kernel in ("nbits", "float")]
        if usual and layer.kind in ("linear", "embedding", "conv"):
            chosen[layer.name] = next((o for o in usual if o.kernel == "nbits"), usual[0])
    built = build_rough(cleaned.graph, cleaned.layers, chosen, {}, target_of(offer), cleaned.request.example)
    assert isinstance(built, OnnxArtifact)
    return built


def render(rows: Mapping[str, Row]) -> str:
    """A line for every network and runtime; shares of the faster of the two that are kept to none."""
    lines: list[list[Any]] = []
    for name, row in rows.items():
        free = min((r for key, r in row["kept"].items() if key.startswith("free")), key=lambda r: r["ms"])
        for key, r in row["kept"].items():
            shares = [r["nbytes"] / free["nbytes"], r["ms"] / free["ms"]]
            lines.append([f"{name} {row['shape']}", key, r["least"], r["nbytes"] / 1e6, r["ms"], *shares])
    return table(["network", "kept to", "loads from", "MB", "ms", "x bytes", "x time"], lines)


if __name__ == "__main__":
    main()
