"""Problems as JSON: the library's own format, and operator graphs ``{model, input, dtype, ops}``.

In an operator graph every operation makes one tensor of ``bytes`` bytes and reads those of ``ins`` (positions of
earlier operations); the network's input is not in the list, operations with ``net_in`` read it. Optional keys:
``shape`` (of the output), ``win`` (bytes of weights and bias), ``macs``, ``kernel``, ``stride``, ``dil``, ``pad``,
``groups``, ``axis``, ``act``, ``out`` (an output of the network). Other keys are ignored, as that format asks for.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Literal, cast

from ...ir.errors import ScheduleError
from .. import strict_json as strict
from .problem import Operator, Problem, Role, Tensor, Window

FORMAT = "instar-scratchpad-1"

ITEM_BYTES = {"int8": 1, "uint8": 1, "int16": 2, "float16": 2, "bfloat16": 2, "int32": 4, "float32": 4}
"""dtype of a graph -> bytes of an element of its input."""


def load_problem(text: str, where: str = "problem") -> Problem:
    """The problem in a JSON text of either format.

    Args:
        text: JSON.
        where: what errors call it, such as the name of its file.

    Raises:
        ScheduleError: which key is missing or wrong, or what is wrong with the network.
    """
    value = strict.parse_object(text, where)
    try:
        return _own_format(value, where) if "operators" in value else _op_graph(value, where)
    except ScheduleError as error:
        if str(error).startswith(where):
            raise
        raise ScheduleError(f"{where}: {error}") from None


def dump_problem(problem: Problem) -> str:
    """The problem as JSON text in the library's own format; reading it gives an equal value."""
    document = asdict(problem)
    for derived in ("producer", "consumers"):
        del document[derived]
    return json.dumps({"format": FORMAT, **document}, allow_nan=False)


def _own_format(value: Mapping[str, object], where: str) -> Problem:
    strict.check_keys(value, where, ("format", "model", "tensors", "operators"))
    if value["format"] != FORMAT:
        raise ScheduleError(f"{where}.format: expected {FORMAT!r}, found {value['format']!r}; write it again")
    return Problem(
        strict.as_str(value["model"], f"{where}.model"),
        strict.as_tuple(value["tensors"], f"{where}.tensors", _tensor),
        strict.as_tuple(value["operators"], f"{where}.operators", _operator),
    )


def _tensor(value: object, where: str) -> Tensor:
    item = strict.as_object(value, where)
    strict.check_keys(item, where, ("name", "size_bytes"), ("shape", "role", "item_bytes"))
    return Tensor(
        strict.as_str(item["name"], f"{where}.name"),
        strict.as_int(item["size_bytes"], f"{where}.size_bytes"),
        strict.as_tuple(item.get("shape", []), f"{where}.shape", strict.as_int),
        cast("Role", strict.as_str(item.get("role", "activation"), f"{where}.role")),
        strict.as_int(item.get("item_bytes", 0), f"{where}.item_bytes"),
    )


def _operator(value: object, where: str) -> Operator:
    item = strict.as_object(value, where)
    known = ("weight_bytes", "macs", "window", "groups", "axis", "activation", "blocked_weights")
    strict.check_keys(item, where, ("name", "kind", "inputs", "output"), known)
    return Operator(
        strict.as_str(item["name"], f"{where}.name"),
        strict.as_str(item["kind"], f"{where}.kind"),
        strict.as_tuple(item["inputs"], f"{where}.inputs", strict.as_int),
        strict.as_int(item["output"], f"{where}.output"),
        weight_bytes=strict.as_int(item.get("weight_bytes", 0), f"{where}.weight_bytes"),
        macs=strict.as_int(item.get("macs", 0), f"{where}.macs"),
        window=strict.optional(item.get("window"), f"{where}.window", _window),
        groups=strict.as_int(item.get("groups", 1), f"{where}.groups"),
        axis=strict.optional(item.get("axis"), f"{where}.axis", strict.as_int),
        activation=strict.as_str(item.get("activation", ""), f"{where}.activation"),
        blocked_weights=strict.as_bool(item.get("blocked_weights", True), f"{where}.blocked_weights"),
    )


def _window(value: object, where: str) -> Window:
    item = strict.as_object(value, where)
    strict.check_keys(item, where, ("kernel", "stride", "dilation", "pad"))
    pairs = [_pair(item[key], f"{where}.{key}") for key in ("kernel", "stride", "dilation")]
    return Window(pairs[0], pairs[1], pairs[2], _pad(item["pad"], f"{where}.pad"))


def _op_graph(value: Mapping[str, object], where: str) -> Problem:
    for key in ("model", "ops"):
        if key not in value:
            raise ScheduleError(f"{where}: expected the key {key!r}, found {', '.join(value) or 'none'}; add it")
    operations = strict.as_tuple(value["ops"], f"{where}.ops", strict.as_object)
    network_input = _network_input(value, where) if any("net_in" in item for item in operations) else ()
    shift = len(network_input)
    names = _unique_names(operations, where)
    pairs = [_operation(item, place, shift, names[place], where) for place, item in enumerate(operations)]
    read = {tensor for operator, _ in pairs for tensor in operator.inputs}
    tensors = [_as_output(tensor, place + shift not in read) for place, (_, tensor) in enumerate(pairs)]
    return Problem(
        strict.as_str(value["model"], f"{where}.model"),
        (*network_input, *tensors),
        tuple(operator for operator, _ in pairs),
    )


def _network_input(value: Mapping[str, object], where: str) -> tuple[Tensor, ...]:
    if "input" not in value:
        raise ScheduleError(f"{where}: expected the key 'input' because operations have net_in; add its shape")
    shape = strict.as_tuple(value["input"], f"{where}.input", strict.as_int)
    dtype = strict.as_str(value.get("dtype", "int8"), f"{where}.dtype")
    if dtype not in ITEM_BYTES:
        raise ScheduleError(f"{where}.dtype: expected one of {', '.join(ITEM_BYTES)}, found {dtype!r}; correct it")
    return (Tensor("network input", math.prod(shape) * ITEM_BYTES[dtype], shape, "input"),)


def _unique_names(operations: Sequence[Mapping[str, object]], whole: str) -> list[str]:
    """The names, those that occur twice with their position behind them."""
    names: list[str] = []
    for place, item in enumerate(operations):
        where = f"{whole}.ops[{place}]"
        for key in ("name", "kind", "ins", "bytes"):
            if key not in item:
                raise ScheduleError(f"{where}: expected the key {key!r}, found {', '.join(item) or 'none'}; add it")
        names.append(strict.as_str(item["name"], f"{where}.name"))
    count = Counter(names)
    return [name if count[name] == 1 else f"{name}#{place}" for place, name in enumerate(names)]


def _operation(item: Mapping[str, object], place: int, shift: int, name: str, whole: str) -> tuple[Operator, Tensor]:
    where = f"{whole}.ops[{place}]"
    sources = strict.as_tuple(item["ins"], f"{where}.ins", strict.as_int)
    for source in sources:
        if not 0 <= source < place:
            earlier = f"0 to {place - 1}" if place else "of which the first has none"
            raise ScheduleError(
                f"{where}.ins: expected positions of earlier operations, {earlier}, found {source}; "
                f"put the operations in an executable order"
            )
    reads_input = strict.as_bool(item.get("net_in", False), f"{where}.net_in")
    operator = Operator(
        name,
        strict.as_str(item["kind"], f"{where}.kind"),
        (*((0,) if reads_input and shift else ()), *(source + shift for source in sources)),
        place + shift,
        weight_bytes=strict.as_int(item.get("win", 0), f"{where}.win"),
        macs=strict.as_int(item.get("macs", 0), f"{where}.macs"),
        window=_op_window(item, where),
        groups=strict.as_int(item.get("groups", 1), f"{where}.groups"),
        axis=strict.optional(item.get("axis"), f"{where}.axis", strict.as_int),
        activation=strict.as_str(item.get("act", ""), f"{where}.act"),
    )
    shape = strict.as_tuple(item.get("shape", []), f"{where}.shape", strict.as_int)
    role: Role = "output" if strict.as_bool(item.get("out", False), f"{where}.out") else "activation"
    return operator, Tensor(name, strict.as_int(item["bytes"], f"{where}.bytes"), shape, role)


def _as_output(tensor: Tensor, unread: bool) -> Tensor:
    """What nobody reads is what the network is for."""
    return Tensor(tensor.name, tensor.size_bytes, tensor.shape, "output") if unread else tensor


def _op_window(item: Mapping[str, object], where: str) -> Window | None:
    if "kernel" not in item:
        return None
    pairs = [_pair(item.get(key, [1, 1]), f"{where}.{key}") for key in ("kernel", "stride", "dil")]
    return Window(pairs[0], pairs[1], pairs[2], _pad(item.get("pad", "same"), f"{where}.pad"))


def _pair(value: object, where: str) -> tuple[int, int]:
    numbers = strict.as_tuple(value, where, strict.as_int)
    if len(numbers) != 2:
        raise ScheduleError(f"{where}: expected height and width, found {len(numbers)} numbers; give two")
    return (numbers[0], numbers[1])


def _pad(value: object, where: str) -> Literal["same", "valid"] | tuple[int, int, int, int]:
    if value == "same" or value == "valid":
        return "same" if value == "same" else "valid"
    numbers = strict.as_tuple(value, where, strict.as_int)
    if len(numbers) != 4:
        raise ScheduleError(
            f"{where}: expected 'same', 'valid' or top, bottom, left and right, found {list(numbers)}; correct it"
        )
    return (numbers[0], numbers[1], numbers[2], numbers[3])
