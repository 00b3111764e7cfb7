"""Bounds for what follows each key, under prices of the budgets, and what can be fixed by them.

With the budgets priced, the best assignment is found key by key from the last stage on: the Lagrangian function, which
on a graph without budgets is the exact minimum, and whose maximum over the prices bounds the problem with them at least
as well as its linear relaxation (Geoffrion, Math. Prog. Study 2, 1974). From both ends together follows the least value
of every assignment with one given option; where that is above what is known, the option is in no better assignment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .pairwise_stages import Stage, Stages
from .prices import Plane, climb
from .table import EPSILON, Floats, Integers

CLOSE = 1e-6
"""Relative distance of the planes from the Lagrangian function at which its climb ends."""


@dataclass(frozen=True)
class Tails:
    """What the stages from ``t`` on add at least, per key and vector of prices.

    Attributes:
        prices: ``[prices, budgets]``; the first are the best ones.
        value: per stage, and after the last, ``[keys, prices]`` least priced sums, lowered by more than all rounding
            errors of a sum with them.
        pick: per stage ``[keys, prices]`` the option with which the least sum begins.
        cost: ``[keys, budgets, prices]`` what that sum's options cost.
        loss: ``[keys, prices]`` their loss.
        least: ``[keys, budgets]`` the least costs, each budget by itself.
        margin: ``[prices]`` by what values were lowered.
    """

    prices: Floats
    value: tuple[Floats, ...]
    pick: tuple[Integers, ...]
    cost: tuple[Integers, ...]
    loss: tuple[Floats, ...]
    least: tuple[Integers, ...]
    margin: Floats

    @property
    def picked_costs(self) -> Integers:
        """``[prices, budgets]`` what the assignments that the prices choose cost."""
        return self.cost[0][0].T


def tails_of(stages: Stages, prices: Floats) -> Tails:
    """Bounds for every stage and key under each of the vectors of prices."""
    many, budgets = len(prices), len(stages.room)
    value, loss, least = [np.zeros((1, many))], [np.zeros((1, many))], [np.zeros((1, budgets), np.int64)]
    cost = [np.zeros((1, budgets, many), np.int64)]
    pick: list[Integers] = []
    every = np.arange(many)
    for stage in reversed(stages.stages):
        priced = stage.loss[:, None] + stage.cost @ prices.T
        best = _first_least(priced, stage.first)
        joint = stage.joint_loss[:, :, None] + stage.joint_cost @ prices.T
        total = np.take_along_axis(priced, best, axis=0) + joint + value[-1][stage.follow]
        kind = total.argmin(axis=1)
        keys = np.arange(len(total))[:, None]
        then, option = stage.follow[keys, kind], best[kind, every]
        value.append(np.take_along_axis(total, kind[:, None], axis=1)[:, 0])
        loss.append(stage.loss[option] + stage.joint_loss[keys, kind] + loss[-1][then, every])
        own = stage.cost[option] + stage.joint_cost[keys, kind]
        cost.append(own.transpose(0, 2, 1) + cost[-1].transpose(0, 2, 1)[then, every].transpose(0, 2, 1))
        cheapest = np.minimum.reduceat(stage.cost, stage.first, axis=0)
        least.append((cheapest + stage.joint_cost + least[-1][stage.follow]).min(axis=1))
        pick.append(option)
    margin = _margin(stages, prices)
    lowered = tuple(v - margin for v in reversed(value))
    return Tails(
        prices, lowered, tuple(reversed(pick)), tuple(reversed(cost)), tuple(reversed(loss)),
        tuple(reversed(least)), margin,
    )  # fmt: skip


def _first_least(priced: Floats, first: Integers) -> Integers:
    """``[kinds, prices]`` the first option of each kind with the least value."""
    ends = [*first[1:].tolist(), len(priced)]
    return np.stack([priced[a:b].argmin(axis=0) + a for a, b in zip(first.tolist(), ends, strict=True)])


def _margin(stages: Stages, prices: Floats) -> Floats:
    """More than the error of any sum over the stages that is priced: ``[prices]``."""
    size = stages.loss_size + (np.abs(stages.room) + stages.cost_size) @ prices.T
    steps = len(stages.stages)
    return (6 * steps + 32) * EPSILON * size + (4.0 * steps + 4.0 if stages.shift else 0.0)


def best_prices(stages: Stages, start: Floats) -> Floats:
    """Where the Lagrangian function is highest: ``[budgets]``."""
    least = sum(float(stage.loss.min() + stage.joint_loss.min()) for stage in stages.stages)
    most = sum(float(stage.loss.max() + stage.joint_loss.max()) for stage in stages.stages)
    return climb(lambda prices: _touch(stages, prices), stages.room, most - least, most + abs(most), start, CLOSE)


def _touch(stages: Stages, prices: Floats) -> Plane:
    """The plane that touches the function at the prices."""
    value, sums = np.zeros(1), list[tuple[Floats, Floats]]()
    for stage in reversed(stages.stages):
        priced = stage.loss + stage.cost @ prices
        joint = stage.joint_loss + stage.joint_cost @ prices
        total = np.minimum.reduceat(priced, stage.first) + joint + value[stage.follow]
        value = total.min(axis=1)
        sums.append((priced, total))
    cost, key = -stages.room, 0
    for stage, (priced, total) in zip(stages.stages, reversed(sums), strict=True):
        kind = int(total[key].argmin())
        first = int(stage.first[kind])
        end = int(stage.first[kind + 1]) if kind + 1 < len(stage.first) else len(priced)
        cost = cost + stage.cost[first + int(priced[first:end].argmin())] + stage.joint_cost[key, kind]
        key = int(stage.follow[key, kind])
    return Plane(prices, float(value[0] - prices @ stages.room), cost.astype(np.float64))


def bound_of(stages: Stages, tails: Tails) -> float:
    """No assignment loses less, by the first prices."""
    return float(tails.value[0][0, 0] - tails.prices[0] @ stages.room)


def least_with(stages: Stages, tails: Tails) -> list[Floats]:
    """Per stage ``[options]``: no assignment with the option loses less, by the first prices."""
    prices = tails.prices[0]
    ahead = np.zeros(1)
    found: list[Floats] = []
    for t, stage in enumerate(stages.stages):
        priced = stage.loss + stage.cost @ prices
        joint = stage.joint_loss + stage.joint_cost @ prices
        through = (ahead[:, None] + joint + tails.value[t + 1][:, 0][stage.follow]).min(axis=0)
        found.append(through[stage.kind] + priced - float(prices @ stages.room) - tails.margin[0])
        ahead = _forward(stage, ahead, joint, np.minimum.reduceat(priced, stage.first), len(tails.value[t + 1]))
    return found


def _forward(stage: Stage, ahead: Floats, joint: Floats, least: Floats, keys: int) -> Floats:
    """The least value with which each next key is reached: ``[keys]``."""
    reached = np.full(keys, np.inf)
    np.minimum.at(reached, stage.follow, ahead[:, None] + joint + least)
    return reached


def path(stages: Sequence[Stage], tails: Tails, t: int, key: int, prices: int) -> list[tuple[int, int]]:
    """What the prices choose from a stage and key on: options, and what they lose in whole units."""
    found: list[tuple[int, int]] = []
    for stage, pick in zip(stages[t:], tails.pick[t:], strict=True):
        option = int(pick[key, prices])
        kind = int(stage.kind[option])
        found.append((option, stage.exact[option] + stage.joint_exact[key, kind]))
        key = int(stage.follow[key, kind])
    return found
