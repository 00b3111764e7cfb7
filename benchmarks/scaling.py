"""How the time of every stage grows with the number of nodes; writes ``scaling.json`` and ``scaling.md``.

Run ``python benchmarks/scaling.py [--sizes 1000 3000 10000 30000] [--export 1000 3000 10000]``.

* ``repeated``: a chain of equal transformer-like blocks, each with weights of its own. An exported program of some
  twenty blocks is chained to the wanted size and read into the IR as capture does it.
* ``different``: the same with another hidden width in every block, so that hardly any two nodes have the same type. The
  nodes are built directly, each with its type inferred.
* ``export``: the whole capture of a module with so many nodes: torch's export, our share, and what follows.

Seconds are processor time of one thread, so that other work on the machine does not count. A graph's context keeps the
types it has inferred: verifying ``different`` looks them up, as between two passes, while parsing infers them all.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional as F

from instar.ir.capture import read_program
from instar.ir.capture.dims import name_dims
from instar.ir.capture.fx import FxReader
from instar.ir.context import Context
from instar.ir.evaluate import evaluate
from instar.ir.files import atomic_write_json, atomic_write_text
from instar.ir.fx_conversion import to_flat_module
from instar.ir.graph import Graph, Node
from instar.ir.parse import parse_graph
from instar.ir.types import DimRange, TensorType
from instar.ir.verify import verify
from instar.passes.registry import exact_pipeline
from instar.passes.run import run_passes

RESULTS = Path(__file__).resolve().parent / "results"
WIDTH, NODES_PER_BLOCK, SEED_BLOCKS = 8, 17, 20
SHAPES = {"x": {0: Dim("batch", min=1, max=64), 1: Dim("length", min=1, max=64)}}

Result = TypeVar("Result")


def clock(row: dict[str, float], name: str, work: Callable[[], Result]) -> Result:
    """Run, and note the processor time in ``row``."""
    start = time.process_time()
    result = work()
    row[name] = round(time.process_time() - start, 3)
    return result


class Block(nn.Module):
    """Norm, two linears with GELU, a head split and merge, softmax, residual."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, hidden), nn.Linear(hidden, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, length, width) to the same."""
        batch, length, _ = x.shape
        y = self.down(F.gelu(self.up(self.norm(x))))
        y = y.view(batch, length, 4, -1).transpose(1, 2).transpose(1, 2).reshape(batch, length, WIDTH)
        return x + torch.softmax(y, -1) * 0.5


class Chain(nn.Module):
    """So many blocks."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(16) for _ in range(blocks))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, length, width) to the same."""
        for block in self.blocks:
            x = block(x)
        return x


# ------------------------------------------------------------------------------------------------ graphs
def repeated(program: ExportedProgram, size: int, row: dict[str, float]) -> Graph:
    """The graph of a long chain: the program's nodes, tiled, read by :class:`FxReader`."""
    names = name_dims(program, SHAPES, (torch.zeros(2, 3, WIDTH),), {})
    context = Context(names.ranges)
    reader = FxReader(context, names)
    chained, leaves = tile(program, -(-size // (SEED_BLOCKS * NODES_PER_BLOCK)))

    def read() -> Graph:
        inputs: list[Node] = []
        for node, tensor in leaves:
            if tensor is None:
                inputs.append(context.input(node.name, reader.type_of(node.meta["val"])))
            reader.bind(node, inputs[0] if tensor is None else context.constant(node.name, tensor, "parameter"))
        calls = [n for n in chained.nodes if n.op == "call_function"]
        reader.run(calls)
        return context.graph(inputs, [reader.value(calls[-1])])

    return clock(row, "read or build", read)


def tile(
    program: ExportedProgram, times: int
) -> tuple[torch.fx.Graph, list[tuple[torch.fx.Node, torch.Tensor | None]]]:
    """The program's FX graph, each copy fed by the one before; and its placeholders with their tensors."""
    chained = torch.fx.Graph()
    leaves: list[tuple[torch.fx.Node, torch.Tensor | None]] = []
    signature = program.graph_signature
    targets = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    last: torch.fx.Node | None = None
    for _ in range(times):
        copies: dict[torch.fx.Node, torch.fx.Node] = {}
        for node in program.graph.nodes:
            if node.op == "output":
                last = copies[node.args[0][0]]
            elif node.op == "placeholder" and node.name not in targets and last is not None:
                copies[node] = last
            else:
                copies[node] = chained.node_copy(node, copies.__getitem__)
            if node.op == "placeholder" and copies[node] is not last:
                stored = program.state_dict[targets[node.name]].clone() if node.name in targets else None
                leaves.append((copies[node], stored))
    return chained, leaves


def different(size: int, row: dict[str, float]) -> Graph:
    """A chain of blocks whose hidden widths all differ, made node by node."""

    def build() -> Graph:
        context = Context([DimRange("batch", 1, 64), DimRange("length", 1, 64)])
        batch, length = (context.dims[name].symbol for name in ("batch", "length"))
        x = start = context.input("x", TensorType(torch.float32, (batch, length, WIDTH)))
        for number in range(size // NODES_PER_BLOCK):
            x = block_nodes(context, x, number, 4 * (number + 4))
        return context.graph([start], [x])

    return clock(row, "read or build", build)


def block_nodes(context: Context, x: Node, number: int, hidden: int) -> Node:
    """:class:`Block` with its heads split in the hidden width, as nodes."""

    def constant(name: str, *shape: int) -> Node:
        return context.constant(f"blocks.{number}.{name}", torch.full(shape, 0.01), "parameter")

    batch, length = x.tensor_type.shape[:2]
    scale, shift = constant("norm.weight", WIDTH), constant("norm.bias", WIDTH)
    y = context.node("aten.layer_norm", x, (WIDTH,), scale, shift)
    y = context.node("aten.linear", y, constant("up.weight", hidden, WIDTH), constant("up.bias", hidden))
    y = context.node("aten.gelu", y)
    y = context.node("aten.view", y, (batch, length, 4, hidden // 4))
    y = context.node("aten.transpose.int", context.node("aten.transpose.int", y, 1, 2), 1, 2)
    y = context.node("aten.reshape", y, (batch, length, hidden))
    y = context.node("aten.linear", y, constant("down.weight", WIDTH, hidden), constant("down.bias", WIDTH))
    y = context.node("aten.mul.Tensor", context.node("aten.softmax.int", y, -1), 0.5)
    return context.node("aten.add.Tensor", x, y)


# ------------------------------------------------------------------------------------------------ measuring
def stages(graph: Graph, row: dict[str, float]) -> None:
    """Time every stage after reading. Evaluation is what the evaluator adds to the same ops run by FX."""
    row["nodes"] = len(graph.nodes())
    clock(row, "verify", lambda: verify(graph))
    text = clock(row, "text", graph.text)
    clock(row, "parse", lambda: parse_graph(text))
    module = clock(row, "to_module", lambda: to_flat_module(graph))
    inputs = [torch.randn(2, 3, WIDTH)]
    scratch: dict[str, float] = {}
    with torch.no_grad():
        for _ in range(2):  # the first call warms up
            clock(scratch, "module", lambda: module(*inputs))
            clock(scratch, "evaluate", lambda: evaluate(graph, inputs))
    row["evaluate overhead"] = round(max(0.0, scratch["evaluate"] - scratch["module"]), 3)
    clock(row, "exact passes", lambda: run_passes(graph, exact_pipeline()))


def whole_capture(size: int) -> dict[str, float]:
    """Capture of a module, torch's share apart."""
    row: dict[str, float] = {"asked": size}
    model, x = Chain(size // NODES_PER_BLOCK).eval(), torch.randn(2, 3, WIDTH)

    def export() -> ExportedProgram:
        with torch.no_grad():
            return torch.export.export(model, (x,), dynamic_shapes=SHAPES, strict=False)

    program = clock(row, "torch.export", export)
    state = model.state_dict()
    graph = clock(row, "our share", lambda: read_program(program, state, (x,), dynamic_shapes=SHAPES))
    clock(row, "verify", lambda: verify(graph))
    clock(row, "exact passes", lambda: run_passes(graph, exact_pipeline()))
    row["nodes"] = len(graph.nodes())
    return row


def seed_program() -> ExportedProgram:
    """A program of a few blocks, to be chained."""
    with torch.no_grad():
        x = torch.randn(2, 3, WIDTH)
        return torch.export.export(Chain(SEED_BLOCKS).eval(), (x,), dynamic_shapes=SHAPES, strict=False)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows in Markdown; every row has the same keys."""
    if not rows:
        return "not measured"
    keys = list(rows[0])
    lines = [f"| {' | '.join(keys)} |", f"|{'---|' * len(keys)}"]
    lines += [f"| {' | '.join(str(row[key]) for key in keys)} |" for row in rows]
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="*", default=[1000, 3000, 10000, 30000])
    parser.add_argument("--export", type=int, nargs="*", default=[1000, 3000, 10000])
    options = parser.parse_args()
    torch.set_num_threads(1)
    program = seed_program()
    rows: list[dict[str, Any]] = []
    for variant in ("repeated", "different"):
        for size in options.sizes:
            row: dict[str, Any] = {"variant": variant, "nodes": 0}
            graph = repeated(program, size, row) if variant == "repeated" else different(size, row)
            stages(graph, row)
            rows.append(row)
            print(json.dumps(row), flush=True)
    captures: list[dict[str, Any]] = []
    for size in options.export:
        captures.append(whole_capture(size))
        print(json.dumps(captures[-1]), flush=True)
    machine = {"torch": torch.__version__, "python": platform.python_version(), "machine": platform.machine()}
    atomic_write_json(RESULTS / "scaling.json", {"machine": machine, "stages": rows, "captures": captures})
    page = f"# Scaling\n\n```\n{__doc__}```\n\n{table(rows)}\n\nWhole capture:\n\n{table(captures)}\n"
    atomic_write_text(RESULTS / "scaling.md", page)


if __name__ == "__main__":
    main()
