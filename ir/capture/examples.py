"""Example inputs for torch.export, which takes sizes of 0 and 1 for constants, also where they are declared dynamic."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from .dims import user_names

EXPORTABLE = 2
"""The smallest size that torch.export keeps dynamic."""


def enlarged(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], dynamic_shapes: Any
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The examples with every named dynamic dimension of size 1 repeated to size 2.

    Values are repeated, so that token ids and masks stay valid. Dimensions that ``Dim`` limits to 1 are left alone.
    """
    limits = _limits(dynamic_shapes)
    dims = user_names(dynamic_shapes, args, kwargs, _argument_names(model, args, kwargs))
    axes: dict[int, list[int]] = {}
    for (position, axis), name in dims.items():
        if limits.get(name, EXPORTABLE) >= EXPORTABLE:
            axes.setdefault(position, []).append(axis)
    leaves, spec = pytree.tree_flatten((args, kwargs))
    tensors = [index for index, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]
    for position, wanted in axes.items():
        for axis in wanted:
            leaves[tensors[position]] = _repeated(leaves[tensors[position]], axis)
    return pytree.tree_unflatten(leaves, spec)


def _repeated(value: torch.Tensor, axis: int) -> torch.Tensor:
    if axis >= value.dim() or value.shape[axis] != 1:
        return value
    return value.index_select(axis, torch.zeros(EXPORTABLE, dtype=torch.int64, device=value.device))


def _limits(dynamic_shapes: Any) -> dict[str, int]:
    """Name of every ``Dim`` in the nest -> its largest size."""
    dims = [d for d in pytree.tree_leaves(dynamic_shapes) if isinstance(getattr(d, "max", None), int)]
    return {d.__name__: d.max for d in dims}


def _argument_names(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, ...]:
    """Names of the given arguments, as a mapping of dynamic shapes uses them."""
    return (*list(inspect.signature(model.forward).parameters)[: len(args)], *kwargs)
