"""Files: every write is atomic, every read of JSON is strict and bounded."""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from .errors import ConfigError, InstarError, ParseError

Json = dict[str, "Json"] | list["Json"] | str | int | float | bool | None
"""What a JSON document can hold."""

MAX_JSON_BYTES = 256 * 10**6
"""Plans and profiles of the largest models stay far below this; a bigger file is a mistake or hostile."""


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Generator[Path]:
    """Yields a temporary path beside ``path``; what the block writes there replaces ``path`` when it ends.

    For writers that want a path. The temporary name keeps the suffix of ``path``. If the block raises anything,
    ``KeyboardInterrupt`` included, the temporary file is removed and the old file stays whole.

    Raises:
        ConfigError: the folder does not exist, ``path`` is a folder, or it cannot be written, such as on a full disk.
    """
    final = check_writable(Path(path))
    temporary = final.with_name(f".{final.stem[:100]}.{secrets.token_hex(8)}.partial{final.suffix}")
    try:
        yield temporary
        flush(temporary)
        temporary.replace(final)
    except OSError as problem:
        reason = problem.strerror or type(problem).__name__
        raise ConfigError(
            f"{path}: expected a file that can be written, found: {reason}; nothing was changed"
        ) from problem
    finally:
        temporary.unlink(missing_ok=True)
    flush(final.parent)


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Generator[BinaryIO]:
    """Like :func:`atomic_path`, and opens the temporary file for binary writing.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with atomic_write(Path(folder) / "a.bin") as file:
    ...         _ = file.write(b"abc")
    ...     (Path(folder) / "a.bin").read_bytes()
    b'abc'
    """
    with atomic_path(path) as temporary, temporary.open("xb") as file:
        yield file


def atomic_write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes ``data`` to ``path`` atomically."""
    with atomic_write(path) as file:
        file.write(data)


def atomic_write_text(path: str | os.PathLike[str], text: str) -> None:
    r"""Writes ``text`` as UTF-8 with ``\n`` line ends to ``path`` atomically."""
    atomic_write_bytes(path, text.encode("utf-8"))


def atomic_write_json(path: str | os.PathLike[str], value: object) -> None:
    """Writes ``value`` as indented JSON, keys in the given order, to ``path`` atomically.

    Raises:
        ValueError: ``value`` holds NaN or an infinity, which JSON has no spelling for; nothing was written.
    """
    atomic_write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def make_folder(path: str | os.PathLike[str], where: str) -> Path:
    """Makes a folder with its parents where it does not exist.

    Args:
        path: of the folder.
        where: the option that names it, for the error.

    Raises:
        ConfigError: a file is in the way, or the folder cannot be made.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        taken = next(part for part in (folder, *folder.parents) if part.exists() and not part.is_dir())
        raise ConfigError(f"{where}: expected a folder, found the file '{taken}'; choose another one") from None
    except OSError as problem:
        reason = problem.strerror or type(problem).__name__
        raise ConfigError(
            f"{where}: expected a folder that can be made, found '{folder}': {reason}; choose another one"
        ) from problem
    return folder


def read_bytes(
    path: str | os.PathLike[str], *, max_bytes: int = MAX_JSON_BYTES, error: type[InstarError] = ParseError
) -> bytes:
    """The content of a regular file of at most ``max_bytes`` bytes.

    Raises:
        error: the file is missing, not a file, unreadable or too large.
    """
    path = Path(path)
    if not path.exists():
        raise error(f"{path}: expected a file, found nothing; check the path")
    if not path.is_file():
        raise error(f"{path}: expected a file, found {'a folder' if path.is_dir() else 'a special file'}")
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as problem:
        raise error(f"{path}: expected a readable file, found: {problem.strerror}") from problem
    if len(data) > max_bytes:
        raise error(
            f"{path}: expected at most {max_bytes / 1e6:g} MB, found more; this is not a file written by instar"
        )
    return data


def read_text(
    path: str | os.PathLike[str], *, max_bytes: int = MAX_JSON_BYTES, error: type[InstarError] = ParseError
) -> str:
    """The content of a UTF-8 file of at most ``max_bytes`` bytes, a byte-order mark removed.

    Raises:
        error: as :func:`read_bytes`, or the file is not UTF-8.
    """
    data = read_bytes(path, max_bytes=max_bytes, error=error)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        raise error(
            f"{path}: expected UTF-8 text, found the byte 0x{data[problem.start]:02x} at {problem.start}"
        ) from None


def read_json(
    path: str | os.PathLike[str], *, max_bytes: int = MAX_JSON_BYTES, error: type[InstarError] = ParseError
) -> Json:
    """Parses a JSON file strictly: UTF-8, no duplicate keys, no NaN, no infinities, bounded size and depth.

    Raises:
        error: the file is missing, too large, or not strict JSON; the message has the file, line and column.
    """
    return parse_json(read_text(path, max_bytes=max_bytes, error=error), str(path), error=error)


def parse_json(text: str, where: str, *, error: type[InstarError] = ParseError) -> Json:
    """Parses JSON text strictly; ``where`` names its origin in errors.

    Raises:
        error: the text is not strict JSON.
    """
    try:
        document = json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant, parse_float=_finite)
    except json.JSONDecodeError as problem:
        place = f"{where}:{problem.lineno}:{problem.colno}"
        raise error(f"{place}: expected JSON, found: {problem.msg}") from None
    except RecursionError:
        raise error(f"{where}: expected a JSON document, found lists or objects nested too deeply") from None
    except ValueError as problem:
        raise error(f"{where}: expected strict JSON, found {problem}") from None
    return cast(Json, document)


def _no_duplicates(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    result: dict[str, Json] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the key {key!r} twice in one object")
        result[key] = value
    return result


def _no_constant(name: str) -> float:
    raise ValueError(f"{name}, which is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text}, which does not fit a float")
    return value


def check_writable(path: Path) -> Path:
    """``path`` with links resolved, so that a write goes through a link instead of replacing it.

    Raises:
        ConfigError: ``path`` is a folder or no name of a file, or its folder does not exist or is read-only.
    """
    try:
        final = path.resolve()
        folder = final.is_dir()
    except (OSError, ValueError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else str(problem)
        raise ConfigError(f"{str(path)!r}: expected the name of a file, found: {reason}; choose another one") from None
    if folder:
        raise ConfigError(f"{path}: expected a file name to write to, found a folder")
    taken = next((part for part in final.parents if part.exists()), None)
    if taken is not None and not taken.is_dir():
        raise ConfigError(f"{path}: expected a folder to write to, found the file '{taken}'; choose another one")
    if not final.parent.is_dir():
        raise ConfigError(f"{path}: expected the folder {path.parent} to exist, found nothing; create it first")
    if not os.access(final.parent, os.W_OK):
        raise ConfigError(f"{path}: expected a folder that can be written to, found {path.parent}; choose another one")
    return final


def flush(path: Path) -> None:
    """Forces a file or folder to disk; folders cannot be opened on every system and are then left alone."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
