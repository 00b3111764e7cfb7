"""Computes the list of packages: the repository root is the package ``instar``."""

from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
TOP_LEVEL = ("ir", "passes", "schedulers", "targets", "config", "cli", "report", "presets")
DATA = ["*.toml", "*.json", "*.html", "*.css", "*.js"]


def packages() -> list[str]:
    """Every folder below the top-level packages that holds an ``__init__.py``, as a dotted name."""
    folders = [init.parent for top in TOP_LEVEL for init in sorted((ROOT / top).rglob("__init__.py"))]
    return ["instar", *(".".join(["instar", *folder.relative_to(ROOT).parts]) for folder in folders)]


setup(
    packages=packages(),
    package_dir={"instar": "."},
    package_data={"instar": ["py.typed"]} | dict.fromkeys(packages()[1:], DATA),
    script_name="setup.py",  # build front ends run this file under another name, and it would be taken for a module
)
