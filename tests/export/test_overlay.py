"""Panels: the mesh lies where the photo's camera puts it, whatever the photo's size and border."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
import trimesh

from backend.export.gltf import head_glb
from backend.export.overlay import (
    BACKGROUND,
    GAP,
    PANEL_HEIGHT,
    PANEL_WIDTH,
    above_neck,
    crop_photo,
    head_window,
    overlay_image,
    side_camera,
    window_camera,
)
from backend.export.preview import SUPERSAMPLING, Previewer, _averaged, sample
from backend.face_model.model import SKIN
from backend.geometry.camera import Camera
from backend.rendering.tone import linear_to_srgb8
from backend.rendering.viewer import render_mesh
from backend.vision.photo import Photo


def panels(picture):
    step = PANEL_WIDTH + GAP
    return [picture[:, i * step : i * step + PANEL_WIDTH] for i in range(4)]


def not_background(panel):
    return (np.abs(panel.astype(int) - BACKGROUND) > 12).any(axis=2)


def test_four_panels(reconstruction, photo_pixels):
    picture = overlay_image(reconstruction, Photo(photo_pixels), None)
    assert picture.shape == (PANEL_HEIGHT, 4 * PANEL_WIDTH + 3 * GAP, 3) and picture.shape[1] <= 2000
    photo, over, mesh, side = panels(picture)
    covered = not_background(mesh)
    changed = (photo != over).any(axis=2)
    assert (changed & ~covered).mean() < 0.01, "the overlay touches the photo only where the mesh is"
    assert (changed & covered).sum() > 0.9 * covered.sum()
    for panel in (mesh, side):
        rows, columns = np.nonzero(not_background(panel))
        assert 0.1 < not_background(panel).mean() < 0.9
        assert abs(columns.mean() - PANEL_WIDTH / 2) < 0.1 * PANEL_WIDTH
        assert abs(rows.mean() - PANEL_HEIGHT / 2) < 0.15 * PANEL_HEIGHT


def test_the_window_camera_sees_the_crop(reconstruction):
    camera, points = reconstruction.camera, reconstruction.vertices
    window = head_window(camera.project(points))
    left, top, scale = window
    expected = (camera.project(points) - [left, top]) * scale
    inside = window_camera(camera, window).project(points)
    np.testing.assert_allclose(inside, expected, atol=1e-6)
    assert inside.min() > 0 and (inside.max(axis=0) < [PANEL_WIDTH, PANEL_HEIGHT]).all()


def test_the_crop_is_the_window_of_the_photo():
    """A photo whose colours are its coordinates says where every panel pixel came from."""
    y, x = np.mgrid[0:400, 0:500]
    photo = np.stack([x // 2, y // 2, np.zeros_like(x)], axis=-1).astype(np.uint8)
    window = (60.3, 20.7, 2.0)
    crop = crop_photo(photo, window).astype(float)
    column, row = np.meshgrid(np.arange(PANEL_WIDTH) + 0.5, np.arange(PANEL_HEIGHT) + 0.5)
    np.testing.assert_allclose(crop[..., 0], (column / 2.0 + 60.3) / 2 - 0.5, atol=1.6)
    np.testing.assert_allclose(crop[..., 1], (row / 2.0 + 20.7) / 2 - 0.5, atol=1.6)


@pytest.mark.parametrize("window", [(-50.0, -70.0, 1.0), (300.0, 200.0, 1.3), (-20.0, -20.0, 0.5), (9999.0, 0.0, 1.0)])
def test_beyond_the_border_is_background(window):
    white = np.full((300, 400, 3), 255, np.uint8)
    crop = crop_photo(white, window)
    left, top, scale = window
    x, y = np.meshgrid((np.arange(PANEL_WIDTH) + 0.5) / scale + left, (np.arange(PANEL_HEIGHT) + 0.5) / scale + top)
    margin = 1.5 / scale
    inside = (x > margin) & (x < 400 - margin) & (y > margin) & (y < 300 - margin)
    outside = (x < -margin) | (x > 400 + margin) | (y < -margin) | (y > 300 + margin)
    assert (crop[inside] == 255).all() and (crop[outside] == BACKGROUND).all()


def test_a_48_megapixel_photo_gives_the_same_picture(reconstruction, photo_pixels):
    """Twelve times the size, the same content: the panels agree."""
    large = photo_pixels.repeat(12, axis=0).repeat(12, axis=1)
    big = replace(reconstruction, camera=reconstruction.camera.scaled(12.0))
    a = overlay_image(reconstruction, Photo(photo_pixels), None).astype(int)
    b = overlay_image(big, Photo(large), None).astype(int)
    assert a.shape == b.shape
    assert np.abs(panels(a)[2] - panels(b)[2]).mean() < 0.5
    assert np.abs(a - b).mean() < 6


def test_the_side_view_shows_the_profile(reconstruction):
    camera = side_camera(reconstruction.vertices)
    nose, back, left, right = camera.project(np.array([[0, 0, 0.09], [0, 0, -0.09], [0.07, 0, 0], [-0.07, 0, 0]]))
    assert nose[0] > back[0] + 100, "the face looks to the right of the picture"
    depth = camera.to_camera(np.array([[0.07, 0, 0], [-0.07, 0, 0]]))[:, 2]
    assert depth[0] > depth[1], "the subject's right is nearer"
    assert abs(left[0] - right[0]) < 20


def test_shoulders_stay_out(model):
    shoulders = model.mean.copy()
    shoulders[:32, 1] = -0.5
    keep = above_neck(model, shoulders)
    assert not keep[:32].any() and keep.sum() > len(keep) / 4
    assert above_neck(model.replaced(landmarks={}), shoulders).all()


def test_textures_show(reconstruction):
    model = reconstruction.model
    previewer = Previewer(model, reconstruction.vertices)
    camera = reconstruction.camera.resized(160, 120)
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 200
    clay, textured = previewer.draw(camera, {}), previewer.draw(camera, {"skin": red})
    np.testing.assert_array_equal(clay[..., 3], textured[..., 3])
    solid = clay[..., 3] == 255
    assert np.ptp(clay[solid][:, :3].astype(int), axis=1).max() < 90
    assert np.median(textured[solid][:, 0].astype(int) - textured[solid][:, 1]) > 100


def test_sample_reads_v_upward_and_repeats():
    texture = np.arange(2 * 2 * 3, dtype=np.uint8).reshape(2, 2, 3) * 20
    uv = np.float32([[0.25, 0.75], [0.75, 0.75], [0.25, 0.25], [1.25, -0.25]])
    colors = sample(texture, uv)
    np.testing.assert_allclose(colors[3], colors[0])
    brightness = colors.sum(axis=1)
    assert brightness[0] < brightness[1] < brightness[2], "row 0 is the upper one"


def test_averaging_is_a_mean():
    canvas = np.random.default_rng(0).random((8, 12, 4)).astype(np.float32)
    canvas[..., 3] = canvas[..., 3] > 0.3
    canvas[..., :3] *= canvas[..., 3:]
    n = SUPERSAMPLING
    slow = canvas.reshape(8 // n, n, 12 // n, n, 4).mean(axis=(1, 3))
    fast = _averaged(canvas)
    np.testing.assert_allclose(fast[..., 3], slow[..., 3] * 255, atol=0.51)
    covered = slow[..., 3] > 0
    color = linear_to_srgb8(slow[covered][:, :3] / slow[covered][:, 3:])
    assert np.abs(fast[covered][:, :3].astype(int) - color).max() <= 1
    assert not fast[~covered].any()


def test_the_glb_shows_a_head_in_its_own_camera(reconstruction):
    """The loaded file, drawn through the loaded camera, covers what the reconstruction covers."""
    scene = trimesh.load(BytesIO(head_glb(reconstruction, None)), file_type="glb", process=False)
    mesh = trimesh.util.concatenate([geometry.copy() for geometry in scene.geometry.values()])
    pose = scene.camera_transform
    model, camera = reconstruction.model, reconstruction.camera
    rotation = np.diag([1.0, -1.0, -1.0]) @ pose[:3, :3].T
    loaded = Camera(camera.K, rotation, -rotation @ pose[:3, 3], camera.width, camera.height)
    slots = np.zeros(len(mesh.faces), np.uint8)
    plain = model.replaced(faces=mesh.faces.astype(np.int32), face_material=slots, materials=("skin",), regions={})
    drawn = Previewer(plain, mesh.vertices).draw(loaded, {})
    expected = Previewer(model, reconstruction.neutral_vertices).draw(camera, {})
    assert expected[..., 3].mean() > 0.02 * 255
    assert np.abs(drawn[..., 3].astype(int) - expected[..., 3]).mean() < 0.25


def test_a_photos_light_is_what_the_other_renderer_makes_of_it(model, reconstruction):
    """The fast preview and ``render_mesh``: the same skin under the same spherical harmonics."""
    light = np.zeros((9, 3), np.float32)
    light[0], light[1], light[2], light[3] = (0.7, 0.8, 0.9), -0.1, (0.3, 0.2, 0.1), 0.2
    camera = reconstruction.camera.resized(320, 240)
    color = np.broadcast_to(np.uint8([200, 150, 120]), (8, 8, 3))
    drawn = Previewer(model, reconstruction.vertices).draw(camera, {SKIN: color}, light)
    slow = render_mesh(
        reconstruction.vertices,
        model.triangles,
        camera,
        texture=color,
        uv=model.uv,
        triangles_uv=model.triangles_uv,
        light=light.T,
    )
    # The slow one paints eyes and mouth like skin; most of the head is skin.
    inside = (drawn[..., 3] == 255) & (slow[..., 3] == 255)
    apart = np.abs(drawn[inside][:, :3].astype(int) - slow[inside][:, :3]).max(axis=1)
    assert inside.sum() > 5000
    assert np.quantile(apart, 0.8) <= 1.0
    assert len(np.unique(drawn[inside][:, 0])) > 20, "the light has a direction"
