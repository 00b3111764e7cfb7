"""Machine descriptions from TOML: the shipped ones by name, a user's own by path, single parameters given in braces."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import cast

from .errors import ConfigError, nearest
from .files import read_text
from .machine import UNLIMITED, Dma, Machine, Memory

MACHINES = Path(__file__).parents[1] / "machines"
TOP = ("description", "clock_hz", "channel_brick", "macs_per_cycle", "mac_pj", "dma", "fast", "slow", "sources")
REQUIRED = ("clock_hz", "macs_per_cycle", "dma", "fast", "slow")
Table = dict[str, object]


def machine_names() -> list[str]:
    """Names of the machines that are shipped.

    >>> machine_names()
    ['cortex-m7-rt1170', 'ethos-u55-flash', 'ethos-u65-mid', 'gap9-l1']
    """
    return sorted(path.stem for path in MACHINES.glob("*.toml"))


def machine(spelling: str) -> Machine:
    """The machine of a spelling: ``name`` or ``path/to/file.toml``, with parameters that are to differ in braces.

    >>> machine("ethos-u55-flash{sram.size_bytes=262144}").budget_bytes
    262144

    Raises:
        ConfigError: the machine does not exist, its file is wrong, or a parameter does not exist or has a wrong value.
    """
    match = re.fullmatch(r"([^{}]+)(?:\{([^{}]*)\})?", spelling.strip())
    if match is None:
        raise ConfigError(f"machine: expected name{{parameter=value,...}}, found {spelling!r}; correct it")
    given = _given(match[2] or "", spelling)
    if match[1].endswith(".toml"):
        path = Path(match[1])
        return _read(path.stem, read_text(path, error=ConfigError), given)
    name, known = match[1], machine_names()
    if name not in known:
        raise ConfigError(f"machine: expected a shipped machine or a .toml file, found {name!r}{nearest(name, known)}")
    return _read(name, read_text(MACHINES / f"{name}.toml", error=ConfigError), given)


def _given(text: str, spelling: str) -> dict[str, object]:
    given: dict[str, object] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = item.partition("=")
        try:
            given[name.strip()] = tomllib.loads(f"value = {value.strip()}")["value"]
        except tomllib.TOMLDecodeError:
            equals = ""
        if not equals:
            raise ConfigError(f"machine {spelling!r}: expected parameter=value, found {item!r}; correct it")
    return given


def _read(name: str, text: str, given: Mapping[str, object]) -> Machine:
    where = f"machine {name!r}"
    try:
        table: Table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as problem:
        raise ConfigError(f"{where}: expected TOML, found {problem}; correct the file") from None
    _check_keys(table, where, TOP, REQUIRED)
    memories = [_table(item, f"{where}: fast") for item in _list(table["fast"], f"{where}: fast")]
    slow = _table(table["slow"], f"{where}: slow")
    for parameter, value in given.items():
        _put(table, [*memories, slow], parameter, value, where)
    return _machine(name, table, memories, slow, where)


def _machine(name: str, table: Table, memories: list[Table], slow: Table, where: str) -> Machine:
    if not 1 <= len(memories) <= 3:
        raise ConfigError(f"{where}: expected one to three fast memories, found {len(memories)}; correct the file")
    fast = tuple(_memory(item, where) for item in memories)
    behind = _memory(slow, where)
    names = [memory.name for memory in (*fast, behind)]
    if len(set(names)) < len(names):
        raise ConfigError(f"{where}: expected memories of different names, found {', '.join(names)}; rename one")
    return Machine(
        name=name,
        clock_hz=_positive(table["clock_hz"], f"{where}: clock_hz"),
        fast=fast,
        slow=behind,
        dma=_dma(_table(table["dma"], f"{where}: dma"), where),
        macs_per_cycle=_rates(table["macs_per_cycle"], f"{where}: macs_per_cycle"),
        description=_text(table.get("description", ""), f"{where}: description"),
        channel_brick=_given_count(table, "channel_brick", where, 1, least=1),
        mac_pj=_rates(table.get("mac_pj", {}), f"{where}: mac_pj"),
        sources={
            key: _text(text, f"{where}: sources.{key}")
            for key, text in _table(table.get("sources", {}), f"{where}: sources").items()
        },
    )


def _memory(table: Table, where: str) -> Memory:
    required = [item.name for item in fields(Memory) if item.default is MISSING]
    _check_keys(table, f"{where}: memory", [item.name for item in fields(Memory)], required)
    name = _text(table["name"], f"{where}: name of a memory")
    inside = f"{where}: {name}"
    return Memory(
        name,
        size_bytes=_count(table, "size_bytes", inside),
        read_bytes_per_cycle=_rate(table, "read_bytes_per_cycle", inside),
        write_bytes_per_cycle=_rate(table, "write_bytes_per_cycle", inside),
        read_latency_cycles=_count(table, "read_latency_cycles", inside),
        write_latency_cycles=_count(table, "write_latency_cycles", inside),
        reserved_bytes=_given_count(table, "reserved_bytes", inside, 0),
        burst_bytes=_given_count(table, "burst_bytes", inside, 0),
        reads_in_flight=_given_count(table, "reads_in_flight", inside, 0),
        writes_in_flight=_given_count(table, "writes_in_flight", inside, 0),
        banks=_given_count(table, "banks", inside, 1, least=1),
        alignment_bytes=_given_count(table, "alignment_bytes", inside, 1, least=1),
        read_pj_per_byte=_rate(table, "read_pj_per_byte", inside),
        write_pj_per_byte=_rate(table, "write_pj_per_byte", inside),
    )


def _dma(table: Table, where: str) -> Dma:
    inside = f"{where}: dma"
    _check_keys(table, inside, [item.name for item in fields(Dma)])
    overlaps = table.get("overlaps_compute", True)
    if not isinstance(overlaps, bool):
        raise ConfigError(f"{inside}.overlaps_compute: expected true or false, found {overlaps!r}; correct it")
    return Dma(
        setup_cycles=_count(table, "setup_cycles", inside),
        transfers_in_flight=_given_count(table, "transfers_in_flight", inside, 1, least=1),
        max_transfer_bytes=_given_count(table, "max_transfer_bytes", inside, 0),
        overlaps_compute=overlaps,
    )


def _put(table: Table, memories: list[Table], parameter: str, value: object, where: str) -> None:
    """Sets ``memory.key``, ``dma.key``, ``macs_per_cycle.dtype`` or a parameter without a dot."""
    owner, dot, key = parameter.partition(".")
    if not dot:
        if parameter not in ("clock_hz", "channel_brick"):
            raise ConfigError(f"{where}: expected a parameter, found {parameter!r}; write it as memory.parameter")
        table[parameter] = value
        return
    owners = {str(memory.get("name")): memory for memory in memories}
    owners |= {key: _table(table.get(key, {}), f"{where}: {key}") for key in ("dma", "macs_per_cycle", "mac_pj")}
    if owner not in owners:
        raise ConfigError(f"{where}: expected a parameter of {', '.join(owners)}, found {parameter!r}; correct it")
    owners[owner][key] = value
    if owner == "mac_pj":
        table[owner] = owners[owner]


def _count(table: Table, key: str, where: str) -> int | None:
    """An integer, ``None`` if it is ``"unknown"`` or missing; a size may be ``"unlimited"``."""
    value = table.get(key, "unknown")
    if value == "unknown":
        return None
    if value == "unlimited" and key == "size_bytes":
        return UNLIMITED
    if type(value) is not int or value < 0:
        raise ConfigError(f"{where}.{key}: expected an integer of at least 0 or 'unknown', found {value!r}; correct it")
    return value


def _given_count(table: Table, key: str, where: str, default: int, least: int = 0) -> int:
    value = table.get(key, default)
    if type(value) is not int or value < least:
        raise ConfigError(f"{where}.{key}: expected an integer of at least {least}, found {value!r}; correct it")
    return value


def _rate(table: Table, key: str, where: str) -> float | None:
    value = table.get(key, "unknown")
    if value == "unknown":
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ConfigError(f"{where}.{key}: expected a number of at least 0 or 'unknown', found {value!r}; correct it")
    return value


def _rates(value: object, where: str) -> dict[str, float]:
    return {key: _positive(rate, f"{where}.{key}") for key, rate in _table(value, where).items()}


def _positive(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise ConfigError(f"{where}: expected a number above 0, found {value!r}; correct it")
    return value


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{where}: expected text, found {value!r}; correct it")
    return value


def _table(value: object, where: str) -> Table:
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: expected a table, found {value!r}; correct the file")
    return cast(Table, value)


def _list(value: object, where: str) -> list[object]:
    if not isinstance(value, list):
        raise ConfigError(f"{where}: expected tables, found {value!r}; write [[fast]]")
    return cast("list[object]", value)


def _check_keys(table: Table, where: str, known: Sequence[str], required: Sequence[str] = ()) -> None:
    for key in table:
        if key not in known:
            raise ConfigError(f"{where}: expected known keys, found {key!r}{nearest(key, known)}")
    for key in required:
        if key not in table:
            raise ConfigError(f"{where}: expected the key {key!r}, found {', '.join(table) or 'none'}; add it")
