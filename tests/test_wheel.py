"""The built wheel holds every module and data file of the package, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = sorted({path.parent.name for path in ROOT.glob("[a-z]*/__init__.py")} - {"tests", "examples", "benchmarks"})
METADATA = ["README.md", "LICENSE", "pyproject.toml", "setup.py", "py.typed"]


def files_of_the_tree() -> set[str]:
    """Paths below the root of everything that an installed `instar` needs."""
    modules = {path.name for path in ROOT.glob("*.py")} - {"setup.py"}
    below = {
        path.relative_to(ROOT).as_posix()
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    return modules | below | {"py.typed"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy, so that a stale build folder cannot hide a missing file."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in {*METADATA, *(path for path in files_of_the_tree() if "/" not in path)}:
        shutil.copy(ROOT / name, source / name)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", str(source), "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--wheel-dir", str(folder)], check=True, capture_output=True)
    return next(folder.glob("instar-*.whl"))


def test_wheel_holds_exactly_the_tree(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    inside = {name.removeprefix("instar/") for name in names if name.startswith("instar/")}
    assert inside == files_of_the_tree()
    assert all(name.startswith(("instar/", "instar-")) for name in names)


def test_wheel_carries_licence_and_entry_point(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        info = next(name for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert "instar = instar.cli:main" in archive.read(info).decode()
        assert any(name.endswith("licenses/LICENSE") for name in archive.namelist())
