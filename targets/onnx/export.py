"""From a torch module over legal ops to an ONNX model."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Generator, Sequence
from typing import Any, cast

import onnx
import onnx_ir
import torch
from onnx_ir.passes import PassManager
from onnx_ir.passes.common import (
    ClearMetadataAndDocStringPass,
    DeduplicateInitializersPass,
    IdentityEliminationPass,
    LiftConstantsToInitializersPass,
    RemoveUnusedNodesPass,
)

from ...ir.errors import LoweringError
from .translate import translations

OPSET = 21
"""Read by runtimes since 1.20 and enough for every spelling that is emitted."""

IR_VERSION = 10
"""The format version that belongs to :data:`OPSET`."""

SHARED_ELEMENTS = 16384
"""Constants up to this many elements are compared with each other; larger ones are weights and never equal."""


def export_module(
    module: torch.nn.Module,
    inputs: Sequence[torch.Tensor],
    *,
    dynamic_shapes: Sequence[dict[int, Any] | None] | None = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    opset: int = OPSET,
    plain: bool = False,
    clamp_softmax: bool = True,
) -> onnx_ir.Model:
    """Exports a module that takes and returns flat tensors.

    Args:
        module: in eval mode, its ops in ATen, ``instar`` or ``instar_ort``.
        inputs: example tensors.
        dynamic_shapes: per input, axis to ``torch.export.Dim``; None keeps every size as in the examples.
        input_names: names in the model.
        output_names: names in the model.
        opset: of the default domain.
        plain: as ``torch.onnx.export`` does it by itself, without any spelling of ours.
        clamp_softmax: keep causal attention from computing denormal numbers.

    Returns:
        The model with shared constants lifted to initializers; weights are still the module's own tensors.

    Raises:
        LoweringError: an op has no ONNX translation, or the exporter stamped another opset.
    """
    shapes = None if dynamic_shapes is None else tuple(dynamic_shapes)
    examples = tuple(tensor.contiguous() for tensor in inputs)  # strides of views would be guarded as sizes
    program = torch.export.export(module, examples, dynamic_shapes=(shapes,) if _variadic(module) else shapes)
    with quiet():
        try:
            exported = torch.onnx.export(
                program,
                opset_version=opset,
                dynamo=True,
                optimize=plain,
                verbose=False,
                input_names=input_names,
                output_names=output_names,
                custom_translation_table=cast(Any, {} if plain else translations(clamp_softmax)),
            )
        except torch.onnx.errors.OnnxExporterError as problem:
            raise LoweringError(
                f"onnx: expected a translation for every op, found: {_last_cause(problem)}"
            ) from problem
    model = cast(onnx_ir.Model, cast(Any, exported).model)
    _check_opset(model, opset)
    return clean(model)


def clean(model: onnx_ir.Model) -> onnx_ir.Model:
    """Removes identities, dead nodes and the exporter's notes; lifts constants to initializers, equal ones once.

    The notes hold stack traces: a megabyte for a small model, and the paths of the machine that compiled it.
    """
    passes = PassManager(
        [
            ClearMetadataAndDocStringPass(),
            IdentityEliminationPass(),
            LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
            DeduplicateInitializersPass(size_limit=SHARED_ELEMENTS),
            RemoveUnusedNodesPass(),
        ]
    )
    passes(model)
    return model


def to_proto(model: onnx_ir.Model) -> onnx.ModelProto:
    """The model as protobuf, checked by the ONNX checker.

    Raises:
        LoweringError: the checker refuses the model.
    """
    proto = onnx_ir.to_proto(model)
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as problem:
        raise LoweringError(f"onnx: expected a valid model, the checker found: {problem}") from problem
    return proto


def _variadic(module: torch.nn.Module) -> bool:
    """Whether ``forward`` takes ``*args``, for which torch.export wants one more level of nesting."""
    code = getattr(type(module).forward, "__code__", None)
    return code is not None and code.co_argcount == 1 and bool(code.co_flags & 0x04)


def _check_opset(model: onnx_ir.Model, opset: int) -> None:
    stamped = model.opset_imports.get("")
    if stamped != opset:
        raise LoweringError(f"onnx: expected a model of opset {opset}, the exporter stamped {stamped}; choose another")


def _last_cause(problem: BaseException) -> str:
    """The innermost message of a chain of exceptions: the outer ones are generic."""
    while problem.__cause__ is not None:
        problem = problem.__cause__
    return " ".join(str(problem).split())[:500]


@contextlib.contextmanager
def quiet() -> Generator[None]:
    """Keeps the exporter's progress and its remarks about packages that are not needed off the terminal."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
