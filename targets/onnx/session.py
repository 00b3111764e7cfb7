"""Sessions of ONNX Runtime: made one way, timed one way, and asked which kernels they really ran."""

from __future__ import annotations

import functools
import importlib
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any, cast

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import onnxruntime
from numpy.typing import NDArray

from ...ir.errors import LoweringError

PROVIDERS = ("CPUExecutionProvider",)

SAMPLE_SECONDS = 0.001
"""Fast calls are repeated until one sample takes this long, so that the clock's own cost vanishes."""

CONFIG: dict[str, str] = {}
"""Configuration entries of every session; none, as in a user's own session."""

EXACT_PRODUCTS = ("session.x64quantprecision", "1")
"""The entry that keeps int8 products from saturating on processors without VNNI, at the cost of time."""

STEADY = 0.02
"""The spread of times that two runs of one session have on a machine that nothing disturbs."""

WARM_SECONDS = 0.02
"""A call faster than this is run once before every sample: the calls of others have emptied the processor's caches."""

FINE_SECONDS = 1e-5
"""Resolution from which on a clock tells fast calls apart."""

Clock = Callable[[], float]
Feeds = Mapping[str, NDArray[Any]]
Model = onnx.ModelProto | bytes | str | os.PathLike[str]


@dataclass(frozen=True)
class KernelRun:
    """One kernel of one run.

    Attributes:
        name: of the node after the runtime's own optimisation.
        op: operator type, such as ``MatMulNBits``.
        microseconds: time inside the kernel, rounded down by the runtime.
    """

    name: str
    op: str
    microseconds: int


def make_session(model: Model, *, threads: int = 0, profile: str | None = None) -> onnxruntime.InferenceSession:
    """A CPU session with default optimisation.

    Args:
        model: a model, its bytes, or a path (needed where weights lie in external files).
        threads: for one operator; 0 lets the runtime choose. Operators run one after another.
        profile: prefix of the profile file that the session writes, None for no profiling.

    Raises:
        LoweringError: the runtime refuses the model; the message is the runtime's.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    for name, value in CONFIG.items():
        options.add_session_config_entry(name, value)
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = profile
    source: str | bytes
    if isinstance(model, onnx.ModelProto):
        source = model.SerializeToString()
    else:
        source = model if isinstance(model, bytes) else os.fspath(model)
    try:
        return onnxruntime.InferenceSession(source, options, providers=list(PROVIDERS))
    except _RUNTIME_ERRORS as problem:
        raise LoweringError(f"onnxruntime: expected to load the model, found: {_one_line(problem)}") from problem


def products_saturate() -> bool:
    """Whether int8 kernels of this processor compute wrong sums of 8-bit weights, which is asked of a small product.

    Without VNNI, x86 adds two products of unsigned with signed bytes in 16 bits: weights of 7 bits are exact, larger
    ones saturate.
    """
    return _saturates(tuple(sorted(CONFIG.items())))


@functools.cache
def _saturates(config: tuple[tuple[str, str], ...]) -> bool:
    del config  # sessions are made with it
    model, feeds, exact = product_model()
    (found,) = run(make_session(model, threads=1), feeds)
    return bool((found != exact).any())


def product_model() -> tuple[onnx.ModelProto, dict[str, NDArray[Any]], int]:
    """A product of bytes that saturates where products can, its input, and every value of the exact result.

    Zero points are written: without them releases before 1.31 end the process where a session asks for exact products.
    """
    inputs = np.full((8, 64), 255, np.uint8), np.full((64, 64), 127, np.int8)
    values = [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.UINT8, inputs[0].shape)]
    results = [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.INT32, None)]
    weights = [
        onnx.numpy_helper.from_array(value, name)
        for name, value in (("w", inputs[1]), ("x_zero", np.zeros((), np.uint8)), ("w_zero", np.zeros((), np.int8)))
    ]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMulInteger", ["x", "w", "x_zero", "w_zero"], ["y"])],
        "product",
        values,
        results,
        weights,
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    return model, {"x": inputs[0]}, 255 * 127 * 64


def run(session: onnxruntime.InferenceSession, feeds: Feeds) -> list[NDArray[Any]]:
    """All outputs of one run.

    Raises:
        LoweringError: a kernel failed.
    """
    try:
        return [np.asarray(value) for value in cast("list[Any]", session.run(None, dict(feeds)))]
    except _RUNTIME_ERRORS as problem:
        raise LoweringError(f"onnxruntime: expected to run the model, found: {_one_line(problem)}") from problem


def kernel_runs(model: Model, feeds: Feeds, *, threads: int = 1, runs: int = 1) -> list[KernelRun]:
    """Every kernel executed in ``runs`` runs after one that warms up, as the runtime's profiler saw them."""
    with tempfile.TemporaryDirectory() as folder:
        session = make_session(model, threads=threads, profile=str(Path(folder) / "profile"))
        for _ in range(runs + 1):
            run(session, feeds)
        events = events_of(Path(session.end_profiling()))
    found = kernels_of(events)
    return found[len(found) // (runs + 1) :]


def kernels_of(events: Sequence[Any]) -> list[KernelRun]:
    """The kernels among a profile's events, in the order in which they ran."""
    return [
        KernelRun(event["name"].removesuffix("_kernel_time"), event["args"]["op_name"], int(event["dur"]))
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")
    ]


def events_of(profile: Path) -> list[Any]:
    """What the runtime's profiler wrote.

    Raises:
        LoweringError: the file is not whole.
    """
    try:
        return json.loads(profile.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise LoweringError(
            f"onnxruntime: expected a whole profile of the kernels in {profile.parent.parent}, found that its end is "
            "missing; free some space there, or let TMPDIR name another folder"
        ) from problem


def executed_kernels(model: Model, feeds: Feeds, *, threads: int = 1) -> Counter[str]:
    """How often each operator type runs in one run, after the runtime's own optimisation."""
    return Counter(run.op for run in kernel_runs(model, feeds, threads=threads))


def check_kernels(executed: Mapping[str, int], expected: Mapping[str, int]) -> None:
    """Checks that the kernels a plan relies on were used.

    Args:
        executed: operator type to count, from :func:`executed_kernels`.
        expected: operator type, or several joined by ``|``, to the least count.

    Raises:
        LoweringError: the message lists every kernel that ran less often than expected.
    """
    missing: list[str] = []
    for names, count in sorted(expected.items()):
        found = sum(executed.get(name, 0) for name in names.split("|"))
        if found < count:
            missing.append(f"{names}: expected {count}, ran {found}")
    if missing:
        raise LoweringError(
            f"onnxruntime did not use the planned kernels ({'; '.join(missing)}); "
            "leave these layers in float or choose another kernel"
        )


def lower_quartile(samples: Sequence[float]) -> float:
    """A robust estimate of a time where disturbances only ever add to it."""
    return quantiles(samples, n=4, method="inclusive")[0] if len(samples) > 1 else samples[0]


def clock_of(threads: int) -> Clock:
    """The clock for runs with so many threads, in seconds.

    A run with one thread happens in the thread that asks for it: the processor time of that thread is what the run
    takes on a processor of its own, however many others want this one. With several threads, wall time.
    """
    fine = time.get_clock_info("thread_time").resolution <= FINE_SECONDS
    return time.thread_time if threads == 1 and fine else time.perf_counter


def interleaved_ms(
    calls: Sequence[Callable[[], Any]],
    *,
    seconds: float = 0.1,
    least: int = 7,
    estimate: Callable[[Sequence[float]], float] = lower_quartile,
    clock: Clock = time.perf_counter,
    steady: float = 0.0,
) -> list[float]:
    """Milliseconds of one run of each call; calls take turns, so that a busy machine slows all of them alike.

    A turn of a fast call begins with an untimed run, as a deployed model finds its own data in the caches.

    Args:
        calls: what is timed.
        seconds: time spent on each call.
        least: samples at least.
        estimate: from samples to a number, such as ``statistics.median``.
        clock: in seconds; see :func:`clock_of`.
        steady: the share by which half of a call's samples may be above its least, for two fifths of ``seconds`` and
            of ``least`` to be enough for it.
    """
    for call in calls:
        call()
    first = [max(_timed(call, 1, clock), 1e-7) for call in calls]
    repeats = [max(1, int(SAMPLE_SECONDS / once)) for once in first]
    samples: list[list[float]] = [[] for _ in calls]
    spent = [0.0] * len(calls)
    timed = [False] * len(calls)
    while not all(timed):
        for index, call in enumerate(calls):
            if timed[index]:
                continue
            if first[index] < WARM_SECONDS:
                call()
            sample = _timed(call, repeats[index], clock)
            spent[index] += sample
            samples[index].append(sample / repeats[index])
            part = 0.4 if _is_steady(samples[index], steady) else 1.0
            timed[index] = spent[index] >= part * seconds and len(samples[index]) >= part * least
    return [1e3 * estimate(taken) for taken in samples]


def _is_steady(samples: Sequence[float], share: float) -> bool:
    return share > 0.0 and median(samples) <= (1.0 + share) * min(samples)


def _timed(call: Callable[[], Any], repeats: int, clock: Clock) -> float:
    start = clock()
    for _ in range(repeats):
        call()
    return clock() - start


def _one_line(problem: BaseException) -> str:
    return " ".join(str(problem).split())[:500]


def _runtime_errors() -> tuple[type[Exception], ...]:
    """The runtime's exception types have no common base below ``Exception``."""
    state = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoSuchFile", "NotImplemented",
             "RuntimeException", "EPFail", "EngineError", "ModelLoaded", "NoModel")  # fmt: skip
    return tuple(getattr(state, name) for name in names if hasattr(state, name))


_RUNTIME_ERRORS = _runtime_errors()
