"""How long a layer takes on this machine's ONNX Runtime: measured once and kept on disk."""

from __future__ import annotations

import hashlib
import math
import os
import platform
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from ...ir.errors import ConfigError, InstarError
from ...ir.files import atomic_write_json, make_folder, read_json
from ...ir.json_values import plain, read
from ...ir.memory import trim_memory
from ...ir.options import KEPT, Option
from ..base import LayerLatency
from .cases import Case, CaseModel, case_models
from .profiled import Counted, milliseconds_of, profiled_in_turns
from .session import STEADY, KernelRun, clock_of, interleaved_ms, make_session

VERSION = 4
"""Of the file format; also to be raised when measuring changes."""

INTERLEAVED = 12
"""Sessions that stand at the same time and take turns."""

MAPPED_NBYTES = 16_000_000
"""Models from this size on are loaded from a file whose weights are mapped: otherwise they are held four times."""


@dataclass(frozen=True)
class DeviceProfile:
    """Times of a device, this one or another: what a cache holds, and what an answer to a bundle gives.

    Attributes:
        runtime: name and version of the runtime.
        cpu: model name of the processor and the instruction sets that matter.
        threads: threads per operator.
        milliseconds: time by :attr:`~.cases.Case.key`.
    """

    runtime: str
    cpu: str
    threads: int
    milliseconds: Mapping[str, float] = field(default_factory=dict[str, float])

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> DeviceProfile:
        """Reads what :meth:`save` wrote.

        Raises:
            ConfigError: the file is missing or is no profile.
        """
        where = f"{os.fspath(path)}: measured latencies"
        kept = read(_Kept, read_json(path, error=ConfigError), where, ConfigError)
        if kept.version != VERSION:
            raise ConfigError(f"{where}: expected version {VERSION}, found {kept.version}; measure again")
        odd = next((key for key, time in kept.milliseconds.items() if not 0 <= time < math.inf), None)
        if odd is not None:
            raise ConfigError(f"{where}: expected a time in milliseconds for {odd!r}, found {kept.milliseconds[odd]!r}")
        return cls(kept.runtime, kept.cpu, kept.threads, kept.milliseconds)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the profile atomically, keys sorted."""
        times = dict(sorted(self.milliseconds.items()))
        atomic_write_json(path, plain(_Kept(VERSION, self.runtime, self.cpu, self.threads, times)))

    def with_times(self, more: Mapping[str, float]) -> DeviceProfile:
        """This profile with more or newer times."""
        return DeviceProfile(self.runtime, self.cpu, self.threads, {**self.milliseconds, **more})


@dataclass(frozen=True)
class _Kept:
    """A profile as it is written."""

    version: int
    runtime: str
    cpu: str
    threads: int
    milliseconds: Mapping[str, float]


class LatencyTable:
    """Times of cases on this machine.

    Args:
        threads: threads per operator, at least 1.
        cache: folder of the cache; None takes :func:`default_cache`.
        seconds: time spent on each case.
    """

    def __init__(self, threads: int = 1, *, cache: str | os.PathLike[str] | None = None, seconds: float = 0.12) -> None:
        if threads < 1:
            raise ConfigError(f"latency: expected at least 1 thread, found {threads}; say how many the device will use")
        self.seconds = seconds
        self.measured = 0
        self._device = DeviceProfile(f"onnxruntime {onnxruntime.__version__}", cpu_name(), threads)
        self._path = Path(cache or default_cache()) / _cache_name(self._device)
        self._device = self._device.with_times(_read_cache(self._path, self._device))

    @property
    def profile(self) -> DeviceProfile:
        """Everything known so far."""
        return self._device

    def milliseconds(self, cases: Iterable[Case]) -> dict[str, float]:
        """The time of every case by its key; what is not known is measured and kept.

        Raises:
            LoweringError: a kernel cannot compute a shape.
            ConfigError: the cache folder cannot be written.
        """
        wanted = {case.key: case for case in cases}
        unknown = [c for key, c in wanted.items() if key not in self._device.milliseconds]
        if unknown:
            make_folder(self._path.parent, "target_options.cache")
            self._keep(measure(unknown, threads=self._device.threads, seconds=self.seconds))
        return {key: self._device.milliseconds[key] for key in wanted}

    def _keep(self, times: Mapping[str, float]) -> None:
        """Adds times to the cache, together with what other processes wrote meanwhile."""
        self.measured += len(times)
        own = {**self._device.milliseconds, **times}
        self._device = self._device.with_times(_read_cache(self._path, self._device)).with_times(own)
        self._device.save(self._path)


CasesByOption = Mapping[str, Mapping[Option, Sequence[Case]]]
"""Layer -> option, the original among them -> the cases of the layer's uses."""


def all_cases(found: CasesByOption) -> Iterator[Case]:
    """Every case of every layer."""
    return (case for named in found.values() for group in named.values() for case in group)


def layer_latencies(found: CasesByOption, times: Mapping[str, float]) -> dict[str, LayerLatency]:
    """What every option of every layer takes, summed over its uses: its share of what operators with several take."""
    result: dict[str, LayerLatency] = {}
    for name, named in found.items():
        known = {option.name: sum(times[case.key] * case.share for case in group) for option, group in named.items()}
        result[name] = LayerLatency(known[KEPT.name], known)
    return result


def measure(cases: Iterable[Case], *, threads: int = 1, seconds: float = 0.12) -> dict[str, float]:
    """Milliseconds by case key, cases that were exported together in turns.

    What a run costs around its kernels (a call from Python, a session's bookkeeping) is measured on an empty model and
    taken off. Of many samples the lower quartile is kept. Convolutions are read from the runtime's profiler, which
    leaves out layout changes at the ends of a run; what these cost is a case of its own.
    """
    overhead = _overhead_ms(threads)
    times: dict[str, float] = {}
    calls: dict[str, Callable[[], Any]] = {}
    profiled: dict[str, CaseModel] = {}
    for case, model in case_models(cases):  # a model is dropped once its session stands
        if model.between or model.counted:
            profiled[case.key] = model
        else:
            calls[case.key] = _caller(model, threads)
        if len(calls) == INTERLEAVED:
            times |= _interleaved(calls, seconds, overhead, threads)
            calls.clear()
            trim_memory()
        if len(profiled) == INTERLEAVED:
            times |= _profiled(profiled, threads)
            profiled.clear()
            trim_memory()
    return times | _interleaved(calls, seconds, overhead, threads) | _profiled(profiled, threads)


def _interleaved(
    calls: Mapping[str, Callable[[], Any]], seconds: float, overhead: float, threads: int
) -> dict[str, float]:
    found = interleaved_ms(list(calls.values()), seconds=seconds, clock=clock_of(threads), steady=STEADY)
    return {key: max(time - overhead, 1e-4) for key, time in zip(calls, found, strict=True)}


def _caller(model: CaseModel, threads: int) -> Callable[[], Any]:
    if model.model.ByteSize() < MAPPED_NBYTES:
        return _bound(make_session(model.model, threads=threads), model)
    with tempfile.TemporaryDirectory(prefix="instar-", ignore_cleanup_errors=True) as folder:  # may be held, if mapped
        path = Path(folder) / "case.onnx"
        onnx.save_model(
            model.model, path, save_as_external_data=True, location="case.data"
        )  # leaves it without weights
        return _bound(make_session(path, threads=threads), model)


def _bound(session: onnxruntime.InferenceSession, model: CaseModel) -> Callable[[], Any]:
    binding = session.io_binding()
    for name, array in model.feeds.items():
        binding.bind_cpu_input(name, array)
    for output in session.get_outputs():
        binding.bind_output(output.name)
    return lambda: session.run_with_iobinding(binding)


def _overhead_ms(threads: int) -> float:
    """A run that computes nothing."""
    call = _caller(CaseModel(*empty_model()), threads)
    return interleaved_ms([call], seconds=0.05, clock=clock_of(threads))[0]


def empty_model() -> tuple[onnx.ModelProto, dict[str, NDArray[Any]]]:
    """A model that computes nothing to speak of, and its input."""
    import onnx.helper as helper

    kind = helper.np_dtype_to_tensor_dtype(np.dtype(np.float32))
    info = helper.make_tensor_value_info
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "empty", [info("x", kind, [1])],
                              [info("y", kind, [1])])  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return model, {"x": np.zeros(1, np.float32)}


def _profiled(models: Mapping[str, CaseModel], threads: int) -> dict[str, float]:
    """Time inside the kernels that each model's case is about."""
    found = profiled_in_turns([*models.values()], threads=threads)
    named = zip(models.items(), found, strict=True)
    return {key: max(1e-4, milliseconds_of(runs, _kernels_about(model))) for (key, model), runs in named}


def _kernels_about(model: CaseModel) -> Counted:
    if not model.between:
        return lambda kernels: [one for one in kernels if one.op in model.counted]
    first, last = model.between

    def between(kernels: Sequence[KernelRun]) -> Sequence[KernelRun]:
        begin = next(place for place, one in enumerate(kernels) if one.op in first) + 1
        return kernels[begin : next(p for p in range(begin, len(kernels)) if kernels[p].op in last)]

    return between


def default_cache() -> Path:
    """``instar`` below the user's cache folder (``XDG_CACHE_HOME``, else ``~/.cache``)."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base else Path.home() / ".cache") / "instar"


def cpu_name() -> str:
    """Model name and the instruction sets that decide between integer kernels."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return f"{platform.processor() or platform.machine()} {platform.system()}"
    fields: dict[str, str] = {}
    for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    name = fields.get("model name") or fields.get("CPU part") or platform.machine()
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    known = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")
    return " ".join([name, *(flag for flag in known if flag in flags)])


def _cache_name(device: DeviceProfile) -> str:
    text = f"{VERSION}|{device.runtime}|{device.cpu}|{device.threads}"
    return f"latency-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"


def _read_cache(path: Path, device: DeviceProfile) -> Mapping[str, float]:
    """Times kept in ``path``; a file that cannot be used is reported and measured again."""
    if not path.exists():
        return {}
    try:
        kept = DeviceProfile.load(path)
    except InstarError as problem:
        warnings.warn(f"latency cache ignored and rebuilt: {problem}", stacklevel=2)
        return {}
    same = (kept.runtime, kept.cpu, kept.threads) == (device.runtime, device.cpu, device.threads)
    return kept.milliseconds if same else {}
