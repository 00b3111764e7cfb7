"""A latency table for tests of what is chosen by measuring."""

from __future__ import annotations

from typing import Any


class Times:
    """A table whose times are given by kernel, ``_`` in place of ``:``."""

    def __init__(self, **times: float) -> None:
        self.times = {name.replace("_", ":"): t for name, t in times.items()}

    def milliseconds(self, cases: Any) -> dict[str, float]:
        return {case.key: self.times[case.key.rpartition("@")[2]] for case in cases}
