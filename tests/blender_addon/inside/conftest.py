"""Runs inside Blender's Python: the extension installed from its zip as an artist would, scenes to work in.

Environment: MGCFACE_ZIP, the extension; MGCFACE_HEADS, the folder that make_heads.py wrote; MGCFACE_PYTHON, a
Python with the engine, for the tests that talk to a real backend.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

# Before `import bpy`: settings of its own, so that nobody's Blender is touched.
os.environ["BLENDER_USER_RESOURCES"] = tempfile.mkdtemp(prefix="mgcface-blender-")

import bpy

ADDON = "bl_ext.user_default.mgcface"


@pytest.fixture(scope="session", autouse=True)
def extension():
    answer = bpy.ops.extensions.package_install_files(
        repo="user_default", filepath=os.environ["MGCFACE_ZIP"], enable_on_install=True
    )
    assert answer == {"FINISHED"}
    assert ADDON in bpy.context.preferences.addons
    yield sys.modules[ADDON]
    import addon_utils

    addon_utils.disable(ADDON, default_set=True)


@pytest.fixture(autouse=True)
def scene(extension):
    """An empty file; not the factory settings, which would disable the extension."""
    bpy.ops.wm.read_homefile(use_factory_startup=True, use_empty=True)
    return bpy.context.scene


@pytest.fixture(scope="session")
def addon():
    """A function: a module of the add-on by its name, such as ``scene.build``."""
    return lambda name: import_module(f"{ADDON}.{name}")


@pytest.fixture(scope="session")
def heads_folder() -> Path:
    return Path(os.environ["MGCFACE_HEADS"])


def load(path: Path) -> tuple[dict, dict[str, np.ndarray]]:
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    return json.loads(arrays.pop("header").tobytes()), arrays


@pytest.fixture(scope="session")
def messages(heads_folder):
    """(header, arrays) of the model's and of the face's message, as the backend would send them."""
    return load(heads_folder / "model.npz"), load(heads_folder / "face.npz")


@pytest.fixture(scope="session")
def model(addon, messages):
    return addon("scene.head_data").FaceModel.from_message(*messages[0])


@pytest.fixture(scope="session")
def head(addon, model, messages, heads_folder):
    return addon("scene.head_data").Head.from_message(model, *messages[1], str(heads_folder / "astronaut.jpg"))


@pytest.fixture
def build(addon, scene):
    """A function: build a head in the scene to the end; its object."""
    module = addon("scene.build")

    def make(head, place=0, **options):
        builder = module.Builder(head, module.BuildOptions(**options), place, {"model": "open-head"})
        while not builder.step():
            pass
        return next(obj for obj in bpy.data.collections[builder.collection].objects if obj.type == "MESH")

    return make


_status = 0


def pytest_sessionfinish(session, exitstatus):
    global _status
    _status = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config):
    """What a failed test left registered crashes bpy 4.2 and hangs 4.5 at Python's clean-up: leave without it."""
    sys.stdout.flush()
    sys.stderr.flush()
    shutil.rmtree(os.environ["BLENDER_USER_RESOURCES"], ignore_errors=True)
    os._exit(_status)
