"""A graph of pairs one node after the other: what has to be remembered of the nodes before.

After each step the *key* says the kinds of those nodes which still have neighbours to come; everything that follows
depends on the key alone. This is dynamic programming by elimination (Bertele and Brioschi, Nonserial Dynamic
Programming, 1972): on a chain a key is one node's kind, on a tree a few nodes', and it grows with the path width of the
graph. Nodes are ordered so that keys stay few.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
from numpy.typing import NDArray

from .pairwise_graph import Node, PairGraph
from .table import LOSS_BITS, Floats, Integers
from .ties import connected

MOST_TRANSITIONS = 40_000
"""Keys times kinds, summed over the stages, from which on a graph is too wide."""

BEGINNINGS = 6
"""Nodes of a component that are tried as its first."""


@dataclass(frozen=True)
class Stage:
    """A node, and what its options add with what was chosen before.

    Attributes:
        node: its place in the graph.
        kind: ``[options]``, rising.
        first: ``[kinds]`` the first option of each.
        loss: ``[options]`` float64, in units of ``2**shift``.
        exact: the same in whole units.
        cost: ``[options, budgets]`` int64.
        follow: ``[keys, kinds]`` the key afterwards.
        joint_loss: ``[keys, kinds]`` float64, what is added.
        joint_exact: the same in whole units.
        joint_cost: ``[keys, kinds, budgets]`` int64.
    """

    node: int
    kind: Integers
    first: Integers
    loss: Floats
    exact: NDArray[np.object_]
    cost: Integers
    follow: Integers
    joint_loss: Floats
    joint_exact: NDArray[np.object_]
    joint_cost: Integers

    @property
    def size(self) -> float:
        """More than any option's loss, pairs included, whatever its sign."""
        return float(np.abs(self.loss).max() + np.abs(self.joint_loss).max())


@dataclass(frozen=True)
class Stages:
    """All nodes in order; there is one key before the first and one after the last.

    Attributes:
        stages: one for each node.
        room: ``[budgets]`` the limits.
        shift: bits by which losses were shortened.
    """

    stages: tuple[Stage, ...]
    room: Integers
    shift: int

    @cached_property
    def loss_size(self) -> float:
        """More than any assignment's sum of the sizes of losses."""
        return sum(stage.size for stage in self.stages)

    @cached_property
    def cost_size(self) -> Integers:
        """``[budgets]``: the same for costs."""
        own = [np.abs(s.cost).max(axis=0) + np.abs(s.joint_cost).max(axis=(0, 1)) for s in self.stages]
        return np.array(own, np.int64).reshape(len(own), len(self.room)).sum(axis=0)

    @property
    def transitions(self) -> int:
        """Keys times kinds, over all stages."""
        return sum(stage.follow.size for stage in self.stages)


def stages_of(graph: PairGraph, weight: Sequence[float]) -> Stages | None:
    """The stages; ``None`` where keys are too many.

    Args:
        graph: nodes and edges.
        weight: per node; components with heavy nodes come first.
    """
    near = _neighbours(graph)
    order = _order(graph, near, weight)
    if order is None:
        return None
    losses = [abs(option.loss) for node in graph.nodes for option in node.options]
    losses += [abs(entry[0]) for table in graph.edges.values() for entry in table.values()]
    shift = max(0, max(losses, default=0).bit_length() - LOSS_BITS)
    place = {node: step for step, node in enumerate(order)}
    frontier: tuple[int, ...] = ()
    made: list[Stage] = []
    for step, node in enumerate(order):
        behind = tuple(v for v in (*frontier, node) if any(place[u] > step for u in near[v]))
        made.append(_stage(graph, node, frontier, behind, shift))
        frontier = behind
    return Stages(tuple(made), np.array(graph.limits, np.int64), shift)


def _neighbours(graph: PairGraph) -> list[set[int]]:
    near: list[set[int]] = [set() for _ in graph.nodes]
    for a, b in graph.edges:
        near[a].add(b)
        near[b].add(a)
    return near


def _order(graph: PairGraph, near: Sequence[set[int]], weight: Sequence[float]) -> list[int] | None:
    """Components one after the other, heaviest first, each in an order with few transitions."""
    names = [str(node) for node in range(len(graph.nodes))]
    parts = [[int(n) for n in part] for part in connected(names, [(str(a), str(b)) for a, b in graph.edges])]
    found: list[int] = []
    left = MOST_TRANSITIONS
    for part in sorted(parts, key=lambda part: -max(weight[node] for node in part)):
        ends = sorted(part, key=lambda node: (len(near[node]), node))[:BEGINNINGS]
        tried = [_from(end, part, near, graph.nodes, left) for end in ends]
        best = min((t for t in tried if t is not None), default=None, key=lambda t: t[0])
        if best is None:
            return None
        left -= best[0]
        found += best[1]
    return found


def _from(
    first: int, part: Sequence[int], near: Sequence[set[int]], nodes: Sequence[Node], most: int
) -> tuple[int, list[int]] | None:
    """Transitions and order of a component that begins with a node, always going on where fewest keys are."""
    order, waiting = [first], {v: len(near[v]) for v in part}
    frontier = _after(first, [], near, waiting)
    total = nodes[first].kinds
    while len(order) < len(part):
        reach = sorted({u for v in frontier for u in near[v]} - {*order})
        follows = {u: _keys(_behind(u, frontier, near, waiting), nodes) for u in reach}
        node = min(reach, key=lambda u: (follows[u], u))
        total += _keys(frontier, nodes) * nodes[node].kinds
        if total > most:
            return None
        order.append(node)
        frontier = _after(node, frontier, near, waiting)
    return total, order


def _behind(node: int, frontier: Sequence[int], near: Sequence[set[int]], waiting: Mapping[int, int]) -> list[int]:
    """The nodes that still have neighbours to come after one more."""
    left = [v for v in frontier if waiting[v] - (node in near[v])]
    return [*left, node] if waiting[node] else left


def _after(node: int, frontier: Sequence[int], near: Sequence[set[int]], waiting: dict[int, int]) -> list[int]:
    behind = _behind(node, frontier, near, waiting)
    for other in near[node]:
        waiting[other] -= 1
    return behind


def _keys(frontier: Sequence[int], nodes: Sequence[Node]) -> int:
    return math.prod(nodes[v].kinds for v in frontier)


def _stage(graph: PairGraph, node: int, before: Sequence[int], behind: Sequence[int], shift: int) -> Stage:
    own, budgets = graph.nodes[node], len(graph.limits)
    number = {key: n for n, key in enumerate(product(*(range(graph.nodes[v].kinds) for v in behind)))}
    keys = [*product(*(range(graph.nodes[v].kinds) for v in before))]
    follow = np.zeros((len(keys), own.kinds), np.int64)
    exact = np.zeros((len(keys), own.kinds), object)
    cost = np.zeros((len(keys), own.kinds, budgets), np.int64)
    links = [(p, graph.edges.get((v, node)), graph.edges.get((node, v))) for p, v in enumerate(before)]
    for k, key in enumerate(keys):
        kinds = dict(zip(before, key, strict=True))
        for kind in range(own.kinds):
            kinds[node] = kind
            follow[k, kind] = number[tuple(kinds[v] for v in behind)]
            for p, ahead, turned in links:
                entry = (ahead or {}).get((key[p], kind)) or (turned or {}).get((kind, key[p]))
                if entry is not None:
                    exact[k, kind] += entry[0]
                    cost[k, kind] += np.array(entry[1], np.int64)
    losses = np.array([option.loss for option in own.options], object)
    kinds_of = np.array(own.kind, np.int64)
    return Stage(
        node, kinds_of, np.flatnonzero(np.diff(kinds_of, prepend=-1)), _floats(losses, shift), losses,
        np.array([option.costs for option in own.options], np.int64).reshape(len(losses), budgets),
        follow, _floats(exact, shift), exact, cost,
    )  # fmt: skip


def _floats(exact: NDArray[np.object_], shift: int) -> Floats:
    values: list[int] = exact.ravel().tolist()
    return np.array([float(value >> shift) for value in values]).reshape(exact.shape)
