"""The program as it is written: JSON that is checked when it is read, and a C header that a C program walks through."""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from instar.ir.errors import ScheduleError
from instar.report.machine_picture import page
from instar.schedulers.scratchpad.executor import execute, off_chip_image
from instar.schedulers.scratchpad.reasons import budget_without_spills
from instar.targets.scratchpad.artifact import ScratchpadArtifact
from instar.targets.scratchpad.execution import GraphKernels
from instar.targets.scratchpad.header import PURPOSES, header
from instar.targets.scratchpad.options import ScratchpadOptions
from instar.targets.scratchpad.tables import Tables, dump, load

from .scratchpad_case import compiled

ROOT = Path(__file__).parents[1]


class Joined(nn.Module):
    """Convolutions whose results are joined, with a skip."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.c, self.d = nn.Conv2d(16, 16, 1), nn.Conv2d(32, 24, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x).relu()
        return self.d(torch.cat([self.b(a).relu(), self.c(a).relu()], 1))


@functools.cache
def case() -> tuple[ScratchpadArtifact, tuple[Tensor]]:
    torch.manual_seed(0)
    inputs = (torch.randn(1, 3, 16, 16),)
    return compiled(Joined(), inputs, ScratchpadOptions(scratchpad_bytes=9000)), inputs


@functools.cache
def in_bands() -> tuple[ScratchpadArtifact, tuple[Tensor]]:
    """Rows that are too wide for the scratchpad."""
    torch.manual_seed(0)
    wide = nn.Sequential(nn.Conv2d(4, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 4, 3, padding=1))
    inputs = (torch.randn(1, 4, 4, 32),)
    return compiled(wide, inputs, ScratchpadOptions(scratchpad_bytes=1200)), inputs


def fnv(data: bytes) -> int:
    state = 2166136261
    for byte in data:
        state = (state ^ byte) * 16777619 & 0xFFFFFFFF
    return state


def test_reading_what_was_written_gives_an_equal_value() -> None:
    artifact, _ = case()
    assert load(dump(artifact.tables)) == artifact.tables
    assert artifact.tables.cycles > 0
    assert artifact.tables.traffic.total_bytes > 0


def changed(change: Any) -> str:
    document: dict[str, Any] = json.loads(dump(case()[0].tables))
    change(document)
    return json.dumps(document)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("clock_hz"), "clock_hz"),
        (lambda d: d.update(more=1), "more"),
        (lambda d: d.update(format="other"), "format: expected 'instar-scratchpad-program-2', found 'other'"),
        (lambda d: d["commands"][0].update(needs=[0]), r"commands\[0\].needs: expected positions of earlier commands"),
        (lambda d: d["commands"][0].update(subject=99), r"commands\[0\].subject: expected 0 to"),
        (lambda d: d["commands"][0]["moves"][0].__setitem__(0, 10**6), r"moves: expected addresses inside both"),
        (lambda d: d["commands"][-2].update(reads=[[5, 4]]), "reads or writes: expected addresses in the scratchpad"),
        (lambda d: d["buffers"][0].update(address=-1), "expected it within"),
        (lambda d: d.update(budget_bytes=1), "scratchpad_bytes: expected at most 1"),
        (lambda d: d["commands"][0].update(kind="jump"), "kind"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(change: Any, message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        load(changed(change), "model.scratchpad")


def test_a_c_program_walks_through_the_header_and_counts_what_the_simulator_counts(tmp_path: Path) -> None:
    replays_in_c(*case(), tmp_path)


def test_a_c_program_walks_through_bands(tmp_path: Path) -> None:
    artifact, inputs = in_bands()
    assert all(piece.band is not None for piece in artifact.planned.schedule.ranges)
    assert artifact.tables.traffic.spill_read_bytes > 0
    assert load(dump(artifact.tables)) == artifact.tables
    replays_in_c(artifact, inputs, tmp_path)


def replays_in_c(artifact: ScratchpadArtifact, inputs: tuple[Tensor], tmp_path: Path) -> None:
    """The header through a C compiler: same image, same peak, same bytes as the simulator."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler is not None, "the test needs a C compiler, as torch does"
    kernels = GraphKernels(artifact.described, inputs)
    image = off_chip_image(artifact.listing, kernels).tobytes()
    computed: dict[int, bytes] = {}

    def trace(place: int, read: bytes, written: bytes) -> None:
        computed[place] = np.uint32(fnv(read)).tobytes() + written

    run = execute(artifact.listing, kernels, artifact.settings.machine, artifact.described.dtypes, trace)
    (tmp_path / "program.h").write_text(header(artifact.tables))
    (tmp_path / "image").write_bytes(image)
    (tmp_path / "trace").write_bytes(b"".join(computed[place] for place in sorted(computed)))
    flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-Wno-unused-variable", f'-DPROGRAM="{tmp_path}/program.h"']
    binary = str(tmp_path / "replay")
    subprocess.run([compiler, *flags, str(ROOT / "data" / "scratchpad_replay.c"), "-o", binary], check=True)
    done = subprocess.run([binary, str(tmp_path / "image"), str(tmp_path / "trace")], check=True, capture_output=True)
    found = json.loads(done.stdout)
    traffic = run.traffic
    assert found["wrong"] == found["early"] == found["unread"] == 0
    assert found["commands"] == len(artifact.listing.commands)
    assert found["image"] == fnv(run.image.tobytes())
    assert found["peak"] == run.peak_bytes
    counted = dict(zip(PURPOSES, found["charged"], strict=True))
    assert counted == {
        "compute": 0, "input": traffic.input_bytes, "spill_read": traffic.spill_read_bytes,
        "weight": traffic.weight_bytes, "weight_reread": traffic.weight_reread_bytes,
        "spill_write": traffic.spill_write_bytes, "output": traffic.output_bytes,
    }  # fmt: skip
    assert found["moved"] == sum(found["charged"])


def test_names_of_the_model_cannot_break_the_header() -> None:
    tables = case()[0].tables
    odd = 'a"b\\c*/??/\n\u00e9'
    named = replace(tables, model=odd, operators=(replace(tables.operators[0], name=odd), *tables.operators[1:]))
    text = header(named)
    assert '"a\\042b\\134c*/\\077\\077/\\012\\303\\251"' in text
    assert text.count("*/") == text.count("/*") + 1  # the one inside a string
    assert "#define INSTAR_PROGRAM_A_B_C" in text


def test_an_empty_program_has_valid_arrays() -> None:
    tables = case()[0].tables
    empty = replace(tables, commands=(), operators=(), tensors=())
    assert "static const instar_command instar_commands[] = {\n  {0},\n};" in header(empty)


def test_reasons_say_what_would_keep_what_was_spilled() -> None:
    artifact, _ = case()
    by_name = {spill.name: spill for spill in artifact.spills}
    moved = sum(spill.moved_bytes for spill in artifact.spills)
    assert moved == artifact.planned.schedule.traffic.total_bytes
    for spill in by_name.values():
        assert spill.needed_bytes >= artifact.tables.budget_bytes
    settings = artifact.settings
    budget = budget_without_spills(
        artifact.described.problem, settings.machine, settings.options, artifact.planned.schedule
    )
    assert budget is not None
    roomy = compiled(Joined(), case()[1], ScratchpadOptions(scratchpad_bytes=budget))
    assert roomy.planned.schedule.traffic.total_bytes == 0
    assert roomy.spills == ()
    assert any("more than the budget of 9000" in note or "costs more elsewhere" in note for note in artifact.notes)


def test_the_picture_shows_everything_without_a_network() -> None:
    artifact, _ = case()
    picture = artifact.picture()
    text = page(picture)
    assert not re.search(r"(src|href)=|https?://(?!www\.w3\.org/2000/svg)", text)
    assert {box.kind for box in picture.boxes} >= {"line", "weights"}
    assert any(box.spilled for box in picture.boxes)
    assert picture.end == artifact.tables.cycles
    for box in picture.boxes:
        assert 0 <= box.address <= box.address + box.size_bytes <= picture.budget_bytes
    for one in picture.boxes:  # what is drawn never overlaps
        for two in picture.boxes:
            apart = one.address + one.size_bytes <= two.address or two.address + two.size_bytes <= one.address
            assert one is two or apart or one.stop <= two.start or two.stop <= one.start
    assert "spilled, " in text
    assert sum(span.size_bytes for span in picture.dma) == sum(c.bytes for c in artifact.tables.commands)


def test_saving_writes_tables_header_and_image(tmp_path: Path) -> None:
    artifact, _ = case()
    files = artifact.save(tmp_path / "model.scratchpad")
    assert [Path(file).suffix for file in files] == [".scratchpad", ".h", ".bin"]
    tables: Tables = load((tmp_path / "model.scratchpad").read_text())
    assert (tmp_path / "model.bin").stat().st_size == tables.off_chip_bytes
    assert (tmp_path / "model.h").read_text() == header(tables)
