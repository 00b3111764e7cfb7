"""Sessions: errors, kernels, timing."""

from __future__ import annotations

import time
from statistics import median

import numpy as np
import pytest

from instar.ir.errors import LoweringError
from instar.targets.onnx.cases import MaskedSoftmax, case_models
from instar.targets.onnx.session import (
    check_kernels,
    clock_of,
    interleaved_ms,
    kernel_runs,
    lower_quartile,
    make_session,
    run,
)

((_, MODEL),) = case_models([MaskedSoftmax(4, 32).case("plain")])


def test_a_file_that_is_no_model_is_refused() -> None:
    with pytest.raises(LoweringError, match="onnxruntime: expected to load the model, found: "):
        make_session(b"not a model")


def test_a_missing_file_is_refused() -> None:
    with pytest.raises(LoweringError, match="onnxruntime: expected to load the model, found: "):
        make_session("nowhere.onnx")


def test_wrong_inputs_are_refused() -> None:
    with pytest.raises(LoweringError, match="onnxruntime: expected to run the model, found: "):
        run(make_session(MODEL.model), {"x0_0": np.zeros((4, 31), np.float32)})


def test_every_run_is_seen() -> None:
    runs = kernel_runs(MODEL.model, MODEL.feeds, runs=5)
    assert [r.op for r in runs] == ["Softmax"] * 5
    assert all(r.microseconds >= 0 for r in runs)


def test_missing_kernels_are_listed_with_their_counts() -> None:
    check_kernels({"MatMulIntegerToFloat": 2, "DynamicQuantizeMatMul": 1},
                  {"MatMulIntegerToFloat|DynamicQuantizeMatMul": 3})  # fmt: skip
    with pytest.raises(LoweringError, match="MatMulNBits: expected 2, ran 1; QLinearConv: expected 1, ran 0"):
        check_kernels({"MatMulNBits": 1}, {"MatMulNBits": 2, "QLinearConv": 1})


def test_timing_is_in_milliseconds() -> None:
    slow, fast = interleaved_ms([lambda: time.sleep(0.003), lambda: time.sleep(0.001)], seconds=0.02, estimate=median)
    assert 3.0 <= slow < 30.0
    assert 1.0 <= fast < slow


def test_steady_calls_are_timed_for_less_long() -> None:
    now, runs = [0.0], {"steady": 0, "wild": 0}

    def call(name: str) -> None:
        runs[name] += 1
        now[0] += 0.1 * (1 + runs[name] % 3 * (name == "wild"))

    both = [lambda: call("steady"), lambda: call("wild")]
    steady, wild = interleaved_ms(both, seconds=2.0, least=10, clock=lambda: now[0], steady=0.02)
    assert steady == pytest.approx(100.0)
    assert 100.0 <= wild <= 300.0
    assert runs["steady"] == 2 + 8  # two before the samples, and two fifths of two seconds
    assert runs["wild"] >= 2 + 10
    interleaved_ms(both[:1], seconds=2.0, least=10, clock=lambda: now[0])
    assert runs["steady"] >= 2 + 8 + 2 + 20


def test_one_thread_is_timed_by_its_own_processor_time() -> None:
    clock = clock_of(1)
    (asleep,) = interleaved_ms([lambda: time.sleep(0.02)], seconds=0.0, least=3, clock=clock)
    assert asleep < 10.0  # as little as a run that waits for a busy processor
    assert clock_of(2) is time.perf_counter


def test_lower_quartile() -> None:
    assert lower_quartile([5.0]) == 5.0
    assert lower_quartile([1.0, 2.0, 3.0, 4.0, 100.0]) == 2.0
