"""The list, the polls, the presets: what can be tested without a window. Drawing and clicks are in `window/`."""

from __future__ import annotations

import os

import bpy
import pytest


@pytest.fixture(autouse=True)
def empty_list(extension):
    bpy.context.window_manager.mgcface.photos.clear()
    return bpy.context.window_manager.mgcface


def add(folder, *names):
    for name in names:
        (folder / name).write_bytes(b"")
    return bpy.ops.mgcface.add_photos(directory=str(folder), files=[{"name": name} for name in names])


def names() -> list[str]:
    return [photo.name for photo in bpy.context.window_manager.mgcface.photos]


def test_photos_are_added_once_reordered_and_removed(tmp_path, empty_list):
    assert add(tmp_path, "a.jpg", "b.PNG", "c.heic") == {"FINISHED"}
    assert add(tmp_path, "a.jpg") == {"CANCELLED"} and names() == ["a.jpg", "b.PNG", "c.heic"]
    empty_list.active = 0
    bpy.ops.mgcface.move_photo(direction="DOWN")
    assert names() == ["b.PNG", "a.jpg", "c.heic"] and empty_list.active == 1
    assert bpy.ops.mgcface.move_photo(direction="DOWN") == {"FINISHED"}
    assert bpy.ops.mgcface.move_photo(direction="DOWN") == {"CANCELLED"}
    bpy.ops.mgcface.remove_photo()
    assert names() == ["b.PNG", "c.heic"]
    bpy.ops.mgcface.clear_photos()
    assert names() == []
    assert not bpy.ops.mgcface.remove_photo.poll()


def test_what_is_no_photo_is_not_added(tmp_path):
    assert add(tmp_path, "notes.txt") == {"CANCELLED"} and names() == []


def test_the_list_is_locked_while_a_job_runs(tmp_path, empty_list):
    add(tmp_path, "a.jpg")
    empty_list.running = True
    try:
        assert not bpy.ops.mgcface.remove_photo.poll() and not bpy.ops.mgcface.add_photos.poll()
        assert not bpy.ops.mgcface.reconstruct.poll() and bpy.ops.mgcface.cancel.poll()
    finally:
        empty_list.running = False
    assert not bpy.ops.mgcface.cancel.poll()


def test_without_a_backend_the_button_is_grey_and_says_why(extension, addon):
    preferences = bpy.context.preferences.addons[extension.__name__].preferences
    preferences.source = "OWN"
    assert "Set Up Backend" in addon("service").missing()
    with pytest.raises(RuntimeError, match="Set Up Backend"):
        bpy.ops.mgcface.reconstruct(filepath="/nowhere.jpg")
    preferences.source = "REMOTE"
    preferences.connection_file = ""
    assert "connection file" in addon("service").missing()


def test_set_up_honours_online_access(extension):
    bpy.context.preferences.addons[extension.__name__].preferences.source = "OWN"
    assert not bpy.app.online_access
    with pytest.raises(RuntimeError, match="may not go online"):
        bpy.ops.mgcface.set_up_backend()


def test_the_zip_brings_engine_and_licence(addon):
    wheel, constraints = addon("operators.backend").engine_files()
    assert wheel.name.startswith("mgcface-") and constraints.is_file()
    assert (wheel.parents[1] / "LICENSE").read_text().lstrip().startswith("GNU GENERAL PUBLIC LICENSE")


def test_pyzmq_is_the_one_that_came_with_the_extension():
    import zmq

    assert ".local" in zmq.__file__


def test_the_protocol_is_the_copy_inside(addon):
    import sys

    assert addon("protocol.wire").PROTOCOL == 1
    assert not [name for name in sys.modules if name == "backend" or name.startswith("backend.")]


@pytest.mark.parametrize("preset", ["Default", "Quick_Look", "Game_Head"])
def test_presets_set_the_options(preset):
    options = bpy.context.scene.mgcface
    options.texture_size, options.scale = "4096", 7.0
    (path,) = [
        os.path.join(folder, f"{preset}.py")
        for folder in bpy.utils.preset_paths("mgcface/options")
        if os.path.exists(os.path.join(folder, f"{preset}.py"))
    ]
    bpy.ops.script.execute_preset(filepath=path, menu_idname="MGCFACE_MT_presets")
    assert options.scale == 1.0 and options.texture_size in ("1024", "2048")
    assert options.camera is (preset != "Game_Head")


def test_an_own_preset_is_kept(extension):
    options = bpy.context.scene.mgcface
    options.scale = 3.0
    bpy.ops.mgcface.add_preset(name="mine")
    options.scale = 1.0
    (path,) = [p for p in bpy.utils.preset_paths("mgcface/options") if os.path.exists(os.path.join(p, "mine.py"))]
    bpy.ops.script.execute_preset(filepath=os.path.join(path, "mine.py"), menu_idname="MGCFACE_MT_presets")
    assert options.scale == 3.0


def test_sentences_are_broken_at_spaces(addon):
    lines = addon("panels").lines_of("No face was found in this photo: try a sharper one.", 20)
    assert all(len(line) <= 20 for line in lines)
    assert " ".join(lines) == "No face was found in this photo: try a sharper one."


def test_photos_dropped_elsewhere_stay_blenders(addon):
    handler = addon("operators.photos").MGCFACE_FH_photos
    assert not handler.poll_drop(bpy.context), "there is no sidebar in background mode"
    assert handler.bl_import_operator == "mgcface.add_photos" and ".heic" in handler.bl_file_extensions


def test_disable_and_enable_leave_nothing_registered(extension):
    import addon_utils

    before = {name for name in dir(bpy.types) if "MGCFACE" in name}
    addon_utils.disable(extension.__name__, default_set=True)
    assert not [name for name in dir(bpy.types) if "MGCFACE" in name]
    assert not hasattr(bpy.types.Scene, "mgcface")
    handlers = [h for kind in ("undo_post", "redo_post", "load_post") for h in getattr(bpy.app.handlers, kind)]
    assert not [handler for handler in handlers if "mgcface" in handler.__module__]
    addon_utils.enable(extension.__name__, default_set=True)
    assert {name for name in dir(bpy.types) if "MGCFACE" in name} == before
