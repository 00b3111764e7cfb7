"""Which layers decide together, and what they may still become.

A tie and a trait say the same thing: each of their layers puts every choice into a class, and all layers must take
choices of one class. For a tie the class is the choice's name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .problem import AllocationProblem, Choice, LayerChoices

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
    tied = {name for tie in problem.ties for name in tie}
    names = {layer.name: [choice.name for choice in layer.choices] for layer in problem.layers if layer.name in tied}
    return [*({layer: names[layer] for layer in tie} for tie in problem.ties), *(t.classes for t in problem.traits)]


def groups(problem: AllocationProblem) -> tuple[tuple[Member, ...], ...]:
    """Every layer in exactly one group with all layers that it is tied to, in the order of the layers."""
    return _groups(problem, [layer.name for layer in problem.layers])


def tied_groups(problem: AllocationProblem) -> tuple[tuple[Member, ...], ...]:
    """The groups without the layers that no tie and no trait is about."""
    involved = _involved(problem)
    return _groups(problem, [layer.name for layer in problem.layers if layer.name in involved])


def alone(problem: AllocationProblem) -> dict[str, Sequence[Choice]]:
    """The layers that no tie and no trait is about, with what forced and forbidden choices leave of theirs."""
    involved, allowed = _involved(problem), _allowed(problem)
    return {layer.name: allowed(layer) for layer in problem.layers if layer.name not in involved}


def _involved(problem: AllocationProblem) -> set[str]:
    return {name for rule in (*problem.ties, *(trait.classes for trait in problem.traits)) for name in rule}


def _groups(problem: AllocationProblem, layers: Sequence[str]) -> tuple[tuple[Member, ...], ...]:
    rules, allowed = restrictions(problem), _allowed(problem)
    involved: dict[str, list[int]] = {}
    for number, rule in enumerate(rules):
        for name in rule:
            involved.setdefault(name, []).append(number)
    wanted = set(layers)
    left = {layer.name: _placed(layer, allowed(layer)) for layer in problem.layers if layer.name in wanted}
    return tuple(
        _members(names, [rules[n] for n in sorted({n for name in names for n in involved.get(name, ())})], left)
        for names in connected(layers, [tuple(rule) for rule in rules])
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


def _allowed(problem: AllocationProblem) -> Callable[[LayerChoices], Sequence[Choice]]:
    """What forced and forbidden choices leave of a layer's."""
    forced, forbidden = dict(problem.forced), set(problem.forbidden)
    sided = {*forced, *(layer for layer, _ in forbidden)}

    def left(layer: LayerChoices) -> Sequence[Choice]:
        if layer.name not in sided:
            return layer.choices
        only = forced.get(layer.name)
        kept = [choice for choice in layer.choices if (layer.name, choice.name) not in forbidden]
        return [choice for choice in kept if only in (None, choice.name)]

    return left


def _placed(layer: LayerChoices, left: Sequence[Choice]) -> list[tuple[int, Choice]]:
    """The choices with their places among all of the layer."""
    if left is layer.choices:
        return list(enumerate(left))
    names = {choice.name for choice in left}
    return [(place, choice) for place, choice in enumerate(layer.choices) if choice.name in names]


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
