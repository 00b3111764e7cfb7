"""Problem -> solution, numbers only: one folder per problem, and here what all of them share.

The public names of :mod:`instar.schedulers.allocation` are also found here, loaded when they are asked for.
"""

from __future__ import annotations

from . import allocation


def __getattr__(name: str) -> object:
    if name in allocation.__all__:
        return getattr(allocation, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
