"""One plan for several input shapes, beside plans for one shape each: latency at every shape against peers.

    OMP_NUM_THREADS=1 python benchmarks/several_shapes.py --assets FOLDER [--fresh] [--quick]

MiniLM is planned, as fast as possible in a share of its bytes, for each of three shapes and for all of them together
(weighted so that each counts alike), and every file is timed at every shape beside ``quantize_dynamic`` and the float
export, their sessions taking turns. Asked: the plan for all takes at most 0.80 of ``quantize_dynamic``'s time at each
shape. Writes ``several_shapes.json`` and ``several_shapes.md``. ``--quick`` plans without calibration.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common.networks import FULL, QUICK, Networks
from common.peers import dynamic
from common.store import Row, Store, arguments, scratch, selected, table

import instar
from instar.targets.onnx.session import interleaved_ms, make_session

NAME = "minilm"
SHAPES = ((1, 16), (1, 128), (8, 64))
SIZE = "20%"
FORMATS = ("fp32", "int4:g32", "int7:channel", "int8:channel", "int8:g32")
ASKED = 0.80
FLOAT, DYNAMIC, TOGETHER = "float export", "ort quantize_dynamic", "planned for all"


def main() -> None:
    """Compile, then measure."""
    parser = arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="time for every file at every shape")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    networks = Networks(given.assets, QUICK if given.quick else FULL)
    folder = scratch() if given.quick else given.results
    store = Store("several_shapes", folder, render, fresh=True, threads=given.threads)
    with tempfile.TemporaryDirectory() as place:
        files = peers(networks, Path(place))
        for key, shapes in plans(given.only).items():
            files[key], row = planned(networks, shapes, Path(place) / f"{len(files)}.onnx", given)
            store.put(key, row)
        times = measured(networks, files, given)
        for key, file in files.items():
            known = store.rows.get(key, {"nbytes": file.stat().st_size})
            store.put(key, {**known, "ms": times[key]})
    print(render(store.rows))


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
    return path, {"nbytes": compiled.nbytes, "predicted_ms": predicted, "loss": compiled.plan.predicted_loss}


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
    columns = [f"{spelled(s)} ms" for s in SHAPES] + [f"{spelled(s)} x quantize_dynamic" for s in SHAPES]
    return table(["file", "MB", *columns, f"<= {ASKED} everywhere"], lines)


if __name__ == "__main__":
    main()
