"""How far a correct artifact may be from a network: measured on the network itself, in float64.

The reference is the network in float64. What rounding does to it is seen in two ways: the network as it is (float32, or
narrower where it says so) against the reference, and the reference with every input and parameter moved by a relative
rounding error at random. What a coarse format does to it is seen by moving every weight by up to half a step of the
format, and where activations are rounded the input of every product as well. An artifact may be ``MARGIN`` times as far
away as the worst of the draws. Integer outputs are compared where no draw of ``MARGIN`` times the error changes them;
how many of these one more draw may still change is estimated by how many a single draw changed (Good, "The population
frequencies of species and the estimation of population parameters", Biometrika 1953, equation 9).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from .blocks import Narrow

MARGIN, DRAWS, EPSILON = 16.0, 3, 2.0**-23
PRODUCTS: frozenset[Any] = frozenset(
    [
        F.linear,
        F.conv1d,
        F.conv2d,
        F.conv3d,
        torch.matmul,
        torch.bmm,
        torch.baddbmm,
        torch.einsum,
        Tensor.matmul,
        Tensor.__matmul__,
    ]
)


@dataclass(frozen=True)
class Reference:
    """Right values and how far an artifact may be from each.

    ``stable`` says which integers must be equal, ``unseen`` how many of them may differ all the same.
    """

    values: tuple[Tensor, ...]
    bounds: tuple[Tensor, ...]
    stable: tuple[Tensor, ...]
    unseen: tuple[int, ...]


class RoundedInputs(TorchFunctionMode):
    """Moves the input of every product by up to half a step of 8 bits over its range."""

    def __init__(self, generator: torch.Generator, share: float) -> None:
        super().__init__()
        self.generator, self.share = generator, share

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in PRODUCTS and isinstance(args[0], Tensor) and args[0].is_floating_point():
            step = (args[0].amax().clamp(min=0) - args[0].amin().clamp(max=0)) * self.share
            args = (args[0] + noise(args[0], self.generator) * step, *args[1:])
        return func(*args, **(kwargs or {}))


def noise(like: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform in -1 to 1."""
    return torch.rand(like.shape, generator=generator, dtype=torch.float64).to(like.dtype) * 2 - 1


def wide(model: nn.Module) -> nn.Module:
    """A copy in float64, parts of other dtypes included."""
    made = copy.deepcopy(model)
    for module in made.modules():
        if isinstance(module, Narrow):
            module.dtype = torch.float64
    return made.double()


def run(model: nn.Module, call: Sequence[Any]) -> list[Tensor]:
    """The outputs, flat."""
    with torch.no_grad():
        return [value.clone() for value in pytree.tree_leaves(model(*call))]


def reference(
    model: nn.Module, call: Sequence[Any], step: float = 0.0, *, activations: bool = False, epsilon: float = EPSILON
) -> Reference:
    """Values, bounds and stable integers of a network at an input.

    Args:
        model: as it is compiled.
        call: its positional inputs.
        step: half a step of the weights' format, relative to the largest weight: 1 / 254 for 8 bits.
        activations: whether the inputs of products are rounded to 8 bits as well.
        epsilon: of the dtype that the network computes in.
    """
    exact, doubled = wide(model), pytree.tree_map(lambda t: t.double() if t.is_floating_point() else t, call)
    values, generator = run(exact, doubled), torch.Generator().manual_seed(0)
    near, far = [run(model, call)], list[list[Tensor]]()
    for _ in range(DRAWS):
        near.append(run(moved(exact, generator, epsilon, by_tensor=False), moved_call(doubled, generator, epsilon)))
        far.append(run(moved(exact, generator, MARGIN * epsilon, by_tensor=False), doubled))
        if step:
            near.append(coarse(exact, doubled, generator, step, activations=activations))
            far.append(coarse(exact, doubled, generator, 4 * step, activations=activations))
    bounds = [bound(v, [draw[i] for draw in near], epsilon) for i, v in enumerate(values)]
    changes = [torch.stack([d[i] != v for d in (*near, *far)]).sum(0) for i, v in enumerate(values)]
    once = [3 * int((c == 1).sum()) / len((*near, *far)) for c in changes]
    return Reference(tuple(values), tuple(bounds), tuple(c == 0 for c in changes), tuple(map(math.ceil, once)))


def coarse(
    exact: nn.Module, call: Sequence[Any], generator: torch.Generator, step: float, *, activations: bool
) -> list[Tensor]:
    """The outputs with weights, and perhaps inputs of products, moved by up to half a step."""
    changed = moved(exact, generator, step, by_tensor=True)
    if not activations:
        return run(changed, call)
    with RoundedInputs(generator, step):
        return run(changed, call)


def moved(exact: nn.Module, generator: torch.Generator, share: float, *, by_tensor: bool) -> nn.Module:
    """A copy whose parameters are moved by a share of themselves, or of the largest of their tensor."""
    made = copy.deepcopy(exact)
    with torch.no_grad():
        for value in made.parameters():
            if value.numel() and (value.dim() > 1 or not by_tensor):
                scale = value.abs().amax() if by_tensor else value.abs()
                value.add_(noise(value, generator) * scale * share)
    return made


def moved_call(call: Sequence[Any], generator: torch.Generator, share: float) -> Sequence[Any]:
    """Floating inputs moved by a share of themselves."""

    def move(value: Tensor) -> Tensor:
        return value * (1 + noise(value, generator) * share) if value.is_floating_point() else value

    return pytree.tree_map(move, call)


def bound(value: Tensor, draws: Sequence[Tensor], epsilon: float) -> Tensor:
    """One number for a whole output: ``MARGIN`` times the worst draw, and some roundings of the largest value."""
    if not value.is_floating_point() or not value.numel():
        return torch.zeros((), dtype=torch.float64)
    worst = torch.stack([(d.double() - value).abs().amax() for d in draws]).amax()
    return MARGIN * worst + 64 * epsilon * value.abs().amax()


def first_difference(found: Any, expected: Any, right: Reference) -> str:
    """Where an artifact's outputs are not those of the network; empty where they are.

    Args:
        found: what the artifact returned.
        expected: what the network returned, for structure and dtypes.
        right: from :func:`reference`.
    """
    (ours, our_tree), (theirs, their_tree) = pytree.tree_flatten(found), pytree.tree_flatten(expected)
    if our_tree != their_tree:
        return f"structure {our_tree} in place of {their_tree}"
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        if a.shape != b.shape or a.dtype != b.dtype:
            return f"output {i} is {a.dtype} {tuple(a.shape)} in place of {b.dtype} {tuple(b.shape)}"
        wrong = _wrong(a, right.values[i], right.bounds[i], right.stable[i], right.unseen[i])
        if wrong:
            return f"output {i}: {wrong}"
    return ""


def _wrong(found: Tensor, value: Tensor, limit: Tensor, stable: Tensor, unseen: int) -> str:
    if not value.is_floating_point():
        count = int(((found != value) & stable).sum())
        return f"{count} of {int(stable.sum())} integers differ" if count > unseen else ""
    error = float((found.double() - value).abs().amax()) if value.numel() else 0.0
    return "" if error <= float(limit) else f"error {error:.3g} above {float(limit):.3g}"
