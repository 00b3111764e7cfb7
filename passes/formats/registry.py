"""Every format by name, and :func:`format`, which turns a text into one."""

from __future__ import annotations

from typing import Protocol

from ...ir.plugins import Registry, given_objects
from .base import Format
from .block_float import NAMES as BLOCK_FLOATS
from .block_float import BlockFloat
from .codebook import Codebook
from .floating import FloatFormat
from .grammar import Product, Sum, Term, Tree, parse_tree
from .integer import IntFormat
from .kronecker import Kronecker
from .low_rank import LowRank
from .microscaling import ELEMENTS, Microscaling
from .minifloat import NAMES, Minifloat
from .monarch import Monarch
from .normal_float import NormalFloat
from .power import Power
from .sparse import Sparse
from .sums import SumFormat
from .tucker import Tucker


class Primitive(Protocol):
    """A format class that parses its own term."""

    @property
    def options(self) -> str:
        """What may follow the name, in a reader's words."""
        ...

    def example(self, name: str) -> str:
        """A spelling that begins with a name of this class."""
        ...

    def of_term(self, term: Term) -> Format:
        """The format that the term describes."""
        ...


FORMATS: Registry[Primitive] = Registry(
    "format",
    {
        "codebook": Codebook,
        "fp32": FloatFormat,
        "fp16": FloatFormat,
        "int2": IntFormat,
        "int3": IntFormat,
        "int4": IntFormat,
        "int5": IntFormat,
        "int6": IntFormat,
        "int7": IntFormat,
        "int8": IntFormat,
        "kron": Kronecker,
        "lowrank": LowRank,
        "monarch": Monarch,
        "power": Power,
        "sparse": Sparse,
        "tucker": Tucker,
        **dict.fromkeys(("nf2", "nf3", "nf4"), NormalFloat),
        **dict.fromkeys(NAMES, Minifloat),
        **dict.fromkeys(ELEMENTS, Microscaling),
        **dict.fromkeys(BLOCK_FLOATS, BlockFloat),
    },
    "a class of formats: a subclass of instar.passes.formats.Format with of_term(term)",
    lambda found: isinstance(found, type) and issubclass(found, Format) and hasattr(found, "of_term"),
)
"""Name -> class of formats; more come from installed packages (group ``instar.formats``)."""


def format(text: str) -> Format:  # public as instar.format, which shadows nothing there
    """The format that ``text`` spells: ``fp16``, ``int8:channel``, ``int4:g64:asym``, or a sum such as ``a + b``.

    >>> format("int4:g128").bits_per_weight((256, 1024))
    4.125

    Raises:
        ParseError: with the position, what was expected, what was found and the nearest name.
        FormatError: if a composition has no meaning.
    """
    return _compile(parse_tree(text))


def names_in(text: str) -> tuple[str, ...]:
    """The names of the formats in a spelling, as the registry knows them.

    >>> names_in("int8:channel + int4:g64")
    ('int8', 'int4')
    """
    pending, found = [parse_tree(text)], dict[str, None]()
    while pending:
        tree = pending.pop(0)
        if isinstance(tree, Term):
            found[tree.spelling if tree.spelling in given_objects(FORMATS.kind) else tree.name] = None
        else:
            pending += tree.parts if isinstance(tree, Sum) else (tree.left, tree.right)
    return tuple(found)


def _compile(tree: Tree) -> Format:
    if isinstance(tree, Sum):
        return SumFormat(tuple(_compile(part) for part in tree.parts))
    if isinstance(tree, Product):
        return _compile(tree.right).stored_as(_compile(tree.left))
    handed = given_objects(FORMATS.kind).get(tree.spelling)
    if isinstance(handed, Format):
        return handed
    if tree.name not in FORMATS:
        raise tree.head.error("a format", FORMATS)
    return FORMATS[tree.name].of_term(tree)
