"""Photos of one person with a real backend: one head, a camera on every photo, and what became of each."""

from __future__ import annotations

import json
import os

import bpy
import numpy as np
import pytest
from backend_in_use import heads, state, use_backend
from bpy_extras.object_utils import world_to_camera_view
from mathutils import Vector
from person_scene import PHOTOS, cameras, expressions, landmarks, lay_on, one_person, seen_at


@pytest.fixture(autouse=True)
def python(extension, scene):
    scene.mgcface.texture_size = "0"
    return use_backend(extension)


@pytest.fixture
def no_face(tmp_path, addon) -> str:
    path = tmp_path / "wall.png"
    path.write_bytes(addon("scene.png").png_bytes(np.full((300, 300, 3), 120, np.uint8)))
    return str(path)


def listed(folder, *names: str) -> None:
    bpy.ops.mgcface.add_photos(directory=str(folder), files=[{"name": name} for name in names])


@pytest.mark.parametrize("placement", ["ORIGIN", "CAMERA"])
def test_one_head_with_a_camera_on_every_photo(heads_folder, placement, record_property):
    scene = bpy.context.scene
    scene.mgcface.placement, scene.mgcface.texture_size = placement, "1024"
    assert one_person(heads_folder, *PHOTOS) == {"FINISHED"}
    (head,) = heads()
    record = json.loads(head["mgcface_record"])
    main = PHOTOS[record["main_photo"]]
    collection = head.users_collection[0]
    assert collection.name == os.path.splitext(main)[0]
    assert sorted(obj.type for obj in collection.objects) == ["CAMERA"] * 3 + ["EMPTY", "LIGHT", "MESH"]
    found, acts = cameras(head), expressions()
    assert set(found) == set(acts) == set(PHOTOS) and scene.camera == found[main]
    assert found[main]["mgcface_role"] == "camera"
    truth = np.load(heads_folder / "truth.npz")
    for name, camera in found.items():
        (background,) = camera.data.background_images
        assert os.path.basename(background.image.filepath) == name and camera.data.show_background_images
        entry = record["photos"][PHOTOS.index(name)]
        assert list(camera["mgcface_photo_size"]) == [entry["width"], entry["height"]]
        lay_on(head, acts[name])
        bpy.context.view_layer.objects.active = camera
        assert bpy.ops.mgcface.look_through() == {"FINISHED"} and scene.camera == camera
        assert (scene.render.resolution_x, scene.render.resolution_y) == (entry["width"], entry["height"])
        points = landmarks(head, truth)
        seen = np.array([world_to_camera_view(scene, camera, Vector(point))[:2] for point in points])
        pixels = np.stack([seen[:, 0] * entry["width"], (1.0 - seen[:, 1]) * entry["height"]], axis=1)
        # The engine's own projection of what Blender shows: only arithmetic may differ.
        K, R, t = (np.array(entry["camera"][key]) for key in "KRt")
        keys = head.data.shape_keys.key_blocks
        for key, value in entry["expression"].items():
            assert keys[key].value == pytest.approx(value, abs=1e-6)
        local = (np.array(head.matrix_world.inverted()) @ np.c_[points, np.ones(len(points))].T).T[:, :3]
        model = np.stack([local[:, 0], local[:, 2], -local[:, 1]], axis=1)
        projected = (model @ R.T + t) @ K.T
        assert np.abs(pixels - projected[:, :2] / projected[:, 2:]).max() < 0.05
        # And the head lies on the photo: where the fit of the astronaut alone has the same landmarks.
        off = np.linalg.norm(pixels - seen_at(name, truth["landmarks"]), axis=1)
        record_property(f"{name} {placement} median px", round(float(np.median(off)), 2))
        assert np.median(off) < 1.0, f"{name}: {np.median(off):.2f} px, where the face is 130 px high"


def test_the_list_and_the_switch_of_the_panel(heads_folder, no_face):
    listed(heads_folder, "astronaut.jpg", "closer.jpg")
    listed(os.path.dirname(no_face), "wall.png")
    bpy.context.scene.mgcface.same_person = bpy.context.scene.mgcface.all_faces = True
    assert bpy.ops.mgcface.reconstruct() == {"FINISHED"}
    assert [photo.state for photo in state().photos] == ["DONE", "DONE", "FAILED"]
    assert "No face" in state().photos[2].note
    assert state().result.startswith("1 head made from 2 of 3 photos. No face")
    (head,) = heads()
    assert len(cameras(head)) == head["mgcface_photos_used"] == 2 and len(json.loads(head["mgcface_photos"])) == 3
    # The main photo's expression is the head's, which nothing animates.
    assert head.data.shape_keys.animation_data is None
    record = json.loads(head["mgcface_record"])
    for key, value in record["expression"].items():
        assert head.data.shape_keys.key_blocks[key].value == pytest.approx(value, abs=1e-6)


def test_one_photo_is_a_head_as_ever(heads_folder):
    listed(heads_folder, "astronaut.jpg")
    bpy.context.scene.mgcface.same_person = True
    assert bpy.ops.mgcface.reconstruct() == {"FINISHED"}
    (head,) = heads()
    assert "mgcface_photos" not in head and not expressions() and state().result.startswith("1 head made.")


def test_a_script_may_switch_it_off(heads_folder):
    bpy.context.scene.mgcface.same_person = True
    files = [{"name": name} for name in PHOTOS[:2]]
    assert bpy.ops.mgcface.reconstruct(directory=str(heads_folder), files=files, same_person=False) == {"FINISHED"}
    assert len(heads()) == 2


def test_refit_takes_all_photos_again(heads_folder, tmp_path):
    for name in PHOTOS:
        (tmp_path / name).write_bytes((heads_folder / name).read_bytes())
    assert one_person(tmp_path, *PHOTOS) == {"FINISHED"}
    (head,) = heads()
    before = {name: camera.matrix_basis.copy() for name, camera in cameras(head).items()}
    keys = head.data.shape_keys.key_blocks
    basis = np.empty(len(head.data.vertices) * 3, np.float32)
    keys["Basis"].points.foreach_get("co", basis)
    keys["Basis"].points.foreach_set("co", basis + np.float32(0.05))
    for camera in cameras(head).values():
        camera.matrix_basis.translation.x += 1.0
    bpy.context.view_layer.objects.active = cameras(head)["tilted.jpg"]
    assert bpy.ops.mgcface.refit() == {"FINISHED"}
    assert state().result.startswith("1 head updated from 3 of 3 photos.") and heads() == [head]
    found = np.empty_like(basis)
    keys["Basis"].points.foreach_get("co", found)
    assert np.abs(found - basis).max() < 1e-6
    for name, camera in cameras(head).items():
        assert np.abs(np.array(camera.matrix_basis) - np.array(before[name])).max() < 1e-6
    (tmp_path / "closer.jpg").unlink()
    with pytest.raises(RuntimeError, match=r"closer\.jpg is gone"):
        bpy.ops.mgcface.refit()


def test_a_photo_that_lies_on_its_side_is_behind_its_camera_upright(heads_folder):
    assert one_person(heads_folder, "astronaut.jpg", "turned.jpg") == {"FINISHED"}
    (head,) = heads()
    image = cameras(head)["turned.jpg"].data.background_images[0].image
    assert tuple(image.size) == (440, 512) and image.packed_file


def test_without_a_face_in_any_photo_it_is_a_sentence(no_face, tmp_path):
    (tmp_path / "other.png").write_bytes((tmp_path / "wall.png").read_bytes())
    with pytest.raises(RuntimeError, match="No face"):
        one_person(tmp_path, "wall.png", "other.png")
    assert not heads() and not bpy.data.actions


def test_a_backend_that_does_not_know_it_is_a_sentence(heads_folder, addon, monkeypatch):
    """Known before a job, the switch is grey; before the first connection, the job says it."""
    if bpy.ops.mgcface.stop_backend.poll():
        bpy.ops.mgcface.stop_backend()
    bpy.ops.mgcface.start_backend()
    link, properties = addon("service").link(), addon("properties")
    assert properties.not_one_person(2) == "" and properties.not_one_person(1) == "needs 2 photos"
    assert properties.not_one_person(101) == "100 photos at most"
    hello = dict(link.status.hello, capabilities=["reconstruct"])
    monkeypatch.setattr(link._client, "server", hello)
    with pytest.raises(RuntimeError, match="update it"):
        one_person(heads_folder, *PHOTOS[:2])
    link.status = addon("link.events").Status("ready", "", hello)
    assert properties.not_one_person(2) == "update the backend"
    bpy.ops.mgcface.stop_backend()


def test_a_half_built_person_leaves_nothing(addon, heads_folder, scene):
    """Undo takes data-blocks away between two steps; what is left is swept."""
    events = []
    build = addon("scene.build")
    real = build.Builder.step

    def stop_late(self):
        over = real(self)
        if len(bpy.data.actions) == 2 and not events:
            events.append(1)
            addon("jobs").pulled_away()
        return over

    build.Builder.step = stop_late
    try:
        assert one_person(heads_folder, *PHOTOS) == {"FINISHED"}
    finally:
        build.Builder.step = real
    assert events and len(heads()) == 1 and len(bpy.data.actions) == 3 and len(bpy.data.cameras) == 3
