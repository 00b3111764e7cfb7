"""A network that was trained with low-rank and Monarch layers and made dense: what the allocation saves on ONNX.

    OMP_NUM_THREADS=1 python benchmarks/planted.py [--fresh] [--quick]

Writes ``planted.json`` and ``planted.md``. Four layers of width ``n`` are trained as factors on a seeded task (classes
of a random teacher), then every weight is written out as a matrix: nothing tells the compiler about the structure.
Rows are compilations of this dense network: exact, integers, and everything in one allocation. Reported are the file's
bytes, milliseconds (all files taking turns), accuracy on data that nothing saw, and the formats chosen.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common.store import RESULTS, Row, Store, scratch, table
from torch import Tensor, nn

import instar
from instar.ir.ops import EAGER
from instar.passes.formats import format as parse_format
from instar.passes.formats.base import named
from instar.targets.onnx.session import interleaved_ms, make_session

INTEGERS = ("fp32", "int8:channel", "int4:g32", "int2:g32")
JOINT = (*INTEGERS, "lowrank", "monarch", "int8:channel @ lowrank", "int8:channel @ monarch")
ROWS = (1, 64)
"""Batches that are timed."""

CLASSES = 16


def main() -> None:
    """Train, compile and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the JSON and the table")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--seconds", type=float, default=1.0, help="that each file is timed for")
    parser.add_argument("--fresh", action="store_true", help="forget the rows of earlier runs")
    parser.add_argument("--quick", action="store_true", help="a narrow network: checks that the script runs")
    given = parser.parse_args()
    torch.set_num_threads(1)
    width = 256 if given.quick else given.width
    folder = scratch() if given.quick else given.results
    store = Store("planted", folder, render, fresh=given.fresh or given.quick, threads=1)
    model, planted = trained(width, 20 if given.quick else 150)
    files = {label: compiled(model, width, settings) for label, settings in recipes().items()}
    times = times_of(files, width, 0.05 if given.quick else given.seconds)
    for label, one in files.items():
        store.put(
            label,
            {
                "nbytes": one.nbytes,
                "ms": times[label],
                "accuracy": accuracy(one, width),
                "formats": {d.layer: d.chosen.option.format for d in one.plan.decisions},
                "planted": planted,
                "float_accuracy": accuracy(model, width),
            },
        )
        print(label, store.rows[label], flush=True)
    print(render(store.rows))


def recipes() -> dict[str, Mapping[str, Any]]:
    """Label -> settings of a compilation."""
    integers, joint = ({"formats": each, "activations": ("none", "dynamic_int8")} for each in (INTEGERS, JOINT))
    return {
        "dense float": {"formats": ("fp32",)},
        "int8, integer kernels": {"formats": ("int8:channel", "int7:channel"), "activations": ("dynamic_int8",)},
        "integers, 10 %": {**integers, "budget": {"size": "10%"}},
        "joint, 10 %": {**joint, "budget": {"size": "10%"}},
        "joint, 5 %": {**joint, "budget": {"size": "5%"}},
    }


class Structured(nn.Module):
    """Layers whose factors are what is trained."""

    def __init__(self, width: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        blocks = 8
        self.planted = [
            f"lowrank:r{width // 32}",
            f"monarch:b{blocks}",
            f"lowrank:r{width // 32}",
            f"monarch:b{blocks}",
        ]
        self.width = width
        self.factors = nn.ParameterDict()
        for number, text in enumerate(self.planted):
            weight = torch.randn(width, width) * (2.0 / width) ** 0.5
            stored = parse_format(f"fp32 @ {text}").encode(weight).tensors
            scale = float(weight.norm()) / float(self._dense(text, stored).norm())
            for name, tensor in named(stored, f"{number}.").items():
                self.factors[name.replace(".", "_")] = nn.Parameter(tensor * scale**0.5)
        self.head = nn.Linear(width, CLASSES)

    def _dense(self, text: str, stored: Mapping[str, Tensor]) -> Tensor:
        return parse_format(f"fp32 @ {text}").weight(EAGER, stored, (self.width, self.width))

    def weights(self) -> list[Tensor]:
        """All structured weights as matrices."""
        found: list[Tensor] = []
        for number, text in enumerate(self.planted):
            names = parse_format(f"fp32 @ {text}").tensors((self.width, self.width))
            stored = {name: self.factors[f"{number}.{name}".replace(".", "_")] for name in names}
            found.append(self._dense(text, stored))
        return found

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[N, classes]`` of ``[N, width]``."""
        for weight in self.weights():
            x = torch.relu(x @ weight.T)
        return self.head(x)


def data(width: int, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Inputs, and the classes that a random teacher of low rank gives them."""
    generator = torch.Generator().manual_seed(9)
    teacher = torch.randn(CLASSES, 6, generator=generator) @ torch.randn(6, width, generator=generator)
    x = torch.randn(count, width, generator=torch.Generator().manual_seed(seed))
    return x, (x @ teacher.T).argmax(dim=1)


def trained(width: int, steps: int) -> tuple[nn.Module, list[str]]:
    """The dense network with the weights of the trained structured one, and what was planted."""
    model, (x, labels) = Structured(width), data(width, 4096, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(model(x), labels))
        optimizer.step()
    layers: list[nn.Module] = []
    with torch.no_grad():
        for weight in model.weights():
            dense = nn.Linear(width, width, bias=False)
            dense.weight.copy_(weight)
            layers += [dense, nn.ReLU()]
    return nn.Sequential(*layers, model.head).eval(), model.planted


def compiled(model: nn.Module, width: int, settings: Mapping[str, Any]) -> instar.Compiled:
    """The network for ONNX Runtime with any batch."""
    batches = [(part,) for part in data(width, 2048, 3)[0].chunk(8)]
    shapes = ({0: torch.export.Dim("batch", min=1, max=4096)},)
    return instar.compile(
        model, (batches[0][0][:2],), target="onnx", calibration=batches, dynamic_shapes=shapes, **settings
    )


def accuracy(model: Any, width: int) -> float:
    """Percent of right classes on 4,096 inputs that nothing saw."""
    x, labels = data(width, 4096, 2)
    with torch.no_grad():
        return 100.0 * float((model(x).argmax(dim=1) == labels).float().mean())


def times_of(files: Mapping[str, instar.Compiled], width: int, seconds: float) -> dict[str, dict[str, float]]:
    """Label -> batch -> median milliseconds; files take turns."""
    folder = Path("build/benchmarks/planted")
    folder.mkdir(parents=True, exist_ok=True)
    sessions: list[Any] = []
    for number, one in enumerate(files.values()):
        path = folder / f"{number}.onnx"
        one.save(path)
        sessions.append(make_session(path, threads=1))
    found: dict[str, dict[str, float]] = {label: {} for label in files}
    for count in ROWS:
        x = data(width, count, 4)[0].numpy()
        calls = [partial(s.run, None, {s.get_inputs()[0].name: x}) for s in sessions]
        times = interleaved_ms(calls, seconds=seconds, estimate=statistics.median)
        for label, time in zip(files, times, strict=True):
            found[label][str(count)] = time
    return found


def render(rows: Mapping[str, Row]) -> str:
    """One table."""
    columns = ["", "kB", *(f"ms, batch {count}" for count in ROWS), "of float", "accuracy, %", "formats"]
    lines: list[list[object]] = []
    first = next(iter(rows.values()))
    for label, row in rows.items():
        shares = ", ".join(f"{row['ms'][str(c)] / first['ms'][str(c)]:.2f}" for c in ROWS)
        times = [row["ms"][str(c)] for c in ROWS]
        lines.append([label, row["nbytes"] / 1e3, *times, shares, row["accuracy"], spelled(row["formats"].values())])
    about = (
        f"Planted: {', '.join(first['planted'])} and a dense head. Accuracy in float: {first['float_accuracy']:.2f} %."
    )
    return f"{about}\n\n{table(columns, lines)}"


def spelled(formats: Iterable[str]) -> str:
    """The formats of all layers in their order."""
    return ", ".join(formats)


if __name__ == "__main__":
    main()
