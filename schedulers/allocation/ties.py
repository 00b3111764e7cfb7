"""Which layers decide together, and what they may still become.

A tie and a trait say the same thing: each of their layers puts every choice into a class, and all layers must take
choices of one class. For a tie the class is the choice's name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .problem import AllocationProblem, Choice

Key = tuple[str | None, ...]
"""The class in each restriction of a group; ``None`` where it is not decided, or does not matter any more."""


@dataclass(frozen=True)
class Member:
    """A layer of a group.

    Attributes:
        name: of the layer.
        choices: what forced and forbidden choices leave, each with its classes.
        closed: per restriction, whether no later member of the group is in it.
    """

    name: str
    choices: tuple[tuple[Choice, Key], ...]
    closed: tuple[bool, ...]

    def join(self, key: Key, own: Key) -> Key | None:
        """The key after a choice of this member; ``None`` if it disagrees with what was chosen before."""
        if any(a is not None and b is not None and a != b for a, b in zip(key, own, strict=True)):
            return None
        both = zip(key, own, self.closed, strict=True)
        return tuple(None if closed else a if b is None else b for a, b, closed in both)


def restrictions(problem: AllocationProblem) -> list[Mapping[str, Sequence[str]]]:
    """Ties, then traits: layer -> the class of each of its choices."""
    names = {layer.name: [choice.name for choice in layer.choices] for layer in problem.layers}
    return [*({layer: names[layer] for layer in tie} for tie in problem.ties), *(t.classes for t in problem.traits)]


def groups(problem: AllocationProblem) -> tuple[tuple[Member, ...], ...]:
    """Every layer in exactly one group with all layers that it is tied to, in the order of the layers."""
    rules, allowed = restrictions(problem), _allowed(problem)
    involved: dict[str, list[int]] = {}
    for number, rule in enumerate(rules):
        for name in rule:
            involved.setdefault(name, []).append(number)
    found = connected([layer.name for layer in problem.layers], [tuple(rule) for rule in rules])
    return tuple(
        _members(names, [rules[n] for n in sorted({n for name in names for n in involved.get(name, ())})], allowed)
        for names in found
    )


def connected(names: Sequence[str], links: Iterable[Sequence[str]]) -> list[list[str]]:
    """The names in groups that share links; groups and members in the order of the names."""
    parent = {name: name for name in names}
    for link in links:
        for other in link[1:]:
            parent[_root(parent, other)] = _root(parent, link[0])
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(_root(parent, name), []).append(name)
    return list(found.values())


def _root(parent: dict[str, str], name: str) -> str:
    while parent[name] != name:
        parent[name] = parent[parent[name]]
        name = parent[name]
    return name


def _allowed(problem: AllocationProblem) -> dict[str, list[tuple[int, Choice]]]:
    """Per layer the choices that forced and forbidden ones leave, with their places."""
    forced, forbidden = dict(problem.forced), set(problem.forbidden)
    sided = {*forced, *(layer for layer, _ in forbidden)}
    return {
        layer.name: [
            (place, choice)
            for place, choice in enumerate(layer.choices)
            if layer.name not in sided
            or (forced.get(layer.name, choice.name) == choice.name and (layer.name, choice.name) not in forbidden)
        ]
        for layer in problem.layers
    }


def _members(
    names: Sequence[str],
    rules: Sequence[Mapping[str, Sequence[str]]],
    allowed: Mapping[str, Sequence[tuple[int, Choice]]],
) -> tuple[Member, ...]:
    """The members of a group, and the rules that hold in it."""
    last = [max(place for place, name in enumerate(names) if name in rule) for rule in rules]
    return tuple(
        Member(name, _classified(name, rules, allowed[name]), tuple(place >= end for end in last))
        for place, name in enumerate(names)
    )


def _classified(
    name: str, rules: Sequence[Mapping[str, Sequence[str]]], allowed: Sequence[tuple[int, Choice]]
) -> tuple[tuple[Choice, Key], ...]:
    if not rules:  # most layers, with all their choices
        return tuple((choice, ()) for _, choice in allowed)
    return tuple(
        (choice, tuple(rule[name][position] if name in rule else None for rule in rules))
        for position, choice in allowed
    )


def agrees(group: Sequence[Member]) -> bool:
    """Whether the members have choices of the same classes at all."""
    keys = {start(group)}
    for member in group:
        own = {key for _, key in member.choices}
        keys = {joined for key in keys for other in own if (joined := member.join(key, other)) is not None}
    return bool(keys)


def start(group: Sequence[Member]) -> Key:
    """The key before the first member."""
    return (None,) * len(group[0].closed)
