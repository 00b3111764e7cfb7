"""The integer program of ``network.py``, for CP-SAT."""

from __future__ import annotations

from dataclasses import dataclass

from ortools.sat.python import cp_model

from .network import NetworkTiling, Offer


@dataclass(frozen=True)
class Model:
    """Variables of the program.

    Attributes:
        offered: the options.
        model: constraints and objective.
        picks: per operator a literal per option.
        keeps: (tensor, operator) -> the tensor stays until its next reader.
        fetches: (tensor, operator) -> it is read as a whole before the operator.
    """

    offered: Offer
    model: cp_model.CpModel
    picks: list[list[cp_model.IntVar]]
    keeps: dict[tuple[int, int], cp_model.IntVar]
    fetches: dict[tuple[int, int], cp_model.IntVar]

    def run(self, time_limit_s: float, workers: int) -> NetworkTiling:
        """Solves and reads the answer."""
        solver = cp_model.CpSolver()
        solver.parameters.max_time_in_seconds = time_limit_s
        solver.parameters.num_workers = workers
        solver.parameters.random_seed = 0
        outcome = solver.solve(self.model)
        if outcome == cp_model.INFEASIBLE:
            return NetworkTiling("infeasible")
        if outcome not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            return NetworkTiling("timeout")
        chosen = [
            next(option for option, pick in zip(options, picks, strict=True) if solver.boolean_value(pick))
            for options, picks in zip(self.offered.options, self.picks, strict=True)
        ]
        return NetworkTiling(
            "optimal" if outcome == cp_model.OPTIMAL else "feasible",
            tuple(chosen),
            frozenset(key for key, keep in self.keeps.items() if solver.boolean_value(keep)),
            frozenset(key for key, fetch in self.fetches.items() if solver.boolean_value(fetch)),
            round(solver.objective_value),
            round(solver.best_objective_bound),
        )


def build(offered: Offer) -> Model:
    """The program of an offer."""
    model = cp_model.CpModel()
    picks = [[model.new_bool_var("") for _ in options] for options in offered.options]
    keeps = {key: model.new_bool_var("") for key in offered.gaps}
    readers = [(tensor, place) for place, op in enumerate(offered.problem.operators) for tensor in set(op.inputs)]
    built = Model(offered, model, picks, keeps, {key: model.new_bool_var("") for key in readers})
    for literals in picks:
        model.add_exactly_one(literals)
    _residency(built)
    _memory(built)
    model.minimize(_traffic(built))
    return built


def _resident(built: Model, tensor: int, place: int) -> cp_model.LinearExpr:
    """1 if the chosen option of the operator has the tensor in fast memory."""
    options = zip(built.offered.options[place], built.picks[place], strict=True)
    return cp_model.LinearExpr.sum([pick for option, pick in options if tensor in option.resident])


def _residency(built: Model) -> None:
    """What is resident was kept or fetched; what is kept is resident on both sides."""
    before = {(tensor, after): (tensor, made) for (tensor, made), after in built.offered.gaps.items()}
    for tensor, place in built.fetches:
        kept = [built.keeps[before[tensor, place]]] if (tensor, place) in before else []
        there = _resident(built, tensor, place)
        built.model.add(there == cp_model.LinearExpr.sum([*kept, built.fetches[tensor, place]]))
    for (tensor, place), keep in built.keeps.items():
        built.model.add(keep <= _resident(built, tensor, place))


def _memory(built: Model) -> None:
    """In each step the option's memory and what stays over it fit."""
    problem, budget = built.offered.problem, built.offered.limits.budget_bytes
    over: list[list[tuple[int, cp_model.IntVar]]] = [[] for _ in problem.operators]
    for (tensor, start), stop in built.offered.gaps.items():
        for place in range(start + 1, stop):
            over[place].append((problem.tensors[tensor].size_bytes, built.keeps[tensor, start]))
    for place, options in enumerate(built.offered.options):
        pairs = [(option.memory_bytes, pick) for option, pick in zip(options, built.picks[place], strict=True)]
        pairs += over[place]
        if sum(size for size, _ in pairs) > budget:
            built.model.add(_weighted(pairs) <= budget)


def _traffic(built: Model) -> cp_model.LinearExpr:
    """Options, whole reads, and writes of resident results that somebody reads from slow memory."""
    problem = built.offered.problem
    pairs = [
        (option.traffic_bytes, pick)
        for options, picks in zip(built.offered.options, built.picks, strict=True)
        for option, pick in zip(options, picks, strict=True)
    ]
    pairs += [(problem.tensors[tensor].size_bytes, fetch) for (tensor, _), fetch in built.fetches.items()]
    for tensor, made in enumerate(problem.producer):
        if made is None:
            continue
        write = built.model.new_bool_var("")
        pairs.append((problem.tensors[tensor].size_bytes, write))
        there = _resident(built, tensor, made)
        if problem.tensors[tensor].role == "output":
            built.model.add(write >= there)
            continue
        for reader in problem.consumers[tensor]:
            # Read from slow memory: the option streams it, or it is fetched.
            off_chip = 1 - _resident(built, tensor, reader) + built.fetches[tensor, reader]
            built.model.add(write >= there + off_chip - 1)
    return _weighted(pairs)


def _weighted(pairs: list[tuple[int, cp_model.IntVar]]) -> cp_model.LinearExpr:
    return cp_model.LinearExpr.weighted_sum([literal for _, literal in pairs], [size for size, _ in pairs])
