"""A first assignment: what the priced layers choose, with prices raised until it fits, and then filled up."""

from __future__ import annotations

import numpy as np

from .table import Floats, Integers, Table

RAISES = (0.0, 1e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.2, 0.5, 1.0, 3.0, 15.0, 255.0, 1e4, 1e6)
"""By how much of themselves the prices are raised."""

MOST_MOVES = 300
"""Layers that change while the rest of the budgets is filled."""


def first_assignment(table: Table, prices: Floats) -> Integers | None:
    """Positions in the table, one per layer, that fit; ``None`` where no raised prices lead to one."""
    room = np.maximum(table.room, 1)
    shared = float(prices @ room) / len(room) / room if prices.any() else table.loss.max() / room
    for raised in RAISES:
        picks = table.picks(table.value(prices * (1.0 + raised) + shared * raised))
        if (table.cost[picks].sum(axis=0) <= table.room).all():
            return _filled(table, picks)
    return None


def _filled(table: Table, picks: Integers) -> Integers:
    """The largest saving of loss that still fits, again and again."""
    picks = picks.copy()
    for _ in range(MOST_MOVES):
        free = table.room - table.cost[picks].sum(axis=0)
        saved = table.loss[picks][table.layer] - table.loss
        fits = (table.cost - table.cost[picks][table.layer] <= free).all(axis=1)
        best = int(np.argmax(np.where(fits, saved, -1.0)))
        if not (fits[best] and saved[best] > 0):
            break
        picks[table.layer[best]] = best
    return picks
