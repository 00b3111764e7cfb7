"""What a layer costs under an option, read off the nodes that compute it."""

from __future__ import annotations

import functools
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from ..ir.analysis import bit_operations, operand_bits
from ..ir.constants import ConstantHandle
from ..ir.context import Context
from ..ir.errors import ContractError
from ..ir.graph import Node
from ..ir.infer import MetaInference
from ..ir.layers import EMBEDDING, Layer
from ..ir.layers import Use as NodeUse
from ..ir.ops import Building
from ..ir.options import Activation, Option
from ..ir.types import TensorType
from .formats import TensorSpec, Use
from .formats import format as parse_format


def layer_bops(layer: Layer, option: Option, sizes: Mapping[str, int]) -> int:
    """Bit operations of all uses of a layer under an option, for given sizes of the dynamic dimensions."""
    if layer.only_stored:
        return layer.macs(sizes) * option.activation.bits * _stored_bits(layer.stored_shape, option.format)
    return sum(_use_bops(layer, use, option, sizes) for use in layer.uses)


@functools.lru_cache(maxsize=4096)
def _stored_bits(shape: tuple[int, ...], format: str) -> int:
    """Bits of the numbers of a weight that is given whole to the op that multiplies with it."""
    context = Context()
    chosen = parse_format(format)
    with _contract(format, shape):
        stored = {n: _hollow(context, n, s) for n, s in chosen.tensors(shape).items()}
        return operand_bits(chosen.weight(Building(context), stored, shape))


def _use_bops(layer: Layer, use: NodeUse, option: Option, sizes: Mapping[str, int]) -> int:
    others = tuple(
        (n, v) for n, v in use.node.arguments if n not in (use.weight_parameter, use.input_parameter, "bias")
    )
    if any(isinstance(value, Node) for _, value in others):
        raise AssertionError(f"{use.node.op.name}: expected no tensors but input, weight and bias")
    source = TensorType(use.input.tensor_type.dtype, use.input.tensor_type.sizes(sizes))
    spec = (use.kind, use.node.op.name, use.weight_parameter, use.input_parameter, layer.stored_shape, others)
    return _bops(spec, source, layer.weight.tensor_type.dtype, option.format, option.activation)


@functools.lru_cache(maxsize=4096)
def _bops(spec: tuple[Any, ...], source: TensorType, dtype: torch.dtype, format: str, activation: Activation) -> int:
    """The layer built with nothing in its tensors; layers of equal shapes share the answer."""
    kind, name, weight, given, shape, others = spec
    context = Context(inference=MetaInference())
    x = context.input("x", source)
    value = x
    if activation.is_static and kind != EMBEDDING:
        value = context.node("instar.fake_quantize_static", x, 1.0, 0, activation.bits, False)
    use = Use(kind, name, weight, given, shape, dict(others), dtype, activation)
    chosen = parse_format(format)
    with _contract(format, shape):
        stored = {n: _hollow(context, n, s) for n, s in chosen.tensors(shape).items()}
        return bit_operations(chosen.apply(Building(context), value, stored, use), x)


@contextmanager
def _contract(format: str, shape: Sequence[int]) -> Generator[None]:
    """Say which format broke off where the nodes of its layer are built, and how."""
    try:
        yield
    except Exception as error:
        raise ContractError(
            f"format {format}: expected its methods tensors, weight and apply to build a layer of the weight "
            f"{list(shape)}, found {type(error).__name__}: {error}; mend them (it is the cause of this one)"
        ) from error


def _hollow(context: Context, name: str, spec: TensorSpec) -> Node:
    """A constant that takes no memory."""
    return context.constant_of(ConstantHandle.of(name, torch.zeros((), dtype=spec.dtype).expand(spec.shape)))
