from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from instar.ir.errors import ConfigError, ParseError
from instar.ir.files import (
    atomic_path,
    atomic_write,
    atomic_write_bytes,
    atomic_write_json,
    atomic_write_text,
    check_writable,
    make_folder,
    parse_json,
    read_json,
    read_text,
)


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_write_then_read(tmp_path: Path) -> None:
    atomic_write_json(tmp_path / "a.json", {"b": [1, 2.5, None, True, "ä"], "a": {}})
    assert read_json(tmp_path / "a.json") == {"b": [1, 2.5, None, True, "ä"], "a": {}}
    assert (tmp_path / "a.json").read_text(encoding="utf-8").startswith('{\n  "b"')
    assert names(tmp_path) == ["a.json"]


@pytest.mark.parametrize("problem", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, problem: type[BaseException]) -> None:
    atomic_write_bytes(tmp_path / "a", b"old")
    with pytest.raises(problem), atomic_write(tmp_path / "a") as file:
        file.write(b"half of the new")
        raise problem
    assert (tmp_path / "a").read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_an_interrupted_first_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), atomic_path(tmp_path / "a.onnx") as temporary:
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt
    assert names(tmp_path) == []


def test_atomic_path_keeps_the_suffix_and_replaces_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"old")
    with atomic_path(tmp_path / "model.onnx") as temporary:
        assert temporary.suffix == ".onnx"
        assert temporary.parent == tmp_path
        temporary.write_bytes(b"new")
        assert (tmp_path / "model.onnx").read_bytes() == b"old"
    assert (tmp_path / "model.onnx").read_bytes() == b"new"


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    atomic_write_text(tmp_path / "ours", "x")
    (tmp_path / "theirs").write_text("x")
    ours, theirs = ((tmp_path / name).stat().st_mode for name in ("ours", "theirs"))
    assert stat.S_IMODE(ours) == stat.S_IMODE(theirs)


def test_writing_through_a_link_keeps_the_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    atomic_write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    for name in ("taken/x.safetensors", "taken/below/x.safetensors"):
        with pytest.raises(
            ConfigError, match=r"expected a folder to write to, found the file '.*taken'; choose another"
        ):
            atomic_write_text(tmp_path / name, "new")


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected the folder .*gone to exist, found nothing; create it first"):
        atomic_write_text(tmp_path / "gone" / "a", "x")


def test_target_is_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a file name to write to, found a folder"):
        atomic_write_text(tmp_path, "x")


@pytest.mark.parametrize(("name", "reason"), [("\0x", "null"), ("a" * 300, "File name too long")])
def test_names_that_no_file_has(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=f"expected the name of a file, found: .*{reason}.*; choose another one"):
        check_writable(tmp_path / name)


def test_long_names_have_shorter_temporary_ones(tmp_path: Path) -> None:
    with atomic_path(tmp_path / ("a" * 250)) as temporary:
        temporary.write_bytes(b"whole")
    assert (tmp_path / ("a" * 250)).read_bytes() == b"whole"


def test_nan_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        atomic_write_json(tmp_path / "a.json", {"a": float("nan")})
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1,\n "b" 2}', r"file:2:6: expected JSON, found: Expecting ':' delimiter"),
        ('{"a": 1, "a": 2}', "file: expected strict JSON, found the key 'a' twice in one object"),
        ("[NaN]", "file: expected strict JSON, found NaN, which is not a JSON number"),
        ("[1e999]", "found 1e999, which does not fit a float"),
        ("[" * 100_000, "nested too deeply"),
        ("", r"file:1:1: expected JSON, found: Expecting value"),
    ],
)
def test_what_strict_json_refuses(text: str, message: str) -> None:
    with pytest.raises(ParseError, match=message):
        parse_json(text, "file")


def test_reading_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ParseError, match="expected a file, found nothing; check the path"):
        read_json(tmp_path / "a.json")
    with pytest.raises(ConfigError, match="expected a file, found a folder"):
        read_text(tmp_path, error=ConfigError)


def test_reading_too_much(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[" + "1," * 1000 + "1]")
    with pytest.raises(ParseError, match=r"expected at most 0.001 MB, found more"):
        read_json(tmp_path / "a.json", max_bytes=1000)


def test_reading_what_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'["\xff"]')
    with pytest.raises(ParseError, match="expected UTF-8 text, found the byte 0xff at 2"):
        read_json(tmp_path / "a.json")


def test_a_byte_order_mark_is_tolerated(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf[1]")
    assert read_json(tmp_path / "a.json") == [1]


def test_a_write_that_the_system_refuses_names_the_file(tmp_path: Path) -> None:
    atomic_write_bytes(tmp_path / "a", b"old")
    message = r"a: expected a file that can be written, found: No space left on device; nothing was changed"
    with pytest.raises(ConfigError, match=message), atomic_write(tmp_path / "a") as file:
        file.write(b"half of the new")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert (tmp_path / "a").read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_folders_are_made_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert make_folder(tmp_path / "b" / "c", "--out").is_dir()
    assert make_folder(tmp_path / "b" / "c", "--out").is_dir()
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match=r"--out: expected a folder, found the file '.*file'; choose another one"):
            make_folder(path, "--out")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(
        ConfigError, match=r"--out: expected a folder that can be made, found '.*d': Permission denied;"
    ):
        make_folder(tmp_path / "d", "--out")
