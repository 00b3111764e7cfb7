"""Numbers as a person reads them. Every function takes ``None`` for a value that is missing and gives a dash."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

MISSING = "-"
_BYTES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
_SECONDS = ((60.0, "min", 1 / 60), (1.0, "s", 1.0), (1e-3, "ms", 1e3), (0.0, "µs", 1e6))
_COUNTS = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"))


def figures(value: float, digits: int = 3) -> str:
    """A number rounded to significant digits, written without an exponent between 0.001 and a million.

    >>> figures(12.0), figures(0.03456), figures(1234.5), figures(0.00001234)
    ('12.0', '0.0346', '1,234', '1.23e-05')
    """
    if not math.isfinite(value):
        return "∞" if value > 0 else "-∞" if value < 0 else MISSING
    if value == 0:
        return "0"
    rounded = float(f"{value:.{digits - 1}e}")
    exponent = math.floor(math.log10(abs(rounded)))
    if -4 < exponent < 6:
        return f"{value if exponent >= digits else rounded:,.{max(digits - 1 - exponent, 0)}f}"
    return f"{value:.{digits - 1}e}"


def size(nbytes: float | None) -> str:
    """Bytes; a MB is 10^6 bytes.

    >>> size(12_000_000), size(999_999), size(512), size(None)
    ('12.0 MB', '1.00 MB', '512 B', '-')
    """
    if nbytes is None:
        return MISSING
    for unit, name in _BYTES:
        if abs(nbytes) >= 0.9995 * unit:
            return f"{figures(nbytes / unit)} {name}"
    return f"{nbytes:.0f} B"


def milliseconds(value: float | None) -> str:
    """A latency.

    >>> milliseconds(18.237), milliseconds(None)
    ('18.2 ms', '-')
    """
    return MISSING if value is None else f"{figures(value)} ms"


def seconds(value: float | None) -> str:
    """A time on the wall.

    >>> seconds(95.0), seconds(3.21), seconds(0.0042)
    ('1.58 min', '3.21 s', '4.20 ms')
    """
    if value is None:
        return MISSING
    scale = next(entry for entry in _SECONDS if abs(value) >= entry[0])
    return f"{figures(value * scale[2])} {scale[1]}"


def count(value: float | None) -> str:
    """A number of things, shortened from a million on.

    >>> count(22_713_216), count(1234)
    ('22.7 M', '1,234')
    """
    if value is None:
        return MISSING
    for unit, name in _COUNTS:
        if abs(value) >= 0.9995 * unit:
            return f"{figures(value / unit)} {name}"
    return f"{value:,.0f}"


def percent(share: float | None) -> str:
    """A share of one.

    >>> percent(0.1327), percent(1.0), percent(0.00004), percent(0)
    ('13.3 %', '100 %', '< 0.01 %', '0 %')
    """
    if share is None:
        return MISSING
    if 0 < abs(share) < 0.0001:
        return "< 0.01 %"
    return f"{figures(share * 100)} %"


def loss(value: float | None) -> str:
    """A predicted or measured loss."""
    return MISSING if value is None else figures(value)


def decibels(value: float | None) -> str:
    """A ratio in decibels."""
    return MISSING if value is None else f"{value:.1f} dB"


def plural(number: int, noun: str) -> str:
    """A number with its noun.

    >>> plural(1, "layer"), plural(3, "layer"), plural(2, "batch")
    ('1 layer', '3 layers', '2 batches')
    """
    ending = "" if number == 1 else "es" if noun.endswith(("s", "ch")) else "s"
    return f"{number:,} {noun}{ending}"


def listing(items: Sequence[str]) -> str:
    """Items as a clause.

    >>> listing(["a", "b", "c"])
    'a, b and c'
    """
    return " and ".join(part for part in (", ".join(items[:-1]), items[-1]) if part) if items else ""


def shorten(name: str, width: int = 40) -> str:
    """A dotted name with its first parts abbreviated until it fits; numbers and the last part stay whole if possible.

    >>> shorten("encoder.layers.11.attention.self.query", 28)
    'e.l.11.attention.self.query'
    >>> shorten("a_single_word_that_is_too_long", 12)
    '…is_too_long'
    """
    return shorten_all([name], width)[0]


def shorten_all(names: Sequence[str], width: int = 40) -> list[str]:
    """Names abbreviated as :func:`shorten` does, all to the same depth, so that they still read alike.

    >>> shorten_all(["layers.0.mlp.up", "layers.0.attention.query"], 20)
    ['l.0.mlp.up', 'l.0.attention.query']
    """
    split = [name.split(".") for name in names]
    depth = 0
    while depth < max(map(len, split), default=0) and any(len(".".join(parts)) > width for parts in split):
        for parts in split:
            if depth < len(parts) - 1 and not parts[depth].isdecimal():
                parts[depth] = parts[depth][:1]
        depth += 1
    short = [".".join(parts) for parts in split]
    return [text if len(text) <= width else f"…{text[len(text) - width + 1 :]}" for text in short]


def grouped(refusals: Iterable[str]) -> tuple[str, ...]:
    """Refusals of the form ``what: reason`` with every reason once; one that kernels share names all of them.

    >>> grouped(["a: kernel k: no", "a: kernel l: no", "b: kernel k: no", "b: kernel l: no", "c: too wide"])
    ('a, b: kernels k, l: no', 'c: too wide')
    """
    kernels: dict[tuple[str, str], list[str]] = {}
    for refusal in dict.fromkeys(refusals):
        what, _, reason = refusal.partition(": ")
        kernel, _, why = reason.partition(": ") if reason.startswith("kernel ") else ("", "", "")
        found = kernels.setdefault((what, why or reason), [])
        found += [kernel.removeprefix("kernel ")] if why else []
    whats: dict[tuple[tuple[str, ...], str], list[str]] = {}
    for (what, why), names in kernels.items():
        whats.setdefault((tuple(names), why), []).append(what)
    return tuple(_refusal(what, names, why) for (names, why), what in whats.items())


def _refusal(whats: Sequence[str], kernels: Sequence[str], why: str) -> str:
    who = f"kernel{'s' if len(kernels) > 1 else ''} {', '.join(kernels)}" if kernels else ""
    return ": ".join(part for part in (", ".join(whats), who, why) if part)


def amount(resource: str, value: float | None) -> str:
    """What a budget counts, in the unit of its resource.

    >>> amount("size", 1e6), amount("latency", 2.5), amount("ops", 3.5e9)
    ('1.00 MB', '2.50 ms', '3.50 GBOPS')
    """
    if value is None:
        return MISSING
    return _AMOUNTS[resource](value)


def unit(value: float, name: str) -> str:
    """A number with a unit that takes the prefixes M, G, T and P.

    >>> unit(2.85e9, "FLOP"), unit(0, "FLOP")
    ('2.85 GFLOP', '0 FLOP')
    """
    short = count(value)
    return f"{short}{name}" if short[-1].isalpha() else f"{short} {name}"


_AMOUNTS: Mapping[str, Callable[[float], str]] = {
    "size": size,
    "latency": milliseconds,
    "ops": lambda value: unit(value, "BOPS"),
}
"""Resource -> how an amount of it is shown."""
