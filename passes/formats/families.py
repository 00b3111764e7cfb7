"""Families of formats: a name without its options stands for all formats of that name that a shape accepts.

``lowrank`` is every rank of its ladder, ``monarch`` numbers of blocks and ranks, ``int8:channel @ lowrank`` and
``lowrank + int4:g64`` the products and sums with each of them. Formats say what their ladders are
(:meth:`Format.ladder`).
"""

from __future__ import annotations

from ...ir.plugins import given_objects
from .base import Format, Shape
from .grammar import Product, Sum, Term, Tree, parse_tree
from .registry import FORMATS
from .registry import format as parse_format

NOMINAL = (1024, 1024)
"""A shape that every family has members for."""


def is_family(text: str) -> bool:
    """Whether a text leaves options of a format open.

    >>> is_family("lowrank + int4:g64"), is_family("lowrank:r8")
    (True, False)

    Raises:
        ParseError: where the text is no tree of formats.
    """
    return any(_has_ladder(term) and not term.options for term in _terms(parse_tree(text)))


def expand(text: str, shape: Shape) -> tuple[str, ...]:
    """The members that ``shape`` accepts, fewest bytes first; a format that leaves nothing open is itself alone.

    >>> expand("monarch + int4:g64", (16, 16))[:4]
    ('monarch:b2 + int4:g64', 'monarch:k2xj4 + int4:g64', 'monarch:k4xj2 + int4:g64', 'monarch:b2:r2 + int4:g64')

    Raises:
        ParseError: where a text is no format.
        FormatError: where a composition has no meaning.
    """
    if not is_family(text):
        return (text,)
    members = {member: parse_format(member) for member in _members(parse_tree(text), shape)}
    taken = {m.spelling: m.nbytes(shape) for m in members.values() if m.refuses(shape) is None}
    return tuple(sorted(taken, key=lambda spelling: taken[spelling]))


def family_of(spelling: str) -> str:
    """The family that a format is a member of: its text without what ladders choose.

    >>> family_of("int8:channel @ lowrank:r16"), family_of("int4:g64")
    ('int8:channel @ lowrank', 'int4:g64')
    """
    return _text(parse_tree(spelling))


def check_spelling(text: str) -> None:
    """Raise unless a text spells a format or a family of formats.

    Raises:
        ParseError: it does not.
        FormatError: a composition has no meaning.
    """
    for member in expand(text, NOMINAL):
        parse_format(member)


def _terms(tree: Tree) -> list[Term]:
    pending, found = [tree], list[Term]()
    while pending:
        each = pending.pop()
        if isinstance(each, Term):
            found.append(each)
        else:
            pending += each.parts if isinstance(each, Sum) else (each.left, each.right)
    return found


def _ladder(term: Term, shape: Shape) -> tuple[str, ...]:
    known = FORMATS.get(term.name)
    if term.spelling in given_objects(FORMATS.kind) or not (isinstance(known, type) and issubclass(known, Format)):
        return ()
    return known.ladder(shape)


def _has_ladder(term: Term) -> bool:
    return bool(_ladder(term, NOMINAL))


def _members(tree: Tree, shape: Shape) -> list[str]:
    """Texts of all members, whether the shape accepts them or not; nesting is as deep as the user's parentheses."""
    if isinstance(tree, Term):
        open_ended = _has_ladder(tree) and not tree.options
        return [f"{tree.name}:{rung}" for rung in _ladder(tree, shape)] if open_ended else [tree.spelling]
    if isinstance(tree, Product):
        return [f"{a} @ {b}" for a in _inner(tree.left, shape) for b in _inner(tree.right, shape)]
    found = [""]
    for part in tree.parts:
        found = [f"{a} + {b}" if a else b for a in found for b in _inner(part, shape)]
    return found


def _inner(tree: Tree, shape: Shape) -> list[str]:
    """In parentheses where precedence would read it otherwise."""
    return [f"({text})" if isinstance(tree, Sum) else text for text in _members(tree, shape)]


def _text(tree: Tree) -> str:
    if isinstance(tree, Term):
        return tree.name if _has_ladder(tree) else tree.spelling
    if isinstance(tree, Product):
        return f"{_text(tree.left)} @ {_text(tree.right)}"
    return " + ".join(_text(part) for part in tree.parts)
