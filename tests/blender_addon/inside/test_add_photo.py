"""Add Photo with a real backend: a head is improved where it stands, and stays as it was where that is not to be."""

from __future__ import annotations

import json
import os
from pathlib import Path

import bpy
import numpy as np
import pytest
from backend_in_use import heads, state, use_backend, wait_for
from bpy_extras.object_utils import world_to_camera_view
from mathutils import Vector
from person_scene import PHOTOS, cameras, expressions, landmarks, lay_on, one_person, seen_at

STRANGER = Path(__file__).resolve().parents[4] / "shared" / "photos" / "canada" / "115m.jpg"


@pytest.fixture(autouse=True)
def python(extension, scene):
    scene.mgcface.texture_size = "0"
    return use_backend(extension)


@pytest.fixture
def no_face(tmp_path, addon) -> Path:
    path = tmp_path / "wall.png"
    path.write_bytes(addon("scene.png").png_bytes(np.full((300, 300, 3), 120, np.uint8)))
    return path


@pytest.fixture
def folder(tmp_path, heads_folder) -> Path:
    """The photos where a test may take one away."""
    for name in PHOTOS:
        (tmp_path / name).write_bytes((heads_folder / name).read_bytes())
    return tmp_path


def add(*paths, **more) -> set:
    """What a script calls; all of the photos lie in one folder."""
    files = [{"name": os.path.basename(path)} for path in paths]
    return bpy.ops.mgcface.add_to_head(directory=os.path.dirname(paths[0]), files=files, **more)


def reconstruct(path) -> bpy.types.Object:
    assert bpy.ops.mgcface.reconstruct(filepath=str(path)) == {"FINISHED"}
    return bpy.context.view_layer.objects.active


def all_of(head) -> dict:
    """Everything of a scene with one head that another fit could change."""
    blocks = {kind: sorted(block.name for block in getattr(bpy.data, kind)) for kind in KINDS}
    keys = head.data.shape_keys.key_blocks
    points = np.empty((len(keys), len(head.data.vertices) * 3), np.float32)
    for key, row in zip(keys, points):
        key.points.foreach_get("co", row)
    images = {image.name: bytes(image.packed_file.data) for image in bpy.data.images if image.packed_file}
    return {
        "blocks": blocks,
        "points": points.tobytes(),
        "values": [key.value for key in keys],
        "images": images,
        "properties": {name: str(head[name]) for name in head.keys() if name.startswith("mgcface")},
        "cameras": {name: (np.array(camera.matrix_world).tolist()) for name, camera in cameras(head).items()},
        "selection": (bpy.context.view_layer.objects.active.name, bpy.context.scene.camera.name),
    }


KINDS = ("objects", "meshes", "materials", "images", "cameras", "lights", "actions", "collections", "shape_keys")


def off_the_photo(head, name: str, truth) -> float:
    """Median distance in pixels of the head's landmarks from where the fit of the astronaut alone has them."""
    scene, camera = bpy.context.scene, cameras(head)[name]
    lay_on(head, expressions()[name])
    bpy.context.view_layer.objects.active = camera
    assert bpy.ops.mgcface.look_through() == {"FINISHED"}
    size = np.array(camera["mgcface_photo_size"])
    seen = np.array([world_to_camera_view(scene, camera, Vector(point))[:2] for point in landmarks(head, truth)])
    pixels = np.stack([seen[:, 0], 1.0 - seen[:, 1]], axis=1) * size
    return float(np.median(np.linalg.norm(pixels - seen_at(name, truth["landmarks"]), axis=1)))


def test_a_head_of_one_photo_is_improved_where_it_stands(heads_folder, tmp_path, addon):
    scene = bpy.context.scene
    scene.mgcface.texture_size = "1024"
    head = reconstruct(heads_folder / "closer.jpg")
    # What an artist does with a head.
    head.name = head.data.name = "Anna"
    root, mesh = head.parent, head.data
    root.location = (3.0, -2.0, 1.0)
    head.modifiers.new("mine", "SUBSURF")
    skin, image = mesh.materials[0], mesh.materials[0].node_tree.nodes["Image Texture"].image
    skin.name, image.name = "Anna's skin", "Anna's picture"
    skin.node_tree.nodes["Principled BSDF"].inputs["Roughness"].default_value = 0.9
    mine = bpy.data.materials.new("mine")
    mesh.materials[1] = mine
    hat = bpy.data.objects.new("hat", bpy.data.meshes.new("hat"))
    other = bpy.data.collections.new("cast")
    scene.collection.children.link(other)
    other.objects.link(hat)
    other.objects.link(head)
    hat.parent = head
    scar = head.shape_key_add(name="scar", from_mix=False)
    scar.points[300].co.z += 0.01
    mesh.shape_keys.key_blocks["jawOpen"].keyframe_insert("value", frame=7)
    own_action = mesh.shape_keys.animation_data.action
    before, old_camera = all_of(head), cameras(head)["closer.jpg"]
    assert add(heads_folder / "astronaut.jpg") == {"FINISHED"}
    assert state().result == "1 head updated from 2 of 2 photos."
    # The same head.
    assert heads() == [head] and head.name == "Anna" and head.data == mesh and head.parent == root
    assert list(root.location) == [3.0, -2.0, 1.0] and hat.parent == head
    assert [modifier.name for modifier in head.modifiers] == ["mine"]
    assert mesh.materials[0] == skin and mesh.materials[1] == mine
    assert skin.node_tree.nodes["Principled BSDF"].inputs["Roughness"].default_value == pytest.approx(0.9)
    assert {collection.name for collection in head.users_collection} == {"closer", "cast"}
    assert mesh.shape_keys.animation_data.action == own_action
    assert mesh.shape_keys.key_blocks["scar"].points[300].co.z == pytest.approx(
        mesh.shape_keys.key_blocks["Basis"].points[300].co.z + 0.01, abs=1e-6
    )
    # Another likeness, the same picture with other pixels.
    after = all_of(head)
    assert skin.node_tree.nodes["Image Texture"].image == image and image.name == "Anna's picture"
    assert after["points"] != before["points"]
    assert after["images"]["Anna's picture"] != before["images"]["Anna's picture"]
    # What came: a camera with its photo, an expression for each.
    new_blocks = {kind: set(after["blocks"][kind]) - set(before["blocks"][kind]) for kind in KINDS}
    assert new_blocks == {
        **{kind: set() for kind in KINDS},
        "objects": {"astronaut camera"},
        "cameras": {"astronaut camera"},
        "images": {"astronaut.jpg"},
        "actions": {"astronaut expression", "closer expression"},
    }
    camera = cameras(head)["astronaut.jpg"]
    assert camera.parent == root and [each.name for each in camera.users_collection] == ["closer"]
    assert (old_camera["mgcface_role"], camera["mgcface_role"]) == ("camera", "photo camera")
    assert os.path.basename(camera.data.background_images[0].image.filepath) == "astronaut.jpg"
    assert camera.data.show_background_images and scene.camera == old_camera
    # It goes on showing the photo that it has shown, whichever the backend takes for the main one.
    record = json.loads(head["mgcface_record"])
    assert os.path.basename(head["mgcface_photo"]) == "closer.jpg" and head["mgcface_photos_used"] == 2
    for key, value in record["photos"][0]["expression"].items():
        if key != "jawOpen":
            assert mesh.shape_keys.key_blocks[key].value == pytest.approx(value, abs=1e-6)
    # And lies on both photos, after a save too.
    path = str(tmp_path / "saved.blend")
    bpy.ops.wm.save_as_mainfile(filepath=path)
    bpy.ops.wm.open_mainfile(filepath=path)
    (head,) = heads()
    truth = np.load(heads_folder / "truth.npz")
    head.modifiers.clear()
    for name in ("astronaut.jpg", "closer.jpg"):
        assert off_the_photo(head, name, truth) < 1.0
    # Refit is of all of them from now on.
    bpy.context.view_layer.objects.active = head
    assert bpy.ops.mgcface.refit() == {"FINISHED"}
    assert state().result == "1 head updated from 2 of 2 photos." and len(cameras(head)) == 2
    assert not [block for kind in KINDS for block in getattr(bpy.data, kind) if "mgcface_unfinished" in block]


def test_a_head_of_several_gets_one_more_and_its_expressions_follow(heads_folder):
    assert one_person(heads_folder, *PHOTOS[:2]) == {"FINISHED"}
    (head,) = heads()
    acts = expressions()
    assert set(acts) == set(PHOTOS[:2])
    keep = acts["closer.jpg"]
    # An artist's own channel: a second key.
    keys = head.data.shape_keys
    lay_on(head, keep)
    keys.key_blocks["jawOpen"].value = 0.77
    keys.key_blocks["jawOpen"].keyframe_insert("value", frame=20)
    assert add(heads_folder / "tilted.jpg") == {"FINISHED"}
    record = json.loads(head["mgcface_record"])
    assert [os.path.basename(photo) for photo in json.loads(head["mgcface_photos"])] == list(PHOTOS)
    acts = expressions()
    assert set(acts) == set(cameras(head)) == set(PHOTOS) and len(bpy.data.actions) == 3 and acts["closer.jpg"] == keep
    for place, name in enumerate(PHOTOS):
        lay_on(head, acts[name])
        for key, value in record["photos"][place]["expression"].items():
            if (name, key) != ("closer.jpg", "jawOpen"):
                assert keys.key_blocks[key].value == pytest.approx(value, abs=1e-6), (name, key)
    lay_on(head, keep)
    bpy.context.scene.frame_set(20)
    assert keys.key_blocks["jawOpen"].value == pytest.approx(0.77, abs=1e-6)
    # The same photo again, by another spelling of its path.
    with pytest.raises(RuntimeError, match=r"tilted\.jpg is in the head already"):
        add(os.path.join(heads_folder, "x", "..", "tilted.jpg"))


def test_a_head_without_shape_keys_camera_and_lights(heads_folder):
    options = bpy.context.scene.mgcface
    options.shape_keys = options.camera = options.lights = False
    head = reconstruct(heads_folder / "astronaut.jpg")
    before = np.array([vertex.co for vertex in head.data.vertices])
    assert bpy.ops.mgcface.refit() == {"FINISHED"}
    # With the expression of the photo, as it was made.
    assert np.abs(np.array([vertex.co for vertex in head.data.vertices]) - before).max() < 1e-6
    assert add(heads_folder / "closer.jpg") == {"FINISHED"}
    assert not bpy.data.cameras and not bpy.data.actions and head.data.shape_keys is None
    assert 0.0 < np.abs(np.array([vertex.co for vertex in head.data.vertices]) - before).max() < 0.01


def test_a_head_taken_off_its_root_gets_its_camera_where_it_is(heads_folder):
    head = reconstruct(heads_folder / "astronaut.jpg")
    head.parent = None
    head.location = (0.0, 5.0, 0.0)
    assert add(heads_folder / "closer.jpg") == {"FINISHED"}
    camera = next(obj for obj in head.children if obj.type == "CAMERA")
    truth = np.load(heads_folder / "truth.npz")
    bpy.context.view_layer.objects.active = camera
    assert bpy.ops.mgcface.refit.poll(), "its camera stands for the head"
    bpy.ops.mgcface.look_through()
    lay_on(head, expressions()["closer.jpg"])
    points = landmarks(head, truth)
    scene, size = bpy.context.scene, np.array(camera["mgcface_photo_size"])
    seen = np.array([world_to_camera_view(scene, camera, Vector(point))[:2] for point in points])
    pixels = np.stack([seen[:, 0], 1.0 - seen[:, 1]], axis=1) * size
    assert np.median(np.linalg.norm(pixels - seen_at("closer.jpg", truth["landmarks"]), axis=1)) < 1.0


def test_a_photo_without_a_face_is_named_and_nothing_changes(heads_folder, folder, no_face):
    head = reconstruct(folder / "astronaut.jpg")
    before = all_of(head)
    with pytest.raises(RuntimeError, match=r"wall\.png.*astronaut stays as it was"):
        add(no_face)
    assert all_of(head) == before and state().failed
    # Beside a good one it is left out, and named.
    assert add(folder / "closer.jpg", no_face) == {"FINISHED"}
    assert state().result.startswith("1 head updated from 2 of 3 photos. ") and "wall.png" in state().result
    assert set(cameras(head)) == set(expressions()) == {"astronaut.jpg", "closer.jpg"}


@pytest.mark.skipif(not STRANGER.exists(), reason="the photos of ../shared are not here")
def test_a_photo_of_somebody_else_is_named_and_left_out_unless_kept(heads_folder, folder):
    (folder / "stranger.jpg").write_bytes(STRANGER.read_bytes())
    head = reconstruct(folder / "astronaut.jpg")
    before = all_of(head)
    with pytest.raises(RuntimeError, match=r"stranger\.jpg: The face is another person's.*stays as it was"):
        add(folder / "stranger.jpg")
    assert all_of(head) == before
    assert add(folder / "closer.jpg", folder / "stranger.jpg") == {"FINISHED"}
    assert "stranger.jpg: The face is another person's than in 2 other photos" in state().result
    assert set(cameras(head)) == {"astronaut.jpg", "closer.jpg"}
    # It was left out, so it is not in the head: it may be chosen again.
    assert add(folder / "stranger.jpg", keep_all=True) == {"FINISHED"}
    assert set(cameras(head)) == {"astronaut.jpg", "closer.jpg", "stranger.jpg"}
    assert len(json.loads(head["mgcface_photos"])) == head["mgcface_photos_used"] == 3


def test_photos_of_another_person_cannot_take_the_head_over(addon):
    refit = addon("scene.refit")
    with pytest.raises(refit.RefitError, match=r"agree with each other and not with its own"):
        refit._check_added("Anna", {"/b": None, "/c": None}, {"/a"}, ["/b", "/c"])
    refit._check_added("Anna", {"/a": None, "/c": None}, {"/a"}, ["/b", "/c"])


def test_an_old_photo_that_is_gone_is_a_sentence(heads_folder, folder):
    head = reconstruct(folder / "astronaut.jpg")
    before = all_of(head)
    (folder / "astronaut.jpg").unlink()
    with pytest.raises(RuntimeError, match=r"astronaut\.jpg is gone: put it back"):
        add(folder / "closer.jpg")
    assert all_of(head) == before and not state().running


def test_what_cannot_be_added_is_a_sentence(heads_folder, folder):
    assert not bpy.ops.mgcface.add_to_head.poll()
    head = reconstruct(folder / "astronaut.jpg")
    (folder / "notes.txt").write_text("no photo")
    for name, words in (
        ("none.jpg", "There is no file"),
        ("notes.txt", "cannot be read"),
        ("astronaut.jpg", "already"),
    ):
        with pytest.raises(RuntimeError, match=words):
            add(folder / name)
    with pytest.raises(RuntimeError, match="No photo was chosen"):
        bpy.ops.mgcface.add_to_head()
    head["mgcface_face"] = 1
    assert not bpy.ops.mgcface.add_to_head.poll()
    head["mgcface_face"] = 0
    bpy.ops.object.mode_set(mode="EDIT")
    assert not bpy.ops.mgcface.add_to_head.poll()
    bpy.ops.object.mode_set(mode="OBJECT")
    assert bpy.ops.mgcface.add_to_head.poll()


def working_job(addon, head, photos):
    """Add Photo as its button runs it, until the backend is at work."""
    settings = json.loads(head["mgcface_settings"])
    options = {**settings["backend"], "same_person": True, "keep_all": False, "all_faces": False}
    job = addon("jobs").Job(
        photos, [-1] * len(photos), options, addon("scene.build").BuildOptions(), head.name, 0, photos[1:]
    )
    job.start()
    assert wait_for(lambda: job.pump() or state().fraction > 0.0)
    assert job.ended is None, job.ended
    return job


def test_a_cancelled_or_failed_job_leaves_the_head_as_it_was(addon, heads_folder, folder):
    bpy.context.scene.mgcface.texture_size = "4096"
    head = reconstruct(folder / "astronaut.jpg")
    before, photos = all_of(head), [str(folder / name) for name in PHOTOS]
    job = working_job(addon, head, photos)
    job.cancel()
    assert wait_for(job.pump) and job.ended.kind == "cancelled"
    assert all_of(head) == before
    # The artist goes into edit mode, or deletes the head, while the backend works.
    job = working_job(addon, head, photos)
    bpy.context.view_layer.objects.active = head
    bpy.ops.object.mode_set(mode="EDIT")
    assert wait_for(job.pump)
    bpy.ops.object.mode_set(mode="OBJECT")
    assert "leave it for object mode" in state().result and all_of(head) == before
    job = working_job(addon, head, photos)
    bpy.data.objects.remove(head)
    assert wait_for(job.pump)
    assert "is gone, so it was not updated" in state().result and len(bpy.data.cameras) == 1


def test_an_undo_in_the_middle_begins_again(addon, heads_folder, monkeypatch):
    """What stands between two steps may be taken away: what came so far is swept, and the rest is right."""
    head = reconstruct(heads_folder / "astronaut.jpg")
    refit, real, undone = addon("scene.refit"), addon("scene.refit").Refitter.step, []

    def step(self):
        over = real(self)
        if len(bpy.data.cameras) == 2 and not undone:
            undone.append(1)
            addon("jobs").pulled_away()
        return over

    monkeypatch.setattr(refit.Refitter, "step", step)
    assert add(heads_folder / "closer.jpg") == {"FINISHED"}
    assert undone and len(bpy.data.cameras) == len(bpy.data.actions) == len(cameras(head)) == 2
