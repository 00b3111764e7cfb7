"""Every Python block of the documentation is executed, page by page; every TOML block is a valid pipeline."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from instar.config import Pipeline

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)\)|src=\"([^\"]+)\"")


def blocks(page: Path, language: str) -> Iterator[tuple[int, str]]:
    """(line, text) of every block of a language."""
    text = page.read_text(encoding="utf-8")
    for match in BLOCK.finditer(text):
        if match[1] == language:
            yield text.count("\n", 0, match.start()) + 2, match[2]


def with_blocks(language: str) -> list[Path]:
    return [page for page in PAGES if any(blocks(page, language))]


class Sentences(nn.Module):
    """What README calls ``model``."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(256, 256)
        self.up = nn.Linear(256, 1024)
        self.down = nn.Linear(1024, 256)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        hidden = self.down(torch.relu(self.up(self.table(ids))))
        return (hidden * mask[:, :, None].float()).mean(1)


def readers_own() -> dict[str, Any]:
    """The names that README's example takes for granted."""
    ids = torch.arange(32).reshape(4, 8)
    mask = torch.ones_like(ids)
    return {"model": Sentences().eval(), "ids": ids, "mask": mask, "batches": [(ids, mask)]}


@pytest.mark.parametrize("page", with_blocks("python"), ids=lambda page: page.stem)
def test_python(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "page", **(readers_own() if page.stem == "README" else {})}
    for line, source in blocks(page, "python"):
        code = compile("\n" * (line - 1) + source, str(page), "exec", dont_inherit=True)
        exec(code, namespace)  # noqa: S102  # our own documentation


@pytest.mark.parametrize("page", with_blocks("toml"), ids=lambda page: page.stem)
def test_toml(page: Path, tmp_path: Path) -> None:
    for number, (_, source) in enumerate(blocks(page, "toml")):
        path = tmp_path / f"{number}.toml"
        path.write_text(source, encoding="utf-8")
        Pipeline.load(path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    found = [first or second for first, second in LINK.findall(page.read_text(encoding="utf-8"))]
    assert [link for link in found if not (page.parent / link).exists()] == []


def test_defaults_in_the_documentation_are_the_defaults() -> None:
    """The last TOML block of the page on pipeline files lists them."""
    *_, (_, source) = blocks(ROOT / "docs" / "pipeline_files.md", "toml")
    written = Pipeline.parse(tomllib.loads(source))
    defaults = Pipeline()
    for name in Pipeline.model_fields:
        if name != "target_options":
            assert getattr(written, name) == getattr(defaults, name), name
    assert set(written.target_options.chosen()) <= {
        "opset",
        "ir_version",
        "accuracy_level",
        "masked_softmax",
        "runtime",
        "attention",
    }
