"""The texture of several photos against a head whose texture is known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from texture_scene import Scene, camera, head, photograph, psnr, region_texels, true_texture

from backend.reconstruction.result import FitReport, Reconstruction
from backend.reconstruction.texture import bake_texture, prepare_layers
from backend.reconstruction.texture_atlas import atlas_of
from backend.reconstruction.texture_kernel import paint
from backend.reconstruction.texture_mosaic import Layer, mosaic
from backend.reconstruction.texture_view import look
from backend.reconstruction.texture_views import MOST_LAYERS, bake_views, chosen, exposures, see
from backend.rendering.shade import shade
from backend.rendering.tone import linear_to_srgb8, srgb_to_linear
from backend.vision.photo import Photo

IDENTITY = np.random.default_rng(5).normal(0, 0.6, len(head().identity))


def as_taken(view) -> Reconstruction:
    """The invented person of the scene as a perfect fit of one photo."""
    report = FitReport(0.0, 0.0, 0.0, np.zeros(len(IDENTITY), np.float32), 1, True)
    still = np.zeros(len(head().expression), np.float32)
    return Reconstruction(head(), None, view.width, view.height, view, IDENTITY, still, {}, report)


def exposed(picture: np.ndarray, factor) -> np.ndarray:
    return linear_to_srgb8(np.clip(srgb_to_linear(picture) * np.array(factor), 0.0, 1.0))


@pytest.fixture(scope="module")
def three():
    views = [camera(yaw) for yaw in (-40.0, 0.0, 40.0)]
    factors = [(0.8, 0.8, 0.9), (1.0, 1.0, 1.0), (1.15, 1.1, 1.0)]
    pictures = [exposed(photograph(Scene(), view), factor) for view, factor in zip(views, factors)]
    return [as_taken(view) for view in views], pictures


@pytest.fixture(scope="module")
def baked(three):
    heads, pictures = three
    return bake_views(heads, lambda place: Photo(pictures[place]), 1024)


def test_one_photo_mixed_is_one_photo_painted():
    """The loop over photos with one photo is the loop of one photo, which has a slow twin of its own."""
    view_camera = camera(20.0)
    one = as_taken(view_camera)
    atlas = atlas_of(head(), 1024)
    view = look(photograph(Scene(), view_camera), view_camera, head(), atlas.surface, one.vertices, None)
    layers, _ = prepare_layers(view, view_camera, head(), atlas.surface)
    color, confidence = paint(atlas, view, layers, np.column_stack([view.points, view.depth]))
    layer = Layer(7, view, layers.gain, layers.weight, np.full(head().vertex_count, 0.3, np.float32))
    mixed, sure, sources = mosaic(atlas, [layer], layers.base, layers.grain, lambda part: None)
    np.testing.assert_array_equal(sure, confidence)
    assert np.abs(mixed.astype(int) - color).max() <= 1
    inside = np.ones_like(sources, bool)
    inside.reshape(-1)[atlas.gutter] = False
    assert (sources[inside & (confidence > 0)] == 7).all() and (sources[inside & (confidence == 0)] <= 7).all()


def test_three_photos_of_other_exposure_give_the_texture(baked):
    seen = (baked.texture.confidence > 150) & region_texels("face")
    mean = baked.texture.color[seen].mean(axis=0) / true_texture()[seen].mean(axis=0)
    fixed = np.clip(baked.texture.color / mean, 0, 255)
    assert psnr(fixed[seen], true_texture()[seen]) > 32.0


def test_more_of_the_head_is_shown_than_by_one(three, baked):
    heads, pictures = three
    single = bake_texture(pictures[1], heads[1].camera, head(), heads[1].vertices, 1024)
    assert (baked.texture.confidence > 100).sum() > 1.2 * (single.confidence > 100).sum()


def test_each_side_comes_from_the_photo_that_shows_it(baked):
    """A head turned to the picture's right shows its right cheek: +X is the subject's left."""
    atlas = atlas_of(head(), 1024)
    x = head().mean[atlas.surface.triangles, 0].mean(axis=1)[np.maximum(atlas.triangle, 0)]
    sure = (baked.texture.confidence > 100) & (atlas.triangle >= 0)
    far_left = baked.sources[sure & (x > 0.055)]
    far_right = baked.sources[sure & (x < -0.055)]
    assert len(np.unique(np.bincount(far_left, minlength=4).argmax())) == 1
    assert {np.bincount(far_left, minlength=4).argmax(), np.bincount(far_right, minlength=4).argmax()} == {1, 3}
    nose = sure & (np.abs(x) < 0.01)
    assert np.bincount(baked.sources[nose], minlength=4).argmax() == 2


def test_no_seam_where_photos_meet(baked):
    """Steps between neighbouring texels of different photos are no larger than within a photo."""
    grey = baked.texture.color.astype(float).mean(axis=2)
    sure = (baked.texture.confidence > 120) & region_texels("face")
    step = np.abs(np.diff(cv2.GaussianBlur(grey, (0, 0), 2.0), axis=1))
    both = sure[:, 1:] & sure[:, :-1]
    border = both & (np.diff(baked.sources.astype(int), axis=1) != 0)
    assert border.sum() > 50
    assert np.median(step[border]) < 2.0 * np.median(step[both & ~border]) + 0.5


def test_exposures_are_found(three):
    heads, pictures = three
    surface = atlas_of(head(), 1024).surface
    found = [see(place, heads[place], Photo(pictures[place]), surface) for place in range(3)]
    gains = exposures(found, surface)
    ratio = (gains[0] / gains[2]) ** 2
    np.testing.assert_allclose(ratio, [1.15 / 0.8, 1.1 / 0.8, 1.0 / 0.9], rtol=0.12)


def test_a_photos_light_holds_its_exposure(baked):
    """The common texture times a photo's light gives the photo back, so a dark photo has a dark light."""
    forward = torch.tensor([[0.0, 0.0, 1.0]])
    first, last = (shade(forward, torch.from_numpy(baked.lights[place].T.copy()))[0].numpy() for place in (0, 2))
    np.testing.assert_allclose(first / last, [0.8 / 1.15, 0.8 / 1.1, 0.9 / 1.0], rtol=0.12)


def test_what_hides_the_face_in_one_photo_is_taken_from_the_others():
    views = [camera(yaw) for yaw in (-12.0, 0.0, 12.0)]
    pictures = [photograph(Scene(), view) for view in views]
    heads = [as_taken(view) for view in views]
    cheek = head().landmark_points(heads[1].vertices.astype(float), "mediapipe478")[280]
    x, y = views[1].project(cheek[None])[0].astype(int)
    cv2.circle(pictures[1], (int(x), int(y)), 35, (200, 150, 90), -1)
    texture = bake_views(heads, lambda place: Photo(pictures[place]), 1024).texture
    clean = [photograph(Scene(), view) for view in views]
    without = bake_views(heads, lambda place: Photo(clean[place]), 1024).texture
    face = region_texels("face") & (without.confidence > 150)
    off = np.abs(texture.color.astype(int) - without.color).max(axis=2)[face]
    assert np.percentile(off, 99) < 20


def test_many_photos_are_chosen_from_all_round():
    yaws = np.linspace(-60, 60, 41)
    picked = chosen([as_taken(camera(yaw)) for yaw in yaws])
    assert len(picked) == MOST_LAYERS
    assert yaws[picked].min() < -35 and yaws[picked].max() > 35
