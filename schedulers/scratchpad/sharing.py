"""Which tensors of a range lie in the same memory, one after the other."""

from __future__ import annotations

from collections.abc import Sequence

from .sequenced import Sequenced


def held(net: Sequenced, tensor: int, pairs: Sequence[tuple[int, int]]) -> list[int]:
    """The tensor and the parts that were left in place in it, directly or through another concatenation."""
    found = [tensor]
    for known in found:
        parts_of = net.parts[net.made_at[known]] if net.made_at[known] >= 0 else ()
        found.extend(guest for guest, host in pairs if host == known and guest in parts_of)
    return found


def share(net: Sequenced, start: int, end: int, pairs: Sequence[tuple[int, int]]) -> list[tuple[list[int], int, int]]:
    """Lanes of a range as (members, bytes per row, bytes of all rows).

    A tensor in place of another joins its lanes; a concatenation has the lanes of the parts that stay where they are
    and one for the rest.
    """
    tensors = net.problem.tensors
    guests: dict[int, list[int]] = {}
    for guest, host in pairs:
        guests.setdefault(host, []).append(guest)
    lanes: list[tuple[list[int], int, int]] = []
    of: dict[int, list[tuple[list[int], int, int]]] = {}

    def open_lanes(tensor: int) -> list[tuple[list[int], int, int]]:
        own = [lane for guest in guests.get(tensor, ()) for lane in of[guest]]
        for members, _, _ in own:
            members.append(tensor)
        rest = tensors[tensor].size_bytes - sum(size for _, _, size in own)
        if rest > 0 or not own:
            fresh = ([tensor], -(-max(rest, 0) // net.rows[tensor]), max(rest, 0))
            own.append(fresh)
            lanes.append(fresh)
        return own

    for position in range(start, end + 1):
        for tensor in net.maps[position]:
            if tensor not in of:
                of[tensor] = open_lanes(tensor)
        tensor = net.output(position)
        of[tensor] = open_lanes(tensor)
    return lanes
