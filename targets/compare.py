"""How far apart two lists of outputs are, and how far apart they may be."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..ir.errors import PassError
from ..ir.evaluate import evaluate, run
from ..ir.graph import Graph, Node
from ..ir.plan import Plan
from ..passes.promote import promote, promote_inputs

FLOAT_BOUND = 1e-4
"""Largest relative error of a model without quantized activations: float32 sums in another order."""

EPSILONS_OF_ROUNDING = 16
"""Bound in machine epsilons of a dtype narrower than float32 that a model computes with."""

OWN_ROUNDINGS = 4
"""How much further from a graph than the graph is from itself in float64 a runtime may be, which rounds elsewhere."""

ROUNDING_SHARE = 1.5
"""Bound in shares of the predicted activation error. Sums in another order flip a few codes near a rounding boundary,
and every flip moves the codes of all layers behind it: a jitter of 1e-6 changes a quantized MiniLM by 0.7 of that
error. Two runs whose roundings have nothing in common differ by the square root of two of it."""

DYNAMIC_BOUND = 2e-3
"""Least bound where activations are quantized dynamically: a flipped code is one step of 1/255 of a value's range."""

STATIC_BOUND = 1e-2
"""The same in runs of integer layers: codes are rounded after every layer, so flips add up along the run."""

UNKNOWN_BOUND = 0.25
"""Bound where no calibration data said what quantizing the activations costs."""

STATIC_ROUNDING = "instar.fake_quantize_static.default"


def rounding_bound(plan: Plan, graph: Graph) -> float:
    """Relative error that rounding, of floats and at code boundaries, may cause in a network with this plan."""
    return max(_codes_bound(plan), _floats_bound(graph))


def rounding_bound_on(plan: Plan, graph: Graph, examples: Sequence[Sequence[Tensor]]) -> float:
    """:func:`rounding_bound`, or more where rounding to static codes moves the outputs of these examples further.

    What is predicted is a mean over calibration data. On one example it may be more, and then another place of the same
    roundings moves it by more. What is measured counts up to ``UNKNOWN_BOUND``, so that ranges which miss the example
    do not let everything pass.
    """
    bound = rounding_bound(plan, graph)
    if not any(node.op.name == STATIC_ROUNDING for node in graph.nodes()):
        return bound
    measured = max((_own_static_rounding(graph, inputs) for inputs in examples), default=0.0)
    return max(bound, min(ROUNDING_SHARE * measured, UNKNOWN_BOUND))


def _own_static_rounding(graph: Graph, inputs: Sequence[Tensor]) -> float:
    """How far rounding values to static codes moves the outputs."""

    def unrounded(node: Node, value: Any, values: Mapping[Node, Any]) -> Any:
        return values[node.inputs[0]] if node.op.name == STATIC_ROUNDING else value

    with torch.no_grad():
        return relative_error(run(graph, inputs, unrounded), evaluate(graph, inputs))


def _floats_bound(graph: Graph) -> float:
    """What the narrowest floating dtype of a graph cannot keep: runtimes round to it at other places."""
    types = [t for n in graph.nodes() for t in (n.type if isinstance(n.type, tuple) else (n.type,))]
    narrow = {t.dtype for t in types if t.dtype in (torch.float16, torch.bfloat16)}
    return EPSILONS_OF_ROUNDING * max((torch.finfo(dtype).eps for dtype in narrow), default=0.0)


def _codes_bound(plan: Plan) -> float:
    quantized = [d for d in plan.decisions if not d.chosen.option.activation.is_none]
    if not quantized:
        return FLOAT_BOUND
    loss = sum(d.chosen.activation_loss for d in quantized)
    least = STATIC_BOUND if any(d.chosen.option.activation.is_static for d in quantized) else DYNAMIC_BOUND
    return max(ROUNDING_SHARE * loss**0.5, UNKNOWN_BOUND if loss == 0.0 else least)


def amplified(graph: Graph, inputs: Sequence[Tensor], expected: Sequence[Any], bound: float) -> list[float]:
    """A bound for each output: more than ``bound`` where the graph's own rounding already moves an output further.

    A sum that cancels keeps few digits in any runtime. How many is seen in float64: what the graph computes in its own
    dtype against what it would compute without rounding, times ``OWN_ROUNDINGS``.

    Args:
        graph: with the plan in it.
        inputs: flat.
        expected: flat outputs of the graph in its own dtype.
        bound: of an output that rounding is not amplified in.
    """
    try:
        exact = evaluate(promote(graph).graph, promote_inputs(inputs))
    except PassError:  # an operator that has no float64
        return [bound] * len(expected)
    own = [relative_error([b], [a]) for a, b in zip(exact, expected, strict=True)]
    return [max(bound, OWN_ROUNDINGS * error) if math.isfinite(error) else bound for error in own]


def relative_error(expected: Sequence[Any], found: Sequence[Any]) -> float:
    """Largest ``|found - expected| / |expected|`` of the outputs; infinite where shapes or integers differ."""
    worst = 0.0
    for a, b in zip(expected, found, strict=True):
        if not isinstance(a, Tensor):
            worst = max(worst, 0.0 if a == b else float("inf"))
        elif a.shape != b.shape:
            return float("inf")
        elif not _measured(a):
            worst = max(worst, 0.0 if bool((a == b).all()) else float("inf"))
        elif a.numel():
            worst = max(worst, _distance(a, b))
    return worst


ANOTHER_KERNEL = "choose another kernel for the layers involved, or report the model"


def difference(expected: Sequence[Any], found: Sequence[Any], names: Sequence[str] = ()) -> str:
    """How outputs differ, and what to do; ``names`` are those of the outputs that are tensors."""
    given = iter(names)
    for index, (a, b) in enumerate(zip(expected, found, strict=True)):
        name = f"output {next(given, index)}" if isinstance(a, Tensor) else f"output {index}"
        if not isinstance(a, Tensor):
            if a != b:
                return f"{name} is {b!r} instead of {a!r}; {ANOTHER_KERNEL}"
        elif a.shape != b.shape:
            return f"{name} of shape {list(b.shape)} instead of {list(a.shape)}; {ANOTHER_KERNEL}"
        elif not _measured(a) and not bool((a == b).all()):
            return (
                f"{name} with {int((a != b).sum())} of {a.numel()} integers that differ; positions of equal values "
                "have no order that every runtime keeps: sort with stable=True, or return the values"
            )
        elif _measured(a) and a.numel() and _distance(a, b) == float("inf"):
            return f"{name} with NaN or infinity at other places; {ANOTHER_KERNEL}"
    return f"a relative error of {relative_error(expected, found):.3g}; {ANOTHER_KERNEL}"


def _measured(value: Tensor) -> bool:
    """Whether a distance counts; integers have to be equal."""
    return value.is_floating_point() or value.is_complex()


def _distance(a: Tensor, b: Tensor) -> float:
    if a.is_complex():
        a, b = (torch.view_as_real(value.resolve_conj()) for value in (a, b))
    finite = torch.isfinite(a)
    if not bool((finite == torch.isfinite(b)).all()):
        return float("inf")
    difference = torch.where(finite, a.double() - b.double(), 0.0).norm()
    return float((difference / torch.where(finite, a.double(), 0.0).norm().clamp(min=1e-30)).detach())
