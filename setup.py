"""Computes the list of packages: the repository root is the package ``instar``."""

from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
NOT_PACKAGES = {"tests", "examples", "benchmarks", "docs", "build", "dist"}
DATA = ["*.toml", "*.json", "*.html", "*.css", "*.js"]


def packages() -> list[str]:
    """Every folder with an ``__init__.py`` below a top-level one that has one, as a dotted name."""
    tops = sorted(init.parent for init in ROOT.glob("[a-z]*/__init__.py") if init.parent.name not in NOT_PACKAGES)
    folders = [init.parent for top in tops for init in sorted(top.rglob("__init__.py"))]
    return ["instar", *(".".join(["instar", *folder.relative_to(ROOT).parts]) for folder in folders)]


setup(
    packages=packages(),
    package_dir={"instar": "."},
    package_data={"instar": ["py.typed"]} | dict.fromkeys(packages()[1:], DATA),
    script_name="setup.py",  # build front ends run this file under another name, and it would be taken for a module
)
