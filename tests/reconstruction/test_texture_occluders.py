"""What no skin colour gives away: background beyond the outline, dark glasses, hair over one eye, a straw, cavities."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from texture_scene import TONE, Scene, camera, head, person, photograph, region_texels, texel_values, true_texture

from backend.geometry.mesh import vertex_normals
from backend.reconstruction.texture import bake_texture, log_of_root, vertex_colors, weighted_median
from backend.reconstruction.texture_atlas import surface_of
from backend.reconstruction.texture_cavity import SEEN_WITHIN, sky_directions, sky_seen
from backend.reconstruction.texture_light import MOST_RED, MOST_YELLOW, saturation_gain
from backend.reconstruction.texture_occluders import LEAK_DEPTH, background_leak, dark_glasses, lopsided, middle_skin
from backend.reconstruction.texture_raster import NO_TRIANGLE
from backend.reconstruction.texture_skin import MOST_HUE_SHIFT, fit_skin
from backend.reconstruction.texture_view import look

WALL = (196, 178, 170)  # lit like skin, a little colder


def marked(weight: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    """The true texture with another colour where a per-vertex weight (V,) is above a half."""
    texture = true_texture().copy()
    texture[texel_values(weight[:, None].astype(float))[..., 0] > 0.5] = color
    return texture


def judged(scene: Scene):
    """light (V, 3), seen (V,), skin, surface: what the occluder tests are asked with."""
    view, surface = camera(), surface_of(head())
    found = look(photograph(scene, view), view, head(), surface, scene.vertices, None)
    colors, seen = vertex_colors(found, found.weight)
    light = log_of_root(colors)
    return light, seen, fit_skin(light, surface.trust * seen, found.normals), surface


def test_the_background_that_the_outline_reaches_into_is_found():
    """A head photographed 9 mm aside of where it was fitted: what is background is known to the pixel."""
    view, surface = camera(60), surface_of(head())
    shifted = replace(view, t=view.t + np.array([9e-3, 0.0, 0.0]))
    photo, truth = (photograph(Scene(background=color), shifted) for color in (WALL, (0, 255, 0)))
    found = look(photo, view, head(), surface, person(), None)
    same = look(truth, view, head(), surface, person(), None)
    scale = float(np.median(found.depth)) / (view.focal_px * found.scale)
    leak = background_leak(found, scale, middle_skin(found, surface))
    wall = (same.image == [0, 255, 0]).all(axis=2) & (found.coverage.triangle != NO_TRIANGLE)
    assert wall.sum() > 1500
    assert (leak & wall).sum() > 0.9 * wall.sum()
    # Beside the wall the head stays. (On its other side the head itself lies beyond the outline, skin and hair alike.)
    near, beside = (cv2.dilate(wall.astype(np.uint8), np.ones((k, k))) > 0 for k in (7, 61))
    assert (leak & beside & ~near).sum() < 0.1 * wall.sum()
    outside = found.coverage.triangle == NO_TRIANGLE
    depth = cv2.distanceTransform((~outside).astype(np.uint8), cv2.DIST_L2, 5) * scale
    assert not outside[leak].any() and depth[leak].max() < LEAK_DEPTH


def test_dark_glasses_are_told_from_shade_and_bare_skin():
    surface = surface_of(head())
    lens = np.abs(surface.lens) * (1.0 - surface.brow)
    covered = dark_glasses(*judged(Scene(texture=marked(lens, (22, 26, 30)))))
    inside = (lens > 0.9) & surface.skin
    assert covered[inside].mean() > 0.9
    assert covered[surface.trust * (lens < 0.01) > 0.9].max(initial=0.0) == 0.0
    warm = tuple(np.rint(TONE * [0.34, 0.26, 0.21]).astype(int).tolist())
    for scene in (Scene(), Scene(texture=marked(lens, warm)), Scene(light=(1.0, 0.2, 0.3), ambient=0.15)):
        assert dark_glasses(*judged(scene)).max() == 0.0


def test_one_lens_is_enough():
    surface = surface_of(head())
    covered = dark_glasses(*judged(Scene(texture=marked(np.maximum(surface.lens, 0.0), (22, 26, 30)))))
    assert covered[surface.lens > 0.9].mean() > 0.7
    assert covered[surface.lens < 0.0].max() == 0.0


def test_skin_behind_dark_glasses_is_completed():
    surface, view = surface_of(head()), camera()
    texture = marked(np.abs(surface.lens) * (1.0 - surface.brow), (22, 26, 30))
    baked = bake_texture(photograph(Scene(texture=texture), view), view, head(), person())
    socket = np.abs(texel_values(surface.socket[:, None].astype(float))[..., 0]) > 0.9
    assert np.percentile(baked.color[socket].min(axis=1), 2) > 90


def test_hair_over_one_eye_is_doubted_and_a_pair_of_brows_is_not():
    surface = surface_of(head())
    zone = (surface.brow > 0.2) | (np.abs(surface.lens) > 0.5)
    left = head().mean[:, 0] > 0
    doubt = lopsided(*judged(Scene(texture=marked(zone & left, (64, 40, 26)))))
    assert doubt[zone & left].max() > 0.9 and doubt[zone & left & (surface.brow > 0.5)].mean() > 0.3
    assert doubt[~left].max() == 0.0
    assert lopsided(*judged(Scene())).max() == 0.0
    assert lopsided(*judged(Scene(texture=marked(zone, (64, 40, 26))))).max() < 0.2


def test_a_red_straw_before_the_chin_is_replaced():
    """6 mm wide, from the lower lip down: as red as a lip and no darker than a beard."""
    points = head().landmark_points(head().mean.astype(float), "ibug68")
    place = texel_values(head().mean.astype(float))
    straw = (np.abs(place[..., 0]) < 3e-3) & (place[..., 1] < points[62, 1]) & (place[..., 1] > points[8, 1] - 0.02)
    straw &= place[..., 2] > points[8, 2] - 0.02
    texture = true_texture().copy()
    texture[straw] = (225, 30, 50)
    view = camera()
    baked = bake_texture(photograph(Scene(texture=texture), view), view, head(), person()).color.astype(int)
    chin = straw & (place[..., 1] < points[57, 1] - 0.012) & (place[..., 1] > points[8, 1])
    assert chin.sum() > 200
    assert (baked[chin][:, 0] - baked[chin][:, 1] < 70).mean() > 0.98


def test_painted_lips_stay_red():
    texture, lips, view = true_texture().copy(), region_texels("lips"), camera()
    texture[lips] = (205, 18, 40)
    baked = bake_texture(photograph(Scene(texture=texture), view), view, head(), person())
    shown = lips & (baked.confidence > 100)
    assert shown.sum() > 0.3 * lips.sum()
    assert np.abs(np.median(baked.color[shown], axis=0) - (205, 18, 40)).max() < 25


def test_the_sky_is_counted_as_rays_count_it():
    """Against a ray through every triangle, for some vertices of the face, the nostrils and the ears."""
    model = head()
    vertices = model.mean.astype(float)
    normals = vertex_normals(vertices, model.triangles)
    surface = surface_of(model)
    deep = np.flatnonzero(surface.cavity > 0.5)
    some = np.concatenate([deep[:: max(1, len(deep) // 10)], np.flatnonzero(surface.trust > 0.5)[::60]])
    a, b, c = (vertices[model.triangles[:, k]] for k in range(3))
    directions = sky_directions(24)
    slow = []
    for v in some:
        free = total = 0.0
        for towards in directions:
            cosine = float(normals[v] @ towards)
            if cosine <= 0.0:
                continue
            total += cosine
            cross = np.cross(towards, c - a)
            volume = ((b - a) * cross).sum(axis=1)
            volume = np.where(np.abs(volume) < 1e-15, 1e-15, volume)
            u = ((vertices[v] - a) * cross).sum(axis=1) / volume
            across = np.cross(vertices[v] - a, b - a)
            w = (across @ towards) / volume
            t = (across * (c - a)).sum(axis=1) / volume
            free += cosine * (not ((u >= 0) & (w >= 0) & (u + w <= 1) & (t > SEEN_WITHIN)).any())
        slow.append(free / total)
    fast = sky_seen(vertices, normals, model.triangles, 24)[some]
    assert np.abs(fast - slow).mean() < 0.06 and np.abs(fast - slow).max() < 0.35


def test_nostrils_are_dark_and_the_face_is_not():
    view = camera()
    baked = bake_texture(photograph(Scene(), view), view, head(), person()).color.astype(float)
    cavity = texel_values(surface_of(head()).cavity[:, None].astype(float))[..., 0]
    nose = region_texels("nose")
    assert (nose & (cavity > 0.9)).sum() > 100
    assert np.median(baked[nose & (cavity > 0.9)].mean(axis=1)) < 0.5 * TONE.mean()
    assert np.percentile(baked[nose & (cavity < 0.01)].mean(axis=1), 1) > 0.8 * TONE.mean()


def test_weighted_median_is_the_median_of_repeated_values():
    rng = np.random.default_rng(2)
    values, weight = rng.normal(size=(31, 3)), rng.integers(0, 4, 31)
    weight[0] += 1 - weight.sum() % 2
    slow = np.median(np.repeat(values, weight, axis=0), axis=0)
    assert np.allclose(weighted_median(values, weight.astype(float)), slow)


@pytest.mark.parametrize("color", [(205, 160, 135), (128, 128, 128), (92, 66, 53)])
def test_a_usual_skin_keeps_its_colour(color):
    tone = np.log((np.array(color) / 255.0) ** 2.2)
    assert np.allclose(saturation_gain(tone), 1.0)


def test_an_extreme_cast_is_taken_back_in_part_and_no_light_is_lost():
    tone = np.array([-1.0, -1.0 - MOST_RED - 0.4, -1.0 - MOST_RED - 0.4 - MOST_YELLOW - 0.6])
    after = tone + np.log(saturation_gain(tone))
    assert MOST_RED < after[0] - after[1] < MOST_RED + 0.2
    assert MOST_YELLOW < after[1] - after[2] < MOST_YELLOW + 0.3
    assert np.isclose(np.exp(after).sum(), np.exp(tone).sum())


def test_the_hue_of_the_light_stays_within_bounds():
    normals = vertex_normals(head().mean.astype(float), head().triangles)
    # Seen from one side only, with a strong change of hue across what is seen.
    weight = (normals[:, 0] > 0.4).astype(float)
    light = np.array([-0.5, -0.9, -1.2]) + 1.5 * (normals[:, :1] - 0.7) * np.array([1.0, 0.0, -1.0])
    skin = fit_skin(light, weight, normals)
    hue = skin.shading - skin.shading.mean(axis=1, keepdims=True)
    assert np.ptp(hue, axis=0).max() < 2.0 * MOST_HUE_SHIFT + 1e-9
