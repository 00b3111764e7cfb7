"""The tables of a program as a C header: constant arrays, for firmware that walks through the commands."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from .tables import CommandRow, Tables

T = TypeVar("T")

PURPOSES = ("compute", "input", "spill_read", "weight", "weight_reread", "spill_write", "output")
KINDS = ("load", "store", "compute")

_TYPES = """\
typedef struct {
  uint64_t on_chip, off_chip; /* first block in the scratchpad and in the off-chip image */
  uint32_t blocks, block_bytes, on_stride, off_stride;
} instar_move;

typedef struct {
  uint64_t first, stop; /* addresses in the scratchpad, stop excluded */
} instar_interval;

typedef struct {
  uint8_t kind, purpose; /* INSTAR_LOAD ..., INSTAR_FOR_INPUT ... */
  uint16_t part, parts;  /* piece of the weights that it computes with */
  uint32_t range, subject, first, rows;
  uint32_t band, window_first, window_stop; /* columns or channels where its range is cut in bands; 0, 0 for all */
  uint64_t bytes; /* charged for a move, padding included */
  uint32_t moves, move_count, reads, read_count, writes, write_count, needs, need_count;
} instar_command;

typedef struct {
  uint8_t axis; /* along which its bands are cut: 0 not at all, 1 columns, 2 channels */
  uint32_t stripe_rows, bands;
  uint32_t windows, window_count; /* of all bands */
} instar_range;

typedef struct {
  uint32_t band, tensor, first, stop; /* columns or channels that the band needs or makes */
} instar_window;

typedef struct {
  const char *name;
  int64_t weights; /* address in the off-chip image, -1 without */
  uint64_t weight_bytes, macs;
  uint32_t output;
} instar_operator;

typedef struct {
  const char *name;
  int64_t off_chip; /* address in the off-chip image, -1 where it is never there */
  uint64_t size_bytes, row_bytes, position_bytes;
  uint8_t role; /* 0 input, 1 activation, 2 output */
} instar_tensor;
"""


def header(tables: Tables) -> str:
    """The header as text. Names of the model appear in strings alone, escaped."""
    commands = tables.commands
    moves = [move for command in commands for move in command.moves]
    intervals = [interval for command in commands for interval in (*command.reads, *command.writes)]
    needs = [need for command in commands for need in command.needs]
    guard = "INSTAR_PROGRAM_" + (re.sub(r"\W", "_", tables.model, flags=re.ASCII).upper() or "MODEL")
    return "\n".join(
        [
            f"/* {_comment(tables)} */",
            f"#ifndef {guard}_H",
            f"#define {guard}_H",
            "#include <stdint.h>",
            "",
            f"#define INSTAR_SCRATCHPAD_BYTES {tables.scratchpad_bytes}u",
            f"#define INSTAR_OFF_CHIP_BYTES {tables.off_chip_bytes}u",
            f"#define INSTAR_COMMANDS {len(commands)}u",
            f"#define INSTAR_RANGES {len(tables.ranges)}u",
            f"#define INSTAR_OPERATORS {len(tables.operators)}u",
            f"#define INSTAR_TENSORS {len(tables.tensors)}u",
            "enum { " + ", ".join(f"INSTAR_{name.upper()}" for name in KINDS) + " };",
            "enum { " + ", ".join(f"INSTAR_FOR_{name.upper()}" for name in PURPOSES) + ", INSTAR_PURPOSES };",
            "",
            _TYPES,
            _array("instar_move", "instar_moves", moves, lambda row: ", ".join(map(str, row))),
            _array("instar_interval", "instar_intervals", intervals, lambda row: f"{row[0]}, {row[1]}"),
            _array("uint32_t", "instar_needs", needs, str, braces=False),
            _array("instar_range", "instar_ranges", list(_ranges(tables)), str),
            _array("instar_window", "instar_windows", list(_windows(tables)), str),
            _array("instar_command", "instar_commands", list(_commands(commands)), str),
            _array(
                "instar_operator", "instar_operators", tables.operators,
                lambda o: f"{_string(o.name)}, {o.weights}, {o.weight_bytes}u, {o.macs}u, {o.output}",
            ),
            _array(
                "instar_tensor", "instar_tensors", tables.tensors,
                lambda t: f"{_string(t.name)}, {t.off_chip}, {t.size_bytes}u, {t.row_bytes}u, {t.position_bytes}u, "
                f"{('input', 'activation', 'output').index(t.role)}",
            ),
            "#endif",
            "",
        ]
    )  # fmt: skip


def _comment(tables: Tables) -> str:
    text = f"{tables.format}: {tables.model} on {tables.machine}, {tables.scratchpad_bytes} bytes of scratchpad"
    return text.replace("*/", "* /")


def _ranges(tables: Tables) -> Iterable[str]:
    first = 0
    for row in tables.ranges:
        count = sum(len(band) for band in row.bands)
        axis = ("", "columns", "channels").index(row.axis)
        yield f"{axis}, {row.stripe_rows}, {max(len(row.bands), 1)}, {first}, {count}"
        first += count


def _windows(tables: Tables) -> Iterable[str]:
    for row in tables.ranges:
        for number, band in enumerate(row.bands):
            for window in band:
                yield ", ".join(map(str, (number, *window)))


def _commands(commands: Sequence[CommandRow]) -> Iterable[str]:
    move = interval = need = 0
    for command in commands:
        reads, writes = len(command.reads), len(command.writes)
        numbers = (
            KINDS.index(command.kind), PURPOSES.index(command.purpose), *command.part, command.range, command.subject,
            command.first, command.rows, command.band, *command.window, command.bytes, move, len(command.moves),
            interval, reads, interval + reads, writes, need, len(command.needs),
        )  # fmt: skip
        yield ", ".join(map(str, numbers))
        move += len(command.moves)
        interval += reads + writes
        need += len(command.needs)


def _array(kind: str, name: str, rows: Sequence[T], text: Callable[[T], str], *, braces: bool = True) -> str:
    """An array in C; one that would be empty has an element that nobody reads."""
    lines = [f"  {{{text(row)}}}," if braces else f"  {text(row)}," for row in rows] or ["  {0}," if braces else "  0,"]
    return "\n".join([f"static const {kind} {name}[] = {{", *lines, "};", ""])


def _string(text: str) -> str:
    escaped = "".join(
        c if c.isascii() and c.isprintable() and c not in '"\\?' else "".join(f"\\{b:03o}" for b in c.encode())
        for c in text
    )
    return f'"{escaped}"'
