"""Rules: one local rewrite each. A rule looks at one node and returns a new node, a refusal, or nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ..ir.graph import Node

if TYPE_CHECKING:
    from .rewrite import RewriteContext


@dataclass(frozen=True)
class Refused:
    """A rule recognised its pattern and declined. The reason is formatted only when it is read.

    Args:
        template: text with ``{}`` places.
        arguments: what goes into the places.
    """

    template: str
    arguments: tuple[Any, ...] = ()

    @property
    def reason(self) -> str:
        """The formatted reason."""
        return self.template.format(*self.arguments)


def refuse(template: str, *arguments: Any) -> Refused:
    """Decline with a reason: ``refuse("padding is {}", node.argument("padding"))``."""
    return Refused(template, arguments)


Outcome = Node | Refused | None
"""A replacement, a refusal, or ``None`` where the rule does not apply."""


class Rule(Protocol):
    """One rewrite. ``ops`` are the full op names it is tried on, such as ``"aten.addmm.default"``."""

    @property
    def name(self) -> str:
        """The name under which firings are counted."""
        ...

    @property
    def ops(self) -> tuple[str, ...]:
        """Full names of the ops whose nodes the rule is shown."""
        ...

    def apply(self, node: Node, match: RewriteContext) -> Outcome:
        """The replacement of a node (of equal type), a refusal, or ``None``."""
        ...


RuleFunction = Callable[[Node, "RewriteContext"], Outcome]


@dataclass(frozen=True)
class FunctionRule:
    """A rule made of one function; see :func:`rule`."""

    name: str
    ops: tuple[str, ...]
    function: RuleFunction

    def apply(self, node: Node, match: RewriteContext) -> Outcome:
        """Call the function."""
        return self.function(node, match)


def rule(*ops: str) -> Callable[[RuleFunction], FunctionRule]:
    """Turn a function ``(node, match) -> Outcome`` into a rule with the function's name in kebab-case."""

    def decorate(function: RuleFunction) -> FunctionRule:
        name = getattr(function, "__name__", type(function).__name__).strip("_").replace("_", "-")
        return FunctionRule(name, ops, function)

    return decorate
