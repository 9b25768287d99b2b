"""``mgcface warm-up`` compiles everything that a photo needs, also where nothing may be written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from backend.geometry import kernel_cache

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "astronaut.jpg"
COMPILED = "*.nbc"


def run(arguments: list[str], **environment: str) -> None:
    command = [sys.executable, "-m", "backend.cli", *arguments]
    subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, check=True, timeout=600)


def test_after_warming_up_a_photo_compiles_nothing(tmp_path):
    cache = tmp_path / "cache"
    run(["warm-up", "--quiet"], NUMBA_CACHE_DIR=str(cache))
    before = {path: path.stat().st_mtime_ns for path in cache.rglob(COMPILED)}
    assert len(before) > 8
    run(["reconstruct", str(EXAMPLE), "--out", str(tmp_path / "out"), "--quiet"], NUMBA_CACHE_DIR=str(cache))
    assert {path: path.stat().st_mtime_ns for path in cache.rglob(COMPILED)} == before


def test_without_a_place_for_the_cache_the_process_gets_one(monkeypatch):
    class NoPlace:
        @classmethod
        def from_function(cls, function, path):
            return None

    from numba.core import caching, config

    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [NoPlace])
    monkeypatch.setattr(config, "CACHE_DIR", "")
    with pytest.raises(RuntimeError, match="locator"):
        kernel_cache.njit(cache=True)(lambda: 1)
    folder = kernel_cache.ensure_place()
    assert folder is not None and Path(folder).is_dir() and config.CACHE_DIR == folder


def test_a_place_that_is_there_is_kept():
    assert kernel_cache.ensure_place() is None
