"""Orders for large graphs: beam search over what has run and what lies where.

A state is the set of operators that have run and the set of tensors that wait off-chip. States with equally many
operators compete: the cheapest stay, among equal ones those with fewest bytes alive. An eviction pays for its write, if
there is no copy yet, and for the read that must follow. Where an operator does not fit, the cheapest sets of tensors
that make room are tried. The order is what counts: :func:`replace_exactly` finds its best replacement afterwards.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from .flow import Flow

MOST_CANDIDATES = 12
"""Largest tensors among which sets to evict are looked for."""

MOST_EVICTED = 3
"""Tensors of such a set."""

TRIED_SETS = 3
"""Sets that are tried for each operator."""


@dataclass(frozen=True, slots=True)
class Node:
    """Bits of operators that have run; bits of tensors on chip, off-chip but needed, and with a copy off-chip."""

    done: int
    chip: int
    away: int
    copied: int
    cost: int
    used: int
    waiting: int
    ready: tuple[int, ...]
    operator: int
    before: Node | None


def beam_order(flow: Flow, budget_bytes: int, width: int, deadline: float) -> tuple[int, ...] | None:
    """An order with little traffic, or ``None`` if ``time.perf_counter()`` passes the deadline first.

    Args:
        flow: the network.
        budget_bytes: at least ``flow.required_bytes``.
        width: states that are kept for every number of operators.
        deadline: when to give up.
    """
    search = _Beam(flow, budget_bytes)
    layers: dict[int, dict[tuple[int, int], Node]] = {}
    _keep(layers, search.settle(search.first()))
    for count in range(flow.steps):
        layer = sorted(layers.pop(count, {}).values(), key=lambda node: (node.cost, node.used + node.waiting))
        for node in layer[:width]:
            if time.perf_counter() > deadline:
                return None
            for after in search.successors(node):
                _keep(layers, search.settle(after))
    node: Node | None = min(layers[flow.steps].values(), key=lambda node: node.cost)
    order: list[int] = []
    while node is not None and node.operator >= 0:
        order.append(node.operator)
        node = node.before
    return tuple(reversed(order))


def _keep(layers: dict[int, dict[tuple[int, int], Node]], node: Node) -> None:
    layer = layers.setdefault(node.done.bit_count(), {})
    other = layer.get((node.done, node.away))
    if other is None or other.cost > node.cost:
        layer[node.done, node.away] = node


class _Beam:
    def __init__(self, flow: Flow, budget: int) -> None:
        self._flow = flow
        self._budget = budget
        self._uses = [sum(1 << use for use in uses) for uses in flow.uses]
        self._needs = [sum(1 << place for place in set(flow.predecessors(o))) for o in range(flow.steps)]
        self._touches = [{*flow.reads[o], flow.makes[o]} for o in range(flow.steps)]

    def first(self) -> Node:
        ready = tuple(operator for operator in range(self._flow.steps) if not self._needs[operator])
        copied = sum(1 << tensor for tensor, written in enumerate(self._flow.write_bytes) if not written)
        return Node(0, 0, 0, copied, 0, 0, 0, ready, -1, None)

    def settle(self, node: Node) -> Node:
        """Run what fits, reads nothing from off-chip and leaves no more on chip than before."""
        moved = True
        while moved:
            moved = False
            for operator in node.ready:
                if self._lack(node, operator) > 0 or any(node.away >> t & 1 for t in self._flow.reads[operator]):
                    continue
                after = self._run(node, operator)
                if after.used <= node.used:
                    node, moved = after, True
                    break
        return node

    def successors(self, node: Node) -> list[Node]:
        found: list[Node] = []
        for operator in node.ready:
            lack = self._lack(node, operator)
            if lack <= 0:
                found.append(self._run(node, operator))
                continue
            found += [self._run(self._evict(node, chosen), operator) for chosen in self._sets(node, operator, lack)]
        return found

    def _lack(self, node: Node, operator: int) -> int:
        """Bytes that are missing to run the operator."""
        touched = sum(self._flow.sizes[t] for t in self._touches[operator] if node.chip >> t & 1)
        return node.used - touched + self._flow.pinned[operator] - self._budget

    def _sets(self, node: Node, operator: int, lack: int) -> list[tuple[int, ...]]:
        sizes, touched = self._flow.sizes, self._touches[operator]
        free = [t for t in _members(node.chip) if t not in touched and sizes[t] > 0]
        free.sort(key=lambda tensor: -sizes[tensor])
        largest = free[:MOST_CANDIDATES]
        covers = [
            chosen
            for count in range(1, MOST_EVICTED + 1)
            for chosen in combinations(largest, count)
            if 0 <= sum(sizes[t] for t in chosen) - lack < min(sizes[t] for t in chosen)
        ]
        if not covers:
            return [_until(free, sizes, lack)]
        covers.sort(key=lambda chosen: (self._price(node, chosen), -self._next_use(node, chosen)))
        return covers[:TRIED_SETS]

    def _price(self, node: Node, chosen: Sequence[int]) -> int:
        flow = self._flow
        return sum(flow.sizes[t] + (0 if node.copied >> t & 1 else flow.write_bytes[t]) for t in chosen)

    def _next_use(self, node: Node, chosen: Sequence[int]) -> int:
        """First use in the order of the problem that is still to come."""
        return min(_lowest(self._uses[tensor] & ~node.done) for tensor in chosen)

    def _evict(self, node: Node, chosen: Sequence[int]) -> Node:
        bits, total = sum(1 << tensor for tensor in chosen), sum(self._flow.sizes[tensor] for tensor in chosen)
        return replace(
            node,
            chip=node.chip & ~bits,
            away=node.away | bits,
            copied=node.copied | bits,
            cost=node.cost + self._price(node, chosen),
            used=node.used - total,
            waiting=node.waiting + total,
        )

    def _run(self, node: Node, operator: int) -> Node:
        flow, done = self._flow, node.done | 1 << operator
        chip, away, used, waiting = node.chip, node.away, node.used, node.waiting
        for tensor in flow.reads[operator]:
            bit, size = 1 << tensor, flow.sizes[tensor]
            if away & bit:
                away, waiting = away & ~bit, waiting - size
            if not chip & bit:
                chip, used = chip | bit, used + size
            if not self._uses[tensor] & ~done:
                chip, used = chip & ~bit, used - size
        made = flow.makes[operator]
        if flow.uses[made]:
            chip, used = chip | 1 << made, used + flow.sizes[made]
        opened = [use for use in flow.uses[made] if not self._needs[use] & ~done]
        ready = (*(other for other in node.ready if other != operator), *opened)
        return Node(done, chip, away, node.copied, node.cost, used, waiting, ready, operator, node)


def _members(bits: int) -> list[int]:
    found: list[int] = []
    while bits:
        found.append(_lowest(bits))
        bits &= bits - 1
    return found


def _lowest(bits: int) -> int:
    return (bits & -bits).bit_length() - 1


def _until(free: Sequence[int], sizes: Sequence[int], lack: int) -> tuple[int, ...]:
    """The largest tensors that make enough room."""
    chosen: list[int] = []
    while lack > 0:
        chosen.append(free[len(chosen)])
        lack -= sizes[chosen[-1]]
    return tuple(chosen)
