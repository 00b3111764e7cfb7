"""What a pass is: a frozen dataclass that turns one graph into another and says what it did and what it declined."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, runtime_checkable

from ..ir.graph import Graph, Origin
from ..ir.plugins import is_frozen

KEPT_REFUSALS = 200
"""How many refusals a :class:`PassRecord` keeps; ``refused_count`` counts them all."""


@dataclass(frozen=True)
class Refusal:
    """A rule that matched a node and declined, with the reason in the user's terms.

    Attributes:
        rule: name of the rule.
        node: the node as the text of the graph shows it.
        origin: where the node came from.
        reason: one clause, such as ``"the convolution's output is used by 2 other nodes"``.
    """

    rule: str
    node: str
    origin: Origin
    reason: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.node} ({self.origin}): {self.reason}"


@dataclass(frozen=True)
class PassResult:
    """What a pass returns.

    Attributes:
        graph: the new graph; the same object where nothing changed.
        fired: how often each rule fired.
        refused: what was declined, judged on the final graph.
    """

    graph: Graph
    fired: Counter[str] = field(default_factory=Counter[str])
    refused: tuple[Refusal, ...] = ()


@runtime_checkable
class Pass(Protocol):
    """A rewrite of a whole graph. Implementations are frozen dataclasses whose fields are their options.

    ``name`` is the kebab-case name that pipelines use. ``exact`` says that the new graph computes the same function up
    to rounding; the numeric check holds exact passes to it and only records the error of the others.
    """

    name: ClassVar[str]
    exact: ClassVar[bool]

    def __call__(self, graph: Graph) -> PassResult:
        """Rewrite a graph; the graph that is given stays as it was."""
        ...


def is_pass_class(found: object) -> bool:
    """Whether something is a class of passes: a dataclass with a name, a promise and a call."""
    return (
        isinstance(found, type)
        and is_frozen(found)
        and isinstance(getattr(found, "name", None), str)
        and isinstance(getattr(found, "exact", None), bool)
        and callable(getattr(found, "__call__", None))  # noqa: B004  # of its instances, not of the class
    )


@dataclass(frozen=True)
class CheckOutcome:
    """The numeric comparison of a graph with the one before the pass, over all inputs and outputs.

    Attributes:
        precision: ``"unchanged"``, ``"float64"``, ``"own dtype, constants rounded"``,
            or ``"own dtype"``.
        max_error: largest ``|after - before| / |before|`` (Euclidean norms) of any output.
        tolerance: the largest error that would have passed; infinite for lossy passes.
        sqnr_db: smallest signal-to-quantization-noise ratio of any output in decibels; infinite where nothing changed.
        seconds: time the check took.
        note: why the precision is not float64, where it is not.
    """

    precision: str
    max_error: float
    tolerance: float
    sqnr_db: float
    seconds: float = 0.0
    note: str = ""


@dataclass(frozen=True)
class PassRecord:
    """What the report says about one pass.

    Attributes:
        name: the pass.
        exact: whether the pass promises the same function.
        seconds: time of the pass itself.
        nodes_before: nodes of the graph that was given.
        nodes_after: nodes of the graph that came back.
        fired: how often each rule fired.
        refused: the first :data:`KEPT_REFUSALS` refusals.
        refused_count: how many there were.
        verify_seconds: time of the verifier.
        check: the numeric comparison; ``None`` where none was asked for.
    """

    name: str
    exact: bool
    seconds: float
    nodes_before: int
    nodes_after: int
    fired: dict[str, int]
    refused: tuple[Refusal, ...] = ()
    refused_count: int = 0
    verify_seconds: float = 0.0
    check: CheckOutcome | None = None

    @property
    def max_error(self) -> float | None:
        """Largest relative error of the numeric check; ``None`` where there was none."""
        return None if self.check is None else self.check.max_error

    @property
    def sqnr_db(self) -> float | None:
        """Smallest signal-to-noise ratio of the numeric check in decibels; ``None`` where there was none."""
        return None if self.check is None else self.check.sqnr_db
