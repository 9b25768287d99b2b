"""The extension's zip and the messages that the tests inside Blender work with, made once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

import blender as blender_environments  # noqa: E402 - scripts/ is no package

import build_addon  # noqa: E402

# These run inside Blender: see test_in_blender.py and test_windowed.py.
collect_ignore = ["inside", "window"]


def environment_python(version: str) -> Path:
    """The Python with one Blender in it, as scripts/blender.py makes it; skips where it was not made."""
    release, _ = blender_environments.MODULES[version]
    place = Path(blender_environments.folder()) / version
    if not (place / f"bpy-{release}.stamp").exists():
        pytest.skip(f"Blender {version} is not here: python3 scripts/blender.py {version}")
    return place / "bin" / "python" if sys.platform != "win32" else place / "Scripts" / "python.exe"


@pytest.fixture(scope="session")
def archive(tmp_path_factory) -> Path:
    """The zip, built and validated by Blender as for a release."""
    try:
        build_addon.validator()
    except build_addon.BuildError as error:
        pytest.skip(str(error))
    return build_addon.build(tmp_path_factory.mktemp("addon"))


@pytest.fixture(scope="session")
def heads(tmp_path_factory) -> Path:
    """The folder that make_heads.py fills."""
    folder = tmp_path_factory.mktemp("heads")
    subprocess.run([sys.executable, str(Path(__file__).with_name("make_heads.py")), str(folder)], check=True)
    return folder
