"""Compiles a generated network in one of several ways and says what came of it."""

from __future__ import annotations

import contextlib
import copy
import io
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch.utils import _pytree as pytree

import instar
from instar.ir.errors import InfeasibleError, InstarError

from .bounds import EPSILON, first_difference, reference
from .networks import Generated

Way = Literal["exact", "int8", "rounded", "int4", "budget", "float16", "bfloat16", "float64"]
WAYS: tuple[Way, ...] = ("int8", "rounded", "int4", "budget")
"""How seeds are quantized, by turns; each is compiled exactly as well."""

DTYPES: Mapping[Way, torch.dtype] = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
}
"""Ways in which the whole network and its inputs have another dtype, and are compiled exactly."""

Verdict = Literal["right", "no network", "shared refusal", "infeasible", "refused", "foreign", "wrong", "fixed"]

FAULTS: tuple[Verdict, ...] = ("refused", "foreign", "wrong", "fixed")
"""Verdicts that must not happen; refusals that torch.onnx shares and sizes that tiny layers cannot meet are none."""

STEPS: Mapping[Way, float] = {"int8": 1 / 254, "rounded": 1 / 126, "int4": 1 / 14, "budget": 1 / 254}
"""Half a step of a way's format, relative to the largest weight of a row."""


@dataclass(frozen=True)
class Outcome:
    """What came of one network in one way; ``detail`` is the message or the difference."""

    seed: int
    way: Way
    verdict: Verdict
    blocks: tuple[str, ...]
    detail: str = ""


def settings(network: Generated, way: Way) -> dict[str, Any]:
    """Arguments of ``compile`` for a way."""
    if way == "exact" or way in DTYPES:
        return {}
    if way in ("int8", "int4"):
        return {"formats": ["int8:channel" if way == "int8" else "int4:g32"], "activations": ["none"]}
    data = {"calibration": [network.calls[0]]}
    if way == "rounded":  # 7 bits: the products of 8 bits saturate on processors without VNNI, and are refused there
        return {"formats": ["int7:channel"], "activations": ["dynamic_int8"], **data}
    return {"formats": ["fp32", "int8:channel"], "budget": instar.Budget(size="95%"), **data}


def judge(network: Generated, way: Way) -> Outcome:
    """Compile, run at both sizes, compare."""

    def outcome(verdict: Verdict, detail: str = "") -> Outcome:
        return Outcome(network.seed, way, verdict, network.blocks, detail)

    if way in DTYPES:
        network = in_dtype(network, DTYPES[way])
        said = refused_by_itself(network)
        if said:
            return outcome("no network", said)
    try:
        compiled = instar.compile(
            network.model, network.calls[0], target="onnx", dynamic_shapes=network.dynamic_shapes,
            **settings(network, way),
        )  # fmt: skip
    except InfeasibleError as error:
        return outcome("infeasible" if way == "budget" else "refused", str(error))
    except InstarError as error:
        shared = refused_by_torch(network)
        return outcome("shared refusal" if shared else "refused", f"{type(error).__name__}: {error}")
    except Exception as error:  # noqa: BLE001 - that is what is looked for
        return outcome("foreign", f"{type(error).__module__}.{type(error).__name__}: {error}")
    fixed = fixed_dimensions(network, compiled)
    if fixed:
        return outcome("fixed", fixed)
    return _compared(network, way, compiled, outcome)


def _compared(network: Generated, way: Way, compiled: Any, outcome: Callable[[Verdict, str], Outcome]) -> Outcome:
    for call in network.calls:
        try:
            found = compiled(*call)
        except Exception as error:  # noqa: BLE001 - an artifact that does not run is a fault
            return outcome("wrong", f"does not run: {type(error).__name__}: {error}")
        with torch.no_grad():
            expected = network.model(*call)
        right = reference(
            network.model, call, STEPS.get(way, 0.0), activations=way in ("rounded", "budget"),
            epsilon=max(torch.finfo(DTYPES.get(way, torch.float32)).eps, EPSILON),  # float64 may run in float32
        )  # fmt: skip
        difference = first_difference(found, expected, right)
        if difference:
            return outcome("wrong", difference)
    return outcome("right", "")


def in_dtype(network: Generated, dtype: torch.dtype) -> Generated:
    """The same network with every floating parameter, buffer and input in another dtype."""

    def changed(value: Any) -> Any:
        return value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value

    first, second = (pytree.tree_map(changed, call) for call in network.calls)
    return replace(network, model=copy.deepcopy(network.model).to(dtype), calls=(first, second))


def refused_by_itself(network: Generated) -> str:
    """What torch says where it does not compute the network: operators that a dtype lacks, or two dtypes that meet."""
    try:
        with torch.no_grad():
            for call in network.calls:
                network.model(*call)
    except (RuntimeError, NotImplementedError, ValueError) as error:
        return str(error).splitlines()[0]
    return ""


def fixed_dimensions(network: Generated, compiled: Any) -> str:
    """Dimensions that were asked to be dynamic and are numbers in the artifact's graph."""
    if network.dynamic_shapes is None:
        return ""
    asked = _leaves(network.dynamic_shapes)
    found: list[str] = []
    for node, dims in zip(compiled.captured.inputs, asked, strict=True):
        shape = node.tensor_type.shape
        found += [f"dimension {axis} of {shape}" for axis in dims if isinstance(shape[axis], int)]
    return ", ".join(found)


def _leaves(shapes: Any) -> list[dict[int, Any]]:
    """One mapping for every tensor of a call."""
    return [shapes] if isinstance(shapes, dict) else [leaf for part in shapes for leaf in _leaves(part)]


def refused_by_torch(network: Generated) -> bool:
    """Whether ``torch.onnx.export(dynamo=True)`` refuses the network as well, or fixes a size that was to be open.

    Where torch.export refuses a dynamic size, the exporter falls back to a draft of it, with the sizes of the example.
    """
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                network.model, network.calls[0], dynamic_shapes=network.dynamic_shapes, dynamo=True, verbose=False
            )
    except Exception:  # noqa: BLE001 - whatever it says
        return True
    asked = _leaves(network.dynamic_shapes) if network.dynamic_shapes is not None else []
    shapes = [entry.shape for entry in program.model.graph.inputs] if program is not None else []
    return any(
        shape is not None and isinstance(shape[axis], int)
        for shape, dims in zip(shapes, asked, strict=False)
        for axis in dims
    )
