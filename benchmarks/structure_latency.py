"""Where structure is faster under ONNX Runtime: one linear layer dense, in integers, of low rank and Monarch.

    OMP_NUM_THREADS=1 python benchmarks/structure_latency.py [--sizes 512,1024] [--rows 1,16,128] [--fresh]

Writes ``structure_latency.json`` and ``structure_latency.md``. Every row is an ``n x n`` weight and ``M`` rows of
inputs. What is timed are the very cases that a compile with a latency budget times to price a layer's options, all
cases of a row taking turns, so that the table shows what prices say; each is also timed a second time as a session
that a user calls (``run`` with arrays), and the largest disagreement of the two as a share of dense float is shown.
Factors in integers (``int8:channel @ lowrank``) are decoded while the file loads and take what float factors take.
Weights have no meaning: projecting 4096 x 4096 is another benchmark's question.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from common.store import RESULTS, Row, Store, scratch, table

from instar.ir.constants import ConstantHandle
from instar.ir.context import Context
from instar.ir.layers import Layer, find_layers
from instar.ir.options import KEPT, NONE, Option, activations_of
from instar.ir.types import TensorType
from instar.passes.formats import format as parse_format
from instar.targets.onnx.cases import Case, LayerCases, case_models
from instar.targets.onnx.latency import measure
from instar.targets.onnx.options import OnnxOptions
from instar.targets.onnx.session import interleaved_ms, make_session
from instar.targets.onnx.target import OnnxTarget

SIZES = (512, 1024, 2048, 4096)
ROWS = (1, 16, 128)
SHARES = (32, 16, 8, 4)
"""Ranks are the size divided by these."""

BLOCKS = (4, 8, 16, 32)
INTEGERS = ("int8:channel", "int7:channel", "int4:g32")
"""With inputs quantized as they come; 8-bit weights are left out where the processor's products saturate."""


def main() -> None:
    """Measure every selected row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the JSON and the table")
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)))
    parser.add_argument("--rows", default=",".join(map(str, ROWS)))
    parser.add_argument("--seconds", type=float, default=0.25, help="spent on each case")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--fresh", action="store_true", help="forget the rows of earlier runs")
    parser.add_argument("--quick", action="store_true", help="short runs of small layers: checks that the script runs")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    folder = scratch() if given.quick else given.results
    store = Store("structure_latency", folder, render, fresh=given.fresh or given.quick, threads=given.threads)
    sizes, rows = (
        ((64,), (1, 4)) if given.quick else ([int(t) for t in text.split(",")] for text in (given.sizes, given.rows))
    )
    for size, count in itertools.product(sizes, rows):
        key = f"n={size} M={count}"
        if key not in store.rows:
            store.put(key, measured(size, count, given.threads, 0.02 if given.quick else given.seconds))
            print(key, store.rows[key]["ms"], flush=True)
    print(render(store.rows))


def measured(size: int, count: int, threads: int, seconds: float) -> Row:
    """Milliseconds of one layer under every option, as prices have them and as a session that is called."""
    layer = linear(size, count)
    cases = dict(cases_of(layer))
    prices = measure(cases.values(), threads=threads, seconds=seconds)
    called = calls_ms(list(cases.values()), threads, seconds)
    return {
        "n": size,
        "M": count,
        "ms": {label: prices[case.key] for label, case in cases.items()},
        "called_ms": {label: called[case.key] for label, case in cases.items()},
        "nbytes": {label: nbytes(label, size) for label in cases},
    }


def linear(size: int, count: int) -> Layer:
    """``[M, n]`` times ``[n, n]``."""
    context = Context()
    kind = TensorType(torch.float32, (size, size))
    weight = context.constant_of(ConstantHandle("layer.weight", kind, lambda: torch.zeros(size, size)))
    x = context.input("x", TensorType(torch.float32, (count, size)))
    graph = context.graph([x], [context.node("aten.linear.default", x, weight)])
    return find_layers(graph, min_elements=0)[0][0]


def cases_of(layer: Layer) -> list[tuple[str, Case]]:
    """Label -> case: float, integers, ranks and Monarch."""
    cases, target, use = LayerCases({}, OnnxOptions()), OnnxTarget(OnnxOptions()), layer.uses[0]
    found: list[tuple[str, Option]] = [("fp32", KEPT)]
    for text in INTEGERS:
        options = target.candidates(layer, [text], activations_of(["dynamic_int8"]), "rtn").options
        found += [(f"{text}, int8 inputs", o) for o in options[:1]]
    for text in structures(layer):
        found += [(text, o) for o in target.candidates(layer, [text], (NONE,), "svd").options[:1]]
    return [(label, cases.case(layer, use, option)) for label, option in found]


def structures(layer: Layer) -> list[str]:
    """Spellings that accept the layer's shape."""
    size = layer.rows
    texts = [*(f"lowrank:r{size // share}" for share in SHARES), *(f"monarch:b{b}" for b in BLOCKS)]
    return [text for text in texts if parse_format(text).refuses(layer.stored_shape) is None]


def calls_ms(cases: Sequence[Case], threads: int, seconds: float) -> dict[str, float]:
    """Median milliseconds of sessions that are called with arrays and return arrays, taking turns."""
    calls = {
        case.key: partial(make_session(model.model, threads=threads).run, None, model.feeds)
        for case, model in case_models(cases)
    }
    times = interleaved_ms(list(calls.values()), seconds=seconds, estimate=statistics.median)
    return dict(zip(calls, times, strict=True))


def nbytes(label: str, size: int) -> int:
    """Bytes of the stored weight."""
    return parse_format(label.partition(",")[0]).nbytes((size, size))


def render(rows: Mapping[str, Row]) -> str:
    """Times as shares of dense float, then where structure is faster."""
    labels = list(dict.fromkeys(general(label, row["n"]) for row in rows.values() for label in row["ms"]))
    columns = ["n", "M", "fp32, ms", *labels[1:], "largest disagreement"]
    lines: list[list[object]] = []
    for row in rows.values():
        ms = {general(label, row["n"]): time for label, time in row["ms"].items()}
        shares = [round(ms[label] / ms["fp32"], 3) if label in ms else None for label in labels[1:]]
        lines.append([row["n"], row["M"], ms["fp32"], *shares, f"{disagreement(row):.2f}"])
    return (
        "Times as shares of dense float's (`fp32`, in ms), as prices see them; bytes do not depend on M. The last "
        "column is the largest difference between a price and a session that is called, as shares of float.\n\n"
        f"{table(columns, lines)}\n\n## Where structure is faster\n\n{faster(rows)}"
    )


def general(label: str, size: int) -> str:
    """A label in which ranks are shares of the size."""
    head, mark, rank = label.rpartition(":r")
    return f"{head}:r(n/{size // int(rank)})" if mark else label


def disagreement(row: Row) -> float:
    """Of price and call, relative to dense float in each, over all options."""
    own, called = row["ms"], row["called_ms"]
    return max(abs(own[t] / own["fp32"] - called[t] / called["fp32"]) for t in own)


def faster(rows: Mapping[str, Row]) -> str:
    """Per row: the best integer option, and the structures that are faster than float and than it."""
    columns = ["n", "M", "fastest integer", "faster than float", "faster than integers too"]
    lines: list[list[object]] = []
    for row in rows.values():
        ms = row["ms"]
        integers = {t: v for t, v in ms.items() if t.endswith("inputs")}
        structure = {t: v for t, v in ms.items() if t != "fp32" and t not in integers}
        best = min(integers, key=lambda t: integers[t], default=None)
        least = integers[best] if best is not None else ms["fp32"]
        below = [
            [t for t, v in sorted(structure.items(), key=lambda e: e[1]) if v < limit] for limit in (ms["fp32"], least)
        ]
        name = None if best is None else f"{best}: {least / ms['fp32']:.2f} x"
        lines.append([row["n"], row["M"], name, *(", ".join(each) or "none" for each in below)])
    return table(columns, lines)


if __name__ == "__main__":
    main()
