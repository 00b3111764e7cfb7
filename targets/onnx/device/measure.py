"""Measures a bundle that instar wrote: ``python measure.py`` beside ``manifest.json``. Needs numpy and onnxruntime.

Writes ``device.json``, after every group of cases anew; started again, it goes on where it was stopped. Where a case
has expected outputs, the answer says how far those of this device are from them.
Any ONNX Runtime from 1.18 will do; what it cannot load or run is written down in its own words. Runs with one thread
are timed by that thread's processor time, those with more by the clock on the wall.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

SAMPLE_SECONDS = 0.001
"""Fast calls are repeated until one sample takes this long."""

LEAST_SAMPLES = 7
PROFILED_RUNS = 30
"""Runs behind a time that is read from the runtime's profiler."""

Found = dict[str, Any]
VERSION = 2
"""Of bundles that this script reads."""

LEAST = (1, 18)
"""The oldest ONNX Runtime that loads such models at all."""

WIDE = 0.5
"""A spread of samples above it is of a device that did something else meanwhile."""

FINE_SECONDS = 1e-5
"""Resolution from which on a clock tells fast calls apart."""

INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")
"""Those that decide between integer kernels."""


def main(arguments: list[str] | None = None) -> int:
    """Measure what is not measured yet; the exit code is 0 when every case has an answer."""
    folder = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description="Measures an instar bundle on this device.")
    parser.add_argument("--threads", type=threads_of, help="threads of an operator; as the bundle says if not given")
    parser.add_argument("--seconds", type=seconds_of, help="time for every case")
    parser.add_argument("--out", type=Path, default=folder / "device.json", help="the answer")
    parser.add_argument("--alone", action="store_true", help="one model in memory at a time, for small devices")
    chosen = parser.parse_args(arguments)
    problem, text, manifest = manifest_of(folder)
    if problem:
        return complain(problem)
    device: Found = {
        "instar_device": manifest["instar_bundle"],
        "bundle": hashlib.sha256(text).hexdigest(),
        "runtime": f"onnxruntime {onnxruntime.__version__}",
        "cpu": cpu_name(),
        "threads": chosen.threads or manifest["threads"],
        "spelling": manifest["spelling"],
        "saturates": saturates(folder, manifest["product"]),
        "files": {name: size_of(folder / name) for name in manifest["files"]},
        "wanted": [case["key"] for case in manifest["cases"]],
    }
    problem, answers = continued(chosen.out, device)
    if problem:
        return complain(problem)
    seconds = chosen.seconds or manifest["seconds"]
    try:
        save(chosen.out, device, answers)
    except OSError as refusal:
        return complain(f"--out: expected a file that can be written, found {chosen.out}: {refusal.strerror}")
    for number, group in enumerate(groups(manifest["cases"], alone=chosen.alone)):
        waiting = [case for case in group if case["key"] not in answers]
        answers.update(measure(folder, waiting, device["threads"], seconds))
        save(chosen.out, device, answers)
        print(f"group {number}: {len(answers)} of {len(device['wanted'])} cases", flush=True)
    for line in told(chosen.out, answers):
        print(line)
    return 0


def told(path: Path, answers: Found) -> list[str]:
    """What was found, for whoever sits at the device."""
    failed = sum(found["error"] is not None for found in answers.values())
    unsteady = sum((found["spread"] or 0.0) > WIDE for found in answers.values())
    lines = [f"wrote {path}: {len(answers) - failed} cases measured, {failed} do not run here (it says why)"]
    if unsteady:
        lines.append(
            f"times of {unsteady} cases spread by more than {WIDE:.0%}: something else ran meanwhile; remove "
            f"{path.name} and measure again while the device does nothing else"
        )
    return lines


def manifest_of(folder: Path) -> tuple[str, bytes, Found]:
    """What is wrong with the bundle or the runtime, and the bundle's manifest as it lies there and read."""
    file = folder / "manifest.json"
    try:
        text = file.read_bytes()
    except OSError:
        return f"{folder}: expected manifest.json, found none; copy the whole bundle, or write it again", b"", {}
    try:
        manifest = json.loads(text)
        version, sizes = manifest["instar_bundle"], dict(manifest["sizes"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return f"{file}: expected the manifest of a bundle, found something else; copy the bundle again", b"", {}
    return (foreign(version) or torn(folder, sizes)), text, manifest


def foreign(version: Any) -> str:
    """What is wrong with the version of the bundle, or with that of the runtime."""
    if version != VERSION:
        return f"expected a bundle of version {VERSION}, as this script is of, found {version!r}; copy the bundle again"
    numbers = tuple(int(part) for part in onnxruntime.__version__.split(".")[:2])
    if numbers < LEAST:
        return f"expected onnxruntime {LEAST[0]}.{LEAST[1]} or later, found {onnxruntime.__version__}; update it"
    return ""


def torn(folder: Path, sizes: dict[str, int]) -> str:
    """Which files of the bundle are not there, or not whole."""
    wrong = [name for name, size in sizes.items() if size_of(folder / name) != size]
    if not wrong:
        return ""
    more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
    return (
        f"{folder}: expected all files of the bundle, missing or not whole are {', '.join(wrong[:3])}{more}; "
        "copy the bundle again"
    )


def threads_of(text: str) -> int:
    """A number of threads on the command line."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of threads from 1 on, found {text!r}")
    return int(text)


def seconds_of(text: str) -> float:
    """A time on the command line."""
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0.0 < found < 1e6:
        raise argparse.ArgumentTypeError(f"expected seconds above 0, found {text!r}")
    return found


def saturates(folder: Path, product: Found) -> bool:
    """Whether this processor's products of bytes are wrong where they are large."""
    (found,) = session_of(folder / product["model"], 1).run(None, read_feeds(folder / product["feeds"]))
    return bool((found != product["exact"]).any())


def size_of(path: Path) -> int:
    """Bytes of a file; -1 where there is none."""
    return path.stat().st_size if path.is_file() else -1


def complain(problem: str) -> int:
    """Say what is wrong; exit code 2."""
    print(f"error: {problem}", file=sys.stderr)
    return 2


def continued(path: Path, device: Found) -> tuple[str, Found]:
    """What is wrong with an answer that is there already, and what it knows."""
    if not path.exists():
        return "", {}
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        same = all(known[name] == value for name, value in device.items())
        answers = known["cases"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return f"{path}: expected an answer of this script, found something else; move it away", {}
    if not same:
        return f"{path}: expected an answer to this bundle, runtime and threads, found another; move it away", {}
    return "", answers


def save(path: Path, device: Found, answers: Found) -> None:
    """Atomically."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump({**device, "cases": answers}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def groups(cases: list[Found], *, alone: bool) -> list[list[Found]]:
    """Cases that are measured in turns, so that a busy machine slows all alike."""
    found: dict[Any, list[Found]] = {}
    for number, case in enumerate(cases):
        found.setdefault(number if alone else case["group"], []).append(case)
    return list(found.values())


def measure(folder: Path, cases: list[Found], threads: int, seconds: float) -> Found:
    """An answer for every case of a group."""
    answers: Found = {}
    calls: dict[str, Any] = {}
    differences: Found = {}
    for case in cases:
        try:
            feeds = read_feeds(folder / case["feeds"])
            if case["counted"]:
                samples = profiled(folder / case["model"], feeds, threads, case["counted"])
                answers[case["key"]] = answer(case["kind"], samples)
            else:
                calls[case["key"]] = bound(folder / case["model"], feeds, threads)
                calls[case["key"]]()
                if case["expected"]:
                    differences[case["key"]] = difference(folder, case, feeds, threads)
        except Exception as problem:  # noqa: BLE001  # the runtime's types differ between versions
            calls.pop(case["key"], None)
            words = " ".join(str(problem).split())[:500] or type(problem).__name__
            answers[case["key"]] = answer(case["kind"], [], words)
    kinds = {case["key"]: case["kind"] for case in cases}
    for key, samples in interleaved(calls, seconds, clock_of(threads)).items():
        answers[key] = {**answer(kinds[key], samples), "difference": differences.get(key)}
    calls.clear()
    gc.collect()
    return answers


def answer(kind: str, samples: list[float], error: str | None = None) -> Found:
    """Milliseconds of samples in seconds; disturbances only ever add, so that the lower quartile counts for layers."""
    found: Found = {"kind": kind, "error": error, "samples": len(samples), "difference": None}
    if error is not None:
        return {**found, "median_ms": None, "quartile_ms": None, "spread": None}
    quartile, median, upper = (1e3 * float(np.percentile(samples, share)) for share in (25, 50, 75))
    return {**found, "median_ms": median, "quartile_ms": quartile, "spread": (upper - quartile) / max(median, 1e-9)}


def difference(folder: Path, case: Found, feeds: Found, threads: int) -> float:
    """How far outputs are from those expected: ``|found - expected| / |expected|``, the largest over outputs."""
    session = session_of(folder / case["model"], threads)
    found = session.run(None, {value.name: feeds[value.name] for value in session.get_inputs()})
    expected = read_feeds(folder / case["expected"])
    apart = [0.0]
    for number, value in enumerate(found):
        wanted = expected[str(number)].astype(np.float64)
        if value.shape != wanted.shape:
            raise RuntimeError(f"output {number}: expected the shape {wanted.shape}, found {value.shape}")
        norm = float(np.linalg.norm(wanted))
        apart.append(float(np.linalg.norm(value.astype(np.float64) - wanted)) / max(norm, 1e-12))
    return max(apart)


def read_feeds(path: Path) -> Found:
    """Inputs by name."""
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def session_of(model: Path, threads: int, profile: str = "") -> Any:
    """A session as a user makes it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4
    if profile:
        options.enable_profiling, options.profile_file_prefix = True, profile
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def bound(model: Path, feeds: Found, threads: int) -> Any:
    """A call of the model on its inputs."""
    session = session_of(model, threads)
    binding = session.io_binding()
    for value in session.get_inputs():
        binding.bind_cpu_input(value.name, feeds[value.name])
    for output in session.get_outputs():
        binding.bind_output(output.name)
    return lambda: session.run_with_iobinding(binding)


def clock_of(threads: int) -> Any:
    """A run with one thread takes its processor time, however busy the device; more threads are timed by the wall."""
    fine = time.get_clock_info("thread_time").resolution <= FINE_SECONDS
    return time.thread_time if threads == 1 and fine else time.perf_counter


def interleaved(calls: Found, seconds: float, clock: Any) -> dict[str, list[float]]:
    """Seconds of single runs; calls take turns, and a turn begins with a run that is not timed."""
    repeats = {key: max(1, int(SAMPLE_SECONDS / max(timed(call, 1, clock), 1e-7))) for key, call in calls.items()}
    samples: dict[str, list[float]] = {key: [] for key in calls}
    spent = dict.fromkeys(calls, 0.0)
    waiting = list(calls)
    while waiting:
        for key in waiting:
            calls[key]()
            sample = timed(calls[key], repeats[key], clock)
            spent[key] += sample
            samples[key].append(sample / repeats[key])
        waiting = [key for key in waiting if spent[key] < seconds or len(samples[key]) < LEAST_SAMPLES]
    return samples


def timed(call: Any, repeats: int, clock: Any) -> float:
    """Seconds of ``repeats`` runs."""
    start = clock()
    for _ in range(repeats):
        call()
    return clock() - start


def profiled(model: Path, feeds: Found, threads: int, counted: list[str]) -> list[float]:
    """Seconds inside the counted kernels of single runs, without layout changes at the ends of a run."""
    with tempfile.TemporaryDirectory() as folder:
        session = session_of(model, threads, str(Path(folder) / "profile"))
        given = {value.name: feeds[value.name] for value in session.get_inputs()}
        for _ in range(PROFILED_RUNS + 1):
            session.run(None, given)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    found = [e for e in events if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")]
    found = found[len(found) // (PROFILED_RUNS + 1) :]
    times = [1e-6 * (int(e["dur"]) + 0.5) for e in found if e["args"]["op_name"] in counted]
    if not times:
        raise RuntimeError(f"none of the kernels {', '.join(counted)} ran")
    kernels = max(1, round(len(times) / PROFILED_RUNS))
    return [kernels * value for value in times]


def cpu_name() -> str:
    """Model name and the instruction sets that matter."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return f"{platform.processor() or platform.machine()} {platform.system()}"
    fields: dict[str, str] = {}
    for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    name = fields.get("model name") or fields.get("CPU part") or platform.machine()
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    return " ".join([name, *(flag for flag in INSTRUCTIONS if flag in flags)])


if __name__ == "__main__":
    sys.exit(main())
