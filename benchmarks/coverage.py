"""Captures the networks of the coverage table and checks each one; writes docs/coverage.md and a JSON beside it.

python benchmarks/coverage.py [--assets FOLDER] [--only TEXT]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from coverage_models import INPUTS, Case, asset_cases, cache_cases, dims, limit_cases, transformers_cases
from coverage_page import second_part
from torch.utils import _pytree as pytree
from transformers.integrations.executorch import register_dynamic_cache_export_support

from instar.ir.capture import capture
from instar.ir.evaluate import call
from instar.ir.files import atomic_write_json, atomic_write_text
from instar.ir.graph import Graph
from instar.ir.parse import parse_graph
from instar.ir.verify import verify

ROOT = Path(__file__).resolve().parent.parent
CAPTURED_AT, OTHER = (2, 8), (3, 13)
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Row:
    """What became of one network; ``error`` is empty where everything held.

    ``max_error`` is relative to the largest output, over both sizes and all outputs.
    """

    name: str
    nodes: int = 0
    ops: int = 0
    seconds: float = 0.0
    dynamic: str = ""
    max_error: float = 0.0
    module: str = ""
    text: str = ""
    error: str = ""


def measure(case: Case) -> Row:
    """Capture one network and check it in every way."""
    model, inputs = case.load(), INPUTS[case.kind]
    start = time.perf_counter()
    graph = capture(model, (), inputs.make(*CAPTURED_AT), dynamic_shapes=dims(inputs))
    seconds = time.perf_counter() - start
    verify(graph)
    return Row(
        case.name,
        nodes=len(graph.nodes()),
        ops=len(graph.ops()),
        seconds=round(seconds, 2),
        dynamic=", ".join(sorted(dynamic_dims(graph))),
        max_error=max(difference(graph, model, inputs.make(*size)) for size in (CAPTURED_AT, OTHER)),
        module=module_status(graph, model, inputs),
        text="identical" if round_trip(graph) == graph.text() else "differs",
    )


def dynamic_dims(graph: Graph) -> set[str]:
    """Names of the dimensions in the input types."""
    return {str(d) for n in graph.inputs for d in n.tensor_type.shape if not isinstance(d, int)}


def round_trip(graph: Graph) -> str:
    """The text of the parsed text."""
    return parse_graph(graph.text()).text()


def difference(graph: Graph, model: torch.nn.Module, arguments: dict[str, torch.Tensor]) -> float:
    """Largest relative difference between the graph and the module over all outputs.

    Raises:
        ValueError: the outputs differ in structure.
    """
    with torch.no_grad():
        return distance(call(graph, (), arguments), model(**arguments))


def distance(found: Any, expected: Any) -> float:
    """Largest relative difference between two nested outputs."""
    found_leaves, expected_leaves = pytree.tree_leaves(found), pytree.tree_leaves(expected)
    if type(found) is not type(expected) or len(found_leaves) != len(expected_leaves):
        raise ValueError(f"outputs differ in structure: {type(found).__name__} and {type(expected).__name__}")
    worst = 0.0
    for a, b in zip(found_leaves, expected_leaves, strict=True):
        if isinstance(b, torch.Tensor):
            scale = max(float(b.double().abs().max()), 1e-9)
            worst = max(worst, float((a.double() - b.double()).abs().max()) / scale)
    return worst


def module_status(graph: Graph, model: torch.nn.Module, inputs: Any) -> str:
    """Whether the FX module equals the model, and whether it captures again to the same text."""
    module = graph.to_module()
    arguments = inputs.make(*OTHER)
    with torch.no_grad():
        if distance(module(**arguments), model(**arguments)) > TOLERANCE:
            return "differs"
    again = capture(module, (), inputs.make(*CAPTURED_AT), dynamic_shapes=dims(inputs))
    verify(again)
    return "same text again" if again.text() == graph.text() else "equal, other text"


def attempt(case: Case) -> Row:
    """:func:`measure`, with the exact error where there is one."""
    try:
        return measure(case)
    except Exception as error:  # noqa: BLE001 - the table reports whatever happens
        return Row(case.name, error=f"{type(error).__name__}: {error}")


def table(rows: Iterable[Row]) -> str:
    """The rows in Markdown."""
    lines = [
        "| network | nodes | distinct ops | capture s | dynamic | max error | FX module, captured again | text |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        result = f"{row.nodes} | {row.ops} | {row.seconds:.2f} | {row.dynamic} | {row.max_error:.1e}"
        failed = f"{row.error.splitlines()[0].replace('|', '/')} | | | | | |" if row.error else ""
        lines.append(f"| {row.name} | {failed or f'{result} | {row.module} | {row.text} |'}")
    return "\n".join(lines)


PAGE = """# What capture takes

Written by `python benchmarks/coverage.py --assets FOLDER`; do not edit. Unmodified networks; those of the transformers
library have random weights and small configurations. Each is captured at batch 2 (and length 8) with a dynamic batch
(and length). The graph is verified, evaluated at the captured size and at batch 3 (and length 13) against the module,
written as text and parsed back, converted to an FX module, which is compared with the model and captured again.
Captured on a machine shared with other work, so that the seconds are upper bounds. "Max error" is relative to the
largest output. Gemma2 has no sdpa attention in the library. Mamba loops over the length in Python, so only its batch is
dynamic.

{passed} of {total} pass. torch {torch}, transformers {transformers}.

{table}

## Limits

What the same networks say when they are captured in a way that does not work:

{limits}
"""


def page(rows: list[Row], limits: list[Row]) -> str:
    """docs/coverage.md."""
    return PAGE.format(
        passed=sum(passes(r) for r in rows),
        total=len(rows),
        torch=torch.__version__.split("+")[0],
        transformers=transformers.__version__,
        table=table(rows),
        limits="\n".join(f"**{r.name}**\n\n```\n{r.error or 'captures'}\n```\n" for r in limits),
    )


def passes(row: Row) -> bool:
    """Whether everything held."""
    return not row.error and row.max_error <= TOLERANCE and row.module == "same text again" and row.text == "identical"


def main(arguments: list[str], report: Callable[[str], None] = print) -> int:
    """Command line; returns 1 where a network fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--assets", type=Path, help="folder with loaders.py and trained networks")
    parser.add_argument("--only", default="", help="measure networks whose name holds this text, write nothing")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)

    def run(cases: Iterable[Case]) -> list[Row]:
        rows: list[Row] = []
        for case in cases:
            if options.only.lower() in case.name.lower():
                rows.append(attempt(case))
                report(json.dumps(asdict(rows[-1])))
        return rows

    rows = run([*transformers_cases(), *(asset_cases(options.assets) if options.assets else ())])
    limits = run(limit_cases())
    register_dynamic_cache_export_support()
    limits += run(cache_cases())
    if not options.only:
        atomic_write_text(ROOT / "docs" / "coverage.md", page(rows, limits).rstrip() + "\n" + second_part())
        document = {"networks": [asdict(r) for r in rows], "limits": [asdict(r) for r in limits]}
        atomic_write_json(ROOT / "docs" / "coverage.json", document)
    return 0 if all(passes(r) for r in rows) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
