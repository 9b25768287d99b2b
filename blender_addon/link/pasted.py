# SPDX-License-Identifier: GPL-3.0-or-later
"""Paths in pasted text, as file managers and terminals copy them. No bpy in here."""

from __future__ import annotations

import os
from urllib.parse import unquote, urlsplit

QUOTES = "\"'"


def paths_in(text: str) -> list[str]:
    """One path from each line: plain, in quotes, with ~, or as a ``file://`` address."""
    return [path for path in map(_path, text.splitlines()) if path]


def _path(line: str) -> str:
    line = line.strip()
    if len(line) > 1 and line[0] in QUOTES and line[-1] == line[0]:
        line = line[1:-1]
    if line.lower().startswith("file:"):
        path = unquote(urlsplit(line).path)
        # file:///C:/photos/a.jpg has a slash before the drive.
        return path[1:] if len(path) > 2 and path[0] == "/" and path[2] == ":" else path
    return os.path.expanduser(line)
