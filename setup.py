"""Computes the list of packages: the repository root is the package ``instar``."""

from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
TOP_LEVEL = ("ir", "passes", "schedulers", "targets", "report", "presets")


def packages() -> list[str]:
    """Every folder below the top-level packages that holds an ``__init__.py``, as a dotted name."""
    found = ["instar"]
    for top in TOP_LEVEL:
        for init in sorted((ROOT / top).rglob("__init__.py")):
            found.append(".".join(["instar", *init.parent.relative_to(ROOT).parts]))
    return found


setup(
    packages=packages(),
    package_dir={"instar": "."},
    package_data={"instar": ["py.typed"], "instar.presets": ["*.toml"], "instar.report": ["*.html", "*.css"]},
)
