"""Photos as artists bring them: from phones, with several faces, of several people."""

from __future__ import annotations

import json
import os
import time

import bpy
import numpy as np
import pytest
from backend_in_use import heads, state, use_backend

# What one place in a row of heads is wide (scene/build.py), metres.
PLACE_M = 0.4


@pytest.fixture(autouse=True)
def python(extension):
    return use_backend(extension)


def part(head, role: str):
    return next(each for each in head.parent.children if each.get("mgcface_role") == role)


def backdrop(head) -> np.ndarray:
    """(H, W, 3) the picture behind the head, row 0 at the top."""
    image = part(head, "camera").data.background_images[0].image
    pixels = np.empty(image.size[0] * image.size[1] * 4, np.float32)
    image.pixels.foreach_get(pixels)
    return pixels.reshape(image.size[1], image.size[0], 4)[::-1, :, :3]


def add(folder, *names: str) -> None:
    bpy.ops.mgcface.add_photos(directory=str(folder), files=[{"name": name} for name in names])
    assert [photo.name for photo in state().photos] == list(names)


@pytest.mark.parametrize("name", ["turned.jpg", "phone.heic"])
def test_a_phones_photo_stands_upright_behind_the_head(heads_folder, name):
    assert bpy.ops.mgcface.reconstruct(filepath=str(heads_folder / name)) == {"FINISHED"}
    (head,) = heads()
    shown = backdrop(head)
    assert shown.shape[:2] == (512, 440)
    image = bpy.data.images.load(str(heads_folder / "astronaut.jpg"))
    truth = np.empty(512 * 512 * 4, np.float32)
    image.pixels.foreach_get(truth)
    truth = truth.reshape(512, 512, 4)[::-1, :440, :3]
    assert np.abs(shown - truth).mean() < 0.02
    assert (head.name, bpy.context.scene.render.resolution_x) == (os.path.splitext(name)[0], 440)


def test_every_face_of_a_photo_gets_a_collection_of_its_own(heads_folder):
    options = bpy.context.scene.mgcface
    options.all_faces, options.placement, options.texture_size = True, "CAMERA", "0"
    assert bpy.ops.mgcface.reconstruct(filepath=str(heads_folder / "two.jpg")) == {"FINISHED"}
    one, other = sorted(heads(), key=lambda head: head["mgcface_face"])
    assert one.users_collection[0] != other.users_collection[0]
    assert [head["mgcface_face"] for head in (one, other)] == [0, 1]
    bpy.context.view_layer.update()
    # Both as one camera saw them: the cameras stand at the same place, the heads beside each other.
    cameras = [np.array(part(head, "camera").matrix_world) for head in (one, other)]
    assert cameras[0][:3, :3] == pytest.approx(cameras[1][:3, :3], abs=1e-5)
    assert cameras[0][:3, 3] == pytest.approx(cameras[1][:3, 3], abs=1e-5)
    assert (one.matrix_world.translation - other.matrix_world.translation).length > 0.1
    # Refit of the second face finds the second face again.
    bpy.context.view_layer.objects.active = other
    before = np.array(json.loads(other["mgcface_record"])["camera"]["t"])
    assert bpy.ops.mgcface.refit() == {"FINISHED"}
    assert len(heads()) == 2 and other["mgcface_face"] == 1
    assert json.loads(other["mgcface_record"])["camera"]["t"] == pytest.approx(before, abs=1e-4)


def test_several_people_stand_side_by_side_in_the_order_of_the_list(heads_folder):
    bpy.context.scene.mgcface.texture_size = "1024"
    add(heads_folder, "phone.heic", "astronaut.jpg", "turned.jpg")
    bpy.ops.mgcface.move_photo(direction="UP")
    assert bpy.ops.mgcface.reconstruct() == {"FINISHED"}
    assert state().result == "3 heads made."
    bpy.context.view_layer.update()
    row = sorted(heads(), key=lambda head: head.matrix_world.translation.x)
    assert [head.name for head in row] == ["phone", "turned", "astronaut"]
    places = [head.matrix_world.translation.x for head in row]
    assert np.diff(places) == pytest.approx([PLACE_M, PLACE_M], abs=1e-5)
    assert {head.users_collection[0].name for head in row} == {"phone", "turned", "astronaut"}
    assert [part(head, "sun").hide_render for head in row] == [False, True, True]


def test_the_time_from_click_to_head_is_told_beside_the_engines(heads_folder, addon, record_property, monkeypatch):
    """The middle of five jobs with a warm backend, and where its time went: what was waited for, what was computed."""
    jobs, build = addon("jobs"), addon("scene.build")
    photo, parts = str(heads_folder / "astronaut.jpg"), []
    heard: list[float] = []
    take = jobs.Job._take

    def taken(self, event):
        heard.append(time.perf_counter())
        take(self, event)

    monkeypatch.setattr(jobs.Job, "_take", taken)
    for _ in range(6):
        heard.clear()
        began, computed = time.perf_counter(), time.process_time()
        job = jobs.Job([photo], [-1], {"model": "open-head", "texture_size": 1024}, build.BuildOptions())
        job.start()
        while not job.pump():
            time.sleep(0.005)
        took, busy = time.perf_counter() - began, time.process_time() - computed
        record = json.loads(bpy.data.objects[job.made[0]]["mgcface_record"])
        engine = sum(record["timings_ms"].values()) / 1000.0
        parts.append(
            {
                "engine": engine,
                "over_engine": took - engine,
                "to_the_first_word": heard[0] - began,
                "from_then_to_the_last_over_engine": heard[-1] - heard[0] - engine,
                "from_then_to_the_end": began + took - heard[-1],
                "processor_time_in_blender": busy,
            }
        )
    middle = sorted(parts[1:], key=lambda part: part["over_engine"])[2]
    for name, seconds in middle.items():
        record_property(f"click_to_head_{name}_ms", round(1000 * seconds))
    # Each with its own engine's time, not with that of another job.
    assert len(heads()) == len({part["engine"] for part in parts}) == 6
