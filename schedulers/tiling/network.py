"""Tiles of all operators and residency of all tensors, decided together at a fixed order.

Every operator offers options: which of its tensors are resident, how much fast memory its tiles take, what it moves
then. An option per operator and, between uses of a tensor, whether it stays, are one integer program: in each step the
option's memory and what stays over it share the budget. So an operator gets small tiles where keeping something else
saves more than large tiles would, which deciding one after the other cannot see.

The optimum is over the offered options: tiles proven best at the smallest budget that an operator needs, at powers of
two above and at the whole budget.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from ...ir.errors import ScheduleError
from ..scratchpad.problem import Problem
from ..status import Status
from .bounds import compulsory_bytes
from .nests import nest, with_resident
from .problem import Limits, Tiling, TilingProblem
from .search import smallest_budget, solve


@dataclass(frozen=True)
class Option:
    """How an operator may run.

    Attributes:
        resident: positions of its tensors that are in fast memory as a whole.
        memory_bytes: that it takes, these included.
        traffic_bytes: that it moves.
        tiling: of its loops.
    """

    resident: frozenset[int]
    memory_bytes: int
    traffic_bytes: int
    tiling: Tiling


@dataclass(frozen=True)
class NetworkTiling:
    """What is decided for a network.

    Attributes:
        status: how the search ended.
        options: one per operator.
        kept: (tensor, operator): the tensor stays from that operator, which makes or reads it, to its next reader.
        fetched: (tensor, operator): the tensor is read as a whole before the operator.
        traffic_bytes: everything that is moved, weights and inputs and outputs included.
        bound_bytes: no choice among the options moves less.
        infeasible: operators that fit with no option.
    """

    status: Status
    options: tuple[Option, ...] = ()
    kept: frozenset[tuple[int, int]] = frozenset()
    fetched: frozenset[tuple[int, int]] = frozenset()
    traffic_bytes: int = 0
    bound_bytes: int = 0
    infeasible: tuple[str, ...] = ()


@dataclass(frozen=True)
class Offer:
    """Options of every operator of a network."""

    problem: Problem
    limits: Limits
    options: tuple[tuple[Option, ...], ...]
    gaps: Mapping[tuple[int, int], int] = field(default_factory=dict[tuple[int, int], int])
    """(tensor, operator that makes or reads it) -> its next reader."""


def offer(problem: Problem, limits: Limits, *, resident: bool = True) -> Offer:
    """Options of every operator within the limits; without ``resident`` only those that stream everything."""
    gaps: dict[tuple[int, int], int] = {}
    for tensor, readers in enumerate(problem.consumers):
        made = problem.producer[tensor]
        events = [*([] if made is None else [made]), *readers]
        gaps |= {(tensor, before): after for before, after in itertools.pairwise(events)}
    options = tuple(_options(problem, place, limits, resident) for place in range(len(problem.operators)))
    return Offer(problem, limits, options, gaps)


def _options(problem: Problem, place: int, limits: Limits, resident: bool) -> tuple[Option, ...]:
    loops, tensors = nest(problem, problem.operators[place])
    sizes = {tensor: problem.tensors[tensor].size_bytes for tensor in tensors}
    found: list[Option] = []
    for count in range(len(tensors) + 1 if resident else 1):
        for whole in itertools.combinations(tensors, count):
            if sum(sizes[tensor] for tensor in whole) <= limits.budget_bytes:
                held = with_resident(loops, tensors, sizes, frozenset(whole))
                found += [Option(frozenset(whole), *choice) for choice in _choices(held, limits)]
    return tuple(found)


@lru_cache(maxsize=4096)
def _choices(loops: TilingProblem, limits: Limits) -> tuple[tuple[int, int, Tiling], ...]:
    """(memory, traffic, tiling) at growing budgets, each better than the one before, up to the least traffic."""
    least = compulsory_bytes(loops)
    found: list[tuple[int, int, Tiling]] = []
    for budget in _budgets(smallest_budget(loops, limits), limits.budget_bytes):
        solution = _solved(loops, Limits(budget, limits.alignment_bytes, limits.buffers))
        if solution is not None and (not found or solution[1] < found[-1][1]):
            found.append(solution)
            if solution[1] <= least:
                break
    return tuple(found)


@lru_cache(maxsize=65536)
def _solved(loops: TilingProblem, limits: Limits) -> tuple[int, int, Tiling] | None:
    solution = solve(loops, limits)
    if solution.tiling is None or solution.cost is None:
        return None
    return solution.cost.memory_bytes, solution.cost.traffic_bytes, solution.tiling


def _budgets(smallest: int, largest: int) -> Sequence[int]:
    """The smallest one, then powers of two from 4 KiB or, for small budgets, a sixteenth, then the largest."""
    least = min(4096, largest // 16)
    between = (1 << power for power in range(largest.bit_length()) if 1 << power >= least)
    return sorted({size for size in (smallest, *between, largest) if smallest <= size <= largest})


def solve_network(offered: Offer, *, time_limit_s: float = 60.0, workers: int = 1) -> NetworkTiling:
    """The best choice among the options, with a bound; a hint is every operator's own best."""
    names = [operator.name for operator in offered.problem.operators]
    stuck = tuple(name for name, options in zip(names, offered.options, strict=True) if not options)
    if stuck:
        return NetworkTiling("infeasible", infeasible=stuck)
    from .network_model import build

    found = build(offered).run(time_limit_s, workers)
    if found.options:
        check_network(offered, found)
    return found


def check_network(offered: Offer, found: NetworkTiling) -> None:
    """Walks the operators and counts bytes and memory; ``ScheduleError`` if the answer is not what it says."""
    problem, budget = offered.problem, offered.limits.budget_bytes
    sizes = [tensor.size_bytes for tensor in problem.tensors]
    stored = {tensor for tensor, item in enumerate(problem.tensors) if item.role == "input"}
    later = _read_off_chip(offered, found)
    chip: set[int] = set()
    traffic = 0
    for place, option in enumerate(found.options):
        operator = problem.operators[place]
        where = f"operator {operator.name!r}"
        brought = {tensor for tensor, at in found.fetched if at == place}
        traffic += sum(sizes[tensor] for tensor in brought)
        streamed = set(operator.inputs) - option.resident
        if lost := (streamed | brought) - stored:
            raise ScheduleError(f"{where}: expected tensor {min(lost)} in slow memory, found it nowhere")
        if lost := (option.resident & set(operator.inputs)) - chip - brought:
            raise ScheduleError(f"{where}: expected tensor {min(lost)} in fast memory, found it not there")
        used = option.memory_bytes + sum(sizes[t] for t in chip - set(operator.inputs) - {operator.output})
        if used > budget:
            raise ScheduleError(f"{where}: expected at most {budget} bytes of fast memory, found {used}")
        traffic += option.traffic_bytes
        if operator.output not in option.resident:
            stored.add(operator.output)
        elif operator.output in later:
            traffic += sizes[operator.output]
            stored.add(operator.output)
        touched = {*operator.inputs, operator.output}
        chip = {tensor for tensor in chip if tensor not in touched} | {
            tensor for tensor in touched if (tensor, place) in found.kept and tensor in option.resident
        }
    missing = {t for t, item in enumerate(problem.tensors) if item.role == "output"} - stored
    if missing or traffic != found.traffic_bytes:
        raise ScheduleError(
            f"network: expected {found.traffic_bytes} bytes and all results, found {traffic}, {missing}"
        )


def _read_off_chip(offered: Offer, found: NetworkTiling) -> set[int]:
    """Tensors that somebody reads from slow memory, and results."""
    problem = offered.problem
    streamed = {
        tensor
        for operator, option in zip(problem.operators, found.options, strict=True)
        for tensor in operator.inputs
        if tensor not in option.resident
    }
    results = {tensor for tensor, item in enumerate(problem.tensors) if item.role == "output"}
    return streamed | results | {tensor for tensor, _ in found.fetched}
