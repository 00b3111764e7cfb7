"""A problem with pairs as a graph: a node decides for layers that are tied, an edge is what two nodes add together.

Options of a node that add the same with everything around it are of one *kind*; edges know kinds alone. Inside a kind
options compete as in a problem without pairs, so that those which lose no less and cost no less than another are left
out. A node with one kind left adds the same whatever it takes: its edges become part of its neighbours' options. All of
it keeps at least one optimum.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from .dominance import Option, prune_dominated
from .pairwise_terms import Entry, Terms
from .problem import AllocationProblem
from .ties import Key, Member, groups, start

MOST_OPTIONS = 20_000
"""Combinations of tied layers' choices from which on they are not formed."""

Joint = Mapping[tuple[int, int], Entry]
"""Kinds of two nodes -> what they add; nothing where it is not named."""


@dataclass(frozen=True)
class Node:
    """Layers that are decided together.

    Attributes:
        members: names of the layers.
        options: choices of all members, by kind; losses and costs of pairs inside are part of them.
        kind: of each option, rising from 0.
    """

    members: tuple[str, ...]
    options: tuple[Option, ...]
    kind: tuple[int, ...]

    @property
    def kinds(self) -> int:
        """How many there are."""
        return self.kind[-1] + 1


@dataclass(frozen=True)
class PairGraph:
    """``edges`` are between two nodes, the earlier one first, each with several kinds."""

    nodes: tuple[Node, ...]
    edges: Mapping[tuple[int, int], Joint]
    limits: tuple[int, ...]

    def with_options(self, kept: Sequence[Sequence[int]]) -> PairGraph:
        """The same with some options of every node alone, at least one each."""
        nodes = [
            replace(node, options=tuple(node.options[p] for p in row), kind=tuple(node.kind[p] for p in row))
            for node, row in zip(self.nodes, kept, strict=True)
        ]
        return _simplified(nodes, self.edges, self.limits)


def graph_of(problem: AllocationProblem, terms: Terms) -> PairGraph | None:
    """The graph of a problem; ``None`` where tied layers have too many combinations."""
    names = [layer.name for layer in problem.layers]
    kinds, tables = _layer_kinds(terms)
    position = {name: i for i, name in enumerate(names)}
    nodes: list[Node] = []
    inside: list[list[tuple[int, ...]]] = []
    owner: dict[int, tuple[int, int]] = {}
    for group in groups(problem):
        layers = [position[member.name] for member in group]
        joined = _joined(group, layers, kinds, terms)
        if joined is None:
            return None
        for place, layer in enumerate(layers):
            owner[layer] = len(nodes), place
        nodes.append(_node(group, layers, joined, tables))
        inside.append([*joined])
    return _simplified(nodes, _between(tables, owner, inside), terms.limits)


def _layer_kinds(terms: Terms) -> tuple[list[dict[int, int]], dict[tuple[int, int], dict[tuple[int, int], Entry]]]:
    """Per layer the kind of every place; per two layers what kinds add."""
    seen: list[dict[int, list[tuple[int, int, Entry]]]] = [{p: [] for p in row} for row in terms.allowed]
    nothing = 0, (0,) * len(terms.limits)
    for (i, j, a, b), loss in terms.pair_loss.items():
        entry = loss, terms.pair_costs[i, j, a, b]
        if entry != nothing and a in seen[i] and b in seen[j]:
            seen[i][a].append((j, b, entry))
            seen[j][b].append((i, a, entry))
    kinds: list[dict[int, int]] = []
    for row in seen:
        known: dict[tuple[tuple[int, int, Entry], ...], int] = {}
        kinds.append({p: known.setdefault(tuple(sorted(links)), len(known)) for p, links in row.items()})
    tables: dict[tuple[int, int], dict[tuple[int, int], Entry]] = defaultdict(dict)
    for i, row in enumerate(seen):
        for place, links in row.items():
            for j, other, entry in links:
                if i < j:
                    tables[i, j][kinds[i][place], kinds[j][other]] = entry
    return kinds, tables


def _joined(
    group: Sequence[Member], layers: Sequence[int], kinds: Sequence[Mapping[int, int]], terms: Terms
) -> dict[tuple[int, ...], list[Option]] | None:
    """Kinds of the members -> combinations of their choices that agree; beaten ones are dropped on the way."""
    nothing = Option((), 0, (0,) * len(terms.limits))
    partial: dict[tuple[Key, tuple[int, ...]], list[Option]] = {(start(group), ()): [nothing]}
    for member, layer in zip(group, layers, strict=True):
        made: dict[tuple[Key, tuple[int, ...]], list[Option]] = defaultdict(list)
        for (key, before), options in partial.items():
            for choice, own in member.choices:
                joined, place = member.join(key, own), terms.place(member.name, choice.name)
                if joined is not None:
                    added = Option((choice.name,), terms.loss[layer][place], terms.costs[layer][place])
                    made[joined, (*before, kinds[layer][place])] += [_both(each, added) for each in options]
        if sum(map(len, made.values())) > MOST_OPTIONS:
            return None
        partial = {key: [*prune_dominated(options)] for key, options in made.items()}
    found: dict[tuple[int, ...], list[Option]] = defaultdict(list)
    for (_, classes), options in partial.items():
        found[classes] += options
    return found


def _both(first: Option, second: Option) -> Option:
    costs = tuple(a + b for a, b in zip(first.costs, second.costs, strict=True))
    return Option(first.names + second.names, first.loss + second.loss, costs)


def _with(option: Option, entry: Entry) -> Option:
    return Option(
        option.names, option.loss + entry[0], tuple(a + b for a, b in zip(option.costs, entry[1], strict=True))
    )


def _node(
    group: Sequence[Member],
    layers: Sequence[int],
    joined: Mapping[tuple[int, ...], Sequence[Option]],
    tables: Mapping[tuple[int, int], Joint],
) -> Node:
    """Kinds are numbered in the order of ``joined``; what members add among themselves goes into the options."""
    options: list[Option] = []
    kind: list[int] = []
    for number, (classes, row) in enumerate(joined.items()):
        links = [
            tables[i, j][classes[p], classes[q]]
            for p, i in enumerate(layers)
            for q, j in enumerate(layers)
            if (i, j) in tables and (classes[p], classes[q]) in tables[i, j]
        ]
        for each in row:
            for entry in links:
                each = _with(each, entry)
            options.append(each)
        kind += [number] * len(row)
    return Node(tuple(member.name for member in group), tuple(options), tuple(kind))


def _between(
    tables: Mapping[tuple[int, int], Joint],
    owner: Mapping[int, tuple[int, int]],
    inside: Sequence[Sequence[tuple[int, ...]]],
) -> dict[tuple[int, int], Joint]:
    """What kinds of two nodes add: the sum over their members; ``inside`` are the members' kinds of each kind."""
    found: dict[tuple[int, int], dict[tuple[int, int], Entry]] = defaultdict(dict)
    for (i, j), table in tables.items():
        (a, p), (b, q) = owner[i], owner[j]
        if a == b:
            continue
        (a, p), (b, q), turned = ((a, p), (b, q), False) if a < b else ((b, q), (a, p), True)
        for first, classes in enumerate(inside[a]):
            for second, others in enumerate(inside[b]):
                entry = table.get((others[q], classes[p]) if turned else (classes[p], others[q]))
                if entry is not None:
                    _add(found[a, b], (first, second), entry)
    return {**found}


def _add(table: dict[tuple[int, int], Entry], key: tuple[int, int], entry: Entry) -> None:
    before = table.get(key)
    if before is not None:
        entry = before[0] + entry[0], tuple(a + b for a, b in zip(before[1], entry[1], strict=True))
    table[key] = entry


def _simplified(nodes: Sequence[Node], edges: Mapping[tuple[int, int], Joint], limits: tuple[int, ...]) -> PairGraph:
    """Kinds that are gone or alike, edges of nodes that have one, and options that another one beats are left out."""
    nothing = 0, (0,) * len(limits)
    rows: list[dict[int, dict[tuple[int, int], Entry]]] = [{kind: {} for kind in node.kind} for node in nodes]
    for (a, b), table in edges.items():
        for (first, second), entry in table.items():
            if first in rows[a] and second in rows[b] and entry != nothing:
                rows[a][first][b, second] = entry
                rows[b][second][a, first] = entry
    for a in range(len(nodes)):
        if any(rows[a].values()) and max(_numbered(rows[a]).values()) == 0:
            nodes = _absorbed(nodes, next(iter(rows[a].values())))
            for kind, links in rows[a].items():
                for b, second in links:
                    del rows[b][second][a, kind]
                rows[a][kind] = {}
    number = [_numbered(row) for row in rows]
    kept = {
        (a, number[a][k], b, number[b][other]): entry
        for a, row in enumerate(rows)
        for k, links in row.items()
        for (b, other), entry in links.items()
        if a < b
    }
    found: dict[tuple[int, int], dict[tuple[int, int], Entry]] = defaultdict(dict)
    for (a, first, b, second), entry in kept.items():
        found[a, b][first, second] = entry
    return PairGraph(tuple(_pruned(n, number[a]) for a, n in enumerate(nodes)), {**found}, limits)


def _absorbed(nodes: Sequence[Node], links: Mapping[tuple[int, int], Entry]) -> list[Node]:
    """What a node of one kind adds with its neighbours, as part of theirs."""
    made = [*nodes]
    by_node: dict[int, dict[int, Entry]] = defaultdict(dict)
    for (other, kind), entry in links.items():
        by_node[other][kind] = entry
    for other, added in by_node.items():
        node = made[other]
        options = [_with(o, added[k]) if k in added else o for o, k in zip(node.options, node.kind, strict=True)]
        made[other] = replace(node, options=tuple(options))
    return made


def _numbered(row: Mapping[int, Mapping[tuple[int, int], Entry]]) -> dict[int, int]:
    """Kind -> its new number, the same for those that add the same."""
    known: dict[tuple[tuple[tuple[int, int], Entry], ...], int] = {}
    return {kind: known.setdefault(tuple(sorted(links.items())), len(known)) for kind, links in row.items()}


def _pruned(node: Node, number: Mapping[int, int]) -> Node:
    """Options by kind, without those that another one of the kind beats."""
    by_kind: dict[int, list[Option]] = defaultdict(list)
    for option, kind in zip(node.options, node.kind, strict=True):
        by_kind[number[kind]].append(option)
    rows = {kind: prune_dominated(by_kind[kind]) for kind in sorted(by_kind)}
    options = tuple(option for row in rows.values() for option in row)
    return Node(node.members, options, tuple(kind for kind, row in rows.items() for _ in row))
