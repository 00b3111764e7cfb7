"""What a schedule looks like on a machine, as plain values: memory over time, what moves, what is computed."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Box:
    """Memory that holds something for a time.

    Attributes:
        name: what it holds.
        kind: one of ``whole``, ``line``, ``weights``, ``stream``.
        address: first byte.
        size_bytes: of it.
        start: first moment.
        stop: moment at which it is free.
        spilled: whether what it holds is written off-chip or was read back from there.
    """

    name: str
    kind: str
    address: int
    size_bytes: int
    start: float
    stop: float
    spilled: bool = False


@dataclass(frozen=True)
class Span:
    """Something that the core or the DMA engine does: ``kind`` is ``compute`` or why bytes move."""

    name: str
    kind: str
    start: float
    stop: float
    size_bytes: int = 0


@dataclass(frozen=True)
class MachinePicture:
    """All that is drawn.

    Attributes:
        title: one line.
        unit: of moments: ``cycles``, or ``commands`` where the machine's description gives no time.
        budget_bytes: of scratchpad.
        boxes: memory.
        dma: what moves.
        core: what is computed.
        facts: (name, value) for people.
        notes: sentences, such as why something was spilled.
    """

    title: str
    unit: str
    budget_bytes: int
    boxes: tuple[Box, ...]
    dma: tuple[Span, ...]
    core: tuple[Span, ...]
    facts: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def end(self) -> float:
        """The last moment."""
        return max([1.0, *(span.stop for span in (*self.dma, *self.core)), *(box.stop for box in self.boxes)])
