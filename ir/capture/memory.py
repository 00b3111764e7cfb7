"""The values of a program while it is read: a write changes its tensor, and all views of it when they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import fx

from .writes import Writes


class Memory:
    """FX node -> its value now.

    Args:
        writes: how values share memory.
        read_again: a view -> its value, from what its tensor holds now.
        put_back: a view, the value of its tensor, the value of the view -> the tensor with the view's value in place.
    """

    def __init__(
        self,
        writes: Writes,
        read_again: Callable[[fx.Node], Any],
        put_back: Callable[[fx.Node, Any, Any], Any],
    ) -> None:
        self._writes = writes
        self._read_again = read_again
        self._put_back = put_back
        self._values: dict[fx.Node, Any] = {}
        self._stale: set[fx.Node] = set()
        self._views: dict[fx.Node, list[fx.Node]] = {}
        for view, base in writes.views.items():
            self._views.setdefault(base, []).append(view)

    def read(self, node: fx.Node) -> Any:
        """The value of a node after the writes so far."""
        node = self._named(node)
        if node in self._stale:
            self._stale.discard(node)
            self._values[node] = self._read_again(node)
        return self._values[node]

    def set(self, node: fx.Node, value: Any) -> None:
        """A new value."""
        self._values[node] = value

    def write(self, call: fx.Node, value: Any) -> None:
        """What a writing call gives is now in what it writes to, in the tensors behind that, and in their views."""
        node = self._named(call)
        changed = {node}
        self._values[node] = value
        self._stale.discard(node)
        while node in self._writes.views:
            base = self._writes.views[node]
            value = self._put_back(node, self.read(base), value)
            node = base
            changed.add(node)
            self._values[node] = value
        self._stale.update(v for v in self._below(node) if v in self._values and v not in changed)

    def relatives(self, node: fx.Node) -> list[fx.Node]:
        """Every value that a write to a node changes, under all their names."""
        node = self._named(node)
        while node in self._writes.views:
            node = self._writes.views[node]
        family = {node, *self._below(node)}
        return [*family, *(name for name, value in self._writes.same.items() if value in family)]

    def _named(self, node: fx.Node) -> fx.Node:
        return self._writes.same.get(node, node)

    def _below(self, node: fx.Node) -> Iterator[fx.Node]:
        pending = [node]
        while pending:
            views = self._views.get(pending.pop(), ())
            yield from views
            pending.extend(views)
