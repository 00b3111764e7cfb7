"""Latencies of single layers fitted to the networks that a device ran, one for every kernel."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..ir.options import Option
from ..targets.base import Latencies, LayerLatency, NetworkTime

LEAST_SCALE = 0.05
"""Gains that vanish in the network still order the options."""


def fit_to_known(
    latencies: Latencies, options: Mapping[str, Sequence[Option]], networks: Sequence[NetworkTime]
) -> Latencies:
    """The same latencies with differences from float scaled, kernel by kernel, to what whole networks show.

    A network of layers between static integers says what such layers gain together, in proportion to their time in
    float: alone they say little, because leaving a run of them costs conversions.
    """
    table, words = dict(latencies.layers), list[str]()
    for network in networks:
        static = any(option.activation.is_static for option in network.options.values())
        share = _share_of_run(latencies, network) if static else _scale(latencies, network)
        for name in network.options:
            members = {o.name for o in options[name] if o.kernel == network.kernel}
            table[name] = _fitted(table[name], members, share, of_float=static)
        words.append(
            f"the network with {network.kernel} takes {network.milliseconds:.3g} ms against {network.float_ms:.3g} ms "
            + (f"in float: its layers gain {share:.0%}" if static else f"in float: gains are scaled by {share:.2f}")
        )
    lifted = {name: _lifted(known) for name, known in table.items()}
    return replace(latencies, layers=lifted, source="; ".join((latencies.source, *words)))


def _scale(latencies: Latencies, network: NetworkTime) -> float:
    """What the network gains as a share of what its layers gain alone; 1 where alone they gain nothing."""
    known = [(latencies.layers[name], option) for name, option in network.options.items()]
    alone = math.fsum(times.options_ms[option.name] - times.original_ms for times, option in known)
    together = network.milliseconds - network.float_ms
    return max(together / alone, LEAST_SCALE) if alone < 0 else 1.0


def _share_of_run(latencies: Latencies, network: NetworkTime) -> float:
    before = math.fsum(latencies.layers[name].original_ms for name in network.options)
    return max((network.float_ms - network.milliseconds) / max(before, 1e-9), LEAST_SCALE)


def _fitted(known: LayerLatency, members: set[str], share: float, *, of_float: bool) -> LayerLatency:
    start = known.original_ms

    def fitted(time: float) -> float:
        return start * (1.0 - share) if of_float else start + share * (time - start)

    return LayerLatency(start, {n: fitted(t) if n in members else t for n, t in known.options_ms.items()})


def _lifted(known: LayerLatency) -> LayerLatency:
    """A constant keeps every time above zero and cancels in every sum."""
    lift = max(0.0, -min([known.original_ms, *known.options_ms.values()]))
    return LayerLatency(known.original_ms + lift, {n: t + lift for n, t in known.options_ms.items()})
