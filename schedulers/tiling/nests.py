"""Operators of a network (``schedulers/scratchpad``) as tiling problems, with any of their tensors resident.

A resident tensor is in fast memory with all its bytes, before the operator or after it, and moves nothing; the sums of
a resident result are not cut, so that no incomplete one is put down. The others stream tile by tile.
"""

from __future__ import annotations

import math
from collections.abc import Set
from dataclasses import replace

from ..scratchpad.problem import Operator, Problem, Tensor, Window
from ..scratchpad.rows import ROWWISE
from .operators import Conv, conv, linear, matmul
from .problem import Axis, Dim, Operand, TilingProblem

RESULT = "result"


def nest(problem: Problem, operator: Operator) -> tuple[TilingProblem, tuple[int, ...]]:
    """The operator as loops, and for each operand but constants the tensor that it is, by position in the problem.

    Operands that are tensors come first, the result last among them, constants behind.
    """
    sources = tuple(dict.fromkeys(operator.inputs))
    inputs, result = [problem.tensors[source] for source in sources], problem.tensors[operator.output]
    loops = _product(operator, inputs, result) or _windowed(operator, inputs, result) or _rows(operator, inputs, result)
    constants = _constants(operator, loops)
    moved = [operand for operand in loops.operands if operand.name not in ("w", "bias")]
    return replace(loops, name="operator", operands=(*moved, *constants)), (*sources, operator.output)


def with_resident(
    loops: TilingProblem, tensors: tuple[int, ...], sizes: dict[int, int], resident: Set[int]
) -> TilingProblem:
    """The same loops with those tensors in fast memory as a whole."""
    operands: list[Operand] = []
    for place, operand in enumerate(loops.operands):
        whole = place < len(tensors) and tensors[place] in resident
        held = Operand(operand.name, (), 8, sizes[tensors[place]], "scratch") if whole else operand
        operands.append(held)
    finished = tensors[-1] in resident
    dims = tuple(replace(dim, whole=dim.whole or (finished and dim.name in loops.reduction)) for dim in loops.dims)
    return replace(loops, dims=dims, operands=tuple(operands))


def _product(operator: Operator, inputs: list[Tensor], result: Tensor) -> TilingProblem | None:
    if operator.kind == "fully_connected" and len(inputs) == 1:
        tokens = math.prod(result.shape[:-1])
        loops = linear(tokens, result.shape[-1], max(1, inputs[0].size_bytes // tokens))
    elif operator.kind == "batch_matmul" and len(inputs) == 2:
        m, n, k = *result.shape[-2:], inputs[0].shape[-1]
        loops = matmul(math.prod(result.shape[:-2]), m, n, k)
    else:
        return None
    return loops if _same_bytes(loops, inputs, result) else None


def _windowed(operator: Operator, inputs: list[Tensor], result: Tensor) -> TilingProblem | None:
    if operator.window is None or len(inputs) != 1 or len(result.shape) != 4 or len(inputs[0].shape) != 4:
        return None
    _, height, width, channels = inputs[0].shape
    _, rows, columns, made = result.shape
    window, groups = operator.window, operator.groups
    if operator.kind not in ("conv_2d", "depthwise_conv_2d"):
        groups = channels  # pooling
    if channels % groups or made % groups:
        return None
    pad = _pad(window, (height, width), (rows, columns))
    shape = Conv(
        height, width, channels, made, window.kernel, (rows, columns), window.stride, window.dilation, pad, groups
    )
    loops = conv(shape)
    return loops if _same_bytes(loops, inputs, result) else None


def _pad(window: Window, size: tuple[int, int], out: tuple[int, int]) -> tuple[int, int]:
    """Rows above and columns to the left."""
    if window.pad == "valid":
        return (0, 0)
    if window.pad != "same":
        return (window.pad[0], window.pad[2])
    spans = [(kernel - 1) * step + 1 for kernel, step in zip(window.kernel, window.dilation, strict=True)]
    sides = zip(out, window.stride, spans, size, strict=True)
    above, left = (max(0, (made - 1) * stride + span - extent) // 2 for made, stride, span, extent in sides)
    return (above, left)


def _same_bytes(loops: TilingProblem, inputs: list[Tensor], result: Tensor) -> bool:
    """Whether the operands are as large as the tensors; padded or wider ones are streamed by rows instead."""
    found = [operand for operand in loops.operands if operand.name not in ("w", "bias")]
    sizes = [operand.elements * math.prod(axis.extent for axis in operand.axes) for operand in found]
    return sizes == [*(tensor.size_bytes for tensor in inputs), result.size_bytes]


def _rows(operator: Operator, inputs: list[Tensor], result: Tensor) -> TilingProblem:
    """Vector by vector where one of the result needs one of each input, channel by channel for means, or all at once.

    A transposition moves any part of its input anywhere, so all parts of its result are alike.
    """
    vectors = math.prod(result.shape[:-1])
    if operator.kind == "transpose" and inputs[0].size_bytes == result.size_bytes:
        return _along(vectors, [True], inputs, result)
    if operator.kind in ROWWISE and any(math.prod(tensor.shape[:-1]) == vectors for tensor in inputs):
        return _along(vectors, [math.prod(tensor.shape[:-1]) == vectors for tensor in inputs], inputs, result)
    channels = result.shape[-1] if result.shape else 1
    alike = operator.kind in ("mean", "sum") and all(t.shape and t.shape[-1] == channels for t in inputs)
    return _along(channels, [alike for _ in inputs], inputs, result)


def _along(extent: int, follows: list[bool], inputs: list[Tensor], result: Tensor) -> TilingProblem:
    def operand(name: str, tensor: Tensor, follow: bool) -> Operand:
        cut = follow and tensor.size_bytes % extent == 0
        axes = (Axis("r", extent),) if cut else ()
        role = "output" if name == RESULT else "input"
        return Operand(name, axes, 8, tensor.size_bytes // extent if cut else tensor.size_bytes, role, 8)

    operands = [operand(f"input {place}", tensor, follows[place]) for place, tensor in enumerate(inputs)]
    whole = not any(item.axes for item in operands) or bool(result.size_bytes % extent)
    return TilingProblem(
        "rows", (Dim("r", extent, whole=whole),), (*operands, operand(RESULT, result, follow=not whole)), macs=0
    )


def _constants(operator: Operator, loops: TilingProblem) -> tuple[Operand, ...]:
    """Weights with their own axes, and what is left of the constants along the result's channels or whole."""
    weights = [operand for operand in loops.operands if operand.name == "w"]
    size = sum(operand.used_elements * operand.item_bits // 8 for operand in weights)
    left = operator.weight_bytes - size
    if left < 0:
        return (Operand("constants", (), 8, operator.weight_bytes),)
    channels = [axis for operand in weights for axis in operand.axes if axis.dim in ("n", "co", "g")]
    count = math.prod(axis.extent for axis in channels)
    if left and weights and left % count == 0:
        return (*weights, Operand("bias", tuple(channels), 8, left // count))
    return (*weights, Operand("constants", (), 8, left)) if left else tuple(weights)
