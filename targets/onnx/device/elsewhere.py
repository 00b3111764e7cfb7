"""Latencies, refusals and spellings by what a device answered, in place of measuring here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from torch import Tensor

from ....ir.errors import ConfigError
from ....ir.graph import Graph, Node
from ....ir.layers import Layer
from ....ir.options import KEPT, Option
from ....passes.formats import format as parse_format
from ...base import Latencies, NetworkTime
from ..cases import Case
from ..kernels.offers import SATURATING, fits_saturating
from ..latency import CasesByOption, all_cases, layer_latencies
from .networks import ORIGINAL, float_label, kernel_label, kernel_networks, network_key
from .profile import Device

PRODUCTS = ("instar.linear_int8", "instar.linear_int8_tokens", "instar.conv_int8", "instar.lstm_int8")
"""Ops whose kernels multiply bytes."""

Way = TypeVar("Way")


def refused(device: Device, found: CasesByOption) -> dict[str, dict[Option, str]]:
    """Options with a case that the device does not run.

    Raises:
        ConfigError: the device was not asked about some of them, or does not run a layer as it was.
    """
    device.require(case.key for case in all_cases(found))
    result: dict[str, dict[Option, str]] = {}
    for layer, named in found.items():
        for option, cases in named.items():
            reasons = [device.failed[case.key] for case in cases if case.key in device.failed]
            if device.saturates and any(_saturates(option, case) for case in cases):
                reasons.append(SATURATING)
            if reasons and option == KEPT:
                raise ConfigError(
                    f"{device.path}: device profile: expected a device that runs layer {layer} in float, found: "
                    f"{reasons[0]}; choose an older opset, or update the device's runtime"
                )
            if reasons:
                runtime = device.profile.runtime
                result.setdefault(layer, {})[option] = f"{option.name} on the device with {runtime}: {reasons[0]}"
    return result


def require_networks(
    device: Device,
    graph: Graph,
    layers: Sequence[Layer],
    options: Mapping[str, Sequence[Option]],
    inputs: Sequence[Tensor],
    spellings: Sequence[str],
) -> None:
    """Refuses a profile that lacks networks which this compilation will ask for.

    Args:
        device: the profile.
        graph: after the exact passes.
        layers: of the graph.
        options: what the layers may become before the device refuses any of it.
        inputs: sizes at which the networks were run.
        spellings: labels of the float networks.

    Raises:
        ConfigError: names them.
    """
    of_kernels = [kernel_label(kernel, chosen) for kernel, chosen in kernel_networks(layers, options).items()]
    labels = (ORIGINAL, float_label(device.spelling), *spellings, *of_kernels)
    device.require(network_key(graph, inputs, label) for label in labels)


def _under(
    kernel: str, options: Mapping[str, Sequence[Option]], asked: Mapping[str, Option]
) -> dict[str, Option] | None:
    """The network of a kernel in options that are left; None where a layer has none of that kernel any more.

    A kernel takes the same time whatever it was expanded from, so that the time of the network holds for these too.
    """
    found: dict[str, Option] = {}
    for layer, option in asked.items():
        left = [o for o in options[layer] if o.kernel == kernel]
        if not left:
            return None
        found[layer] = option if option in left else left[0]
    return found


def _saturates(option: Option, case: Case) -> bool:
    """Whether a case multiplies bytes with weights that are too large for products that saturate."""
    stored = parse_format(option.format)
    return not fits_saturating(stored) and any(map(_multiplies_signed, case.graph.nodes()))


def _multiplies_signed(node: Node) -> bool:
    return node.op.name.removesuffix(".default") in PRODUCTS and not node.argument("unsigned", False)


def latencies(
    device: Device,
    graph: Graph,
    layers: Sequence[Layer],
    options: Mapping[str, Sequence[Option]],
    inputs: Sequence[Tensor],
    found: CasesByOption,
    spelling: Mapping[str, Any],
    offered: Mapping[str, Sequence[Option]],
) -> Latencies:
    """The times of a profile; ``offered`` are the options before the device refused some of them.

    Raises:
        ConfigError: it lacks some of them, and names these.
    """
    networks = kernel_networks(layers, offered)
    keys = {kernel: network_key(graph, inputs, kernel_label(kernel, of)) for kernel, of in networks.items()}
    original, base, chosen = (
        network_key(graph, inputs, label) for label in (ORIGINAL, float_label(device.spelling), float_label(spelling))
    )
    device.require([original, base, chosen, *keys.values(), *(case.key for case in all_cases(found))])
    known = device.profile
    float_ms = device.network_ms(base)
    left = {kernel: _under(kernel, options, networks[kernel]) for kernel in keys}
    timed = tuple(
        NetworkTime(kernel, chosen, known.milliseconds[keys[kernel]], float_ms)
        for kernel, chosen in left.items()
        if chosen is not None and keys[kernel] in known.milliseconds
    )
    source = (
        f"device profile: {known.runtime}, {known.cpu}, {known.threads} thread(s); the time of the artifact is "
        "predicted from what the device measured"
    )
    return Latencies(
        device.network_ms(original),
        device.network_ms(chosen),
        layer_latencies(found, known.milliseconds),
        source,
        timed,
    )


def fastest(device: Device, graph: Graph, inputs: Sequence[Tensor], labels: Mapping[Way, str]) -> Way:
    """The spelling in which the float network is fastest on the device.

    Raises:
        ConfigError: the device runs it in none, or was not asked.
    """
    keys = {way: network_key(graph, inputs, label) for way, label in labels.items()}
    device.require(keys.values())
    runs = {way: key for way, key in keys.items() if key not in device.failed}
    if not runs:
        device.network_ms(next(iter(keys.values())))
    return min(runs, key=lambda way: device.profile.milliseconds[runs[way]])
