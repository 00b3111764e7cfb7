"""How columns share a scale: ``channel`` or ``g<group>`` in a spelling, and whether float16 can hold the scales."""

from __future__ import annotations

import math

from torch import Tensor

from ...ir.errors import FormatError
from .affine import HALF_MAX, HALF_STEP
from .base import Shape
from .grammar import Term

GROUPS = (16, 32, 64, 128, 256)


def one_of(values: tuple[int, ...]) -> str:
    """``16, 32 or 64``."""
    return ", ".join(str(v) for v in values[:-1]) + f" or {values[-1]}"


def parse_group(term: Term) -> int | None:
    """The columns that share a scale by the first option of a term; ``None`` for ``channel``.

    Raises:
        ParseError: if the option is missing or another.
    """
    expected = f"'channel' or 'g<group>' with a group of {one_of(GROUPS)}"
    where = term.option(0, expected)
    if where.text == "channel":
        return None
    digits = where.text.removeprefix("g")
    if digits == where.text or not digits.isdecimal() or int(digits) not in GROUPS:
        raise where.error(expected, ("channel", *(f"g{size}" for size in GROUPS)))
    return int(digits)


def parse_flag(term: Term, flag: str) -> bool:
    """Whether the second option of a term is ``flag``.

    Raises:
        ParseError: if there is another option, or more of them.
    """
    for option in term.options[1:]:
        if option.text != flag or option is not term.options[1]:
            raise option.error(f"'{flag}' or the end of the format", (flag,))
    return len(term.options) == 2


def spelled_group(group: int | None) -> str:
    """``channel`` or ``g64``."""
    return "channel" if group is None else f"g{group}"


def check_group(where: str, group: int | None) -> None:
    """Raise unless the group is one that spellings can name.

    Raises:
        FormatError: naming the sizes there are.
    """
    if group is not None and group not in GROUPS:
        raise FormatError(f"{where}: expected a group of {one_of(GROUPS)}, got {group}; choose one of these")


def layout_of(shape: Shape, group: int | None) -> tuple[int, int, int]:
    """``(rows, columns, groups in a row)`` of a weight seen as a matrix."""
    columns = math.prod(shape[1:])
    return shape[0], columns, 1 if group is None else -(-columns // group)


def check_half(where: str, steps: Tensor, matrix: Tensor) -> None:
    """Raise unless float16 can hold the scales of a weight.

    Args:
        where: spelling of the format.
        steps: unrounded scales ``[rows, groups]``.
        matrix: ``[rows, columns]``.

    Raises:
        FormatError: if a scale is above the float16 range, or every weight is below it.
    """
    if float(steps.max()) > HALF_MAX:
        row, group = divmod(int(steps.argmax()), steps.shape[1])
        raise FormatError(
            f"{where}: expected scales that float16 can hold, at most {HALF_MAX:g}, got "
            f"{float(steps.max()):.3g} at row {row}, group {group}; rescale the weight or keep it in fp32"
        )
    largest = matrix.abs().amax(dim=0)
    if 0.0 < float(largest.max()) < HALF_STEP:
        column = int(largest.argmax())
        row = int(matrix[:, column].abs().argmax())
        raise FormatError(
            f"{where}: expected weights that float16 scales can express, {HALF_STEP:.3g} or more, got at "
            f"most {float(largest.max()):.3g} at row {row}, column {column}; rescale the weight or keep it in fp32"
        )
