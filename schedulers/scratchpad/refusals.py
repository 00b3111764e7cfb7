"""Sequences of ranges that a search must not take again, because their buffers have no addresses.

Each is an automaton that is one step further after every range that is as refused. A label carries how far it has come
in each of them, so that only the whole sequence is excluded (a cut of logic-based Benders decomposition: Hooker and
Ottosson, Mathematical Programming 96, 2003).
"""

from __future__ import annotations

from collections.abc import Sequence

from .candidates import Candidate
from .schedule import Refused


class Refusals:
    """All refused sequences of one search."""

    def __init__(self, refused: Sequence[Sequence[Refused]]) -> None:
        self._steps: dict[tuple[int, int, int], list[tuple[int, bool, bool, int]]] = {}
        place = 0
        for sequence in refused:
            for number, piece in enumerate(sequence):
                key = (piece.start, piece.stop - 1, sum(1 << tensor for tensor in piece.whole))
                step = (place, number == 0, number == len(sequence) - 1, piece.chip_bytes)
                self._steps.setdefault(key, []).append(step)
                place += 1

    @property
    def any(self) -> bool:
        """Whether there are some."""
        return bool(self._steps)

    def step(
        self, begun: int, candidate: Candidate, whole: int, memory: Sequence[int], entry: int, beside: int
    ) -> tuple[int, int]:
        """The best entry of a frontier that ends no refused sequence, -1 if none, and the sequences that go on.

        Args:
            begun: steps that the way so far has ended with, as a bit set.
            candidate: the range that comes next.
            whole: tensors that are whole on chip while it runs, as a bit set.
            memory: bytes of the frontier's entries, ascending.
            entry: the best one that fits.
            beside: bytes on chip that the frontier does not count.
        """
        known = self._steps.get((candidate.start, candidate.end, whole), ())
        going = 0
        for place, first, last, least in known:
            if not (first or begun >> (place - 1) & 1):
                continue
            if last:
                while entry >= 0 and memory[entry] + beside >= least:
                    entry -= 1
            elif entry >= 0 and memory[entry] + beside >= least:
                going |= 1 << place
        return entry, going
