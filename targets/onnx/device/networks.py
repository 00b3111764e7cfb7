"""Whole networks that a device is asked about: the original, in float in each spelling, and one for every kernel."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from torch import Tensor

from ....ir.graph import Graph
from ....ir.layers import Layer
from ....ir.options import KEPT, Option
from ....passes.formats import format as parse_format

ORIGINAL = "original"
SPELLED = ("attention", "masked_softmax")
"""Options of the target that change how a network is spelled."""


def network_key(graph: Graph, inputs: Sequence[Tensor], label: str) -> str:
    """The key of a network at the sizes of some inputs; the values of its weights do not matter."""
    structure = hashlib.sha256(graph.text().encode()).hexdigest()[:16]
    sizes = ", ".join("x".join(map(str, tensor.shape)) or "scalar" for tensor in inputs)
    return f"network {structure} at {sizes} @{label}"


def float_label(spelling: Mapping[str, str]) -> str:
    """Of the network in float."""
    return "float " + " ".join(f"{name}={spelling[name]}" for name in SPELLED)


def kernel_label(kernel: str, chosen: Mapping[str, Option]) -> str:
    """Of the network with a kernel, and what each layer is in it."""
    words = [f"{name} {o.format} {o.activation.spelling} {o.arithmetic}" for name, o in sorted(chosen.items())]
    return f"{kernel} {hashlib.sha256('|'.join(words).encode()).hexdigest()[:16]}"


def kernel_networks(
    layers: Sequence[Layer], options: Mapping[str, Sequence[Option]]
) -> Mapping[str, Mapping[str, Option]]:
    """Kernel -> the network in which every layer that may runs under it, in its most accurate format."""
    found: dict[str, dict[str, Option]] = {}
    for layer in layers:
        best: dict[str, tuple[int, Option]] = {}
        for option in options[layer.name]:
            nbytes = parse_format(option.format).nbytes(layer.stored_shape)
            if option.kernel != KEPT.kernel and nbytes > best.get(option.kernel, (0, option))[0]:
                best[option.kernel] = (nbytes, option)
        for kernel, (_, option) in best.items():
            found.setdefault(kernel, {})[layer.name] = option
    return found
