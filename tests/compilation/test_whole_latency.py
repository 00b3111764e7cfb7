"""Latencies of single layers are fitted to what whole networks take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import pytest

import instar
from instar.compilation import whole_latency
from instar.ir.layers import Layer, find_layers
from instar.ir.options import STATIC_INT8, Activation, Arithmetic, Option
from instar.targets.base import Latencies, LayerLatency
from instar.targets.integer_runs import NO_RUNS, IntegerRuns, Value

from .models import conv_data, conv_net

FLOAT = Option("fp32")
DYNAMIC = Option("int8:channel", "rtn", Activation.dynamic("tensor"), "int8", Arithmetic.INT8_ROWS)
STATIC = Option("int8:channel", "rtn", STATIC_INT8, "int8_conv")


def fitted(
    monkeypatch: pytest.MonkeyPatch,
    times: Mapping[str, Mapping[Option, float]],
    together: float,
    run: float,
    runs: IntegerRuns = NO_RUNS,
) -> tuple[Latencies, list[dict[str, str]]]:
    """Layers named by ``times`` with 1 ms each in float; the float network takes 10 ms."""
    graph = instar.capture(conv_net(), conv_data()[0])
    found = {layer.name: layer for layer in find_layers(graph)[0]}
    layers: list[Layer] = [found[name] for name in times]
    alone = Latencies(10.0, 10.0, {
        name: LayerLatency(1.0, {FLOAT.name: 1.0} | {o.name: t for o, t in known.items()})
        for name, known in times.items()
    }, "measured", runs=runs)  # fmt: skip
    measured: list[dict[str, str]] = []

    def measure(graph: Any, layers: Any, chosen: Mapping[str, Option], *rest: Any) -> float:
        measured.append({name: option.kernel for name, option in chosen.items()})
        static = {name for name, known in times.items() if STATIC in known}
        return run if static and all(chosen.get(name) == STATIC for name in static) else together

    monkeypatch.setattr(whole_latency, "_measure", measure)
    options = {name: (FLOAT, *known) for name, known in times.items()}
    nothing = cast(Any, None)
    return whole_latency.fit_to_network(graph, layers, options, {}, alone, nothing, []), measured


def gain(latencies: Latencies, layer: str, option: Option) -> float:
    known = latencies.layers[layer]
    return known.original_ms - known.options_ms[option.name]


def test_gains_of_single_layers_are_scaled_to_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    result, measured = fitted(monkeypatch, {"stem": {DYNAMIC: 0.5}, "head": {DYNAMIC: 0.25}}, 9.0, 9.0)
    assert measured == [{"stem": "int8", "head": "int8"}]
    assert gain(result, "stem", DYNAMIC) == pytest.approx(0.4)
    assert gain(result, "stem", DYNAMIC) + gain(result, "head", DYNAMIC) == pytest.approx(10.0 - 9.0)
    assert "gains of single layers are scaled by 0.80" in result.source


def test_what_a_run_gains_beyond_its_layers_is_shared_in_proportion_to_their_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    times = {"stem": {STATIC: 1.2}, "body": {STATIC: 0.9}, "head": {DYNAMIC: 0.5}}
    result, measured = fitted(monkeypatch, times, 9.5, 8.0)
    assert {"stem": "int8_conv", "body": "int8_conv", "head": "int8"} in measured
    assert gain(result, "stem", STATIC) == pytest.approx(-0.2 + 0.8)  # 9.6 ms by the layers, 8 ms measured
    assert gain(result, "body", STATIC) == pytest.approx(0.1 + 0.8)
    chosen = {"stem": STATIC.name, "body": STATIC.name, "head": DYNAMIC.name}
    assert result.predicted_ms(chosen) == pytest.approx(8.0)
    assert "each of these changes by -80% of its time in float" in result.source
    assert min(t for known in result.layers.values() for t in known.options_ms.values()) >= 0.0


def test_crossings_are_no_gain_of_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = IntegerRuns((Value("<1>", "stem", ("body",), False, 0.3, 0.5),), (), {"stem": frozenset({STATIC.name})})
    result, _ = fitted(monkeypatch, {"stem": {STATIC: 0.5}, "body": {DYNAMIC: 0.5}}, 9.5, 9.5, runs)
    assert gain(result, "stem", STATIC) == pytest.approx(0.5)
    assert gain(result, "body", DYNAMIC) == pytest.approx(0.5)
    assert result.predicted_ms({"stem": STATIC.name, "body": DYNAMIC.name}) == pytest.approx(9.5)
    assert result.predicted_ms({"stem": STATIC.name}) == pytest.approx(10.0)


def test_a_run_that_is_slower_than_single_layers_counts_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    times = {"stem": {STATIC: 1.2, DYNAMIC: 0.5}, "head": {DYNAMIC: 0.5}}
    result, measured = fitted(monkeypatch, times, 9.0, 9.5)
    assert len(measured) == 2
    assert gain(result, "stem", DYNAMIC) == pytest.approx(0.5)
    assert gain(result, "stem", STATIC) < 0.0


def test_where_float_is_fastest_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    result, measured = fitted(monkeypatch, {"stem": {DYNAMIC: 1.5}}, 9.0, 9.0)
    assert measured == []
    assert result.source == "measured"
