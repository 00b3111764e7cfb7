"""The architecture as a test: who may import whom, and what `import instar` may load."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]

BELOW = {"ir", "passes", "schedulers", "targets", "report", "presets", "config"}
"""What the stages of a compilation stand on."""

MAY_IMPORT: dict[str, set[str]] = {
    "ir": {"ir"},
    "passes": {"ir", "passes"},
    "schedulers": {"ir", "schedulers"},
    "targets": {"ir", "passes", "schedulers", "targets"},
    "report": {"ir", "passes", "targets/base", "report"},
    "presets": set(),
    "machines": set(),
    "config": {"ir", "config", "targets/base", "targets/declaration", "targets/registry"},
    "compilation": {"ir", "passes", "schedulers", "targets", "report", "presets", "config", "compilation"},
    "tools": {"ir", "passes", "schedulers", "targets", "report", "presets", "config", "compilation", "tools"},
    "compiler": {
        "compilation",
        "compiler",
        "tools",
        "ir",
        "passes",
        "schedulers",
        "targets",
        "report",
        "presets",
        "config",
    },
    "cli": {
        "cli",
        "tools",
        "ir",
        "passes",
        "schedulers",
        "targets",
        "report",
        "presets",
        "config",
        "compilation",
        "compiler",
    },
}
"""Folder or root module -> the folders, files and root modules that it may import."""

OPEN_TO: dict[str, tuple[str, ...]] = {
    "torch": ("ir", "passes", "targets", "compilation", "tools", "compiler"),
    "ortools": ("schedulers",),
    "onnx": ("targets/onnx",),
    "onnxruntime": ("targets/onnx",),
    "onnxscript": ("targets/onnx",),
    "onnx_ir": ("targets/onnx",),
    "triton": ("targets/triton",),
    "transformers": (),
    "pydantic": ("config",),
    "typer": ("cli",),
    "plotly": ("report",),
    "jinja2": ("report",),
    "pickle": (),
}
"""Third-party package -> the places that may import it; packages that are not listed are open to all."""

LAZY = ("onnx", "onnxruntime", "onnxscript", "ortools", "plotly", "typer", "jinja2", "transformers", "triton")


def package_files() -> list[Path]:
    roots = [path for path in ROOT.glob("*.py") if path.name != "setup.py"]
    folders = [ROOT / name for name in MAY_IMPORT if (ROOT / name).is_dir()]
    return sorted(roots + [path for folder in folders for path in folder.rglob("*.py")])


def place(path: Path) -> str:
    """`ir/graph.py` -> "ir", `cli.py` -> "cli"."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[0]


def runtime_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node of the tree outside `if TYPE_CHECKING:`."""
    stack: list[ast.AST] = [tree]
    while stack:
        node = stack.pop()
        yield node
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            stack.extend(node.orelse)
            continue
        stack.extend(ast.iter_child_nodes(node))


def imported(source: str, package: tuple[str, ...], *, types_too: bool = True) -> Iterator[tuple[int, str]]:
    """Line and absolute dotted name of each import, relative ones resolved against `package`."""
    tree = ast.parse(source)
    for node in ast.walk(tree) if types_too else runtime_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = [*base, *((node.module or "").split(".") if node.module else [])]
            yield from ((node.lineno, ".".join([*module, alias.name])) for alias in node.names)


def imports_of(path: Path) -> Iterator[tuple[int, str]]:
    package = ("instar", *path.relative_to(ROOT).parent.parts)
    return imported(path.read_text(encoding="utf-8"), package)


def test_relative_imports_resolve() -> None:
    source = "from ..ir.graph import Node\nfrom . import x\ndef f():\n    import onnx.helper\n"
    assert sorted(imported(source, ("instar", "passes"))) == [
        (1, "instar.ir.graph.Node"),
        (2, "instar.passes.x"),
        (4, "onnx.helper"),
    ]


def test_every_folder_of_the_package_has_a_rule() -> None:
    folders = {path.parent.name for path in ROOT.glob("[a-z]*/__init__.py")} - {"tests", "examples", "benchmarks"}
    modules = {path.stem for path in ROOT.glob("*.py")} - {"__init__", "setup"}
    assert folders | modules <= set(MAY_IMPORT)


def test_imports_run_one_way() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {place(path)} imports {name}"
        for path in package_files()
        if place(path) != "__init__"
        for line, name in imports_of(path)
        if name.startswith("instar.") and not may_import(place(path), name)
    ]
    assert wrong == []


def may_import(importer: str, name: str) -> bool:
    """Whether a folder or module may import `instar.targets.base.X`: its folder, or that one file, is listed."""
    _, folder, *rest = name.split(".")
    return folder in MAY_IMPORT[importer] or "/".join([folder, *rest[:1]]) in MAY_IMPORT[importer]


def test_third_party_packages_stay_in_their_place() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name} belongs to {', '.join(OPEN_TO[name.split('.')[0]]) or 'nobody'}"
        for path in package_files()
        for line, name in imports_of(path)
        if name.split(".")[0] in OPEN_TO and not is_open(path, name.split(".")[0])
    ]
    assert wrong == []


def is_open(path: Path, package: str) -> bool:
    where = path.relative_to(ROOT).with_suffix("").as_posix()
    return any(where == allowed or where.startswith(f"{allowed}/") for allowed in OPEN_TO[package])


def test_the_package_imports_itself_relatively() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in package_files()
        for line, name in imported(path.read_text(encoding="utf-8"), ("",))
        if name == "instar" or name.startswith("instar.")
    ]
    assert wrong == []


BLOCKED = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"blocked: {{name}}", name=name)

sys.meta_path.insert(0, Block())
import torch
before = set(sys.modules)
import instar
print(*sorted(set(sys.modules) - before))
"""


def modules_loaded_by(statement: str) -> set[str]:
    result = subprocess.run([sys.executable, "-c", statement], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return set(result.stdout.split())


def test_import_works_without_the_heavy_packages() -> None:
    loaded = modules_loaded_by(BLOCKED.format(blocked=LAZY))
    assert "instar" in loaded


def test_import_loads_little_beyond_torch() -> None:
    """A count instead of a time: what is not loaded cannot be slow."""
    loaded = modules_loaded_by("import sys, torch; b = set(sys.modules); import instar; print(*set(sys.modules) - b)")
    assert not {name.split(".")[0] for name in loaded} & set(LAZY)
    assert len({name for name in loaded if not name.startswith("instar")}) < 400
