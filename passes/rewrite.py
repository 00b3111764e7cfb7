"""The fixed-point driver: sweeps a graph bottom-up and applies rules until none fires."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import sympy
import torch

from ..ir.constants import ConstantHandle
from ..ir.context import Context, bind_arguments
from ..ir.errors import PassError
from ..ir.graph import Graph, Node, NodeType, type_text
from ..ir.op import CONSTANT, INPUT, op
from ..ir.text import call_text, node_names
from .base import PassResult, Refusal
from .rules import Refused, Rule

MAX_SWEEPS = 64
MAX_FIRINGS = 64


def rewrite(
    graph: Graph, rules: Sequence[Rule], *, max_sweeps: int = MAX_SWEEPS, max_firings: int = MAX_FIRINGS
) -> PassResult:
    """Apply rules until none fires anywhere.

    Each sweep goes through the nodes from inputs to outputs once: a node first gets the replacements of its inputs,
    then rules are applied to it until none fires. Sweeps repeat until one changes nothing; refusals are those of
    that last sweep. Graph inputs stay, used or not. Time is linear in the nodes for a fixed number of sweeps.

    Args:
        graph: the graph; it stays as it was.
        rules: tried in order at every node whose op they name.
        max_sweeps: bound on the sweeps.
        max_firings: bound on the firings at one node in one sweep.

    Raises:
        PassError: a rule keeps firing beyond a bound, or returns a value of another type; names the rule.
    """
    table = _by_op(rules)
    fired: Counter[str] = Counter()
    memo: dict[Any, Node] = {}
    last: Counter[str] = Counter()
    for _ in range(max_sweeps):
        sweep = _Sweep(graph, table, memo, max_firings)
        graph = sweep.run()
        fired += sweep.fired
        if not sweep.changed:
            return PassResult(settle_names(graph), fired, _refusals(graph, sweep.refused))
        last = sweep.fired
    name = max(last, key=lambda rule: last[rule]) if last else "substitution"
    raise PassError(
        f"rule {name}: expected a fixed point within {max_sweeps} sweeps; it still fires; "
        "make the rule return a node that it does not match again"
    )


def substitute(graph: Graph, replacements: Mapping[Node, Node]) -> Graph:
    """The graph with nodes replaced, and everything that uses them rebuilt. Linear in the nodes."""
    done: dict[Node, Node] = {}
    for node in graph.nodes():
        done[node] = replacements[node] if node in replacements else graph.context.rebuild(node, done)
    return with_replaced_outputs(graph, done)


def with_replaced_outputs(graph: Graph, replaced: Mapping[Node, Node]) -> Graph:
    """The graph whose outputs are the replacements of its outputs; the same object where nothing changed."""
    outputs = tuple(replaced[o] if isinstance(o, Node) else o for o in graph.outputs)
    if all(new is old for new, old in zip(outputs, graph.outputs, strict=True)):
        return graph
    return graph.with_outputs(outputs)


def settle_names(graph: Graph) -> Graph:
    """Give constants that share a name numbered suffixes; the first in order keeps it."""
    taken = {n.handle.name for n in graph.constants()}
    seen: set[str] = set()
    renamed: dict[Node, Node] = {}
    for node in graph.constants():
        name = node.handle.name
        if name in seen:
            name = _free_name(name, taken)
            renamed[node] = graph.context.constant_of(_renamed(node.handle, name))
            taken.add(name)
        seen.add(name)
    return substitute(graph, renamed) if renamed else graph


def _free_name(name: str, taken: set[str]) -> str:
    number = 1
    while f"{name}.{number}" in taken:
        number += 1
    return f"{name}.{number}"


def _renamed(handle: ConstantHandle, name: str) -> ConstantHandle:
    return ConstantHandle(name, handle.type, lambda: handle.tensor, handle.kind, handle.aliases)


# ------------------------------------------------------------------------------------------------ what rules see
@dataclass
class RewriteContext:
    """What a rule may ask and make. Nodes made here get the origin of the node that is being replaced.

    Attributes:
        graph: the graph as it was at the start of the sweep.
        uses: how many uses each value has; an output of the graph counts as one.
    """

    graph: Graph
    uses: Counter[Node] = field(default_factory=Counter[Node])
    _memo: dict[Any, Node] = field(default_factory=dict[Any, Node])
    _sources: dict[Node, list[Node]] = field(default_factory=dict[Node, list[Node]])

    @property
    def context(self) -> Context:
        """The table that creates nodes."""
        return self.graph.context

    def node(self, name: str, *args: Any, **kwargs: Any) -> Node:
        """The node that applies an op: ``match.node("aten.linear", x, weight, bias)``."""
        return self.context.node(name, *args, **kwargs)

    def remake(self, name: str, arguments: Mapping[str, Any]) -> Node:
        """The node that applies an op to arguments by name; torch calls the first one ``self`` in many ops."""
        operation = op(name)
        return self.context.node_of(operation, bind_arguments(operation, (), arguments))

    def use_count(self, node: Node) -> int:
        """How many nodes and outputs use a value. Exact in the last sweep; earlier it may count users that are gone."""
        return self.uses[node]

    def users(self, node: Node) -> tuple[Node, ...]:
        """The users of a value in the graph as it was at the start of the sweep; empty for values made since."""
        users = self.graph.users()
        return tuple(dict.fromkeys(u for old in self._sources.get(node, []) for u in users[old]))

    def constant(self, name: str, tensor: torch.Tensor, kind: str = "derived") -> Node:
        """A new constant. Where the name is taken in the final graph it gets a numbered suffix."""
        return self.context.constant_of(ConstantHandle.of(name, tensor, kind))

    def derive(self, source: Node, key: str, function: Callable[[torch.Tensor], torch.Tensor]) -> Node:
        """A constant computed from another, under the same name; equal keys of one source give one node."""
        entry = (id(source.handle), key)
        if entry not in self._memo:
            old = source.handle
            handle = ConstantHandle.of(old.name, function(old.tensor), old.kind, old.aliases)
            self._memo[entry] = self.context.constant_of(handle)
            self._memo[id(source.handle)] = source
        return self._memo[entry]

    def scalar(self, value: float | int, dtype: torch.dtype) -> Node:
        """A constant of rank 0; equal values of one dtype are one node."""
        entry = ("scalar", type(value).__name__, value, dtype)
        if entry not in self._memo:
            self._memo[entry] = self.constant(f"scalar_{value}", torch.tensor(value, dtype=dtype))
        return self._memo[entry]

    def stands_for(self, new: Node, old: Node) -> None:
        """Note which node of the graph a value was rebuilt or replaced from."""
        sources = self._sources.setdefault(new, [])
        if old not in sources:
            sources.append(old)

    def take_over(self, old: Node, rebuilt: Node, new: Node, uses: int) -> None:
        """Note that ``new`` stands for ``old``, which is ``rebuilt`` with new inputs and had ``uses`` uses."""
        self.stands_for(new, old)
        if new is not rebuilt:
            self.uses.subtract(dict.fromkeys(rebuilt.inputs, 1))
        if new is rebuilt or new in self.uses:
            self.uses[new] += uses
        else:
            self._count_inner(new)
            self.uses[new] = uses

    def _count_inner(self, root: Node) -> None:
        """Count the uses that nodes made by a rule have of their inputs."""
        pending = [root]
        while pending:
            node = pending.pop()
            for source in dict.fromkeys(node.inputs):
                if source not in self.uses:
                    pending.append(source)
                self.uses[source] += 1


# ------------------------------------------------------------------------------------------------ one sweep
class _Sweep:
    """One pass over the nodes in order."""

    def __init__(self, graph: Graph, table: dict[str, list[Rule]], memo: dict[Any, Node], max_firings: int) -> None:
        self.graph = graph
        self.table = table
        self.match = RewriteContext(graph, _memo=memo)
        self.max_firings = max_firings
        self.replaced: dict[Node, Node] = {}
        self.fired: Counter[str] = Counter()
        self.refused: list[tuple[str, Node, Refused]] = []
        self.changed = False

    def run(self) -> Graph:
        uses = _use_counts(self.graph)
        for node in self.graph.nodes():
            rebuilt = self.graph.context.rebuild(node, self.replaced)
            self.match.stands_for(rebuilt, node)
            new = self._visit(rebuilt)
            self.replaced[node] = new
            self.changed = self.changed or new is not node
            self.match.take_over(node, rebuilt, new, uses[node])
        return with_replaced_outputs(self.graph, self.replaced)

    def _visit(self, node: Node) -> Node:
        if node.op is INPUT or node.op is CONSTANT or node.op.name not in self.table:
            return node
        with self.graph.context.origin(node.origin):
            return self._until_fixed(node)

    def _until_fixed(self, node: Node) -> Node:
        name = ""
        for _ in range(self.max_firings):
            found = self._first(node)
            if found is None:
                return node
            name, new = found
            _check_type(name, node, new)
            self.fired[name] += 1
            node = new
        raise PassError(
            f"rule {name}: expected a fixed point at {node.op.short_name} ({node.origin}); "
            f"it fired {self.max_firings} times; make the rule return a node that it does not match again"
        )

    def _first(self, node: Node) -> tuple[str, Node] | None:
        for rule in self.table.get(node.op.name, ()):
            outcome = rule.apply(node, self.match)
            if isinstance(outcome, Refused):
                self.refused.append((rule.name, node, outcome))
            elif outcome is not None and outcome is not node:
                return rule.name, outcome
        return None


def _by_op(rules: Iterable[Rule]) -> dict[str, list[Rule]]:
    table: dict[str, list[Rule]] = {}
    for rule in rules:
        for name in rule.ops:
            table.setdefault(name, []).append(rule)
    return table


def _use_counts(graph: Graph) -> Counter[Node]:
    counts = Counter({node: len(users) for node, users in graph.users().items()})
    for output in graph.output_nodes:
        counts[output] += 1
    return counts


def _refusals(graph: Graph, refused: list[tuple[str, Node, Refused]]) -> tuple[Refusal, ...]:
    if not refused:
        return ()
    names = node_names(graph)
    known = [(rule, node, r) for rule, node, r in refused if node in names]
    return tuple(Refusal(rule, call_text(node, names), node.origin, r.reason) for rule, node, r in known)


def _check_type(rule: str, old: Node, new: Node) -> None:
    if not same_type(old.type, new.type):
        raise PassError(
            f"rule {rule}: expected a replacement of type {type_text(old.type)} for {old.op.short_name} "
            f"({old.origin}); found {type_text(new.type)} from {new.op.short_name}; mend the rule"
        )


def same_type(first: NodeType, second: NodeType) -> bool:
    """Whether two types are equal, sizes compared as expressions: ``2*(s + 1)`` is ``2*s + 2``."""
    if first == second:
        return True
    if isinstance(first, tuple) or isinstance(second, tuple):
        if not (isinstance(first, tuple) and isinstance(second, tuple)) or len(first) != len(second):
            return False
        return all(same_type(a, b) for a, b in zip(first, second, strict=True))
    return first.dtype == second.dtype and same_shape(first.shape, second.shape)


def same_shape(first: Sequence[Any], second: Sequence[Any]) -> bool:
    """Whether two shapes are equal as expressions."""
    return len(first) == len(second) and all(same_dim(a, b) for a, b in zip(first, second, strict=True))


def same_dim(first: Any, second: Any) -> bool:
    """Whether two dimensions are equal as expressions."""
    if isinstance(first, int) and isinstance(second, int):
        return first == second
    return first == second or _equal_expressions(first, second)


@functools.lru_cache(maxsize=4096)
def _equal_expressions(first: Any, second: Any) -> bool:
    difference = sympy.expand(cast(sympy.Expr, first) - second)
    return bool(difference == 0) or (not difference.is_polynomial() and bool(sympy.simplify(difference) == 0))
