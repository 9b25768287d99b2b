"""The map of confidence: what is kept in the file, what is drawn, and that it touches nothing of the artist's."""

from __future__ import annotations

import os
from dataclasses import replace

import bpy
import numpy as np
import pytest


@pytest.fixture
def overlay(addon):
    return addon("overlay")


def surface(overlay, obj):
    bpy.context.view_layer.update()
    return overlay.surface(obj, bpy.context.evaluated_depsgraph_get())


def pixels(image) -> np.ndarray:
    """(H, W, 3) uint8, row 0 at the top."""
    values = np.empty(len(image.pixels), np.float32)
    image.pixels.foreach_get(values)
    return (values.reshape(*image.size, 4)[::-1, :, :3] * 255.0 + 0.5).astype(np.uint8)


def test_the_map_is_packed_and_says_what_it_shows(build, head, addon, messages):
    obj = build(head)
    maps = addon("scene.confidence_map")
    image = maps.map_of(obj)
    assert image.packed_file is not None and tuple(image.size) == (512, 512)
    (photo,) = maps.legend(obj)
    assert os.path.basename(photo.path) == "astronaut.jpg" and (photo.place, photo.share) == (0, 1.0)
    confidence = addon("scene.confidence")
    assert np.array_equal(pixels(image), confidence.origin(messages[1][1]["confidence"], None, 0).pixels)
    # No material knows of it.
    nodes = [node for material in obj.data.materials for node in material.node_tree.nodes]
    assert image not in [getattr(node, "image", None) for node in nodes]


def test_what_is_drawn_is_the_skin_as_it_stands_in_the_viewport(build, head, overlay):
    obj = build(head)
    found, mesh = surface(overlay, obj), obj.data
    skin = [material.name for material in mesh.materials].index("astronaut skin")
    faces = np.array([polygon.material_index == skin for polygon in mesh.polygons])
    assert len(found.triangles) == 2 * faces.sum() < 2 * len(faces)
    evaluated = obj.evaluated_get(bpy.context.evaluated_depsgraph_get()).to_mesh()
    corners = np.array([loop.vertex_index for loop in evaluated.loops])
    points = np.array([vertex.co for vertex in evaluated.vertices])[corners]
    above = np.linalg.norm(found.points - points, axis=1)
    # Just above the surface of the face as photographed: some tenths of a millimetre.
    assert 1e-4 < above.min() and above.max() < 1e-3
    assert np.array_equal(found.uv, np.array([uv.vector for uv in mesh.uv_layers["UVMap"].uv], np.float32))
    # With a modifier, and whatever the artist has done to slots and materials.
    for slot in obj.material_slots:
        slot.material = None
    obj.modifiers.new("smoother", "SUBSURF").levels = 1
    assert len(surface(overlay, obj).triangles) == 4 * len(found.triangles)
    # Without what it lies on there is nothing to draw.
    mesh.attributes.remove(mesh.attributes["skin"])
    assert surface(overlay, obj) is None


def test_the_switch_touches_nothing_and_is_kept(build, head, addon, overlay, tmp_path):
    obj, scene = build(head), bpy.context.scene

    def everything():
        materials = [
            (node.name, node.type, getattr(node, "image", None), len(node.outputs[0].links) if node.outputs else 0)
            for material in obj.data.materials
            for node in material.node_tree.nodes
        ]
        kinds = ("objects", "meshes", "materials", "images", "node_groups")
        return materials, {kind: list(getattr(bpy.data, kind)) for kind in kinds}, list(obj.data.attributes.keys())

    before = everything()
    assert not scene.mgcface.show_confidence
    scene.mgcface.show_confidence = True
    assert everything() == before
    name, path = obj.name, str(tmp_path / "saved.blend")
    bpy.ops.wm.save_as_mainfile(filepath=path)
    bpy.ops.wm.open_mainfile(filepath=path)
    obj, maps = bpy.data.objects[name], addon("scene.confidence_map")
    assert bpy.context.scene.mgcface.show_confidence and [photo.place for photo in maps.legend(obj)] == [0]
    assert pixels(maps.map_of(obj)).max() > 200 and surface(overlay, obj) is not None


def test_the_map_goes_with_its_head(build, head, addon, tmp_path):
    obj = build(head)
    image = addon("scene.confidence_map").map_of(obj)
    assert image.users == 1
    bpy.data.objects.remove(obj)
    assert image.users == 0, "Blender does not save it"


def test_a_head_without_texture_has_no_map(build, head, addon, overlay):
    obj = build(replace(head, texture=None, origin=None, shares={}, confidence=None))
    maps = addon("scene.confidence_map")
    assert maps.map_of(obj) is None and maps.legend(obj) == []
    # Nor does one keep the map of a fit that it no longer is.
    other = build(head)
    maps.set_map(other, replace(head, origin=None))
    assert maps.map_of(other) is None and "astronaut confidence" not in bpy.data.images


def test_a_head_that_changes_is_drawn_anew(build, head, overlay):
    """What was made for the graphics card is forgotten when the shape changes, and only then."""
    obj = build(head)
    bpy.context.view_layer.update()
    overlay._batches[obj.name_full] = "made"
    obj.parent.location.x += 1.0
    bpy.context.view_layer.update()
    assert overlay._batches == {obj.name_full: "made"}
    obj.data.shape_keys.key_blocks["jawOpen"].value = 1.0
    bpy.context.view_layer.update()
    assert not overlay._batches
    overlay._batches[obj.name_full] = "made"
    bpy.context.scene.frame_set(2)
    assert not overlay._batches


def test_pixels_that_were_decoded_after_are_forgotten_by_undo(build, head, addon):
    """Undo itself needs a window: here the file behind an image changes as it does then, without a word."""
    obj = build(head)
    image = addon("scene.confidence_map").map_of(obj)
    images, mark = addon("scene.packed_images"), image["mgcface_pixels"]
    images.repack(image, addon("scene.png").png_bytes(np.full((512, 512, 3), 255, np.uint8)))
    assert (pixels(image) == 255).all() and image["mgcface_pixels"] != mark
    images.undone()
    assert image.has_data, "nothing was undone"
    image["mgcface_pixels"] = mark
    images.undone()
    assert not image.has_data, "decoded again when it is looked at"
