"""Environments that hold a released ONNX Runtime and numpy alone."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

RELEASES = (
    "1.18.1", "1.19.2", "1.20.1", "1.21.1", "1.22.1", "1.23.2", "1.24.4", "1.25.1", "1.26.0", "1.27.0", "1.28.0",
    "1.29.0", "1.30.0", "1.31.1", "1.32.0",
)  # fmt: skip
"""The newest patch of every version that the table knows."""

VERIFIED = ("1.18.1", "1.20.1", "1.22.1", "1.23.2", "1.31.1", "1.32.0")
"""Releases in which every file is loaded and run."""

NUMPY = "numpy==1.26.4"
"""The newest that the oldest release was built for; the newer ones take it too."""

PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
INSTALL = ("install", "--no-deps", "--no-compile", "--only-binary", ":all:")
"""Without dependencies: sessions need numpy alone. A pip in each environment takes longer than all the rest."""


def environment(folder: Path, version: str) -> Path:
    """The interpreter of an environment; it is made where it is not there yet. This one will do for its own release."""
    if version == importlib.metadata.version("onnxruntime"):
        return Path(sys.executable)
    home = folder / version
    python = home / "bin" / "python"
    ready = home / ".ready"
    if python.exists() and (ready.exists() or _imports(python)):
        return python
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    subprocess.run([*PIP, "--python", str(python), *INSTALL, f"onnxruntime=={version}", NUMPY], check=True)
    ready.touch()
    return python


def _imports(python: Path) -> bool:
    found = subprocess.run([str(python), "-c", "import onnxruntime, numpy"], capture_output=True, check=False)
    return found.returncode == 0


def call(python: Path, script: Path, *arguments: Path) -> None:
    """Runs a script of this folder in an environment."""
    subprocess.run([str(python), str(script), *map(str, arguments)], check=True)
