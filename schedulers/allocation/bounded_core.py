"""What is left to decide once an assignment is known, and bounds for what is left after each layer.

An option whose distance from its layer's priced minimum exceeds what is open between assignment and bound is in no
better assignment (reduced-cost fixing). Layers that keep several options form the core; those whose options differ most
in priced cost come first. What remains then are small steps, for which the linear relaxation is nearly tight, so that
few partial assignments survive their bound. Pisinger's core (EJOR 83, 1995) starts at the other end, with the options
nearest to the relaxation; on losses over many decades that keeps hundreds of times more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from .table import EPSILON, Floats, Integers, Table

FINE = (1.0, 0.5, 0.7, 0.82, 0.9, 0.95, 0.98, 0.99, 0.997, 1.003, 1.01, 1.02, 1.05, 1.1, 1.2, 1.4, 2.0, 0.25, 4.0)
MEDIUM = (1.0, 0.4, 0.7, 0.87, 0.96, 0.99, 1.01, 1.04, 1.15, 1.4, 2.5, 0.1, 10.0)
COARSE = (1.0, 0.5, 0.85, 0.96, 1.04, 1.2, 2.0)
"""Prices around the best ones under which the remaining layers are bounded, as factors."""

MOST_PRICES = 400
"""Vectors of prices at most; with many budgets, only one price changes at a time."""


@dataclass(frozen=True)
class CoreLayer:
    """A layer with several options left.

    Attributes:
        position: ``[options]`` positions in the table.
        loss: ``[options]`` float64, difference to the option that the prices choose.
        exact: the same in whole loss units.
        cost: ``[options, budgets]`` int64.
    """

    position: Integers
    loss: Floats
    exact: tuple[int, ...]
    cost: Integers


@dataclass(frozen=True)
class Suffixes:
    """Bounds for the layers from ``t`` on, for each of several vectors of prices.

    Attributes:
        prices: ``[prices, budgets]``; the first are the best ones.
        value: ``[layers + 1, prices]`` summed priced minima, lowered by more than all rounding errors of a sum with
            them.
        pick: ``[layers, prices]`` which option the prices choose.
        cost: ``[layers + 1, budgets, prices]`` what these options cost.
        loss: ``[layers + 1, prices]`` their loss.
        least: ``[layers + 1, budgets]`` the least costs, each budget by itself.
    """

    prices: Floats
    value: Floats
    pick: Integers
    cost: Integers
    loss: Floats
    least: Integers


@dataclass(frozen=True)
class Core:
    """The layers that are open.

    Attributes:
        layers: those with several options, largest steps first.
        picks: ``[all layers]`` positions in the table: what the prices choose; decided layers are right already.
        base: exact loss of ``picks``.
        room: ``[budgets]`` what the decided layers leave of the limits.
    """

    layers: tuple[CoreLayer, ...]
    picks: Integers
    base: int
    room: Integers


def build_core(table: Table, exact: Sequence[int], prices: Floats, kept: Integers) -> Core:
    """The core of the kept options (positions in the table, ascending)."""
    value = table.value(prices)
    picks = table.picks(value)
    owner = table.layer[kept]
    parts = np.split(kept, np.flatnonzero(owner[1:] != owner[:-1]) + 1)
    priced = table.cost @ prices
    open_ = sorted((part for part in parts if len(part) > 1), key=lambda part: -float(np.ptp(priced[part])))
    layers = tuple(_core_layer(table, exact, part, int(picks[table.layer[part[0]]])) for part in open_)
    decided = [int(part[0]) for part in parts if len(part) == 1]
    room = table.room - table.cost[decided].sum(axis=0)
    return Core(layers, picks, sum(exact[int(pick)] for pick in picks), room)


def _core_layer(table: Table, exact: Sequence[int], part: Integers, reference: int) -> CoreLayer:
    differences = tuple(exact[int(position)] - exact[reference] for position in part)
    loss = np.array([float(value >> table.shift) for value in differences])
    return CoreLayer(part, loss, differences, table.cost[part])


def price_vectors(prices: Floats, room: Integers) -> Floats:
    """The prices themselves first, and others around them: ``[prices, budgets]``."""
    factors = FINE if len(prices) == 1 else MEDIUM if len(prices) == 2 else COARSE
    worth = float(prices @ np.maximum(room, 1)) / np.maximum(room, 1)
    sides = [
        [price * factor for factor in factors] if price > 0 else [0.0, 0.01 * float(share), float(share)]
        for price, share in zip(prices, worth, strict=True)
    ]
    number = 1
    for side in sides:
        number *= len(side)
    if number <= MOST_PRICES:
        return np.array(list(product(*sides)))
    rows = [prices]
    for budget, side in enumerate(sides):
        rows += [np.concatenate((prices[:budget], [value], prices[budget + 1 :])) for value in side[1:]]
    return np.array(rows)


def suffixes(core: Core, prices: Floats, shift: int) -> Suffixes:
    """Bounds for every tail of the core's layers."""
    number, budgets, many = len(core.layers), len(core.room), len(prices)
    value, loss = np.zeros((number + 1, many)), np.zeros((number + 1, many))
    pick = np.zeros((number, many), dtype=np.int64)
    cost = np.zeros((number + 1, budgets, many), dtype=np.int64)
    least = np.zeros((number + 1, budgets), dtype=np.int64)
    size = np.abs(core.room) @ prices.T
    for t in range(number - 1, -1, -1):
        layer = core.layers[t]
        priced = layer.loss[:, None] + layer.cost @ prices.T
        pick[t] = priced.argmin(axis=0)
        value[t] = value[t + 1] + priced.min(axis=0)
        loss[t] = loss[t + 1] + layer.loss[pick[t]]
        cost[t] = cost[t + 1] + layer.cost[pick[t]].T
        least[t] = least[t + 1] + layer.cost.min(axis=0)
        size = size + (np.abs(layer.loss)[:, None] + layer.cost @ prices.T).max(axis=0)
    return Suffixes(prices, value - _margin(number, size, shift), pick, cost, loss, least)


def _margin(layers: int, size: Floats, shift: int) -> Floats:
    """More than the error of any sum of as many terms whose sizes sum to ``size``."""
    return (2 * layers + 16) * EPSILON * size + (2.0 * layers + 2.0 if shift else 0.0)
