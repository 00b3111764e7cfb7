"""Every example in a docstring of the package is run."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def modules_with_examples() -> list[str]:
    """Found by text, so that collecting the tests imports nothing."""
    folders = {path.parent for path in ROOT.glob("[a-z]*/__init__.py")} - {ROOT / "tests"}
    files = [*ROOT.glob("*.py"), *(path for folder in folders for path in folder.rglob("*.py"))]
    return sorted(
        ".".join(["instar", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__")
        for path in files
        if re.search(r"^ *>>> ", path.read_text(encoding="utf-8"), re.MULTILINE)
    )


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_in_docstrings(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0
