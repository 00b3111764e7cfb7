"""The commands. Each reads its arguments, calls one function of the compiler and prints its table."""

from __future__ import annotations

import importlib
import importlib.metadata
import traceback
from collections.abc import Generator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from ..ir.errors import ConfigError, InstarError
from .confirmed import show_confirmed
from .output import output_folder, show
from .progress import progress

if TYPE_CHECKING:
    from ..config import Pipeline
    from .source import Source

console = Console(emoji=False)
errors = Console(stderr=True, emoji=False)
"""Without emoji: ``model.py:one:`` is the place of a mistake."""

USER_ERROR = 2
FAILURE = 1
INTERRUPTED = 130


class Resource(StrEnum):
    """What a budget bounds."""

    SIZE = "size"
    LATENCY = "latency"
    OPS = "ops"


@contextmanager
def reporting(*, debug: bool) -> Generator[None]:
    """Prints an error as one message; exit code 2 for what the user can mend, 1 for what the compiler could not do."""
    try:
        yield
    except InstarError as problem:
        if debug:
            errors.print(escape("".join(traceback.format_exception(problem))), highlight=False)
        errors.print(f"[bold red]error:[/] {escape(str(problem))}", highlight=False, soft_wrap=True)
        raise typer.Exit(USER_ERROR if isinstance(problem, ConfigError) else FAILURE) from problem
    except KeyboardInterrupt as problem:
        errors.print("interrupted; files written before are whole")
        raise typer.Exit(INTERRUPTED) from problem
    except Exception as problem:
        if debug:
            raise
        found = f"{type(problem).__name__}: {escape(str(problem))}"
        errors.print(f"[bold red]internal error:[/] {found}; --debug shows where", highlight=False, soft_wrap=True)
        raise typer.Exit(FAILURE) from problem


app = typer.Typer(
    name="instar",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Shrinks and speeds up neural networks, with a proof for every choice.",
)

Model = Annotated[
    str,
    typer.Argument(
        metavar="FILE.PY:FUNCTION",
        help="Function that returns (model, args), or a dict with more: dynamic_shapes, calibration, quality.",
    ),
]
Config = Annotated[str | None, typer.Option("--pipeline", "-p", help="A preset or a .toml file.")]
Budgets = Annotated[
    list[str] | None,
    typer.Option(
        "--budget",
        "-b",
        metavar="NAME=AMOUNT",
        help="size=15%, latency=8ms, minimise=latency (repeat); smallest; fastest.",
    ),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for the results, made if missing; replaces files.")]
TargetName = Annotated[
    str | None,
    typer.Option("--target", "-t", metavar="NAME[:DEVICE]", help="What to compile to; onnx if not given."),
]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads to measure and run with.")]
Checkpoint = Annotated[Path | None, typer.Option(help="File from which an interrupted calibration continues.")]
Seed = Annotated[int | None, typer.Option(min=0, help="Seed of everything random.")]
Refine = Annotated[
    int | None, typer.Option(min=0, max=64, help="Whole plans to measure after the optimum; needs calibration data.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def _version(value: bool) -> None:
    if value:
        console.print(f"instar {importlib.metadata.version('instar')}", highlight=False)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Shrinks and speeds up neural networks, with a proof for every choice."""
    del version


@app.command("compile")
def compile_command(
    model: Model,
    target: TargetName = None,
    budget: Budgets = None,
    pipeline: Config = None,
    plan: Annotated[Path | None, typer.Option(help="Replay this plan: no calibration, no search.")] = None,
    max_drop: Annotated[float | None, typer.Option(help="Quality that may be lost while minimising.")] = None,
    checkpoint: Checkpoint = None,
    out: Out = Path("build"),
    threads: Threads = None,
    seed: Seed = None,
    refine: Refine = None,
    check: Annotated[Path | None, typer.Option(help="Folder for what a device needs to confirm the result.")] = None,
    debug: Debug = False,
) -> None:
    """Compile a model under budgets; writes the model, its plan and a report."""
    with reporting(debug=debug):
        if plan is not None and budget:
            raise ConfigError("--plan: expected no --budget beside it: a plan holds its decisions; remove one of them")
        settings = _settings(pipeline, target, budget, threads, seed, refine)
        replayed = _existing(plan, "plan") if plan else None
        with output_folder(out) as folder:
            source = _source(model)
            with progress(errors) as report:
                compiled = _compiler().compile(
                    **_model_arguments(source),
                    pipeline=settings,
                    calibration=source.calibration if replayed is None else None,
                    quality=source.quality,
                    latency_inputs=source.latency_inputs,
                    latency_weights=source.latency_weights,
                    max_drop=max_drop,
                    plan=replayed,
                    checkpoint=checkpoint,
                    progress=report,
                )
            artifact = folder / f"model{_suffix(settings.target)}"
            compiled.save(artifact)
            compiled.plan.save(folder / "plan.json")
            compiled.report.save(folder / "report.html")
            compiled.report.save(folder / "report.json")
            if check is not None:
                _compiler().write_check(compiled, check)
        show(console, compiled.report.table())
        console.print(f"wrote {artifact}, plan.json, report.html, report.json", highlight=False)
        if check is not None:
            console.print(f"wrote {check}: copy it to the device, run 'python measure.py' there", highlight=False)


@app.command()
def inspect(model: Model, target: TargetName = None, pipeline: Config = None, debug: Debug = False) -> None:
    """Show layers, operators, FLOPs, bytes, and what is unsupported and where."""
    with reporting(debug=debug):
        settings = _settings(pipeline, target, None, None, None)
        source = _source(model)
        with progress(errors) as report:
            found = _compiler().inspect(**_model_arguments(source), pipeline=settings, progress=report)
        show(console, found.table())


@app.command()
def profile(
    model: Model,
    target: TargetName = None,
    pipeline: Config = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the bundle; replaces files.")] = Path("bundle"),
    threads: Threads = None,
    debug: Debug = False,
) -> None:
    """Write what a device has to measure, with a script that needs numpy and onnxruntime only."""
    with reporting(debug=debug):
        settings = _settings(pipeline, target, None, threads, None)
        with output_folder(out) as folder:
            source = _source(model)
            with progress(errors) as report:
                found = _compiler().profile(
                    **_model_arguments(source),
                    out=folder,
                    pipeline=settings,
                    calibrated=source.calibration is not None,
                    latency_inputs=source.latency_inputs,
                    latency_weights=source.latency_weights,
                    progress=report,
                )
        show(console, found.table())


@app.command()
def explain(
    plan: Annotated[Path, typer.Argument(help="A plan.json that compile wrote.")], debug: Debug = False
) -> None:
    """Say why each layer became what it is, what the budgets cost and which one binds."""
    with reporting(debug=debug):
        show(console, _compiler().explain(_existing(plan, "plan")))


@app.command()
def bench(
    artifact: Annotated[
        Path, typer.Argument(help="A compiled model, or the device.json of a device that checked one.")
    ],
    vs: Annotated[
        str | None,
        typer.Option(
            "--vs", metavar="FILE.PY:FUNCTION", help="The original to compare with; needed, its inputs are used."
        ),
    ] = None,
    threads: Threads = None,
    repeats: Annotated[int, typer.Option(min=1, help="Runs; the median is printed.")] = 20,
    report: Annotated[Path | None, typer.Option(help="For a device.json: file of the report with it.")] = None,
    debug: Debug = False,
) -> None:
    """Measure a compiled model: size, latency and output error against the original."""
    with reporting(debug=debug):
        path = _existing(artifact, "model")
        if path.suffix == ".json":
            show_confirmed(console, _compiler().confirm(path), report)
            return
        if report is not None:
            raise ConfigError(f"--report: expected the device.json of a check, found '{path}'; leave the option out")
        if vs is None:
            raise ConfigError("--vs: expected the original as file.py:function, whose inputs are used; found none")
        source = _source(vs)
        with progress(errors):
            found = _compiler().bench(path, **_model_arguments(source), threads=threads or 1, repeats=repeats)
        show(console, found.table())


@app.command()
def passes(debug: Debug = False) -> None:
    """List every pass, format, encoder, transform, target and kernel in one line each, options with their defaults."""
    with reporting(debug=debug):
        from .listing import listing

        show(console, listing())


@app.command()
def pareto(
    model: Model,
    resource: Annotated[Resource, typer.Option(help="The budget to sweep.")] = Resource.SIZE,
    points: Annotated[int, typer.Option(min=2, help="Budgets to solve for.")] = 12,
    target: TargetName = None,
    budget: Budgets = None,
    pipeline: Config = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The .html or .json file to replace.")] = Path("pareto.html"),
    threads: Threads = None,
    seed: Seed = None,
    debug: Debug = False,
) -> None:
    """Sweep one budget, all measurements shared, and draw the curve of predicted loss."""
    with reporting(debug=debug):
        settings = _settings(pipeline, target, budget, threads, seed)
        if out.suffix not in (".html", ".json"):
            raise ConfigError(f"--out: expected a .html or .json file, found {str(out)!r}")
        with output_folder(out.parent):
            source = _source(model)
            with progress(errors) as report:
                curve = _compiler().pareto(
                    **_model_arguments(source),
                    pipeline=settings,
                    calibration=source.calibration,
                    resource=resource.value,
                    points=points,
                    progress=report,
                )
            curve.save(out)
        show(console, curve.table())
        console.print(f"wrote {out}", highlight=False)


@app.command()
def schedule(
    problem: Annotated[Path, typer.Argument(help="Operator graph (.json), or buffers with lifetimes (.csv).")],
    budget: Annotated[
        str | None, typer.Option(help="Bytes of scratchpad: 524288, 512KiB, 0.5MB; the machine's if not given.")
    ] = None,
    capacity: Annotated[str | None, typer.Option(help="Bytes for buffers of a .csv; the least if not given.")] = None,
    time_limit: Annotated[float, typer.Option(min=0.001, help="Seconds of search.")] = 60.0,
    atomic: Annotated[
        bool, typer.Option("--atomic", help="Operators run whole; always where shapes are missing.")
    ] = False,
    fixed_order: Annotated[bool, typer.Option("--fixed-order", help="Keep the order of the file.")] = False,
    min_rows: Annotated[int, typer.Option(min=1, help="Rows of the thinnest stripe.")] = 1,
    tiles: Annotated[str, typer.Option(help="Cut rows along columns or channels: auto, always or never.")] = "auto",
    machine: Annotated[str | None, typer.Option(help="Machine whose bricks and memories count.")] = None,
    no_spill: Annotated[bool, typer.Option("--no-spill", help="Activations never leave the chip.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File for the whole schedule (.json).")] = None,
    objective: Annotated[str, typer.Option(help="What is to be small: bytes, cycles or energy.")] = "bytes",
    report: Annotated[Path | None, typer.Option(help="File for a picture (.html).")] = None,
    debug: Debug = False,
) -> None:
    """Schedule a network in a software-managed memory: order, stripes, what stays, with a bound."""
    with reporting(debug=debug):
        path = _existing(problem, "problem")
        if path.suffix == ".csv":
            from .placement import placement_of, placement_shown

            found = placement_of(path, budget, capacity, time_limit, out, report)
            placement_shown(console, *found, as_json=as_json, report=report)
            return
        from .schedule import Wanted, operators_json, operators_table, schedule_operators

        if path.suffix != ".json":
            raise ConfigError(f"problem: expected a .json or .csv file, found {str(path)!r}")
        if capacity is not None:
            raise ConfigError("--capacity: expected --budget for an operator graph; buffers of a .csv have a capacity")
        wanted = Wanted(
            budget, time_limit, atomic, fixed_order, min_rows, machine, no_spill, objective, tiles, out=out,
            report=report,
        )  # fmt: skip
        found = schedule_operators(path, wanted)
        if as_json:
            console.out(operators_json(found.schedule), highlight=False)
        else:
            show(console, operators_table(found.problem, found.schedule))
        if report is not None:
            found.draw(report)


def main() -> None:
    """The entry point ``instar``."""
    app()


def _suffix(target: str) -> str:
    from ..targets.registry import TARGETS

    return TARGETS[target].suffix


def _settings(
    pipeline: str | None,
    target: str | None,
    budget: list[str] | None,
    threads: int | None,
    seed: int | None,
    refine: int | None = None,
) -> Pipeline:
    from ..config import Budget, resolve

    alone = budget[0] if budget is not None and len(budget) == 1 else ""
    bounds = alone if alone in ("smallest", "fastest") else Budget.parse(budget) if budget else None
    options = {"threads": threads} if threads else None
    search = {"refine": refine} if refine is not None else None
    return resolve(pipeline, target=target, budget=bounds, seed=seed, target_options=options, search=search)


def _source(spec: str) -> Source:
    from .source import load_source

    return load_source(spec)


def _model_arguments(source: Source) -> dict[str, Any]:
    return {
        "model": source.model,
        "args": source.args,
        "kwargs": dict(source.kwargs) or None,
        "dynamic_shapes": source.dynamic_shapes,
    }


def _existing(path: Path, what: str) -> Path:
    if not path.is_file():
        found = "the folder" if path.is_dir() else "nothing at"
        raise ConfigError(f"{what}: expected a file, found {found} '{path}'; check the path")
    return path


def _compiler() -> Any:
    """The compiler, imported late: it brings torch with it."""
    return importlib.import_module("..compiler", __package__)
