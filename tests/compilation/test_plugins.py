"""What is not instar's own: given as objects, or by name from a package that is really installed."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Any, ClassVar

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

import instar
from instar.cli.listing import listing
from instar.ir.errors import ConfigError
from instar.ir.graph import Graph, Node
from instar.ir.plan import PassUse, Plan, Plugin
from instar.ir.plugins import Named, Origin, given
from instar.passes.base import PassResult
from instar.passes.encoders import ENCODERS, encoder
from instar.passes.formats import FORMATS, IntFormat
from instar.passes.registry import PASSES
from instar.passes.rewrite import RewriteContext, rewrite
from instar.passes.rules import Outcome, rule
from instar.targets.registry import TARGETS

RELU = "aten.relu.default"
ARGS = (torch.linspace(-1, 1, 4 * 64).reshape(4, 64),)

SOURCE = '''
from dataclasses import dataclass
from typing import ClassVar
from instar.passes.base import PassResult
from instar.passes.encoders import RoundToNearest
from instar.passes.formats import IntFormat
from instar.passes.rewrite import rewrite
from instar.passes.rules import rule
from instar.targets.declaration import Declaration
from instar.targets.torch.target import TorchTarget


@rule("aten.relu.default")
def twice(node, match):
    """``relu(relu(x)) -> relu(x)``."""
    inner = node.argument("self")
    return inner if inner.op.name == "aten.relu.default" else None


@dataclass(frozen=True)
class Relu:
    """One relu instead of two."""

    depth: int = 3
    name: ClassVar[str] = "relu-once"
    exact: ClassVar[bool] = True

    def __call__(self, graph):
        return rewrite(graph, (twice,))


@dataclass(frozen=True)
class Nibble(IntFormat):
    """Four bits under a name of their own."""

    @classmethod
    def of_term(cls, term):
        return cls(4, 32)

    @property
    def spelling(self):
        return "nibble"


@dataclass(frozen=True)
class Nearest(RoundToNearest):
    """Rounds."""

    @property
    def spelling(self):
        return "nearest"


class ElsewhereTarget(TorchTarget):
    name = "elsewhere"


ELSEWHERE = Declaration("elsewhere", "Torch under another name.", ElsewhereTarget)


class NotAPass:
    pass
'''

ENTRIES = """
[instar.passes]
relu-once = {module}:Relu
[instar.formats]
nibble = {module}:Nibble
int8 = {module}:Nibble
[instar.encoders]
nearest = {module}:Nearest
[instar.targets]
elsewhere = {module}:ELSEWHERE
"""


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.ReLU(), nn.Linear(64, 64)).eval()


class Package:
    """A distribution in a folder of its own, installed while its folder is on the path."""

    def __init__(self, folder: Path, name: str, entries: str = ENTRIES, source: str = SOURCE) -> None:
        self.folder, self.module = folder / name, name.replace("-", "_")
        info = self.folder / f"{self.module}-0.1.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n")
        (info / "entry_points.txt").write_text(entries.format(module=self.module))
        (self.folder / f"{self.module}.py").write_text(dedent(source))

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.syspath_prepend(str(self.folder))
        importlib.invalidate_caches()


@pytest.fixture
def extras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Package]:
    with monkeypatch.context() as patch:
        package = Package(tmp_path, "instar-extras")
        package.install(patch)
        yield package
    sys.modules.pop(package.module, None)


def refusal(**settings: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        instar.compile(net(), ARGS, **settings)
    return str(caught.value)


def test_an_installed_package_is_treated_as_our_own(extras: Package, tmp_path: Path) -> None:
    pipeline = {
        "passes": ["default", {"name": "relu-once", "depth": 4}], "formats": ["nibble", "int8:channel"],
        "encoders": ["nearest"], "target": "elsewhere", "budget": {"size": "20%"},
    }  # fmt: skip
    compiled = instar.compile(net(), ARGS, pipeline=pipeline)
    record = next(r for r in compiled.report.data.passes if r.name == "relu-once")
    assert record.fired == {"twice": 1}
    assert record.check is not None
    assert record.check.precision == "float64"
    assert {d.chosen.option.format for d in compiled.plan.decisions} == {"nibble"}
    assert compiled.plan.passes[-1] == PassUse("relu-once", {"depth": 4})
    names = [("encoder", "nearest"), ("format", "nibble"), ("pass", "relu-once"), ("target", "elsewhere")]
    assert compiled.plan.plugins == tuple(Plugin(k, n, "instar-extras", "0.1") for k, n in names)
    compiled.plan.save(tmp_path / "plan.json")
    again = instar.compile(net(), ARGS, target="elsewhere", plan=tmp_path / "plan.json")
    for path, result in ((tmp_path / "a.safetensors", compiled), (tmp_path / "b.safetensors", again)):
        result.save(path)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_a_plan_says_which_package_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = Package(tmp_path, "instar-missing")
    with monkeypatch.context() as patch:
        package.install(patch)
        plan = instar.compile(net(), ARGS, target="torch", formats=["nibble"], budget={"size": "20%"}).plan
    importlib.invalidate_caches()
    message = refusal(target="torch", plan=plan)
    assert message == (
        "plan: expected the format 'nibble' of the package instar-missing 0.1, found none; "
        "pip install instar-missing==0.1"
    )
    with pytest.raises(ConfigError, match="formats"):
        instar.compile(net(), ARGS, target="torch", formats=["nibble"])


def test_plugins_are_listed_with_their_package(extras: Package) -> None:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115  # a sink
    console.print(listing())
    text = console.export_text()
    assert "One relu instead of two. (instar-extras 0.1)" in text
    assert "Four bits under a name of their own. (instar-extras 0.1)" in text
    assert "Rounds. (instar-extras 0.1)" in text
    assert "int8 of instar-extras 0.1 is not used: instar has its own" in text


def test_what_a_broken_package_offers_is_listed_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = "".join(
        f"[instar.{kind}]\nbroken = nowhere:X\n" for kind in ("passes", "formats", "encoders", "transforms", "kernels")
    )
    Package(tmp_path, "instar-broken", entries).install(monkeypatch)
    console = Console(width=400, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115  # a sink
    console.print(listing())
    lines = console.export_text().splitlines()
    for kind in ("pass", "format", "encoder", "transform", "kernel"):
        (line,) = [text for text in lines if text.split()[:2] == [kind, "broken"]]
        assert "of package instar-broken 0.1: expected nowhere:X to be importable; found ModuleNotFoundError" in line
    assert any(text.split()[:2] == ["format", "int2,"] or "int4" in text for text in lines)


def test_our_own_names_win(extras: Package) -> None:
    assert FORMATS["int8"] is IntFormat
    assert FORMATS.shadowed() == {"int8": Origin("instar-extras", "0.1")}
    assert FORMATS.origin("int8") is None


def test_names_that_nobody_has(extras: Package) -> None:
    assert "did you mean 'relu-once'" in refusal(passes=["relu-onc"])
    assert "nibbl" in refusal(formats=["nibbl"])
    assert (
        "target: expected 'onnx' or 'torch' or 'scratchpad' or 'elsewhere', found 'elsewher'; did you mean"
        in refusal(target="elsewher")
    )
    with pytest.raises(KeyError):
        PASSES["relu-onc"]
    with pytest.raises(ConfigError, match="target: expected the name of a target, found 'x'; known: elsewhere, onnx"):
        TARGETS.find("x", "target")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ("[instar.passes]\nbroken = nowhere:X", "expected nowhere:X to be importable; found ModuleNotFoundError"),
        ("[instar.passes]\nbroken = {module}:NotAPass", "expected a class of passes: a frozen dataclass with name"),
    ],
)
def test_a_package_that_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entries: str, message: str) -> None:
    Package(tmp_path, "instar-broken", entries).install(monkeypatch)
    found = refusal(passes=["broken"])
    assert "pass 'broken' of package instar-broken 0.1: " in found
    assert message in found
    assert "repair or uninstall the package" in found


def test_two_packages_of_one_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("instar-one", "instar-two"):
        Package(tmp_path, name, "[instar.passes]\nsame = {module}:Relu").install(monkeypatch)
    with pytest.raises(ConfigError, match="expected one package that offers it; found instar-one and instar-two"):
        PASSES["same"]


# ------------------------------------------------------------------------------------------------ objects
@rule(RELU)
def once(node: Node, match: RewriteContext) -> Outcome:
    """``relu(relu(x)) -> relu(x)``."""
    inner = node.argument("self")
    return inner if isinstance(inner, Node) and inner.op.name == RELU else None


@dataclass(frozen=True)
class Once:
    """One relu instead of two."""

    sizes: tuple[int, ...] = (1,)
    name: ClassVar[str] = "once"
    exact: ClassVar[bool] = True

    def __call__(self, graph: Graph) -> PassResult:
        return rewrite(graph, (once,))


@dataclass(frozen=True)
class Half(IntFormat):
    """Four bits under a name of their own."""

    @property
    def spelling(self) -> str:
        return f"half:g{self.group}"


def test_objects_are_treated_as_our_own(tmp_path: Path) -> None:
    given_pass, given_format = Once(sizes=(2, 3)), Half(4, 32)
    compiled = instar.compile(
        net(), ARGS, target="torch", passes=["default", given_pass], formats=["fp32", given_format],
        budget={"size": "20%"},
    )  # fmt: skip
    assert next(r for r in compiled.report.data.passes if r.name == "once").fired == {"once": 1}
    assert {d.chosen.option.format for d in compiled.plan.decisions} == {"half:g32"}
    assert compiled.plan.passes[-1] == PassUse("once", {"sizes": [2, 3]})
    assert compiled.plan.plugins == (Plugin("format", "half:g32"), Plugin("pass", "once"))
    compiled.plan.save(tmp_path / "plan.json")
    again = Plan.load(tmp_path / "plan.json")
    message = refusal(target="torch", plan=again)
    assert message == "plan: expected the format 'half:g32', which was given as an object, found none; give it again"
    message = refusal(target="torch", plan=again, formats=[given_format])
    assert message == "plan: expected the pass 'once', which was given as an object, found none; give it again"
    message = refusal(target="torch", plan=again, formats=[given_format], passes=["default", Once()])
    assert "or other options of them" in message
    replayed = instar.compile(
        net(), ARGS, target="torch", plan=again, formats=[given_format], passes=["default", given_pass]
    )
    assert torch.equal(replayed(*ARGS), compiled(*ARGS))
    with pytest.raises(instar.ParseError, match="expected a format, got 'half'"):
        instar.format("half:g32")


def test_objects_of_a_call_are_known_within_it() -> None:
    mine = Half(4, 32)
    with given({"format": {mine.spelling: mine}, "encoder": {"mine": encoder("rtn")}}):
        assert instar.format("half:g32") is mine
        assert instar.format("half:g32 + int8:channel").spelling == "half:g32 + int8:channel"
        assert encoder("mine") is not None
        assert "half:g32" in FORMATS
        assert "mine" in list(ENCODERS)
        assert FORMATS.origin("half:g32") == Origin()
        with given({"format": {"other": mine}}):
            assert "half:g32" in FORMATS
    assert "half:g32" not in FORMATS


def test_optimize_takes_passes() -> None:
    graph = instar.optimize(net(), ARGS, passes=["default", Once()])
    assert graph.ops()["aten.relu"] == 1


def test_a_named_object_is_its_name() -> None:
    mine = Half(4, 32)
    name = Named(mine.spelling, mine)
    assert (name, hash(name), name.given) == ("half:g32", hash("half:g32"), mine)


def test_a_pass_that_breaks_the_model_is_named() -> None:
    @rule(RELU)
    def drop(node: Node, match: RewriteContext) -> Outcome:
        """``relu(x) -> x``, which is wrong."""
        return node.argument("self")

    @dataclass(frozen=True)
    class Wrong:
        name: ClassVar[str] = "wrong"
        exact: ClassVar[bool] = True

        def __call__(self, graph: Graph) -> PassResult:
            return rewrite(graph, (drop,))

    with pytest.raises(instar.PassError, match="pass wrong"):
        instar.compile(net(), ARGS, target="torch", passes=[Wrong(), "default"])


def test_the_result_is_a_tensor() -> None:
    assert isinstance(instar.compile(net(), ARGS, target="torch")(*ARGS), Tensor)
