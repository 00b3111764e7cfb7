"""One bundle and one check, measured once for all tests of devices."""

from __future__ import annotations

import pytest

import instar

from .device_case import FORMATS, THREADS, Played, X, measured, net, planned


@pytest.fixture(scope="session")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    bundle = tmp_path_factory.mktemp("device") / "bundle"
    found = instar.profile(net(), (X,), out=bundle, formats=FORMATS, target_options=THREADS)
    assert found.holds.networks >= 3
    result = measured(bundle)
    assert result.returncode == 0, result.stderr
    return Played(bundle, bundle / "device.json")


@pytest.fixture(scope="session")
def checked(played: Played, tmp_path_factory: pytest.TempPathFactory) -> Played:
    folder = tmp_path_factory.mktemp("check")
    compiled = planned(played.answer, {"size": "50%", "latency": "500%"})
    instar.write_check(compiled, folder / "check")
    result = measured(folder / "check")
    assert result.returncode == 0, result.stderr
    found = instar.confirm(folder / "check/device.json")
    assert found.problems == ()
    (shape,) = found.found.shapes
    assert found.found.nbytes == compiled.nbytes
    assert shape.predicted.artifact_ms == compiled.timings[0].artifact_ms
    assert shape.median_ms is not None
    assert shape.difference == 0.0, "the same runtime on the same machine"
    notes = found.added_to(compiled.report).data.notes
    assert any(note.startswith("confirmed at 8x64: ") and "ms were predicted" in note for note in notes)
    return Played(folder / "check", folder / "check/device.json")
