# ruff: noqa: E501
"""Bit widths and residency together, with the losses of a real calibration and the tensors of a compiled network.

``python benchmarks/joint_calibrated.py``: a ResNet20 for 32 x 32 images (drawn weights, seeded; no data set is at hand)
is compiled by ``instar.compile(target="scratchpad:...")`` with weights of 2 to 8 bits on offer. Its plan has the
calibrated loss and the exact bytes of every width of every layer, its artifact the problem: tensors, operators, order.
Widths first (fewest bytes, or fewest bytes x uses, within the loss), then residency, is compared with both together.
Then both plans are replayed: compiled again with the widths that were decided, scheduled in stripes by the target, and
executed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

import instar
from instar.ir.files import atomic_write_json, atomic_write_text
from instar.ir.options import PricedOption
from instar.schedulers.joint.problem import Choice, JointAnswer, JointProblem, joint_problem
from instar.schedulers.joint.solver import solve_joint, solve_sequential
from instar.targets.scratchpad.artifact import ScratchpadArtifact

RESULTS = Path(__file__).parent / "results"
MACHINE = "ethos-u65-mid"
FORMATS = tuple(f"int{bits}:channel" for bits in (8, 6, 5, 4, 3, 2))
BUDGETS = (49_152, 50_176, 51_200, 53_248)
SHARES = (0.003, 0.01, 0.03, 0.1)
"""Of the way from the least loss of all layers, which rounding values costs in any case, to that of the narrowest widths."""

Row = dict[str, float | int | str]

HEAD = """# Bit widths and residency together, calibrated

`benchmarks/joint_calibrated.py`: ResNet20 at 32 x 32 (drawn weights), losses of a real calibration (Fisher, 32 images), exact bytes of every width (codes, scales, bias), tensors and
order of the compiled artifact, operators whole. KB (10^3) that cross the chip's border in one run: weights once, input, output, spills. *Loss*: the limit, as a share of the
way from the least loss, which rounding values costs at all widths, to that of the narrowest widths. *First widths*: fewest bytes (or bytes x uses) within the loss, then the best residency for them. *-*: no schedule with those widths.

| scratchpad bytes | loss | first widths (bytes) | (x uses) | together | bound | saved against the better | s |
|---|---|---|---|---|---|---|---|"""


class Block(nn.Module):
    """Two convolutions and a sum."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, after, 3, stride, 1)
        self.second = nn.Conv2d(after, after, 3, 1, 1)
        self.short = nn.Conv2d(before, after, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """The sum behind a ReLU."""
        return (self.second(self.first(x).relu()) + self.short(x)).relu()


def resnet20() -> nn.Module:
    """Three stages of three blocks."""
    torch.manual_seed(0)
    widths = [16, 16, 16, 16, 32, 32, 32, 64, 64, 64]
    blocks = [Block(a, b, 2 if b > a else 1) for a, b in pairwise(widths)]
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    return nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1), nn.ReLU(), *blocks, *head).eval()


def compiled(model: nn.Module, images: Sequence[Tensor], formats: Mapping[str, str] | None = None) -> instar.Compiled:
    """With all widths on offer, or one for each layer."""
    rules = [{"pattern": layer, "formats": [text]} for layer, text in (formats or {}).items()]
    return instar.compile(
        model,
        (images[0],),
        target=f"scratchpad:{MACHINE}",
        calibration=images,
        formats=list(FORMATS),
        layers=rules,
        seed=0,
    )


def scratchpad(result: instar.Compiled) -> ScratchpadArtifact:
    """What was written for the scratchpad."""
    assert isinstance(result.artifact, ScratchpadArtifact)
    return result.artifact


def offers(result: instar.Compiled) -> dict[str, list[PricedOption]]:
    """Layer -> its options, those that no better one dominates."""
    return {d.layer: sorted((d.chosen, *d.alternatives), key=lambda o: -o.nbytes) for d in result.plan.decisions}


def instance(result: instar.Compiled, budget: int, limit: float) -> tuple[JointProblem, dict[str, list[PricedOption]]]:
    """The compiled network with the widths of its weights left open."""
    problem, known = scratchpad(result).described.problem, offers(result)
    chosen = {d.layer: d.chosen.nbytes for d in result.plan.decisions}
    activations = [[Choice(tensor.size_bytes, 0.0)] for tensor in problem.tensors]
    weights: list[list[Choice]] = []
    for operator in problem.operators:
        options = known.get(operator.name)
        if options is None:
            weights.append([Choice(operator.weight_bytes, 0.0)] if operator.weight_bytes else [])
        else:
            rest = operator.weight_bytes - chosen[operator.name]
            weights.append([Choice(rest + option.nbytes, option.loss) for option in options])
    return joint_problem(problem, activations, weights, budget, limit), known


def widths(problem: JointProblem, answer: JointAnswer, known: Mapping[str, list[PricedOption]]) -> dict[str, str]:
    """Layer -> format."""
    picks = {value.name: pick for value, pick in zip(problem.values, answer.picks, strict=True)}
    return {layer: options[picks[f"{layer} weights"]].option.format for layer, options in known.items()}


def cell(answer: JointAnswer) -> str:
    """KB moved."""
    return f"{answer.traffic_bytes / 1e3:.1f}" if answer.picks else "-"


def main() -> None:
    """Runs and writes results."""
    generator = torch.Generator().manual_seed(1)
    images = [torch.randn(1, 3, 32, 32, generator=generator) for _ in range(32)]
    model = resnet20()
    result = compiled(model, images)
    least, most = (
        sum(extreme(option.loss for option in options) for options in offers(result).values()) for extreme in (min, max)
    )
    rows: list[Row] = []
    best: tuple[int, JointProblem, JointAnswer, JointAnswer, dict[str, list[PricedOption]]] | None = None
    for budget in BUDGETS:
        for share in SHARES:
            problem, known = instance(result, budget, least + share * (most - least))
            start = time.process_time()
            by_bytes, by_uses = (solve_sequential(problem, proxy=proxy, time_limit_s=10) for proxy in ("bytes", "uses"))
            together = solve_joint(problem, time_limit_s=20)
            seconds = time.process_time() - start
            tried = [answer for answer in (by_bytes, by_uses) if answer.picks]
            first = min(tried, key=lambda answer: answer.traffic_bytes, default=None)
            saved = 0 if first is None or not together.picks else first.traffic_bytes - together.traffic_bytes
            percent = "-" if first is None else f"{saved / 1e3:.1f} ({100 * saved / first.traffic_bytes:.1f} %)"
            rows.append({
                "budget": budget, "share": share, "bytes": cell(by_bytes), "uses": cell(by_uses), "together": cell(together),
                "bound": f"{together.bound_bytes / 1e3:.1f}", "saved": percent, "seconds": round(seconds, 1),
            })  # fmt: skip
            print(rows[-1], flush=True)
            if first is not None and (best is None or saved > best[0]):
                best = (saved, problem, first, together, known)
    lines = [
        f"| {r['budget']} | {float(r['share']):.1%} | {r['bytes']} | {r['uses']} | {r['together']} | {r['bound']} | {r['saved']} | {r['seconds']} |"
        for r in rows
    ]
    replayed: dict[str, dict[str, float | int | str]] = {}
    if best is not None:
        _, problem, first, together, known = best
        for name, answer in (("first widths", first), ("together", together)):
            again = compiled(model, images, widths(problem, answer, known))
            assert all(check.passed for check in again.artifact.checks)
            traffic = scratchpad(again).tables.traffic
            replayed[name] = {
                "size_bytes": again.nbytes,
                "loss": again.plan.predicted_loss,
                "avoidable_bytes_in_stripes": traffic.total_bytes,
                "widths": " ".join(text[3] for text in widths(problem, answer, known).values()),
            }
            print(name, replayed[name], flush=True)
        lines.append(
            "\nThe row that saves most, both plans compiled again through `instar.compile` with those widths and executed by the simulator (all checks passed):\n"
        )
        lines.append("| plan | bits per layer, in order | constants, bytes | predicted loss |\n|---|---|---|---|")
        lines += [
            f"| {name} | {found['widths']} | {found['size_bytes']} | {float(found['loss']):.3g} |"
            for name, found in replayed.items()
        ]
    atomic_write_json(RESULTS / "joint_calibrated.json", {"rows": rows, "replayed": replayed})
    atomic_write_text(RESULTS / "joint_calibrated.md", "\n".join([HEAD, *lines, ""]))


if __name__ == "__main__":
    main()
