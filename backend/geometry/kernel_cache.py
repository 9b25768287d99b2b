"""A place for Numba to keep compiled code, made sure of before the first kernel asks for it.

Numba keeps the code beside its source, or in the user's cache folder where the source may not be written.
Where neither may, it refuses to compile anything that is to be kept; such a process gets a folder of its own.
Modules with kernels take ``njit`` from here.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from importlib import import_module
from typing import Any

from numba import njit

__all__ = ["njit"]


def ensure_place() -> str | None:
    """The folder that was made for this process, None where Numba has a place already."""
    try:
        njit(cache=True)(_probe)
    except RuntimeError:  # Numba's "no locator available"
        folder = tempfile.mkdtemp(prefix="mgcface-numba-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        config: Any = import_module("numba.core.config")
        config.CACHE_DIR = folder
        return folder
    return None


def _probe():
    """Never called and never compiled: marking it is enough for Numba to look for a place."""


ensure_place()
