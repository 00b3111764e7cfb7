"""Weights in a file of their own: the same numbers, replaced together or not at all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from instar.ir.capture import capture
from instar.ir.errors import LoweringError
from instar.ir.plan import Plan
from instar.targets.legalize import legalize
from instar.targets.onnx import artifact as artifact_module
from instar.targets.onnx import external
from instar.targets.onnx.artifact import OnnxArtifact
from instar.targets.onnx.options import OnnxOptions
from instar.targets.onnx.session import make_session, run
from instar.targets.onnx.target import OnnxTarget


def built(option: str, seed: int = 0) -> OnnxArtifact:
    torch.manual_seed(seed)
    graph = capture(nn.Linear(64, 64).eval(), (torch.randn(2, 64),))
    target = OnnxTarget(replace(OnnxOptions(), external_data=option))
    plan = Plan((), graph.fingerprint(), "onnx")
    return target.build(legalize(target, graph, plan)[0], plan, [[torch.randn(2, 64)]])


def test_two_files_that_load_and_agree(tmp_path: Path) -> None:
    artifact = built("always")
    paths = artifact.save(tmp_path / "model.onnx")
    assert [Path(p).name for p in paths] == ["model.onnx", "model.onnx.data"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    assert sum(Path(p).stat().st_size for p in paths) == artifact.nbytes
    assert Path(paths[0]).stat().st_size < 64 * 64 * 4
    onnx.checker.check_model(paths[0])
    x = torch.randn(2, 64)
    session = make_session(paths[0], threads=1)
    (found,) = run(session, {session.get_inputs()[0].name: x.numpy()})
    assert torch.equal(torch.from_numpy(found), artifact.run([x])[0])


def test_an_unloaded_artifact_loads_again() -> None:
    artifact, x = built("always"), torch.randn(2, 64)
    (before,) = artifact.run([x])
    artifact.unload()
    artifact.unload()  # nothing is loaded: nothing happens
    assert torch.equal(artifact.run([x])[0], before)


def test_saving_twice_gives_equal_files(tmp_path: Path) -> None:
    artifact = built("always")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        artifact.save(tmp_path / name / "model.onnx")
    for name in ("model.onnx", "model.onnx.data"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_above_the_limit_weights_go_into_a_file_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifact_module, "PROTOBUF_LIMIT", 1000)
    assert len(built("auto").save(tmp_path / "model.onnx")) == 2
    with pytest.raises(LoweringError, match=r"expected at most 2 GB in one file, found .*external_data to 'auto'"):
        built("never")


@pytest.mark.parametrize("moves", [0, 1, 2])
def test_an_interruption_leaves_the_old_pair(moves: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted after so many of the renames: the old data aside, the new data in place, the new model in place."""
    built("always").save(tmp_path / "model.onnx")
    old = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    newer = built("always", seed=1)
    real, done = Path.replace, 0

    def replace(path: Path, to: Path) -> Path:
        nonlocal done
        if done == moves:
            done += 1
            raise KeyboardInterrupt
        done += 1
        return real(path, to)

    monkeypatch.setattr(external.Path, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        newer.save(tmp_path / "model.onnx")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == old
