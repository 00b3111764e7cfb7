"""Families of formats: a name without its options stands for all formats of that name that a shape accepts.

``lowrank`` is every rank of its ladder, ``monarch`` numbers of blocks and ranks, ``int8:channel @ lowrank`` and
``lowrank + int4:g64`` the products and sums with each of them. Formats say what their ladders are
(:meth:`Format.ladder`).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Collection, Sequence
from functools import cache, lru_cache
from typing import cast

from ...ir.plugins import given_objects
from .base import Format, Shape
from .grammar import Product, Sum, Term, Tree, parse_tree
from .registry import FORMATS
from .registry import format as parse_format

MOST_COMBINATIONS = 64
"""Members, about, of a format with several ladders; saying the options of one leaves more to the others."""

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
    tree = parse_tree(text)
    members = {member: parse_format(member) for member in _members(tree, shape, _rungs(tree))}
    taken = {m.spelling: m.nbytes(shape) for m in members.values() if m.refuses(shape) is None}
    return tuple(sorted(taken, key=lambda spelling: taken[spelling]))


def family_of(spelling: str) -> str:
    """The family that a format is a member of: its text without what ladders choose.

    >>> family_of("int8:channel @ lowrank:r16"), family_of("int4:g64")
    ('int8:channel @ lowrank', 'int4:g64')
    """
    return _family(spelling, frozenset(given_objects(FORMATS.kind)))


@lru_cache(maxsize=4096)
def _family(spelling: str, given: frozenset[str]) -> str:
    """The same where these objects are given; ladders ask many times about the same texts."""
    del given
    return _text(parse_tree(spelling))


def finer(text: str, known: Collection[str]) -> tuple[str, ...]:
    """Members of a member's family between it and its neighbours among ``known``: one option differs, and lies halfway.

    >>> finer("lowrank:r8 + int4:g64", ("lowrank:r4 + int4:g64", "lowrank:r16 + int4:g64", "lowrank:r9"))
    ('lowrank:r6 + int4:g64', 'lowrank:r12 + int4:g64')
    """
    tree, own, found = parse_tree(text), _open_terms(text), list[str]()
    relatives = [_open_terms(other) for other in known if family_of(other) == family_of(text)]
    for place, term in enumerate(own):
        rest = [t.spelling for t in own if t is not term]
        others = {_option(o[place]) for o in relatives if [t.spelling for t in o if t is not o[place]] == rest}
        for middle in _formats_of(term).halfway(_option(term), others):
            changed = f"{term.name}:{middle}"
            found.append(_rendered(tree, lambda t, term=term, changed=changed: changed if t == term else t.spelling))
    return tuple(found)


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


def _open_terms(text: str) -> list[Term]:
    """The terms of a member whose options a ladder chose."""
    return [term for term in _terms(parse_tree(text)) if _has_ladder(term)]


def _option(term: Term) -> str:
    return ":".join(word.text for word in term.options)


def _formats_of(term: Term) -> type[Format]:
    """The class that a term names; the base of all formats, which has no ladder, for anything else."""
    known = FORMATS.get(term.name)
    if term.spelling in given_objects(FORMATS.kind) or not (isinstance(known, type) and issubclass(known, Format)):
        return Format
    return cast("type[Format]", known)


def _ladder(term: Term, shape: Shape) -> tuple[str, ...]:
    return _formats_of(term).ladder(shape)


def _has_ladder(term: Term) -> bool:
    return _is_open(_formats_of(term))


@cache
def _is_open(formats: type[Format]) -> bool:
    return bool(formats.ladder(NOMINAL))


def _rungs(tree: Tree) -> int:
    """Rungs of each ladder: all where there is one; of several so many that their combinations are not too many."""
    ladders = sum(_has_ladder(term) and not term.options for term in _terms(tree))
    return sys.maxsize if ladders < 2 else max(2, math.floor(MOST_COMBINATIONS ** (1.0 / ladders)))


def _members(tree: Tree, shape: Shape, rungs: int) -> list[str]:
    """Texts of all members, whether the shape accepts them or not; nesting is as deep as the user's parentheses."""
    if isinstance(tree, Term):
        open_ended = _has_ladder(tree) and not tree.options
        return [f"{tree.name}:{r}" for r in _spread(_ladder(tree, shape), rungs)] if open_ended else [tree.spelling]
    if isinstance(tree, Product):
        return [f"{a} @ {b}" for a in _inner(tree.left, shape, rungs) for b in _inner(tree.right, shape, rungs)]
    found = [""]
    for part in tree.parts:
        found = [f"{a} + {b}" if a else b for a in found for b in _inner(part, shape, rungs)]
    return found


def _spread(ladder: Sequence[str], rungs: int) -> list[str]:
    """So many rungs in equal steps, the first and the last among them."""
    if len(ladder) <= rungs:
        return list(ladder)
    return [ladder[round(step * (len(ladder) - 1) / (rungs - 1))] for step in range(rungs)]


def _inner(tree: Tree, shape: Shape, rungs: int) -> list[str]:
    """In parentheses where precedence would read it otherwise."""
    return [_grouped(text, isinstance(tree, Sum)) for text in _members(tree, shape, rungs)]


def _grouped(text: str, needed: bool) -> str:
    return f"({text})" if needed else text


def _text(tree: Tree) -> str:
    return _rendered(tree, lambda term: term.name if _has_ladder(term) else term.spelling)


def _rendered(tree: Tree, spelled: Callable[[Term], str]) -> str:
    if isinstance(tree, Term):
        return spelled(tree)
    if isinstance(tree, Product):
        left, right = (_rendered(side, spelled) for side in (tree.left, tree.right))
        return f"{_grouped(left, isinstance(tree.left, Sum))} @ {_grouped(right, not isinstance(tree.right, Term))}"
    return " + ".join(_rendered(part, spelled) for part in tree.parts)
