"""What it costs if a tensor is off-chip, as bytes that the places where it lives share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .rows import Vector
from .sequenced import Sequenced

Reals = NDArray[np.float64]


@dataclass(frozen=True)
class Pool:
    """Bytes that entries share, and what the entries of one event may take of them at most.

    Attributes:
        group: per entry, which bytes it has a share of.
        bytes: per group.
        event: per entry, what costs something if one of its entries is off-chip.
        most: per event.
    """

    group: Vector
    bytes: Vector
    event: Vector
    most: Vector

    def split(self, asked: Reals) -> Reals:
        """Every group's bytes, in proportion to the exponentials of what was asked, and no event above its most."""
        if not len(asked):
            return asked
        highest = np.full(len(self.bytes), -np.inf)
        np.maximum.at(highest, self.group, asked)
        parts = np.exp(asked - highest[self.group])
        shares = parts / np.bincount(self.group, parts, minlength=len(self.bytes))[self.group] * self.bytes[self.group]
        totals = np.bincount(self.event, shares, minlength=len(self.most))
        return shares * (np.minimum(1.0, self.most / np.maximum(totals, 1e-9)))[self.event]


@dataclass(frozen=True)
class Lives:
    """Per tensor one entry for every position from its producer to its last reader, tensors one after the other.

    Attributes:
        first: per tensor its first entry; -1 for those that are not made or not read.
        gap_stop: per entry the entry behind the last of the same gap between two readers.
        gap_start: per entry the first of the same gap.
        reads: what the next reader reads if the tensor is off-chip.
        writes: what a copy off-chip costs.
    """

    first: Vector
    gap_start: Vector
    gap_stop: Vector
    reads: Pool
    writes: Pool


def lives_of(net: Sequenced) -> Lives:
    """All tensors that are made and read in this order.

    A concatenation off-chip is made of the parts that are there. A part off-chip that it alone reads is either read, or
    the concatenation is written and read instead: they share the bytes of both.
    """
    tensors, owner, gap = net.problem.tensors, list[int](), list[int]()
    first, first_gap = np.full(len(tensors), -1, dtype=np.int64), dict[int, int]()
    gaps: list[tuple[int, int]] = []
    for tensor, made in enumerate(net.made_at):
        if made < 0 or not net.read_at[tensor] or not tensors[tensor].size_bytes:
            continue
        first[tensor], first_gap[tensor] = len(owner), len(gaps)
        owner += [tensor] * (net.read_at[tensor][-1] - made + 1)
        for before, reader in zip((made - 1, *net.read_at[tensor][:-1]), net.read_at[tensor], strict=True):
            gap += [len(gaps)] * (reader - before)
            gaps.append((tensor, reader))
    events = np.asarray(gap, dtype=np.int64)
    start, stop = (np.searchsorted(events, events, side=side) for side in ("left", "right"))
    return Lives(
        first, start, stop, _reads(net, gaps, first_gap, events), _writes(net, np.asarray(owner, dtype=np.int64))
    )


def _reads(net: Sequenced, gaps: list[tuple[int, int]], first_gap: dict[int, int], event: Vector) -> Pool:
    most = [_least_read(net, tensor, reader) for tensor, reader in gaps]
    pool, total, hosts = list(range(len(gaps))), list(most), _hosts(net)
    for place, (tensor, reader) in enumerate(gaps):
        if tensor in net.parts[reader]:
            host = _only_host(hosts, tensor)
            if host is None or host not in first_gap:
                most[place] = 0
            else:
                pool[place] = first_gap[host]
    return _pool(pool, total, event, most)


def _writes(net: Sequenced, event: Vector) -> Pool:
    tensors, hosts = net.problem.tensors, _hosts(net)
    most = [0 if tensor.role == "output" else tensor.size_bytes for tensor in tensors]
    pool, total = list(range(len(tensors))), list(most)
    for tensor in hosts:
        host = _only_host(hosts, tensor)
        if host is None:
            most[tensor] = 0
        elif tensors[host].role != "output":
            pool[tensor] = host
        free = tensors[tensor].size_bytes if tensors[tensor].role == "output" else 0
        for joined in hosts[tensor]:
            total[joined] = max(0, total[joined] - free)
    return _pool(pool, total, event, most)


def _only_host(hosts: dict[int, list[int]], part: int) -> int | None:
    """The concatenation of a part that is in one only, and that is no part itself."""
    found = hosts[part]
    return found[0] if len(found) == 1 and found[0] not in hosts else None


def _pool(pool: list[int], total: list[int], event: Vector, most: list[int]) -> Pool:
    group, whole, limit = (np.asarray(values, dtype=np.int64) for values in (pool, total, most))
    return Pool(group[event], whole, event, limit)


def _hosts(net: Sequenced) -> dict[int, list[int]]:
    """Per part the concatenations that it may lie in."""
    found: dict[int, list[int]] = {}
    for position, parts in enumerate(net.parts):
        for part in parts:
            found.setdefault(part, []).append(net.output(position))
    return found


def _least_read(net: Sequenced, tensor: int, reader: int) -> int:
    rows = net.maps[reader][tensor]
    return min(rows.needed(rows.rows_out) * net.row_bytes[tensor], net.problem.tensors[tensor].size_bytes)
