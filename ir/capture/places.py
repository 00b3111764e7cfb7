"""Lines of the user's own source: which files are theirs, and how a line is named."""

from __future__ import annotations

import linecache
import re
import sysconfig
import traceback
from pathlib import Path
from typing import cast

_PACKAGE = str(Path(__file__).parents[2])
_STANDARD = sysconfig.get_paths()["stdlib"]


def is_users(path: str) -> bool:
    """Whether a source file is neither torch's, nor the standard library's, nor instar's."""
    plain = path.replace("\\", "/")
    if "/torch/" in plain or plain.startswith(("<", _PACKAGE + "/ir/")):
        return False
    return not plain.startswith(_STANDARD) or "site-packages" in plain


def short_place(path: str, line: int | str) -> str:
    """``file.py:12``."""
    return f"{path.replace(chr(92), '/').rsplit('/', 1)[-1]}:{line}"


def shown_line(path: str, line: int) -> str:
    """``file.py:12 (x = x + 1)``."""
    code = linecache.getline(path, line).strip()
    return f"{short_place(path, line)} ({code[:100]})" if code else short_place(path, line)


def user_line(trace: str) -> str:
    """``file.py:12`` of the innermost frame of a stack trace that is the user's; empty where none is."""
    frames = cast("list[tuple[str, str]]", re.findall(r'File "([^"]+)", line (\d+)', trace))
    own = [f for f in frames if is_users(f[0])]
    return short_place(*own[-1]) if own else ""


def running_line(package: str) -> str:
    """The innermost line that runs now, is the user's, and lies above one of torch's; empty where none is.

    Args:
        package: a folder whose files are not the user's, beside those of :func:`is_users`.
    """
    for frame, line in traceback.walk_stack(None):
        path = frame.f_code.co_filename
        if is_users(path) and not path.startswith(package):
            return shown_line(path, line)
    return ""
