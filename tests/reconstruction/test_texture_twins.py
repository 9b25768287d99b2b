"""Every fast loop of the texture against a slow, obvious one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import scipy.ndimage
import scipy.sparse
import scipy.sparse.linalg
from texture_scene import Scene, camera, head, person, photograph

from backend.geometry.mesh import edges
from backend.reconstruction.texture import bake_texture, prepare_layers
from backend.reconstruction.texture_atlas import BARYCENTRIC_SCALE, atlas_of, nearest_inside, ramp, surface_of
from backend.reconstruction.texture_fill import solve_membrane
from backend.reconstruction.texture_kernel import (
    BYTE_OF_SQRT,
    DEPTH_BIAS,
    FACING_RAMP,
    LEAST_RATIO,
    MOST_RATIO,
    SLOPE_BIAS,
    SQRT_OF_BYTE,
    paint,
    pyramid,
    triangle_levels,
)
from backend.reconstruction.texture_likeness import (
    DARKEST,
    FREE_BRIGHT,
    FREE_DARK,
    FREE_HUE_BEARD,
    FREE_HUE_FEATURE,
    FREE_RED,
    distance_from_colors,
    distance_from_skin,
)
from backend.reconstruction.texture_view import OPENING_RAMP, OUTLINE_RAMP, look
from backend.rendering.tone import linear_to_srgb8, srgb_to_linear

RNG = np.random.default_rng(0)


def test_membrane_solves_its_normal_equations():
    surface = surface_of(head())
    count = head().vertex_count
    data, guide = RNG.normal(size=(count, 2)), RNG.normal(size=(count, 2))
    weight = np.where(RNG.random(count) < 0.1, RNG.random(count), 0.0)
    guide_weight = RNG.random(count)
    anchor, s, a = np.array([0.3, -0.2]), 0.08, 6e-4
    fast = solve_membrane(surface, data, weight, s, anchor, a, guide, guide_weight, tolerance=1e-9)
    pairs = edges(surface.triangles)
    incidence = scipy.sparse.coo_matrix(
        (np.tile([1.0, -1.0], len(pairs)), (np.repeat(np.arange(len(pairs)), 2), pairs.ravel())),
        shape=(len(pairs), count),
    ).tocsr()
    share = np.minimum(guide_weight[pairs[:, 0]], guide_weight[pairs[:, 1]])
    matrix = scipy.sparse.diags(weight + a) + s * incidence.T @ incidence
    right = weight[:, None] * data + a * anchor + s * incidence.T @ (share[:, None] * (incidence @ guide))
    slow = scipy.sparse.linalg.spsolve(matrix.tocsc(), right)
    assert np.abs(fast - slow)[surface.skin].max() < 1e-4
    assert np.array_equal(fast[~surface.skin], np.broadcast_to(anchor, fast[~surface.skin].shape))


def test_membrane_of_constant_data_is_constant():
    surface = surface_of(head())
    data = np.full((head().vertex_count, 1), 0.7)
    result = solve_membrane(surface, data, np.ones(len(data)), 0.08, np.array([0.7]), 1e-3)
    assert np.abs(result - 0.7).max() < 1e-12


def test_nearest_inside_is_the_nearest():
    empty = scipy.ndimage.gaussian_filter(RNG.normal(size=(90, 90)), 6) > -0.002
    gutter, nearest, far = nearest_inside(empty, 12.0)
    distance = scipy.ndimage.distance_transform_edt(empty).ravel()
    assert not empty.ravel()[nearest].any()
    rows, columns = np.divmod(gutter, 90)
    found = np.hypot(*(np.array(np.divmod(nearest, 90)) - [rows, columns]))
    # OpenCV's 5 x 5 distance is within 2 % of the Euclidean one and breaks ties by itself.
    assert (found <= distance[gutter] * 1.03 + 1e-6).all()
    assert distance[far].min() > 12.0 * 0.97
    assert len(gutter) + len(far) == empty.sum()


def slow_distance(image, expected, spread, feature, beard):
    dark, bright, hue = spread
    out = np.zeros(image.shape[:2])
    for index in np.ndindex(out.shape):
        linear = srgb_to_linear(image[index]).astype(float) + DARKEST
        error = np.log(linear) - expected[index]
        level = error.mean()
        skin = np.exp(expected[index].astype(float))
        shiny = np.log(linear) - np.log(skin + max(0.0, (linear - skin).mean()))
        tint = min(((error - level) ** 2).sum(), ((shiny - shiny.mean()) ** 2).sum()) / hue**2
        f, b = feature[index], beard[index]
        tint /= 1 + (min((1 - max(f, b)) * error.max() + max(f, b) * level, 0) / (2 * dark)) ** 2
        if level < 0:
            scaled = level / (dark * (1 + FREE_DARK * max(f, b)))
        else:
            b = 0.0
            scaled = level / (bright * (1 + FREE_BRIGHT * f))
        free = FREE_RED if error[0] > error[1] else FREE_HUE_FEATURE
        out[index] = scaled**2 + tint / (1 + free * f + FREE_HUE_BEARD * b) ** 2
    return out


def test_distances_follow_their_formula():
    image = RNG.integers(0, 256, (23, 17, 3), np.uint8)
    expected = RNG.normal(-1.2, 0.4, (23, 17, 3)).astype(np.float32)
    spread = np.array([0.3, 0.5, 0.1])
    feature, beard = RNG.random((2, 23, 17)).astype(np.float32)
    fast = distance_from_skin(image, expected, spread, feature, beard)
    assert np.allclose(fast, slow_distance(image, expected, spread, feature, beard), rtol=2e-3, atol=2e-3)

    colors = RNG.normal(-1, 1, (5, 3))
    light = np.log(srgb_to_linear(image).astype(float) + DARKEST)
    apart = light[:, :, None] - colors
    level = apart.mean(axis=3)
    slow = (level / spread[0]) ** 2 + ((apart - level[..., None]) ** 2).sum(axis=3) / spread[2] ** 2
    assert np.allclose(distance_from_colors(image, colors, spread), slow.min(axis=2), rtol=2e-3, atol=2e-3)


def test_tables_are_the_srgb_curve():
    assert np.abs(SQRT_OF_BYTE.astype(float) ** 2 - srgb_to_linear(np.arange(256, dtype=np.uint8))).max() < 1e-6
    root = np.linspace(0, 1, 8193)
    assert np.abs(BYTE_OF_SQRT.astype(int) - linear_to_srgb8(root**2)).max() <= 1
    assert np.array_equal(BYTE_OF_SQRT[np.rint(SQRT_OF_BYTE * 8192).astype(int)], np.arange(256))


def test_pyramid_halves_by_the_mean():
    image = RNG.integers(0, 256, (37, 22, 3), np.uint8)
    levels = pyramid(image, 3)
    even = np.pad(image, ((0, 1), (0, 0), (0, 0)), mode="edge").astype(float)
    mean = even.reshape(19, 2, 11, 2, 3).mean(axis=(1, 3))
    assert levels[1].shape == (19, 11, 3) and levels[2].shape == (10, 6, 3)
    assert np.abs(levels[1] - mean).max() <= 0.5


@pytest.fixture(scope="module")
def prepared():
    model = head()
    view = camera(30)
    photo = photograph(Scene(light=(1.0, 0.3, 0.6)), view)
    atlas = atlas_of(model, 1024)
    seen = look(photo, view, model, atlas.surface, person(), None)
    return atlas, seen, prepare_layers(seen, view, model, atlas.surface)[0]


def test_pixels_near_lines_are_not_trusted():
    """Outline, steps in depth and openings, each found and measured by brute force."""
    model, view = head(), camera(30)
    photo = photograph(Scene(), view)
    seen = look(photo, view, model, surface_of(model), person(), None)
    metres_per_pixel = float(np.median(seen.depth)) / (view.focal_px * seen.scale)
    slot = np.where(seen.coverage.triangle >= 0, model.triangle_material[seen.coverage.triangle], 255)
    assert (seen.weight[slot != model.materials.index("skin")] == 0).all()
    for barrier, ramp_metres in ((slot == 255, OUTLINE_RAMP), ((slot == 1) | (slot == 2), OPENING_RAMP)):
        metres = (scipy.ndimage.distance_transform_edt(~barrier) - 0.5) * metres_per_pixel
        # OpenCV's distance is within 2 % of the Euclidean one.
        assert (seen.weight <= ramp(1.03 * metres, *ramp_metres) + 1e-3).all()
    depth = seen.coverage.depth
    step = np.zeros(depth.shape, bool)
    cliff = 12e-3
    for row, column in np.argwhere(np.isfinite(depth[1:-1, 1:-1])) + 1:
        around = depth[[row - 1, row + 1, row, row], [column, column, column - 1, column + 1]]
        step[row, column] = (np.abs(around[np.isfinite(around)] - depth[row, column]) > cliff).any()
    assert step.sum() > 20 and (seen.weight[step] == 0).all()
    assert (seen.weight > 0.99).sum() > 0.2 * (slot == 0).sum()


@pytest.mark.parametrize("regions", [head().regions, {}])
def test_the_scalp_is_not_taken_and_the_face_is(regions):
    surface = surface_of(head().replaced(regions=regions))
    named = head().regions
    assert surface.take[named["scalp"]].mean() < 0.08
    assert surface.take[named["cheeks"] & ~named["ears"]].mean() > 0.6
    assert surface.take[named["lips"] & surface.skin].min() > 0.9


def slow_belief(x, y, depth, facing, nearest, weight):
    height, width = weight.shape
    if facing <= FACING_RAMP[0] or not (0 <= x < width and 0 <= y < height):
        return 0.0
    column, row = np.clip(x - 0.5, 0, width - 1), np.clip(y - 0.5, 0, height - 1)
    x0, y0 = int(column), int(row)
    rows, columns = [y0, min(y0 + 1, height - 1)], [x0, min(x0 + 1, width - 1)]
    around = nearest[np.ix_(rows, columns)]
    if depth > np.where(np.isfinite(around), around, 0).max() * (1 + DEPTH_BIAS) + SLOPE_BIAS:
        return 0.0
    fx, fy = column - x0, row - y0
    bilinear = np.array([1 - fy, fy]) @ weight[np.ix_(rows, columns)] @ np.array([1 - fx, fx])
    return bilinear * min((facing - FACING_RAMP[0]) / (FACING_RAMP[1] - FACING_RAMP[0]), 1.0)


def slow_sample(levels, x, y, level):
    k = int(np.clip(np.floor(level + 0.5), 0, len(levels) - 1))
    image = levels[k].astype(float)
    column, row = x / 2**k - 0.5, y / 2**k - 0.5
    total = np.zeros(3)
    for j in range(int(np.floor(row)) - 1, int(np.floor(row)) + 3):
        for i in range(int(np.floor(column)) - 1, int(np.floor(column)) + 3):
            pixel = image[np.clip(j, 0, image.shape[0] - 1), np.clip(i, 0, image.shape[1] - 1)]
            total += catmull_rom(row - j) * catmull_rom(column - i) * pixel
    return np.clip(total, 0, 255)


def catmull_rom(distance):
    """Keys 1981, a = -1/2."""
    t = abs(distance)
    if t < 1:
        return 1.5 * t**3 - 2.5 * t**2 + 1
    return -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2 if t < 2 else 0.0


def slow_texel(row, column, atlas, view, layers, levels, photos):
    """One texel by the book."""
    index = atlas.triangle[row, column]
    b = atlas.barycentric[row, column] / BARYCENTRIC_SCALE
    share = np.array([1 - b.sum(), *b])
    own = atlas.surface.triangles[index]
    base = share @ layers.base[own]
    ratio_to_photo = np.array(view.pixels.shape[1::-1]) / view.image.shape[1::-1]
    color, left, confidence = np.zeros(3), 1.0, 0.0
    for side, corners in enumerate((own, atlas.surface.mirror[own])):
        depth = share @ view.depth[corners]
        x, y = (share * view.depth[corners]) @ view.points[corners] / depth
        facing = share @ view.facing[corners]
        belief = slow_belief(x, y, depth, facing, view.coverage.depth, layers.weight)
        if side == 0:
            confidence = 255 * belief * np.clip(facing, 0, 1)
        sample = slow_sample(photos, x * ratio_to_photo[0], y * ratio_to_photo[1], levels[index, side])
        root = np.interp(sample, np.arange(256), SQRT_OF_BYTE)
        if side == 1:
            root = root * np.clip(base / (share @ layers.base[corners]), LEAST_RATIO, MOST_RATIO)
        color += left * belief * root * (share @ layers.gain[corners])
        left *= 1 - belief
    grain = layers.grain[row % len(layers.grain), column % len(layers.grain)]
    color += left * base * grain
    return linear_to_srgb8(np.clip(color, 0, 1) ** 2), confidence


def test_texels_are_mixed_by_the_book(prepared):
    atlas, view, layers = prepared
    color, confidence = paint(atlas, view, layers, np.column_stack([view.points, view.depth]))
    levels = triangle_levels(view, atlas)
    photos = pyramid(view.pixels, 1 + max(0, int(np.ceil(np.percentile(levels, 99)))))
    inside = np.argwhere(atlas.triangle >= 0)
    on_border = np.argwhere((confidence > 5) & (confidence < 250))
    picked = np.concatenate([RNG.permutation(inside)[:400], RNG.permutation(on_border)[:400]])
    for row, column in picked:
        expected, trust = slow_texel(row, column, atlas, view, layers, levels, photos)
        assert np.abs(color[row, column].astype(int) - expected).max() <= 1
        assert abs(int(confidence[row, column]) - trust) <= 1.5


def test_two_threads_bake_the_same():
    view = camera(20)
    photo = photograph(Scene(), view)
    with ThreadPoolExecutor(2) as pool:
        pair = list(pool.map(lambda _: bake_texture(photo, view, head(), person()), range(2)))
    assert np.array_equal(pair[0].color, pair[1].color)
    assert np.array_equal(pair[0].confidence, pair[1].confidence)
