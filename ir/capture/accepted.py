"""Models and example inputs that cannot be captured, told before torch.export, whose words are about its own code."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils import _pytree as pytree

from ..errors import CaptureError
from ..types import DTYPE_NAMES
from .errors import listed

_MODE_DEPENDENT = frozenset({"_BatchNorm", "_DropoutNd", "RNNBase", "RReLU"})
"""Classes of torch, and their descendants, that do something else in training."""

_QUANTIZED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.ao.nn.sparse.quantized")
"""Packages of modules whose weights are packed for kernels of torch."""

_OBSERVING = ("fake_quant", "activation_post_process")
"""Parts of the names of modules that measure while they run: quantization-aware training, and preparing for it."""


def refuse_modes() -> None:
    """Refuse modes of torch that are on around a compilation, and change what operators do.

    Raises:
        CaptureError: says which, and what to do.
    """
    if torch.is_inference_mode_enabled():
        raise CaptureError(
            "model: expected no torch.inference_mode() around, in which calibration has no derivatives; call instar "
            "outside of it, or in torch.no_grad()"
        )
    if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
        raise CaptureError(
            "model: expected no torch.autocast around, which changes dtypes behind the model's back; enter it inside "
            "of forward, or call instar outside of it"
        )


def _modules(model: nn.Module, wanted: Callable[[nn.Module], bool]) -> list[tuple[str, nn.Module]]:
    """Modules with names that a reader understands."""
    return [(name or "the model", module) for name, module in model.named_modules() if wanted(module)]


def refuse_scripted(model: nn.Module) -> None:
    """Refuse modules of TorchScript.

    Raises:
        CaptureError: names them.
    """
    found = [name for name, _ in _modules(model, lambda module: isinstance(module, torch.jit.ScriptModule))]
    if found:
        raise CaptureError(
            "model: expected modules of Python, which torch.export reads; found TorchScript; compile the model that it "
            f"was scripted or traced from:\n{listed(found)}"
        )


def refuse_training(model: nn.Module) -> None:
    """Refuse modules that do something else in training.

    Raises:
        CaptureError: names them.
    """

    def depends(module: nn.Module) -> bool:
        return module.training and any(parent.__name__ in _MODE_DEPENDENT for parent in type(module).__mro__)

    found = [f"{name} ({type(module).__name__})" for name, module in _modules(model, depends)]
    if found:
        raise CaptureError(
            f"model: expected evaluation mode; found modules in training mode; call model.eval():\n{listed(found)}"
        )


def refuse_without_values(model: nn.Module) -> None:
    """Refuse parameters and buffers that were never loaded.

    Raises:
        CaptureError: names them.
    """
    named = [*model.named_parameters(), *model.named_buffers()]
    found = [name for name, tensor in named if _is_empty(tensor)]
    if found:
        raise CaptureError(
            f"model: expected parameters with values; found some on the meta device; load the weights:\n{listed(found)}"
        )
    found = [name for name, tensor in named if tensor.is_inference()]
    if found:
        raise CaptureError(
            "model: expected parameters that take part in derivatives; found some that were made in "
            f"torch.inference_mode(); load the model outside of it:\n{listed(found)}"
        )


def refuse_quantized(model: nn.Module) -> None:
    """Refuse modules of torch's own quantization.

    Raises:
        CaptureError: names them.
    """
    chosen = _modules(model, lambda module: type(module).__module__.startswith(_QUANTIZED))
    found = [f"{name} ({type(module).__module__}.{type(module).__name__})" for name, module in chosen]
    if found:
        raise CaptureError(
            "model: expected float layers, which instar quantizes itself; found some that torch quantized already; "
            f"compile the model from before:\n{listed(found)}"
        )


def refuse_unusual_inputs(args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Refuse example tensors that no graph holds.

    Raises:
        CaptureError: names them: nested, sparse or quantized ones, and those without values.
    """
    given = {**{f"args[{place}]": value for place, value in enumerate(args)}, **kwargs}
    found = [
        f"{name}{pytree.keystr(path)}: {what}"
        for name, value in given.items()
        for path, leaf in pytree.tree_leaves_with_path(value)
        if isinstance(leaf, torch.Tensor) and (what := _unusual(leaf))
    ]
    if found:
        raise CaptureError(
            "args: expected dense tensors with values, of a floating point, integer, complex or bool dtype; give such "
            f"examples in place of these:\n{listed(found)}"
        )


def _is_empty(tensor: torch.Tensor) -> bool:
    return tensor.is_meta or isinstance(tensor, FakeTensor)


def _unusual(tensor: torch.Tensor) -> str:
    """What a tensor is that no graph holds; empty for usual ones."""
    if tensor.is_nested:
        return "a nested tensor"
    if tensor.layout is not torch.strided or tensor.dtype not in DTYPE_NAMES:
        return f"{tensor.dtype}, {str(tensor.layout).removeprefix('torch.')}"
    return f"without values, on {tensor.device}" if _is_empty(tensor) else ""


def advice_on_writes(found: Sequence[str]) -> str:
    """What to do about buffers that a forward pass writes to."""
    if all(any(part in name for part in _OBSERVING) for name in found):
        return "observers of torch's quantization go on measuring; compile the model from before they were put in"
    return "call model.eval(), or return the new value as an output"
