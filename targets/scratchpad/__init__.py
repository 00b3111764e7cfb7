"""The scratchpad target: a program for an accelerator whose fast memory is managed by software."""

from __future__ import annotations

from ...ir.plugins import Lazy
from ..declaration import Declaration
from .options import ScratchpadOptions

DECLARATION = Declaration(
    name="scratchpad",
    summary="Commands for an accelerator with a software-managed memory, executed by a simulator.",
    target=Lazy(f"{__name__}.target", "ScratchpadTarget"),
    options=ScratchpadOptions,
    suffix=".scratchpad",
    packages=("ortools",),
    device="machine",
    kernels={
        "array": "8-bit codes times signed weights of up to 8 bits, which expand on their way into the array",
        "host": "rows of an embedding, looked up outside the accelerator before a run",
        "float_array": "float32 products, where the machine's description gives their rate",
    },
)
