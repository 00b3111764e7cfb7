"""Profiles of the runtime that are not whole, such as on a full disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from instar.ir.errors import LoweringError
from instar.targets.onnx.session import events_of


@pytest.mark.parametrize("text", [None, "", '[{"cat": "Node", "na'])
def test_a_profile_without_its_end_is_told(tmp_path: Path, text: str | None) -> None:
    profile = tmp_path / "instar" / "profile.json"
    profile.parent.mkdir()
    if text is not None:
        profile.write_text(text, encoding="utf-8")
    with pytest.raises(LoweringError, match=r"expected a whole profile of the kernels in .*free some space there"):
        events_of(profile)
