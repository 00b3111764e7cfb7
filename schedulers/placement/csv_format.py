"""Placement problems as CSV in the columns of MiniMalloc (google/minimalloc): ``id,lower,upper,size``.

Two optional columns: ``alignment`` and ``offset`` (where the buffer must lie; empty: anywhere). Reading is strict,
because a row that is skipped in silence is a buffer that overwrites another one.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from ...ir.errors import ScheduleError, nearest
from .problem import Buffer, PlacementProblem

REQUIRED = ("id", "lower", "upper", "size")
OPTIONAL = ("alignment", "offset")


def load_csv(text: str, capacity_bytes: int | None = None, where: str = "buffers") -> PlacementProblem:
    """The problem in a CSV text.

    Args:
        text: with a header line; columns in any order.
        capacity_bytes: of the memory.
        where: name of the file, for errors.

    Raises:
        ScheduleError: a column is unknown, missing or doubled, a line is blank or has another number of fields, or a
            field is not an integer of the right range.
    """
    lines = text.splitlines()
    if not lines:
        raise ScheduleError(f"{where}: expected the header {','.join(REQUIRED)}, found an empty file; add it")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            raise ScheduleError(f"{where}:{number}: expected a buffer, found a blank line; remove it")
    try:
        rows = list(csv.reader(lines, strict=True))
    except csv.Error as problem:
        raise ScheduleError(f"{where}: expected comma-separated values, found: {problem}; correct it") from None
    header = [name.strip() for name in rows[0]]
    _check_header(header, where)
    buffers = tuple(_buffer(header, row, f"{where}:{number}") for number, row in enumerate(rows[1:], 2))
    try:
        return PlacementProblem(buffers, capacity_bytes)
    except ScheduleError as problem:
        raise ScheduleError(f"{where}: {problem}") from None


def dump_csv(problem: PlacementProblem) -> str:
    """The buffers as CSV text; optional columns only where a buffer has such a value. Holds no capacity."""
    aligned = any(buffer.alignment_bytes != 1 for buffer in problem.buffers)
    fixed = any(buffer.offset_bytes is not None for buffer in problem.buffers)
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*REQUIRED, *(["alignment"] if aligned else []), *(["offset"] if fixed else [])])
    for buffer in problem.buffers:
        offset = "" if buffer.offset_bytes is None else buffer.offset_bytes
        row = [buffer.name, buffer.lower, buffer.upper, buffer.size_bytes]
        writer.writerow([*row, *([buffer.alignment_bytes] if aligned else []), *([offset] if fixed else [])])
    return stream.getvalue()


def _check_header(header: Sequence[str], where: str) -> None:
    known = [*REQUIRED, *OPTIONAL]
    for name in header:
        if name not in known:
            raise ScheduleError(f"{where}:1: expected known columns, found {name!r}{nearest(name, known)}")
        if header.count(name) > 1:
            raise ScheduleError(f"{where}:1: expected each column once, found {name!r} twice; remove one")
    for name in REQUIRED:
        if name not in header:
            raise ScheduleError(f"{where}:1: expected the column {name!r}, found {', '.join(header)}; add it")


def _buffer(header: Sequence[str], row: Sequence[str], where: str) -> Buffer:
    if len(row) != len(header):
        raise ScheduleError(f"{where}: expected {len(header)} fields, found {len(row)}; correct the line")
    field = dict(zip(header, (text.strip() for text in row), strict=True))
    if not field["id"]:
        raise ScheduleError(f"{where}: expected an id, found none; give the buffer a name")
    offset = field.get("offset", "")
    try:
        return Buffer(
            field["id"],
            _integer(field["lower"], "lower"),
            _integer(field["upper"], "upper"),
            _integer(field["size"], "size"),
            _integer(field.get("alignment") or "1", "alignment"),
            _integer(offset, "offset") if offset else None,
        )
    except ScheduleError as problem:
        raise ScheduleError(f"{where}: {problem}") from None


def _integer(text: str, column: str) -> int:
    """Plain decimal digits, at most 4000 of them: no underscores, no other scripts, nothing that takes long to read."""
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) < 4000):
        shown = text if len(text) <= 40 else text[:37] + "..."
        raise ScheduleError(f"{column}: expected an integer, found {shown!r}; correct it")
    return int(text)
