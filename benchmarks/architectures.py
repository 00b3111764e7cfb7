"""Compiles architectures that the table of captures does not hold, as a whole, to ONNX at 40 % of their size.

    python benchmarks/architectures.py [--only 'timm/*,*/T5'] [--fresh]

Needs ``timm``, ``diffusers`` and ``transformers`` with what they import: ``torchvision``, ``scipy``, ``requests``,
``importlib_metadata``. None is a dependency of instar: ``pip install --no-deps timm==1.0.31 diffusers==0.42.1``,
and a torchvision that fits the installed torch. Networks have random weights and small configurations, so that each
takes seconds; batch is dynamic, and length where the network takes every length. Each is exported by
``torch.onnx.export(dynamo=True)`` as well, for the bytes of the float file and to know whether it takes the network.
Errors are relative to the norm of all outputs of the float module. Writes ``architectures.json``,
``architectures.md`` and the second part of ``docs/coverage.md``. Returns 1 where a number is wrong, an exception is
foreign, or something is refused that torch.onnx takes.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import math
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from architecture_cases import CAPTURED_AT, OTHER, Architecture, Call
from architecture_images import PIXELS
from architecture_sounds import SOUNDS
from architecture_text import architectures as text_architectures
from architecture_timm_diffusers import diffusers_architectures, timm_architectures
from common.store import RESULTS, Row, Store, scratch, selected, table
from coverage_page import write_second_part
from torch import nn
from torch.utils import _pytree as pytree

import instar
from instar.ir.errors import InfeasibleError, InstarError

BUDGET = "40%"
BATCHES = 4
ROW_FILE = "architectures.json"
FAULTS = ("refused", "foreign", "wrong", "fixed")


def architectures() -> Iterator[Architecture]:
    """Every network of the table."""
    yield from text_architectures()
    yield from SOUNDS
    yield from PIXELS
    yield from timm_architectures()
    yield from diffusers_architectures()


def main() -> int:
    """Compile those that have no row yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="*", help="comma-separated patterns of source/name")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the JSON and the table")
    parser.add_argument("--fresh", action="store_true", help="forget the rows of earlier runs")
    parser.add_argument("--quick", action="store_true", help="two networks, results are thrown away")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    folder = scratch() if given.quick else given.results
    store = Store("architectures", folder, render, fresh=given.fresh or given.quick, threads=1)
    chosen = [a for a in architectures() if selected(f"{a.source}/{a.name}", given.only)]
    for case in chosen[: 2 if given.quick else None]:
        key = f"{case.source}/{case.name}"
        if key not in store.rows:
            store.put(key, measure(case))
            print(key, {k: v for k, v in store.rows[key].items() if v not in (None, "")}, flush=True)
            gc.collect()
    for case in chosen[: 2 if given.quick else None]:
        key = f"{case.source}/{case.name}"
        if "torch" not in store.rows[key]:
            store.put(key, store.rows[key] | float_file(case, case.load(), call(case, 0, *CAPTURED_AT)))
    if not given.quick and given.results == RESULTS:
        write_second_part()
    return 1 if any(is_fault(row) for row in store.rows.values()) else 0


def is_fault(row: Row) -> bool:
    """Wrong, foreign, fixed, or refused although torch.onnx takes the network."""
    return row["outcome"] in FAULTS and (row["outcome"] != "refused" or row["torch"] == "exports")


def measure(case: Architecture) -> Row:
    """Load, compile, compare; what torch's own exporter makes of a network that does not compile."""
    model, example = case.load(), call(case, 0, *CAPTURED_AT)
    with torch.no_grad():
        for size in (CAPTURED_AT, OTHER):
            model(**call(case, 1, *size))  # a configuration of ours that does not run is no outcome
    row: Row = {"source": case.source, "parameters": sum(p.numel() for p in model.parameters())}
    row["dynamic"] = " ".join(sorted({d for axes in case.dynamic.values() for d in axes.values()}))
    start = time.process_time()
    row |= _attempt(case, model, example)
    row["cpu_s"] = round(row.pop("cpu_s", time.process_time() - start), 1)
    return row | ({} if row["outcome"] == "compiled" else float_file(case, model, example))


def call(case: Architecture, seed: int, batch: int, length: int) -> Call:
    """Inputs of a size, the same for the same seed."""
    torch.manual_seed(seed)
    return case.make(batch, length)


def _attempt(case: Architecture, model: nn.Module, example: Call) -> Row:
    """Outcome, bytes and errors of a compilation."""
    start = time.process_time()
    try:
        compiled = instar.compile(
            model, (), example, target="onnx", budget=instar.Budget(size=BUDGET),
            calibration=[call(case, seed, *CAPTURED_AT) for seed in range(1, BATCHES + 1)],
            dynamic_shapes=case.dynamic_shapes(),
        )  # fmt: skip
    except InfeasibleError as error:
        return {"outcome": "infeasible", "detail": str(error)}
    except InstarError as error:
        return {"outcome": "refused", "detail": f"{type(error).__name__}: {error}"}
    except Exception as error:  # noqa: BLE001 - that is what is looked for
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__module__}.{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
        return {"outcome": "foreign", "detail": text}
    seconds = time.process_time() - start
    return _compared(case, model, compiled) | {"cpu_s": seconds}


def _compared(case: Architecture, model: nn.Module, compiled: Any) -> Row:
    """Errors at both sizes, on inputs that no decision saw."""
    pair = compiled.report.data.chosen_loss
    row: Row = {
        "bytes": compiled.nbytes,
        "original_bytes": compiled.report.data.model.nbytes,
        "predicted": math.sqrt(pair.predicted) if pair else None,
        "measured": math.sqrt(pair.measured) if pair else None,
        "outcome": "compiled",
        "detail": "",
    }
    fixed = [n.argument("name") for n in compiled.captured.inputs if _lost(n, case)]
    if fixed:
        return row | {"outcome": "fixed", "detail": f"dynamic dimensions became numbers: {fixed}"}
    for name, size in (("error", CAPTURED_AT), ("error_other", OTHER)):
        inputs = call(case, 100, *size)
        try:
            found = compiled(**inputs)
        except Exception as error:  # noqa: BLE001 - an artifact that does not run is a fault
            return row | {"outcome": "wrong", "detail": f"does not run at {size}: {type(error).__name__}: {error}"}
        with torch.no_grad():
            row[name] = distance(found, model(**inputs))
    return row | exactness(case, compiled)


def _lost(node: Any, case: Architecture) -> bool:
    """Whether an input has fewer dynamic dimensions than it was asked to have."""
    asked = len(case.dynamic.get(str(node.argument("name")), {}))
    return sum(not isinstance(d, int) for d in node.tensor_type.shape) < asked


def distance(found: Any, expected: Any) -> float:
    """Relative error over all outputs: the norm of the difference over the norm of what was expected."""
    pairs = list(zip(pytree.tree_leaves(found), pytree.tree_leaves(expected), strict=True))
    kept = [(a.double(), b.double()) for a, b in pairs if isinstance(b, torch.Tensor) and b.is_floating_point()]
    kept = [(torch.where(b.abs() < 1e30, a, 0), torch.where(b.abs() < 1e30, b, 0)) for a, b in kept]
    difference = sum(float((a - b).square().sum()) for a, b in kept)
    return math.sqrt(difference / max(sum(float(b.square().sum()) for _, b in kept), 1e-30))


def exactness(case: Architecture, compiled: Any) -> Row:
    """The artifact against the network with the decoded weights, so that a wrong number is not taken for coarse bits.

    The graph with the plan in it holds the decoded weights; it is evaluated operator by operator by torch.
    """
    from instar.ir.evaluate import call as evaluate

    worst = 0.0
    for size in (CAPTURED_AT, OTHER):
        inputs = call(case, 100, *size)
        with torch.no_grad():
            worst = max(worst, distance(compiled(**inputs), evaluate(compiled.graph, (), inputs)))
    return {"beside_graph": worst} | (
        {} if worst < 0.05 else {"outcome": "wrong", "detail": "artifact and graph differ"}
    )


def float_file(case: Architecture, model: nn.Module, example: Call) -> Row:
    """Bytes of torch's own export, or that it refuses the network, or fixes a dimension that was to stay open."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "float.onnx"
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                program = torch.onnx.export(
                    model, (), path, kwargs=example, dynamic_shapes=case.dynamic_shapes(), dynamo=True, verbose=False
                )
        except Exception as error:  # noqa: BLE001 - whatever it says
            return {"torch": f"refuses: {type(error).__name__}"}
        fixed = _fixed_by_torch(program, case)
        if fixed:
            return {"torch": f"fixes {', '.join(fixed)}"}
        return {"torch": "exports", "float_bytes": sum(f.stat().st_size for f in Path(folder).iterdir())}


def _fixed_by_torch(program: Any, case: Architecture) -> list[str]:
    """Dimensions that were asked for and are numbers in torch's file: it falls back to the sizes of the example."""
    shapes = {value.name: value.shape for value in program.model.graph.inputs}
    asked = [(dim, shapes[name][axis]) for name, axes in case.dynamic.items() for axis, dim in axes.items()]
    return sorted({dim for dim, size in asked if isinstance(size, int)})


def worst_beside_graph(rows: Mapping[str, Row]) -> str:
    """The largest distance between an artifact and the graph with its plan, in words."""
    worst, key = max((row["beside_graph"], key) for key, row in rows.items() if row.get("beside_graph") is not None)
    return f"the largest distance is {worst:.1e} ({key.split('/', 1)[1]})"


COLUMNS = (
    "network", "source", "parameters", "dynamic", "float file MB", "file MB", "share", "predicted error", "error",
    "error, other size", "processor s", "outcome", "torch.onnx",
)  # fmt: skip


def render(rows: Mapping[str, Row]) -> str:
    """The table, then every message."""
    lines = [_line(key, row) for key, row in rows.items()]
    others = [(k, r["outcome"], r.get("torch"), r["detail"]) for k, r in rows.items() if r["outcome"] != "compiled"]
    counts = ", ".join(
        f"{sum(r['outcome'] == o for r in rows.values())} {o}" for o in ("compiled", "infeasible", *FAULTS)
    )
    text = f"{counts}.\n\n{table(COLUMNS, lines)}"
    return f"{text}\n\n{table(('network', 'outcome', 'torch.onnx', 'what it says'), others)}" if others else text


def _line(key: str, row: Row) -> tuple[object, ...]:
    size, original = row.get("bytes"), row.get("original_bytes")
    share = f"{100 * size / original:.1f} %" if size and original else None
    mb = [round(row[k] / 1e6, 3) if row.get(k) else None for k in ("float_bytes", "bytes")]
    errors = (row.get("predicted"), row.get("error"), row.get("error_other"))
    return (
        key.split("/", 1)[1], row["source"], row["parameters"], row["dynamic"], *mb, share, *errors, row["cpu_s"],
        row["outcome"], row.get("torch"),
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
