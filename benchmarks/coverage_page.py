"""The second part of docs/coverage.md: whole compilations, from the results of ``architectures.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from common.store import RESULTS

from instar.ir.files import atomic_write_text

PAGE = Path(__file__).parents[1] / "docs" / "coverage.md"
MARK = "\n# Whole compilations\n"

INTRODUCTION = """
Written by `python benchmarks/architectures.py`; do not edit. Architectures that are not in the table above, with random
weights and small configurations, compiled to ONNX under a size budget of 40 % of the bytes of parameters and buffers,
with four calibration batches, a dynamic batch and, where the network takes it, a dynamic length. The errors are those
of all outputs together, relative to their norm, on inputs that no decision saw: predicted by the plan, measured at the
captured size (batch 2, length 8) and at batch 3 and length 13. Beside them every artifact was compared with its own
graph at both sizes: {worst}.
"torch.onnx" says what `torch.onnx.export(dynamo=True)` does with the same network and the same dynamic sizes,
and the float file is its export; "fixes length" means that its file has the captured length as a number. Refusals and
their messages are below the table. Refused here and exported there is JetMoE alone: it cuts the sorted tokens into runs
whose lengths are read from a tensor (`tolist`). Sizes in a graph of instar follow from the sizes of the inputs: that is
what plans, calibration and the comparison of an artifact with its graph at several sizes rest on. A network whose
experts are weighted or gathered (Mixtral, Qwen-MoE, GPT-OSS and others in the table) compiles.
Configurations of the library with `initializer_range = 1e-10` (SAM, BLIP) were given 0.02, because scales in float16
cannot express such weights, and the U-Nets of diffusers at most 63 images, because of a line of theirs that asks
whether there are 64.
"""


def first_part() -> str:
    """The page up to whole compilations."""
    return PAGE.read_text(encoding="utf-8").partition(MARK)[0].rstrip() + "\n"


def second_part(results: Path = RESULTS) -> str:
    """Heading, introduction and the table; nothing where there are no results."""
    from architectures import ROW_FILE, render, worst_beside_graph

    from instar.ir.files import read_json

    file = results / ROW_FILE
    if not file.is_file():
        return ""
    document = cast("dict[str, Any]", read_json(file))
    rows = document["rows"]
    versions = ", ".join(f"{name} {version}" for name, version in document["about"]["versions"].items())
    said = INTRODUCTION.format(worst=worst_beside_graph(rows)).rstrip()
    return f"{MARK}{said} {versions}.\n\n{render(rows)}\n"


def write_second_part() -> None:
    """Put it behind the first part."""
    atomic_write_text(PAGE, first_part() + second_part())
