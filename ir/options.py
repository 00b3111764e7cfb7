"""Options: what a layer may become, and what that costs."""

from __future__ import annotations

from dataclasses import dataclass

NONE = "none"
STATIC_INT8 = "static_int8"
DYNAMIC_PREFIX = "dynamic_int8:"


@dataclass(frozen=True, order=True)
class Option:
    """One way to store a layer's weight and to compute with it.

    Attributes:
        format: spelling of the weight format, such as ``int4:g64``.
        encoder: how codes are chosen: ``rtn``, ``mse`` or ``gptq``.
        activation: ``none``, ``dynamic_int8:tensor``, ``dynamic_int8:token``, ``dynamic_int8:g<block>`` or
            ``static_int8``.
        kernel: the target's name of the kernel that runs it.
    """

    format: str
    encoder: str = "rtn"
    activation: str = NONE
    kernel: str = "float"

    @property
    def name(self) -> str:
        """A readable unique name: ``int4:g64 (gptq) dynamic_int8:tensor @kernel``."""
        encoder = "" if self.format in ("fp32", "fp16") else f" {self.encoder}"
        activation = "" if self.activation == NONE else f" {self.activation}"
        return f"{self.format}{encoder}{activation} @{self.kernel}"

    @property
    def activation_bits(self) -> int:
        """Bits of the activations that the kernel multiplies."""
        return 32 if self.activation == NONE else 8


@dataclass(frozen=True)
class PricedOption:
    """An option and its price for one layer.

    Attributes:
        option: the option.
        nbytes: exact bytes of the stored weight: codes, scales, zero points.
        latency_ms: milliseconds per run at the measured shape; None where latency was not measured.
        bops: bit operations, ``weight bits x activation bits x MACs``.
        loss: predicted increase of the chosen loss measure.
        weight_loss: the part of ``loss`` that comes from the weight.
        activation_loss: the part of ``loss`` that comes from quantizing the activation.
    """

    option: Option
    nbytes: int
    latency_ms: float | None
    bops: int
    loss: float
    weight_loss: float = 0.0
    activation_loss: float = 0.0
