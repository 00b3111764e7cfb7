"""The grammar of formats: text to a tree of terms, sums and products, with errors that point at the place.

    sum     = product { "+" product }
    product = atom { "@" atom }
    atom    = "(" sum ")" | name { ":" option }

Names and options are letters, digits, ``_``, ``.`` and ``-``. Operators associate to the left; ``@`` binds tighter.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...ir.errors import ParseError, nearest, text_of

DIGITS = 18
"""Of a number in a spelling: sizes fit 64 bits."""

DEPTH = 64
"""Of parentheses."""

_LONG = re.compile(rf"\d{{{DIGITS + 1}}}")
_TOKEN = re.compile(r"\s*(?:(?P<word>[A-Za-z0-9_.\-]+)|(?P<sign>[:+@()]))")


@dataclass(frozen=True)
class Word:
    """A name or an option, and where it stands in the text it came from."""

    text: str
    position: int
    source: str

    def error(self, expected: str, known: Iterable[str], examples: Sequence[str] = ()) -> ParseError:
        """The error of finding this word where ``expected`` was expected.

        Args:
            expected: in a reader's words.
            known: all words that may stand here; the nearest one is suggested.
            examples: some of those that may, where there are too many for a list.
        """
        found = repr(self.text) if self.text else "the end"
        hint = nearest(self.text, known) if self.text else ""
        hint += f"; for example {' or '.join(map(repr, examples))}" if examples else ""
        return ParseError(
            f"format {self.source!r}, position {self.position + 1}: expected {expected}, got {found}{hint}"
        )


@dataclass(frozen=True)
class Term:
    """``name:option:option``."""

    head: Word
    options: tuple[Word, ...]

    @property
    def name(self) -> str:
        """The name of the format."""
        return self.head.text

    @property
    def spelling(self) -> str:
        """The whole term without spaces."""
        return ":".join(word.text for word in (self.head, *self.options))

    def option(self, index: int, expected: str) -> Word:
        """Option ``index``.

        Raises:
            ParseError: saying what was ``expected``, if there are fewer options.
        """
        if index < len(self.options):
            return self.options[index]
        last = self.options[-1] if self.options else self.head
        raise Word("", last.position + len(last.text), last.source).error(f"':' and {expected}", ())


@dataclass(frozen=True)
class Sum:
    """``left + right``."""

    parts: tuple[Tree, ...]


@dataclass(frozen=True)
class Product:
    """``left @ right``: the factors of ``right`` are stored as ``left``."""

    left: Tree
    right: Tree


Tree = Term | Sum | Product


def parse_tree(text: str) -> Tree:
    """The tree of a format's text.

    Raises:
        ParseError: with the position, what was expected there and what was found.
    """
    text = text_of("format", "int4:g64", text)
    parser = _Parser(text, _tokens(text))
    tree = parser.sum()
    parser.expect("", "':', '+', '@' or the end")
    return tree


def _tokens(text: str) -> tuple[Word, ...]:
    words: list[Word] = []
    position = 0
    end = len(text.rstrip())
    while position < end:
        match = _TOKEN.match(text, position)
        if match is None:
            start = position + len(text[position:]) - len(text[position:].lstrip())
            raise Word(text[start], start, text).error("a format name, an option, ':', '+', '@' or a parenthesis", ())
        kind = match.lastgroup or ""
        word = Word(match.group(kind), match.start(kind), text)
        if _LONG.search(word.text):
            raise word.error(f"numbers of at most {DIGITS} digits", ())
        words.append(word)
        position = match.end()
    words.append(Word("", end, text))
    return tuple(words)


class _Parser:
    """Recursive descent over the words; nesting is as deep as the user's parentheses, at most :data:`DEPTH`."""

    def __init__(self, text: str, words: tuple[Word, ...]) -> None:
        self._text = text
        self._words = words
        self._next = 0
        self._depth = 0

    def accept(self, sign: str) -> bool:
        if self._words[self._next].text != sign:
            return False
        self._next += bool(sign)
        return True

    def expect(self, sign: str, expected: str) -> None:
        if not self.accept(sign):
            raise self._words[self._next].error(expected, ())

    def word(self, expected: str) -> Word:
        word = self._words[self._next]
        if not word.text or word.text in ":+@()":
            raise word.error(expected, ())
        self._next += 1
        return word

    def sum(self) -> Tree:
        parts = [self.product()]
        while self.accept("+"):
            parts.append(self.product())
        return parts[0] if len(parts) == 1 else Sum(tuple(parts))

    def product(self) -> Tree:
        tree = self.atom()
        while self.accept("@"):
            tree = Product(tree, self.atom())
        return tree

    def atom(self) -> Tree:
        opened = self._words[self._next]
        if self.accept("("):
            self._depth += 1
            if self._depth > DEPTH:
                raise opened.error(f"at most {DEPTH} parentheses in each other", ())
            tree = self.sum()
            self.expect(")", "')'")
            self._depth -= 1
            return tree
        head = self.word("a format such as 'int4:g64'")
        options: list[Word] = []
        while self.accept(":"):
            options.append(self.word("an option"))
        return Term(head, tuple(options))
