"""Results on disk: each row is written as soon as it is measured, with the machine and the command that made it."""

from __future__ import annotations

import argparse
import fnmatch
import importlib.metadata
import os
import platform
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from instar.ir.files import atomic_write_json, atomic_write_text, read_json

RESULTS = Path(__file__).parents[1] / "results"
PACKAGES = ("instar", "torch", "onnx", "onnxruntime", "ortools", "numpy")
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")

Row = dict[str, Any]
Render = Callable[[Mapping[str, Row]], str]


class Store:
    """Rows by key in ``<folder>/<name>.json``, and a Markdown table beside it.

    Args:
        name: of both files.
        folder: where they lie.
        render: rows to Markdown.
        fresh: forget rows of earlier runs.
        threads: that computed, for the heading.
    """

    def __init__(self, name: str, folder: Path, render: Render, *, fresh: bool, threads: int | None) -> None:
        self._json, self._markdown = folder / f"{name}.json", folder / f"{name}.md"
        self._render = render
        self._about = about(threads)
        self.rows: dict[str, Row] = {}
        if self._json.exists() and not fresh:
            document = cast("dict[str, Any]", read_json(self._json))
            self.rows = document["rows"]
        folder.mkdir(parents=True, exist_ok=True)

    def put(self, key: str, row: Mapping[str, Any]) -> None:
        """Adds or replaces a row and writes both files."""
        self.rows[key] = {**row, "load": round(os.getloadavg()[0], 2)}
        self.write()

    def write(self) -> None:
        """Writes both files."""
        atomic_write_json(self._json, {"about": self._about, "rows": self.rows})
        atomic_write_text(self._markdown, f"{heading(self._about)}\n\n{self._render(self.rows)}\n")


def about(threads: int | None) -> dict[str, Any]:
    """The command, the class of machine, versions and threads."""
    script = f"benchmarks/{Path(sys.argv[0]).name}"
    return {
        "command": shlex.join(["python", script, *_public(sys.argv[1:])]),
        "machine": machine(),
        "threads": threads if threads is not None else "default",
        "versions": versions(PACKAGES),
    }


PLACES = (
    "--assets", "--client-path", "--client-python", "--results", "--work", "--peer-python", "--environments", "--files",
)  # fmt: skip
"""Options whose values say where things lie on this machine."""


def _public(given: Sequence[str]) -> list[str]:
    """Arguments without the places of this machine."""
    before = ["", *given]
    return [a if last not in PLACES else last.strip("-").upper() for last, a in zip(before, given, strict=False)]


def machine() -> str:
    """Architecture, cores and the instruction sets that decide between kernels."""
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8", errors="replace") if info.is_file() else ""
    words = set(text.replace("\t", " ").split())
    found = [flag for flag in FLAGS if flag in words]
    return ", ".join([platform.machine(), f"{os.cpu_count()} cores", " ".join(found) or platform.system()])


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Versions of the packages that are installed."""
    found: dict[str, str] = {}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def heading(facts: Mapping[str, Any]) -> str:
    """The facts of a run in two lines."""
    packages = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return f"`{facts['command']}`\n\n{facts['machine']}; threads: {facts['threads']}; {packages}."


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; floats with four significant digits, None as a dash."""
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    lines += ["| " + " | ".join(cell(value) for value in row) + " |" for row in rows]
    return "\n".join(lines)


def cell(value: object) -> str:
    """One cell of a table."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "**no**"
    if isinstance(value, float):
        return f"{value:.4g}"
    return " ".join(str(value).replace("|", "/").split())


def arguments(description: str | None, *, threads: int | None = 1) -> argparse.ArgumentParser:
    """The options that all benchmarks share."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=Path, required=True, help="folder of the evaluation set")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the JSON and the table")
    parser.add_argument("--only", default="*", help="comma-separated patterns of row keys")
    parser.add_argument("--fresh", action="store_true", help="forget the rows of earlier runs")
    parser.add_argument("--quick", action="store_true", help="few samples: checks that the script runs")
    if threads is not None:
        parser.add_argument("--threads", type=int, default=threads, help="of the runtime")
    return parser


def scratch() -> Path:
    """Folder for results of quick runs, which are not kept in the repository."""
    return Path("build/benchmarks/quick")


def selected(key: str, only: str) -> bool:
    """Whether a row's key matches one of the patterns."""
    return any(fnmatch.fnmatch(key, pattern) for pattern in only.split(","))
