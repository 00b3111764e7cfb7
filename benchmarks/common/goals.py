"""What is asked of instar for each network, and what must come out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from .store import Row

PACKED = (
    "fp32", "int8:channel", "int6:g128", "int5:g128", "int4:g32", "int4:g64", "int4:g128",
    "int3:g32", "int3:g64", "int3:g128", "int2:g16", "int2:g32", "int2:g64",
)  # fmt: skip
"""Formats of transformers: every width that the runtime can expand while it loads a file."""

CONVOLUTIONS = ("int8:channel", "int4:channel", "int3:channel", "int2:channel")
"""Half the bytes of a small network: scales of groups and the code for many formats would take too many of them."""
INT8 = ("fp32", "int8:channel")

MARGIN = 0.97
"""Share of a latency requirement that is asked for: two measurements differ by about three percent."""


@dataclass(frozen=True)
class Reference:
    """What budgets may refer to: sizes of files and latencies of this run by shape, and instar's own int8 file.

    Attributes:
        dynamic_ms: of ``quantize_dynamic``.
        nbytes: files by candidate.
    """

    dynamic_ms: Mapping[str, float]
    nbytes: Mapping[str, int]


@dataclass(frozen=True)
class Requirement:
    """Upper bounds that a row must keep; those that are None do not matter.

    Attributes:
        mb: megabytes of the file.
        share: of the bytes of the float network's parameters and buffers.
        half_of: candidate whose file is at least twice as large.
        drop: of the metric.
        error: relative output error.
        vs_fp32: latency relative to the float export, by shape.
        vs_dynamic: latency relative to ``quantize_dynamic``, by shape.
    """

    mb: float | None = None
    share: float | None = None
    half_of: str | None = None
    drop: float | None = None
    error: float | None = None
    vs_fp32: Mapping[str, float] = field(default_factory=dict[str, float])
    vs_dynamic: Mapping[str, float] = field(default_factory=dict[str, float])

    def bounds(self, nbytes: Mapping[str, int]) -> dict[str, float]:
        """Every bound by the name of the value that it limits."""
        found = {"MB": self.mb, "share of fp32": self.share, "drop": self.drop, "error": self.error}
        if self.half_of is not None and self.half_of in nbytes:
            found["MB"] = nbytes[self.half_of] / 2e6
        found |= {f"x fp32 {shape}": bound for shape, bound in self.vs_fp32.items()}
        found |= {f"x quantize_dynamic {shape}": bound for shape, bound in self.vs_dynamic.items()}
        return {name: bound for name, bound in found.items() if bound is not None}


def values(row: Row, weights: int) -> dict[str, float]:
    """The values of a row that requirements limit."""
    found = {"MB": row["nbytes"] / 1e6, "share of fp32": row["nbytes"] / weights}
    found |= {"drop": row["drop"], "error": row["output_error"]}
    for shape in row.get("ms", {}):
        found[f"x fp32 {shape}"] = row["vs_fp32"][shape]
        found[f"x quantize_dynamic {shape}"] = row["vs_dynamic"][shape]
    return found


Budgets = Callable[[Reference], Sequence[dict[str, str | int]]]
"""Budgets to try in order: the first that can be met is taken."""


@dataclass(frozen=True)
class Goal:
    """One row of instar.

    Attributes:
        name: of the candidate.
        budgets: to try.
        requirement: of the row.
        formats: allowed.
        activations: allowed.
        shape: position among the network's timed shapes: latency is asked for there.
    """

    name: str
    budgets: Budgets
    requirement: Requirement
    formats: tuple[str, ...] = PACKED
    activations: tuple[str, ...] = ("none", "dynamic_int8")
    shape: int = 0


def _times(milliseconds: float, share: float) -> str:
    return f"{milliseconds * share:.6g}ms"


def _minilm() -> tuple[Goal, ...]:
    shape = "1x128"

    def fast(size: str) -> Budgets:
        shares = (0.85 * MARGIN, 0.88, 1.0)
        return lambda r: [{"size": size, "latency": _times(r.dynamic_ms[shape], share)} for share in shares]

    fast_needs = {"vs_dynamic": {shape: 0.85}}
    return (
        Goal("instar size=12MB", lambda _: [{"size": "12.0MB"}], Requirement(mb=12.0, drop=0.3, error=0.30)),
        Goal(
            "instar size=18MB, fast", fast("18MB"),
            Requirement(mb=18.0, drop=0.4, error=0.25, vs_dynamic=fast_needs["vs_dynamic"]),
        ),
        Goal("instar size=12MB, fast", fast("12.0MB"), Requirement(mb=12.0, vs_dynamic=fast_needs["vs_dynamic"])),
    )  # fmt: skip


def _chargpt() -> tuple[Goal, ...]:
    shape = "1x256"

    def fast(size: str) -> Budgets:
        shares = (0.9 * MARGIN, 1.0, 1.1)
        return lambda r: [{"size": size, "latency": _times(r.dynamic_ms[shape], share)} for share in shares]

    return (
        Goal("instar size=16%", lambda _: [{"size": "16%"}], Requirement(share=0.16, drop=0.01)),
        Goal("instar size=27%, fast", fast("27%"), Requirement(drop=0.01, vs_dynamic={shape: 0.9})),
        Goal("instar size=16%, fast", fast("16%"), Requirement(share=0.16, drop=0.01, vs_dynamic={shape: 0.9})),
    )


def _convolutional() -> tuple[Goal, ...]:
    activations = ("none", "static_int8", "dynamic_int8")

    def fast(*shares: float) -> Budgets:
        """Percent of the float export, which a compilation measures anew: a processor's speed drifts."""
        return lambda _: [{"size": "50%", "latency": f"{100 * share * MARGIN:.4g}%"} for share in shares]

    first = "instar int8 for batch 1"
    return (
        Goal(
            first, fast(0.55, 0.7, 0.85, 1.0), Requirement(drop=0.2, vs_fp32={"batch 1": 1.0}),
            INT8, activations,
        ),
        Goal(
            "instar int8 for batch 64", fast(0.55, 0.6, 0.7, 1.0),
            Requirement(drop=0.2, vs_fp32={"batch 64": 0.7}), INT8, activations, shape=1,
        ),
        Goal(
            "instar int8 by size", lambda _: [{"size": "36%"}, {"size": "50%"}], Requirement(drop=0.2),
            ("int8:channel",), ("none",),
        ),
        Goal(
            "instar mixed int4/int8", lambda r: [{"size": r.nbytes["instar int8 by size"] // 2}],
            Requirement(half_of="instar int8 by size", drop=1.0), CONVOLUTIONS, activations,
        ),
    )  # fmt: skip


def _vit() -> tuple[Goal, ...]:
    def fast(r: Reference) -> Sequence[dict[str, str | int]]:
        return [{"size": "15%", "latency": _times(r.dynamic_ms["batch 1"], share)} for share in (0.95, 1.0, 1.2)]

    return (
        Goal("instar size=15%", lambda _: [{"size": "15%"}], Requirement(share=0.15, drop=0.5)),
        Goal("instar size=15%, fast", fast, Requirement(share=0.15, drop=0.5, vs_dynamic={"batch 1": 1.0})),
    )


def goals(name: str) -> tuple[Goal, ...]:
    """The rows of instar for a network."""
    if name == "minilm":
        return _minilm()
    if name == "chargpt":
        return _chargpt()
    return _vit() if name == "vit" else _convolutional()
