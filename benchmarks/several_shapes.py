"""One plan for several input shapes, beside plans for one shape each: latency at every shape against peers.

    OMP_NUM_THREADS=1 python benchmarks/several_shapes.py --assets FOLDER [--fresh] [--quick]

MiniLM is planned, as fast as possible in a share of its bytes, for each of three shapes and for all of them together
(weighted so that each counts alike), and every file is timed at every shape beside ``quantize_dynamic`` and the float
export, their sessions taking turns. Asked: the plan for all takes at most 0.80 of ``quantize_dynamic``'s time at each
shape. Writes ``several_shapes.json`` and ``several_shapes.md``, with the time inside the kernels of linear layers,
which no plan gets below. ``--quick`` plans without calibration. ``--files`` keeps the compiled files: planned at any
time, they are measured in a later call, on a quiet machine.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from common.networks import FULL, QUICK, Networks
from common.peers import dynamic
from common.store import Row, Store, arguments, scratch, selected, table

import instar
from instar.ir.files import atomic_write_json, read_json
from instar.targets.onnx.session import interleaved_ms, kernel_runs, make_session

NAME = "minilm"
SHAPES = ((1, 16), (1, 128), (8, 64))
SIZE = "20%"
FORMATS = ("fp32", "int4:g32", "int7:channel", "int8:channel", "int8:g32")
ASKED = 0.80
LINEAR = ("DynamicQuantizeMatMul", "MatMulIntegerToFloat", "MatMulNBits", "Gemm")
"""Kernels of linear layers in few bits; attention's products are none of them."""

TURNS, PROFILED_RUNS = 4, 10
FLOAT, DYNAMIC, TOGETHER = "float export", "ort quantize_dynamic", "planned for all"


def main() -> None:
    """Compile, then measure."""
    parser = arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="time for every file at every shape")
    parser.add_argument("--files", type=Path, help="folder to keep the compiled files in")
    parser.add_argument("--only-plan", action="store_true", help="compile, measure nothing")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    networks = Networks(given.assets, QUICK if given.quick else FULL)
    folder = scratch() if given.quick else given.results
    store = Store("several_shapes", folder, render, fresh=True, threads=given.threads)
    with folder_for(given.files) as place:
        files = peers(networks, place)
        rows: dict[str, Row] = {}
        for key, shapes in plans(given.only).items():
            files[key], rows[key] = kept(networks, shapes, place / f"{key.replace(' ', '_')}.onnx", given)
        if given.only_plan:
            return
        times = measured(networks, files, given)
        linear = in_linear_layers(networks, files, times, given)
        for key, file in files.items():
            known = rows.get(key, {"nbytes": file.stat().st_size})
            store.put(key, {**known, "ms": times[key], "linear_ms": linear[key]})
    print(render(store.rows))


@contextlib.contextmanager
def folder_for(files: Path | None) -> Generator[Path]:
    """Where compiled files lie: a folder that stays, or one that does not."""
    if files is not None:
        files.mkdir(parents=True, exist_ok=True)
        yield files
        return
    with tempfile.TemporaryDirectory() as place:
        yield Path(place)


def kept(networks: Networks, shapes: Sequence[tuple[int, int]], path: Path, given: Any) -> tuple[Path, Row]:
    """A planned file with its row, from an earlier call where there was one."""
    known = path.with_suffix(".json")
    if known.exists():
        return path, dict(cast("Row", read_json(known)))
    path, row = planned(networks, shapes, path, given)
    atomic_write_json(known, row)
    return path, row


def plans(only: str) -> Mapping[str, Sequence[tuple[int, int]]]:
    """What is planned -> the shapes that it is planned for."""
    every = {**{f"planned for {spelled(shape)}": (shape,) for shape in SHAPES}, TOGETHER: SHAPES}
    return {key: shapes for key, shapes in every.items() if selected(key, only)}


def spelled(shape: tuple[int, int]) -> str:
    """Batch and tokens."""
    return f"{shape[0]}x{shape[1]}"


def peers(networks: Networks, place: Path) -> dict[str, Path]:
    """The float export and what the runtime's own quantizer makes of it."""
    found = {FLOAT: place / "float.onnx", DYNAMIC: place / "dynamic.onnx"}
    networks.export(NAME, found[FLOAT])
    dynamic(found[FLOAT], found[DYNAMIC], [])
    return found


def planned(networks: Networks, shapes: Sequence[tuple[int, int]], path: Path, given: Any) -> tuple[Path, Row]:
    """The fastest file in its bytes for some shapes: one counts as much as another, whatever its length."""
    inputs = [networks.timed_inputs(NAME, *shape) for shape in shapes]
    compiled = instar.compile(
        networks.model(NAME),
        networks.captured_with(NAME),
        budget=instar.Budget(size=SIZE, minimise="latency"),
        formats=FORMATS,
        calibration=None if given.quick else networks.calibration(NAME),
        dynamic_shapes=networks.dynamic_shapes(NAME),
        latency_inputs=inputs,
        latency_weights=weights(networks, inputs, given.threads),
        target_options={"threads": given.threads},
    )
    compiled.save(path)
    predicted = {t.workload.label: t.artifact_ms for t in compiled.timings}
    became = Counter(f"{d.chosen.option.format} @{d.chosen.option.kernel}" for d in compiled.plan.decisions)
    return path, {
        "nbytes": compiled.nbytes,
        "predicted_ms": predicted,
        "loss": compiled.plan.predicted_loss,
        "layers": dict(became),
    }


def weights(networks: Networks, inputs: Sequence[Sequence[torch.Tensor]], threads: int) -> list[float]:
    """One over the float network's time at each shape, so that the sum is of shares."""
    if len(inputs) == 1:
        return [1.0]
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "float.onnx"
        networks.export(NAME, path)
        times = timed({FLOAT: path}, inputs, threads, seconds=0.5)[FLOAT]
    return [1.0 / ms for ms in times]


def measured(networks: Networks, files: Mapping[str, Path], given: Any) -> dict[str, dict[str, float]]:
    """File -> shape -> median milliseconds, all files in turns."""
    inputs = [networks.timed_inputs(NAME, *shape) for shape in SHAPES]
    seconds = 0.2 if given.quick else given.seconds
    found = timed(files, inputs, given.threads, seconds=seconds)
    return {key: dict(zip(map(spelled, SHAPES), times, strict=True)) for key, times in found.items()}


def in_linear_layers(
    networks: Networks, files: Mapping[str, Path], times: Mapping[str, Mapping[str, float]], given: Any
) -> dict[str, dict[str, float]]:
    """File -> shape -> milliseconds inside the kernels of linear layers.

    The runtime's profiler says which share of a run's kernels they are, file after file in turns, and the median share
    is taken of the time that was measured without it.
    """
    found: dict[str, dict[str, float]] = {key: {} for key in files if key != FLOAT}
    turns, runs = (1, 3) if given.quick else (TURNS, PROFILED_RUNS)
    for shape in SHAPES:
        shares: dict[str, list[float]] = {key: [] for key in found}
        for key in [*found] * turns:
            shares[key] += linear_shares(files[key], networks.timed_inputs(NAME, *shape), runs, given.threads)
        for key, values in shares.items():
            found[key][spelled(shape)] = statistics.median(values) * times[key][spelled(shape)]
    return {FLOAT: {}, **found}


def linear_shares(path: Path, tensors: Sequence[torch.Tensor], count: int, threads: int) -> list[float]:
    """The share of linear layers in the kernels of each run."""
    inputs = make_session(path, threads=threads).get_inputs()
    feeds = {i.name: t.numpy() for i, t in zip(inputs, tensors, strict=True)}
    runs = kernel_runs(path, feeds, threads=threads, runs=count)
    each = len(runs) // count
    parts = [runs[n * each : (n + 1) * each] for n in range(count)]
    sums = [(sum(r.microseconds for r in part if r.op in LINEAR), sum(r.microseconds for r in part)) for part in parts]
    return [linear / max(whole, 1) for linear, whole in sums]


def timed(
    files: Mapping[str, Path], inputs: Sequence[Sequence[torch.Tensor]], threads: int, *, seconds: float
) -> dict[str, list[float]]:
    """File -> a median for each of the inputs."""
    sessions = [make_session(path, threads=threads) for path in files.values()]
    found: dict[str, list[float]] = {key: [] for key in files}
    for tensors in inputs:
        feeds = [
            {i.name: t.numpy() for i, t in zip(session.get_inputs(), tensors, strict=True)} for session in sessions
        ]
        calls = [partial(session.run, None, feed) for session, feed in zip(sessions, feeds, strict=True)]
        times = interleaved_ms(calls, seconds=seconds, least=11, estimate=statistics.median)
        for key, ms in zip(found, times, strict=True):
            found[key].append(ms)
    return found


def render(rows: Mapping[str, Row]) -> str:
    """A line for every file: milliseconds and shares of ``quantize_dynamic``'s time at each shape."""
    base = rows.get(DYNAMIC, {}).get("ms", {})
    lines: list[list[Any]] = []
    for key, row in rows.items():
        times = [row.get("ms", {}).get(spelled(shape)) for shape in SHAPES]
        shares = [ms / base[spelled(s)] if ms and base else None for ms, s in zip(times, SHAPES, strict=True)]
        met = all(share is not None and share <= ASKED for share in shares) if key == TOGETHER else None
        lines.append([key, row["nbytes"] / 1e6, *times, *shares, met])
    parts = [
        [key, *(row.get("linear_ms", {}).get(spelled(s)) for s in SHAPES), *rest(row), words(row)]
        for key, row in rows.items()
        if row.get("linear_ms")
    ]
    columns = [f"{spelled(s)} ms" for s in SHAPES] + [f"{spelled(s)} x quantize_dynamic" for s in SHAPES]
    names = [f"{spelled(s)} {part} ms" for part in ("linear", "other") for s in SHAPES]
    return "\n\n".join([
        table(["file", "MB", *columns, f"<= {ASKED} everywhere"], lines),
        "In kernels of linear layers (the share that the profiler sees, of the times above), and the rest of a run:",
        table(["file", *names, "layers"], parts),
    ])  # fmt: skip


def rest(row: Row) -> list[float | None]:
    """Milliseconds outside linear layers at each shape."""
    pairs = [(row.get("ms", {}).get(spelled(s)), row["linear_ms"].get(spelled(s))) for s in SHAPES]
    return [None if ms is None or linear is None else ms - linear for ms, linear in pairs]


def words(row: Row) -> str:
    """What layers became."""
    return ", ".join(f"{count} {name}" for name, count in row.get("layers", {}).items()) or "-"


if __name__ == "__main__":
    main()
