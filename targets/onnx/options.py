"""What a user may say about ONNX files, and the versions that follow from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Interval

from ...ir.errors import ConfigError
from ..base import FOR_LATENCY, TargetOptions
from .runtimes.kept import beyond

OPSET = 21
"""Read by runtimes since 1.18 and enough for every spelling that is emitted but attention as one kernel."""

IR_VERSION = 10
"""The format version that belongs to :data:`OPSET`."""

FUSED_OPSET = (23, 11)
"""Operator set and IR version of ``Attention``."""

IR_OF_OPSET = {21: 10, 22: 10, 23: 11, 24: 12, 25: 13}
"""Operator set -> IR version of the ONNX release that introduced it."""


@dataclass(frozen=True)
class OnnxOptions(TargetOptions):
    """Options of the ONNX target.

    Attributes:
        opset: ONNX operator set, 21 to 25 (older ones lack 4-bit types and unpacking); not given: 21, or 23 where
            attention is fused.
        ir_version: ONNX IR version; not given: 10, or what a newer opset needs.
        accuracy_level: of ``MatMulNBits``: 4, int8 activations, as the graph has them. Float products have no use for
            this kernel here: it is slower than expanding the weight at load.
        masked_softmax: how scores that a mask set to minus infinity enter the softmax. ``clamped`` never makes denormal
            numbers, which some processors compute slowly; ``plain`` saves two passes over the scores. Not given: the
            faster one where latencies are measured, else ``clamped``.
        attention: how attention is written. ``fused`` is the ``Attention`` operator of opset 23 (ONNX Runtime 1.23 or
            later), ``unfused`` are products around a softmax. Not given: the faster one where latencies are measured
            and the opset has it, else ``unfused``.
        runtime: the oldest ONNX Runtime that has to load the file, such as ``1.20``: kernels, operators, opset and IR
            version keep to what it has. Not given: whatever is best here; the report says which one loads the result.
        external_data: whether weights go into a file of their own; ``auto`` does so where the model is above 2 GB.
        profile: what a device answered to a bundle of ``instar profile``; replaces measuring latencies. The device of
            ``target = "onnx:device.json"``.
        cache: folder of measured latencies; the user's cache folder where not given.

    Raises:
        ConfigError: versions that do not have what is asked for.
    """

    opset: Annotated[int, Interval(ge=OPSET, le=25)] | None = None
    ir_version: Annotated[int, Interval(ge=8, le=13)] | None = None
    accuracy_level: Literal[4] | None = None
    masked_softmax: Literal["clamped", "plain"] | None = None
    attention: Literal["fused", "unfused"] | None = None
    runtime: str | None = None
    external_data: Literal["auto", "always", "never"] = "auto"
    profile: str | None = None
    cache: str | None = field(default=None, metadata=FOR_LATENCY)

    def __post_init__(self) -> None:
        opset, _ = self.versions
        found: list[str] = []
        if self.attention == "fused" and opset < FUSED_OPSET[0]:
            found.append(
                f"target_options.attention: expected opset {FUSED_OPSET[0]} or later for 'fused', found {opset}; "
                "raise it, or write 'unfused'"
            )
        if self.ir_version is not None and self.ir_version < IR_OF_OPSET[opset]:
            found.append(
                f"target_options.ir_version: expected at least {IR_OF_OPSET[opset]} for opset {opset}, "
                f"found {self.ir_version}; raise it or lower the opset"
            )
        found += beyond(self.runtime, self.opset, self.ir_version, self.attention)
        if found:
            raise ConfigError("\n".join(found))

    @property
    def versions(self) -> tuple[int, int]:
        """Operator set and IR version: as given, else the oldest that have what is emitted."""
        opset = self.opset or (FUSED_OPSET[0] if self.attention == "fused" else OPSET)
        return opset, self.ir_version or max(IR_VERSION, IR_OF_OPSET[opset])
