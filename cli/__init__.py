"""The command line. Nothing heavy is imported before a command needs it, so that ``instar --help`` answers at once."""

from __future__ import annotations

from .app import app, main

__all__ = ["app", "main"]
