"""Which layers decide together, and what they may still become."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .problem import AllocationProblem


def tie_groups(problem: AllocationProblem) -> tuple[tuple[str, ...], ...]:
    """Every layer in exactly one group, tied layers together; groups and members in the order of the layers."""
    parent = {layer.name: layer.name for layer in problem.layers}
    for tie in problem.ties:
        for other in tie[1:]:
            parent[_root(parent, other)] = _root(parent, tie[0])
    groups: dict[str, list[str]] = {}
    for layer in problem.layers:
        groups.setdefault(_root(parent, layer.name), []).append(layer.name)
    return tuple(tuple(members) for members in groups.values())


def _root(parent: dict[str, str], name: str) -> str:
    while parent[name] != name:
        parent[name] = parent[parent[name]]
        name = parent[name]
    return name


def common_names(problem: AllocationProblem, group: tuple[str, ...]) -> list[str]:
    """Choice names that all members of the group have, in the order of the first member."""
    members = set(group)
    layers = [layer for layer in problem.layers if layer.name in members]
    others = [{choice.name for choice in layer.choices} for layer in layers[1:]]
    return [choice.name for choice in layers[0].choices if all(choice.name in names for names in others)]


def allowed_names(problem: AllocationProblem) -> dict[tuple[str, ...], list[str]]:
    """Per tie group the choice names that ties, forced and forbidden choices leave."""
    forced, forbidden = dict(problem.forced), set(problem.forbidden)
    sided = {*forced, *(layer for layer, _ in forbidden)}
    choices = {layer.name: [choice.name for choice in layer.choices] for layer in problem.layers}
    allowed: dict[tuple[str, ...], list[str]] = {}
    for group in tie_groups(problem):
        names = choices[group[0]] if len(group) == 1 else common_names(problem, group)
        if not any(member in sided for member in group):
            allowed[group] = names
            continue
        wanted = {forced[member] for member in group if member in forced}
        allowed[group] = [
            name for name in names if wanted <= {name} and not any((member, name) in forbidden for member in group)
        ]
    return allowed
